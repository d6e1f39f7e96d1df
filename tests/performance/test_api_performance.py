"""The API, request by request."""

from __future__ import annotations

import statistics

import pytest
import requests

from tests.performance.conftest import Api, Report, at_once, median_of, percentile, timed

ONE_REQUEST_MS = {
    "health": 265,
    "executions": 55,
    "estimate": 52,
    "cost": 60,
    "input-cache": 52,
    "batch status": 73,
    "cost limit": None,
}


@pytest.mark.parametrize("name", list(ONE_REQUEST_MS))
def test_one_request(api: Api, report: Report, name: str) -> None:
    median = median_of(
        5, lambda: timed(lambda: requests.get(api.path(name), headers=api.headers, timeout=30))
    )
    report.add(f"one request: {name}", "median of 5", median, ONE_REQUEST_MS[name])


def test_one_submission(api: Api, report: Report) -> None:
    body = {"script_content": "print(1)"}
    url = f"{api.base}/executions"
    median = median_of(
        5, lambda: timed(lambda: requests.post(url, json=body, headers=api.headers, timeout=30))
    )
    report.add("one request: submit, durable", "median of 5", median, None)


def test_health_in_sequence(api: Api, report: Report) -> None:
    session = api.session()
    values = [timed(lambda: session.get(api.path("health"), timeout=30)) for _ in range(50)]
    for figure, now, then in (
        ("mean", statistics.mean(values), 80),
        ("p95", percentile(values, 95), 211),
        ("p99", percentile(values, 99), 222),
    ):
        report.add("health, 50 in sequence", figure, now, then)


def test_health_concurrently(api: Api, report: Report) -> None:
    values, _ = at_once(50, lambda _n: timed(lambda: api.session().get(api.path("health"), timeout=30)))
    for figure, now, then in (
        ("mean", statistics.mean(values), 968),
        ("p95", percentile(values, 95), 1505),
        ("p99", percentile(values, 99), 1569),
    ):
        report.add("health, 50 concurrent", figure, now, then)


def test_health_sustained(api: Api, report: Report) -> None:
    session = api.session()
    values = [timed(lambda: session.get(api.path("health"), timeout=30)) for _ in range(100)]
    for figure, now, then in (
        ("mean", statistics.mean(values), 63),
        ("p95", percentile(values, 95), 87),
        ("p99", percentile(values, 99), 93),
    ):
        report.add("health, 100 sustained", figure, now, then)
