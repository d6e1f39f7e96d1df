"""What runners send of their attempts: log chunks while they run, and the report that ends them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy.engine import Connection

from rgrid_server.billing.charging import EndedAttempt, charge_attempt
from rgrid_server.blobs.base import Received
from rgrid_server.clock import new_id, now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.attempts import LogChunk, Report
from rgrid_server.domain.choosing import Chooser
from rgrid_server.domain.execution import Ending, Refused, RefusedReason, Status
from rgrid_server.domain.fairshare import Flow
from rgrid_server.domain.filenames import why_not_a_name
from rgrid_server.domain.prices import Price
from rgrid_server.domain.signing import Signer
from rgrid_server.domain.text import without_nul
from rgrid_server.scheduler.observer import AttemptEnd, Observer, attempt_end
from rgrid_server.scheduler.transitions import apply_event, topics_of
from rgrid_server.scheduler.uploads import add_received
from rgrid_server.scheduler.wakeups import Wakeups, log_topic, room_topic
from rgrid_server.store import blobs as blob_rows
from rgrid_server.store import executions as store
from rgrid_server.store import logs, queue
from rgrid_server.store.database import Database


class Verdict(StrEnum):
    """What became of a chunk or a report."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    STALE = "stale"
    BLOBS_MISSING = "blobs_missing"


@dataclass(frozen=True, slots=True)
class SentChunk:
    """A log chunk under its attempt's token."""

    execution_id: str
    attempt: int
    token: str
    chunk: LogChunk


class Reports:
    """Takes in what attempts leave, once, under their numbers."""

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        signer: Signer,
        book: Sequence[Price],
        engine: str,
        chooser: Chooser,
        observer: Observer | None = None,
    ) -> None:
        self._observer = observer or Observer()
        self._database = database
        self._wakeups = wakeups
        self._signer = signer
        self._book = book
        self._engine = engine
        self._chooser = chooser

    async def append_logs(self, sent: Sequence[SentChunk]) -> list[Verdict]:
        """Keep log chunks; one whose beginning is stored already is a duplicate."""

        def append(connection: Connection) -> list[Verdict]:
            store.lock_executions(connection, [item.execution_id for item in sent])
            return [self._append(connection, item) for item in sent]

        verdicts = await self._database.write(append, takes_in=True)
        self._wakeups.wake(
            log_topic(item.execution_id)
            for item, verdict in zip(sent, verdicts, strict=True)
            if verdict is Verdict.ACCEPTED
        )
        return verdicts

    async def end_attempts(
        self, reports: Sequence[Report], received: Mapping[str, Received], host_of: Mapping[str, str]
    ) -> list[Verdict]:
        """End attempts with all that they left, each in full or not at all.

        Args:
            reports: one for each attempt.
            received: small blobs that came with them, by hash.
            host_of: the host names of runners, for showing where an execution ran.
        """
        topics: list[str] = []
        durations: list[tuple[Flow, int]] = []
        ends: list[AttemptEnd] = []

        def end(connection: Connection) -> list[Verdict]:
            topics.clear()
            durations.clear()
            ends.clear()
            store.lock_executions(connection, [report.execution_id for report in reports])
            return [
                self._end(connection, report, received, host_of, topics, durations, ends)
                for report in reports
            ]

        verdicts = await self._database.write(end)
        for flow, duration_ms in durations:
            self._chooser.learn(flow, duration_ms)
        self._wakeups.wake(topics)
        self._observer.ended(ends)
        self._observer.reported([verdict.value for verdict in verdicts])
        return verdicts

    def _append(self, connection: Connection, sent: SentChunk) -> Verdict:
        if not self._signer.is_attempt_token(sent.token, sent.execution_id, sent.attempt):
            return Verdict.STALE
        row = store.get_execution(connection, None, sent.execution_id)
        if row is None or row["attempt"] != sent.attempt or row["status"] != Status.RUNNING.value:
            return Verdict.STALE
        if not sent.chunk.entries:
            return Verdict.DUPLICATE
        chunk = sent.chunk.within(row["started_at_ms"], now_ms())
        fresh = logs.append_chunk(connection, sent.execution_id, sent.attempt, chunk)
        return Verdict.ACCEPTED if fresh else Verdict.DUPLICATE

    def _end(
        self,
        connection: Connection,
        report: Report,
        received: Mapping[str, Received],
        host_of: Mapping[str, str],
        topics: list[str],
        durations: list[tuple[Flow, int]],
        ends: list[AttemptEnd],
    ) -> Verdict:
        if not self._signer.is_attempt_token(report.token, report.execution_id, report.attempt):
            return Verdict.STALE
        execution = store.get_execution(connection, None, report.execution_id)
        if execution is None:
            return Verdict.STALE
        tenant_id = execution["tenant_id"]
        now = now_ms()
        ending = Ending(
            outcome=report.outcome,
            exit_code=report.exit_code,
            duration_ms=max(0, report.duration_ms),
            error_code=report.error_code,
            error_message=without_nul(report.error_message) if report.error_message else None,
        )
        try:
            # asked before anything is written, so that a refused report leaves nothing
            rules.end(store.get_state(execution), report.attempt, ending, now)
        except Refused as refused:
            return Verdict.DUPLICATE if refused.reason is RefusedReason.DUPLICATE else Verdict.STALE
        artifacts = [item for item in report.artifacts if why_not_a_name(item.name) is None]
        hashes = sorted({item.sha256 for item in artifacts})
        add_received(connection, tenant_id, [received[sha256] for sha256 in hashes if sha256 in received])
        sizes = blob_rows.lock_owned_sizes(connection, tenant_id, hashes)
        if len(sizes) < len(hashes):
            return Verdict.BLOBS_MISSING
        if report.log is not None and report.log.entries:
            chunk = report.log.within(execution["started_at_ms"], now)
            logs.append_chunk(connection, report.execution_id, report.attempt, chunk)
        done = apply_event(
            connection, report.execution_id, lambda state: rules.end(state, report.attempt, ending, now), now
        )
        attempt = queue.close_attempt(
            connection, report.execution_id, report.attempt, report.outcome.value, now
        )
        if done is None or attempt is None:
            raise RuntimeError(f"attempt {report.attempt} of {report.execution_id} has no open lease")
        nanos = charge_attempt(
            connection,
            self._book,
            self._engine,
            EndedAttempt(execution, attempt, report.outcome, done.after, now, report),
        )
        store.set_result(
            connection,
            report.execution_id,
            {
                "stdout": report.stdout.encode(errors="replace"),
                "stderr": report.stderr.encode(errors="replace"),
                "output_truncated": report.output_truncated,
                "last_sequence": report.last_sequence,
                "worker_hostname": host_of.get(attempt["runner_id"]),
                "execution_metadata": {
                    **report.metadata,
                    "cpu_ms": report.cpu_ms,
                    "peak_memory_mib": report.peak_memory_mib,
                    "bytes_in": report.bytes_in,
                    "bytes_out": report.bytes_out,
                },
                "charge_nanos": execution["charge_nanos"] + nanos,
            },
        )
        if done.after.status.is_terminal:
            blob_rows.insert_artifacts(
                connection,
                [
                    {
                        "artifact_id": new_id("art"),
                        "execution_id": report.execution_id,
                        "tenant_id": tenant_id,
                        "artifact_type": "output",
                        "filename": item.name,
                        "sha256": item.sha256,
                        "size_bytes": sizes[item.sha256],
                        "content_type": item.content_type,
                        "mode": item.mode & 0o777,
                        "created_at_ms": now,
                    }
                    for item in artifacts
                ],
            )
        if execution["batch_id"] is not None and nanos:
            store.charge_batch(connection, tenant_id, execution["batch_id"], nanos)
        if rules.is_charged(report.outcome):
            durations.append((Flow(tenant_id, execution["batch_id"] or ""), ending.duration_ms))
        topics.extend([*topics_of(done), log_topic(report.execution_id), room_topic(attempt["runner_id"])])
        ends.append(attempt_end(execution, attempt, done, report.outcome, now, nanos=nanos, report=report))
        return Verdict.ACCEPTED
