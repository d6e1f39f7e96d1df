"""The imports that a holder makes before its scripts, as a script's first lines would make them.

One that does more than to load modules is left to the scripts themselves: it is *unfit*.
"""

from __future__ import annotations

import os
import sys

from .ending import has_threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Unfit(Exception):
    """An import is not to be made here.

    Args:
        index: which of the statements.
        reason: why, as the runner is told.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"{index} {reason}")


def make_imports(statements: list[tuple[str, tuple[str, ...]]]) -> set[str]:
    """Make imports; returns which environment variables they asked for, ``*`` for any.

    Where there are any, both standard streams lead nowhere afterwards.

    Args:
        statements: modules, each with the names that are imported from it.

    Raises:
        Unfit: one of them is not to be made here.
    """
    if not statements:
        return set()
    asked = _Asked(os.environ)
    printed = _printed_file()
    descriptors = _descriptors()
    for index, (name, names) in enumerate(statements):
        try:
            scope = {"__name__": "__main__", "__builtins__": __builtins__}
            os.environ.__class__ = asked.watching
            try:
                __import__(name, scope, scope, names, 0)
            finally:
                os.environ.__class__ = asked.plain
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException as error:
            raise Unfit(index, f"it failed with {type(error).__name__}") from None
        if os.lseek(printed, 0, os.SEEK_END):
            raise Unfit(index, "it printed or warned")
        if _descriptors() - descriptors:
            raise Unfit(index, "it left a descriptor open")
        # forking once shows which threads see to forks themselves, as those of OpenBLAS do
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        if has_threads():
            raise Unfit(index, "it started a thread")
    os.close(printed)
    return asked.names


class _Asked:
    """Watches which environment variables an import asks for: it may do other things where they are set."""

    def __init__(self, plain: Any) -> None:
        self.names: set[str] = set()
        self.plain = type(plain)
        names = self.names

        class Watching(self.plain):  # type: ignore[misc, name-defined]
            def __getitem__(self, key: Any) -> Any:
                names.add(key if isinstance(key, str) else "*")
                return super().__getitem__(key)

            def __contains__(self, key: Any) -> bool:
                names.add(key if isinstance(key, str) else "*")
                return bool(super().__contains__(key))

            def __iter__(self) -> Any:
                names.add("*")
                return super().__iter__()

        self.watching = Watching


def _printed_file() -> int:
    """Both standard streams into one file without a name; returns a descriptor of it."""
    printed = (
        os.memfd_create("printed") if hasattr(os, "memfd_create") else os.open("/", os.O_TMPFILE | os.O_RDWR)
    )
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    return printed


def _descriptors() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)}
