"""What a claim costs: every statement seeks in an index, as often in a long queue as in a short one."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from benchmarks.claims import fill
from rgrid_server.domain.choosing import Capacity, Chooser, Machine, Room
from rgrid_server.scheduler.choosing import Places, StoredQueue
from rgrid_server.store import queue
from rgrid_server.store.schema import upgrade_schema
from rgrid_server.store.sqlite import sqlite_engine

NOW_MS = 1_800_000_000_000


def claim(connection: Connection) -> int:
    """All that a claim asks the queue; returns how many it would get."""
    queue.any_ready(connection)
    queue.next_ready_at_ms(connection)
    queue.make_ready(connection, NOW_MS)
    queue.any_open(connection, "r1")
    queue.cancel_requests(connection, "r1")
    room = Room("r1", 4, Capacity(4000, None), Machine(Capacity(4000, None), ()), is_idle=False)
    waiting = StoredQueue(connection, Places(), 4, NOW_MS)
    return len(Chooser().choose(waiting, room, NOW_MS).taken)


WALKS = ("SCAN walk", "SCAN CONSTANT ROW")
OTHERS: dict[str, Callable[[Connection], object]] = {
    "whether anything is unfinished": queue.any_unfinished,
    "how much a tenant runs": lambda c: queue.running_of(c, "tenant_1"),
    "who carries an execution": lambda c: queue.carrier_of(c, "exec_1"),
    "what a runner carries": lambda c: queue.open_attempts(c, runner_id="r1", incarnation="1"),
    "whose lease has expired": lambda c: queue.open_attempts(c, expired_by_ms=NOW_MS),
}


def statements_of(connection: Connection, work: Callable[[Connection], object]) -> list[str]:
    """Every statement that some work executes, with its values."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    seen: list[str] = []
    driver.set_trace_callback(seen.append)
    try:
        work(connection)
    finally:
        driver.set_trace_callback(None)
    return [one for one in seen if re.match(r"\s*(SELECT|UPDATE|DELETE|WITH)", one)]


def plan_of(connection: Connection, statement: str) -> list[str]:
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").all()
    return [str(row[-1]) for row in rows]


def filled(path: Path, count: int) -> Connection:
    engine = sqlite_engine(path)
    connection = engine.connect()
    upgrade_schema(connection, str(path))
    fill(connection, count, NOW_MS)
    return connection


@pytest.fixture
def connection(tmp_path: Path) -> Connection:
    """A queue of a thousand, in ten batches of each of three tenants."""
    return filled(tmp_path / "rgrid.sqlite", 1_000)


def test_every_statement_of_a_claim_seeks_in_the_index_of_what_is_ready(connection: Connection) -> None:
    statements = statements_of(connection, claim)
    of_the_queue = [one for one in statements if "backoff_until_ms IS NULL" in one]
    assert sum(one.startswith("WITH RECURSIVE") for one in of_the_queue) == 1 + 3
    for statement in statements:
        for step in plan_of(connection, statement):
            assert "TEMP B-TREE" not in step, statement
            if re.search(r"\bexecutions\b", step) and statement in of_the_queue:
                assert "INDEX ix_executions_ready" in step, (step, statement)
            # the look for anything at all takes the first entry of the index; a walk reads what it has found
            is_walk = statement.startswith("WITH RECURSIVE")
            takes_the_first = "ix_executions_ready" in step and "LIMIT 1" in statement and not is_walk
            assert not step.startswith("SCAN") or takes_the_first or step in WALKS, (step, statement)


@pytest.mark.parametrize("what", list(OTHERS))
def test_the_other_looks_at_the_queue_seek_too(connection: Connection, what: str) -> None:
    statements = statements_of(connection, OTHERS[what])
    assert statements
    for statement in statements:
        for step in plan_of(connection, statement):
            assert "TEMP B-TREE" not in step, statement
            # through a partial index whose entries are all wanted, or whose first one is
            assert step.startswith("SEARCH") or "INDEX ix_" in step, (step, statement)


def test_a_claim_asks_as_much_of_a_queue_a_hundred_times_as_long(tmp_path: Path) -> None:
    counts = []
    for name, count in (("short", 300), ("long", 30_000)):
        connection = filled(tmp_path / name, count)
        assert claim(connection) == 4
        counts.append(len(statements_of(connection, claim)))
    assert counts[0] == counts[1]
