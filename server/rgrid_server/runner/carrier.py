"""One attempt from its assignment to its report."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import replace
from functools import partial

from rgrid_server.domain.attempts import Assignment, Outcome, OutputFile, Report, Stream
from rgrid_server.domain.registries import find_login, of_the_script
from rgrid_server.domain.runtimes import Kind, parse_runtime
from rgrid_server.domain.trace import TRACEPARENT_VARIABLE, TraceContext
from rgrid_server.observability.tracing import NoTracing, Tracing, spanning
from rgrid_server.runner.attempt import Attempt
from rgrid_server.runner.connection import Connection, Dismissed, Gone
from rgrid_server.runner.environments import Environment, Environments
from rgrid_server.runner.images import Images
from rgrid_server.runner.inputs import InputCache
from rgrid_server.runner.outputs import Finished, Outputs, with_passed_over
from rgrid_server.runner.sandbox.base import NOT_PYTHON, Command, Ended, Exit, Sandbox, Warmth
from rgrid_server.runner.sources import source_bytes
from rgrid_server.runner.uv import Rejected
from rgrid_server.runner.warmth import find_warmth
from rgrid_server.runner.workspace import Workspace

log = logging.getLogger(__name__)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Carrier:
    """Carries attempts: environment, workspace, sandbox, logs, outputs."""

    def __init__(
        self,
        connection: Connection,
        environments: Environments,
        inputs: InputCache,
        sandbox: Sandbox,
        hostname: str,
        tracing: Tracing | None = None,
        images: Images | None = None,
    ) -> None:
        self.tracing: Tracing = tracing or NoTracing()
        self._images = images
        self._outputs = Outputs(connection)
        self._environments = environments
        self._inputs = inputs
        self._sandbox = sandbox
        self._hostname = hostname

    async def carry(self, attempt: Attempt, workspace: Workspace) -> Finished:
        """Run an attempt to its end; the workspace stays for the caller to remove.

        Raises:
            Gone: the attempt is another runner's now.
            Dismissed: the server does not want this runner.
        """
        try:
            return await self._carry(attempt, workspace)
        except Rejected as error:
            return self._without_exit(attempt, Outcome.REJECTED, error.code, str(error))
        except asyncio.CancelledError:
            if not attempt.is_canceled:
                raise
            return self._without_exit(attempt, Outcome.CANCELED, "canceled", None)
        except (Gone, Dismissed):
            raise
        except Exception as error:
            # whatever it is, it is not the script's fault: another attempt is made, here or elsewhere
            log.exception("%s attempt %d", attempt.assignment.execution_id, attempt.assignment.attempt)
            return self._without_exit(attempt, Outcome.GRID_FAULT, "grid_fault", str(error) or repr(error))
        finally:
            attempt.free_slot()

    async def upload_again(self, attempt: Attempt, finished: Finished) -> None:
        """Send the large outputs once more: the server does not have them any more."""
        await self._outputs.upload(attempt.assignment, finished.uploaded)

    def span(self, attempt: Attempt, name: str) -> AbstractContextManager[TraceContext | None]:
        """A span of an attempt's trace, over a ``with`` block; nothing where it has none."""
        if attempt.trace_context is None:
            return nullcontext()
        return spanning(self.tracing, name, attempt.trace_context)

    async def _carry(self, attempt: Attempt, workspace: Workspace) -> Finished:
        assignment, specification = attempt.assignment, attempt.specification
        if assignment.secrets_problem is not None:
            raise Rejected("secret_unavailable", assignment.secrets_problem)
        source = source_bytes(specification.script_content)
        if not workspace.take_down():
            await asyncio.to_thread(workspace.create)
        with self.span(attempt, "inputs"):
            await attempt.prepare(self._lay_out(attempt, workspace, source))
        claimed_at = time.monotonic()
        async with AsyncExitStack() as stack:
            using = self._using(attempt)
            with self.span(attempt, "environment"):
                environment = await attempt.prepare(stack.enter_async_context(using))
            ready_ms = round((time.monotonic() - claimed_at) * 1000)
            await attempt.prepare(attempt.turn.wait())
            with self.span(attempt, "script") as context:
                exit_ = await self._run(attempt, environment, workspace, source, context)
        attempt.free_slot()
        outcome, exit_code, why = describe(exit_, assignment)
        error_code = None
        with self.span(attempt, "outputs"):
            collected = await self._outputs.collect(assignment, workspace)
        if collected.error_code is not None and outcome is Outcome.EXITED and exit_code == 0:
            # it ran and is charged for; what it made cannot be taken
            error_code, why = collected.error_code, collected.error_message
        report = replace(
            self._report(attempt, outcome, exit_code, error_code, why),
            duration_ms=exit_.duration_ms,
            cpu_ms=exit_.cpu_ms,
            peak_memory_mib=exit_.peak_memory_mib,
            bytes_in=sum(item.size_bytes for item in assignment.inputs),
            bytes_out=sum(item.size_bytes for item in collected.files),
            artifacts=[
                OutputFile(item.name, item.sha256, item.size_bytes, item.content_type, item.mode)
                for item in collected.files
            ],
            metadata=with_passed_over(
                {
                    "environment": environment.key,
                    "environment_ms": ready_ms,
                    "environment_built": environment.was_built,
                    **({"environment_warning": environment.warning} if environment.warning else {}),
                    environment.kind.value: environment.version,
                    "sandbox": self._sandbox_of(environment).name,
                    "start": "warm" if exit_.cold_reason is None else "cold",
                    **({"cold_reason": exit_.cold_reason} if exit_.cold_reason is not None else {}),
                    "hostname": self._hostname,
                },
                collected.passed_over,
            ),
        )
        return Finished(report, collected.blobs, collected.uploaded)

    def _using(self, attempt: Attempt) -> AbstractAsyncContextManager[Environment]:
        """What makes its environment ready, for as long as it is needed."""
        assignment, specification = attempt.assignment, attempt.specification
        runtime = parse_runtime(specification.runtime)
        if self._images is None or runtime is None or runtime.kind is not Kind.DOCKER:
            return self._environments.use(specification, attempt.log.say)
        login = find_login(assignment.secrets)
        return self._images.use(runtime.image, assignment.tenant_id, login, attempt.log.say)

    def _sandbox_of(self, environment: Environment) -> Sandbox:
        return self._images.sandbox if environment.image and self._images is not None else self._sandbox

    async def _lay_out(self, attempt: Attempt, workspace: Workspace, source: bytes) -> None:
        assignment = attempt.assignment
        try:
            for item in assignment.inputs:
                put = partial(workspace.put, item.name, sha256=item.sha256)
                await self._inputs.fetch(assignment, item.sha256, put)
            workspace.put(
                attempt.specification.script_name, source, sha256=hashlib.sha256(source).hexdigest()
            )
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise Rejected(
                "inputs_conflict",
                f"an input is a folder of another one's name, or the other way round ({error}); rename it",
            ) from None

    async def _run(
        self,
        attempt: Attempt,
        environment: Environment,
        workspace: Workspace,
        source: bytes,
        context: TraceContext | None,
    ) -> Exit:
        assignment, name = attempt.assignment, attempt.specification.script_name
        command = Command(
            argv=[str(environment.python), name, *assignment.args],
            workspace=workspace.root,
            environment=script_environment(assignment, environment, context),
            timeout_ms=assignment.timeout_ms,
            memory_mib=assignment.memory_mib,
            cpus_milli=assignment.cpus_milli,
            tenant=assignment.tenant_id,
            read_only=environment.readable,
            image=environment.image,
            warmth=_warmth(source, [name, *(item.name for item in assignment.inputs)], environment),
        )
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            running = await self._sandbox_of(environment).start(command, out_write, err_write)
        except BaseException:
            os.close(out_read)
            os.close(err_read)
            raise
        finally:
            os.close(out_write)
            os.close(err_write)
        attempt.log.read_from(out_read, Stream.STDOUT)
        attempt.log.read_from(err_read, Stream.STDERR)
        attempt.runs(running)
        try:
            return await running.wait()
        finally:
            attempt.log.finish()

    def _without_exit(self, attempt: Attempt, outcome: Outcome, code: str, message: str | None) -> Finished:
        return Finished(self._report(attempt, outcome, None, code, message))

    @staticmethod
    def _report(
        attempt: Attempt, outcome: Outcome, exit_code: int | None, code: str | None, message: str | None
    ) -> Report:
        assignment = attempt.assignment
        return Report(
            execution_id=assignment.execution_id,
            attempt=assignment.attempt,
            token=assignment.token,
            outcome=outcome,
            exit_code=exit_code,
            error_code=code,
            error_message=message,
            stdout=attempt.log.head(Stream.STDOUT),
            stderr=attempt.log.head(Stream.STDERR),
            output_truncated=attempt.log.has_more_than_heads,
            last_sequence=attempt.log.last_sequence,
        )


def describe(exit_: Exit, assignment: Assignment) -> tuple[Outcome, int, str | None]:
    """An exit in the words of the wire: outcome, exit code, and a sentence where there is more to say."""
    if exit_.ended is Ended.EXITED:
        return Outcome.EXITED, exit_.code, None
    if exit_.ended is Ended.TIMED_OUT:
        seconds = assignment.timeout_ms / 1000
        return Outcome.TIMED_OUT, 124, f"the script ran longer than its timeout of {seconds:g} seconds"
    if exit_.ended is Ended.OUT_OF_MEMORY:
        message = (
            f"the script used more than its {assignment.memory_mib} MiB of memory "
            f"({exit_.peak_memory_mib} MiB); ask for more with memory_mib"
        )
        return Outcome.OUT_OF_MEMORY, 128 + signal.SIGKILL, message
    if exit_.ended is Ended.CANCELED:
        ended_by = exit_.code if exit_.was_signaled else signal.SIGTERM
        return Outcome.CANCELED, 128 + ended_by, None
    try:
        name = signal.Signals(exit_.code).name
    except ValueError:
        name = str(exit_.code)
    return Outcome.SIGNALED, 128 + exit_.code, f"the script was ended by the signal {name}"


def _warmth(source: bytes, names: Sequence[str], environment: Environment) -> Warmth:
    if environment.kind is not Kind.PYTHON:
        return NOT_PYTHON
    return find_warmth(source, names, environment_variables(environment), environment.packages)


def environment_variables(environment: Environment) -> dict[str, str]:
    """The variables that all scripts of an environment have: few, and none of the runner's own."""
    if environment.image:
        own = {"LANG": "C.UTF-8", "PATH": PATH, **environment.variables}
        return own | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    common = {"PATH": f"{environment.python.parent}:{PATH}", "LANG": "C.UTF-8"}
    if environment.kind is not Kind.PYTHON:
        return common
    return {
        **common,
        # a log that is followed shows each line as it is printed
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "VIRTUAL_ENV": str(environment.directory),
    }


def script_environment(
    assignment: Assignment, environment: Environment, context: TraceContext | None = None
) -> dict[str, str]:
    """A script's environment variables; the submitter's come last. Its sandbox adds HOME and TMPDIR."""
    return {
        **environment_variables(environment),
        "RGRID_EXECUTION_ID": assignment.execution_id,
        "RGRID_ATTEMPT": str(assignment.attempt),
        **({TRACEPARENT_VARIABLE: str(context)} if context is not None else {}),
        **assignment.env_vars,
        **of_the_script(assignment.secrets),
    }
