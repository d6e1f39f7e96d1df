"""Who has what: runners register, claim attempts, keep their leases, and lose them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

from sqlalchemy.engine import Connection

from rgrid_server.billing.charging import EndedAttempt, charge_attempt
from rgrid_server.billing.pricebook import PriceBook
from rgrid_server.clock import now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.attempts import Assignment, AttemptId, Outcome
from rgrid_server.domain.choosing import Choice
from rgrid_server.domain.confinement import why_not_shared
from rgrid_server.domain.execution import Refused
from rgrid_server.errors import Conflict, NotFound
from rgrid_server.scheduler.claims import LEASE_MS, Claimed, Claims, attempt_id
from rgrid_server.scheduler.observer import AttemptEnd, Observer, attempt_end
from rgrid_server.scheduler.offers import ClaimRequest, check_life
from rgrid_server.scheduler.transitions import apply_event, topics_of
from rgrid_server.scheduler.wakeups import WORK, Wakeups, room_topic, runner_topic, tenant_topic
from rgrid_server.store import executions as store
from rgrid_server.store import queue, runners
from rgrid_server.store.database import Database, Row
from rgrid_server.store.executions import Transition
from rgrid_server.store.tenants import list_tenants

HEARTBEAT_MS = 10_000


class Leases:
    """Hands executions to runners, and takes them back from those that are lost."""

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        claims: Claims,
        book: PriceBook,
        engine: str,
        observer: Observer | None = None,
        *,
        allow_process_sandbox: bool = False,
    ) -> None:
        self._observer = observer or Observer()
        self._database = database
        self._wakeups = wakeups
        self._claims = claims
        self._book = book
        self._engine = engine
        self._allow_process_sandbox = allow_process_sandbox

    async def register(self, runner: Mapping[str, Any]) -> None:
        """Note a runner; attempts of its earlier incarnations are lost, for it knows nothing of them.

        Raises:
            Conflict: ``sandbox_too_weak``, where its sandbox does not keep the server's tenants apart.
        """
        runner_id, incarnation = runner["runner_id"], runner["incarnation"]

        ends: list[AttemptEnd] = []

        def put(connection: Connection) -> list[Transition | None]:
            ends.clear()
            now = now_ms()
            problem = why_not_shared(
                runner["sandbox"], len(list_tenants(connection)), is_allowed=self._allow_process_sandbox
            )
            if problem is not None:
                raise Conflict("sandbox_too_weak", problem)
            runners.put_runner(connection, {**runner, "registered_at_ms": now, "seen_at_ms": now})
            lost = queue.open_attempts(connection, runner_id=runner_id, other_incarnation=incarnation)
            store.lock_executions(connection, [row["execution_id"] for row in lost])
            return [self._lose(connection, row, now, ends) for row in lost]

        self._wake(await self._database.write(put))
        # whoever still asks by this name from an earlier life hears at once that it is over
        self._wakeups.wake([runner_topic(runner_id)])
        self._observer.lost(ends, "runner_restarted")

    async def claim(self, request: ClaimRequest, is_gone: Callable[[], Awaitable[bool]]) -> Claimed:
        """Attempts for a runner, at once when there are any, else within its ``wait_ms``.

        Args:
            request: the runner's offer.
            is_gone: whether nobody waits for the answer any more; then nothing is claimed.

        Raises:
            Conflict: ``not_registered``.
            Superseded: another runner goes by this name.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.wait_ms / 1000
        room = room_topic(request.runner_id)
        with (
            self._wakeups.watch(WORK, room, runner_topic(request.runner_id)) as watch,
            self._wakeups.watch(room) as more_room,
        ):
            while True:
                if await is_gone():
                    return Claimed([], {}, [])
                claimed = await self._claim_now(request)
                self._wakeups.wake({tenant_topic(item.tenant_id) for item in claimed.attempts})
                if claimed.attempts or claimed.cancel or claimed.drain:
                    return claimed
                if claimed.lacks_room and more_room.is_woken:
                    # it has more than it said by now, so it had better say it again
                    return claimed
                left = deadline - loop.time()
                if left <= 0:
                    return claimed
                await watch.wait(min(left, await self._seconds_to_next_ready()))

    def drain(self) -> None:
        """Give nobody anything any more: this process is about to end."""
        self._claims.draining = True

    async def heartbeat(
        self, runner_id: str, carried: Sequence[AttemptId], incarnation: str = ""
    ) -> tuple[list[AttemptId], list[AttemptId]]:
        """Extend the leases of what a runner carries; returns what it is to cancel and what it has lost.

        Raises:
            Conflict: ``not_registered``.
            Superseded: another runner goes by this name.
        """

        def beat(connection: Connection) -> tuple[list[AttemptId], list[AttemptId]]:
            now = now_ms()
            check_life(runners.touch_runner(connection, runner_id, now), runner_id, incarnation)
            held = _held(connection, runner_id, incarnation)
            for item in carried:
                if item in held:
                    queue.extend_lease(connection, item.execution_id, item.attempt, now + LEASE_MS)
            cancel = [attempt_id(row) for row in queue.cancel_requests(connection, runner_id)]
            return cancel, [item for item in carried if item not in held]

        return await self._database.write(beat)

    async def release(
        self,
        runner_id: str,
        handed_back: Sequence[AttemptId],
        incarnation: str = "",
        *,
        is_end: bool = False,
    ) -> None:
        """Queue attempts again that a runner will not finish.

        With ``is_end`` it is the runner's last word: what it was given and has not heard of goes back too.
        """

        def give_back(connection: Connection) -> list[Transition | None]:
            now = now_ms()
            wanted = set(handed_back) | (_held(connection, runner_id, incarnation) if is_end else set())
            store.lock_executions(connection, [item.execution_id for item in wanted])
            held = _held(connection, runner_id, incarnation)
            done: list[Transition | None] = []
            for item in sorted(wanted, key=lambda one: one.execution_id):
                if item in held:
                    queue.forget_attempt(connection, item.execution_id, item.attempt)
                    done.append(
                        apply_event(
                            connection,
                            item.execution_id,
                            partial(rules.release, attempt=item.attempt, now_ms=now),
                            now,
                        )
                    )
            return done

        self._wake(await self._database.write(give_back))

    async def set_drained(self, runner_id: str, is_drained: bool) -> None:
        """Give a runner no more work, or give it work again; what it carries goes on.

        Raises:
            NotFound: there is none such.
        """
        drained_at_ms = now_ms() if is_drained else None
        if not await self._database.write(lambda c: runners.set_drained(c, runner_id, drained_at_ms)):
            raise NotFound("Runner")
        self._wakeups.wake([WORK])

    async def set_all_drained(self, *, is_drained: bool) -> None:
        """Give no runner work, those that are still to come included, or give it again; what runs goes on."""
        drained_at_ms = now_ms() if is_drained else None
        await self._database.write(lambda c: runners.set_all_drained(c, drained_at_ms))
        self._wakeups.wake([WORK])

    async def all_drained_at_ms(self) -> int | None:
        """Since when no runner is given work; None where they are."""
        return await self._database.read(runners.all_drained_at_ms)

    def look_again(self) -> None:
        """Let whoever waits for work look again: limits have changed."""
        self._wakeups.wake([WORK])

    async def runners(self) -> Sequence[Row]:
        """Every runner that ever registered."""
        return await self._database.read(runners.list_runners)

    async def any_open(self) -> bool:
        """Whether any attempt is being carried."""
        return await self._database.read(queue.any_open)

    async def extend_all(self) -> None:
        """Give every runner a whole lease: while the server was away none could keep its own."""
        await self._database.write(lambda c: queue.extend_all_leases(c, now_ms() + LEASE_MS))

    async def expire(self, now: int) -> None:
        """Take back what runners have lost by a time (milliseconds since the epoch)."""
        expired = await self._database.read(lambda c: queue.open_attempts(c, expired_by_ms=now))
        if not expired:
            return

        ends: list[AttemptEnd] = []

        def take_back(connection: Connection) -> list[Transition | None]:
            ends.clear()
            rows = queue.open_attempts(connection, expired_by_ms=now)
            held = {row["execution_id"] for row in rows}
            store.lock_executions(connection, held)
            # looked at again once they are held: another process was faster, or a heartbeat has come
            rows = queue.open_attempts(connection, expired_by_ms=now)
            return [self._lose(connection, row, now, ends) for row in rows if row["execution_id"] in held]

        self._wake(await self._database.write(take_back))
        self._observer.lost(ends, "lease_expired")

    async def make_ready(self) -> None:
        """Put into the queue what has waited out its backoff."""
        next_ready = await self._database.read(queue.next_ready_at_ms)
        if next_ready is not None and next_ready <= now_ms():
            await self._database.write(lambda c: queue.make_ready(c, now_ms()))
            self._wakeups.wake([WORK])

    async def _claim_now(self, request: ClaimRequest) -> Claimed:
        now = now_ms()

        if not await self._database.read(lambda c: self._claims.may_bring_something(c, request, now)):
            return Claimed([], {}, [], drain=self._claims.draining)
        made: list[Choice] = []
        began = perf_counter()
        try:
            claimed = await self._database.write(lambda c: self._claims.take(c, request, made))
        except Exception:
            self._claims.undo(made)
            raise
        self._observer.claimed(claimed.begun, perf_counter() - began)
        # the room that they leave is looked for at once: this wakes the claim itself, too
        self._wake(claimed.served)
        self._observer.served_from_cache(len(claimed.served))
        return replace(claimed, attempts=[self._traced(item) for item in claimed.attempts])

    def _traced(self, item: Assignment) -> Assignment:
        """An attempt that continues its own span, where there is one, in place of its submission's."""
        if item.trace_parent is None:
            return item
        parent = self._observer.attempt_trace(item.execution_id, item.attempt, item.trace_parent)
        return replace(item, trace_parent=parent)

    def _lose(
        self, connection: Connection, attempt: Row, now: int, ends: list[AttemptEnd]
    ) -> Transition | None:
        execution_id, number = attempt["execution_id"], attempt["attempt"]
        if queue.close_attempt(connection, execution_id, number, Outcome.GRID_FAULT.value, now) is None:
            return None
        try:
            done = apply_event(
                connection, execution_id, lambda state: rules.expire_lease(state, number, now), now
            )
        except Refused:
            return None
        execution = store.get_execution(connection, None, execution_id)
        if done is not None and execution is not None:
            charge_attempt(
                connection,
                self._book,
                self._engine,
                EndedAttempt(execution, attempt, Outcome.GRID_FAULT, done.after, now, report=None),
            )
            ends.append(attempt_end(execution, attempt, done, Outcome.GRID_FAULT, now))
        return done

    async def _seconds_to_next_ready(self) -> float:
        next_ready = await self._database.read(queue.next_ready_at_ms)
        now = now_ms()
        if next_ready is None or next_ready <= now:
            return 60.0
        return (next_ready - now) / 1000 + 0.001

    def _wake(self, done: Sequence[Transition | None]) -> None:
        for item in done:
            self._wakeups.wake(topics_of(item))


def _held(connection: Connection, runner_id: str, incarnation: str) -> set[AttemptId]:
    """The attempts that a runner carries in this life of it."""
    rows = queue.open_attempts(connection, runner_id=runner_id, incarnation=incarnation or None)
    return {attempt_id(row) for row in rows}
