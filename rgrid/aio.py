"""The asynchronous client: the same calls, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rgrid import calls, config, files, models, parts
from rgrid.exceptions import ConfigurationError, RGridError
from rgrid.patience import MAX_FAILURES, PASSING, WAIT_SECONDS, Cuts, Patience
from rgrid.streams import FolderOf, OutputFiles, Rest, ResultLines, Sink, folder_by_input
from rgrid.submissions import execution_body
from rgrid.transport.base import AsyncTransport, Server

T = TypeVar("T")


class AsyncClient:
    """Talks to an RGrid server from an event loop; arguments as for :class:`rgrid.Client`.

    Raises:
        rgrid.exceptions.ConfigurationError: no address is given or found, or httpx is not installed.
    """

    def __init__(
        self,
        api_url: str | None = None,
        api_key: str | None = None,
        *,
        transport: AsyncTransport | None = None,
        timeout_seconds: float = 30.0,
    ) -> None:
        if transport is None:
            found = config.resolve(api_url, api_key)
            if found.api_url is None:
                raise config.no_server()
            try:
                from rgrid.transport.httpx import HttpxTransport
            except ImportError as error:
                raise ConfigurationError("the asynchronous client needs httpx: pip install httpx") from error
            transport = HttpxTransport(Server(found.api_url, found.api_key, timeout_seconds))
        self.transport = transport

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of every connection."""
        await self.transport.close()

    async def send(self, call: calls.Call[T]) -> T:
        """Send any call of :mod:`rgrid.calls`."""
        return await self.transport.send(call)

    async def submit(self, script: str, **options: Any) -> models.Execution:
        """As :meth:`rgrid.Client.submit`."""
        return await self.send(calls.submit_execution(execution_body(script, **options)))

    async def get(self, execution_id: str, wait_seconds: float = 0) -> models.Execution:
        """As :meth:`rgrid.Client.get`."""
        return await self.send(calls.get_execution(execution_id, wait_seconds))

    async def wait(self, execution_id: str) -> models.Execution:
        """Wait for the end of an execution; bound it with :func:`asyncio.timeout`."""
        while not (execution := await self.get(execution_id, WAIT_SECONDS)).is_terminal:
            continue
        return execution

    async def cancel(self, execution_id: str) -> models.Execution:
        """As :meth:`rgrid.Client.cancel`."""
        return await self.send(calls.cancel_execution(execution_id))

    async def acknowledge(self, execution_id: str) -> models.Execution:
        """As :meth:`rgrid.Client.acknowledge`."""
        return await self.send(calls.acknowledge_execution(execution_id))

    async def batch(self, batch_id: str, wait_seconds: float = 0) -> models.Batch:
        """As :meth:`rgrid.Client.batch`."""
        return await self.send(calls.get_batch(batch_id, wait_seconds))

    async def wait_batch(self, batch_id: str) -> models.Batch:
        """Wait until all of a batch has ended; bound it with :func:`asyncio.timeout`."""
        while not (batch := await self.batch(batch_id, WAIT_SECONDS)).is_terminal:
            continue
        return batch

    async def logs(
        self, execution_id: str, *, after: int = 0, follow: bool = False
    ) -> AsyncIterator[models.LogEntry]:
        """As :meth:`rgrid.Client.logs`."""
        patience = Patience(MAX_FAILURES if follow else 0)
        while True:
            try:
                page = await self.send(calls.get_logs(execution_id, after, WAIT_SECONDS if follow else 0))
            except PASSING as failure:
                await asyncio.sleep(patience.delay_after(failure))
                continue
            patience.renew()
            for entry in page.entries:
                yield entry
            after = page.next_after
            if page.is_complete or (not follow and not page.entries):
                return

    async def events(
        self, after: int | None = None, *, batch_id: str | None = None
    ) -> AsyncIterator[models.Event]:
        """As :meth:`rgrid.Client.events`."""
        patience = Patience()
        while True:
            wait_seconds = 0 if after is None else WAIT_SECONDS
            try:
                page = await self.send(calls.get_events(after, wait_seconds=wait_seconds, batch_id=batch_id))
            except PASSING as failure:
                await asyncio.sleep(patience.delay_after(failure))
                continue
            patience.renew()
            for event in page.events:
                yield event
            after = page.next_after

    def batch_results(
        self, batch_id: str, *, after: int = 0, follow: bool = False
    ) -> AsyncIterator[models.BatchResult]:
        """As :meth:`rgrid.Client.batch_results`."""
        return self._follow_batch(batch_id, after, follow, calls.batch_results, ResultLines)

    def batch_outputs(
        self,
        batch_id: str,
        output_dir: Path | str = "outputs",
        *,
        after: int = 0,
        follow: bool = False,
        folder_of: FolderOf = folder_by_input,
    ) -> AsyncIterator[models.BatchResult]:
        """As :meth:`rgrid.Client.batch_outputs`."""
        directory = Path(output_dir)
        return self._follow_batch(
            batch_id, after, follow, calls.batch_outputs, lambda: OutputFiles(directory, folder_of)
        )

    async def _follow_batch(
        self,
        batch_id: str,
        after: int,
        follow: bool,
        call: Callable[..., calls.Call[bytes]],
        begin: Callable[[], Sink],
    ) -> AsyncIterator[models.BatchResult]:
        patience, is_over = Patience(), False
        while True:
            sink, rest = begin(), None
            try:
                async for chunk in self.transport.stream(call(batch_id, after, follow=follow)):
                    for result in sink.feed(chunk):
                        patience.renew()
                        after = result.position
                        yield result
                if is_over or not follow:
                    return
                is_over = (await self.batch(batch_id)).is_terminal
            except PASSING as failure:
                await asyncio.sleep(patience.delay_after(failure))
                rest = sink.rest()
            finally:
                sink.abandon()
            if rest is not None and await self._fetch_rest(rest):
                after = rest.result.position
                yield rest.result

    async def _fetch_rest(self, rest: Rest) -> bool:
        try:
            for item, target in rest.files:
                with files.AtomicFile(target, item.sha256, item.mode, item.size_bytes) as file:
                    await self._fetch(file, partial(_blob_behind, item.sha256))
        except PASSING:
            return False
        return True

    async def upload(self, paths: Mapping[str, Path]) -> dict[str, str]:
        """As :meth:`rgrid.Client.upload`."""
        hashes = {name: await asyncio.to_thread(files.hash_file, path) for name, path in paths.items()}
        by_hash = {hashes[name]: path for name, path in paths.items()}
        if by_hash:
            for one in await self.send(calls.missing_blobs(list(by_hash))):
                await self._put(one, by_hash[one])
        return hashes

    async def _put(self, sha256: str, path: Path) -> None:
        most_bytes, size_bytes = parts.part_bytes(), (await asyncio.to_thread(path.stat)).st_size
        if size_bytes <= most_bytes:
            await self.send(calls.put_blob(sha256, path))
            return
        steps = parts.upload_steps(sha256, path, size_bytes, most_bytes, files.Silent().on_advance)
        await parts.acarry(steps, self.send)

    async def download(self, execution_id: str, output_dir: Path | str = ".") -> list[Path]:
        """As :meth:`rgrid.Client.download`."""
        fetched: list[Path] = []
        for item in await self.send(calls.list_artifacts(execution_id)):
            if item.artifact_type == "output":
                target = files.target_of(item.filename, Path(output_dir))
                await self._download(item, target)
                fetched.append(target)
        return fetched

    async def _download(self, artifact: models.Artifact, target: Path) -> None:
        async def behind(start: int) -> calls.Call[bytes]:
            url = await self.send(calls.download_url(artifact.file_path))
            return calls.fetch(url, start, artifact.sha256)

        with files.AtomicFile(target, artifact.sha256, artifact.mode, artifact.size_bytes) as file:
            await self._fetch(file, behind)

    async def _fetch(
        self, file: files.AtomicFile, behind: Callable[[int], Awaitable[calls.Call[bytes]]]
    ) -> None:
        cuts = Cuts()
        while not file.is_whole:
            try:
                async for chunk in self.transport.stream(await behind(file.received_bytes)):
                    file.write(chunk)
                file.check()
            except RGridError as failure:
                cuts.bear(failure, file.received_bytes)
            else:
                return


async def _blob_behind(sha256: str, start: int) -> calls.Call[bytes]:
    return calls.get_blob(sha256, start)
