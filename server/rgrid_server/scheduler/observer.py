"""What the scheduler tells of its work to whoever watches; it neither knows nor waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rgrid_server.domain.attempts import Outcome, Report
from rgrid_server.domain.execution import Status
from rgrid_server.store.database import Row
from rgrid_server.store.executions import Transition


@dataclass(frozen=True, slots=True)
class AttemptBegin:
    """An attempt that a runner has claimed; ``ready_at_ms`` is since when it could have been."""

    execution_id: str
    attempt: int
    tenant_id: str
    ready_at_ms: int
    claimed_at_ms: int
    trace_parent: str | None


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """An attempt that has ended; ``report`` is None where its runner was lost."""

    execution_id: str
    attempt: int
    tenant_id: str
    runner_id: str
    outcome: Outcome
    claimed_at_ms: int
    ended_at_ms: int
    is_retried: bool
    charge_nanos: int
    report: Report | None
    trace_parent: str | None


class Observer:
    """Is told what has happened, after it was committed; this one listens to nothing."""

    def submitted(self, executions: int, seconds: float, trace_parent: str | None) -> None:
        """Executions were stored, which took so long, the wait for the disk included."""

    def claimed(self, begun: Sequence[AttemptBegin], seconds: float) -> None:
        """A runner was given attempts, which took so long from the moment that there was work for it."""

    def served_from_cache(self, executions: int) -> None:
        """So many executions were answered with earlier results."""

    def ended(self, ends: Sequence[AttemptEnd]) -> None:
        """Attempts have ended by their reports."""

    def lost(self, ends: Sequence[AttemptEnd], why: str) -> None:
        """Attempts were taken back: ``lease_expired``, or ``runner_restarted``."""

    def reported(self, verdicts: Sequence[str]) -> None:
        """Reports were answered so."""

    def blobs_asked(self, asked: int, missing: int) -> None:
        """Someone asked which of some blobs are missing."""

    def input_cache_asked(self, *, is_hit: bool) -> None:
        """Someone looked for inputs by their hash."""

    def received_bytes(self, count: int) -> None:
        """Bytes of blobs have arrived."""

    def attempt_trace(self, execution_id: str, attempt: int, trace_parent: str | None) -> str | None:
        """What an attempt is to continue, given what its submission said."""
        return trace_parent


def attempt_begin(done: Transition, now_ms: int, trace_parent: str | None) -> AttemptBegin:
    """What the observer is told of an attempt that a claim has made."""
    return AttemptBegin(
        execution_id=done.execution_id,
        attempt=done.after.attempt,
        tenant_id=done.tenant_id,
        ready_at_ms=done.before.ready_at_ms or now_ms,
        claimed_at_ms=now_ms,
        trace_parent=trace_parent,
    )


def attempt_end(
    execution: Row,
    attempt: Row,
    done: Transition,
    outcome: Outcome,
    now_ms: int,
    *,
    nanos: int = 0,
    report: Report | None = None,
) -> AttemptEnd:
    """What the observer is told of an attempt's end."""
    return AttemptEnd(
        execution_id=done.execution_id,
        attempt=attempt["attempt"],
        tenant_id=done.tenant_id,
        runner_id=attempt["runner_id"],
        outcome=outcome,
        claimed_at_ms=attempt["claimed_at_ms"],
        ended_at_ms=now_ms,
        is_retried=done.after.status is Status.QUEUED,
        charge_nanos=nanos,
        report=report,
        trace_parent=execution["trace_parent"],
    )
