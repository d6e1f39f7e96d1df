"""Measures the server that RGRID_API_URL names, and prints each row beside the report of 2025-11-22."""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import requests


class Api:
    """The server to measure."""

    def __init__(self, url: str, key: str) -> None:
        self.root = url.rstrip("/").removesuffix("/api/v1")
        self.base = f"{self.root}/api/v1"
        self.key = key
        self.headers = {"Authorization": f"Bearer {key}"}

    def session(self) -> requests.Session:
        """A connection of its own."""
        session = requests.Session()
        session.headers.update(self.headers)
        return session

    def path(self, name: str) -> str:
        """The address of what a row names."""
        return f"{self.base}{PATHS[name]}"


PATHS = {
    "health": "/health",
    "executions": "/executions?limit=10",
    "estimate": "/estimate?runtime=python:3.11&files=1",
    "cost": "/cost",
    "input-cache": f"/input-cache/{'0' * 64}",
    "batch status": "/batches/performance/status",
    "cost limit": "/cost/limit",
}


class Report:
    """Keeps rows: what was measured, what the old report has, both in the same unit."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def add(self, row: str, figure: str, now: float, then: float | None, unit: str = "ms") -> None:
        """Keep a figure and print it beside the old one."""
        kept = {"row": row, "figure": figure, "now": round(now, 2), "then": then, "unit": unit}
        self.rows.append(kept)
        old = "-" if then is None else f"{then} {unit}"
        print(f"{row:<44} {figure:<12} now {now:>9.1f} {unit:<4} then {old}")


@pytest.fixture(scope="session")
def api() -> Api:
    """The server, with an execution and a batch to look at."""
    url, key = os.environ.get("RGRID_API_URL"), os.environ.get("RGRID_API_KEY")
    if not url or not key:
        pytest.skip("set RGRID_API_URL and RGRID_API_KEY, or use make report")
    api = Api(url, key)
    body = {"script_content": "print(1)", "batch_id": "performance"}
    requests.post(f"{api.base}/executions", json=body, headers=api.headers, timeout=30).raise_for_status()
    return api


@pytest.fixture(scope="session")
def report() -> object:
    """Where figures go; written to RGRID_REPORT_FILE at the end, beside those that are there."""
    report = Report()
    yield report
    target = os.environ.get("RGRID_REPORT_FILE")
    if target:
        path = Path(target)
        earlier = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps(earlier + report.rows))


def timed(call: Callable[[], requests.Response]) -> float:
    """Milliseconds of a call that must succeed."""
    started = time.perf_counter()
    answer = call()
    elapsed_ms = (time.perf_counter() - started) * 1000
    assert answer.status_code == 200, f"{answer.status_code}: {answer.text[:200]}"
    return elapsed_ms


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(len(ordered) * percent / 100))]


def at_once(count: int, call: Callable[[int], float]) -> tuple[list[float], float]:
    """Run so many calls at the same time; returns their milliseconds and how many a second were served."""
    results: list[float] = []
    failures: list[BaseException] = []
    gate = threading.Barrier(count + 1)

    def run(number: int) -> None:
        gate.wait()
        try:
            results.append(call(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    gate.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    assert not failures, failures[0]
    return results, count / elapsed


def median_of(count: int, call: Callable[[], float]) -> float:
    """The median of several."""
    return statistics.median(call() for _ in range(count))
