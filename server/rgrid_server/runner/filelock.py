"""Locks on files, between processes of a host; the kernel releases one when its holder ends in any way."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
from pathlib import Path


class FileLock:
    """A lock that is held until it is released, or until no process has its descriptor open any more."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def release(self) -> None:
        """Let go of it. A child that inherited the descriptor goes on holding it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()


def try_lock(path: Path, *, shared: bool = False, create: bool = True) -> FileLock | None:
    """Lock a file if that can be done at once.

    Args:
        shared: beside others that do the same, as readers do.
        create: make the file where there is none; else there is nothing to lock then.
    """
    while True:
        try:
            descriptor = _open(path, create=create)
        except FileNotFoundError:
            if create:
                raise
            return None
        if not _take(descriptor, shared=shared):
            os.close(descriptor)
            return None
        if _is_at(descriptor, path):
            return FileLock(path, descriptor)
        os.close(descriptor)


async def wait_lock(path: Path, timeout_seconds: float) -> FileLock:
    """Lock a file for oneself alone, as soon as nobody else has it.

    Raises:
        TimeoutError: others had it for all of that time.
    """
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    while True:
        descriptor = _open(path, create=True)
        if not _take(descriptor, shared=False):
            await _wait(descriptor, deadline)
        if _is_at(descriptor, path):
            return FileLock(path, descriptor)
        # who had it has removed the file
        os.close(descriptor)


async def _wait(descriptor: int, deadline: float) -> None:
    """Wait in a thread that may be left behind; it closes the descriptor then, once it has the lock."""
    loop = asyncio.get_running_loop()
    locked: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if locked.done():
            os.close(descriptor)
        else:
            locked.set_result(None)

    def wait() -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            # nobody is there any more to take it
            os.close(descriptor)

    # the loop's own threads are waited for when it ends; this one may have to wait for longer than that
    threading.Thread(target=wait, name="rgrid-lock", daemon=True).start()
    try:
        async with asyncio.timeout_at(deadline):
            await locked
    except BaseException:
        if locked.done() and not locked.cancelled():
            os.close(descriptor)
        raise


def _open(path: Path, *, create: bool) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)


def _take(descriptor: int, *, shared: bool) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a file still has its name; a lock on one that was removed keeps nobody out."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
