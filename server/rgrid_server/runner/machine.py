"""What a runner's machine has, and what time the server says it is."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

log = logging.getLogger(__name__)

DEFAULT_EXECUTION_MIB = 2048
"""What an execution may use when it asks for nothing else."""
DEFAULT_MIN_FREE_BYTES = 64 * 1024**2
SMALL_DISK_PART = 20
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def offered_memory_mib(slots: int, limit_file: Path = _CGROUP_LIMIT) -> int:
    """How much memory a runner hands out to what it carries, in MiB.

    What the machine has, or the part of it that this process may use; at least what lets every slot carry an
    execution that asks for no particular amount, since few of those use what they may.
    """
    physical_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        allowed_bytes = int(limit_file.read_text())
    except (OSError, ValueError):
        # not in a control group, or without a limit ("max")
        allowed_bytes = physical_bytes
    return max(min(physical_bytes, allowed_bytes) // 2**20, slots * DEFAULT_EXECUTION_MIB)


class DiskFloor:
    """Whether a disk has so little room left that no more work is to come to it.

    Args:
        directory: where the work stands.
        min_free_bytes: with less it is too full; on a small disk with less than a 20th of it.

    Attributes:
        is_reached: whether it had so little at the last look.
    """

    def __init__(self, directory: Path, min_free_bytes: int) -> None:
        self._directory = directory
        self._min_free_bytes = min_free_bytes
        self.is_reached = False

    def look(self) -> None:
        """Look now, and say so where ``is_reached`` changes; a directory that is gone is not full."""
        try:
            usage = shutil.disk_usage(self._directory)
        except OSError:
            is_reached = False
        else:
            is_reached = usage.free < min(self._min_free_bytes, usage.total // SMALL_DISK_PART)
        if is_reached and not self.is_reached:
            log.warning("the disk of %s is nearly full; nothing is taken until it has room", self._directory)
        elif self.is_reached and not is_reached:
            log.info("the disk of %s has room again", self._directory)
        self.is_reached = is_reached


class ServerClock:
    """The server's time, carried on by the monotonic clock: this machine's own may be wrong by a day."""

    def __init__(self) -> None:
        self._ahead_ms: float | None = None

    def hear(self, server_now_ms: int, asked_at: float, answered_at: float) -> None:
        """Take in what time it was at the server, between two times of the monotonic clock in seconds."""
        self._ahead_ms = server_now_ms - (asked_at + answered_at) / 2 * 1000

    def now_ms(self) -> int:
        """Milliseconds since the epoch by the server's clock; by this machine's before it was heard."""
        if self._ahead_ms is None:
            return time.time_ns() // 1_000_000
        return round(time.monotonic() * 1000 + self._ahead_ms)
