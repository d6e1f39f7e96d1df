"""Logs of executions."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rgrid.models.base import Model


@dataclass(frozen=True, slots=True)
class LogEntry(Model):
    """A line of a log, or a part of one; ``data`` is what was printed, byte for byte.

    What the stream ``system`` has was not printed by the script: it is what the grid says, such as while it
    builds an environment.
    """

    sequence_number: int
    stream: Literal["stdout", "stderr", "system"]
    data: bytes
    timestamp: str | None = None

    @property
    def text(self) -> str:
        """What was printed, as text without its newline."""
        return self.data.decode(errors="replace").removesuffix("\n")

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> LogEntry:
        """Read one from an answer's JSON."""
        if "message_base64" in wire:
            data = base64.b64decode(wire["message_base64"])
        else:
            data = wire["message"].encode(errors="surrogateescape")
        if wire.get("newline", True):
            data += b"\n"
        return cls(wire["sequence_number"], wire["stream"], data, wire.get("timestamp"))


@dataclass(frozen=True, slots=True)
class LogPage(Model):
    """Consecutive log entries; ``is_complete`` when there are none and none will come."""

    entries: list[LogEntry]
    next_after: int
    is_complete: bool
