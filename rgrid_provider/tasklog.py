"""A script's output in the task's log: whole lines, each with its stream."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from rgrid.client import Client
from rgrid.models import Execution, LogEntry
from rgrid_provider._compat import log_at

LogLine = Callable[..., Any]
MAX_LINE_BYTES = 1024 * 1024
"""A longer last line is no result."""
_CUT = b"not kept]"
TICK = timedelta(milliseconds=1)
"""As fine as Airflow tells log lines apart."""

log = logging.getLogger(__name__)


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


def printed_result(client: Client, execution: Execution) -> Any:
    """What an execution returns by printing it last; from its log where its stdout is longer than it shows.

    None, with a word in the task's log, where the last line is longer than :data:`MAX_LINE_BYTES` or was not
    kept.
    """
    if not execution.output_truncated:
        return last_line_value(execution.stdout)
    line, held, is_cut = b"", b"", False
    for entry in client.logs(execution.execution_id):
        is_cut = entry.stream == "stderr" and entry.data.startswith(b"[rgrid: ") and _CUT in entry.data
        if entry.stream == "stdout":
            # no more than says that it is too long
            held = (held + entry.data)[: MAX_LINE_BYTES + 1]
            if held.strip():
                line = held
            if entry.data.endswith(b"\n"):
                held = b""
    if is_cut or len(line) > MAX_LINE_BYTES:
        why = "was not kept" if is_cut else f"is longer than {MAX_LINE_BYTES} bytes"
        log.warning(
            "the last line that %s printed %s, so it is no result; let the script write it to a file",
            execution.execution_id,
            why,
        )
        return None
    return last_line_value(line.decode(errors="replace"))
