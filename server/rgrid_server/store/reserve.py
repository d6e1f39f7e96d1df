"""Room that is set aside on the database's disk, for what has to be written when there is no other.

A disk without a free byte would keep the server from writing the very things that make room: reports, whose
attempts then let go of their workspaces, and the deletions of retention. So a file of some size stands beside
the database. When the disk is found full it is given up, and until there is room to put it back nothing new
is taken in.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

LARGEST_PART = 32
"""On a small disk no more than its 32nd part is set aside."""


def reserved_bytes(directory: Path, wanted_bytes: int) -> int:
    """How much is set aside on a directory's disk where so much is wanted."""
    return min(wanted_bytes, shutil.disk_usage(directory).total // LARGEST_PART)


class Reserve:
    """A file of zeros that is there, or has been given up.

    Args:
        path: the file.
        size_bytes: how much to set aside; 0 for nothing.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = reserved_bytes(path.parent, size_bytes)
        self._is_given_up = False
        self._provide()

    def give_up(self) -> None:
        """Let the disk have the room."""
        with suppress(FileNotFoundError):
            self._path.unlink()
            log.warning("the disk of %s is full; the reserve is used, nothing new is taken in", self._path)
        self._is_given_up = self._size_bytes > 0

    def is_in_use(self) -> bool:
        """Whether it is given up; it is put back first where there is twice the room by now."""
        if self._is_given_up:
            self._provide()
        return self._is_given_up

    def _provide(self) -> None:
        try:
            if self._size_bytes > 0 and not self._is_there():
                if shutil.disk_usage(self._path.parent).free < 2 * self._size_bytes:
                    self._is_given_up = True
                    return
                self._write()
        except OSError as error:
            log.debug("no room could be set aside: %s", error)
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._is_given_up = True
            return
        if self._is_given_up:
            log.info("there is room again on the disk of %s", self._path)
        self._is_given_up = False

    def _is_there(self) -> bool:
        try:
            return self._path.stat().st_size == self._size_bytes
        except FileNotFoundError:
            return False

    def _write(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size_bytes)
        finally:
            os.close(descriptor)
