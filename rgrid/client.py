"""The client: each method sends one call; the few that do more say so."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rgrid import calls, config, following, models
from rgrid.exceptions import TimedOut
from rgrid.patience import WAIT_SECONDS
from rgrid.transport.base import Server, Transport

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import Path
    from types import TracebackType

    from rgrid import files, streams

T = TypeVar("T")


class Client:
    """Talks to an RGrid server; for one thread at a time.

    Args:
        api_url: the server's address, with or without ``/api/v1``; found as ``rgrid.config`` says when None.
        api_key: its key; found likewise.
        transport: who carries the bytes; the standard library when None.
        timeout_seconds: how long to wait for an answer.

    Raises:
        rgrid.exceptions.ConfigurationError: no address is given or found.
    """

    def __init__(
        self,
        api_url: str | None = None,
        api_key: str | None = None,
        *,
        transport: Transport | None = None,
        timeout_seconds: float = 30.0,
    ) -> None:
        if transport is None:
            found = config.resolve(api_url, api_key)
            if found.api_url is None:
                raise config.no_server()
            from rgrid.transport.stdlib import StdlibTransport

            transport = StdlibTransport(Server(found.api_url, found.api_key, timeout_seconds))
        self.transport = transport

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of every connection."""
        self.transport.close()

    def send(self, call: calls.Call[T]) -> T:
        """Send any call of :mod:`rgrid.calls`."""
        return self.transport.send(call)

    def submit(self, script: str, **options: Any) -> models.Execution:
        """Submit a script's source; the options are those of :func:`rgrid.submissions.execution_body`."""
        from rgrid.submissions import execution_body

        return self.send(calls.submit_execution(execution_body(script, **options)))

    def get(self, execution_id: str, wait_seconds: float = 0) -> models.Execution:
        """An execution, at once or as soon as it has ended, at the latest after ``wait_seconds``."""
        return self.send(calls.get_execution(execution_id, wait_seconds))

    def wait(self, execution_id: str, timeout_seconds: float | None = None) -> models.Execution:
        """Wait for the end of an execution, through failures of the server that pass.

        Raises:
            rgrid.exceptions.TimedOut: it has not ended after ``timeout_seconds``.
        """
        for left in _spans(f"execution {execution_id}", timeout_seconds):
            execution = self.get(execution_id, left)
            if execution.is_terminal:
                return execution
        raise AssertionError("unreachable")

    def list(
        self,
        limit: int = 50,
        status: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[models.Execution]:
        """The newest executions, as many as ``limit``, over as many calls as that takes."""
        found: list[models.Execution] = []
        cursor: str | None = None
        while len(found) < limit:
            page, cursor = self.send(
                calls.list_executions(min(500, limit - len(found)), status, metadata, cursor)
            )
            found.extend(page)
            if cursor is None or not page:
                break
        return found

    def retry(self, execution_id: str) -> models.Execution:
        """Run it again, as a new execution."""
        return self.send(calls.retry_execution(execution_id))

    def cancel(self, execution_id: str) -> models.Execution:
        """Stop it."""
        return self.send(calls.cancel_execution(execution_id))

    def acknowledge(self, execution_id: str) -> models.Execution:
        """Say that its result was taken."""
        return self.send(calls.acknowledge_execution(execution_id))

    def artifacts(self, execution_id: str) -> Sequence[models.Artifact]:
        """Its files, in and out."""
        return self.send(calls.list_artifacts(execution_id))

    def download(
        self,
        execution_id: str,
        output_dir: Path | str = ".",
        *,
        names: Sequence[str] | None = None,
        progress: files.Progress | None = None,
    ) -> Sequence[Path]:
        """Fetch its outputs, or those of ``names``, each whole or not at all; returns where they are.

        Raises:
            rgrid.exceptions.NotFound: it has no output of a name.
        """
        from pathlib import Path

        from rgrid import transfers

        return transfers.download(self.transport, execution_id, Path(output_dir), names, progress)

    def logs(
        self, execution_id: str, *, after: int = 0, follow: bool = False, stream: str | None = None
    ) -> Iterator[models.LogEntry]:
        """Its log from an entry on; with ``follow`` until it ends, each entry once whatever breaks."""
        return following.logs(self.transport, execution_id, after, follow=follow, stream=stream)

    def events(self, after: int | None = None, *, batch_id: str | None = None) -> Iterator[models.Event]:
        """Every transition behind a position, or from now on, without end; each once, whatever breaks.

        Raises:
            rgrid.exceptions.ApiError: ``position_expired``, the server no longer has what comes behind it.
        """
        return following.events(self.transport, after, batch_id)

    def upload(self, paths: Mapping[str, Path], progress: files.Progress | None = None) -> dict[str, str]:
        """Upload what of some files the server lacks; returns the SHA-256 of each by its name."""
        from rgrid import transfers

        return transfers.upload(self.transport, paths, progress)

    def submit_batch(
        self,
        template: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]],
        *,
        parallelism: int | None = None,
        run_key: str | None = None,
        user_metadata: Mapping[str, Any] | None = None,
    ) -> models.Batch:
        """Submit many executions of one script; ``template`` is a body of ``execution_body``."""
        body: dict[str, Any] = {
            "template": dict(template),
            "items": [dict(item) for item in items],
            "user_metadata": dict(user_metadata or {}),
        }
        if parallelism is not None:
            body["parallelism"] = parallelism
        if run_key is not None:
            body["run_key"] = run_key
        return self.send(calls.submit_batch(body))

    def batch(self, batch_id: str, wait_seconds: float = 0) -> models.Batch:
        """A batch, at once or as soon as all of it has ended, at the latest after ``wait_seconds``."""
        return self.send(calls.get_batch(batch_id, wait_seconds))

    def wait_batch(self, batch_id: str, timeout_seconds: float | None = None) -> models.Batch:
        """Wait until all of a batch has ended.

        Raises:
            rgrid.exceptions.TimedOut: it has not after ``timeout_seconds``.
        """
        for left in _spans(f"batch {batch_id}", timeout_seconds):
            batch = self.batch(batch_id, left)
            if batch.is_terminal:
                return batch
        raise AssertionError("unreachable")

    def batch_executions(self, batch_id: str, status: str | None = None) -> Iterator[models.BatchExecution]:
        """All executions of a batch in order of index, over as many calls as that takes."""
        cursor: str | None = None
        while True:
            page, cursor = self.send(calls.batch_executions(batch_id, cursor=cursor, status=status))
            yield from page
            if cursor is None:
                return

    def batch_results(
        self, batch_id: str, *, after: int = 0, follow: bool = False
    ) -> Iterator[models.BatchResult]:
        """What came of a batch's executions, in order of completion: what has ended, or until all has.

        Each comes once, whatever breaks; ``after`` is the position of the last one that is known.
        """
        from rgrid.streams import ResultLines

        return following.batch(
            self.transport, batch_id, after, calls.batch_results, ResultLines, follow=follow
        )

    def batch_outputs(
        self,
        batch_id: str,
        output_dir: Path | str = "outputs",
        *,
        after: int = 0,
        follow: bool = False,
        folder_of: streams.FolderOf | None = None,
        progress: files.Progress | None = None,
    ) -> Iterator[models.BatchResult]:
        """As :meth:`batch_results`, each when its files are written, whole, under ``output_dir``.

        Args:
            batch_id: the batch.
            output_dir: where a folder is made for each execution.
            after: the position of the last one that is known.
            follow: go on until all of the batch has ended.
            folder_of: the folder of a result; as its input is called by default.
            progress: told of each byte.
        """
        from pathlib import Path

        from rgrid.streams import OutputFiles, folder_by_input

        directory, named = Path(output_dir), folder_of or folder_by_input
        return following.batch(
            self.transport,
            batch_id,
            after,
            calls.batch_outputs,
            lambda: OutputFiles(directory, named),
            follow=follow,
            progress=progress,
        )

    def cancel_batch(self, batch_id: str) -> models.Batch:
        """Stop all of a batch."""
        return self.send(calls.cancel_batch(batch_id))

    def acknowledge_batch(self, batch_id: str) -> models.Batch:
        """Say that a batch's results were taken."""
        return self.send(calls.acknowledge_batch(batch_id))

    def retry_batch(self, batch_id: str, *, failed_only: bool = False) -> models.Batch:
        """Run a batch again, or what of it did not complete."""
        return self.send(calls.retry_batch(batch_id, failed_only=failed_only))

    def estimate(self, runtime: str | None = None, files: int | None = None) -> models.Estimate:
        """What runs are likely to take and cost."""
        return self.send(calls.estimate(runtime, files))

    def cost(
        self, since: str | None = None, until: str | None = None, days: int | None = None
    ) -> models.Cost:
        """Spend by day."""
        return self.send(calls.cost(since, until, days))

    def cost_breakdown(
        self,
        group_by: str,
        *,
        since: str | None = None,
        until: str | None = None,
        days: int | None = None,
        filters: Mapping[str, str] | None = None,
    ) -> models.CostBreakdown:
        """Spend in parts that sum to it."""
        return self.send(calls.cost_breakdown(group_by, since, until, days, filters))

    def cost_export(
        self, *, since: str | None = None, until: str | None = None, days: int | None = None
    ) -> Iterator[bytes]:
        """The bill as comma-separated values with a head, as they come: a row an attempt, in FOCUS columns.

        ``x_RowId`` names a row for good, so what reads it twice can tell. It is not asked for again after a
        failure in the middle, which is raised.
        """
        return self.transport.stream(calls.cost_export(since, until, days))

    def budget(self) -> models.Budget:
        """The monthly limit and its use."""
        return self.send(calls.get_budget())

    def set_budget(self, monthly_limit_euros: Decimal | int | str) -> str:
        """Set the monthly limit; returns what the server says of it."""
        from decimal import Decimal

        return self.send(calls.set_budget(format(Decimal(monthly_limit_euros), "f")))

    def remove_budget(self) -> str:
        """Remove the monthly limit; returns what the server says of it."""
        return self.send(calls.remove_budget())

    def secrets(self) -> Sequence[models.KeptSecret]:
        """The secrets that are kept on the server; their values are never read back."""
        return self.send(calls.secrets())

    def put_secret(self, name: str, value: str) -> str:
        """Keep a secret on the server, in place of what was kept under its name."""
        return self.send(calls.put_secret(name, value))

    def remove_secret(self, name: str) -> str:
        """Keep a secret no more."""
        return self.send(calls.remove_secret(name))

    def runtimes(self) -> Sequence[models.Runtime]:
        """What scripts can run with."""
        return self.send(calls.runtimes())

    def limits(self) -> models.Limits:
        """What may be asked for."""
        return self.send(calls.limits())

    def whoami(self) -> models.Identity:
        """Whose key this is."""
        return self.send(calls.whoami())

    def health(self) -> models.Health:
        """Whether the server is well."""
        return self.send(calls.health())


def _spans(what: str, timeout_seconds: float | None) -> Iterator[float]:
    """How long each look may wait, until the time is over."""
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        left = WAIT_SECONDS if deadline is None else min(WAIT_SECONDS, deadline - time.monotonic())
        yield max(0.0, left)
        if deadline is not None and time.monotonic() >= deadline:
            raise TimedOut(f"{what} has not ended after {timeout_seconds:g} s; it goes on")
