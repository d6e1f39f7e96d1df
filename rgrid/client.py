"""The client: each method sends one call; the few that do more say so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from rgrid import calls, config, models
from rgrid.exceptions import NotFound, RGridError, TimedOut
from rgrid.patience import MAX_FAILURES, PASSING, Cuts, Patience
from rgrid.transport.base import Server, Transport

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import Path
    from types import TracebackType

    from rgrid import files, streams
    from rgrid.arriving import Told

T = TypeVar("T")

WAIT_SECONDS = 30.0


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

        from rgrid import files

        outputs = [item for item in self.artifacts(execution_id) if item.artifact_type == "output"]
        if names is not None:
            there = {item.filename for item in outputs}
            for name in names:
                if name not in there:
                    known = ", ".join(sorted(there)) or "none"
                    raise NotFound(f"{execution_id} has no output {name!r}; there is {known}", status=404)
            outputs = [item for item in outputs if item.filename in names]
        directory = Path(output_dir)
        shown = progress or files.Silent()
        shown.on_start(sum(item.size_bytes for item in outputs))
        try:
            return [
                self._download(item, files.target_of(item.filename, directory), shown) for item in outputs
            ]
        finally:
            shown.on_end()

    def _download(self, artifact: models.Artifact, target: Path, shown: files.Progress) -> Path:
        from rgrid import files
        from rgrid.arriving import Told

        def behind(start: int) -> calls.Call[bytes]:
            return calls.fetch(self.send(calls.download_url(artifact.file_path)), start, artifact.sha256)

        with files.AtomicFile(target, artifact.sha256, artifact.mode, artifact.size_bytes) as file:
            self._fetch(file, behind, Told(file, shown))
        return target

    def _fetch(self, file: files.AtomicFile, behind: Callable[[int], calls.Call[bytes]], told: Told) -> None:
        """Fetch a file by the calls for what is behind an offset, going on where it was cut."""
        cuts = Cuts()
        while not file.is_whole:
            try:
                for chunk in self.transport.stream(behind(file.received_bytes)):
                    file.write(chunk)
                    told.tell()
                file.check()
            except RGridError as failure:
                told.tell()
                cuts.bear(failure, file.received_bytes)
            else:
                return

    def logs(
        self, execution_id: str, *, after: int = 0, follow: bool = False, stream: str | None = None
    ) -> Iterator[models.LogEntry]:
        """Its log from an entry on; with ``follow`` until it ends, each entry once whatever breaks."""
        patience = Patience(MAX_FAILURES if follow else 0)
        while True:
            try:
                page = self.send(calls.get_logs(execution_id, after, WAIT_SECONDS if follow else 0))
            except PASSING as failure:
                time.sleep(patience.delay_after(failure))
                continue
            patience.renew()
            for entry in page.entries:
                if stream is None or entry.stream == stream:
                    yield entry
            after = page.next_after
            if page.is_complete or (not follow and not page.entries):
                return

    def events(self, after: int | None = None, *, batch_id: str | None = None) -> Iterator[models.Event]:
        """Every transition behind a position, or from now on, without end; each once, whatever breaks.

        Raises:
            rgrid.exceptions.ApiError: ``position_expired``, the server no longer has what comes behind it.
        """
        patience = Patience()
        while True:
            # from now on: where now is, the first answer says at once
            wait_seconds = 0 if after is None else WAIT_SECONDS
            try:
                page = self.send(calls.get_events(after, wait_seconds=wait_seconds, batch_id=batch_id))
            except PASSING as failure:
                time.sleep(patience.delay_after(failure))
                continue
            patience.renew()
            yield from page.events
            after = page.next_after

    def upload(self, paths: Mapping[str, Path], progress: files.Progress | None = None) -> dict[str, str]:
        """Upload what of some files the server lacks; returns the SHA-256 of each by its name."""
        from rgrid import files

        hashes = {name: files.hash_file(path) for name, path in paths.items()}
        by_hash = {hashes[name]: path for name, path in paths.items()}
        if not by_hash:
            return {}
        missing = self.send(calls.missing_blobs(list(by_hash)))
        sizes = {sha256: by_hash[sha256].stat().st_size for sha256 in missing}
        shown = progress or files.Silent()
        shown.on_start(sum(sizes.values()))
        try:
            small = [(one, by_hash[one]) for one in missing if sizes[one] <= files.SMALL_FILE_BYTES]
            for group in files.frames_of(small):
                self.send(calls.put_blobs(group))
                shown.on_advance(sum(len(data) for data in group.values()))
            for one in missing:
                if sizes[one] > files.SMALL_FILE_BYTES:
                    self._put(one, by_hash[one], sizes[one], shown)
        finally:
            shown.on_end()
        return hashes

    def _put(self, sha256: str, path: Path, size_bytes: int, shown: files.Progress) -> None:
        """Upload a file, a large one in parts."""
        from rgrid import parts

        most_bytes = parts.part_bytes()
        if size_bytes <= most_bytes:
            self.send(calls.put_blob(sha256, path))
            shown.on_advance(size_bytes)
            return
        parts.carry(parts.upload_steps(sha256, path, size_bytes, most_bytes, shown.on_advance), self.send)

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

        return self._follow_batch(batch_id, after, follow, calls.batch_results, ResultLines)

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
        return self._follow_batch(
            batch_id, after, follow, calls.batch_outputs, lambda: OutputFiles(directory, named), progress
        )

    def _follow_batch(
        self,
        batch_id: str,
        after: int,
        follow: bool,
        call: Callable[..., calls.Call[bytes]],
        begin: Callable[[], streams.Sink],
        progress: files.Progress | None = None,
    ) -> Iterator[models.BatchResult]:
        patience, is_over = Patience(), False
        while True:
            sink, rest = begin(), None
            try:
                for chunk in self.transport.stream(call(batch_id, after, follow=follow)):
                    if progress is not None:
                        progress.on_advance(len(chunk))
                    for result in sink.feed(chunk):
                        patience.renew()
                        after = result.position
                        yield result
                # a server that stops ends its streams; only what ends after the batch has is whole
                if is_over or not follow:
                    return
                is_over = self.batch(batch_id).is_terminal
            except PASSING as failure:
                time.sleep(patience.delay_after(failure))
                rest = sink.rest()
            finally:
                sink.abandon()
            if rest is not None and self._fetch_rest(rest, progress):
                after = rest.result.position
                yield rest.result

    def _fetch_rest(self, rest: streams.Rest, progress: files.Progress | None) -> bool:
        """Fetch what a stream was cut in, going on where it was; False where that does not work just now."""
        from rgrid import files
        from rgrid.arriving import Told

        shown = progress or files.Silent()
        try:
            for item, target in rest.files:
                with files.AtomicFile(target, item.sha256, item.mode, item.size_bytes) as file:
                    # what is here the stream has brought, and told
                    told = Told(file, shown, file.received_bytes)
                    self._fetch(file, partial(calls.get_blob, item.sha256), told)
        except PASSING:
            return False
        return True

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
