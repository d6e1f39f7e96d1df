"""An attempt's private directory: inputs laid out before, new and changed files found after."""

from __future__ import annotations

import fnmatch
import hashlib
import mimetypes
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rgrid_server.domain.filenames import why_not_a_name

IGNORED_DIRECTORIES = frozenset({"__pycache__"})
HASH_CHUNK_BYTES = 1024 * 1024
MAX_NOTED = 100


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that the script left new or changed."""

    name: str
    path: Path
    sha256: str
    size_bytes: int
    mode: int
    content_type: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a script left, and what of it was passed over, with the reason."""

    files: list[FoundFile]
    passed_over: list[str] = field(default_factory=list)


class OutputLimit(Exception):
    """A script left more than is allowed; nothing of it is taken."""


class Workspace:
    """A directory that holds ``work`` (where the script runs), ``home`` and ``tmp``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.work = root / "work"
        self.home = root / "home"
        self.tmp = root / "tmp"
        self._known: dict[str, tuple[int, int, int]] = {}

    def create(self) -> None:
        """Make it, empty and private."""
        self.remove()
        for directory in (self.work, self.home, self.tmp):
            directory.mkdir(parents=True, mode=0o700)

    def put(self, name: str, source: Path | bytes) -> None:
        """Lay out a file; one that stays as it is will be no output."""
        problem = why_not_a_name(name)
        if problem is not None:
            raise ValueError(f"the name {name!r} {problem}")
        target = self.work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        else:
            shutil.copyfile(source, target)
        self._known[name] = _fingerprint(target.stat())

    def find_outputs(self, globs: Sequence[str] | None, *, max_files: int, max_bytes: int) -> Found:
        """Every regular file that is new or changed, by name; nothing is followed out of the directory.

        Args:
            globs: what to keep (``*`` matches ``/`` too); everything when None.
            max_files: more than so many are refused.
            max_bytes: more than so much together is refused, before any of it is read.

        Raises:
            OutputLimit: more was left than is allowed.
        """
        passed_over: list[str] = []
        candidates: list[tuple[str, Path, os.stat_result]] = []
        total_bytes = 0
        for name, path in _walk(self.work, "", passed_over):
            status = self._regular(name, path, passed_over)
            if status is None or self._known.get(name) == _fingerprint(status):
                continue
            if globs is not None and not any(fnmatch.fnmatchcase(name, glob) for glob in globs):
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
        return Found([_found(*item) for item in sorted(candidates)], passed_over[:MAX_NOTED])

    def remove(self) -> None:
        """Remove it with everything in it."""
        shutil.rmtree(self._root, onerror=_make_removable)

    def _regular(self, name: str, path: Path, passed_over: list[str]) -> os.stat_result | None:
        problem = why_not_a_name(name)
        if problem is not None:
            passed_over.append(f"{name!r} {problem}")
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


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _walk(directory: Path, prefix: str, passed_over: list[str]) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except PermissionError:
        # the script took its own rights away; they are the runner's to give back
        directory.chmod(0o700)
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in IGNORED_DIRECTORIES:
                found.extend(_walk(Path(entry.path), f"{name}/", passed_over))
        else:
            found.append((name, Path(entry.path)))
    return found


def _found(name: str, path: Path, status: os.stat_result) -> FoundFile:
    guessed, encoding = mimetypes.guess_type(name)
    return FoundFile(
        name=name,
        path=path,
        sha256=hash_file(path),
        size_bytes=status.st_size,
        mode=stat.S_IMODE(status.st_mode) & 0o777,
        content_type=guessed if guessed is not None and encoding is None else "application/octet-stream",
    )


def _fingerprint(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _make_removable(function: object, path: str, error: object) -> None:
    del function, error
    try:
        os.chmod(os.path.dirname(path), 0o700)  # noqa: PTH101, PTH120 - rmtree speaks in texts
        if os.path.islink(path) or not os.path.isdir(path):  # noqa: PTH112, PTH114
            os.unlink(path)  # noqa: PTH108
        else:
            os.chmod(path, 0o700)  # noqa: PTH101
            shutil.rmtree(path, ignore_errors=True)
    except FileNotFoundError:
        return
