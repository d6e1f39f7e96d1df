"""One attempt from its assignment to its report."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import time
from dataclasses import dataclass, replace
from typing import Any

from rgrid_server.domain.attempts import Assignment, Outcome, OutputFile, Report, Specification, Stream
from rgrid_server.runner.connection import Connection
from rgrid_server.runner.environments import Environment, EnvironmentFault, Environments, Rejected
from rgrid_server.runner.inputs import InputCache
from rgrid_server.runner.logstream import AttemptLog
from rgrid_server.runner.sandbox.base import Command, Ended, Exit, Running, Sandbox, SandboxFailure
from rgrid_server.runner.workspace import Found, FoundFile, OutputLimit, Workspace

log = logging.getLogger(__name__)

INLINE_BLOB_BYTES = 64 * 1024
INLINE_TOTAL_BYTES = 4 * 1024 * 1024
DRAIN_SECONDS = 2.0

_CODING = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-_.a-zA-Z0-9]+)")
_BLANK = re.compile(r"^[ \t\f]*(?:[#\r\n]|$)")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Finished:
    """A report with the small outputs that travel with it."""

    report: Report
    blobs: list[bytes]


class Attempt:
    """An attempt that this runner carries; it can be canceled, or dropped without a word."""

    def __init__(self, assignment: Assignment, specification: Specification, log_: AttemptLog) -> None:
        self.assignment = assignment
        self.specification = specification
        self.log = log_
        self.is_canceled = False
        self.is_dropped = False
        self.is_reporting = False
        self.task: asyncio.Task[None] | None = None
        self._running: Running | None = None
        self._preparing: asyncio.Task[Any] | None = None

    def cancel(self) -> None:
        """End it: its script if it runs, else its preparation."""
        self.is_canceled = True
        if self._running is not None:
            self._running.cancel()
        elif self._preparing is not None:
            self._preparing.cancel()

    def drop(self) -> None:
        """End it, and tell nobody: it is another's now."""
        self.is_dropped = True
        self.log.abandon()
        self.cancel()

    async def prepare(self, work: Any) -> Any:
        """Wait for a part of the preparation, which a cancellation ends."""
        self._preparing = asyncio.ensure_future(work)
        try:
            return await self._preparing
        finally:
            self._preparing = None

    def runs(self, running: Running) -> None:
        """Its script has started."""
        self._running = running
        if self.is_canceled:
            running.cancel()


class Carrier:
    """Carries attempts: environment, workspace, sandbox, logs, outputs."""

    def __init__(
        self,
        connection: Connection,
        environments: Environments,
        inputs: InputCache,
        sandbox: Sandbox,
        hostname: str,
    ) -> None:
        self._connection = connection
        self._environments = environments
        self._inputs = inputs
        self._sandbox = sandbox
        self._hostname = hostname

    async def carry(self, attempt: Attempt, workspace: Workspace) -> Finished:
        """Run an attempt to its end; the workspace stays for the caller to remove."""
        started_at_ms = time.time_ns() // 1_000_000
        try:
            finished = await self._carry(attempt, workspace)
        except Rejected as error:
            finished = self._without_exit(attempt, Outcome.REJECTED, error.code, str(error))
        except asyncio.CancelledError:
            if not attempt.is_canceled:
                raise
            finished = self._without_exit(attempt, Outcome.CANCELED, "canceled", None)
        except (EnvironmentFault, SandboxFailure, OSError) as error:
            log.warning("%s: %s", attempt.assignment.execution_id, error)
            finished = self._without_exit(attempt, Outcome.GRID_FAULT, "grid_fault", str(error))
        return replace(finished, report=replace(finished.report, started_at_ms=started_at_ms))

    async def _carry(self, attempt: Attempt, workspace: Workspace) -> Finished:
        assignment, specification = attempt.assignment, attempt.specification
        source = source_bytes(specification.script_content)
        await asyncio.to_thread(workspace.create)
        await attempt.prepare(self._lay_out(attempt, workspace, source))
        using = self._environments.use(specification)
        environment = await attempt.prepare(using.__aenter__())
        try:
            exit_ = await self._run(attempt, environment, workspace)
        finally:
            await using.__aexit__(None, None, None)
        error_code = error_message = None
        found = Found([])
        try:
            found = await asyncio.to_thread(
                workspace.find_outputs,
                assignment.outputs,
                max_files=assignment.output_limit_files,
                max_bytes=assignment.output_limit_bytes,
            )
        except OutputLimit as error:
            error_code, error_message = "output_limit", str(error)
        blobs = await self._send_outputs(attempt, found.files)
        outcome, exit_code, why = describe(exit_, assignment)
        report = self._report(attempt, outcome, exit_code, error_code, error_message or why)
        report = replace(
            report,
            duration_ms=exit_.duration_ms,
            cpu_ms=exit_.cpu_ms,
            peak_memory_mib=exit_.peak_memory_mib,
            bytes_in=sum(item.size_bytes for item in assignment.inputs),
            bytes_out=sum(item.size_bytes for item in found.files),
            artifacts=[
                OutputFile(item.name, item.sha256, item.size_bytes, item.content_type, item.mode)
                for item in found.files
            ],
            metadata={
                "environment": environment.key,
                "python": environment.version,
                "sandbox": self._sandbox.name,
                "hostname": self._hostname,
                **({"passed_over": found.passed_over} if found.passed_over else {}),
            },
        )
        return Finished(report, blobs)

    async def _lay_out(self, attempt: Attempt, workspace: Workspace, source: bytes) -> None:
        assignment = attempt.assignment
        for item in assignment.inputs:
            fetched = await self._inputs.fetch(assignment, item.sha256)
            await asyncio.to_thread(workspace.put, item.name, fetched)
        workspace.put(attempt.specification.script_name, source)

    async def _run(self, attempt: Attempt, environment: Environment, workspace: Workspace) -> Exit:
        assignment = attempt.assignment
        command = Command(
            argv=[str(environment.python), attempt.specification.script_name, *assignment.args],
            directory=workspace.work,
            environment=script_environment(assignment, environment, workspace),
            timeout_ms=assignment.timeout_ms,
            memory_mib=assignment.memory_mib,
        )
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            running = await self._sandbox.start(command, out_write, err_write)
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
            await attempt.log.drain(DRAIN_SECONDS)

    async def _send_outputs(self, attempt: Attempt, files: list[FoundFile]) -> list[bytes]:
        """Upload large outputs; returns the small ones, which travel with the report."""
        inline: dict[str, bytes] = {}
        large: dict[str, FoundFile] = {}
        inline_bytes = 0
        for item in files:
            fits = inline_bytes + item.size_bytes <= INLINE_TOTAL_BYTES
            if item.sha256 in inline or item.sha256 in large:
                continue
            if item.size_bytes <= INLINE_BLOB_BYTES and fits:
                inline[item.sha256] = await asyncio.to_thread(item.path.read_bytes)
                inline_bytes += item.size_bytes
            else:
                large[item.sha256] = item
        if large:
            for sha256 in await self._connection.missing_blobs(attempt.assignment, list(large)):
                await self._connection.put_blob(attempt.assignment, sha256, large[sha256].path)
        return list(inline.values())

    def _without_exit(self, attempt: Attempt, outcome: Outcome, code: str, message: str | None) -> Finished:
        return Finished(self._report(attempt, outcome, None, code, message), [])

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
        return Outcome.CANCELED, 128 + signal.SIGTERM, None
    try:
        name = signal.Signals(exit_.code).name
    except ValueError:
        name = str(exit_.code)
    return Outcome.SIGNALED, 128 + exit_.code, f"the script was ended by the signal {name}"


def script_environment(
    assignment: Assignment, environment: Environment, workspace: Workspace
) -> dict[str, str]:
    """The script's environment variables: few, and none of the runner's own; the submitter's come last."""
    return {
        "PATH": f"{environment.python.parent}:{PATH}",
        "HOME": str(workspace.home),
        "TMPDIR": str(workspace.tmp),
        "LANG": "C.UTF-8",
        # a log that is followed shows each line as it is printed
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "VIRTUAL_ENV": str(environment.python.parent.parent),
        "RGRID_EXECUTION_ID": assignment.execution_id,
        "RGRID_ATTEMPT": str(assignment.attempt),
        **assignment.env_vars,
    }


def source_bytes(script: str) -> bytes:
    """A script's bytes as its own coding line (PEP 263) says; UTF-8 where it has none.

    A script travels as text. Written back in the encoding that it declares, it is to Python what it was.

    Raises:
        Rejected: there is no such encoding, or it cannot say what the script says.
    """
    for line in script.split("\n", 2)[:2]:
        if (match := _CODING.match(line)) is not None:
            declared = match.group(1)
            try:
                return script.encode(declared)
            except (LookupError, UnicodeError) as error:
                raise Rejected(
                    "script_encoding",
                    f"the script's coding line says {declared}, and the script cannot be written so "
                    f"({error}); write utf-8 there",
                ) from None
        if _BLANK.match(line) is None:
            break
    return script.encode()
