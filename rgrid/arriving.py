"""A file on its way here: under its name only when it is whole, and gone on with when it was cut."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rgrid.exceptions import ConfigurationError, ResponseInvalid
from rgrid.patience import PASSING

try:
    import fcntl
except ImportError:  # a system without locks on files, where nothing stays for the next call
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from rgrid.files import Progress

KEEP_FROM_BYTES = 1024 * 1024
"""So much of a file has to be here for it to be worth keeping for the next call."""
READ_BYTES = 1024 * 1024
MAX_NAME_BYTES = 200


class AtomicFile:
    """A file that appears under its name only when it is whole and has the right bytes.

    What has come of a large one stays beside it, as ``.<name>.<start of its hash>.part``, when it was cut by
    what passes (a connection, a server that is away, an interruption): the next call for the same bytes goes
    on from there. After any other end nothing of it stays.

    Args:
        target: the name.
        sha256: of the whole; empty where that is not known.
        mode: the rights that it gets.
        size_bytes: of the whole; None where that is not known, and then nothing stays.
    """

    def __init__(self, target: Path, sha256: str, mode: int, size_bytes: int | None = None) -> None:
        self._target = target
        self._sha256 = sha256
        self._mode = mode
        self._size_bytes = size_bytes
        is_large = size_bytes is not None and size_bytes >= KEEP_FROM_BYTES
        self._stays = bool(sha256) and is_large and fcntl is not None
        self._part = _beside(target, secrets.token_hex(4))
        self._digest = hashlib.sha256()
        self.received_bytes = 0

    @property
    def is_whole(self) -> bool:
        """Whether all of it has come, as far as its length tells."""
        return self._size_bytes is not None and self.received_bytes == self._size_bytes > 0

    def __enter__(self) -> AtomicFile:
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            part = _beside(self._target, self._sha256[:16])
            kept = _open_locked(part) if self._stays else None
            if kept is None:
                # a small one, or another process fetches the same just now: each goes its own way
                self._stays = False
                self._file: BinaryIO = self._part.open("w+b")
            else:
                self._file, self._part = kept, part
                self._take_up()
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            rgrid.exceptions.ConfigurationError: there is no room for them.
        """
        try:
            self._file.write(chunk)
        except OSError as error:
            raise self._unwritable(error) from error
        self._digest.update(chunk)
        self.received_bytes += len(chunk)

    def check(self) -> None:
        """Make sure that the right bytes are here; where they are others, it begins anew.

        Raises:
            rgrid.exceptions.ResponseInvalid: they are not.
        """
        if self._sha256 and self._digest.hexdigest() != self._sha256:
            self._begin_anew()
            raise ResponseInvalid(
                f"{self._target.name} arrived with other bytes than it has; download it again"
            )

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        try:
            if kind is None:
                self.check()
                self._file.flush()
                self._part.chmod(self._mode)
                self._part.replace(self._target)
        except OSError as error:
            self._part.unlink(missing_ok=True)
            raise self._unwritable(error) from error
        except ResponseInvalid:
            self._part.unlink(missing_ok=True)
            raise
        finally:
            self._leave(kind)

    def _leave(self, kind: type[BaseException] | None) -> None:
        if kind is not None and not (
            self._stays and self.received_bytes >= KEEP_FROM_BYTES and _is_passing(kind)
        ):
            self._part.unlink(missing_ok=True)
        try:
            self._file.close()
        except OSError as error:
            # what was still to be written did not get room; whoever leaves for another reason has that one
            if kind is None:
                raise self._unwritable(error) from error
            self._part.unlink(missing_ok=True)

    def _take_up(self) -> None:
        """Go on behind what an earlier call has left."""
        while chunk := self._file.read(READ_BYTES):
            self._digest.update(chunk)
            self.received_bytes += len(chunk)
        if self.received_bytes > (self._size_bytes or 0) or (
            self.is_whole and self._digest.hexdigest() != self._sha256
        ):
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.received_bytes = 0

    def _unwritable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"{self._target} cannot be written: {error.strerror}")


class Told:
    """Tells of a file's bytes as they come, what was here before and what turned out wrong too.

    Args:
        file: the file.
        shown: whom to tell.
        told_bytes: so much of it was told already.
    """

    def __init__(self, file: AtomicFile, shown: Progress, told_bytes: int = 0) -> None:
        self._file = file
        self._shown = shown
        self._told_bytes = told_bytes
        self.tell()

    def tell(self) -> None:
        """So much is here now."""
        self._shown.on_advance(self._file.received_bytes - self._told_bytes)
        self._told_bytes = self._file.received_bytes


def _is_passing(kind: type[BaseException]) -> bool:
    """Whether what ended a download says nothing against going on with it."""
    return issubclass(kind, PASSING) or not issubclass(kind, Exception)


def _beside(target: Path, word: str) -> Path:
    name = os.fsencode(target.name)[:MAX_NAME_BYTES].decode(errors="ignore")
    return target.with_name(f".{name}.{word}.part")


def _open_locked(path: Path) -> BinaryIO | None:
    """The file, made where it is not there; None where another process has it open so."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        file = os.fdopen(os.open(path, flags, 0o600), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        # whoever had it has just given it its name, or removed it
        file.close()
