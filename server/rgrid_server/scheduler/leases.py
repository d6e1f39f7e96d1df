"""Who has what: runners register, claim attempts, keep their leases, and lose them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from rgrid_server.billing.charging import EndedAttempt, charge_attempt
from rgrid_server.clock import now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.attempts import Assignment, AttemptId, InputFile, Outcome
from rgrid_server.domain.execution import Refused
from rgrid_server.domain.fairshare import FairShare, Flow
from rgrid_server.domain.prices import Price
from rgrid_server.domain.signing import Signer
from rgrid_server.errors import Conflict
from rgrid_server.scheduler.choosing import Chooser, Room
from rgrid_server.scheduler.transitions import apply_event, topics_of
from rgrid_server.scheduler.wakeups import WORK, Wakeups, runner_topic, tenant_topic
from rgrid_server.store import blobs as blob_rows
from rgrid_server.store import executions as store
from rgrid_server.store import logs, queue
from rgrid_server.store.database import Database, Row
from rgrid_server.store.executions import Transition

LEASE_MS = 30_000
HEARTBEAT_MS = 10_000


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """What one attempt may leave."""

    log_limit_bytes: int = 256 * 1024 * 1024
    output_limit_bytes: int = 1024 * 1024 * 1024
    output_limit_files: int = 20_000


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A runner's offer to carry attempts."""

    runner_id: str
    free_cpus_milli: int
    free_slots: int
    wait_ms: int
    free_memory_mib: int | None = None
    known: frozenset[AttemptId] | None = None
    """What the runner has received and not yet ended; None of one that does not say."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a runner is to do: new attempts with the specifications they share, and attempts to stop."""

    attempts: list[Assignment]
    specifications: dict[str, dict[str, Any]]
    cancel: list[AttemptId]
    drain: bool = False


class Leases:
    """Hands executions to runners, and takes them back from those that are lost."""

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        signer: Signer,
        book: Sequence[Price],
        engine: str,
        limits: AttemptLimits,
    ) -> None:
        self._database = database
        self._wakeups = wakeups
        self._signer = signer
        self._book = book
        self._engine = engine
        self._limits = limits
        self._chooser = Chooser(FairShare())
        self._costs: dict[AttemptId, tuple[Flow, int, int]] = {}
        self.draining = False

    async def register(self, runner: Mapping[str, Any]) -> None:
        """Note a runner; attempts of its earlier incarnations are lost, for it knows nothing of them."""
        runner_id, incarnation = runner["runner_id"], runner["incarnation"]

        def put(connection: Connection) -> list[Transition | None]:
            now = now_ms()
            queue.put_runner(connection, {**runner, "registered_at_ms": now, "seen_at_ms": now})
            lost = queue.open_attempts(connection, runner_id=runner_id, other_incarnation=incarnation)
            store.lock_executions(connection, [row["execution_id"] for row in lost])
            return [self._lose(connection, row, now) for row in lost]

        self._wake(await self._database.write(put))

    async def claim(self, request: ClaimRequest, is_gone: Callable[[], Awaitable[bool]]) -> Claimed:
        """Attempts for a runner, at once when there are any, else within its ``wait_ms``.

        Args:
            request: the runner's offer.
            is_gone: whether nobody waits for the answer any more; then nothing is claimed.

        Raises:
            Conflict: ``not_registered``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.wait_ms / 1000
        with self._wakeups.watch(WORK, runner_topic(request.runner_id)) as watch:
            while True:
                if await is_gone():
                    return Claimed([], {}, [])
                claimed = await self._claim_now(request)
                self._wakeups.wake({tenant_topic(item.tenant_id) for item in claimed.attempts})
                if claimed.attempts or claimed.cancel or self.draining:
                    return claimed
                left = deadline - loop.time()
                if left <= 0:
                    return claimed
                await watch.wait(min(left, await self._seconds_to_next_ready()))

    async def heartbeat(
        self, runner_id: str, carried: Sequence[AttemptId]
    ) -> tuple[list[AttemptId], list[AttemptId]]:
        """Extend the leases of what a runner carries; returns what it is to cancel and what it has lost.

        Raises:
            Conflict: ``not_registered``.
        """

        def beat(connection: Connection) -> tuple[list[AttemptId], list[AttemptId]]:
            now = now_ms()
            if queue.touch_runner(connection, runner_id, now) is None:
                raise _not_registered(runner_id)
            held = {_id(row) for row in queue.open_attempts(connection, runner_id=runner_id)}
            for item in carried:
                if item in held:
                    queue.extend_lease(connection, item.execution_id, item.attempt, now + LEASE_MS)
            cancel = [_id(row) for row in queue.cancel_requests(connection, runner_id)]
            return cancel, [item for item in carried if item not in held]

        return await self._database.write(beat)

    async def release(self, runner_id: str, handed_back: Sequence[AttemptId]) -> None:
        """Queue attempts again that a runner will not finish."""

        def give_back(connection: Connection) -> list[Transition | None]:
            now = now_ms()
            store.lock_executions(connection, [item.execution_id for item in handed_back])
            held = {_id(row) for row in queue.open_attempts(connection, runner_id=runner_id)}
            done: list[Transition | None] = []
            for item in handed_back:
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

    async def runners(self) -> Sequence[Row]:
        """Every runner that ever registered."""
        return await self._database.read(queue.list_runners)

    async def any_open(self) -> bool:
        """Whether any attempt is being carried."""
        return bool(await self._database.read(queue.open_attempts))

    async def extend_all(self) -> None:
        """Give every runner a whole lease: while the server was away none could keep its own."""
        await self._database.write(lambda c: queue.extend_all_leases(c, now_ms() + LEASE_MS))

    async def expire(self) -> None:
        """Take back what runners have lost."""
        expired = await self._database.read(lambda c: queue.open_attempts(c, expired_by_ms=now_ms()))
        if not expired:
            return

        def take_back(connection: Connection) -> list[Transition | None]:
            now = now_ms()
            rows = queue.open_attempts(connection, expired_by_ms=now)
            held = {row["execution_id"] for row in rows}
            store.lock_executions(connection, held)
            # looked at again once they are held: another process was faster, or a heartbeat has come
            rows = queue.open_attempts(connection, expired_by_ms=now)
            return [self._lose(connection, row, now) for row in rows if row["execution_id"] in held]

        self._wake(await self._database.write(take_back))

    async def _claim_now(self, request: ClaimRequest) -> Claimed:
        now = now_ms()

        def look(connection: Connection) -> bool:
            if request.free_slots > 0 and not self.draining:
                carried = queue.open_attempts(connection, runner_id=request.runner_id)
                if _undelivered(carried, request) or queue.any_ready(connection, now):
                    return True
            return bool(queue.cancel_requests(connection, request.runner_id))

        if not await self._database.read(look):
            return Claimed([], {}, [], drain=self.draining)
        return await self._database.write(lambda c: self._claim(c, request))

    def _claim(self, connection: Connection, request: ClaimRequest) -> Claimed:
        now = now_ms()
        runner = queue.touch_runner(connection, request.runner_id, now)
        if runner is None:
            raise _not_registered(request.runner_id)
        cancel = [_id(row) for row in queue.cancel_requests(connection, request.runner_id)]
        if self.draining or request.free_slots <= 0:
            return Claimed([], {}, cancel, drain=self.draining)
        carried = queue.open_attempts(connection, runner_id=request.runner_id)
        if undelivered := _undelivered(carried, request)[: request.free_slots]:
            store.lock_executions(connection, [row["execution_id"] for row in undelivered])
            # looked at again once they are held: they may just have been taken back
            carried = queue.open_attempts(connection, runner_id=request.runner_id)
            undelivered = _undelivered(carried, request)[: request.free_slots]
        assignments = [self._deliver_again(connection, row, now) for row in undelivered]
        room = Room(
            slots=request.free_slots - len(assignments),
            cpus_milli=request.free_cpus_milli - sum(item.cpus_milli for item in assignments),
            memory_mib=None
            if request.free_memory_mib is None
            else request.free_memory_mib - sum(item.memory_mib for item in assignments),
            is_idle=not carried,
        )
        chosen = self._chooser.choose(connection, room, now)
        # batch by batch in one order, so that two claims at once do not wait for each other
        for row in sorted(chosen, key=_by_batch):
            self._open(connection, row["execution_id"], runner, now)
        assignments += [self._assignment(connection, row["execution_id"]) for row in chosen]
        wanted = sorted({item.specification for item in assignments})
        specifications = {
            row["specification_id"]: {
                "script_content": row["script_content"],
                "script_name": row["script_name"],
                "runtime": row["runtime"],
                "requirements_content": row["requirements_content"],
            }
            for row in queue.get_specifications(connection, wanted)
        }
        return Claimed(assignments, specifications, cancel)

    def _open(self, connection: Connection, execution_id: str, runner: Row, now: int) -> None:
        """Make the next attempt of an execution that was chosen, and give its lease to a runner."""
        done = apply_event(connection, execution_id, lambda state: rules.claim(state, now), now)
        if done is not None:
            queue.open_attempt(
                connection,
                {
                    "execution_id": execution_id,
                    "attempt": done.after.attempt,
                    "tenant_id": done.tenant_id,
                    "runner_id": runner["runner_id"],
                    "incarnation": runner["incarnation"],
                    "claimed_at_ms": now,
                    "lease_expires_at_ms": now + LEASE_MS,
                },
            )

    def _deliver_again(self, connection: Connection, attempt: Row, now: int) -> Assignment:
        """Hand over what was claimed before, by an answer that never arrived."""
        queue.extend_lease(connection, attempt["execution_id"], attempt["attempt"], now + LEASE_MS)
        return self._assignment(connection, attempt["execution_id"])

    def _assignment(self, connection: Connection, execution_id: str) -> Assignment:
        row = store.get_execution(connection, None, execution_id)
        if row is None:
            raise RuntimeError(f"{execution_id} was claimed in this transaction and is not there")
        sizes = (
            blob_rows.owned_sizes(connection, row["tenant_id"], list(row["inputs"].values()))
            if row["inputs"]
            else {}
        )
        first_sequence = 1
        if row["attempt"] > 1:
            first_sequence += logs.last_sequence(connection, [execution_id]).get(execution_id, 0)
        return Assignment(
            execution_id=execution_id,
            attempt=row["attempt"],
            token=self._signer.attempt_token(execution_id, row["attempt"]),
            specification=row["specification_id"],
            tenant_id=row["tenant_id"],
            batch_id=row["batch_id"],
            args=row["args"],
            env_vars=row["env_vars"],
            inputs=[
                InputFile(name=name, sha256=sha256, size_bytes=sizes[sha256])
                for name, sha256 in row["inputs"].items()
            ],
            outputs=row["outputs"],
            timeout_ms=row["timeout_seconds"] * 1000,
            cpus_milli=row["cpus_milli"],
            memory_mib=row["memory_mib"],
            first_sequence=first_sequence,
            **asdict(self._limits),
        )

    def _lose(self, connection: Connection, attempt: Row, now: int) -> Transition | None:
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


def _undelivered(carried: Sequence[Row], request: ClaimRequest) -> list[Row]:
    """Attempts of a runner that it does not know: the answer that named them was lost on its way.

    Its claims come one after the other, so none of these is still on its way.
    """
    if request.known is None:
        return []
    return [row for row in carried if _id(row) not in request.known]


def _id(row: Row) -> AttemptId:
    return AttemptId(row["execution_id"], row["attempt"])


def _by_batch(row: Row) -> tuple[str, str, int]:
    return row["tenant_id"], row["flow"], row["sequence"]


def _not_registered(runner_id: str) -> Conflict:
    return Conflict("not_registered", f"the runner {runner_id} is not registered; register first")
