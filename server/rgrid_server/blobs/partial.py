"""A large blob that comes in parts, as a file that grows: its length is what is there of it.

Nothing else is noted, so there is nothing that a crash could leave at odds with the file. Every step takes
the file's lock and looks whether the file still has its name: processes that share the directory may add to
it, finish it and forget it at the same time. What a power failure has torn, the hash of the whole finds.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from weakref import WeakValueDictionary

from rgrid_server.blobs.base import (
    INLINE_MAX_BYTES,
    BehindPartial,
    BlobError,
    Received,
    fresh_location,
)
from rgrid_server.blobs.files import fsync_directory, full, hash_mismatch

MAX_PARTIALS = 200
"""So many an owner may have at once, however small they are."""
READ_AT_ONCE = 2
"""So many whole files a process reads and verifies at once."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


class Turns:
    """Keeps those who want the same file apart before they take a thread, for threads are few."""

    def __init__(self) -> None:
        self.reading = asyncio.Semaphore(READ_AT_ONCE)
        self._by_path: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    def of(self, path: Path) -> asyncio.Lock:
        """The lock of a file within this process."""
        return self._by_path.setdefault(path, asyncio.Lock())


class PartialFile:
    """An upload in parts, in a file under its owner's directory that is called by the hash.

    Args:
        path: the file.
        turns: see to it that a process waits for a file's lock with one thread, and reads few files at once.
        max_bytes: how large it may become.
        max_owner_bytes: how much all of its directory may take.
        check_room: makes sure that the disk takes so many bytes more.
        path_of: where what is kept under a location stands.
    """

    def __init__(
        self,
        path: Path,
        turns: Turns,
        max_bytes: int,
        max_owner_bytes: int,
        check_room: Callable[[int], None],
        path_of: Callable[[str], Path],
    ) -> None:
        self._path = path
        self._turn = turns.of(path)
        self._reading = turns.reading
        self._max_bytes = max_bytes
        self._max_owner_bytes = max_owner_bytes
        self._check_room = check_room
        self._path_of = path_of

    async def size_bytes(self) -> int:
        """The file's length."""
        try:
            return (await asyncio.to_thread(self._path.stat)).st_size
        except FileNotFoundError:
            return 0

    async def append(self, offset: int, data: bytes) -> int:
        """Add what is not there yet."""
        async with self._turn:
            return await asyncio.to_thread(self._append, offset, data)

    async def settle(self) -> None:
        """Make bytes and name last."""
        await asyncio.to_thread(self._settle)

    async def finish(self) -> Received:
        """Read all of it once, and give it a second name."""
        async with self._turn, self._reading:
            return await asyncio.to_thread(self._finish)

    async def discard(self) -> None:
        """Remove the file."""
        async with self._turn:
            await asyncio.to_thread(self._discard)

    def _append(self, offset: int, data: bytes) -> int:
        try:
            with _locked(self._path, makes=offset == 0) as file:
                status = os.fstat(file.fileno())
                if offset > status.st_size:
                    raise BehindPartial(status.st_size)
                fresh = data[status.st_size - offset :]
                if not fresh or status.st_nlink > 1:
                    # with a second name it is whole: what is added would be added to a blob
                    return status.st_size
                self._check_limits(status.st_size, len(fresh))
                file.seek(0, os.SEEK_END)
                file.write(fresh)
                file.flush()
                return status.st_size + len(fresh)
        except FileNotFoundError:
            raise BehindPartial(0) from None
        except OSError as error:
            raise full(error) from error

    def _check_limits(self, size_bytes: int, more_bytes: int) -> None:
        if size_bytes + more_bytes > self._max_bytes:
            raise BlobError("blob_too_large", f"the file is larger than {self._max_bytes} bytes")
        with os.scandir(self._path.parent) as entries:
            others = [_size_of(entry) for entry in entries if entry.name != self._path.name]
        taken_bytes = sum(others) + size_bytes
        if taken_bytes + more_bytes > self._max_owner_bytes or len(others) >= MAX_PARTIALS:
            if size_bytes == 0:
                self._path.unlink(missing_ok=True)
            raise BlobError(
                "partial_limit",
                f"your unfinished uploads are {len(others) + bool(size_bytes)} files of {taken_bytes} bytes; "
                f"there may be {MAX_PARTIALS} of {self._max_owner_bytes} bytes in all: finish or delete one",
            )
        self._check_room(more_bytes)

    def _settle(self) -> None:
        # one that is gone was finished or forgotten by another
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            os.fsync(file.fileno())
            fsync_directory(self._path.parent)
            fsync_directory(self._path.parent.parent)

    def _finish(self) -> Received:
        sha256 = self._path.name
        try:
            with _locked(self._path) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                size_bytes = file.tell()
                if found != sha256:
                    self._path.unlink()
                    raise hash_mismatch(size_bytes, found, sha256)
                if size_bytes <= INLINE_MAX_BYTES:
                    file.seek(0)
                    return Received(sha256, size_bytes, content=file.read())
                os.fsync(file.fileno())
                # as old as its row will be: it is no leftover of what began long ago
                os.utime(file.fileno())
                location = fresh_location(sha256)
                self._name(self._path_of(location))
        except OSError as error:
            raise full(error) from error
        return Received(sha256, size_bytes, location=location)

    def _name(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        try:
            path.hardlink_to(self._path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # a file system without links: what is not taken up then is sent again
            self._path.rename(path)
        fsync_directory(path.parent)
        fsync_directory(path.parent.parent)

    def _discard(self) -> None:
        with suppress(FileNotFoundError), _locked(self._path):
            self._path.unlink()


def drop_partials(directory: Path, before_ms: int) -> int:
    """Remove the uploads of all owners to which nothing was added since a time; returns how many."""
    dropped = 0
    for path in directory.glob("*/*"):
        # looked at under the lock, so that none goes to which something is being added; who has it uses it
        with suppress(FileNotFoundError, BlockingIOError), _locked(path, waits=False) as file:
            if os.fstat(file.fileno()).st_mtime_ns < before_ms * 1_000_000:
                path.unlink()
                dropped += 1
    return dropped


@contextmanager
def _locked(path: Path, *, makes: bool = False, waits: bool = True) -> Iterator[BufferedRandom]:
    """The file, under its lock, for as long as it has this name.

    Raises:
        FileNotFoundError: it is not there, and is not to be made.
        BlockingIOError: another has the lock, and it is not to be waited for.
    """
    while True:
        if makes:
            path.parent.mkdir(exist_ok=True)
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if makes else 0)
        with os.fdopen(os.open(path, flags, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file):
                yield file
                return


def _is_at(path: Path, file: BufferedRandom) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0
