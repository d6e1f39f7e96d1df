"""Histograms without locks, and what a scrape makes of the queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from sqlalchemy import insert
from sqlalchemy.engine import Connection

from rgrid_server.domain.submission import Submission
from rgrid_server.observability.gauges import priority_class
from rgrid_server.observability.metrics import Metrics
from rgrid_server.observability.tallies import TallyVec
from rgrid_server.store import gauges
from rgrid_server.store.schema import upgrade_schema
from rgrid_server.store.sqlite import sqlite_engine
from rgrid_server.store.tables import attempts, runners
from tests.unit.observability.given import submit_all

BOUNDS = (0.1, 1.0, 10.0)


@given(st.lists(st.floats(0, 20)))
def test_a_tally_reads_as_the_librarys_own_histogram(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = TallyVec("waits", "Waits.", BOUNDS, ["kind"])
    ours.register(tally)
    histogram = Histogram("waits", "Waits.", ["kind"], buckets=BOUNDS, registry=theirs)
    for value in values:
        tally.of("a").add(value)
        histogram.labels("a").observe(value)
    tally.of("b")
    histogram.labels("b")
    assert generate_latest(ours) == generate_latest(theirs)


def test_two_metrics_of_one_name_are_refused() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.registry.register(TallyVec("rgrid_submit_duration_seconds", "Again.", BOUNDS))


def test_names_follow_the_conventions() -> None:
    for family in Metrics().registry.collect():
        if family.name.startswith("rgrid_"):
            assert not family.name.endswith(("_ms", "_total_total", "_count")), family.name
            assert family.documentation.endswith("."), family.name
        if family.type == "histogram" and family.name != "rgrid_commit_operations":
            assert family.name.endswith("_seconds"), family.name


@pytest.mark.parametrize(("rank", "name"), [(-100, "high"), (-1, "high"), (0, "normal"), (7, "low")])
def test_priorities_have_three_classes(rank: int, name: str) -> None:
    assert priority_class(rank) == name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rgrid.sqlite"
    with sqlite_engine(path).connect() as connection:
        upgrade_schema(connection, str(path))
    return path


def read(data: Path, now_ms: int) -> gauges.Fill:
    with sqlite_engine(data).connect() as connection:
        return gauges.read_fill(connection, now_ms, now_ms - 60_000)


def test_the_queue_is_as_deep_and_as_old_as_what_is_in_it(data: Path) -> None:
    made = submit_all(
        data,
        [
            Submission("x", "python:3.11"),
            Submission("x", "python:3.11"),
            Submission("x", "python:3.11", priority=5),
        ],
    )
    oldest_ms = min(row["ready_at_ms"] for row in made)
    fill = read(data, oldest_ms + 90_000)
    assert {rank: part.depth for rank, part in fill.by_rank.items()} == {0: 2, -5: 1}
    assert fill.by_rank[0].oldest_ready_at_ms == oldest_ms
    assert (fill.running, fill.runners, fill.runner_slots) == (0, 0, 0)


def test_what_waits_for_its_files_is_not_in_the_queue(data: Path) -> None:
    submit_all(data, [Submission("x", "python:3.11", inputs={"a": None})])
    assert read(data, 2**50).by_rank == {}


def test_a_batch_is_as_deep_as_its_row_says(data: Path) -> None:
    submit_all(data, [Submission("x", "python:3.11", batch_id="b1")] * 3)
    fill = read(data, 2**50)
    assert fill.by_rank[0].depth == 3


def test_single_executions_are_counted_up_to_a_limit(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "MAX_COUNTED", 2)
    submit_all(data, [Submission("x", "python:3.11")] * 3)
    assert read(data, 2**50).by_rank[0].depth == 2


def test_a_scrape_visits_a_bounded_number_of_flows(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "MAX_FLOWS", 2)
    submit_all(data, [Submission("x", "python:3.11", batch_id=f"b{number}") for number in range(4)])
    assert read(data, 2**50).by_rank[0].depth == 2


def test_what_a_scrape_asks_is_answered_by_indexes(data: Path) -> None:
    submit_all(data, [Submission("x", "python:3.11"), Submission("x", "python:3.11", batch_id="b")])
    asked: set[str] = set()
    engine = sqlite_engine(data)
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_trace_callback(asked.add)
        gauges.read_fill(connection, 2**50, 0)
        driver.set_trace_callback(None)
        plans = {sql: _plan(connection, sql) for sql in asked if sql.startswith("SELECT")}
    assert len(plans) >= 6
    for plan in plans.values():
        for step in plan:
            # a runner has one row, a running attempt one entry in the index; what was counted is counted
            assert not step.startswith("SCAN") or step.split()[1] in {"runners", "attempts", "counted"}, step


def _plan(connection: Connection, sql: str) -> list[str]:
    return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]


def test_running_attempts_and_runners_are_counted(data: Path) -> None:
    with sqlite_engine(data).begin() as connection:
        for number, seen_at_ms in enumerate((1_000_000, 0)):
            connection.execute(insert(runners).values(_runner(f"r{number}", seen_at_ms)))
        for number, ended_at_ms in enumerate((None, None, 5)):
            connection.execute(insert(attempts).values(_attempt(number, ended_at_ms)))
    fill = read(data, 1_000_100)
    assert (fill.running, fill.runners, fill.runner_slots) == (2, 1, 4)


def _runner(runner_id: str, seen_at_ms: int) -> dict[str, object]:
    return {
        "runner_id": runner_id,
        "incarnation": "i",
        "hostname": "h",
        "slots": 4,
        "runtimes": [],
        "sandbox": "bubblewrap",
        "version": "1",
        "registered_at_ms": 0,
        "seen_at_ms": seen_at_ms,
    }


def _attempt(number: int, ended_at_ms: int | None) -> dict[str, object]:
    return {
        "execution_id": f"exec_{number}",
        "attempt": 1,
        "tenant_id": "t",
        "runner_id": "r0",
        "incarnation": "i",
        "claimed_at_ms": 0,
        "lease_expires_at_ms": 0,
        "ended_at_ms": ended_at_ms,
    }
