"""RGridRunOperator against a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, Asset, TaskDeferred
from airflow.triggers.base import TaskSuccessEvent

import rgrid_provider.operators.base as base
import rgrid_provider.operators.rgrid as operators
import rgrid_provider.triggers.rgrid as triggers
from rgrid.models import Execution, LogEntry
from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.operators.rgrid import RGridRunOperator
from rgrid_provider.tasklog import MAX_LINE_BYTES, TaskLog, printed_result
from tests.airflow.triggering import fired

ContextOf = Callable[..., dict[str, Any]]

SLEEPER = "import time\nprint('begun', flush=True)\ntime.sleep(60)"


def run(script: str, **options: Any) -> RGridRunOperator:
    """An operator of a task of this name."""
    return RGridRunOperator(task_id="task", script=script, **{"deferrable": False, **options})


def test_the_last_line_of_json_is_the_return_value(context_of: ContextOf) -> None:
    operator = run("print('noise')\nprint('{\"rows\": 3}')")
    assert operator.execute(context_of(operator)) == {"rows": 3}


def test_a_last_line_that_is_no_json_is_returned_as_text(context_of: ContextOf) -> None:
    operator = run("print('three rows')")
    assert operator.execute(context_of(operator)) == "three rows"


def test_the_last_line_of_more_than_an_execution_shows_is_the_return_value(context_of: ContextOf) -> None:
    operator = run("print('noise ' * 50_000)\nprint('{\"rows\": 3}')\nprint()")
    assert operator.execute(context_of(operator)) == {"rows": 3}


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([("stdout", b"x" * MAX_LINE_BYTES), ("stdout", b"x\n")], "is longer than"),
        ([("stdout", b"1\n"), ("stderr", b"[rgrid: too long; the rest is not kept]\n")], "was not kept"),
    ],
)
def test_a_last_line_that_is_too_long_or_not_kept_is_no_result(
    entries: list[tuple[str, bytes]], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = [LogEntry(number, stream, data) for number, (stream, data) in enumerate(entries, 1)]
    client = SimpleNamespace(logs=lambda execution_id: iter(log))
    with caplog.at_level("WARNING", "rgrid_provider.tasklog"):
        assert printed_result(client, Execution("exec_1", "completed", output_truncated=True)) is None
    assert why in caplog.text


def test_id_cost_and_artifacts_are_pushed(context_of: ContextOf) -> None:
    operator = run("open('out.txt', 'w').write('x' * 5)")
    context = context_of(operator)
    operator.execute(context)
    xcoms = context["ti"].xcoms
    assert xcoms["execution_id"].startswith("exec_")
    assert isinstance(xcoms["cost_micros"], int)
    assert [(item["filename"], item["size_bytes"]) for item in xcoms["artifacts"]] == [("out.txt", 5)]


def test_lines_are_in_the_task_log_with_their_streams(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = collected(operators, monkeypatch)
    operator = run("import sys\nprint('to out')\nprint('to err', file=sys.stderr)")
    operator.execute(context_of(operator))
    assert "[stdout] to out" in lines
    assert "[stderr] to err" in lines


def test_files_go_in_and_outputs_come_back(context_of: ContextOf, tmp_path: Path) -> None:
    data = tmp_path / "numbers.txt"
    data.write_text("1\n2\n3\n")
    operator = run(
        "total = sum(int(line) for line in open('numbers.txt'))\nopen('total.txt', 'w').write(str(total))",
        input_files=[str(data)],
        output_dir=str(tmp_path / "out"),
    )
    operator.execute(context_of(operator))
    assert (tmp_path / "out" / "total.txt").read_text() == "6"


def test_a_script_file_is_read_where_the_task_runs(context_of: ContextOf, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text("import sys\nprint(sys.argv)")
    operator = run(str(script), args=["a", "b.py"])
    assert operator.execute(context_of(operator)) == "['job.py', 'a', 'b.py']"


def test_dag_run_task_try_and_owner_are_attributed(context_of: ContextOf) -> None:
    operator = run("print(1)", user_metadata={"team": "red", "dag_id": "a lie"}, owner="ann")
    context = context_of(operator, try_number=2)
    operator.execute(context)
    metadata = RGridHook().client.get(context["ti"].xcoms["execution_id"]).user_metadata
    assert metadata["dag_id"] == "tests"
    assert metadata["task_id"] == "task"
    assert metadata["try_number"] == 2
    assert metadata["owner"] == "ann"
    assert metadata["team"] == "red"


def test_a_failed_script_fails_the_task_with_its_last_words(context_of: ContextOf) -> None:
    operator = run("raise ValueError('no rows today')")
    with pytest.raises(AirflowException, match="no rows today"):
        operator.execute(context_of(operator))


def test_what_can_never_work_fails_without_another_try(context_of: ContextOf) -> None:
    operator = run("print(1)", timeout_seconds=0)
    with pytest.raises(AirflowFailException, match="timeout_seconds is 0"):
        operator.execute(context_of(operator))


def test_a_missing_input_file_is_named(context_of: ContextOf) -> None:
    operator = run("print(1)", input_files=["/no/such/file.csv"])
    with pytest.raises(AirflowFailException, match=r"/no/such/file\.csv"):
        operator.execute(context_of(operator))


def test_the_next_try_attaches_to_what_a_lost_worker_has_submitted(context_of: ContextOf) -> None:
    script = "import time\ntime.sleep(1)\nprint('once')"
    lost = run(script)
    submitted = lost._submit_once(context_of(lost))
    again = run(script)
    context = context_of(again, try_number=2)
    assert again.execute(context) == "once"
    assert context["ti"].xcoms["execution_id"] == submitted.execution_id


def test_a_try_that_finds_a_failed_execution_submits_anew(context_of: ContextOf) -> None:
    script = "raise SystemExit(3)"
    lost = run(script)
    failed = lost._submit_once(context_of(lost))
    RGridHook().client.wait(failed.execution_id)
    again = run(script)
    context = context_of(again, try_number=2)
    with pytest.raises(AirflowException, match="exit code 3"):
        again.execute(context)
    assert context["ti"].xcoms["execution_id"] != failed.execution_id


def test_a_worker_lost_after_it_took_the_result_does_not_have_the_work_done_twice(
    context_of: ContextOf,
) -> None:
    lost, again = run("print('once')"), run("print('once')")
    one, two = context_of(lost), context_of(again, try_number=2)
    lost.execute(one)
    assert again.execute(two) == "once"
    assert one["ti"].xcoms == two["ti"].xcoms


@pytest.mark.parametrize("waits", [True, False])
def test_clearing_a_finished_task_runs_it_again(context_of: ContextOf, waits: bool) -> None:
    first, second = (run("print(1)", wait_for_completion=waits) for _ in range(2))
    one, two = context_of(first), context_of(second, try_number=2, clears=1)
    first.execute(one)
    RGridHook().client.wait(one["ti"].xcoms["execution_id"])
    second.execute(two)
    assert one["ti"].xcoms["execution_id"] != two["ti"].xcoms["execution_id"]


def test_a_context_that_says_nothing_of_the_tasks_life_is_served_once_a_call(context_of: ContextOf) -> None:
    operator = run(script="print(1)")
    context = context_of(operator)
    del context["dag_run"], context["ti"].max_tries
    assert operator.execute(context) == 1
    before = context["ti"].xcoms["execution_id"]
    assert operator.execute(context) == 1
    assert context["ti"].xcoms["execution_id"] != before


def test_what_still_runs_when_its_task_was_cleared_is_canceled_first(context_of: ContextOf) -> None:
    first, second = (run(SLEEPER, wait_for_completion=False) for _ in range(2))
    left, new = first.execute(context_of(first)), second.execute(context_of(second, 2, clears=1))
    client = RGridHook().client
    assert client.get(left).status == "canceled"
    assert not client.get(new).is_terminal
    # and a worker of the earlier life that comes late lets the new work be
    late = run(SLEEPER, wait_for_completion=False)
    assert late.execute(context_of(late)) == new
    assert client.cancel(new).attempt <= 1


def test_a_dag_that_changed_between_tries_cancels_the_older_work(context_of: ContextOf) -> None:
    older = run(SLEEPER)
    abandoned = older._submit_once(context_of(older))
    newer = run("print('new')")
    assert newer.execute(context_of(newer, try_number=2)) == "new"
    assert RGridHook().client.get(abandoned.execution_id).status == "canceled"


def test_not_waiting_returns_the_id_at_once(context_of: ContextOf) -> None:
    operator = run(SLEEPER, wait_for_completion=False)
    execution_id = operator.execute(context_of(operator))
    assert not RGridHook().client.get(execution_id).is_terminal
    RGridHook().client.cancel(execution_id)


def test_a_users_kill_cancels_the_execution(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "is_still_wanted", lambda _ti: False)
    operator = run(SLEEPER, wait_for_completion=False)
    execution_id = operator.execute(context_of(operator))
    operator.on_kill()
    assert RGridHook().client.wait(execution_id, timeout_seconds=30).status == "canceled"


def test_a_task_that_was_ended_submits_nothing_any_more(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "is_still_wanted", lambda _ti: False)
    operator = run(SLEEPER)
    body = operator._body

    def killed_meanwhile(context: dict[str, Any]) -> Any:
        operator.on_kill()
        return body(context)

    monkeypatch.setattr(operator, "_body", killed_meanwhile)
    context = context_of(operator)
    with pytest.raises(AirflowException, match="was ended before it submitted"):
        operator.execute(context)
    assert RGridHook().client.list(metadata={"run_id": context["ti"].run_id}) == []


def test_a_users_kill_just_after_it_submitted_cancels_what_came_of_it(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "is_still_wanted", lambda _ti: False)
    operator = run(SLEEPER)
    submit = operator._submit_once

    def killed_then(context: dict[str, Any]) -> Any:
        execution = submit(context)
        operator.on_kill()
        return execution

    monkeypatch.setattr(operator, "_submit_once", killed_then)
    context = context_of(operator)
    with pytest.raises(AirflowException, match="was ended while it submitted"):
        operator.execute(context)
    execution = RGridHook().client.wait(context["ti"].xcoms["execution_id"], timeout_seconds=30)
    assert execution.status == "canceled"


def test_a_stopping_worker_leaves_the_execution_running(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "is_still_wanted", lambda _ti: True)
    operator = run(SLEEPER, wait_for_completion=False)
    execution_id = operator.execute(context_of(operator))
    operator.on_kill()
    execution = RGridHook().client.get(execution_id)
    assert execution.cancel_requested_at is None
    RGridHook().client.cancel(execution_id)


def test_a_deferred_task_resumes_with_its_result(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = collected(triggers, monkeypatch)
    script = "import time\ntime.sleep(0.5)\nprint('line')\nprint(7)"
    # its outputs are for a worker's disk, so a worker ends the task
    operator = run(script, deferrable=True, output_dir=str(tmp_path))
    context = context_of(operator)
    event = fired(deferred_by(operator, context))
    assert "[stdout] line" in lines
    assert operator.execute_complete(context, event.payload) == 7


@pytest.mark.parametrize("pushes", [True, False])
def test_a_task_that_needs_no_worker_ends_in_the_triggerer_with_the_same_xcoms(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch, pushes: bool
) -> None:
    pushed: dict[str, Any] = {}

    async def push(_trigger: Any, values: dict[str, Any]) -> None:
        pushed.update(values)

    monkeypatch.setattr(triggers, "push_from_trigger", push)
    operator = run(
        "open('out.txt', 'w').write('x')\nimport time\ntime.sleep(0.5)\nprint('{}')",
        deferrable=True,
        do_xcom_push=pushes,
    )
    context = context_of(operator)
    assert isinstance(fired(deferred_by(operator, context)), TaskSuccessEvent)
    result = operator.execute_complete(context, {"execution_id": context["ti"].xcoms["execution_id"]})
    in_worker = {name: value for name, value in context["ti"].xcoms.items() if name != "execution_id"}
    assert pushed == in_worker | ({"return_value": result} if pushes else {})


def test_what_cannot_be_pushed_from_the_triggerer_is_left_to_a_worker(context_of: ContextOf) -> None:
    operator = run("import time\ntime.sleep(0.5)\nprint(7)", deferrable=True)
    context = context_of(operator)
    # outside of a triggerer a trigger has no task instance
    event = fired(deferred_by(operator, context))
    assert operator.execute_complete(context, event.payload) == 7


class Subclass(RGridRunOperator):
    """Does more with the result than its parent."""

    def execute_complete(self, context: Any, event: Any) -> Any:
        """Twice as much."""
        return 2 * super().execute_complete(context, event)


@pytest.mark.parametrize(
    "options",
    [
        {"output_dir": "out"},
        {"outlets": [Asset("somewhere")]},
        {"post_execute": print},
        {"on_success_callback": print},
        {"multiple_outputs": True},
    ],
)
def test_what_only_a_worker_does_keeps_the_task_for_a_worker(options: dict[str, Any]) -> None:
    assert run("print(1)")._ends_in_triggerer()
    operator = run(
        "print(1)", **{name: value for name, value in options.items() if name != "multiple_outputs"}
    )
    operator.multiple_outputs = options.get("multiple_outputs", False)
    assert not operator._ends_in_triggerer()
    assert not Subclass(task_id="task", script="print(1)")._ends_in_triggerer()


def deferred_by(operator: Any, context: dict[str, Any]) -> Any:
    """The trigger for which a task defers."""
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    path, _ = deferred.value.trigger.serialize()
    assert path == "rgrid_provider.triggers.rgrid.RGridExecutionTrigger"
    return deferred.value.trigger


def collected(module: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that a module's task logs write."""
    lines: list[str] = []

    def task_log(_write: Any) -> TaskLog:
        return TaskLog(lambda text, *values: lines.append(text % values))

    monkeypatch.setattr(module, "TaskLog", task_log)
    return lines


def test_secrets_reach_the_script_and_no_log(context_of: ContextOf, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = collected(operators, monkeypatch)
    RGridHook().client.put_secret("KEPT", "kept-hunter22")
    script = "import os\nprint([os.environ[n] for n in ('GIVEN', 'KEPT')], len(os.environ['KEPT']))"
    operator = run(script, secrets={"GIVEN": "given-hunter22", "KEPT": None})
    assert operator.execute(context_of(operator)) == "['***', '***'] 13"
    assert "[stdout] ['***', '***'] 13" in lines
    by_name = run("import os\nprint(len(os.environ['KEPT']))", secrets=["KEPT"])
    assert by_name.execute(context_of(by_name, 2)) == 13


def test_events_of_assets_say_what_made_them_and_what_it_cost(context_of: ContextOf) -> None:
    outlet = Asset("file:///tables/rows")
    operator = run("print(1)", outlets=[outlet])
    context = context_of(operator)
    extra: dict[str, Any] = {}
    context["outlet_events"] = {outlet: SimpleNamespace(extra=extra)}
    operator.execute(context)
    assert extra == {
        "rgrid_execution_id": context["ti"].xcoms["execution_id"],
        "rgrid_cost_micros": context["ti"].xcoms["cost_micros"],
    }


def test_lineage_has_files_and_cost_also_of_what_failed(context_of: ContextOf, tmp_path: Path) -> None:
    data = tmp_path / "numbers.txt"
    data.write_text("1\n")
    operator = run("open('out.txt', 'w').write('x' * 5)", input_files=[str(data)])
    context = context_of(operator)
    operator.execute(context)
    lineage = operator.get_openlineage_facets_on_complete(context["ti"])
    ((read,), (written,)) = lineage.inputs, lineage.outputs
    assert (read.namespace, read.name) == ("file", str(data))
    assert written.namespace.startswith("rgrid://127.0.0.1:")
    assert written.name == f"{context['ti'].xcoms['execution_id']}/out.txt"
    assert written.outputFacets["outputStatistics"].size == 5
    assert lineage.run_facets["rgrid"].cost_micros == context["ti"].xcoms["cost_micros"]
    failing = run("raise SystemExit(3)")
    context = context_of(failing, 2)
    with pytest.raises(AirflowException):
        failing.execute(context)
    told = failing.get_openlineage_facets_on_complete(context["ti"])
    assert told.run_facets["rgrid"].status == "failed"


def test_a_docker_connection_opens_a_registry_and_its_password_is_a_secret(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", "docker://someone:open%20sesame@registry.example:5000")
    operator = run("print(1)", runtime="docker:registry.example:5000/x:1", docker_conn_id="images")
    body = operator._body(context_of(operator))
    assert body["secrets"] == {"RGRID_REGISTRY_AUTH": "someone:open sesame"}
    assert "open sesame" not in str({name: value for name, value in body.items() if name != "secrets"})


def test_a_docker_connection_without_a_password_is_said(
    context_of: ContextOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", "docker://registry.example:5000")
    operator = run("print(1)", runtime="docker:registry.example:5000/x:1", docker_conn_id="images")
    with pytest.raises(AirflowException, match="'images' has no login and password"):
        operator._body(context_of(operator))
