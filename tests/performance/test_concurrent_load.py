"""The API under many clients."""

from __future__ import annotations

import statistics
import threading
import time

import pytest

from tests.performance.conftest import Api, Report, at_once, percentile, timed

CONCURRENT = {10: (398, 470, 19.5), 25: (620, 796, 26.1), 50: (1053, 1518, 25.8), 100: (1754, 2543, 25.7)}
SUSTAINED_SECONDS = 3.0
SUSTAINED_ROUNDS = 5
"""The machine itself may change its speed by half within a second; what slows down itself does so in each."""
MIXED_MS = {"health": 1074, "estimate": 1197, "executions": 1184, "cost": 1190}


@pytest.mark.parametrize("clients", list(CONCURRENT))
def test_concurrent_clients_are_all_served(api: Api, report: Report, clients: int) -> None:
    values, per_second = at_once(
        clients, lambda _n: timed(lambda: api.session().get(api.path("executions"), timeout=60))
    )
    mean, p95, then_per_second = CONCURRENT[clients]
    row = f"concurrency {clients}"
    report.add(row, "mean", statistics.mean(values), mean)
    report.add(row, "p95", percentile(values, 95), p95)
    report.add(row, "throughput", per_second, then_per_second, "r/s")
    assert len(values) == clients


def test_four_endpoints_mixed(api: Api, report: Report) -> None:
    names = list(MIXED_MS)
    by_name: dict[str, list[float]] = {name: [] for name in names}

    def call(number: int) -> float:
        name = names[number % len(names)]
        value = timed(lambda: api.session().get(api.path(name), timeout=60))
        by_name[name].append(value)
        return value

    _, per_second = at_once(50, call)
    report.add("four endpoints mixed, 50 concurrent", "throughput", per_second, 26, "r/s")
    for name, then in MIXED_MS.items():
        report.add("four endpoints mixed, 50 concurrent", name, statistics.mean(by_name[name]), then)


def test_a_burst_and_the_recovery_from_it(api: Api, report: Report) -> None:
    values, _ = at_once(50, lambda _n: timed(lambda: api.session().get(api.path("health"), timeout=60)))
    report.add("burst of 50", "mean", statistics.mean(values), 1190)
    report.add("burst of 50", "p95", percentile(values, 95), 1488)
    session = api.session()
    after = [timed(lambda: session.get(api.path("health"), timeout=30)) for _ in range(10)]
    report.add("after the burst", "mean", statistics.mean(after), 70)
    report.add("after the burst", "at most", max(after), 77)


def test_half_a_minute_of_ten_clients(api: Api, report: Report) -> None:
    served = 0
    lock = threading.Lock()
    deadline = time.monotonic() + 30

    def client(_number: int) -> float:
        nonlocal served
        session = api.session()
        while time.monotonic() < deadline:
            timed(lambda: session.get(api.path("executions"), timeout=30))
            with lock:
                served += 1
        return 0.0

    at_once(10, client)
    report.add("30 s, 10 clients, all served", "requests", served, 730, "n")


def test_sustained_load_does_not_slow_the_server_down(api: Api, report: Report) -> None:
    session = api.session()
    rises = []
    for _ in range(SUSTAINED_ROUNDS):
        values: list[float] = []
        until = time.monotonic() + SUSTAINED_SECONDS
        while time.monotonic() < until:
            values.append(timed(lambda: session.get(api.path("executions"), timeout=30)))
        part = max(1, len(values) // 3)
        rises.append(statistics.median(values[-part:]) / statistics.median(values[:part]))
    report.add(
        "degradation under sustained load",
        "last/first",
        max(0.0, (statistics.median(rises) - 1) * 100),
        13,
        "%",
    )
