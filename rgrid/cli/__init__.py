"""The command line: what answers at once, and the way to everything else.

click takes as long to import as Python takes to start. So what is asked without any work to do, the version
and the help of a command, is answered before it: from the texts in ``help/``, which scripts/reference.py has
click write.
"""

from __future__ import annotations

import gc
import os
import sys

from rgrid._typing import TYPE_CHECKING
from rgrid._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

BROKEN_PIPE = 141

MAX_HELP_COLUMNS = 100
WRITTEN_COLUMNS = (78, MAX_HELP_COLUMNS - 2)
"""How wide the texts in ``help/`` are: for a terminal of 80 columns or none, and for a wide one."""
HELP_OPTIONS = ["-h", "--help"]
VERSION = f"rgrid {__version__}"
TOP_LEVEL = "top-level"
"""What the text of ``rgrid --help`` is called; no command is."""


def help_columns() -> int:
    """How wide help is: as click would have it, which loads shutil and every kind of compression to ask."""
    try:
        columns = int(os.environ.get("COLUMNS") or os.get_terminal_size(sys.stdout.fileno()).columns)
    except (AttributeError, ValueError, OSError):
        columns = 80
    return max(min(columns or 80, MAX_HELP_COLUMNS) - 2, 50)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; exits with the code that docs/reference/cli.md names."""
    if argv is not None:
        sys.exit(_run(argv))
    # what a command loads is kept until it ends; looking for garbage in it takes 3 ms
    gc.disable()
    _replace_closed_streams()
    code = _run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = BROKEN_PIPE
        except OSError:
            # it was said where it happened, if anywhere it could be
            code = code or 1
    # everything is written and closed; taking the interpreter apart would take another 8 ms
    os._exit(code)


def _replace_closed_streams() -> None:
    """Have a stream that was closed before we began (``>&-``) take everything and keep nothing.

    Its descriptor is taken too: else the next socket or file would get it, and what is printed with it.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


def _run(argv: Sequence[str]) -> int:
    text = _known_answer(argv)
    if text is None:
        from rgrid.cli import quick

        code = quick.run(argv)
        if code is None:
            from rgrid.cli import commands

            code = commands.run(argv)
        return code
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        return BROKEN_PIPE
    return 0


def _known_answer(argv: Sequence[str]) -> str | None:
    """What is printed without any work: the version, or the help of a command; None for all else."""
    if "_RGRID_COMPLETE" in os.environ or not 1 <= len(argv) <= 2:
        return None
    if list(argv) == ["--version"]:
        return f"{VERSION}\n"
    command = argv[0] if len(argv) > 1 else None
    columns = help_columns()
    if argv[-1] not in HELP_OPTIONS or columns not in WRITTEN_COLUMNS:
        return None
    if command is not None and not command.isalpha():
        return None
    try:
        path = os.path.join(os.path.dirname(__file__), "help", f"{command or TOP_LEVEL}.{columns}.txt")  # noqa: PTH118, PTH120 - pathlib takes 5 ms
        with open(path, encoding="utf-8") as text:  # noqa: PTH123
            return text.read()
    except OSError:
        return None
