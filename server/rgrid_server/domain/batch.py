"""A batch as the sum of its executions: its status from counts, and when it will be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rgrid_server.domain.execution import Status
from rgrid_server.domain.money import divide_half_even


@dataclass(frozen=True, slots=True)
class Counts:
    """How many executions stand in each status."""

    queued: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0

    @property
    def total(self) -> int:
        return self.queued + self.running + self.finished

    @property
    def finished(self) -> int:
        return self.completed + self.failed + self.canceled


def batch_status(counts: Counts, *, closed: bool) -> Status:
    """Running until it is closed and all are terminal; then the gravest of its executions' statuses."""
    if not closed or counts.finished < counts.total:
        return Status.QUEUED if counts.total == counts.queued and counts.queued else Status.RUNNING
    if counts.failed:
        return Status.FAILED
    return Status.CANCELED if counts.canceled else Status.COMPLETED


PACE_ENDS = 50
"""The pace of a batch is that of its latest ends, so many of them: waiting for a first slot, or for a server
that was down, is forgotten with those that ended before it."""


@dataclass(frozen=True, slots=True)
class End:
    """When an execution was last begun, None where it never was, and when it ended."""

    started_at_ms: int | None
    ended_at_ms: int


def eta_seconds(counts: Counts, latest: Sequence[End], now_ms: int) -> int | None:
    """Seconds until the rest is done at the pace of the latest ends; None before the first, 0 when all are.

    Executions that run beside each other end so much the faster one after the other, so the pace has the
    parallelism in it; one at which nothing ends any more becomes slower as time goes by.
    """
    left = counts.total - counts.finished
    if left == 0:
        return 0
    if not latest:
        return None
    if len(latest) < PACE_ENDS:
        since_ms = min(end.ended_at_ms if end.started_at_ms is None else end.started_at_ms for end in latest)
        ended = len(latest)
    else:
        # an end begins the time in which all the others came
        since_ms = min(end.ended_at_ms for end in latest)
        ended = len(latest) - 1
    return divide_half_even(left * max(0, now_ms - since_ms), ended * 1000)
