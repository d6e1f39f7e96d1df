"""An attempt's private directory: inputs laid out before, new and changed files found after."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import mimetypes
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rgrid_server.domain.filenames import why_not_a_name
from rgrid_server.runner.cloning import copy_file

IGNORED_DIRECTORIES = frozenset({"__pycache__"})
IGNORED_SUFFIXES = (".pyc",)
HASH_CHUNK_BYTES = 1024 * 1024
MAX_NOTED = 100
SMALL_FILES = 16
SMALL_BYTES = 256 * 1024
"""What is read or removed sooner here than a thread is told to."""
MAX_SHELVED = 64
PARTS = ("home", "tmp", "work")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that the script left new or changed."""

    name: str
    path: Path
    sha256: str
    size_bytes: int
    mode: int
    content_type: str
    content: bytes | None = None
    """Of a small one: what the hash is of."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a script left, and what of it was passed over, with the reason."""

    files: list[FoundFile]
    passed_over: list[str] = field(default_factory=list)


class _Known(NamedTuple):
    """A file as it was laid out."""

    fingerprint: tuple[int, int, int]
    sha256: str


class OutputLimit(Exception):
    """A script left more than is allowed; nothing of it is taken."""


class Shelf:
    """Emptied workspaces, for the next attempts: it takes longer to make directories than to keep them.

    Args:
        directory: where they wait, on the file system where workspaces are made.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._kept: list[Path] = []
        self._count = 0

    def put(self, root: Path) -> bool:
        """Keep an empty workspace; returns whether there was room for it."""
        if len(self._kept) >= MAX_SHELVED:
            return False
        self._count += 1
        place = self._directory / f"shelved-{self._count}"
        os.rename(root, place)  # noqa: PTH104 - this is for speed, here and below
        self._kept.append(place)
        return True

    def take(self, root: Path) -> bool:
        """Let a workspace that was kept stand at a path; returns whether there is one."""
        while self._kept:
            with contextlib.suppress(OSError):
                os.rename(self._kept.pop(), root)  # noqa: PTH104
                return True
        return False


class Workspace:
    """A directory that holds ``work`` (where the script runs), ``home`` and ``tmp``."""

    def __init__(self, root: Path, shelf: Shelf | None = None) -> None:
        self._shelf = shelf
        self.root = root
        self.work = root / "work"
        self.home = root / "home"
        self.tmp = root / "tmp"
        self._known: dict[str, _Known] = {}

    def create(self) -> None:
        """Make it, empty and private."""
        try:
            self.root.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            self.remove()
            self.root.mkdir(mode=0o700)
        for directory in (self.work, self.home, self.tmp):
            directory.mkdir(mode=0o700)

    def take_down(self) -> bool:
        """Make it of one that was put away; returns whether there is one."""
        return self._shelf is not None and not self.root.exists() and self._shelf.take(self.root)

    def put_away(self) -> bool:
        """Empty it and keep its directories, where it holds no more than a few files; returns whether it did.

        The next to have it finds what :meth:`create` would have made.
        """
        if self._shelf is None:
            return False
        try:
            return _empty_flat(self.root) and self._shelf.put(self.root)
        except OSError:
            return False

    def is_small(self) -> bool:
        """Whether it holds but a few small files, and no directory."""
        try:
            with os.scandir(self.work) as entries:
                size_bytes = 0
                for count, entry in enumerate(entries, 1):
                    status = entry.stat(follow_symlinks=False)
                    size_bytes += status.st_size
                    is_plain = stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IRUSR
                    if not is_plain or count > SMALL_FILES or size_bytes > SMALL_BYTES:
                        return False
        except OSError:
            return False
        return True

    def put(self, name: str, source: Path | bytes, *, sha256: str) -> None:
        """Lay out a file; one whose bytes stay as they are will be no output."""
        problem = why_not_a_name(name)
        if problem is not None:
            raise ValueError(f"the name {_shown(name)} {problem}")
        target = self.work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        else:
            copy_file(source, target)
        self._known[name] = _Known(_fingerprint(target.stat()), sha256)

    def find_outputs(
        self, globs: Sequence[str] | None, *, max_files: int, max_bytes: int, keep_bytes: int = 0
    ) -> Found:
        """Every regular file that is new or changed, by name; nothing is followed out of the directory.

        Args:
            globs: what to keep (``*`` matches ``/`` too, a folder's name all that is in it); everything
                when None.
            max_files: more than so many are refused.
            max_bytes: more than so much together is refused, before any of it is read; the size counts, not
                what a sparse file takes on the disk.
            keep_bytes: the content of a file up to this size comes with it.

        Raises:
            OutputLimit: more was left than is allowed.
        """
        if not self._has_work():
            return Found([], ["the working directory, which the script has removed or replaced"])
        passed_over: list[str] = []
        candidates: list[tuple[str, Path, os.stat_result]] = []
        total_bytes = 0
        for name, path in _walk(self.work, passed_over):
            if name.endswith(IGNORED_SUFFIXES) or (globs is not None and not _is_wanted(name, globs)):
                continue
            status = self._regular(name, path, passed_over)
            if status is None:
                continue
            known = self._known.get(name)
            if known is not None and known.fingerprint == _fingerprint(status):
                continue
            total_bytes += status.st_size
            candidates.append((name, path, status))
            if len(candidates) > max_files:
                raise OutputLimit(
                    f"the script left more than {max_files} files; pack them into an archive, "
                    "or name those to keep in outputs"
                )
            if total_bytes > max_bytes:
                raise OutputLimit(
                    f"the script left more than {max_bytes} bytes in files (at {name}); "
                    "write less, or name those to keep in outputs"
                )
        files = [_found(*item, keep_bytes) for item in sorted(candidates, key=_by_name)]
        return Found([item for item in files if not self._is_as_before(item)], passed_over[:MAX_NOTED])

    def _has_work(self) -> bool:
        """Whether the script has left its directory; what it put in its place is not followed."""
        try:
            return stat.S_ISDIR(self.work.lstat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def remove(self) -> None:
        """Remove it with everything in it, however deep and whatever its rights."""
        with contextlib.suppress(RecursionError):
            shutil.rmtree(self.root, ignore_errors=True)
        if self.root.exists():
            for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
                subprocess.run([*command, "--", str(self.root)], check=False, stderr=subprocess.DEVNULL)

    def _is_as_before(self, found: FoundFile) -> bool:
        known = self._known.get(found.name)
        return known is not None and known.sha256 == found.sha256

    def _regular(self, name: str, path: Path, passed_over: list[str]) -> os.stat_result | None:
        problem = why_not_a_name(name)
        if problem is not None:
            passed_over.append(f"{_shown(name)} {problem}")
            return None
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            target = Path(os.path.realpath(path))
            if not target.is_relative_to(self.work.resolve()) or not target.is_file():
                passed_over.append(f"{name} is a link out of the working directory, or to no file")
                return None
            status = target.stat()
        if not stat.S_ISREG(status.st_mode):
            passed_over.append(f"{name} is no regular file")
            return None
        return status


def _empty_flat(root: Path) -> bool:
    """Remove a few files from a workspace that is otherwise as it was made; returns whether it is so."""
    directories = [f"{root}/{name}" for name in PARTS]
    with os.scandir(root) as entries:
        if sorted(entry.name for entry in entries) != list(PARTS):
            return False
    files: list[str] = []
    for directory in directories:
        if not stat.S_ISDIR(os.lstat(directory).st_mode) or os.listxattr(directory, follow_symlinks=False):
            return False
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) or len(files) >= SMALL_FILES:
                    return False
                files.append(entry.path)
    for path in files:
        os.unlink(path)  # noqa: PTH108
    for directory in directories:
        os.chmod(directory, 0o700)  # noqa: PTH101
    return True


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    if not os.access(path, os.R_OK):
        path.chmod(0o600)
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _walk(root: Path, passed_over: list[str]) -> Iterator[tuple[str, Path]]:
    """Every name below a directory that is no directory itself; no link is followed."""
    waiting = [("", root)]
    while waiting:
        prefix, directory = waiting.pop()
        for entry in _entries(directory):
            name = f"{prefix}{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                yield name, Path(entry.path)
            elif entry.name in IGNORED_DIRECTORIES:
                continue
            elif (problem := why_not_a_name(name)) is not None:
                passed_over.append(f"{_shown(name)} {problem}")
            else:
                waiting.append((f"{name}/", Path(entry.path)))


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except PermissionError:
        # the script took its own rights away; they are the runner's to give back
        directory.chmod(0o700)
        with os.scandir(directory) as entries:
            return list(entries)


def _is_wanted(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) or name.startswith(f"{glob.rstrip('/')}/") for glob in globs)


def _by_name(candidate: tuple[str, Path, os.stat_result]) -> str:
    return candidate[0]


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def _found(name: str, path: Path, status: os.stat_result, keep_bytes: int) -> FoundFile:
    guessed, encoding = mimetypes.guess_type(name)
    content = None
    if status.st_size <= keep_bytes and os.access(path, os.R_OK):
        content = path.read_bytes()
    return FoundFile(
        name=name,
        path=path,
        sha256=hash_file(path) if content is None else hashlib.sha256(content).hexdigest(),
        size_bytes=status.st_size if content is None else len(content),
        content=content,
        mode=stat.S_IMODE(status.st_mode) & 0o777,
        content_type=guessed if guessed is not None and encoding is None else "application/octet-stream",
    )


def _fingerprint(status: os.stat_result) -> tuple[int, int, int]:
    # the change time, unlike the modification time, is not a program's to set
    return status.st_size, status.st_ctime_ns, status.st_ino
