"""Transitions of executions, as the feed tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rgrid.models.base import TERMINAL, Model


@dataclass(frozen=True, slots=True)
class Event(Model):
    """One change of an execution's status; ``sequence`` is the position to resume from.

    ``user_metadata`` is None where it is longer than the feed carries.
    """

    sequence: int
    execution_id: str
    status: str
    attempt: int = 0
    at: str | None = None
    batch_id: str | None = None
    batch_index: int | None = None
    user_metadata: dict[str, Any] | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the execution has ended with it."""
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class EventPage(Model):
    """Consecutive events, and the position to ask from next."""

    events: list[Event]
    next_after: int

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> EventPage:
        """Read one from an answer's JSON and its cursor."""
        return cls([Event.from_wire(item) for item in wire["events"]], int(wire["next_after"]))
