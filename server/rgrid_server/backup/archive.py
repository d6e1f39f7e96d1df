"""What a backup is written into and read from: a directory, or one tar file; files of either by name.

A backup appears under its name only when it is whole: until then it stands beside it with ``.part`` behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rgrid_server.blobs.files import fsync_directory
from rgrid_server.store.database import StorageError

COPY_CHUNK_BYTES = 1024 * 1024


class BackupError(StorageError):
    """A backup cannot be made, or is not what it should be; the message says why and the way out."""


class Reader(ABC):
    """A backup's files."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Every file's size in bytes, by its name."""

    @abstractmethod
    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A file's bytes.

        Raises:
            BackupError: there is no such file.
        """

    def path(self, name: str) -> Path | None:
        """Where a file stands as one of its own; None where it does not."""
        del name
        return None

    def extract(self, name: str, target: Path) -> None:
        """Write a file to a path that is free, for its owner alone, durably."""
        with self.open(name) as source, _private(target) as file:
            shutil.copyfileobj(source, file, COPY_CHUNK_BYTES)
            file.flush()
            os.fsync(file.fileno())


class Writer(ABC):
    """A backup as it is made."""

    @abstractmethod
    def add(self, name: str, source: Path, *, may_link: bool = False) -> None:
        """Add a file; with ``may_link`` it never changes, and may be the same file under a second name."""


@contextlib.contextmanager
def create(target: Path) -> Iterator[tuple[Writer, Path]]:
    """Make a backup: a tar file where the target's name ends so, else a directory.

    Gives a writer, and a directory for what is made only to be added. What fails leaves nothing.

    Raises:
        BackupError: the target exists.
    """
    if target.exists() or target.is_symlink():
        raise BackupError(f"{target} exists; name one that does not")
    part = target.with_name(target.name + ".part")
    scratch = target.with_name(target.name + ".scratch")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # left by one that was killed
        _remove(part)
        _remove(scratch)
        scratch.mkdir(mode=0o700)
        if is_tar(target):
            with _private(part) as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    yield _TarWriter(tar), scratch
                file.flush()
                os.fsync(file.fileno())
        else:
            part.mkdir(mode=0o700)
            yield _DirectoryWriter(part), scratch
            for directory in (part, *(path for path in part.rglob("*") if path.is_dir())):
                fsync_directory(directory)
        part.rename(target)
        fsync_directory(target.parent)
    except OSError as error:
        raise BackupError(f"the backup {target} cannot be written: {error.strerror or error}") from error
    finally:
        _remove(part)
        _remove(scratch)


@contextlib.contextmanager
def open_backup(source: Path) -> Iterator[Reader]:
    """Look into a backup.

    Raises:
        BackupError: there is none.
    """
    if source.is_dir():
        yield _DirectoryReader(source)
        return
    try:
        tar = tarfile.open(source)  # noqa: SIM115 - closed below
    except (OSError, tarfile.TarError) as error:
        raise BackupError(f"{source} is no backup: {error}") from None
    with tar:
        yield _TarReader(tar)


def is_tar(target: Path) -> bool:
    """Whether a backup of this name is one file."""
    return target.suffix == ".tar"


class _DirectoryWriter(Writer):
    def __init__(self, root: Path) -> None:
        self._root = root

    def add(self, name: str, source: Path, *, may_link: bool = False) -> None:
        target = self._root / name
        for parent in reversed(target.relative_to(self._root).parents):
            (self._root / parent).mkdir(mode=0o700, exist_ok=True)
        if may_link:
            # not on another file system
            with contextlib.suppress(OSError):
                os.link(source, target)
                return
        with source.open("rb") as file, _private(target) as copy:
            shutil.copyfileobj(file, copy, COPY_CHUNK_BYTES)
            copy.flush()
            os.fsync(copy.fileno())


class _TarWriter(Writer):
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def add(self, name: str, source: Path, *, may_link: bool = False) -> None:
        del may_link
        with source.open("rb") as file:
            member = self._tar.gettarinfo(arcname=name, fileobj=file)
            member.type, member.linkname = tarfile.REGTYPE, ""
            member.size = os.fstat(file.fileno()).st_size
            member.mode, member.uid, member.gid, member.uname, member.gname = 0o600, 0, 0, "", ""
            self._tar.addfile(member, file)


class _DirectoryReader(Reader):
    def __init__(self, root: Path) -> None:
        self._root = root

    def sizes(self) -> dict[str, int]:
        return {
            str(path.relative_to(self._root)): path.stat().st_size
            for path in self._root.rglob("*")
            if path.is_file()
        }

    def path(self, name: str) -> Path:
        return self._root / name

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        try:
            file = (self._root / name).open("rb")
        except FileNotFoundError:
            raise BackupError(f"the backup {self._root} has no file {name}") from None
        with file:
            yield file


class _TarReader(Reader):
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members = {member.name: member for member in tar if member.isreg()}

    def sizes(self) -> dict[str, int]:
        return {name: member.size for name, member in self._members.items()}

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        if name not in self._members:
            raise BackupError(f"the backup {self._tar.name!s} has no file {name}")
        file = self._tar.extractfile(self._members[name])
        if file is None:
            raise BackupError(f"{name} is no file in the backup {self._tar.name!s}")
        with file:
            yield file


def _private(path: Path) -> IO[bytes]:
    """A new file for its owner alone."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
