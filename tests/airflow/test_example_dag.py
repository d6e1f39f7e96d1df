"""The example DAGs under a real scheduler and triggerer."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any

import airflow
import pytest

from rgrid.client import Client
from tests.airflow_home import AirflowHome
from tests.live import ROOT, LiveServer

MAJOR = int(airflow.__version__.split(".")[0])
DONE_SECONDS = 420
TOO_SLOW = """
import datetime

from airflow.providers.common.compat.sdk import DAG

from rgrid_provider.operators.rgrid import RGridRunOperator

with DAG("too_slow", start_date=datetime.datetime(2024, 1, 1), schedule=None):
    RGridRunOperator(
        task_id="never",
        script="import time\\ntime.sleep(600)",
        deferrable=True,
        execution_timeout=datetime.timedelta(seconds=10),
    )
"""
"""A deferred task whose time is over before its script is; 2.11 fails it without asking its operator."""


def test_the_example_dags_run_on_real_data_under_scheduler_and_triggerer(
    server: LiveServer, tmp_path: Path
) -> None:
    with AirflowHome(MAJOR, tmp_path, server) as home:
        lineage = tmp_path / "lineage.jsonl"
        home.env["AIRFLOW__OPENLINEAGE__TRANSPORT"] = json.dumps(
            {"type": "file", "log_file_path": str(lineage), "append": True}
        )
        shutil.copytree(ROOT / "dags" / "examples", home.dags, dirs_exist_ok=True)
        if MAJOR == 3:
            (home.dags / "too_slow.py").write_text(TOO_SLOW)
        home.migrate()
        if MAJOR == 3:
            home.start("web", "scheduler", "dag-processor", "triggerer")
        else:
            home.start("scheduler", "triggerer")
        states = run_of(home, "seattle_weather")
        logs = home.task_logs()
        assert states == {"summarise": "success", "combine": "success", "tell_cost": "success"}, logs[-6000:]
        of_primes = run_of(home, "primes")
        if MAJOR == 3:
            assert run_of(home, "too_slow") == {"never": "failed"}
        logs = home.task_logs()
        assert of_primes == {
            "count_primes": "success",
            "put_together": "success",
            "tell_if_wrong": "skipped",
        }, logs[-6000:]
    assert (tmp_path / "outputs" / "rain.png").read_bytes().startswith(b"\x89PNG")
    for year in (2012, 2013, 2014, 2015):
        summary = tmp_path / "outputs" / "summaries" / f"seattle-weather-{year}.csv" / "summary.csv"
        rows = list(csv.DictReader(summary.open()))
        assert sum(float(row["rain_mm"]) for row in rows) == pytest.approx(rain_mm(year), abs=0.05)
    of_tasks = lineage_of(lineage)
    batch = of_tasks["seattle_weather.summarise"]
    assert (batch["kind"], batch["executions"], batch["status"]) == ("batch", 4, "completed")
    assert batch["cost_micros"] >= 0
    assert {Path(name).name for name in batch["inputs"]} == {
        f"seattle-weather-{year}.csv" for year in (2012, 2013, 2014, 2015)
    }
    assert str(tmp_path / "outputs" / "rain.png") in of_tasks["seattle_weather.combine"]["outputs"]
    assert "[stderr] 366 days from 2012-01-01 to 2012-12-31" in logs
    assert "[stdout] 9592 primes below 100000" in logs
    assert "the primes are all there" in logs
    with Client(server.url, server.api_key) as client:
        if MAJOR == 3:
            (slow,) = client.list(metadata={"dag_id": "too_slow"})
            assert client.wait(slow.execution_id, timeout_seconds=60).status == "canceled"
        parts = client.cost_breakdown("task", filters={"dag": "seattle_weather"})
        assert sum(group.cost_micros for group in parts.groups) == parts.total_cost_micros
        assert {group.key[0]: group.executions for group in parts.groups} == {"summarise": 4, "combine": 1}


def lineage_of(file: Path) -> dict[str, dict[str, Any]]:
    """What OpenLineage was told of each job that ran on the grid: its facet, and its files by name."""
    found = {}
    for line in file.read_text().splitlines():
        event = json.loads(line)
        facet = event.get("run", {}).get("facets", {}).get("rgrid")
        if facet is not None:
            files = {kind: [one["name"] for one in event[kind]] for kind in ("inputs", "outputs")}
            found[event["job"]["name"]] = {**facet, **files}
    return found


def rain_mm(year: int) -> float:
    """The year's rain, straight from the data."""
    file = ROOT / "dags" / "examples" / "data" / f"seattle-weather-{year}.csv"
    with file.open() as opened:
        return sum(float(row["precipitation"]) for row in csv.DictReader(opened))


def run_of(home: AirflowHome, dag_id: str) -> dict[str, str]:
    """Run a DAG to its end; returns the state of each task, one for all of a mapped one's."""
    wait_for(home, lambda: dag_id in home.airflow("dags", "list", check=False).stdout)
    home.airflow("dags", "unpause", dag_id)
    home.airflow("dags", "trigger", dag_id, "--run-id", "the-run")
    states: dict[str, str] = {}

    def is_over() -> bool:
        nonlocal states
        states = task_states(home, dag_id)
        return bool(states) and all(
            set(state.split("/")) <= {"success", "failed", "upstream_failed", "skipped"}
            for state in states.values()
        )

    wait_for(home, is_over)
    return states


def task_states(home: AirflowHome, dag_id: str) -> dict[str, str]:
    """Each task's state in the run; where those of a mapped one differ, all of them."""
    told = home.airflow("tasks", "states-for-dag-run", dag_id, "the-run", "-o", "json", check=False)
    for line in reversed(told.stdout.splitlines()):
        if line.startswith("["):
            try:
                rows = json.loads(line)
            except ValueError:
                continue
            found: dict[str, set[str]] = {}
            for row in rows:
                found.setdefault(row["task_id"], set()).add(str(row["state"]))
            return {name: "/".join(sorted(states)) for name, states in found.items()}
    return {}


def wait_for(home: AirflowHome, condition: object) -> None:
    """Ask until it is so; what Airflow wrote is in the error if it never is."""
    deadline = time.monotonic() + DONE_SECONDS
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return
        time.sleep(1)
    told = {name: home.log_of(name)[-2500:] for name in ("web", "scheduler", "triggerer", "dag-processor")}
    raise AssertionError(f"not within {DONE_SECONDS} s: {told}\n{home.task_logs()[-4000:]}")
