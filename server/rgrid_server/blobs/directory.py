"""Blobs as files under a directory: written beside, made durable, then renamed to their location."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from rgrid_server.blobs.base import INLINE_MAX_BYTES, BlobError, Received, fresh_location
from rgrid_server.blobs.files import fsync_directory, full, hash_mismatch
from rgrid_server.blobs.partial import PartialFile, Turns, drop_partials

READ_CHUNK_BYTES = 1024 * 1024
MIN_FREE_BYTES = 64 * 1024 * 1024


class DirectoryBlobStore:
    """Keeps each upload as ``ab/<sha256>-<random>``; several processes may share the directory.

    Args:
        directory: made where there is none.
        min_free_bytes: with less room than this the store has a problem.
        untouched_bytes: so much of the disk uploads leave free, for the database that stands there too.
    """

    def __init__(
        self, directory: Path, min_free_bytes: int = MIN_FREE_BYTES, untouched_bytes: int = 0
    ) -> None:
        self._directory = directory
        self._min_free_bytes = min_free_bytes
        self._untouched_bytes = untouched_bytes
        self._incoming = directory / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._partials = directory / "partial"
        self._partials.mkdir(exist_ok=True)
        self._turns = Turns()
        for leftover in self._incoming.iterdir():
            _remove_if_forsaken(leftover)

    def begin(self, max_bytes: int) -> DirectoryUpload:
        """Begin to take in a blob of at most ``max_bytes``."""
        return DirectoryUpload(self, self._incoming, max_bytes)

    def partial(self, owner: str, sha256: str, max_bytes: int, max_owner_bytes: int) -> PartialFile:
        """An owner's upload in parts."""
        path = self._partials / owner / sha256
        return PartialFile(path, self._turns, max_bytes, max_owner_bytes, self.check_room, self.path)

    async def drop_partials(self, before_ms: int) -> int:
        """Remove old ones of every owner."""
        return await asyncio.to_thread(drop_partials, self._partials, before_ms)

    def check_room(self, size_bytes: int) -> None:
        """Make sure that so much may be written.

        Raises:
            BlobError: the disk would be too full afterwards.
        """
        if self._untouched_bytes:
            free_bytes = shutil.disk_usage(self._directory).free
            if free_bytes - size_bytes < self._untouched_bytes:
                raise BlobError(
                    "storage_full", f"no room for the file on the server's disk ({free_bytes} bytes are left)"
                )

    def path(self, location: str) -> Path:
        """Where a blob's bytes stand or would stand."""
        return self._directory / location

    async def read(self, location: str, start: int = 0) -> AsyncIterator[bytes]:
        """A blob's bytes behind an offset, in chunks of at most a MiB."""
        with await asyncio.to_thread(self.path(location).open, "rb") as file:
            file.seek(start)
            while chunk := await asyncio.to_thread(file.read, READ_CHUNK_BYTES):
                yield chunk

    async def size_bytes(self, location: str) -> int | None:
        """The size of a blob's file."""
        try:
            return (await asyncio.to_thread(self.path(location).stat)).st_size
        except FileNotFoundError:
            return None

    async def delete(self, location: str) -> None:
        """Remove a blob's file."""
        await asyncio.to_thread(self.path(location).unlink, missing_ok=True)

    async def written_before(self, before_ms: int) -> AsyncIterator[list[str]]:
        """Old files, folder by folder."""
        for folder in await asyncio.to_thread(lambda: sorted(self._directory.iterdir())):
            if folder not in {self._incoming, self._partials} and folder.is_dir():
                found = await asyncio.to_thread(_files_before, folder, before_ms)
                if found:
                    yield found

    async def problem(self) -> str | None:
        """Whether a file can be written here, and the disk has room."""
        return await asyncio.to_thread(self._problem)

    def _problem(self) -> str | None:
        probe = self._incoming / secrets.token_hex(16)
        try:
            probe.touch()
            probe.unlink()
            free_bytes = shutil.disk_usage(self._directory).free
        except OSError as error:
            return (
                f"nothing can be written to {self._directory} ({error.strerror}); see who may, and its disk"
            )
        if free_bytes < self._min_free_bytes:
            return f"the disk of {self._directory} has {free_bytes} bytes left; make room"
        return None


class DirectoryUpload:
    """A blob on its way in: in memory while it is small, else in a file that has no name yet."""

    def __init__(self, store: DirectoryBlobStore, incoming: Path, max_bytes: int) -> None:
        self.size_bytes = 0
        self._store = store
        self._incoming = incoming
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._held = bytearray()
        self._temporary: Path | None = None
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

    async def finish(self, expected_sha256: str | None) -> Received:
        """Make it durable and give it its name."""
        sha256 = self._hash.hexdigest()
        if expected_sha256 is not None and sha256 != expected_sha256:
            raise hash_mismatch(self.size_bytes, sha256, expected_sha256)
        if self._file is None:
            return Received(sha256, self.size_bytes, content=bytes(self._held))
        location = fresh_location(sha256)
        await asyncio.to_thread(self._settle, self._store.path(location))
        return Received(sha256, self.size_bytes, location=location)

    async def abandon(self) -> None:
        """Remove what has arrived."""
        if self._file is not None and self._temporary is not None:
            self._file.close()
            await asyncio.to_thread(self._temporary.unlink, missing_ok=True)

    def _spill(self) -> None:
        self._store.check_room(len(self._held))
        try:
            if self._file is None:
                self._temporary, self._file = _open_locked(self._incoming)
            self._file.write(self._held)
        except OSError as error:
            raise full(error) from error
        self._held.clear()

    def _settle(self, path: Path) -> None:
        if self._file is None or self._temporary is None:
            raise RuntimeError("nothing was spilled")
        try:
            self._spill()
            self._file.flush()
            os.fsync(self._file.fileno())
            path.parent.mkdir(exist_ok=True)
            self._temporary.replace(path)
            self._file.close()
        except OSError as error:
            raise full(error) from error
        fsync_directory(path.parent)
        fsync_directory(path.parent.parent)


def _open_locked(incoming: Path) -> tuple[Path, BinaryIO]:
    """A new file that its writer holds a lock on for as long as it lives."""
    while True:
        path = incoming / secrets.token_hex(16)
        file = path.open("xb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:
                return path, file
        except BlockingIOError:
            # another process that starts just now took it for a leftover; it removes it
            pass
        file.close()


def _remove_if_forsaken(path: Path) -> None:
    """Remove an upload whose process was killed: nobody was told that it is here."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except (BlockingIOError, FileNotFoundError):
        return


def _files_before(folder: Path, before_ms: int) -> list[str]:
    found: list[str] = []
    for path in folder.iterdir():
        # one that is removed meanwhile is not here
        with suppress(FileNotFoundError):
            if path.stat().st_mtime_ns < before_ms * 1_000_000:
                found.append(f"{folder.name}/{path.name}")
    return found
