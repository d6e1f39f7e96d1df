"""Operators: one script, or one script over many inputs, on the grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import TemplateNotFound

from rgrid import calls
from rgrid.exceptions import ConfigurationError, InvalidRequest, RunKeyConflict, TooLarge
from rgrid.models import Batch, Execution
from rgrid.submissions import execution_body
from rgrid_provider._compat import (
    AirflowException,
    AirflowFailException,
    AirflowTaskTimeout,
    BaseOperator,
    default_deferrable,
    is_still_this_try,
)
from rgrid_provider.attribution import attribution, run_key
from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.links.rgrid import RGridBatchLink, RGridExecutionLink
from rgrid_provider.sources import batch_items, named_files, requirements_text, script_source
from rgrid_provider.tasklog import TaskLog, last_line_value
from rgrid_provider.triggers.rgrid import RGridBatchTrigger, RGridExecutionTrigger

MAX_RESULTS_IN_XCOM = 1000


class _GridOperator(BaseOperator):
    """What both operators share: what is run, how it is submitted once, and how it is ended."""

    template_ext: Sequence[str] = (".py",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"script": "python", "requirements": "text"}
    ui_color = "#e6f2ef"

    def __init__(
        self,
        *,
        script: str,
        args: Sequence[str] = (),
        env_vars: Mapping[str, str] | None = None,
        requirements: str | Sequence[str] | None = None,
        runtime: str | None = None,
        output_dir: str | None = None,
        timeout_seconds: int | None = None,
        cpus: float | None = None,
        memory_mib: int | None = None,
        priority: int | None = None,
        user_metadata: Mapping[str, Any] | None = None,
        rgrid_conn_id: str = RGridHook.default_conn_name,
        deferrable: bool | None = None,
        wait_for_completion: bool = True,
        poll_interval: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.script = script
        self.args = args
        self.env_vars = env_vars
        self.requirements = requirements
        self.runtime = runtime
        self.output_dir = output_dir
        self.timeout_seconds = timeout_seconds
        self.cpus = cpus
        self.memory_mib = memory_mib
        self.priority = priority
        self.user_metadata = user_metadata
        self.rgrid_conn_id = rgrid_conn_id
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        self.wait_for_completion = wait_for_completion
        self.poll_interval = poll_interval
        self._task_instance: Any = None

    def render_template(
        self, content: Any, context: Any, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render a templated field; only ``script`` is read from a file where it ends in ``.py``."""
        if isinstance(content, str) and content.endswith(".py") and "{" not in content:
            if content != self.script or Path(content).is_absolute():
                # an argument that is called so, or a file that is read where the task runs
                return content
            try:
                return super().render_template(content, context, jinja_env, seen_oids)
            except TemplateNotFound:
                return content
        return super().render_template(content, context, jinja_env, seen_oids)

    def resolve_template_files(self) -> None:
        """Files are read when the task runs, not when its DAG is parsed."""

    @cached_property
    def hook(self) -> RGridHook:
        """The hook of this operator's connection."""
        return RGridHook(self.rgrid_conn_id)

    def _body(self, context: Any) -> dict[str, Any]:
        source, name = script_source(self.script)
        return execution_body(
            source,
            args=[str(arg) for arg in self.args],
            env_vars={name: str(value) for name, value in (self.env_vars or {}).items()},
            requirements=requirements_text(self.requirements),
            runtime=self.runtime,
            timeout_seconds=self.timeout_seconds,
            cpus=self.cpus,
            memory_mib=self.memory_mib,
            priority=self.priority,
            user_metadata={**(self.user_metadata or {}), **attribution(context)},
            script_name=name,
        )

    def _defer(self, trigger: Any, method_name: str) -> None:
        self.defer(trigger=trigger, method_name=method_name, timeout=self.execution_timeout)


class RGridRunOperator(_GridOperator):
    """Runs one script on the grid.

    Args:
        script: source, or the path of a ``.py`` file.
        args: its arguments.
        env_vars: its environment variables.
        requirements: packages: a list, a requirements text, or the path of a ``.txt`` file.
        runtime: such as ``python:3.11``.
        input_files: files of the worker: paths, or a mapping of names to paths.
        output_dir: where its outputs go on the worker; left on the grid when None.
        timeout_seconds: how long it may run.
        cpus: vCPUs to hold for it.
        memory_mib: memory that it may use.
        priority: -100 to 100; higher runs first.
        user_metadata: notes to find it by; dag, run, task, owner and tags are added.
        rgrid_conn_id: the connection.
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

    def __init__(
        self, *, input_files: Mapping[str, str] | Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.input_files = input_files
        self._execution_id: str | None = None

    def execute(self, context: Any) -> Any:
        """Submit, or attach to what an earlier try submitted; then wait."""
        self._task_instance = context["ti"]
        execution = self._submit_once(context)
        self._execution_id = execution.execution_id
        context["ti"].xcom_push(key="execution_id", value=execution.execution_id)
        if not self.wait_for_completion:
            return execution.execution_id
        if self.deferrable and not execution.is_terminal:
            self._defer(
                RGridExecutionTrigger(
                    rgrid_conn_id=self.rgrid_conn_id,
                    execution_id=execution.execution_id,
                    poll_interval=self.poll_interval,
                ),
                "execute_complete",
            )
        try:
            self._follow(execution.execution_id)
            execution = self.hook.client.wait(execution.execution_id)
        except AirflowTaskTimeout:
            self.hook.client.cancel(execution.execution_id)
            raise
        return self._take(context, execution)

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Take the result of an execution that the triggerer has waited for."""
        if event.get("error"):
            raise AirflowException(f"waiting for {event['execution_id']} failed: {event['error']}")
        return self._take(context, self.hook.client.get(event["execution_id"]))

    def on_kill(self) -> None:
        """Cancel the execution when a user ended the task; leave it when only the worker stops."""
        if self._execution_id is None:
            return
        if is_still_this_try(self._task_instance):
            self.log.info("the worker stops; %s goes on, and the next try attaches to it", self._execution_id)
            return
        self.log.info("the task was ended; canceling %s", self._execution_id)
        RGridHook(self.rgrid_conn_id).client.cancel(self._execution_id)

    def _submit_once(self, context: Any) -> Execution:
        client = self.hook.client
        try:
            inputs = client.upload(named_files(self.input_files))
            body = self._body(context) | {"inputs": inputs, "run_key": run_key(context["ti"])}
            execution = self._submit(body)
        except (ConfigurationError, InvalidRequest, TooLarge) as error:
            # another try would be told the same
            raise AirflowFailException(str(error)) from error
        if execution.attached and execution.is_terminal and not execution.succeeded:
            self.log.info(
                "%s of an earlier try %s; submitting anew", execution.execution_id, execution.status
            )
            client.acknowledge(execution.execution_id)
            execution = self._submit(body)
        what = "attached to" if execution.attached else "submitted"
        self.log.info("%s %s (%s)", what, execution.execution_id, execution.status)
        return execution

    def _submit(self, body: Mapping[str, Any]) -> Execution:
        client = self.hook.client
        try:
            return client.send(calls.submit_execution(body))
        except RunKeyConflict as conflict:
            holder = conflict.holder_id
            self.log.warning(
                "an earlier try submitted other work as %s: the DAG has changed since; canceling that", holder
            )
            client.cancel(holder)
            client.wait(holder)
            client.acknowledge(holder)
            return client.send(calls.submit_execution(body))

    def _follow(self, execution_id: str) -> None:
        task_log = TaskLog(self.log.info)
        for entry in self.hook.client.logs(execution_id, follow=True):
            task_log.add(entry)
        task_log.end()

    def _take(self, context: Any, execution: Execution) -> Any:
        client, task_instance = self.hook.client, context["ti"]
        task_instance.xcom_push(key="cost_micros", value=execution.cost_micros)
        self.log.info(
            "%s %s after %s s for %s micro-euro",
            execution.execution_id,
            execution.status,
            execution.duration_seconds,
            execution.cost_micros,
        )
        if not execution.succeeded:
            client.acknowledge(execution.execution_id)
            raise AirflowException(describe_failure(execution))
        artifacts = [
            item for item in client.artifacts(execution.execution_id) if item.artifact_type == "output"
        ]
        task_instance.xcom_push(
            key="artifacts",
            value=[
                {"filename": item.filename, "file_path": item.file_path, "size_bytes": item.size_bytes}
                for item in artifacts[:MAX_RESULTS_IN_XCOM]
            ],
        )
        if self.output_dir is not None:
            client.download(execution.execution_id, self.output_dir)
        client.acknowledge(execution.execution_id)
        return last_line_value(execution.stdout)


class RGridBatchOperator(_GridOperator):
    """Runs one script over many inputs.

    Args, beside those of :class:`RGridRunOperator`:
        inputs: a glob, or a list of paths, of arguments, or of lists of arguments; each is one execution,
            whose arguments are the item's own and then ``args``.
        parallelism: how many run at once; as many as there is room for when None.
        fail_on: ``any`` (one failure fails the task), ``all``, or a fraction of failures that is too much.

    Pushes ``batch_id`` as soon as it is submitted, then ``return_value`` (the last line of each execution's
    stdout, in order of the inputs; None for one that failed) and ``cost_micros``. With ``output_dir`` the
    outputs of each go to a folder of its own, called as its input.
    """

    template_fields: Sequence[str] = (
        "script",
        "args",
        "env_vars",
        "requirements",
        "runtime",
        "inputs",
        "output_dir",
        "user_metadata",
    )
    operator_extra_links = (RGridBatchLink(),)

    def __init__(
        self,
        *,
        inputs: str | Sequence[Any],
        parallelism: int | None = None,
        fail_on: str | float = "any",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inputs = inputs
        self.parallelism = parallelism
        self.fail_on = fail_on
        self._batch_id: str | None = None
        if not (fail_on in {"any", "all"} or (isinstance(fail_on, float) and 0 < fail_on <= 1)):
            raise ValueError(f"fail_on is 'any', 'all' or a fraction above 0 and up to 1, not {fail_on!r}")

    def execute(self, context: Any) -> Any:
        """Submit, or attach to what an earlier try submitted; then wait."""
        self._task_instance = context["ti"]
        batch = self._submit_once(context)
        self._batch_id = batch.batch_id
        context["ti"].xcom_push(key="batch_id", value=batch.batch_id)
        if not self.wait_for_completion:
            return batch.batch_id
        if self.deferrable and not batch.is_terminal:
            self._defer(
                RGridBatchTrigger(
                    rgrid_conn_id=self.rgrid_conn_id,
                    batch_id=batch.batch_id,
                    poll_interval=self.poll_interval,
                ),
                "execute_complete",
            )
        try:
            batch = self._watch(batch)
        except AirflowTaskTimeout:
            self.hook.client.cancel_batch(batch.batch_id)
            raise
        return self._take(context, batch)

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Take the results of a batch that the triggerer has waited for."""
        if event.get("error"):
            raise AirflowException(f"waiting for {event['batch_id']} failed: {event['error']}")
        return self._take(context, self.hook.client.batch(event["batch_id"]))

    def on_kill(self) -> None:
        """Cancel the batch when a user ended the task; leave it when only the worker stops."""
        if self._batch_id is None:
            return
        if is_still_this_try(self._task_instance):
            self.log.info("the worker stops; %s goes on, and the next try attaches to it", self._batch_id)
            return
        self.log.info("the task was ended; canceling %s", self._batch_id)
        RGridHook(self.rgrid_conn_id).client.cancel_batch(self._batch_id)

    def _submit_once(self, context: Any) -> Batch:
        client = self.hook.client
        try:
            body = self._body(context)
            items = batch_items(self.inputs, body.pop("args"))
            hashes = client.upload({name: path for _, item in items for name, path in item.files.items()})
            wire = [
                {
                    "args": list(item.args),
                    "inputs": {name: hashes[name] for name in item.files},
                    "input_file": called,
                }
                for called, item in items
            ]
            batch = self._submit(context, body, wire)
        except (ConfigurationError, InvalidRequest, TooLarge) as error:
            raise AirflowFailException(str(error)) from error
        if batch.attached and batch.is_terminal and not batch.succeeded:
            self.log.info("%s of an earlier try %s; submitting anew", batch.batch_id, batch.status)
            client.acknowledge_batch(batch.batch_id)
            batch = self._submit(context, body, wire)
        what = "attached to" if batch.attached else "submitted"
        self.log.info("%s %s with %d executions", what, batch.batch_id, batch.total)
        return batch

    def _submit(self, context: Any, template: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Batch:
        client = self.hook.client
        options: dict[str, Any] = {
            "parallelism": self.parallelism,
            "run_key": run_key(context["ti"]),
            "user_metadata": template["user_metadata"],
        }
        try:
            return client.submit_batch(template, items, **options)
        except RunKeyConflict as conflict:
            holder = conflict.holder_id
            self.log.warning(
                "an earlier try submitted other work as %s: the DAG has changed since; canceling that", holder
            )
            client.cancel_batch(holder)
            client.wait_batch(holder)
            client.acknowledge_batch(holder)
            return client.submit_batch(template, items, **options)

    def _watch(self, batch: Batch) -> Batch:
        client, told = self.hook.client, -1
        while True:
            if batch.counts.finished != told:
                told = batch.counts.finished
                self.log.info("%d of %d ended, %d failed", told, batch.total, batch.counts.failed)
            if batch.is_terminal:
                return batch
            batch = client.batch(batch.batch_id, min(5.0, self.poll_interval))

    def _take(self, context: Any, batch: Batch) -> Any:
        client = self.hook.client
        executions = list(client.batch_executions(batch.batch_id))
        context["ti"].xcom_push(key="cost_micros", value=batch.total_cost_micros)
        results: list[Any] = []
        for execution in executions:
            whole = client.get(execution.execution_id)
            task_log = TaskLog(self.log.info)
            self.log.info("%s (%s): %s", execution.input_file, execution.execution_id, execution.status)
            for entry in client.logs(execution.execution_id):
                task_log.add(entry)
            task_log.end()
            results.append(last_line_value(whole.stdout) if whole.succeeded else None)
        failed = [execution for execution in executions if not execution.succeeded]
        self.log.info(
            "%s: %d of %d completed for %d micro-euro",
            batch.batch_id,
            batch.counts.completed,
            batch.total,
            batch.total_cost_micros,
        )
        if self._is_too_much(len(failed), len(executions)):
            client.acknowledge_batch(batch.batch_id)
            told = "; ".join(
                f"{item.input_file}: {item.execution_error or item.status}" for item in failed[:10]
            )
            raise AirflowException(f"{len(failed)} of {len(executions)} of {batch.batch_id} failed: {told}")
        if self.output_dir is not None:
            for execution in executions:
                folder = execution.input_file or execution.execution_id
                client.download(execution.execution_id, Path(self.output_dir) / folder)
        client.acknowledge_batch(batch.batch_id)
        return results

    def _is_too_much(self, failed: int, total: int) -> bool:
        if self.fail_on == "any":
            return failed > 0
        if self.fail_on == "all":
            return failed == total
        return failed >= float(self.fail_on) * total and failed > 0


def describe_failure(execution: Execution) -> str:
    """Why an execution failed, with the end of what it wrote to stderr."""
    reason = execution.execution_error or f"it ended with exit code {execution.exit_code}"
    last = execution.stderr.strip().splitlines()[-5:]
    return "\n".join([f"{execution.execution_id} {execution.status}: {reason}", *last])


__all__ = ["RGridBatchOperator", "RGridRunOperator"]
