"""What the operators share: what is run, where, for whom, and how it is ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from jinja2 import TemplateNotFound

from rgrid.client import Client
from rgrid.exceptions import RunKeyConflict
from rgrid.models import Batch, Execution
from rgrid.submissions import REGISTRY_AUTH, execution_body
from rgrid_provider._compat import (
    AirflowException,
    AirflowTaskTimeout,
    BaseOperator,
    beside_signal,
    default_deferrable,
    is_deferral_timed_out,
    is_still_wanted,
    mask_secret,
)
from rgrid_provider.attribution import attribution
from rgrid_provider.done import Done, tell_assets
from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.sources import requirements_text, script_source
from rgrid_provider.unanswered import ANSWER_SECONDS, find_unanswered

Work = TypeVar("Work")


class GridOperator(BaseOperator):
    """What both operators share: what is run, how it is submitted once, and how it is ended."""

    template_ext: Sequence[str] = (".py",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"script": "python", "requirements": "text"}
    ui_color = "#e6f2ef"
    work_id_key: ClassVar[str]
    """The XCom that says what was submitted."""

    def __init__(
        self,
        *,
        script: str,
        args: Sequence[str] = (),
        env_vars: Mapping[str, str] | None = None,
        secrets: Mapping[str, str | None] | Sequence[str] | None = None,
        requirements: str | Sequence[str] | None = None,
        runtime: str | None = None,
        output_dir: str | None = None,
        timeout_seconds: int | None = None,
        cpus: float | None = None,
        memory_mib: int | None = None,
        priority: int | None = None,
        cache: str | None = None,
        user_metadata: Mapping[str, Any] | None = None,
        rgrid_conn_id: str = RGridHook.default_conn_name,
        docker_conn_id: str | None = None,
        deferrable: bool | None = None,
        wait_for_completion: bool = True,
        poll_interval: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.script = script
        self.args = args
        self.env_vars = env_vars
        self.secrets = secrets
        self.requirements = requirements
        self.runtime = runtime
        self.output_dir = output_dir
        self.timeout_seconds = timeout_seconds
        self.cpus = cpus
        self.memory_mib = memory_mib
        self.priority = priority
        self.cache = cache
        self.user_metadata = user_metadata
        self.rgrid_conn_id = rgrid_conn_id
        self.docker_conn_id = docker_conn_id
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        self.wait_for_completion = wait_for_completion
        self.poll_interval = poll_interval
        self._task_instance: Any = None
        self._mine: Mapping[str, Any] = {}
        self._run_key: str | None = None
        self._work_id: str | None = None
        self._was_ended = False
        self._done: Done | None = None

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
            secrets=self._secrets(),
            requirements=requirements_text(self.requirements),
            runtime=self.runtime,
            timeout_seconds=self.timeout_seconds,
            cpus=self.cpus,
            memory_mib=self.memory_mib,
            priority=self.priority,
            cache=self.cache,
            user_metadata={**(self.user_metadata or {}), **attribution(context)},
            script_name=name,
        )

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """What OpenLineage's listener is told of a task that has ended, well or not."""
        if self._done is None:
            return None
        from rgrid_provider.lineage import lineage_of

        return lineage_of(self._done)

    def _tell(self, context: Any, done: Done) -> None:
        """Remember what came of the work for OpenLineage, and write it into the events of assets."""
        self._done = done
        tell_assets(self.outlets, context, done)

    def _secrets(self) -> dict[str, str | None]:
        given = self.secrets or {}
        secrets = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given)
        if self.docker_conn_id is not None:
            secrets[REGISTRY_AUTH] = _registry_auth(self.docker_conn_id)
        for value in secrets.values():
            if value:
                # Airflow's own log and rendered fields do not show it either
                mask_secret(value)
        return secrets

    def _defer(self, trigger: Any, method_name: str) -> None:
        self.defer(trigger=trigger, method_name=method_name, timeout=self.execution_timeout)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Go on after the triggerer has waited; work that has outlived the task's time is canceled."""
        if is_deferral_timed_out(next_method, next_kwargs):
            task_instance = context["ti"]
            work_id = task_instance.xcom_pull(
                task_ids=task_instance.task_id,
                key=self.work_id_key,
                map_indexes=getattr(task_instance, "map_index", -1),
            )
            if work_id is not None:
                self.log.info("the task's time is over; canceling %s", work_id)
                self._cancel(self.hook.client, work_id)
        return super().resume_execution(next_method, next_kwargs, context)

    def _begin(self, context: Any) -> None:
        """Note whose try this is, for its end; nothing is submitted yet."""
        self._task_instance = context["ti"]
        self._mine = attribution(context)
        self._run_key = self._work_id = None

    def _keep(self, context: Any, work_id: str) -> None:
        """Remember what was submitted, for a kill and for whoever looks at the task."""
        self._work_id = work_id
        context["ti"].xcom_push(key=self.work_id_key, value=work_id)
        if self._was_ended:
            self._cancel(self.hook.client, work_id)
            raise AirflowException(f"the task was ended while it submitted {work_id}, which is canceled")

    def on_kill(self) -> None:
        """Cancel the work when a user ended the task; leave it when only the worker stops."""
        if self._task_instance is not None:
            beside_signal(self._decide_end)

    def _decide_end(self) -> None:
        if is_still_wanted(self._task_instance):
            what = self._work_id or "what it submits"
            self.log.info("the worker stops; %s goes on, and the next try attaches to it", what)
            return
        # nothing is submitted from now on, and what is answered from now on is canceled
        self._was_ended = True
        self._end_work("the task was ended")

    @contextmanager
    def _ended_by_timeout(self) -> Iterator[None]:
        """Let nothing that was submitted outlive the task's time."""
        try:
            yield
        except AirflowTaskTimeout:
            self._end_work("the task's time is over")
            # on_kill comes next, and has nothing to decide any more
            self._task_instance = None
            raise

    def _end_work(self, why: str) -> None:
        """Cancel what was submitted, also where its answer has not come."""
        if self._work_id is None and self._run_key is None:
            return
        work_id = self._work_id
        # clients of their own: the signal came in the middle of whatever the other one does
        if work_id is None:
            self.log.info("%s while it submitted; looking for what holds %s", why, self._run_key)
            asking, run_key = self.hook.new_client(ANSWER_SECONDS), str(self._run_key)
            found = find_unanswered(lambda: self._held_by(asking, run_key), self._mine)
            if found is None:
                self.log.info("nothing that this task has submitted runs")
                return
            work_id = str(getattr(found, self.work_id_key))
        self.log.info("%s; canceling %s", why, work_id)
        self._cancel(self.hook.new_client(), work_id)

    def _submit_in_place(self, run_key: str, submit: Callable[[], Work]) -> Work:
        """Submit; other work that holds the run key is ended first."""

        def send() -> Work:
            # in this order: a kill that comes between the two finds the key
            self._run_key = run_key
            if self._was_ended:
                raise AirflowException("the task was ended before it submitted")
            return submit()

        try:
            return send()
        except RunKeyConflict as conflict:
            self.log.warning(
                "an earlier try submitted other work as %s: the DAG has changed since; canceling that",
                conflict.holder_id,
            )
            self._end_and_free(self.hook.client, conflict.holder_id)
            return send()

    def _held_by(self, client: Client, run_key: str) -> Execution | Batch | None:
        """The work that holds a run key."""
        raise TypeError("an operator says how its work is found")

    def _cancel(self, client: Client, work_id: str) -> None:
        raise TypeError("an operator says how its work is ended")

    def _end_and_free(self, client: Client, work_id: str) -> None:
        """Cancel work, wait until it has ended, and free its run key."""
        raise TypeError("an operator says how the run key of its work is freed")


def _registry_auth(docker_conn_id: str) -> str:
    """The user and the password of a connection of the Docker provider."""
    from airflow.providers.docker.hooks.docker import DockerHook

    connection = DockerHook.get_connection(docker_conn_id)
    if not connection.login or not connection.password:
        raise AirflowException(
            f"the connection {docker_conn_id!r} has no login and password for a registry of images; "
            "add both, or leave docker_conn_id out for images that need none"
        )
    return f"{connection.login}:{connection.password}"
