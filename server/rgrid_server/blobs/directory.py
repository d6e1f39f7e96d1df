"""Blobs as files under a directory: written beside, made durable, then renamed to their hash."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from rgrid_server.blobs.base import INLINE_MAX_BYTES, BlobError

READ_CHUNK_BYTES = 1024 * 1024


class DirectoryBlobStore:
    """Keeps each blob as ``ab/cdef…`` by its SHA-256."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._incoming = directory / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        for leftover in self._incoming.iterdir():
            _remove_if_abandoned(leftover)

    def begin(self, max_bytes: int) -> DirectoryUpload:
        """Begin to take in a blob of at most ``max_bytes``."""
        return DirectoryUpload(self, self._incoming / secrets.token_hex(16), max_bytes)

    def path(self, sha256: str) -> Path:
        """Where a blob's bytes stand or would stand."""
        return self._directory / sha256[:2] / sha256[2:]

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        """A blob's bytes in chunks of at most a MiB."""
        with await asyncio.to_thread(self.path(sha256).open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, READ_CHUNK_BYTES):
                yield chunk

    async def delete(self, sha256: str) -> None:
        """Remove a blob's file."""
        await asyncio.to_thread(self.path(sha256).unlink, missing_ok=True)


class DirectoryUpload:
    """A blob on its way in: in memory while it is small, else in a file that has no name yet."""

    def __init__(self, store: DirectoryBlobStore, temporary: Path, max_bytes: int) -> None:
        self.size_bytes = 0
        self._store = store
        self._temporary = temporary
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._held = bytearray()
        self._file: BinaryIO | None = None

    async def write(self, chunk: bytes) -> None:
        """Add bytes."""
        self.size_bytes += len(chunk)
        if self.size_bytes > self._max_bytes:
            raise BlobError("blob_too_large", f"the file is larger than {self._max_bytes} bytes")
        self._hash.update(chunk)
        self._held += chunk
        if len(self._held) > (INLINE_MAX_BYTES if self._file is None else READ_CHUNK_BYTES):
            await asyncio.to_thread(self._spill)

    async def finish(self, expected_sha256: str | None) -> tuple[str, bytes | None]:
        """Make it durable and give it its name."""
        sha256 = self._hash.hexdigest()
        if expected_sha256 is not None and sha256 != expected_sha256:
            raise BlobError(
                "hash_mismatch",
                f"the {self.size_bytes} bytes that arrived have the SHA-256 {sha256}, not {expected_sha256}; "
                "send the file again",
            )
        if self._file is None:
            return sha256, bytes(self._held)
        await asyncio.to_thread(self._settle, self._store.path(sha256))
        return sha256, None

    async def abandon(self) -> None:
        """Remove what has arrived."""
        if self._file is not None:
            self._file.close()
            await asyncio.to_thread(self._temporary.unlink, missing_ok=True)

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = _open_locked(self._temporary)
            self._file.write(self._held)
        except OSError as error:
            raise _full(error) from error
        self._held.clear()

    def _settle(self, path: Path) -> None:
        if self._file is None:
            raise RuntimeError("nothing was spilled")
        try:
            self._spill()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            path.parent.mkdir(exist_ok=True)
            self._temporary.replace(path)
        except OSError as error:
            raise _full(error) from error
        _fsync_directory(path.parent)
        _fsync_directory(path.parent.parent)


def _open_locked(path: Path) -> BinaryIO:
    """A new file, locked for as long as it is open, so that other servers on the directory leave it alone."""
    while True:
        file = path.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return file
        # another server that just started took it for a leftover before it was locked
        file.close()


def _remove_if_abandoned(path: Path) -> None:
    """Remove an upload that a killed server did not finish: nobody was told that it is here."""
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full(error: OSError) -> Exception:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return BlobError("storage_full", f"no room for the file on the server's disk ({error.strerror})")
    return error
