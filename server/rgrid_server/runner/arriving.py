"""An input on its way here, over as many answers as it takes: each goes on where the last was cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx


class ArrivingFile:
    """Takes answers' bytes into a file, from the byte on that it asks for.

    Args:
        target: the file; what was in it is lost.
        sha256: of the whole.
    """

    def __init__(self, target: Path, sha256: str) -> None:
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self._received_bytes = 0
        self._target = target
        target.write_bytes(b"")

    @property
    def headers(self) -> dict[str, str]:
        """What to send with the next question."""
        if self._received_bytes == 0:
            return {}
        return {"Range": f"bytes={self._received_bytes}-", "If-Range": f'"{self._sha256}"'}

    async def take(self, answer: httpx.Response) -> None:
        """Take what an answer brings that has bytes, or says that there are none where they were asked for.

        Raises:
            httpx.TransportError: it was cut, or the whole has other bytes; ask again.
        """
        begins_at = f"bytes {self._received_bytes}-"
        if not answer.headers.get("content-range", "").startswith(begins_at):
            self._begin_anew()
            if answer.status_code != httpx.codes.OK:
                raise httpx.RemoteProtocolError(f"not the part of {self._sha256} came that was asked for")
        with self._target.open("r+b") as file:
            file.seek(self._received_bytes)
            file.truncate()
            async for chunk in answer.aiter_bytes():
                file.write(chunk)
                self._digest.update(chunk)
                self._received_bytes += len(chunk)
        if self._digest.hexdigest() != self._sha256:
            self._begin_anew()
            raise httpx.RemoteProtocolError(f"the input {self._sha256} arrived with other bytes")

    def _begin_anew(self) -> None:
        self._digest = hashlib.sha256()
        self._received_bytes = 0
