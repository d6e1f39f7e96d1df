"""The example DAG under a real scheduler and triggerer."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path

import airflow
import pytest

from rgrid.client import Client
from tests.airflow_home import AirflowHome
from tests.live import ROOT, LiveServer

MAJOR = int(airflow.__version__.split(".")[0])
DONE_SECONDS = 420


def test_the_example_dag_runs_on_real_data_under_scheduler_and_triggerer(
    server: LiveServer, tmp_path: Path
) -> None:
    with AirflowHome(MAJOR, tmp_path, server) as home:
        shutil.copytree(ROOT / "dags" / "examples", home.dags, dirs_exist_ok=True)
        home.migrate()
        if MAJOR == 3:
            home.start("web", "scheduler", "dag-processor", "triggerer")
        else:
            home.start("scheduler", "triggerer")
        wait_for(home, lambda: "seattle_weather" in home.airflow("dags", "list", check=False).stdout)
        home.airflow("dags", "unpause", "seattle_weather")
        home.airflow("dags", "trigger", "seattle_weather", "--run-id", "the-run")
        states: dict[str, str] = {}

        def is_over() -> bool:
            nonlocal states
            states = task_states(home)
            return bool(states) and all(
                state in {"success", "failed", "upstream_failed"} for state in states.values()
            )

        wait_for(home, is_over)
        logs = home.task_logs()
        assert states == {"summarise": "success", "combine": "success", "tell_cost": "success"}, logs[-6000:]
    assert (tmp_path / "outputs" / "rain.png").read_bytes().startswith(b"\x89PNG")
    for year in (2012, 2013, 2014, 2015):
        summary = tmp_path / "outputs" / "summaries" / f"seattle-weather-{year}.csv" / "summary.csv"
        rows = list(csv.DictReader(summary.open()))
        assert sum(float(row["rain_mm"]) for row in rows) == pytest.approx(rain_mm(year), abs=0.05)
    assert "[stderr] 366 days from 2012-01-01 to 2012-12-31" in logs
    with Client(server.url, server.api_key) as client:
        parts = client.cost_breakdown("task", filters={"dag": "seattle_weather"})
        assert sum(group.cost_micros for group in parts.groups) == parts.total_cost_micros
        assert {group.key[0]: group.executions for group in parts.groups} == {"summarise": 4, "combine": 1}


def rain_mm(year: int) -> float:
    """The year's rain, straight from the data."""
    file = ROOT / "dags" / "examples" / "data" / f"seattle-weather-{year}.csv"
    with file.open() as opened:
        return sum(float(row["precipitation"]) for row in csv.DictReader(opened))


def task_states(home: AirflowHome) -> dict[str, str]:
    """Each task's state in the run."""
    told = home.airflow(
        "tasks", "states-for-dag-run", "seattle_weather", "the-run", "-o", "json", check=False
    )
    for line in reversed(told.stdout.splitlines()):
        if line.startswith("["):
            try:
                return {row["task_id"]: row["state"] for row in json.loads(line)}
            except ValueError:
                continue
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
