"""Airflow's own machinery around tasks on the grid, under a real scheduler: ``dags/machinery.py``."""

from __future__ import annotations

from itertools import pairwise

from rgrid.client import Client
from rgrid.models import Execution
from tests.airflow.dag_runs import MAJOR, OF_THE_TESTS, DagRuns, dag_ids_of

TRIED_AGAIN = {("limited", "second_time_lucky"): 2}
OF_DATASETS = ("asset_event", "asset_triggered") if MAJOR == 3 else ("dataset_event", "dataset_triggered")


def executions_of(dag_runs: DagRuns, dag_id: str) -> list[Execution]:
    """What the grid has run for a DAG."""
    with Client(dag_runs.server.url, dag_runs.server.api_key) as client:
        return list(client.list(metadata={"dag_id": dag_id}))


def labels(dag_runs: DagRuns, dag_id: str, task_id: str) -> list[str | None]:
    return [task.label for task in dag_runs.task(dag_id, task_id)]


def test_a_task_is_mapped_over_what_another_returns(dag_runs: DagRuns) -> None:
    assert dag_runs.records.xcoms("mapped", "sums") == [45, 4950, 499500]
    assert labels(dag_runs, "mapped", "sums") == ["below 10", "below 100", "below 1000"]


def test_a_batch_is_mapped_over_several_arguments(dag_runs: DagRuns) -> None:
    assert dag_runs.records.xcoms("mapped", "batches") == [[1, 4], [9, 16, 25]]
    assert labels(dag_runs, "mapped", "batches") == ["few", "more"]


def test_a_function_is_mapped_and_its_results_go_on_together(dag_runs: DagRuns) -> None:
    assert dag_runs.records.xcoms("mapped", "scaled") == [30, 300, 3000]
    assert labels(dag_runs, "mapped", "scaled") == ["10 by 3", "100 by 3", "1000 by 3"]
    assert dag_runs.result("mapped", "together") == 3330


def test_a_group_is_mapped(dag_runs: DagRuns) -> None:
    assert dag_runs.records.xcoms("grouped", "steps.squared") == [4, 9, 16]
    assert dag_runs.result("grouped", "put_together") == 29


def test_a_teardown_follows_a_failure_and_trigger_rules_hold(dag_runs: DagRuns) -> None:
    assert dag_runs.states("guarded") == {
        "opened": ["success"],
        "works": ["failed"],
        "closed": ["success"],
        "mends": ["success"],
        "never": ["upstream_failed"],
        "ended": ["success"],
    }


def test_a_pool_of_one_lets_one_run_at_a_time(dag_runs: DagRuns) -> None:
    tasks = sorted(dag_runs.task("limited", "one_at_a_time"), key=lambda task: task.began_at)
    assert [task.pool for task in tasks] == ["narrow"] * 3
    assert all(one.ended_at <= next_one.began_at for one, next_one in pairwise(tasks))


def test_a_retry_after_a_failure_runs_anew(dag_runs: DagRuns) -> None:
    assert dag_runs.result("limited", "second_time_lucky") == 2
    tries = [
        execution
        for execution in executions_of(dag_runs, "limited")
        if execution.user_metadata["task_id"] == "second_time_lucky"
    ]
    assert sorted((one.user_metadata["try_number"], one.status) for one in tries) == [
        (1, "failed"),
        (2, "completed"),
    ]


def test_a_task_whose_time_is_over_fails_and_its_execution_is_canceled(dag_runs: DagRuns) -> None:
    assert dag_runs.states("too_slow") == {"followed": ["failed"], "deferred": ["failed"]}
    # 2.11 fails a deferred task whose time is over without asking its operator
    canceled = {"followed", "deferred"} if MAJOR == 3 else {"followed"}
    with Client(dag_runs.server.url, dag_runs.server.api_key) as client:
        for execution in executions_of(dag_runs, "too_slow"):
            if execution.user_metadata["task_id"] not in canceled:
                client.cancel(execution.execution_id)
            else:
                assert client.wait(execution.execution_id, timeout_seconds=60).status == "canceled"


def test_an_asset_starts_another_dag_and_says_what_made_it(dag_runs: DagRuns) -> None:
    table, run_type = OF_DATASETS
    ((_, run_id),) = (key for key in dag_runs.records.runs() if key[0] == "takes_an_asset")
    assert dag_runs.records.runs()["takes_an_asset", run_id] == (run_type, "success")
    assert dag_runs.result("takes_an_asset", "takes") == run_id
    (execution_id,) = dag_runs.records.xcoms("makes_an_asset", "makes", "execution_id")
    (extra,) = dag_runs.records.asset_extras(table)
    assert extra["rgrid_execution_id"] == execution_id


def test_frames_go_from_task_to_task_by_xcom_or_by_reference(dag_runs: DagRuns) -> None:
    assert dag_runs.result("frames", "as_table")["kind"] == "rgrid_result"
    assert dag_runs.result("frames", "summed") == 6


def test_each_output_of_a_function_is_an_xcom_and_a_large_one_a_reference(dag_runs: DagRuns) -> None:
    (many,) = dag_runs.records.xcoms("outputs", "parts", "many")
    assert (many["kind"], many["filename"]) == ("rgrid_result", "rgrid-result-1")
    assert dag_runs.records.xcoms("outputs", "parts", "count") == [2]
    assert dag_runs.result("outputs", "parts") == {"many": many, "count": 2}
    assert dag_runs.result("outputs", "told") == [5000, 2]


def test_a_dict_of_too_many_large_outputs_is_one_reference_whose_keys_are_no_xcoms(dag_runs: DagRuns) -> None:
    assert dag_runs.result("outputs", "counted")["kind"] == "rgrid_result"
    assert dag_runs.records.xcoms("outputs", "counted", "kind") == []
    assert dag_runs.result("outputs", "put_in_sum") == 499500


def test_each_task_has_one_execution_or_batch_but_where_it_failed(dag_runs: DagRuns) -> None:
    for dag_id in (one for ids in dag_ids_of(OF_THE_TESTS).values() for one in ids):
        submitted: dict[tuple[str, int], set[str]] = {}
        for execution in executions_of(dag_runs, dag_id):
            place = (execution.user_metadata["task_id"], execution.user_metadata["map_index"])
            submitted.setdefault(place, set()).add(execution.batch_id or execution.execution_id)
        assert submitted, dag_id
        assert {place: len(ids) for place, ids in submitted.items()} == {
            place: TRIED_AGAIN.get((dag_id, place[0]), 1) for place in submitted
        }
