"""RGridBatchOperator and the sensors against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred

from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.operators.rgrid import RGridBatchOperator
from rgrid_provider.sensors.rgrid import RGridBatchSensor, RGridExecutionSensor
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
    event = first_event(deferred.value.trigger)
    assert event["status"] == "completed"
    sensor.execute_complete({}, event)


def test_a_batch_sensor_waits_for_all_of_it(context_of: ContextOf, server: LiveServer) -> None:
    client = RGridHook().client
    submitted = client.submit_batch({"script_content": "print(1)"}, [{}, {}])
    client.wait_batch(submitted.batch_id)
    sensor = RGridBatchSensor(task_id="sense", batch_id=submitted.batch_id, deferrable=False)
    assert sensor.poke({}) is True


def first_event(trigger: Any) -> dict[str, Any]:
    """What a trigger fires, after a way through its own serialization."""
    _, arguments = trigger.serialize()
    again = type(trigger)(**arguments)

    async def wait() -> Any:
        return [event.payload async for event in again.run()]

    (payload,) = asyncio.run(wait())
    assert isinstance(payload, dict)
    return payload
