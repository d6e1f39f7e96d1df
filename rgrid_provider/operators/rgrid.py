"""Operators: one script, or one script over many inputs, on the grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rgrid import calls
from rgrid.client import Client
from rgrid.exceptions import ConfigurationError, InvalidRequest, TooLarge
from rgrid.models import Execution
from rgrid_provider._compat import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    needs_no_worker,
)
from rgrid_provider.attribution import run_key
from rgrid_provider.done import Done, Written, files_in_xcom, outputs_of, tell_end
from rgrid_provider.links.rgrid import RGridExecutionLink
from rgrid_provider.lives import Step, next_step, says_its_life
from rgrid_provider.operators.base import GridOperator
from rgrid_provider.operators.batch import RGridBatchOperator
from rgrid_provider.sources import named_files
from rgrid_provider.tasklog import TaskLog, printed_result
from rgrid_provider.triggers.rgrid import RGridExecutionTrigger

XCOMS_BESIDE_VALUE = ("cost_micros", "artifacts")
XCOMS = (*XCOMS_BESIDE_VALUE, "return_value")


class RGridRunOperator(GridOperator):
    """Runs one script on the grid.

    Args:
        script: source, or the path of a ``.py`` file.
        args: its arguments.
        env_vars: its environment variables.
        secrets: environment variables that are sealed on the server and masked in the log: names to values,
            None for one that is kept on the server; or only names of such.
        requirements: packages: a list, a requirements text, or the path of a ``.txt`` file.
        runtime: such as ``python:3.11``, or ``docker:IMAGE``.
        input_files: files of the worker: paths, or a mapping of names to paths.
        output_dir: where its outputs go on the worker; left on the grid when None.
        timeout_seconds: how long it may run.
        cpus: vCPUs to hold for it.
        memory_mib: memory that it may use.
        priority: -100 to 100; higher runs first.
        cache: ``read`` or ``read_write``: whether an earlier result of just the same work may stand for it.
        user_metadata: notes to find it by; dag, run, task, owner and tags are added.
        rgrid_conn_id: the connection.
        docker_conn_id: a connection of the Docker provider, whose login and password the registry of a
            ``docker:IMAGE`` is shown; the script does not get them.
        deferrable: wait in the triggerer; the configuration's default when None.
        wait_for_completion: False returns the execution's id at once.
        poll_interval: seconds that one look at the server may wait.

    Pushes ``execution_id`` as soon as it is submitted, then ``return_value`` (the last line of stdout, parsed
    where it is JSON), ``cost_micros`` and ``artifacts``.
    """

    template_fields: Sequence[str] = (
        "script",
        "args",
        "env_vars",
        "requirements",
        "runtime",
        "input_files",
        "output_dir",
        "user_metadata",
    )
    operator_extra_links = (RGridExecutionLink(),)
    work_id_key = "execution_id"

    def __init__(
        self, *, input_files: Mapping[str, str] | Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.input_files = input_files

    def execute(self, context: Any) -> Any:
        """Submit, or attach to what an earlier try submitted; then wait."""
        self._begin(context)
        with self._ended_by_timeout():
            execution = self._submit_once(context)
            self._keep(context, execution.execution_id)
            if not self.wait_for_completion:
                return execution.execution_id
            if self.deferrable and not execution.is_terminal:
                self._defer(
                    RGridExecutionTrigger(
                        rgrid_conn_id=self.rgrid_conn_id,
                        execution_id=execution.execution_id,
                        poll_interval=self.poll_interval,
                        ends_task=self._ends_in_triggerer(),
                        xcoms=XCOMS if self.do_xcom_push else XCOMS_BESIDE_VALUE,
                    ),
                    "execute_complete",
                )
            self._follow(execution.execution_id)
            execution = self.hook.client.wait(execution.execution_id)
        return self._take(context, execution)

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Take the result of an execution that the triggerer has waited for."""
        if event.get("error"):
            raise AirflowException(f"waiting for {event['execution_id']} failed: {event['error']}")
        return self._take(context, self.hook.client.get(event["execution_id"]))

    def _held_by(self, client: Client, run_key: str) -> Execution | None:
        found = client.send(calls.lookup_executions([], run_keys=[run_key]))
        return next(iter(found.values()), None)

    def _cancel(self, client: Client, work_id: str) -> None:
        client.cancel(work_id)

    def _end_and_free(self, client: Client, work_id: str) -> None:
        client.cancel(work_id)
        client.wait(work_id)
        client.acknowledge(work_id)

    def _submit_once(self, context: Any) -> Execution:
        client = self.hook.client
        try:
            inputs = client.upload(named_files(self.input_files))
            body = self._body(context) | {"inputs": inputs, "run_key": run_key(context["ti"])}
            execution = self._renewed(self._submit(body), body)
        except (ConfigurationError, InvalidRequest, TooLarge) as error:
            # another try would be told the same
            raise AirflowFailException(str(error)) from error
        what = "attached to" if execution.attached else "submitted"
        self.log.info("%s %s (%s)", what, execution.execution_id, execution.status)
        return execution

    def _renewed(self, execution: Execution, body: Mapping[str, Any]) -> Execution:
        """The execution that this try waits for: the one that was found, or one in place of it."""
        client = self.hook.client
        while execution.attached:
            step = next_step(
                body["user_metadata"],
                execution.user_metadata,
                is_terminal=execution.is_terminal,
                succeeded=execution.succeeded,
            )
            if step is Step.ATTACH:
                break
            self.log.info(
                "%s of an earlier try is %s; submitting anew", execution.execution_id, execution.status
            )
            if step is Step.REPLACE:
                self._end_and_free(client, execution.execution_id)
            else:
                client.acknowledge(execution.execution_id)
            execution = self._submit(body)
        return execution

    def _submit(self, body: Mapping[str, Any]) -> Execution:
        return self._submit_in_place(
            body["run_key"], lambda: self.hook.client.send(calls.submit_execution(body))
        )

    def _follow(self, execution_id: str) -> None:
        task_log = TaskLog(self.log.info)
        for entry in self.hook.client.logs(execution_id, follow=True):
            task_log.add(entry)
        task_log.end()

    def _take(self, context: Any, execution: Execution) -> Any:
        client, task_instance = self.hook.client, context["ti"]
        task_instance.xcom_push(key="cost_micros", value=execution.cost_micros)
        tell_end(self.log, execution)
        done = Done(
            kind="execution",
            id=execution.execution_id,
            server=self.hook.settings.server.url,
            status=execution.status,
            cost_micros=execution.cost_micros,
            read=tuple(self._files_read()),
        )
        if not execution.succeeded:
            self._tell(context, done)
            raise self._failure_of(execution)
        outputs = outputs_of(client.artifacts(execution.execution_id))
        shown = set(self._output_names([item.filename for item in outputs]))
        outputs = [item for item in outputs if item.filename in shown]
        task_instance.xcom_push(key="artifacts", value=files_in_xcom(outputs))
        if self.output_dir is not None:
            client.download(execution.execution_id, self.output_dir, names=sorted(shown))
        folder = None if self.output_dir is None else Path(self.output_dir)
        written = tuple(
            Written(item.filename, folder and folder / item.filename, item.size_bytes) for item in outputs
        )
        self._tell(context, replace(done, written=written))
        try:
            value = self._value_of(execution)
        except AirflowSkipException:
            raise
        except AirflowException:
            # it ran well and came to nothing that a task can return: the next try is to run it again
            client.acknowledge(execution.execution_id)
            raise
        # else not acknowledged: should this worker die before Airflow knows, the next try takes it again
        if not says_its_life(execution.user_metadata):
            client.acknowledge(execution.execution_id)
        return value

    def _files_read(self) -> list[Path]:
        files = self.input_files or {}
        named = files if isinstance(files, Mapping) else {str(path): path for path in files}
        return [Path(named[name]) for name in self._output_names(list(named))]

    # what a task that is more than a script makes of an execution

    def _ends_in_triggerer(self) -> bool:
        """Whether a trigger can end the task where the execution completes, without another worker."""
        return self.output_dir is None and needs_no_worker(self)

    def _output_names(self, names: Sequence[str]) -> list[str]:
        """Those of an execution's outputs that are the script's."""
        return list(names)

    def _value_of(self, execution: Execution) -> Any:
        """What the task returns."""
        return printed_result(self.hook.client, execution)

    def _failure_of(self, execution: Execution) -> AirflowException:
        """What the task fails with."""
        return AirflowException(describe_failure(execution))


def describe_failure(execution: Execution) -> str:
    """Why an execution failed, with the end of what it wrote to stderr."""
    reason = execution.execution_error or f"it ended with exit code {execution.exit_code}"
    last = execution.stderr.strip().splitlines()[-5:]
    return "\n".join([f"{execution.execution_id} {execution.status}: {reason}", *last])


__all__ = ["RGridBatchOperator", "RGridRunOperator"]
