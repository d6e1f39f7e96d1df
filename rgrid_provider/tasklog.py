"""A script's output in the task's log: whole lines, each with its stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rgrid.models import LogEntry

LogLine = Callable[..., Any]


class TaskLog:
    """Joins the parts of unfinished lines, and writes each line once."""

    def __init__(self, write: LogLine) -> None:
        self._write = write
        self._held: dict[str, bytes] = {}

    def add(self, entry: LogEntry) -> None:
        """Write a line, or hold a part until the rest has come."""
        data = self._held.pop(entry.stream, b"") + entry.data
        if data.endswith(b"\n"):
            self._write("[%s] %s", entry.stream, data[:-1].decode(errors="replace"))
        else:
            self._held[entry.stream] = data

    def end(self) -> None:
        """Write what was never finished."""
        for stream, data in self._held.items():
            self._write("[%s] %s", stream, data.decode(errors="replace"))
        self._held.clear()


def last_line_value(stdout: str) -> Any:
    """The last line of an output: parsed where it is JSON, else as text; None where there is none."""
    lines = [line for line in stdout.splitlines() if line.strip()]
    if not lines:
        return None
    try:
        return json.loads(lines[-1])
    except ValueError:
        return lines[-1]
