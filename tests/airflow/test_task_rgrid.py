"""``@task.rgrid`` against a real server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    TaskDeferred,
)

from rgrid_provider.decorators.rgrid import RGridDecoratedOperator
from rgrid_provider.functions import CannotBeCarried, build_script, encode_arguments, wanted_context
from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.results import load_result
from tests.airflow.test_batch_and_sensors import first_event

ContextOf = Callable[..., dict[str, Any]]


def called(function: Callable[..., Any], *args: Any, **options: Any) -> RGridDecoratedOperator:
    """A task of a function with arguments; what is no argument of the function is one of the operator."""
    kwargs = options.pop("kwargs", {})
    return RGridDecoratedOperator(
        task_id="task",
        python_callable=function,
        op_args=args,
        op_kwargs=kwargs,
        **{"deferrable": False, **options},
    )


def total(numbers: list[int], scale: int = 1) -> dict[str, int]:
    print("adding", len(numbers))
    return {"total": sum(numbers) * scale}


def test_arguments_go_there_and_the_result_comes_back(context_of: ContextOf) -> None:
    task = called(total, [1, 2, 3], kwargs={"scale": 2})
    context = context_of(task)
    assert task.execute(context) == {"total": 12}
    assert context["ti"].xcoms["artifacts"] == []
    assert isinstance(context["ti"].xcoms["cost_micros"], int)


def test_a_deferred_one_resumes_with_its_result(context_of: ContextOf) -> None:
    task = called(total, [4], deferrable=True)
    context = context_of(task)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    # another process takes it up
    again = called(total, [4], deferrable=True)
    assert again.execute_complete(context, first_event(deferred.value.trigger)) == {"total": 4}


def test_another_try_attaches_to_the_call_of_a_lost_worker(context_of: ContextOf, tmp_path: Path) -> None:
    def count(directory: str) -> int:
        import pathlib
        import time

        path = pathlib.Path(directory, "calls")
        path.write_text((path.read_text() if path.exists() else "") + "x")
        time.sleep(0.5)
        return len(path.read_text())

    lost = called(count, str(tmp_path), wait_for_completion=False)
    execution_id = lost.execute(context_of(lost))
    again = called(count, str(tmp_path))
    context = context_of(again, try_number=2)
    assert again.execute(context) == 1
    assert context["ti"].xcoms["execution_id"] == execution_id


def test_what_is_no_json_is_pickled(context_of: ContextOf) -> None:
    def days_later(day: Any, days: int) -> Any:
        from datetime import timedelta

        return {"day": day + timedelta(days=days), "seen": {day}}

    day = datetime(2026, 1, 30, tzinfo=UTC)
    task = called(days_later, day, 2, serializer="pickle")
    assert task.execute(context_of(task)) == {"day": datetime(2026, 2, 1, tzinfo=UTC), "seen": {day}}


def test_files_and_outputs_stand_beside_the_function(context_of: ContextOf, tmp_path: Path) -> None:
    def copy(name: str) -> str:
        with open(name) as given, open("copy.txt", "w") as written:
            written.write(given.read())
        return "copied"

    data = tmp_path / "data.txt"
    data.write_text("rows")
    task = called(copy, "data.txt", input_files=[str(data)], output_dir=str(tmp_path / "out"))
    context = context_of(task)
    assert task.execute(context) == "copied"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["copy.txt"]
    assert [item["filename"] for item in context["ti"].xcoms["artifacts"]] == ["copy.txt"]


def test_a_large_result_is_a_reference_that_loads(context_of: ContextOf) -> None:
    def large(size: int) -> str:
        return "x" * size

    task = called(large, 5000, max_result_bytes=1000)
    reference = task.execute(context_of(task))
    assert (reference["filename"], reference["size_bytes"]) == ("rgrid-result", 5002)
    assert load_result(reference) == "x" * 5000
    assert load_result({"plain": 1, "kind": ["of", "mine"]}) == {"plain": 1, "kind": ["of", "mine"]}


def test_of_many_outputs_each_large_value_is_a_reference_by_itself(context_of: ContextOf) -> None:
    def parts(size: int) -> dict[str, Any]:
        return {"few": [1, 2], "many": "x" * size, "deep": {"a": 1}}

    task = called(parts, 5000, max_result_bytes=1000, multiple_outputs=True)
    context = context_of(task)
    found = task.execute(context)
    assert list(found) == ["few", "many", "deep"]
    assert (found["few"], found["deep"]) == ([1, 2], {"a": 1})
    assert (found["many"]["filename"], found["many"]["size_bytes"]) == ("rgrid-result-1", 5002)
    assert load_result(found["many"]) == "x" * 5000
    assert load_result(found) == parts(5000)
    assert context["ti"].xcoms["artifacts"] == []


def test_many_outputs_that_are_small_are_as_they_are(context_of: ContextOf) -> None:
    task = called(total, [1, 2], multiple_outputs=True)
    assert task.execute(context_of(task)) == {"total": 3}


def test_outputs_that_are_pickled_are_taken_apart_too(context_of: ContextOf) -> None:
    def parts(size: int) -> Any:
        return {"numbers": set(range(size)), "count": size}

    task = called(parts, 500, serializer="pickle", max_result_bytes=500, multiple_outputs=True)
    found = task.execute(context_of(task))
    assert found["count"] == 500
    assert load_result(found["numbers"]) == set(range(500))


def test_a_deferred_task_with_many_outputs_resumes_with_each(context_of: ContextOf) -> None:
    def parts() -> dict[str, Any]:
        return {"few": 1, "many": "x" * 5000}

    options = {"max_result_bytes": 1000, "multiple_outputs": True, "deferrable": True}
    task = called(parts, **options)
    context = context_of(task)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    found = called(parts, **options).execute_complete(context, first_event(deferred.value.trigger))
    assert found["few"] == 1
    assert load_result(found["many"]) == "x" * 5000


def test_too_many_large_outputs_are_one_reference_and_no_outputs(context_of: ContextOf) -> None:
    def squares(count: int) -> dict[str, int]:
        return {str(number): number * number for number in range(count)}

    task = called(squares, 1000, max_result_bytes=100, multiple_outputs=True)
    reference = task.execute(context_of(task))
    # Airflow pushes what it returns as one
    assert not task.multiple_outputs
    assert load_result(reference) == squares(1000)


def test_a_large_result_that_is_no_dict_of_outputs_is_told(context_of: ContextOf) -> None:
    def no_dict() -> str:
        return "x" * 5000

    task = called(no_dict, max_result_bytes=1000, multiple_outputs=True)
    with pytest.raises(AirflowFailException, match=r"no_dict\(\) returned what is no dict with strings"):
        task.execute(context_of(task))


def test_context_variables_come_on_request(context_of: ContextOf) -> None:
    def told(prefix: str, ds: Any = None, run_id: Any = None, logical_date: Any = None) -> list[Any]:
        return [prefix, ds, run_id, logical_date]

    task = called(told, "on", kwargs={"run_id": "mine"})
    context = context_of(task) | {
        "ds": "2026-01-30",
        "run_id": "airflows",
        "logical_date": datetime(2026, 1, 30, tzinfo=UTC),
    }
    assert task.execute(context) == ["on", "2026-01-30", "mine", "2026-01-30T00:00:00+00:00"]


def test_an_exception_fails_the_task_with_its_traceback(context_of: ContextOf) -> None:
    def fails() -> None:
        raise ValueError("no rows today")

    task = called(fails)
    with pytest.raises(AirflowException, match="ValueError: no rows today") as failure:
        task.execute(context_of(task))
    assert not isinstance(failure.value, AirflowFailException)


def test_a_skip_skips_and_is_no_failure_on_the_grid(context_of: ContextOf) -> None:
    def skips() -> None:
        from airflow.exceptions import AirflowSkipException

        raise AirflowSkipException("nothing new")

    task = called(skips)
    context = context_of(task)
    with pytest.raises(AirflowSkipException, match="nothing new"):
        task.execute(context)
    execution = RGridHook().client.get(context["ti"].xcoms["execution_id"])
    assert execution.status == "completed"
    # a worker that was lost before Airflow knew does not have it done again
    again = context_of(task, try_number=2)
    with pytest.raises(AirflowSkipException):
        called(skips).execute(again)
    assert again["ti"].xcoms["execution_id"] == execution.execution_id


def test_a_failure_for_good_is_not_tried_again(context_of: ContextOf) -> None:
    def gives_up() -> None:
        from airflow.sdk.exceptions import AirflowFailException

        raise AirflowFailException("wrong bucket")

    task = called(gives_up)
    with pytest.raises(AirflowFailException, match="wrong bucket"):
        task.execute(context_of(task))


def test_one_that_leaves_early_is_told(context_of: ContextOf) -> None:
    def leaves() -> None:
        raise SystemExit(0)

    task = called(leaves)
    tries = [context_of(task, try_number) for try_number in (1, 2)]
    for context in tries:
        with pytest.raises(AirflowException, match=r"leaves\(\).*sys\.exit"):
            called(leaves).execute(context)
    # though it ran well on the grid, another try runs it again
    assert len({context["ti"].xcoms["execution_id"] for context in tries}) == 2


def test_what_cannot_be_carried_is_named(context_of: ContextOf) -> None:
    task = called(total, [1], kwargs={"scale": object()})
    with pytest.raises(AirflowFailException, match=r"argument 'scale' of total\(\) .*json.*pickle"):
        task.execute(context_of(task))

    def returns_an_object() -> object:
        return object()

    task = called(returns_an_object)
    with pytest.raises(AirflowException, match=r"returned a object that cannot be carried as json"):
        task.execute(context_of(task))


def test_an_unknown_serializer_and_a_script_are_refused_when_the_dag_is_read() -> None:
    with pytest.raises(ValueError, match=r"no serializer 'yaml'.*json, pickle"):
        called(total, serializer="yaml")
    with pytest.raises(TypeError, match="the function is the script"):
        called(total, script="print(1)")


def test_a_serializer_that_is_not_here_is_named(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    task = called(total, [1], serializer="cloudpickle")
    with pytest.raises(AirflowFailException, match="pip install cloudpickle"):
        task.execute(context_of(task))


def test_json_arguments_are_the_same_bytes_in_every_try() -> None:
    one = encode_arguments(total, [], {"a": 1, "b": {"d": 2, "c": 3}}, "json")
    assert one == encode_arguments(total, [], {"b": {"c": 3, "d": 2}, "a": 1}, "json")


def test_an_argument_by_place_is_named_by_its_parameter() -> None:
    with pytest.raises(CannotBeCarried, match="argument 'scale'"):
        encode_arguments(total, [[1], {1}], {}, "json")


def test_only_what_is_asked_for_and_not_given_is_taken_from_the_context() -> None:
    def asks(ds: Any, ts: Any = None, other: Any = None) -> None: ...

    context = {"ds": "day", "ts": "time", "other": "not carried", "run_id": "not asked for"}
    assert wanted_context(asks, [], {}, context) == {"ds": "day", "ts": "time"}
    assert wanted_context(asks, ["given"], {}, context) == {"ts": "time"}
    assert wanted_context(asks, [], {"ts": "given"}, context) == {"ds": "day"}


def test_annotations_need_nothing_that_is_not_there(tmp_path: Path) -> None:
    source = "def f(frame: pandas.DataFrame) -> polars.Series:\n    return frame\n"
    (tmp_path / "script.py").write_text(build_script(source, "f", "json"))
    (tmp_path / "rgrid-arguments").write_bytes(b'[["there"], {}]')
    subprocess.run([sys.executable, "-I", "script.py"], cwd=tmp_path, check=True)
    assert (tmp_path / "rgrid-result").read_text() == '"there"'


def test_what_a_function_imports_first_is_imported_before_it_starts(context_of: ContextOf) -> None:
    def load() -> str:
        """Say where it is from."""
        import xml.dom.minidom
        from decimal import Decimal

        return f"{xml.dom.minidom.__name__} {Decimal(1)}"

    task = called(load)
    context = context_of(task)
    assert task.execute(context) == "xml.dom.minidom 1"
    script = RGridHook().client.get(context["ti"].xcoms["execution_id"])
    assert script.execution_metadata["start"] == "warm"
    assert "import xml.dom.minidom as _early" in script.script_content


@pytest.mark.parametrize("problem", ["import nonesuch", "from json import nonesuch", "import broken"])
def test_an_import_that_fails_is_the_functions_own(tmp_path: Path, problem: str) -> None:
    source = f"def f():\n    {problem}\n"
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken for good')")
    (tmp_path / "script.py").write_text(build_script(source, "f", "json"))
    (tmp_path / "rgrid-arguments").write_bytes(b"[[], {}]")
    ended = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ", in f\n" in ended.stderr
    assert '"ended": "raised"' in (tmp_path / "rgrid-outcome").read_text()
