"""Fetching files by signed URLs that break or expire."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from rgrid import calls
from rgrid.aio import AsyncClient
from rgrid.client import Client
from rgrid.exceptions import Forbidden, RGridError, ServerUnreachable
from rgrid.models import Artifact

CONTENT = b"rows"
OUTPUT = Artifact.from_wire(
    {
        "artifact_id": "art_1",
        "execution_id": "exec_1",
        "artifact_type": "output",
        "filename": "out.txt",
        "file_path": "exec_1/out.txt",
        "size_bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
)


class Downloads:
    """A transport that signs URLs, and answers each fetch with the next failure, then with the file."""

    def __init__(self, *failures: RGridError) -> None:
        self._failures = list(failures)
        self.urls = 0

    def send(self, call: calls.Call[Any]) -> Any:
        """The list of outputs, or a URL."""
        if call.path.endswith("/artifacts"):
            return [OUTPUT]
        self.urls += 1
        return f"http://127.0.0.1/{self.urls}"

    def stream(self, call: calls.Call[Any]) -> Iterator[bytes]:
        """The file's bytes, or what is wrong with them."""
        assert call.path == f"http://127.0.0.1/{self.urls}"
        if self._failures:
            raise self._failures.pop(0)
        yield CONTENT

    def close(self) -> None:
        """Nothing is open."""


class AsyncDownloads(Downloads):
    """The same, awaited."""

    async def send(self, call: calls.Call[Any]) -> Any:
        """As of the other."""
        return super().send(call)

    async def stream(self, call: calls.Call[Any]) -> AsyncIterator[bytes]:  # type: ignore[override]
        """As of the other."""
        for chunk in super().stream(call):
            yield chunk


def download(failures: tuple[RGridError, ...], directory: Path, *, awaited: bool) -> int:
    """Download the output; returns how many URLs that took."""
    if awaited:
        transport = AsyncDownloads(*failures)
        asyncio.run(AsyncClient(transport=transport).download("exec_1", directory))  # type: ignore[arg-type]
        return transport.urls
    blocking = Downloads(*failures)
    Client(transport=blocking).download("exec_1", directory)
    return blocking.urls


EXPIRED = Forbidden("this URL has expired", status=403, code="signature_expired")
CUT = ServerUnreachable("the connection broke")


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize(("failures", "urls"), [((), 1), ((EXPIRED,), 2), ((CUT, EXPIRED), 3)])
def test_what_has_expired_or_broken_is_fetched_by_another_url(
    tmp_path: Path, failures: tuple[RGridError, ...], urls: int, awaited: bool
) -> None:
    assert download(failures, tmp_path, awaited=awaited) == urls
    assert (tmp_path / "out.txt").read_bytes() == CONTENT


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize(
    "failures", [(EXPIRED,) * 3, (CUT,) * 3, (Forbidden("no", status=403, code="signature_invalid"),)]
)
def test_what_another_url_does_not_help_is_told_and_leaves_nothing(
    tmp_path: Path, failures: tuple[RGridError, ...], awaited: bool
) -> None:
    with pytest.raises(type(failures[-1])):
        download(failures, tmp_path, awaited=awaited)
    assert list(tmp_path.iterdir()) == []
