"""What the contract of databases is tested with: a store under test, and what stands on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from rgrid_server.billing.pricebook import PriceBook
from rgrid_server.clock import new_id, now_ms
from rgrid_server.domain.attempts import AttemptId, LogChunk, LogEntry, Outcome, Report
from rgrid_server.domain.choosing import Chooser
from rgrid_server.domain.prices import DEFAULT_PRICES
from rgrid_server.domain.signing import Signer
from rgrid_server.domain.submission import Limits, Submission
from rgrid_server.scheduler.batches import Batches
from rgrid_server.scheduler.claims import AttemptLimits, Claimed, Claims
from rgrid_server.scheduler.executions import Executions
from rgrid_server.scheduler.leases import Leases
from rgrid_server.scheduler.offers import ClaimRequest
from rgrid_server.scheduler.reports import Reports
from rgrid_server.scheduler.uploads import Received, Uploads, add_received
from rgrid_server.scheduler.wakeups import Wakeups
from rgrid_server.store import spend, tenants
from rgrid_server.store.database import Database
from rgrid_server.store.tables import executions
from rgrid_server.tenancy import Tenancy

T = TypeVar("T")

SIGNER = Signer("of the tests")


class Process:
    """What one server's process has on a database: its services, and a runner that claims through it."""

    def __init__(self, database: Database) -> None:
        wakeups = Wakeups()
        limits, chooser = Limits(), Chooser()
        self.database = database
        self.runner_id = new_id("runner")
        self.tenancy = Tenancy(database)
        self.executions = Executions(database, wakeups, limits)
        self.batches = Batches(database, wakeups, limits)
        self.book_seconds = 0.0
        book = PriceBook(lambda: self.book_seconds)
        self.leases = Leases(database, wakeups, Claims(SIGNER, AttemptLimits(), chooser), book, "local")
        self.reports = Reports(database, wakeups, SIGNER, book, "local", chooser)
        self.uploads = Uploads(database, _no_blobs(), wakeups, limits.max_blob_bytes)

    async def register(self, incarnation: str = "") -> None:
        """Make its runner known, and what its work costs, as a server does at its start."""
        await self.database.write(lambda c: spend.insert_prices(c, DEFAULT_PRICES))
        await self.leases.register(
            {
                "runner_id": self.runner_id,
                "incarnation": incarnation,
                "hostname": "a.host",
                "slots": 4,
                "runtimes": [{"name": "python:3.11", "version": "3.11.9"}],
                "sandbox": "bubblewrap",
                "version": "0",
            }
        )

    async def claim(self, slots: int = 1) -> Claimed:
        """Claim once, without waiting."""
        return await self.leases.claim(
            ClaimRequest(self.runner_id, free_cpus_milli=64_000, free_slots=slots, wait_ms=0), _is_here
        )

    async def end(
        self,
        attempt: AttemptId,
        *,
        outcome: Outcome = Outcome.EXITED,
        exit_code: int | None = 0,
        stdout: str = "",
    ) -> str:
        """Report an attempt's end; returns the verdict."""
        report = Report(
            execution_id=attempt.execution_id,
            attempt=attempt.attempt,
            token=SIGNER.attempt_token(attempt.execution_id, attempt.attempt),
            outcome=outcome,
            exit_code=exit_code,
            duration_ms=3_600_000,
            stdout=stdout,
            log=LogChunk(1, [LogEntry(1, now_ms(), "a line", 1)]),
        )
        (verdict,) = await self.reports.end_attempts([report], {}, {self.runner_id: "a.host"})
        return verdict.value


class Store:
    """A database under test, as one or more processes see it."""

    def __init__(self, loop: asyncio.Runner, databases: Sequence[Database]) -> None:
        self._loop = loop
        self.databases = databases
        self.processes = [Process(database) for database in databases]

    @property
    def dialect(self) -> str:
        """Which database it is."""
        return self.read(lambda c: c.dialect.name)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine."""
        return self._loop.run(work)

    def together(self, works: Sequence[Awaitable[T]]) -> list[T]:
        """Wait for many that run at once."""

        async def gather() -> list[T]:
            return list(await asyncio.gather(*works))

        return self._loop.run(gather())

    def read(self, query: Callable[[Connection], T]) -> T:
        """Read through the first process."""
        return self._loop.run(self.databases[0].read(query))

    def write(self, operation: Callable[[Connection], T]) -> T:
        """Write through the first process."""
        return self._loop.run(self.databases[0].write(operation))

    def tenant(self) -> str:
        """A fresh tenant's id."""
        tenant_id = new_id("tenant")
        self.write(lambda c: tenants.insert_tenant(c, tenant_id, tenant_id, now_ms()))
        return tenant_id

    def counts(self, tenant_id: str, batch_id: str) -> dict[str, int]:
        """A batch's executions by status, counted."""
        query = (
            select(executions.c.status, func.count())
            .where(executions.c.tenant_id == tenant_id, executions.c.batch_id == batch_id)
            .group_by(executions.c.status)
        )
        return {status: count for status, count in self.read(lambda c: c.execute(query).all())}  # noqa: C416


def work(**changes: Any) -> Submission:
    """Something to run."""
    return Submission(**{"script_content": "print('hello')", "runtime": "python:3.11", **changes})


def blob(data: bytes) -> Received:
    """Bytes that have arrived."""
    import hashlib

    return Received(hashlib.sha256(data).hexdigest(), len(data), data)


def give(store: Store, tenant_id: str, data: bytes) -> str:
    """Note a blob of a tenant; returns its hash."""
    received = blob(data)
    store.write(lambda c: add_received(c, tenant_id, [received]))
    return received.sha256


def identities(claimed: Claimed) -> list[AttemptId]:
    """Which attempts were handed out."""
    return [AttemptId(item.execution_id, item.attempt) for item in claimed.attempts]


async def _is_here() -> bool:
    return False


def _no_blobs() -> Any:
    # nothing in these tests is too large for the database
    return None
