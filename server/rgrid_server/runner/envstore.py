"""The directory in which environments are kept, which all runners of a host may share.

An environment stands in a directory of its own, named by its key and something random, so that nothing that
is built ever takes the place of something that is used. It counts from the moment that it has its mark. Two
kinds of locks keep runners apart, and the kernel releases both when their holder is killed:

- ``locks/KEY`` is held by whoever builds or resolves what the key names;
- the mark of an environment is held, beside others, by whoever uses it, and alone by whoever removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rgrid_server.runner.filelock import FileLock, try_lock, wait_lock

MARK = "rgrid-ready.json"
LOCKS = "locks"
RESOLUTIONS = "resolutions"
RESOLVING_PREFIX = "resolving-"
REMOVED_PREFIX = "removed-"
RESOLUTION_KEPT_SECONDS = 90 * 86_400.0
"""A resolution that nobody asked for in so long is forgotten."""

_SHORT_SECONDS = 600.0
"""Longer than anybody takes to look for what can be removed."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What requirements were resolved to, and when (seconds since the epoch)."""

    pins: str
    resolved_at: float

    def is_fresh(self, lifetime_seconds: float) -> bool:
        """Whether it is no older; one from the future, by a clock that was set back, is not."""
        return 0 <= time.time() - self.resolved_at < lifetime_seconds


class EnvironmentStore:
    """Finds, publishes and removes environments."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        for made in (directory, directory / LOCKS, directory / RESOLUTIONS):
            made.mkdir(parents=True, exist_ok=True)
        self._sweep()

    async def lock(self, key: str, timeout_seconds: float) -> FileLock:
        """Be the only one to build or resolve what a key names.

        Raises:
            TimeoutError: others were at it for all of that time.
        """
        return await wait_lock(self._lock_path(key), timeout_seconds)

    def take(self, key: str) -> tuple[Path, FileLock] | None:
        """An environment that is ready, held in use until the lock is released; None where there is none."""
        for directory in self._of(key):
            lock = try_lock(directory / MARK, shared=True, create=False)
            if lock is None:
                continue
            # the interpreter may have been removed from the machine since
            if (directory / "bin" / "python").exists():
                os.utime(lock.descriptor)
                return directory, lock
            lock.release()
        return None

    def begin(self, key: str) -> Path:
        """Where to build what a key names, for whoever has its lock; what was left there is removed."""
        for directory in self._of(key):
            mark = try_lock(directory / MARK, create=False)
            if mark is not None or not (directory / MARK).exists():
                self._remove(directory)
            if mark is not None:
                mark.release()
        return self._directory / f"{key}-{secrets.token_hex(4)}"

    def publish(self, directory: Path, pins: str) -> FileLock:
        """Give what was built its mark; it is in use from the first, until the lock is released."""
        size_bytes = sum(path.lstat().st_size for path in directory.rglob("*"))
        unmarked = directory / f"{MARK}.new"
        unmarked.write_text(json.dumps({"pins": pins, "size_bytes": size_bytes}))
        lock = try_lock(unmarked, shared=True, create=False)
        if lock is None:
            raise FileNotFoundError(f"{unmarked} was removed by someone else")
        unmarked.replace(directory / MARK)
        return lock

    def abandon(self, directory: Path) -> None:
        """Leave nothing of a build that failed."""
        self._remove(directory)

    async def make_room(self) -> None:
        """Remove those that nobody used for longest, as far as all together are too large."""
        with contextlib.suppress(TimeoutError):
            # one after the other, or each would remove as much as all together are to
            with await wait_lock(self._lock_path("room"), _SHORT_SECONDS):
                removed = await asyncio.to_thread(self._move_surplus)
            for directory in removed:
                await asyncio.to_thread(_remove_tree, directory)

    def resolution(self, text_key: str) -> Resolution | None:
        """The latest resolution of a text, of whichever runner."""
        path = self._directory / RESOLUTIONS / text_key
        try:
            known = json.loads(path.read_text())
            return Resolution(str(known["pins"]), float(known["resolved_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep_resolution(self, text_key: str, resolution: Resolution) -> None:
        """Keep a resolution for all runners."""
        path = self._directory / RESOLUTIONS / text_key
        unfinished = path.with_name(f".{text_key}-{secrets.token_hex(4)}")
        unfinished.write_text(json.dumps({"pins": resolution.pins, "resolved_at": resolution.resolved_at}))
        unfinished.replace(path)

    def resolving(self, text_key: str) -> Path:
        """An empty directory to resolve a text in; for whoever has its lock."""
        directory = self._directory / f"{RESOLVING_PREFIX}{text_key}"
        _remove_tree(directory)
        directory.mkdir()
        return directory

    def _of(self, key: str) -> list[Path]:
        # asked for most executions, and a glob takes several times as long
        return [self._directory / name for name in os.listdir(self._directory) if name.startswith(key)]  # noqa: PTH208

    def _lock_path(self, key: str) -> Path:
        return self._directory / LOCKS / key

    def _sweep(self) -> None:
        """Remove what runners have left that were killed."""
        for removed in self._directory.glob(f"{REMOVED_PREFIX}*"):
            _remove_tree(removed)
        for leftover in self._directory.glob(f"{RESOLVING_PREFIX}*"):
            self._unless_locked(leftover.name.removeprefix(RESOLVING_PREFIX), leftover, _remove_tree)
        for unmarked in self._directory.glob("[0-9a-f]*"):
            if not (unmarked / MARK).exists():
                self._unless_locked(unmarked.name.partition("-")[0], unmarked, self._remove_unmarked)
        for resolution in (self._directory / RESOLUTIONS).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if resolution.stat().st_mtime < time.time() - RESOLUTION_KEPT_SECONDS:
                    resolution.unlink()
        for path in (self._directory / LOCKS).iterdir():
            if (lock := try_lock(path, create=False)) is not None:
                with lock:
                    path.unlink(missing_ok=True)

    def _unless_locked(self, key: str, leftover: Path, remove: Callable[[Path], None]) -> None:
        lock = try_lock(self._lock_path(key))
        if lock is not None:
            with lock:
                remove(leftover)

    def _remove_unmarked(self, directory: Path) -> None:
        # it may have been finished before its lock was free
        if not (directory / MARK).exists():
            self._remove(directory)

    def _move_surplus(self) -> list[Path]:
        """Move away what is too much, so that nobody can begin to use it any more; returns where it is."""
        kept = self._by_age()
        total_bytes = sum(size_bytes for _, size_bytes in kept)
        removed: list[Path] = []
        for directory, size_bytes in kept:
            if total_bytes <= self._max_bytes:
                break
            mark = try_lock(directory / MARK, create=False)
            if mark is None:
                continue
            with mark:
                removed.append(self._move_away(directory))
            total_bytes -= size_bytes
        return removed

    def _by_age(self) -> list[tuple[Path, int]]:
        """The environments that are ready with their sizes, the longest unused first."""
        found: list[tuple[float, Path, int]] = []
        for mark in self._directory.glob(f"[0-9a-f]*/{MARK}"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                size_bytes = int(json.loads(mark.read_text())["size_bytes"])
                found.append((mark.stat().st_mtime, mark.parent, size_bytes))
        return [(directory, size_bytes) for _, directory, size_bytes in sorted(found)]

    def _remove(self, directory: Path) -> None:
        if directory.exists():
            _remove_tree(self._move_away(directory))

    def _move_away(self, directory: Path) -> Path:
        moved = self._directory / f"{REMOVED_PREFIX}{directory.name}-{secrets.token_hex(4)}"
        directory.rename(moved)
        return moved


def _remove_tree(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
