"""Blobs in a directory that more than one server may use."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rgrid_server.blobs.base import INLINE_MAX_BYTES
from rgrid_server.blobs.directory import DirectoryBlobStore

LARGE = b"x" * (2 * INLINE_MAX_BYTES)


def test_a_server_that_starts_leaves_the_uploads_of_the_others_alone(tmp_path: Path) -> None:
    async def run() -> None:
        upload = DirectoryBlobStore(tmp_path).begin(10 * len(LARGE))
        await upload.write(LARGE)
        DirectoryBlobStore(tmp_path)
        await upload.write(LARGE)
        received = await upload.finish(None)
        assert received.location is not None
        assert DirectoryBlobStore(tmp_path).path(received.location).read_bytes() == LARGE * 2

    asyncio.run(run())


def test_what_a_killed_server_did_not_finish_is_removed(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "leftover").write_bytes(LARGE)
    DirectoryBlobStore(tmp_path)
    assert list((tmp_path / "incoming").iterdir()) == []
