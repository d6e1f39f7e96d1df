"""Lists and statements over a million executions beside ten thousand: the p95 of each, and the ratio.

`lists.py [--rows 1000000] [--database-url URL]`; rows are written straight into the tables; a server reads.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requests
from sqlalchemy import create_engine, delete, insert, select
from sqlalchemy.engine import Connection

from rgrid_server.store import tables
from rgrid_server.store.sqlite import sqlite_engine
from tests.live import LiveServer

FEW = 10_000
CHUNK = 20_000
REQUESTS = 100
DAYS = 30
DAY_MS = 86_400_000
DAGS, OWNERS, PEOPLE = 20, 4, 5_000
BATCH = "batch_of_the_benchmark"
CALLS = [
    ("list, newest 50", "/executions?limit=50", 20),
    ("list, status=failed", "/executions?limit=50&status=failed", 20),
    ("list, status=running (none)", "/executions?limit=50&status=running", 20),
    ("list, a frequent metadata value", "/executions?limit=50&metadata[dag]=dag_3", 20),
    ("list, a rare metadata value", "/executions?limit=50&metadata[person]=person_77", 20),
    ("list, metadata and status", "/executions?limit=50&metadata[dag]=dag_3&status=failed", 20),
    (
        "list, frequent metadata, rare status",
        "/executions?limit=50&metadata[dag]=dag_3&status=canceled",
        20,
    ),
    ("list, two metadata values", "/executions?limit=50&metadata[dag]=dag_3&metadata[owner]=owner_3", 20),
    ("list, frequent and rare", "/executions?limit=50&metadata[dag]=dag_3&metadata[person]=person_77", 20),
    ("batch executions, a page", f"/batches/{BATCH}/executions?limit=50", 20),
    ("cost by day", "/cost?days=30", 50),
    ("cost by DAG", "/cost/breakdown?group_by=dag&days=30", 50),
]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database-url")
    asked = parser.parse_args()
    few, many = (measure(rows, asked.database_url) for rows in (FEW, asked.rows))
    print(f"| what | p95 ms at {FEW:,} | p95 ms at {asked.rows:,} | ratio | target ms |")
    print("|---|---:|---:|---:|---:|")
    for name, _, target in CALLS:
        print(f"| {name} | {few[name]:.1f} | {many[name]:.1f} | {many[name] / few[name]:.2f} | {target} |")


def measure(rows: int, database_url: str | None) -> dict[str, float]:
    """The p95 of every call, in milliseconds, on a server with so many executions."""
    options = ["--slots", "0", *(["--database-url", database_url] if database_url else [])]
    with TemporaryDirectory(prefix="rgrid-lists-") as directory:
        server = LiveServer(Path(directory), options=options)
        with server:
            # it makes the schema and the tenant
            tenant_id = requests.get(f"{server.api}/whoami", headers=server.headers, timeout=10).json()[
                "tenant_id"
            ]
        engine = (
            create_engine(database_url.replace("postgresql:", "postgresql+psycopg:"))
            if database_url
            else sqlite_engine(Path(directory) / "rgrid.sqlite")
        )
        with engine.connect() as connection:
            fill(connection, tenant_id, rows)
        engine.dispose()
        with server:
            session = requests.Session()
            session.headers.update(server.headers)
            return {name: p95_ms(session, f"{server.api}{path}") for name, path, _ in CALLS}


def fill(connection: Connection, tenant_id: str, rows: int) -> None:
    """Write executions that look like a month's, and the rollup of their spend."""
    now_ms = int(time.time() * 1000)
    is_sqlite = connection.dialect.name == "sqlite"
    specification = {
        "specification_id": "specification",
        "tenant_id": tenant_id,
        "script_content": "print(1)",
        "script_name": "script.py",
        "runtime": "python:3.11",
        "created_at_ms": now_ms,
    }
    if connection.execute(select(tables.specifications.c.specification_id)).first() is None:
        connection.execute(insert(tables.specifications).values(specification))
        batch = {"tenant_id": tenant_id, "batch_id": BATCH, "user_metadata": {}, "closed": True}
        connection.execute(insert(tables.batches).values(**batch, created_at_ms=now_ms))
    for first in range(0, rows, CHUNK):
        if is_sqlite:
            connection.exec_driver_sql("BEGIN")
        numbers = range(first, min(rows, first + CHUNK))
        connection.execute(
            insert(tables.executions), [_execution(tenant_id, n, rows, now_ms) for n in numbers]
        )
        connection.execute(
            insert(tables.metadata_index), [row for n in numbers for row in _metadata(tenant_id, n, rows)]
        )
        connection.exec_driver_sql("COMMIT")
    days = [time.strftime("%Y-%m-%d", time.gmtime((now_ms - day * DAY_MS) / 1000)) for day in range(DAYS)]
    connection.execute(delete(tables.spend_daily))
    connection.execute(insert(tables.spend_daily), list(_spend(tenant_id, days, rows)))
    connection.exec_driver_sql("ANALYZE")
    if not is_sqlite:
        connection.commit()


def _execution(tenant_id: str, n: int, rows: int, now_ms: int) -> dict[str, Any]:
    created = now_ms - DAYS * DAY_MS * (rows - n) // rows
    status = "canceled" if n % 5000 == 1 else "failed" if n % 20 == 3 else "completed"
    in_batch = n % 10 == 0
    return {
        "sequence": rows * 10 + n,
        "execution_id": f"exec_{rows * 10 + n:032x}",
        "tenant_id": tenant_id,
        "specification_id": "specification",
        "runtime": "python:3.11",
        "batch_id": BATCH if in_batch else None,
        "flow": BATCH if in_batch else "",
        "batch_index": n // 10 if in_batch else None,
        "status": status,
        "created_at_ms": created,
        "ready_at_ms": created,
        "attempt": 1,
        "retry_count": 0,
        "max_retries": 2,
        "started_at_ms": created + 10,
        "completed_at_ms": created + 500,
        "duration_ms": 490,
        "exit_code": 0 if status == "completed" else 1,
        "args": [],
        "env_vars": {},
        "inputs": {},
        "user_metadata": dict(_notes(n)),
        "timeout_seconds": 300,
        "cpus_milli": 1000,
        "memory_mib": 2048,
        "priority": 0,
        "queue_rank": 0,
        "charge_nanos": 1500,
    }


def _notes(n: int) -> Iterator[tuple[str, str]]:
    yield "dag", f"dag_{n % DAGS}"
    yield "owner", f"owner_{n // DAGS % OWNERS}"
    yield "person", f"person_{n % PEOPLE}"


def _metadata(tenant_id: str, n: int, rows: int) -> Iterator[dict[str, Any]]:
    for name, value in _notes(n):
        yield {"tenant_id": tenant_id, "name": name, "value": value, "sequence": rows * 10 + n}


def _spend(tenant_id: str, days: list[str], rows: int) -> Iterator[dict[str, Any]]:
    each = rows // (DAYS * DAGS * OWNERS) or 1
    for day in days:
        for dag in range(DAGS):
            for owner in range(OWNERS):
                yield {
                    "tenant_id": tenant_id,
                    "day": day,
                    "dag_id": f"dag_{dag}",
                    "task_id": "task",
                    "owner": f"owner_{owner}",
                    "runtime": "python:3.11",
                    "executions": each,
                    "failed": each // 20,
                    "compute_ms": each * 490,
                    "nanos": each * 1500,
                }


def p95_ms(session: requests.Session, url: str) -> float:
    """The 95th percentile of a call, one request after the other."""
    timings = []
    for _ in range(REQUESTS + 5):
        started = time.perf_counter()
        answer = session.get(url, timeout=60)
        timings.append((time.perf_counter() - started) * 1000)
        assert answer.status_code == 200, answer.text
    return statistics.quantiles(timings[5:], n=20)[-1]


if __name__ == "__main__":
    main()
