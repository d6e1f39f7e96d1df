"""The server's core without its HTTP edge, on a database of a test's own: submit, claim, report."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rgrid_server.billing.pricebook import PriceBook
from rgrid_server.clock import now_ms
from rgrid_server.domain.attempts import Assignment, LogChunk, LogEntry, Outcome, Report
from rgrid_server.domain.choosing import Chooser
from rgrid_server.domain.prices import DEFAULT_PRICES
from rgrid_server.domain.retention import RetentionTimes
from rgrid_server.domain.signing import Signer
from rgrid_server.domain.submission import Limits, Submission
from rgrid_server.scheduler.batches import Batches, BatchItem, BatchSubmission
from rgrid_server.scheduler.claims import AttemptLimits, Claimed, Claims
from rgrid_server.scheduler.executions import Executions
from rgrid_server.scheduler.leases import Leases
from rgrid_server.scheduler.logs import Logs
from rgrid_server.scheduler.offers import ClaimRequest
from rgrid_server.scheduler.reports import Reports, SentChunk, Verdict
from rgrid_server.scheduler.wakeups import Wakeups
from rgrid_server.store import spend
from rgrid_server.store.database import Database, Row
from rgrid_server.store.schema import upgrade_schema
from rgrid_server.store.sqlite import SqliteDatabase, sqlite_engine
from rgrid_server.tenancy import Tenancy

RUNTIME = "python:3.11"


async def _is_here() -> bool:
    return False


@dataclass
class Core:
    """Everything between the HTTP edge and the database; two on one database are two API processes."""

    database: Database
    wakeups: Wakeups = field(default_factory=Wakeups)

    def __post_init__(self) -> None:
        limits, signer, chooser = Limits(), Signer("secret"), Chooser()
        book = PriceBook()
        self.tenancy = Tenancy(self.database)
        self.executions = Executions(self.database, self.wakeups, limits)
        self.batches = Batches(self.database, self.wakeups, limits)
        self.logs = Logs(self.database, self.wakeups, RetentionTimes())
        self.leases = Leases(
            self.database, self.wakeups, Claims(signer, AttemptLimits(), chooser), book, "local"
        )
        self.reports = Reports(self.database, self.wakeups, signer, book, "local", chooser)

    async def tenant(self, name: str = "tenant") -> str:
        """Make a tenant."""
        return await self.tenancy.add_tenant(name)

    async def submit(self, tenant_id: str, **changes: Any) -> str:
        """Submit an execution; returns its id."""
        submission = Submission("pass", RUNTIME, **changes)
        return str((await self.executions.submit(tenant_id, submission)).row["execution_id"])

    async def submit_batch(
        self, tenant_id: str, count: int, parallelism: int | None = None, **changes: Any
    ) -> str:
        """Submit a batch; returns its id."""
        template = Submission("pass", RUNTIME, **changes)
        items = [BatchItem.of(template) for _ in range(count)]
        stored = await self.batches.submit(tenant_id, BatchSubmission(template, items, parallelism))
        return str(stored.row["batch_id"])

    async def get(self, tenant_id: str, execution_id: str) -> Row:
        """An execution's row."""
        return await self.executions.get(tenant_id, execution_id)

    async def register(
        self, runner_id: str = "r1", incarnation: str = "1", slots: int = 4, memory_mib: int | None = None
    ) -> None:
        """Register a runner."""
        await self.leases.register(
            {
                "runner_id": runner_id,
                "incarnation": incarnation,
                "hostname": f"host-of-{runner_id}",
                "slots": slots,
                "memory_mib": memory_mib,
                "runtimes": [{"name": RUNTIME, "version": "3.11.7"}],
                "sandbox": "bubblewrap",
                "version": "0",
            }
        )

    async def claim(
        self,
        slots: int = 1,
        runner_id: str = "r1",
        incarnation: str = "1",
        *,
        cpus_milli: int | None = None,
        memory_mib: int | None = None,
        wait_ms: int = 0,
    ) -> Claimed:
        """Ask for work."""
        free_cpus_milli = slots * 1000 if cpus_milli is None else cpus_milli
        request = ClaimRequest(runner_id, free_cpus_milli, slots, wait_ms, memory_mib, incarnation)
        return await self.leases.claim(request, _is_here)

    async def report(
        self,
        assignment: Assignment,
        outcome: Outcome = Outcome.EXITED,
        exit_code: int | None = 0,
        *,
        duration_ms: int = 1000,
        log: LogChunk | None = None,
    ) -> Verdict:
        """End an attempt."""
        report = Report(
            execution_id=assignment.execution_id,
            attempt=assignment.attempt,
            token=assignment.token,
            outcome=outcome,
            exit_code=exit_code,
            duration_ms=duration_ms,
            log=log,
        )
        return (await self.reports.end_attempts([report], {}, {}))[0]

    async def send_log(
        self, assignment: Assignment, texts: Sequence[str], first_sequence: int, at_ms: int | None = None
    ) -> Verdict:
        """Send a chunk of an attempt's log."""
        chunk = LogChunk(
            first_sequence, [LogEntry(1, now_ms() if at_ms is None else at_ms, text, 1) for text in texts]
        )
        sent = SentChunk(assignment.execution_id, assignment.attempt, assignment.token, chunk)
        return (await self.reports.append_logs([sent]))[0]


@asynccontextmanager
async def sqlite_core(path: Path) -> AsyncIterator[Core]:
    """A core on a fresh SQLite file."""
    with sqlite_engine(path).connect() as connection:
        upgrade_schema(connection, str(path))
    database = SqliteDatabase(path)
    try:
        await database.write(lambda c: spend.insert_prices(c, DEFAULT_PRICES))
        yield Core(database)
    finally:
        await database.close()
