"""What is said while an environment is made, for everyone who waits for it, from its first line on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]
"""Takes a line, without its end."""

MAX_LINES = 2000


def unheard(_line: str) -> None:
    """Nobody listens."""


class BuildLog:
    """The lines of one piece of work."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.listeners: list[Say] = []

    def say(self, line: str) -> None:
        """Tell a line to all who listen now, and keep it for those who come."""
        if len(self.lines) < MAX_LINES:
            self.lines.append(line)
            for listener in self.listeners:
                listener(line)


class BuildLogs:
    """The lines of all that is being made, by what it is, for as long as someone waits for it."""

    def __init__(self) -> None:
        self._logs: dict[str, BuildLog] = {}

    @contextmanager
    def heard(self, what: str, listener: Say) -> Iterator[BuildLog]:
        """Listen over a ``with`` block: first to what was said already."""
        found = self._logs.setdefault(what, BuildLog())
        for line in found.lines:
            listener(line)
        found.listeners.append(listener)
        try:
            yield found
        finally:
            found.listeners.remove(listener)
            if not found.listeners:
                self._logs.pop(what, None)
