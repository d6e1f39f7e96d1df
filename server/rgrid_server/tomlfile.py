"""Files of an operator's: presets and prices, in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class FileInvalid(Exception):
    """A file cannot be read, or is not TOML; the message names it and says why."""


def read_file(path: Path, what: str, read: Callable[[dict[str, object]], T]) -> T:
    """What a function makes of a file's tables.

    Args:
        path: the file.
        what: what messages call its contents, such as ``presets``.
        read: is given the tables; what it raises is raised.

    Raises:
        FileInvalid: the file cannot be read, or is not TOML.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise FileInvalid(f"the {what} {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileInvalid(f"the {what} {path} are not TOML: {error}") from None
    return read(tables)
