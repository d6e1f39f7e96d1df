"""RGridBatchOperator and the sensors against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred
from airflow.triggers.base import TaskSuccessEvent

import rgrid_provider.triggers.rgrid as triggers
from rgrid import calls
from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.operators.rgrid import RGridBatchOperator, RGridRunOperator
from rgrid_provider.results import load_result
from rgrid_provider.sensors.rgrid import RGridBatchSensor, RGridBudgetSensor, RGridExecutionSensor
from tests.airflow.triggering import fired
from tests.live import LiveServer

ContextOf = Callable[..., dict[str, Any]]

FAILS_ON_TWO = "import sys\nprint(sys.argv[1])\nsys.exit(sys.argv[1] == '2')"


def batch(**options: Any) -> RGridBatchOperator:
    """An operator of a task of this name."""
    return RGridBatchOperator(task_id="task", **{"deferrable": False, **options})


def test_results_come_in_the_order_of_the_inputs(context_of: ContextOf) -> None:
    operator = batch(script="import sys\nprint(int(sys.argv[1]) ** 2)", inputs=["3", "1", "2"], parallelism=2)
    context = context_of(operator)
    assert operator.execute(context) == [9, 1, 4]
    assert context["ti"].xcoms["batch_id"].startswith("batch_")
    assert isinstance(context["ti"].xcoms["cost_micros"], int)


def test_long_lines_are_whole(context_of: ContextOf) -> None:
    script = "import sys\nprint('[' + ', '.join(['1'] * int(sys.argv[1])) + ']')"
    operator = batch(script=script, inputs=["2", "3000", "60000"])
    assert [len(value) for value in operator.execute(context_of(operator))] == [2, 3000, 60000]


@pytest.mark.parametrize("fail_on", ["any", "all"])
def test_results_that_are_too_much_for_xcom_are_a_reference_that_loads(
    context_of: ContextOf, tmp_path: Path, fail_on: str
) -> None:
    (tmp_path / "runs").mkdir()
    options = {"script": FAILS_ONCE, "inputs": ["a", "b", "c", "d"], "args": [str(tmp_path / "runs")]}
    first = batch(**options, fail_on=fail_on, max_result_bytes=20)
    if fail_on == "any":
        with pytest.raises(AirflowException):
            first.execute(context_of(first))
        again = batch(**options, max_result_bytes=20)
        reference, results = again.execute(context_of(again, try_number=2)), ["aa", "bb", "cc", "dd"]
        assert len(reference["batch_ids"]) == 2
    else:
        reference, results = first.execute(context_of(first)), ["aa", None, "cc", None]
    assert (reference["kind"], reference["count"]) == ("rgrid_batch_results", 4)
    assert reference["size_bytes"] == len(json.dumps(results))
    assert load_result(reference) == results


def test_a_glob_runs_once_a_file_and_outputs_have_folders_of_their_own(
    context_of: ContextOf, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name * 3)
    operator = batch(
        script="import sys\nopen('size.txt', 'w').write(str(len(open(sys.argv[1]).read())))",
        inputs=str(tmp_path / "*.txt"),
        output_dir=str(tmp_path / "out"),
    )
    operator.execute(context_of(operator))
    found = {
        str(path.relative_to(tmp_path / "out"))
        for path in (tmp_path / "out").rglob("*.txt")
        if path.is_file()
    }
    assert found == {"a.txt/size.txt", "b.txt/size.txt"}


@pytest.mark.parametrize(("fail_on", "fails"), [("any", True), ("all", False), (0.3, True), (0.5, False)])
def test_fail_on_says_how_many_failures_fail_the_task(
    context_of: ContextOf, fail_on: str | float, fails: bool
) -> None:
    operator = batch(script=FAILS_ON_TWO, inputs=["1", "2", "3"], fail_on=fail_on)
    if fails:
        with pytest.raises(AirflowException, match="1 of 3"):
            operator.execute(context_of(operator))
    else:
        assert operator.execute(context_of(operator)) == [1, None, 3]


def test_a_second_try_attaches_to_the_batch_of_the_first(context_of: ContextOf) -> None:
    options = {"script": "import time\ntime.sleep(0.5)\nprint(1)", "inputs": ["1", "2"]}
    lost = batch(**options)
    submitted = lost._submit_once(context_of(lost))
    again = batch(**options)
    context = context_of(again, try_number=2)
    assert again.execute(context) == [1, 1]
    assert context["ti"].xcoms["batch_id"] == submitted.batch_id


FAILS_ONCE = """
import pathlib, sys
name, directory = sys.argv[1:]
runs = pathlib.Path(directory, name)
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
pathlib.Path("runs.txt").write_text(runs.read_text())
print(name * 2)
sys.exit(name in "bd" and len(runs.read_text()) == 1)
"""
"""Counts its runs beside it; two of its inputs fail the first time."""


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_try_after_a_failed_one_runs_only_what_had_failed(
    context_of: ContextOf, tmp_path: Path, deferrable: bool
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    runs.mkdir()
    options = {
        "script": FAILS_ONCE,
        "inputs": ["a", "b", "c", "d"],
        "args": [str(runs)],
        "output_dir": str(out),
        "deferrable": deferrable,
    }
    first = batch(**options)
    with pytest.raises(AirflowException, match="2 of 4"):
        finished(first, context_of(first))
    second = batch(**options)
    context = context_of(second, try_number=2)
    assert finished(second, context) == ["aa", "bb", "cc", "dd"]
    counted = {"a": "x", "b": "xx", "c": "x", "d": "xx"}
    assert {path.name: path.read_text() for path in runs.iterdir()} == counted
    assert {path.parent.name: path.read_text() for path in out.glob("*/runs.txt")} == counted
    client = RGridHook().client
    again = client.batch(context["ti"].xcoms["batch_id"])
    before = client.batch(again.user_metadata["airflow_retry_of"])
    assert (before.total, again.total) == (4, 2)
    assert context["ti"].xcoms["cost_micros"] == before.total_cost_micros + again.total_cost_micros


def test_a_lost_worker_in_a_second_try_is_attached_to_by_the_third(
    context_of: ContextOf, tmp_path: Path
) -> None:
    options = {"script": FAILS_ONCE, "inputs": ["a", "b"], "args": [str(tmp_path)]}
    first = batch(**options)
    with pytest.raises(AirflowException, match="1 of 2"):
        first.execute(context_of(first))
    lost = batch(**options)
    submitted = lost._submit_once(context_of(lost, try_number=2))
    third = batch(**options)
    context = context_of(third, try_number=3)
    assert third.execute(context) == ["aa", "bb"]
    assert context["ti"].xcoms["batch_id"] == submitted.batch_id
    assert (tmp_path / "b").read_text() == "xx"


def test_clearing_a_finished_batch_runs_all_of_it_again(context_of: ContextOf, tmp_path: Path) -> None:
    options = {"script": FAILS_ONCE, "inputs": ["a", "b"], "args": [str(tmp_path)]}
    tries = [batch(**options) for _ in range(4)]
    with pytest.raises(AirflowException):
        tries[0].execute(context_of(tries[0]))
    assert tries[1].execute(context_of(tries[1], try_number=2)) == ["aa", "bb"]
    # the worker of that try was lost before Airflow knew
    assert tries[2].execute(context_of(tries[2], try_number=3)) == ["aa", "bb"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "x", "b": "xx"}
    assert tries[3].execute(context_of(tries[3], try_number=4, clears=1)) == ["aa", "bb"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "xx", "b": "xxx"}


def test_a_batch_that_runs_when_its_task_was_cleared_is_canceled_and_its_rest_run(
    context_of: ContextOf, tmp_path: Path
) -> None:
    script = """
import pathlib, sys, time
runs = pathlib.Path(sys.argv[2], sys.argv[1])
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
if sys.argv[1] == "slow" and runs.read_text() == "x":
    time.sleep(60)
print(1)
"""
    options = {"script": script, "inputs": ["quick", "slow"], "args": [str(tmp_path)]}
    lost, again = batch(**options), batch(**options)
    client = RGridHook().client
    left = lost._submit_once(context_of(lost))
    while client.batch(left.batch_id, 5).counts.completed < 1 or not (tmp_path / "slow").exists():
        pass
    assert again.execute(context_of(again, try_number=2, clears=1)) == [1, 1]
    assert client.batch(left.batch_id).counts.canceled == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"quick": "x", "slow": "xx"}


def test_failures_that_are_borne_are_not_run_again(context_of: ContextOf) -> None:
    options = {"script": FAILS_ON_TWO, "inputs": ["1", "2", "3"], "fail_on": "all"}
    lost = batch(**options)
    submitted = lost._submit_once(context_of(lost))
    RGridHook().client.wait_batch(submitted.batch_id)
    again = batch(**options)
    context = context_of(again, try_number=2)
    assert again.execute(context) == [1, None, 3]
    assert context["ti"].xcoms["batch_id"] == submitted.batch_id


def finished(operator: RGridBatchOperator, context: dict[str, Any]) -> Any:
    """What a try returns, through the triggerer where it defers."""
    try:
        return operator.execute(context)
    except TaskDeferred as deferred:
        return operator.execute_complete(context, first_event(deferred.trigger))


def test_a_glob_that_matches_nothing_is_named(context_of: ContextOf, tmp_path: Path) -> None:
    operator = batch(script="print(1)", inputs=str(tmp_path / "*.nothing"))
    with pytest.raises(AirflowException, match="matches no input"):
        operator.execute(context_of(operator))


def test_a_deferred_batch_resumes_with_its_results(context_of: ContextOf) -> None:
    operator = batch(script="import time\ntime.sleep(0.5)\nprint(5)", inputs=["x"], deferrable=True)
    context = context_of(operator)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    event = first_event(deferred.value.trigger)
    assert operator.execute_complete(context, event) == [5]


def test_a_sensor_passes_when_the_execution_completes(context_of: ContextOf, server: LiveServer) -> None:
    client = RGridHook().client
    done = client.wait(client.submit("print(1)").execution_id)
    sensor = RGridExecutionSensor(task_id="sense", execution_id=done.execution_id, deferrable=False)
    assert sensor.poke({}) is True


def test_a_sensor_fails_when_the_execution_fails(context_of: ContextOf, server: LiveServer) -> None:
    client = RGridHook().client
    failed = client.wait(client.submit("raise SystemExit(9)").execution_id)
    sensor = RGridExecutionSensor(task_id="sense", execution_id=failed.execution_id, deferrable=False)
    with pytest.raises(AirflowException, match="exit code 9"):
        sensor.poke({})


def test_a_deferred_sensor_resumes_at_the_end(context_of: ContextOf, server: LiveServer) -> None:
    client = RGridHook().client
    going_on = client.submit("import time\ntime.sleep(0.5)")
    sensor = RGridExecutionSensor(task_id="sense", execution_id=going_on.execution_id, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute({})
    # no worker is needed to say that it passes
    assert isinstance(fired(deferred.value.trigger), TaskSuccessEvent)


def test_a_deferred_sensor_fails_in_a_worker_with_its_reason(server: LiveServer) -> None:
    client = RGridHook().client
    failed = client.submit("import time\ntime.sleep(0.5)\nraise SystemExit(9)")
    sensor = RGridExecutionSensor(task_id="sense", execution_id=failed.execution_id, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute({})
    with pytest.raises(AirflowException, match="failed"):
        sensor.execute_complete({}, first_event(deferred.value.trigger))


def test_a_batch_sensor_waits_for_all_of_it(context_of: ContextOf, server: LiveServer) -> None:
    client = RGridHook().client
    submitted = client.submit_batch({"script_content": "print(1)"}, [{}, {}])
    client.wait_batch(submitted.batch_id)
    sensor = RGridBatchSensor(task_id="sense", batch_id=submitted.batch_id, deferrable=False)
    assert sensor.poke({}) is True


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_budget_sensor_passes_when_there_is_money_to_spend(server: LiveServer, deferrable: bool) -> None:
    client = RGridHook().client
    spent = client.send(calls.get_budget()).current_usage_micros
    sensor = RGridBudgetSensor(
        task_id="sense", least_micros=1_000_000, deferrable=deferrable, poke_interval=0.05
    )
    assert sensor.poke({}) is True
    # a micro less is left than what is asked for
    client.send(calls.set_budget(f"{(spent + 999_999) / 1e6:.6f}"))
    try:
        assert sensor.poke({}) is False
        if deferrable:
            with pytest.raises(TaskDeferred) as deferred:
                sensor.execute({})
            _, arguments = deferred.value.trigger.serialize()
            trigger = type(deferred.value.trigger)(**arguments)

            async def wait() -> Any:
                waiting = asyncio.create_task(anext(trigger.run()))
                await asyncio.sleep(0.3)
                assert not waiting.done()
                await asyncio.to_thread(client.send, calls.set_budget(f"{(spent + 2_000_000) / 1e6:.6f}"))
                return await waiting

            assert isinstance(asyncio.run(wait()), TaskSuccessEvent)
    finally:
        client.send(calls.remove_budget())


@pytest.mark.parametrize("watches", [False, True])
@pytest.mark.parametrize("by_hook", [False, True])
def test_a_kill_ends_what_the_task_began_and_not_what_it_watches(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch, watches: bool, by_hook: bool
) -> None:
    client = RGridHook().client
    script = "import time\ntime.sleep(60)"
    if watches:
        execution_id = client.submit(script).execution_id
        task: Any = RGridExecutionSensor(task_id="sense", execution_id=execution_id, deferrable=True)
        context: dict[str, Any] = {}
    else:
        task = RGridRunOperator(task_id="task", script=script, deferrable=True)
        context = context_of(task)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    execution_id = execution_id if watches else context["ti"].xcoms["execution_id"]
    _, arguments = deferred.value.trigger.serialize()
    trigger = type(deferred.value.trigger)(**arguments)

    async def is_killed(_trigger: Any) -> bool:
        return True

    async def kill() -> None:
        if by_hook:
            await trigger.on_kill()
            return
        waiting = asyncio.create_task(anext(trigger.run()))
        await asyncio.sleep(0.5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    monkeypatch.setattr(triggers, "was_deferred_task_killed", is_killed)
    asyncio.run(kill())
    assert (client.get(execution_id).cancel_requested_at is None) is watches
    client.cancel(execution_id)


def first_event(trigger: Any) -> dict[str, Any]:
    """What a trigger tells a worker."""
    payload = fired(trigger).payload
    assert isinstance(payload, dict)
    return payload
