"""The runner's life: claim while there is room, keep leases, send logs and reports, stop when asked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rgrid_server.domain.attempts import Assignment, AttemptId, Outcome, Specification
from rgrid_server.domain.registries import to_mask
from rgrid_server.observability.logs import bind
from rgrid_server.runner.ahead import WAIT_SECONDS, Pace
from rgrid_server.runner.carrier import Attempt, Carrier
from rgrid_server.runner.connection import (
    Connection,
    Dismissed,
    Gone,
    NoRoom,
    Refused,
    SentChunk,
    Unregistered,
    is_passing,
)
from rgrid_server.runner.logstream import AttemptLog
from rgrid_server.runner.machine import DiskFloor
from rgrid_server.runner.outputs import Finished, no_room_for
from rgrid_server.runner.workspace import Shelf, Workspace

log = logging.getLogger(__name__)

CLAIM_WAIT_MS = 20_000
LOG_INTERVAL_SECONDS = 0.1
MAX_CHUNK_BYTES = 1024 * 1024
MAX_LOG_WITH_REPORT_BYTES = 256 * 1024
MAX_REPORTS_AT_ONCE = 50
MAX_BLOBS_AT_ONCE_BYTES = 16 * 1024 * 1024
MAX_REPORT_TRIES = 5
MAX_ENDED_PER_SLOT = 3
"""An attempt whose script has ended holds no slot; so many at most wait for their outputs and reports."""
REPORT_TOGETHER_SECONDS = 0.02
FULL_WAIT_SECONDS = 0.25
DISK_LOOK_SECONDS = 1.0
DRAIN_SECONDS = 10.0
"""So long a runner that is asked to end lets scripts run on; what then still runs is handed back."""
REPORTING_GRACE_SECONDS = 3.0
FORSAKEN_SECONDS = 600.0

_Waiting = tuple[Finished, "asyncio.Future[str]"]


class RunnerService:
    """Carries as many attempts at once as there are slots."""

    def __init__(
        self,
        connection: Connection,
        carrier: Carrier,
        description: dict[str, Any],
        slots: int,
        work_directory: Path,
        *,
        memory_mib: int | None = None,
        min_free_bytes: int = 0,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._connection = connection
        self._carrier = carrier
        self._description = description
        self._slots = slots
        self._memory_mib = memory_mib
        self._drain_seconds = drain_seconds
        self._work_directory = work_directory
        self._floor = DiskFloor(work_directory, min_free_bytes)
        self._is_disk_full = False
        self._carried: dict[AttemptId, Attempt] = {}
        self._known: set[AttemptId] = set()
        self._finished: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._slot_free = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._has_logs = asyncio.Event()
        self._sending_logs = asyncio.Lock()
        self._pace = Pace()
        self._shelf = Shelf(work_directory.with_name("shelf"))

    def stop(self) -> None:
        """Take no more work, let what runs come to its end for a while, and end; asked again, end at once."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def run(self) -> None:
        """Serve until stopped.

        Raises:
            Dismissed: the server does not want this runner.
        """
        stopping = asyncio.create_task(self._stopping.wait())
        registering = asyncio.create_task(self._connection.register(self._description))
        tasks: list[asyncio.Task[None]] = []
        try:
            await asyncio.wait(
                [registering, stopping],
                return_when=asyncio.FIRST_COMPLETED,
                timeout=FORSAKEN_SECONDS,
            )
            if not registering.done():
                return
            heartbeat_seconds = registering.result().heartbeat_ms / 1000
            tasks += [
                asyncio.create_task(self._claim()),
                asyncio.create_task(self._keep_leases(heartbeat_seconds)),
                asyncio.create_task(self._send_logs()),
                asyncio.create_task(self._send_reports()),
                asyncio.create_task(self._hand_back_late()),
            ]
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            await self._drain(tasks[0])
        finally:
            for one in (*tasks, stopping, registering):
                one.cancel()
            await asyncio.gather(*tasks, stopping, registering, return_exceptions=True)
            await self._end_attempts()

    async def _claim(self) -> None:
        failures = 0
        while True:
            self._slot_free.clear()
            self._look_at_disk()
            await self._wait_for_room(FULL_WAIT_SECONDS)
            asking = asyncio.create_task(
                self._connection.claim(
                    free_cpus_milli=self._free_cpus_milli(),
                    free_slots=self._free_slots(),
                    free_memory_mib=self._free_memory_mib(),
                    known=self._known,
                    wait_ms=CLAIM_WAIT_MS,
                )
            )
            if self._free_slots() <= 0:
                # nothing is given to a full runner, so its question can be taken back when a slot is free
                freed = asyncio.create_task(self._slot_free.wait())
                await asyncio.wait(
                    [asking, freed],
                    return_when=asyncio.FIRST_COMPLETED,
                    # nobody tells when a disk has room again
                    timeout=DISK_LOOK_SECONDS if self._is_disk_full else None,
                )
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
            except Exception as error:
                if not is_passing(error):
                    raise
                failures += 1
                self._end_if_forsaken()
                await self._connection.back_off(failures)
                continue
            finally:
                asking.cancel()
            failures = 0
            for assignment, specification in work.attempts:
                self._begin(assignment, specification)
            self._cancel(work.cancel)
            if work.drain:
                await self._connection.back_off(1)

    async def _wait_for_room(self, seconds: float) -> None:
        """Wait until there is room to ask for, so long at most.

        A full runner asks for cancellations only, and not while its scripts come and go.
        """
        deadline = time.monotonic() + seconds
        while self._free_slots() <= 0 and (left := deadline - time.monotonic()) > 0:
            self._slot_free.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._slot_free.wait(), left)

    def _begin(self, assignment: Assignment, specification: Specification) -> None:
        if assignment.id in self._known:
            return
        self._known.add(assignment.id)
        log_ = AttemptLog(
            assignment.first_sequence,
            assignment.log_limit_bytes,
            self._has_logs.set,
            self._connection.clock.now_ms,
            to_mask(assignment.secrets),
        )
        attempt = Attempt(assignment, specification, log_, lambda: self._on_slot_free(attempt))
        self._carried[assignment.id] = attempt
        self._give_turns()
        attempt.task = asyncio.create_task(self._carry(attempt))

    def _on_slot_free(self, attempt: Attempt) -> None:
        if attempt.turn.is_set():
            self._pace.ended(time.monotonic() - attempt.turned_at)
        self._give_turns()
        self._slot_free.set()

    def _give_turns(self) -> None:
        """Let those begin, in the order of their claims, for which there is room."""
        for attempt in self._waiting():
            holding = self._holding()
            cpus_milli = sum(one.assignment.cpus_milli for one in holding) + attempt.assignment.cpus_milli
            memory_mib = sum(one.assignment.memory_mib for one in holding) + attempt.assignment.memory_mib
            has_memory = self._memory_mib is None or memory_mib <= self._memory_mib
            if not holding or (
                len(holding) < self._slots and cpus_milli <= self._slots * 1000 and has_memory
            ):
                attempt.take_slot()
            else:
                return

    async def _hand_back_late(self) -> None:
        """Hand back what was claimed ahead and has not come to its turn soon after all."""
        while True:
            await asyncio.sleep(WAIT_SECONDS / 2)
            oldest_at = time.monotonic() - WAIT_SECONDS
            late = [one for one in self._waiting() if one.claimed_at < oldest_at]
            for attempt in late:
                attempt.drop()
            ids = [one.assignment.id for one in late]
            await asyncio.gather(*(one.task for one in late if one.task), return_exceptions=True)
            if ids:
                try:
                    await self._connection.release(ids)
                except Exception as error:
                    # their leases run out, or the server asks for them by the next heartbeat
                    if not is_passing(error) and not isinstance(error, Unregistered):
                        raise

    def _waiting(self) -> list[Attempt]:
        return [one for one in self._carried.values() if one.is_waiting]

    def _holding(self) -> list[Attempt]:
        return [one for one in self._carried.values() if one.holds_slot]

    async def _carry(self, attempt: Attempt) -> None:
        assignment = attempt.assignment
        bind(
            execution_id=assignment.execution_id,
            attempt=assignment.attempt,
            tenant_id=assignment.tenant_id,
            **({"batch_id": assignment.batch_id} if assignment.batch_id else {}),
        )
        name = f"{assignment.execution_id}-{assignment.attempt}"
        workspace = Workspace(self._work_directory / name, self._shelf)
        try:
            finished = await self._carrier.carry(attempt, workspace)
            if not attempt.is_dropped:
                with self._carrier.span(attempt, "report"):
                    await self._report(attempt, finished, workspace)
            self._known.discard(assignment.id)
        except Gone:
            log.info("%s attempt %d is another's now", assignment.execution_id, assignment.attempt)
            self._known.discard(assignment.id)
        except Dismissed:
            # nothing that still runs could be reported
            self._hurrying.set()
            self.stop()
        except Exception:
            # it stays known, so that it is not carried twice; its lease runs out
            log.exception("%s attempt %d has no report", assignment.execution_id, assignment.attempt)
        finally:
            self._carried.pop(assignment.id, None)
            self._slot_free.set()
            if not workspace.put_away():
                await asyncio.to_thread(workspace.remove)

    async def _report(self, attempt: Attempt, finished: Finished, workspace: Workspace) -> None:
        """Send the rest of the log and the report, until the server has taken both."""
        while attempt.log.pending_bytes > MAX_LOG_WITH_REPORT_BYTES and not attempt.is_dropped:
            await self._flush_logs([attempt])
        attempt.is_reporting = True
        async with self._sending_logs:
            # what is on its way arrives first: after its report an attempt's log is closed
            rest = attempt.log.take(2 * MAX_LOG_WITH_REPORT_BYTES)
        report = replace(
            finished.report.with_log(rest),
            last_sequence=attempt.log.last_sequence,
            output_truncated=attempt.log.has_more_than_heads,
        )
        verdict = await self._settle(attempt, replace(finished, report=report), workspace)
        if verdict not in {"accepted", "duplicate"}:
            log.warning("the report of %s was answered %s", attempt.assignment.execution_id, verdict)

    async def _settle(self, attempt: Attempt, finished: Finished, workspace: Workspace) -> str:
        """Have a report answered; where there is no room, first the workspace goes, then the outputs."""
        names = [item.name for item in finished.report.artifacts]
        verdict, times_full = "", 0
        for _ in range(MAX_REPORT_TRIES):
            while True:
                try:
                    if verdict == "blobs_missing":
                        await self._carrier.upload_again(attempt, finished)
                    verdict = await self._ask_for_verdict(finished)
                    break
                except (NoRoom, FileNotFoundError) as error:
                    # the report is tried until it is taken: what holds it up has been let go of by then
                    times_full += 1
                    await asyncio.to_thread(workspace.remove)
                    if times_full > 1 or isinstance(error, FileNotFoundError):
                        finished = finished.without_outputs("storage_full", no_room_for(names, error))
                        verdict = ""
            if verdict != "blobs_missing":
                break
        return verdict

    async def _ask_for_verdict(self, finished: Finished) -> str:
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self._finished.put((finished, answered))
        try:
            return await answered
        except Refused as refused:
            log.exception("a report was refused")
            fault = replace(
                finished.report,
                outcome=Outcome.GRID_FAULT,
                error_code="grid_fault",
                error_message=str(refused),
                stdout="",
                stderr="",
                log=None,
                artifacts=[],
                metadata={},
            )
            return (await self._connection.send_reports([fault], []))[0]

    async def _send_reports(self) -> None:
        while True:
            waiting = [await self._finished.get()]
            if self._waiting():
                # there is work enough meanwhile, so nobody waits for these but a client for a moment
                await asyncio.sleep(REPORT_TOGETHER_SECONDS)
            size_bytes = _size_bytes(waiting[0][0])
            while (
                len(waiting) < MAX_REPORTS_AT_ONCE
                and size_bytes < MAX_BLOBS_AT_ONCE_BYTES
                and not self._finished.empty()
            ):
                waiting.append(self._finished.get_nowait())
                size_bytes += _size_bytes(waiting[-1][0])
            await self._send_together(waiting)

    async def _send_together(self, waiting: list[_Waiting]) -> None:
        blobs = {hashlib.sha256(blob).digest(): blob for finished, _ in waiting for blob in finished.blobs}
        try:
            verdicts = await self._connection.send_reports(
                [finished.report for finished, _ in waiting], list(blobs.values())
            )
        except NoRoom as error:
            for _, answered in waiting:
                if not answered.done():
                    answered.set_exception(error)
            return
        except Refused as refused:
            if len(waiting) > 1:
                # one of them is at fault; the others are not to suffer for it
                for item in waiting:
                    await self._send_together([item])
                return
            if not waiting[0][1].done():
                waiting[0][1].set_exception(refused)
            return
        for (_, answered), verdict in zip(waiting, verdicts, strict=True):
            if not answered.done():
                answered.set_result(verdict)

    async def _send_logs(self) -> None:
        while True:
            await self._has_logs.wait()
            if all(item.log.pending_bytes < MAX_CHUNK_BYTES for item in self._carried.values()):
                # together with what comes in the meantime; a script that ends soon needs its report only
                await asyncio.sleep(LOG_INTERVAL_SECONDS)
            self._has_logs.clear()
            await self._flush_logs(list(self._carried.values()))

    async def _flush_logs(self, attempts: list[Attempt]) -> None:
        async with self._sending_logs:
            sent = [
                (attempt, SentChunk(attempt.assignment, chunk))
                for attempt in attempts
                if not attempt.is_reporting and (chunk := attempt.log.take(MAX_CHUNK_BYTES)) is not None
            ]
            if not sent:
                return
            try:
                verdicts = await self._connection.send_logs([chunk for _, chunk in sent])
            except Refused:
                log.exception("log chunks were refused; they are lost")
                return
            except NoRoom as error:
                log.warning("%s; the logs of what prints are not kept", error)
                for attempt, _ in sent:
                    attempt.log.give_up("there is no room for it on the server's disk")
                return
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

    async def _drain(self, claiming: asyncio.Task[None]) -> None:
        """Hand back what has not started, let what runs come to its end for a while, hand back the rest."""
        log.info("this runner is to end; what it carries has %g s to come to its end", self._drain_seconds)
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        not_started = [one for one, attempt in self._carried.items() if not attempt.has_started]
        for one in not_started:
            self._each(one, Attempt.drop)
        if not_started:
            # at once: another runner may have room
            await self._release(not_started)
        await self._until_carried(self._drain_seconds, unless=self._hurrying)
        for attempt in list(self._carried.values()):
            if attempt.holds_slot:
                attempt.drop()
        # what has ended is reported rather than run again, if that can be
        await self._until_carried(REPORTING_GRACE_SECONDS)
        left = list(self._known)
        await self._end_attempts()
        # with all that was given in an answer that nobody hears any more
        await self._release(left, ends=True)

    async def _until_carried(self, seconds: float, unless: asyncio.Event | None = None) -> None:
        """Wait until everything that was not dropped is carried to its end, so long at most."""
        tasks = [item.task for item in self._carried.values() if item.task and not item.is_dropped]
        if not tasks:
            return
        # the waiting may be broken off, what is waited for goes on
        ends = asyncio.create_task(asyncio.wait(tasks))
        hurried = asyncio.create_task((unless or asyncio.Event()).wait())
        try:
            await asyncio.wait({ends, hurried}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ends.cancel()
            hurried.cancel()

    async def _release(self, handed_back: list[AttemptId], *, ends: bool = False) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._connection.release(handed_back, ends=ends), REPORTING_GRACE_SECONDS)

    async def _end_attempts(self) -> None:
        carried = list(self._carried.values())
        for attempt in carried:
            attempt.drop()
        await asyncio.gather(*(attempt.task for attempt in carried if attempt.task), return_exceptions=True)

    def _end_if_forsaken(self) -> None:
        """End when nobody needs this runner: its server has been away for long, or its directory is gone."""
        is_useless = not self._carried and self._connection.seconds_unanswered > FORSAKEN_SECONDS
        if is_useless or not self._work_directory.exists():
            log.warning("the server is gone; this runner ends")
            self._hurrying.set()
            self.stop()

    def _look_at_disk(self) -> None:
        was_full, self._is_disk_full = self._is_disk_full, self._floor.is_reached()
        if self._is_disk_full and not was_full:
            log.warning(
                "the disk of %s is nearly full; nothing is taken until it has room", self._work_directory
            )
        elif was_full and not self._is_disk_full:
            log.info("the disk of %s has room again", self._work_directory)

    def _room(self) -> int:
        """How many attempts may be here that have not ended: in the slots, and ahead of their turn."""
        now = time.monotonic()
        longest_seconds = max((now - one.turned_at for one in self._holding()), default=0.0)
        return self._slots + self._pace.ahead(self._slots, longest_running_seconds=longest_seconds)

    def _not_ended(self) -> list[Attempt]:
        return [one for one in self._carried.values() if not one.has_ended]

    def _free_slots(self) -> int:
        if self._is_disk_full:
            return 0
        ended = len(self._carried) - len(self._not_ended())
        if ended >= MAX_ENDED_PER_SLOT * self._room():
            return 0
        free = self._room() - len(self._not_ended())
        # half of what is ahead is asked for at once, rather than each by itself
        return free if free >= (self._room() - self._slots) // 2 else 0

    def _free_cpus_milli(self) -> int:
        used = sum(attempt.assignment.cpus_milli for attempt in self._not_ended())
        return max(0, self._room() * 1000 - used)

    def _free_memory_mib(self) -> int | None:
        if self._memory_mib is None:
            return None
        used = sum(attempt.assignment.memory_mib for attempt in self._not_ended())
        return max(0, self._memory_mib * self._room() // self._slots - used)


def _size_bytes(finished: Finished) -> int:
    return sum(len(blob) for blob in finished.blobs)
