"""A batch as the sum of its executions: its status from counts, and when it will be done."""

from __future__ import annotations

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


def eta_seconds(counts: Counts, *, elapsed_ms: int) -> int | None:
    """Seconds until the rest is done at the pace so far; None before the first result, 0 when all are."""
    left = counts.total - counts.finished
    if left == 0:
        return 0
    if counts.finished == 0:
        return None
    return divide_half_even(left * max(0, elapsed_ms), counts.finished * 1000)
