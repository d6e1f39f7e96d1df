"""The edge to time and chance: the server's clock and its fresh names; the domain takes both as arguments."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time

_POOL_BYTES = 4096


class _RandomPool:
    """Random bytes of the system, fetched for many ids at a time: a system call for each takes longer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = b""
        self._at = _POOL_BYTES

    def take(self, count: int) -> bytes:
        """So many bytes that nobody had before."""
        with self._lock:
            if self._at + count > len(self._bytes):
                self._bytes, self._at = os.urandom(_POOL_BYTES), 0
            self._at += count
            return self._bytes[self._at - count : self._at]


_random = _RandomPool()


def now_ms() -> int:
    """Milliseconds since the epoch, by this server's clock."""
    return time.time_ns() // 1_000_000


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait until an event is set, for so long at most; returns whether it is.

    Unlike Python 3.11's ``asyncio.wait_for`` this loses no cancellation, and needs no task.
    """
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def new_id(prefix: str) -> str:
    """A fresh id: the prefix, an underscore and 32 hex digits, 14 of the time in microseconds and 18 random.

    So what is made in one moment stands side by side in an index, whose pages are then written once for many
    of them: the reason that RFC 9562 gives for UUID version 7.
    """
    return f"{prefix}_{time.time_ns() // 1000:014x}{_random.take(9).hex()}"


def new_ids(prefix: str, count: int) -> list[str]:
    """As many fresh ids, for less than each alone takes, in their order."""
    digits = os.urandom(9 * count).hex()
    first = time.time_ns() // 1000
    return [f"{prefix}_{first + n:014x}{digits[18 * n : 18 * n + 18]}" for n in range(count)]


def new_key() -> str:
    """A fresh API key: 256 random bits."""
    return f"sk_{secrets.token_urlsafe(32)}"
