"""The runner's life: claim while there is room, keep leases, have each attempt carried, stop when asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rgrid_server.clock import is_set_within
from rgrid_server.domain.attempts import Assignment, AttemptId, Specification
from rgrid_server.domain.registries import to_mask
from rgrid_server.observability.logs import bind
from rgrid_server.runner.ahead import WAIT_SECONDS
from rgrid_server.runner.attempt import Attempt
from rgrid_server.runner.capacity import Capacity
from rgrid_server.runner.carrier import Carrier
from rgrid_server.runner.connection import Connection, Dismissed, Gone, Unregistered, is_passing
from rgrid_server.runner.logshipping import LogShipper
from rgrid_server.runner.logstream import AttemptLog
from rgrid_server.runner.machine import DiskFloor
from rgrid_server.runner.reporting import Reporter
from rgrid_server.runner.workspace import Shelf, Workspace

log = logging.getLogger(__name__)

CLAIM_WAIT_MS = 20_000
FULL_WAIT_SECONDS = 0.25
DISK_LOOK_SECONDS = 1.0
DRAIN_SECONDS = 10.0
"""So long a runner that is asked to end lets scripts run on; what then still runs is handed back."""
REPORTING_GRACE_SECONDS = 3.0
FORSAKEN_SECONDS = 600.0


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
        self._drain_seconds = drain_seconds
        self._work_directory = work_directory
        self._floor = DiskFloor(work_directory, min_free_bytes)
        self._carried: dict[AttemptId, Attempt] = {}
        self._known: set[AttemptId] = set()
        carried = self._carried.values()
        self._capacity = Capacity(carried, slots, memory_mib, self._floor)
        self._logs = LogShipper(connection, carried)
        self._reporter = Reporter(
            connection, carrier, self._logs, has_more_work=lambda: bool(self._capacity.waiting())
        )
        self._slot_free = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
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
                asyncio.create_task(self._logs.run()),
                asyncio.create_task(self._reporter.run()),
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
            self._floor.look()
            await self._wait_for_room(FULL_WAIT_SECONDS)
            asking = asyncio.create_task(
                self._connection.claim(
                    free_cpus_milli=self._capacity.free_cpus_milli(),
                    free_slots=self._capacity.free_slots(),
                    free_memory_mib=self._capacity.free_memory_mib(),
                    known=self._known,
                    wait_ms=CLAIM_WAIT_MS,
                )
            )
            if self._capacity.free_slots() <= 0:
                # nothing is given to a full runner, so its question can be taken back when a slot is free
                freed = asyncio.create_task(self._slot_free.wait())
                await asyncio.wait(
                    [asking, freed],
                    return_when=asyncio.FIRST_COMPLETED,
                    # nobody tells when a disk has room again
                    timeout=DISK_LOOK_SECONDS if self._floor.is_reached else None,
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
            self._each(work.cancel, Attempt.cancel)
            if work.drain:
                await self._connection.back_off(1)

    async def _wait_for_room(self, seconds: float) -> None:
        """Wait until there is room to ask for, so long at most.

        A full runner asks for cancellations only, and not while its scripts come and go.
        """
        deadline = time.monotonic() + seconds
        while self._capacity.free_slots() <= 0 and (left := deadline - time.monotonic()) > 0:
            self._slot_free.clear()
            await is_set_within(self._slot_free, left)

    def _begin(self, assignment: Assignment, specification: Specification) -> None:
        if assignment.id in self._known:
            return
        self._known.add(assignment.id)
        log_ = AttemptLog(
            assignment.first_sequence,
            assignment.log_limit_bytes,
            self._logs.notify,
            self._connection.clock.now_ms,
            to_mask(assignment.secrets),
        )
        attempt = Attempt(assignment, specification, log_, lambda: self._on_slot_free(attempt))
        self._carried[assignment.id] = attempt
        self._capacity.give_turns()
        attempt.task = asyncio.create_task(self._carry(attempt))

    def _on_slot_free(self, attempt: Attempt) -> None:
        self._capacity.slot_freed(attempt)
        self._slot_free.set()

    async def _hand_back_late(self) -> None:
        """Hand back what was claimed ahead and has not come to its turn soon after all."""
        while True:
            await asyncio.sleep(WAIT_SECONDS / 2)
            oldest_at = time.monotonic() - WAIT_SECONDS
            late = [one for one in self._capacity.waiting() if one.claimed_at < oldest_at]
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
                    await self._reporter.report(attempt, finished, workspace)
            self._known.discard(assignment.id)
        except Gone:
            log.info("%s attempt %d is another's now", assignment.execution_id, assignment.attempt)
            self._known.discard(assignment.id)
        except Dismissed:
            # nothing that still runs could be reported
            self._stop_at_once()
        except Exception:
            # it stays known, so that it is not carried twice; its lease runs out
            log.exception("%s attempt %d has no report", assignment.execution_id, assignment.attempt)
        finally:
            self._carried.pop(assignment.id, None)
            self._slot_free.set()
            if not workspace.put_away():
                await asyncio.to_thread(workspace.remove)

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
            self._each(cancel, Attempt.cancel)
            self._each(lost, Attempt.drop)

    def _each(self, named: Iterable[AttemptId], act: Callable[[Attempt], None]) -> None:
        """Do something to each of these that is still carried."""
        for one in named:
            if (attempt := self._carried.get(one)) is not None:
                act(attempt)

    async def _drain(self, claiming: asyncio.Task[None]) -> None:
        """Hand back what has not started, let what runs come to its end for a while, hand back the rest."""
        log.info("this runner is to end; what it carries has %g s to come to its end", self._drain_seconds)
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        not_started = [one for one, attempt in self._carried.items() if not attempt.has_started]
        self._each(not_started, Attempt.drop)
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

    def _stop_at_once(self) -> None:
        self._hurrying.set()
        self._stopping.set()

    def _end_if_forsaken(self) -> None:
        """End when nobody needs this runner: its server has been away for long, or its directory is gone."""
        is_useless = not self._carried and self._connection.seconds_unanswered > FORSAKEN_SECONDS
        if is_useless or not self._work_directory.exists():
            log.warning("the server is gone; this runner ends")
            self._stop_at_once()
