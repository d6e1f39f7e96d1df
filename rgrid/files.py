"""Files on their way to the server and back: which are inputs, their hashes, and where outputs go."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from rgrid.arriving import AtomicFile
from rgrid.exceptions import ConfigurationError, ResponseInvalid

__all__ = [
    "AtomicFile",
    "PlannedInputs",
    "Progress",
    "Silent",
    "carried_name",
    "frames_of",
    "hash_file",
    "plan_inputs",
    "target_of",
]

HASH_CHUNK_BYTES = 1024 * 1024
SMALL_FILE_BYTES = 256 * 1024
MAX_FRAME_BYTES = 8 * 1024 * 1024


class Progress(Protocol):
    """Told how far an upload or a download is."""

    def on_start(self, total_bytes: int) -> None:
        """It begins; so much is to move."""

    def on_advance(self, moved_bytes: int) -> None:
        """So much more has moved."""

    def on_end(self) -> None:
        """It is over."""


class Silent:
    """Draws nothing."""

    def on_start(self, total_bytes: int) -> None:
        """Nothing."""

    def on_advance(self, moved_bytes: int) -> None:
        """Nothing."""

    def on_end(self) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class PlannedInputs:
    """Arguments as the script will see them, and the files behind them by the names they go under."""

    args: tuple[str, ...]
    files: Mapping[str, Path]


def plan_inputs(args: Sequence[str], cwd: Path, script: Path | None = None) -> PlannedInputs:
    """Take every argument that names an existing file for an input.

    A path that stays inside ``cwd`` keeps its relative name; any other is carried under its base name,
    and the argument says so. The script itself is no input: it is there under its name in any case.

    Raises:
        rgrid.exceptions.ConfigurationError: two different files would be carried under one name.
    """
    files: dict[str, Path] = {}
    rewritten: list[str] = []
    for arg in args:
        path = cwd / arg
        if not arg or not _is_file(path):
            rewritten.append(arg)
            continue
        name = carried_name(arg)
        other = files.get(name)
        if other is not None and not other.samefile(path):
            raise ConfigurationError(
                f"{other} and {path} would both be carried as {name}; copy one to another name"
            )
        if script is None or name != script.name or not path.samefile(script):
            files[name] = path
        rewritten.append(arg if PurePosixPath(os.path.normpath(arg)) == PurePosixPath(name) else name)
    return PlannedInputs(tuple(rewritten), files)


def carried_name(arg: str) -> str:
    """The name under which a file is carried: relative where it stays inside, else its base name."""
    normal = os.path.normpath(arg)
    path = PurePosixPath(normal)
    return path.name if path.is_absolute() or path.parts[0] == ".." else normal


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes.

    Raises:
        rgrid.exceptions.ConfigurationError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def frames_of(paths: Iterable[tuple[str, Path]]) -> Iterable[dict[str, bytes]]:
    """Small files in groups that fit one request."""
    group: dict[str, bytes] = {}
    size = 0
    for sha256, path in paths:
        data = path.read_bytes()
        if size + len(data) > MAX_FRAME_BYTES and group:
            yield group
            group, size = {}, 0
        group[sha256] = data
        size += len(data)
    if group:
        yield group


def target_of(filename: str, output_dir: Path) -> Path:
    """Where an output is written, never outside of ``output_dir``.

    Raises:
        rgrid.exceptions.ResponseInvalid: its name leads out of it.
    """
    parts = PurePosixPath(filename).parts
    if not parts or filename.startswith("/") or any(part in {"..", "."} for part in parts):
        raise ResponseInvalid(f"the server names an output {filename!r}, which leads out of {output_dir}")
    target = output_dir.joinpath(*parts)
    real = Path(os.path.realpath(target.parent))
    if not real.is_relative_to(os.path.realpath(output_dir)):
        raise ResponseInvalid(f"{target} leads out of {output_dir} through a link; remove the link first")
    return target


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        # too long for a file's name, or with a NUL: an argument like any other
        return False
