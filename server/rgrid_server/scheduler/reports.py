"""What runners send of their attempts: log chunks while they run, and the report that ends them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlalchemy.engine import Connection

from rgrid_server.billing.pricebook import PriceBook
from rgrid_server.blobs.base import Received
from rgrid_server.clock import now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.attempts import LogChunk, Outcome, Report
from rgrid_server.domain.choosing import Chooser
from rgrid_server.domain.execution import Refused, RefusedReason, Status
from rgrid_server.domain.fairshare import Flow
from rgrid_server.domain.filenames import why_not_a_name
from rgrid_server.domain.signing import Signer
from rgrid_server.scheduler.caching import ResultCache
from rgrid_server.scheduler.endings import Left, end_attempt, ending_of
from rgrid_server.scheduler.observer import AttemptEnd, Observer, attempt_end
from rgrid_server.scheduler.transitions import topics_of
from rgrid_server.scheduler.uploads import add_received
from rgrid_server.scheduler.wakeups import Wakeups, log_topic, room_topic
from rgrid_server.store import blobs as blob_rows
from rgrid_server.store import executions as store
from rgrid_server.store import logs
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
        book: PriceBook,
        engine: str,
        chooser: Chooser,
        observer: Observer | None = None,
        cache: ResultCache | None = None,
    ) -> None:
        self._cache = cache
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
        ending = ending_of(report)
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
        left = Left(artifacts, sizes)
        if self._cache is not None and report.outcome is Outcome.EXITED:
            why = self._cache.explain(connection, execution)
            report = replace(report, metadata={**report.metadata, **why}) if why else report
        ended = end_attempt(connection, self._book, self._engine, execution, report, left, host_of, now)
        if self._cache is not None:
            self._cache.keep(connection, execution, ended, left, now)
        done, attempt, nanos = ended.done, ended.attempt, ended.nanos
        if rules.is_charged(report.outcome):
            durations.append((Flow(tenant_id, execution["batch_id"] or ""), ending.duration_ms))
        topics.extend([*topics_of(done), log_topic(report.execution_id), room_topic(attempt["runner_id"])])
        ends.append(attempt_end(execution, attempt, done, report.outcome, now, nanos=nanos, report=report))
        return Verdict.ACCEPTED
