"""The example DAGs under a real scheduler and triggerer: what each is there to show has happened."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rgrid.client import Client
from tests.airflow.dag_runs import EXAMPLES, MAJOR, RUN_ID, DagRuns, dag_ids_of

DATA = EXAMPLES / "data"
YEARS = (2012, 2013, 2014, 2015)
SKIPPED = {("primes", "tell_if_wrong")}
OF_EXAMPLES = {dag_id for ids in dag_ids_of(EXAMPLES).values() for dag_id in ids}


@pytest.mark.parametrize("file", dag_ids_of(EXAMPLES))
def test_each_file_is_a_dag_that_runs_to_its_end(dag_runs: DagRuns, file: str) -> None:
    (dag_id,) = dag_ids_of(EXAMPLES)[file]
    assert dag_id == Path(file).stem
    assert dag_runs.records.runs()[dag_id, RUN_ID][1] == "success", dag_runs.home.task_logs()[-6000:]
    found = {name: set(states) for name, states in dag_runs.states(dag_id).items()}
    assert found == {name: {"skipped" if (dag_id, name) in SKIPPED else "success"} for name in found}


def test_a_script_reads_a_file_and_its_last_line_is_the_result(dag_runs: DagRuns) -> None:
    wettest = max(days_of(2015), key=lambda day: float(day["precipitation"]))
    result = dag_runs.result("rgrid_run", "wettest_day")
    assert result == {"date": wettest["date"], "rain_mm": float(wettest["precipitation"])}
    (cost_micros,) = dag_runs.records.xcoms("rgrid_run", "wettest_day", "cost_micros")
    assert str(cost_micros) in dag_runs.result("rgrid_run", "tell")


def test_a_batchs_results_are_in_the_order_of_its_inputs(dag_runs: DagRuns) -> None:
    months = dag_runs.result("rgrid_batch", "wettest_months")
    assert [month["month"][:4] for month in months] == [str(year) for year in YEARS]
    for year, found in zip(YEARS, months, strict=True):
        rain_mm: Counter[str] = Counter()
        for day in days_of(year):
            rain_mm[day["date"][:7]] += float(day["precipitation"])
        assert found["rain_mm"] == pytest.approx(max(rain_mm.values()), abs=0.05)
    assert dag_runs.result("rgrid_batch", "wettest_of_all") in months


def test_mapped_functions_are_called_by_their_arguments(dag_runs: DagRuns) -> None:
    assert [task.label for task in dag_runs.task("rgrid_task", "days_of")] == [str(year) for year in YEARS]
    counted = Counter(day["weather"] for year in YEARS for day in days_of(year))
    assert dag_runs.result("rgrid_task", "total") == dict(counted)


def test_sensors_wait_for_what_was_started(dag_runs: DagRuns) -> None:
    with Client(dag_runs.server.url, dag_runs.server.api_key) as client:
        assert client.get(dag_runs.result("rgrid_sensors", "one")).status == "completed"
        assert client.batch(dag_runs.result("rgrid_sensors", "many")).counts.completed == 3


def test_a_bill_is_in_postgresql(dag_runs: DagRuns) -> None:
    # of today, and what Airflow has scheduled: of the day before on 2.11, of today as well from 3.0 on, where
    # the run that came last replaced the other's rows
    rows = dag_runs.records.xcoms("rgrid_cost_to_postgres", "copy_bill")
    with psycopg.connect(dag_runs.warehouse) as connection:
        there = connection.execute("SELECT count(*) FROM rgrid_cost").fetchone()
        by_task = """SELECT "x_DagId", "x_TaskId", count(*) FROM rgrid_cost GROUP BY 1, 2"""
        tasks = connection.execute(by_task).fetchall()
    assert len(rows) == 2
    assert max(rows) > 0
    assert there in ([(sum(rows),)] if MAJOR == 2 else [(count,) for count in rows])
    assert "before" in {dag_id for dag_id, _, _ in tasks}
    dearest = dag_runs.records.xcoms("rgrid_cost_to_postgres", "dearest")
    # ten of them at most, and in one of the runs those of the day that has a bill
    assert max(len(result) for result in dearest) in range(1, min(10, len(tasks)) + 1)


def test_a_chat_is_told_of_a_task_and_of_its_run(dag_runs: DagRuns) -> None:
    texts = sorted(body["text"] for _, _, body in dag_runs.posts)
    assert len(texts) == 2
    assert texts[0].startswith(f"rgrid_notifier.count in {RUN_ID}: success for €0.")
    assert texts[1].startswith("rgrid_notifier: success, €0.")
    assert "for 1 execution on RGrid" in texts[1]


def test_functions_get_context_and_may_skip(dag_runs: DagRuns) -> None:
    assert dag_runs.result("primes", "put_together") == {
        "by_limit": {"10": 4, "1000": 168, "100000": 9592},
        "counted_in": RUN_ID,
    }
    logs = dag_runs.home.task_logs()
    assert "[stdout] 9592 primes below 100000" in logs
    assert "the primes are all there" in logs


def test_outputs_of_a_batch_come_back_and_go_on_into_a_picture(dag_runs: DagRuns) -> None:
    assert (dag_runs.outputs / "rain.png").read_bytes().startswith(b"\x89PNG")
    for year in YEARS:
        summary = dag_runs.outputs / "summaries" / f"seattle-weather-{year}.csv" / "summary.csv"
        rows = list(csv.DictReader(summary.open()))
        of_year = sum(float(day["precipitation"]) for day in days_of(year))
        assert sum(float(row["rain_mm"]) for row in rows) == pytest.approx(of_year, abs=0.05)
    assert "[stderr] 366 days from 2012-01-01 to 2012-12-31" in dag_runs.home.task_logs()


def test_openlineage_is_told_of_files_and_cost(dag_runs: DagRuns) -> None:
    of_tasks = lineage_of(dag_runs.lineage)
    batch = of_tasks["seattle_weather.summarise"]
    assert (batch["kind"], batch["executions"], batch["status"]) == ("batch", 4, "completed")
    assert batch["cost_micros"] >= 0
    assert {Path(name).name for name in batch["inputs"]} == {f"seattle-weather-{year}.csv" for year in YEARS}
    assert str(dag_runs.outputs / "rain.png") in of_tasks["seattle_weather.combine"]["outputs"]


def test_the_grid_sums_cost_by_dag_and_task(dag_runs: DagRuns) -> None:
    with Client(dag_runs.server.url, dag_runs.server.api_key) as client:
        parts = client.cost_breakdown("task", filters={"dag": "seattle_weather"})
    assert sum(group.cost_micros for group in parts.groups) == parts.total_cost_micros
    assert {group.key[0]: group.executions for group in parts.groups} == {"summarise": 4, "combine": 1}


def days_of(year: int) -> list[dict[str, str]]:
    """The days of a year, straight from the data."""
    with (DATA / f"seattle-weather-{year}.csv").open() as file:
        return list(csv.DictReader(file))


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
