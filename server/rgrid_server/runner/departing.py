"""An output on its way to the server, over as many requests as it takes: each goes on where one was cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

IN_PARTS_FROM_BYTES = 4 * 1024 * 1024
"""A smaller file is sent again whole sooner than it is asked how much of it is there."""
PART_BYTES = 64 * 1024 * 1024
READ_BYTES = 1024 * 1024
UPLOAD_SECONDS = 600.0


class DepartingFile:
    """Sends a file's bytes, from the byte on that the server says.

    Args:
        file: the file.
        size_bytes: how large it is.
    """

    def __init__(self, file: Path, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        # nothing is there as a rule; where something is, what is sent again is passed over
        self._offset: int | None = 0

    async def send_next(self, client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> httpx.Response:
        """Send the next part; after a request that was not answered, ask first how far it is."""
        if self._offset is None:
            return await client.get(url, headers=headers)
        start, self._offset = self._offset, None
        length = min(PART_BYTES, self._size_bytes - start)
        own = {
            "Content-Length": str(length),
            "Upload-Offset": str(start),
            "Upload-Complete": "?1" if start + length == self._size_bytes else "?0",
        }
        chunks = chunks_of(self._file, start, length)
        return await client.patch(url, content=chunks, headers=headers | own, timeout=UPLOAD_SECONDS)

    def go_on_from(self, offset: int) -> None:
        """So much is there."""
        self._offset = min(offset, self._size_bytes)


async def chunks_of(file: Path, start: int, length: int) -> AsyncIterator[bytes]:
    """A file's bytes from an offset on, as many as are named."""
    with await asyncio.to_thread(file.open, "rb") as opened:
        opened.seek(start)
        while length > 0 and (chunk := await asyncio.to_thread(opened.read, min(READ_BYTES, length))):
            length -= len(chunk)
            yield chunk
