"""Inputs that were fetched, kept for the next attempt that names them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from rgrid_server.domain.attempts import Assignment
from rgrid_server.runner.connection import Connection

MAX_CACHE_BYTES = 10 * 1024**3


class InputCache:
    """Files by their SHA-256, each fetched once however many attempts want it."""

    def __init__(self, directory: Path, connection: Connection) -> None:
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)
        for leftover in self._directory.glob("*.part"):
            leftover.unlink(missing_ok=True)
        self._connection = connection
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    async def fetch(self, assignment: Assignment, sha256: str, take: Callable[[Path], None]) -> None:
        """Give the file with these bytes to ``take``, which copies it; the file itself stays as it is.

        Raises:
            Gone: the attempt has no such input.
        """
        kept = self._directory / sha256
        while True:
            async with self._lock(sha256):
                if not kept.exists():
                    await self._download(assignment, sha256, kept)
            try:
                await asyncio.to_thread(take, kept)
            except FileNotFoundError:
                # removed for room in the meantime; the file is what is missing, or take itself failed
                if kept.exists():
                    raise
                continue
            with contextlib.suppress(OSError):
                os.utime(kept)
            return

    async def _download(self, assignment: Assignment, sha256: str, kept: Path) -> None:
        part = self._directory / f"{secrets.token_hex(8)}.part"
        try:
            await self._connection.get_blob(assignment, sha256, part)
            part.replace(kept)
        finally:
            part.unlink(missing_ok=True)
        await asyncio.to_thread(self._make_room, kept)

    @contextlib.asynccontextmanager
    async def _lock(self, sha256: str) -> AsyncIterator[None]:
        lock, waiting = self._locks.get(sha256, (asyncio.Lock(), 0))
        self._locks[sha256] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks.pop(sha256)
            if waiting > 1:
                self._locks[sha256] = (lock, waiting - 1)

    def _make_room(self, newest: Path) -> None:
        files = [(path.stat(), path) for path in self._directory.iterdir() if path.suffix != ".part"]
        total = sum(status.st_size for status, _ in files)
        for status, path in sorted(files, key=lambda item: item[0].st_mtime):
            if total <= MAX_CACHE_BYTES:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                total -= status.st_size
