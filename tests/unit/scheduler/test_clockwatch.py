"""A clock that is set ends no lease and holds nothing back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from sqlalchemy.engine import Connection

from rgrid_server.scheduler.claims import LEASE_MS
from rgrid_server.scheduler.clockwatch import STEP_MS, ClockWatch
from rgrid_server.scheduler.intake import INPUTS_DUE_MS
from rgrid_server.scheduler.wakeups import Wakeups
from rgrid_server.store import tables
from rgrid_server.store.schema import upgrade_schema
from rgrid_server.store.sqlite import SqliteDatabase, sqlite_engine

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000


@dataclass
class Clocks:
    """A clock that can be set, and one that cannot."""

    wall_ms: int = NOW_MS
    monotonic_ms: int = 5_000

    def passes(self, milliseconds: int) -> None:
        self.wall_ms += milliseconds
        self.monotonic_ms += milliseconds


@dataclass
class Deadlines:
    """What is due when."""

    lease_expires_at_ms: int
    ready_at_ms: int | None
    inputs_due_at_ms: int | None


def execution(execution_id: str, ready_at_ms: int | None) -> dict[str, object]:
    return {
        "execution_id": execution_id,
        "tenant_id": "t",
        "specification_id": "s",
        "runtime": "python:3.11",
        "status": "queued",
        "created_at_ms": NOW_MS,
        "ready_at_ms": ready_at_ms,
        "inputs_due_at_ms": NOW_MS + 1 if ready_at_ms is None else None,
        "attempt": 0,
        "retry_count": 0,
        "max_retries": 2,
        "args": [],
        "env_vars": {},
        "inputs": {},
        "user_metadata": {},
        "timeout_seconds": 1,
        "cpus_milli": 1,
        "memory_mib": 1,
        "priority": 0,
        "queue_rank": 0,
    }


def fill(connection: Connection) -> None:
    """A lease, one that waits out a backoff, one that waits for a file, and an event of now."""
    connection.execute(insert(tables.executions).values(execution("waits", NOW_MS + 500)))
    connection.execute(insert(tables.executions).values(execution("lacks", None)))
    attempt = {"execution_id": "runs", "attempt": 1, "tenant_id": "t", "runner_id": "r", "incarnation": "i"}
    times = {"claimed_at_ms": NOW_MS, "lease_expires_at_ms": NOW_MS + LEASE_MS}
    connection.execute(insert(tables.attempts).values({**attempt, **times}))
    event = {"tenant_id": "t", "execution_id": "waits", "status": "queued", "attempt": 0, "at_ms": NOW_MS}
    connection.execute(insert(tables.events).values(event))


def read(connection: Connection) -> Deadlines:
    ready, due = tables.executions.c.ready_at_ms, tables.executions.c.inputs_due_at_ms
    name = tables.executions.c.execution_id
    return Deadlines(
        connection.execute(select(tables.attempts.c.lease_expires_at_ms)).scalar_one(),
        connection.execute(select(ready).where(name == "waits")).scalar_one(),
        connection.execute(select(due).where(name == "lacks")).scalar_one(),
    )


UNTOUCHED = Deadlines(NOW_MS + LEASE_MS, NOW_MS + 500, NOW_MS + 1)


def after(tmp_path: Path, happens: Callable[[Clocks], None], *, restarts: bool = False) -> Deadlines:
    """What is due when after something has happened to the clocks."""

    async def run() -> Deadlines:
        path = tmp_path / "rgrid.sqlite"
        with sqlite_engine(path).connect() as connection:
            upgrade_schema(connection, str(path))
        database = SqliteDatabase(path)
        try:
            await database.write(fill)
            clocks = Clocks()

            def watch() -> ClockWatch:
                return ClockWatch(
                    database,
                    Wakeups(),
                    wall_ms=lambda: clocks.wall_ms,
                    monotonic_ms=lambda: clocks.monotonic_ms,
                )

            watching = watch()
            await watching.begin()
            happens(clocks)
            if restarts:
                await watch().begin()
            else:
                assert await watching.look() == clocks.wall_ms
            return await database.read(read)
        finally:
            await database.close()

    return asyncio.run(run())


def begun_anew(now_ms: int, ready_at_ms: int) -> Deadlines:
    return Deadlines(now_ms + LEASE_MS, ready_at_ms, now_ms + INPUTS_DUE_MS)


def test_while_time_passes_nothing_is_moved(tmp_path: Path) -> None:
    assert after(tmp_path, lambda clocks: clocks.passes(DAY_MS)) == UNTOUCHED


def test_a_clock_that_is_slewed_moves_nothing(tmp_path: Path) -> None:
    def slew(clocks: Clocks) -> None:
        clocks.wall_ms += STEP_MS

    assert after(tmp_path, slew) == UNTOUCHED


@pytest.mark.parametrize("restarts", [False, True])
def test_a_clock_that_is_set_back_holds_nothing_back(tmp_path: Path, restarts: bool) -> None:
    def set_back(clocks: Clocks) -> None:
        clocks.wall_ms -= DAY_MS

    now_ms = NOW_MS - DAY_MS
    assert after(tmp_path, set_back, restarts=restarts) == begun_anew(now_ms, ready_at_ms=now_ms)


def test_a_clock_that_is_set_forward_ends_no_lease(tmp_path: Path) -> None:
    def set_forward(clocks: Clocks) -> None:
        clocks.wall_ms += DAY_MS

    assert after(tmp_path, set_forward) == begun_anew(NOW_MS + DAY_MS, ready_at_ms=NOW_MS + 500)


def test_a_step_whose_deadlines_could_not_be_moved_is_found_again(tmp_path: Path) -> None:
    async def run() -> Deadlines:
        path = tmp_path / "rgrid.sqlite"
        with sqlite_engine(path).connect() as connection:
            upgrade_schema(connection, str(path))
        database = SqliteDatabase(path)
        try:
            await database.write(fill)
            clocks = Clocks()
            watching = ClockWatch(
                database, Wakeups(), wall_ms=lambda: clocks.wall_ms, monotonic_ms=lambda: clocks.monotonic_ms
            )
            clocks.wall_ms += DAY_MS
            await database.write(lambda c: c.exec_driver_sql("ALTER TABLE attempts RENAME TO away"))
            with pytest.raises(Exception, match="attempts"):
                await watching.look()
            await database.write(lambda c: c.exec_driver_sql("ALTER TABLE away RENAME TO attempts"))
            await watching.look()
            return await database.read(read)
        finally:
            await database.close()

    assert asyncio.run(run()) == begun_anew(NOW_MS + DAY_MS, ready_at_ms=NOW_MS + 500)
