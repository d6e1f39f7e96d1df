"""The runner's life: claim while there is room, keep leases, send logs and reports, stop when asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rgrid_server.domain.attempts import Assignment, AttemptId, Specification
from rgrid_server.runner.carrier import Attempt, Carrier, Finished
from rgrid_server.runner.connection import Connection, Dismissed, Gone, SentChunk, Unregistered, is_passing
from rgrid_server.runner.logstream import AttemptLog
from rgrid_server.runner.workspace import Workspace

log = logging.getLogger(__name__)

CLAIM_WAIT_MS = 20_000
LOG_INTERVAL_SECONDS = 0.1
MAX_CHUNK_BYTES = 1024 * 1024
MAX_LOG_WITH_REPORT_BYTES = 256 * 1024
MAX_REPORTS_AT_ONCE = 50
MAX_BLOBS_AT_ONCE_BYTES = 16 * 1024 * 1024


class RunnerService:
    """Carries as many attempts at once as there are slots."""

    def __init__(
        self,
        connection: Connection,
        carrier: Carrier,
        description: dict[str, Any],
        slots: int,
        work_directory: Path,
    ) -> None:
        self._connection = connection
        self._carrier = carrier
        self._description = description
        self._slots = slots
        self._work_directory = work_directory
        self._carried: dict[AttemptId, Attempt] = {}
        self._finished: asyncio.Queue[tuple[Attempt, Finished, asyncio.Future[str]]] = asyncio.Queue()
        self._slot_free = asyncio.Event()
        self._stopping = asyncio.Event()
        self._has_logs = asyncio.Event()
        self._sending_logs = asyncio.Lock()

    def stop(self) -> None:
        """Take no more work, hand back what runs, and end."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until stopped.

        Raises:
            Dismissed: the server does not want this runner.
        """
        lease = await self._connection.register(self._description)
        tasks = [
            asyncio.create_task(self._claim()),
            asyncio.create_task(self._keep_leases(lease.heartbeat_ms / 1000)),
            asyncio.create_task(self._send_logs()),
            asyncio.create_task(self._send_reports()),
        ]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
            await self._hand_back(tasks[0])
        finally:
            for task in [*tasks, stopping]:
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            for attempt in list(self._carried.values()):
                attempt.drop()
            await asyncio.gather(*self._attempt_tasks(), return_exceptions=True)

    async def _claim(self) -> None:
        failures = 0
        while True:
            free_slots = self._slots - len(self._carried)
            self._slot_free.clear()
            asking = asyncio.create_task(
                self._connection.claim(self._free_cpus_milli(), max(0, free_slots), CLAIM_WAIT_MS)
            )
            if free_slots <= 0:
                # nothing is given to a full runner, so its question can be taken back when a slot is free
                freed = asyncio.create_task(self._slot_free.wait())
                await asyncio.wait([asking, freed], return_when=asyncio.FIRST_COMPLETED)
                freed.cancel()
                if not asking.done():
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                    continue
            try:
                work = await asking
            except Unregistered:
                await self._connection.register(self._description)
                continue
            except Dismissed:
                raise
            except Exception as error:
                if not is_passing(error):
                    raise
                failures += 1
                await self._connection.back_off(failures)
                continue
            failures = 0
            for assignment, specification in work.attempts:
                self._begin(assignment, specification)
            self._cancel(work.cancel)
            if work.drain:
                await self._connection.back_off(1)

    def _begin(self, assignment: Assignment, specification: Specification) -> None:
        log_ = AttemptLog(assignment.first_sequence, assignment.log_limit_bytes, self._has_logs.set)
        attempt = Attempt(assignment, specification, log_)
        self._carried[assignment.id] = attempt
        attempt.task = asyncio.create_task(self._carry(attempt))

    async def _carry(self, attempt: Attempt) -> None:
        assignment = attempt.assignment
        workspace = Workspace(self._work_directory / f"{assignment.execution_id}-{assignment.attempt}")
        try:
            finished = await self._carrier.carry(attempt, workspace)
            if not attempt.is_dropped:
                await self._report(attempt, finished)
        except Gone:
            log.info("%s attempt %d is another's now", assignment.execution_id, assignment.attempt)
        except asyncio.CancelledError:
            raise
        except Exception:
            # whatever it is: the lease runs out, and another attempt is made
            log.exception("%s attempt %d was lost", assignment.execution_id, assignment.attempt)
        finally:
            self._carried.pop(assignment.id, None)
            self._slot_free.set()
            await asyncio.to_thread(workspace.remove)

    async def _report(self, attempt: Attempt, finished: Finished) -> None:
        while attempt.log.pending_bytes > MAX_LOG_WITH_REPORT_BYTES and not attempt.is_dropped:
            await self._flush_logs([attempt])
        attempt.is_reporting = True
        async with self._sending_logs:
            # what is on its way arrives first: after its report an attempt's log is closed
            answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self._finished.put((attempt, finished, answered))
        verdict = await answered
        if verdict not in {"accepted", "duplicate"}:
            log.warning("the report of %s was answered %s", attempt.assignment.execution_id, verdict)

    async def _send_reports(self) -> None:
        while True:
            waiting = [await self._finished.get()]
            size_bytes = 0
            while (
                len(waiting) < MAX_REPORTS_AT_ONCE
                and size_bytes < MAX_BLOBS_AT_ONCE_BYTES
                and not self._finished.empty()
            ):
                waiting.append(self._finished.get_nowait())
                size_bytes += sum(len(blob) for blob in waiting[-1][1].blobs)
            reports = []
            blobs: dict[int, bytes] = {}
            for attempt, finished, _ in waiting:
                rest = attempt.log.take(2 * MAX_LOG_WITH_REPORT_BYTES)
                reports.append(finished.report.with_log(rest))
                blobs.update({id(blob): blob for blob in finished.blobs})
            try:
                verdicts = await self._connection.send_reports(reports, list(blobs.values()))
            except BaseException as error:
                for _, _, answered in waiting:
                    if not answered.done():
                        answered.set_exception(error if isinstance(error, Exception) else Gone("stopped"))
                raise
            for (_, _, answered), verdict in zip(waiting, verdicts, strict=True):
                if not answered.done():
                    answered.set_result(verdict)

    async def _send_logs(self) -> None:
        while True:
            await self._has_logs.wait()
            self._has_logs.clear()
            await self._flush_logs(list(self._carried.values()))
            await asyncio.sleep(LOG_INTERVAL_SECONDS)

    async def _flush_logs(self, attempts: list[Attempt]) -> None:
        async with self._sending_logs:
            sent = [
                (attempt, SentChunk(attempt.assignment, chunk))
                for attempt in attempts
                if not attempt.is_reporting and (chunk := attempt.log.take(MAX_CHUNK_BYTES)) is not None
            ]
            if not sent:
                return
            verdicts = await self._connection.send_logs([chunk for _, chunk in sent])
        for (attempt, _), verdict in zip(sent, verdicts, strict=True):
            if verdict == "stale":
                attempt.drop()
            if attempt.log.pending_bytes:
                self._has_logs.set()

    async def _keep_leases(self, every_seconds: float) -> None:
        while True:
            await asyncio.sleep(every_seconds)
            carried = list(self._carried)
            if not carried:
                continue
            try:
                cancel, lost = await self._connection.heartbeat(carried)
            except Unregistered:
                await self._connection.register(self._description)
                continue
            except Dismissed:
                raise
            except Exception as error:
                if not is_passing(error):
                    raise
                continue
            self._cancel(cancel)
            for one in lost:
                self._each(one, Attempt.drop)

    def _cancel(self, wanted: list[AttemptId]) -> None:
        for one in wanted:
            self._each(one, Attempt.cancel)

    def _each(self, one: AttemptId, act: Callable[[Attempt], None]) -> None:
        attempt = self._carried.get(one)
        if attempt is not None:
            act(attempt)

    async def _hand_back(self, claiming: asyncio.Task[None]) -> None:
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        handed_back = list(self._carried)
        if handed_back:
            for attempt in list(self._carried.values()):
                attempt.drop()
            await asyncio.gather(*self._attempt_tasks(), return_exceptions=True)
            with contextlib.suppress(Exception):
                await self._connection.release(handed_back)

    def _attempt_tasks(self) -> list[asyncio.Task[None]]:
        return [attempt.task for attempt in self._carried.values() if attempt.task is not None]

    def _free_cpus_milli(self) -> int:
        used = sum(attempt.assignment.cpus_milli for attempt in self._carried.values())
        return max(0, self._slots * 1000 - used)
