"""A script's output in the task's log: whole lines, each with its stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from rgrid.models import LogEntry
from rgrid_provider._compat import log_at

LogLine = Callable[..., Any]
TICK = timedelta(milliseconds=1)
"""As fine as Airflow tells log lines apart."""


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


class DatedLines:
    """Writes a script's lines with the times at which they were printed.

    A triggerer that is started again follows a log from its beginning, into a file of its own. Airflow shows
    a line of several files once where text and time are the same, so each line gets a time that a second
    reading gives it as well, and that no other line of this log has: its own, or a millisecond after that of
    the line before.

    Args:
        log: the task's logger.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._printed_at = datetime.min.replace(tzinfo=UTC)
        self._written_at = self._printed_at

    def see(self, entry: LogEntry) -> LogEntry:
        """Take an entry's time for the lines that come of it."""
        if entry.timestamp is not None:
            printed_at = datetime.fromisoformat(entry.timestamp).astimezone(UTC)
            self._printed_at = printed_at.replace(microsecond=printed_at.microsecond // 1000 * 1000)
        return entry

    def write(self, text: str, *values: Any) -> None:
        """Write a line."""
        self._written_at = max(self._printed_at, self._written_at + TICK)
        log_at(self._log, self._written_at, text, *values)


def last_line_value(stdout: str) -> Any:
    """The last line of an output: parsed where it is JSON, else as text; None where there is none."""
    lines = [line for line in stdout.splitlines() if line.strip()]
    if not lines:
        return None
    try:
        return json.loads(lines[-1])
    except ValueError:
        return lines[-1]
