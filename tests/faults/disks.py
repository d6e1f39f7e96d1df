"""Disks with faults: one that is slow to make things durable, and one that is small."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.scale import DEADLINE_SECONDS

SOURCE = Path(__file__).with_name("slow_fsync.c")
COMPILER = shutil.which("cc")


class SlowDisk:
    """What makes fsync slow for processes that are started with its environment.

    Args:
        directory: where it is built, and where its files stand.
        delay_ms: how much longer each fsync takes.
    """

    def __init__(self, directory: Path, *, delay_ms: int = 0) -> None:
        self._library = directory / "slow_fsync.so"
        self._gate = directory / "gate"
        self._held = directory / "gate.held"
        self._count = directory / "fsyncs"
        self._delay_ms = delay_ms
        command = [str(COMPILER), "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(self._library)]
        subprocess.run([*command, str(SOURCE), "-ldl"], check=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a process is started with."""
        return {
            "LD_PRELOAD": str(self._library),
            "SLOW_FSYNC_GATE": str(self._gate),
            "SLOW_FSYNC_COUNT": str(self._count),
            "SLOW_FSYNC_MS": str(self._delay_ms),
        }

    @property
    def fsyncs(self) -> int:
        """How many there were."""
        return self._count.stat().st_size if self._count.exists() else 0

    def hold(self) -> None:
        """Let no fsync end from now on."""
        self._held.unlink(missing_ok=True)
        self._gate.touch()

    def wait_until_held(self) -> None:
        """Wait until an fsync waits."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._held.exists():
            assert time.monotonic() < deadline, "nothing was to be made durable"
            time.sleep(0.01)

    def release(self) -> None:
        """Let them end."""
        self._gate.unlink(missing_ok=True)


class SmallDisk:
    """A file system of its own that can be filled and emptied."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no room at all."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                while _has_written(file.fileno(), size):
                    pass

    def make_room(self) -> None:
        """Remove what fills it."""
        self._ballast.unlink(missing_ok=True)


def may_mount(directory: Path) -> bool:
    """Whether this user may mount a file system here."""
    try:
        with small_disk(directory / "trial", mebibytes=1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def small_disk(path: Path, *, mebibytes: int) -> Iterator[SmallDisk]:
    """A file system in memory of so many MiB.

    Raises:
        OSError, subprocess.CalledProcessError: this user may not mount one.
    """
    path.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(path)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _has_written(descriptor: int, size: int) -> bool:
    try:
        return os.write(descriptor, bytes(size)) > 0
    except OSError:
        return False
