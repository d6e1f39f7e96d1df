"""Inputs that were fetched, kept for the next attempt that names them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections import defaultdict
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
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def fetch(self, assignment: Assignment, sha256: str) -> Path:
        """The file with these bytes; it stays as it is and is to be copied."""
        kept = self._directory / sha256
        async with self._locks[sha256]:
            if kept.exists():
                with contextlib.suppress(OSError):
                    os.utime(kept)
                return kept
            part = self._directory / f"{secrets.token_hex(8)}.part"
            try:
                await self._connection.get_blob(assignment, sha256, part)
                part.replace(kept)
            finally:
                part.unlink(missing_ok=True)
        await asyncio.to_thread(self._make_room, kept)
        return kept

    def _make_room(self, newest: Path) -> None:
        files = [(path.stat(), path) for path in self._directory.iterdir() if path.suffix != ".part"]
        total = sum(status.st_size for status, _ in files)
        for status, path in sorted(files, key=lambda item: item[0].st_mtime):
            if total <= MAX_CACHE_BYTES:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                total -= status.st_size
