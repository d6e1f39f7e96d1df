"""What operators are given, as the client wants it: scripts, requirements and input files."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rgrid.exceptions import ConfigurationError
from rgrid.files import PlannedInputs, carried_name, plan_inputs
from rgrid.submissions import read_requirements, read_script


def script_source(script: str) -> tuple[str, str]:
    """A script's source and name: inline where it has several lines or is no path of a ``.py`` file.

    Raises:
        rgrid.exceptions.ConfigurationError: the file is not there, or is no script.
    """
    if "\n" not in script and script.strip().endswith(".py"):
        path = Path(script.strip())
        return read_script(path), path.name
    return script, "script.py"


def requirements_text(requirements: str | Sequence[str] | None) -> str | None:
    """Requirements as a file's text: from a list, a text, or the path of a file.

    Raises:
        rgrid.exceptions.ConfigurationError: the file cannot be read.
    """
    if requirements is None:
        return None
    if not isinstance(requirements, str):
        return "\n".join(requirements)
    if "\n" not in requirements and requirements.strip().endswith(".txt"):
        return read_requirements(Path(requirements.strip()))
    return requirements


def named_files(input_files: Mapping[str, str] | Iterable[str] | None) -> dict[str, Path]:
    """Input files by the names that the script sees: paths as they are, or a mapping of names to paths.

    Raises:
        rgrid.exceptions.ConfigurationError: a file is not there, or two have one name.
    """
    if input_files is None:
        return {}
    if isinstance(input_files, Mapping):
        named = {name: Path(path) for name, path in input_files.items()}
    else:
        named = {}
        for path in input_files:
            name = carried_name(str(path))
            if name in named and named[name] != Path(path):
                raise ConfigurationError(
                    f"{named[name]} and {path} would both be carried as {name}; name them"
                )
            named[name] = Path(path)
    for name, path in named.items():
        if not path.is_file():
            raise ConfigurationError(f"the input file {path} (as {name}) is not there on this worker")
    return named


def batch_items(inputs: str | Sequence[Any], args: Sequence[str]) -> list[tuple[str, PlannedInputs]]:
    """A batch's items: what each is called, its arguments, and its files.

    Args:
        inputs: a glob, or a list of paths, of single arguments, or of lists of arguments.
        args: what follows an item's own arguments.

    Raises:
        rgrid.exceptions.ConfigurationError: there is none.
    """
    if isinstance(inputs, str):
        each: list[list[str]] = [[path] for path in sorted(glob.glob(inputs, recursive=True))]  # noqa: PTH207
    else:
        each = [
            [str(part) for part in item] if isinstance(item, list | tuple) else [str(item)] for item in inputs
        ]
    if not each:
        raise ConfigurationError(f"there is nothing to run over: {inputs!r} matches no input")
    return [
        (Path(own[0]).name if own else f"item {index}", plan_inputs([*own, *args], Path()))
        for index, own in enumerate(each)
    ]
