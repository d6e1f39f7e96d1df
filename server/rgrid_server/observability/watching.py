"""The observer that makes metrics, spans and log lines of what the scheduler tells."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from rgrid_server.domain.attempts import Outcome
from rgrid_server.domain.trace import attempt_span_id, parse_trace_parent
from rgrid_server.observability.metrics import Metrics
from rgrid_server.observability.tracing import Tracing
from rgrid_server.scheduler.observer import AttemptBegin, AttemptEnd, Observer

log = logging.getLogger(__name__)

_MS = 1_000_000


class Watching(Observer):
    """Counts, traces and logs."""

    def __init__(self, metrics: Metrics, tracing: Tracing) -> None:
        self._metrics = metrics
        self._tracing = tracing

    def committed(self, operations: int, seconds: float) -> None:
        """A transaction is durable that carried so many operations."""
        self._metrics.commits.add(seconds)
        self._metrics.commit_operations.add(operations)

    def submitted(self, executions: int, seconds: float, trace_parent: str | None) -> None:
        """Counted; in a trace, the span ``commit``."""
        self._metrics.submits.add(seconds)
        self._metrics.submitted.add(executions)
        parent = parse_trace_parent(trace_parent)
        if parent is not None:
            ended_ns = time.time_ns()
            self._tracing.record("commit", parent, ended_ns - int(seconds * 1e9), ended_ns)

    def claimed(self, begun: Sequence[AttemptBegin], seconds: float) -> None:
        """Counted; in a trace, the span ``queued``."""
        if not begun:
            return
        self._metrics.claims.add(seconds)
        self._metrics.claimed.inc(len(begun))
        for item in begun:
            self._metrics.queue_waits.add(max(0, item.claimed_at_ms - item.ready_at_ms) / 1000)
            parent = parse_trace_parent(item.trace_parent)
            if parent is not None:
                self._tracing.record(
                    "queued",
                    parent,
                    item.ready_at_ms * _MS,
                    item.claimed_at_ms * _MS,
                    attributes={"rgrid.execution_id": item.execution_id, "rgrid.attempt": item.attempt},
                )

    def ended(self, ends: Sequence[AttemptEnd]) -> None:
        """Counted; in a trace, the span ``attempt``."""
        for end in ends:
            self._end(end)
            report = end.report
            if report is None:
                continue
            self._metrics.scripts.add(report.duration_ms / 1000)
            self._metrics.inputs.inc(max(0, report.bytes_in))
            self._metrics.outputs.inc(max(0, report.bytes_out))
            was_built = report.metadata.get("environment_built")
            if isinstance(was_built, bool):
                self._metrics.environments.labels("built" if was_built else "warm").inc()

    def lost(self, ends: Sequence[AttemptEnd], why: str) -> None:
        """Counted and logged; in a trace, the span ``attempt``."""
        for end in ends:
            self._end(end)
            self._metrics.lost.labels(why).inc()
            log.warning(
                "an attempt's runner was lost (%s); it is %s",
                why,
                "tried again" if end.is_retried else "given up",
                extra={
                    "execution_id": end.execution_id,
                    "attempt": end.attempt,
                    "tenant_id": end.tenant_id,
                    "runner_id": end.runner_id,
                },
            )

    def reported(self, verdicts: Sequence[str]) -> None:
        """Counted."""
        for verdict in verdicts:
            self._metrics.reports.labels(verdict).inc()

    def blobs_asked(self, asked: int, missing: int) -> None:
        """Counted."""
        self._metrics.blobs.labels("missing").inc(missing)
        self._metrics.blobs.labels("present").inc(asked - missing)

    def served_from_cache(self, executions: int) -> None:
        """Count."""
        self._metrics.result_cache.inc(executions)

    def input_cache_asked(self, *, is_hit: bool) -> None:
        """Counted."""
        self._metrics.input_cache.labels("hit" if is_hit else "miss").inc()

    def received_bytes(self, count: int) -> None:
        """Counted."""
        self._metrics.received.inc(count)

    def attempt_trace(self, execution_id: str, attempt: int, trace_parent: str | None) -> str | None:
        """The attempt's own span, which is written when it ends; the submission's where none is written."""
        parent = parse_trace_parent(trace_parent)
        if parent is None or not self._tracing.is_on:
            return trace_parent
        return str(parent.child(attempt_span_id(execution_id, attempt)))

    def _end(self, end: AttemptEnd) -> None:
        self._metrics.ended.labels(end.outcome.value).inc()
        self._metrics.charges.inc(end.charge_nanos)
        if end.is_retried:
            self._metrics.retries.labels(
                "grid_fault" if end.outcome is Outcome.GRID_FAULT else "script"
            ).inc()
        parent = parse_trace_parent(end.trace_parent)
        if parent is None:
            return
        self._tracing.record(
            "attempt",
            parent,
            end.claimed_at_ms * _MS,
            end.ended_at_ms * _MS,
            span_id=attempt_span_id(end.execution_id, end.attempt),
            attributes={
                "rgrid.execution_id": end.execution_id,
                "rgrid.attempt": end.attempt,
                "rgrid.tenant_id": end.tenant_id,
                "rgrid.runner_id": end.runner_id,
                "rgrid.outcome": end.outcome.value,
                "rgrid.charge_nanos": end.charge_nanos,
            },
            is_error=end.outcome is not Outcome.EXITED,
        )
