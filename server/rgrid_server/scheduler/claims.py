"""Giving a runner work: what a claim looks at, and what it writes in its transaction."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from sqlalchemy.engine import Connection

from rgrid_server.clock import now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.attempts import Assignment, AttemptId, InputFile
from rgrid_server.domain.choosing import Candidate, Choice, Chooser
from rgrid_server.domain.execution import Refused
from rgrid_server.domain.sealing import Sealer
from rgrid_server.domain.signing import Signer
from rgrid_server.scheduler.caching import ResultCache
from rgrid_server.scheduler.choosing import Places, StoredQueue
from rgrid_server.scheduler.observer import AttemptBegin, attempt_begin
from rgrid_server.scheduler.offers import ClaimRequest, check_life, room_of, takes_work, undelivered
from rgrid_server.scheduler.secrets import open_secrets
from rgrid_server.scheduler.transitions import apply_event
from rgrid_server.store import blobs as blob_rows
from rgrid_server.store import executions as store
from rgrid_server.store import logs, queue, runners
from rgrid_server.store.database import Row
from rgrid_server.store.executions import Transition

LEASE_MS = 30_000
SEEN_AGAIN_MS = 15_000
"""So old may what is known of a runner's presence be, when it asks for work."""


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """What one attempt may leave."""

    log_limit_bytes: int = 256 * 1024 * 1024
    output_limit_bytes: int = 1024 * 1024 * 1024
    output_limit_files: int = 20_000


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a runner is to do: new attempts with the specifications they share, and attempts to stop.

    ``lacks_room`` says that something was left that more room would have taken.
    """

    attempts: list[Assignment]
    specifications: dict[str, dict[str, Any]]
    cancel: list[AttemptId]
    drain: bool = False
    lacks_room: bool = False
    begun: list[AttemptBegin] = field(default_factory=list)
    served: list[Transition] = field(default_factory=list)
    """Those that an earlier result has answered, so that nobody has to run them."""


class Claims:
    """What a runner is given, in the transaction in which it asks."""

    def __init__(
        self,
        signer: Signer,
        limits: AttemptLimits,
        chooser: Chooser,
        *,
        sealer: Sealer | None = None,
        cache: ResultCache | None = None,
    ) -> None:
        self._signer = signer
        self._limits = limits
        self._chooser = chooser
        self._places = Places()
        self._sealer = sealer
        self._cache = cache
        self.draining = False

    def may_bring_something(self, connection: Connection, request: ClaimRequest, now: int) -> bool:
        """Whether :meth:`take` would have anything to write; what there is to read is read without it.

        Raises:
            Conflict, Superseded: as :func:`check_life` says.
        """
        runner = check_life(
            runners.get_runner(connection, request.runner_id), request.runner_id, request.incarnation
        )
        if now - runner["seen_at_ms"] > SEEN_AGAIN_MS:
            # an idle runner is here too: a claim that finds nothing notes it
            return True
        if self._gives_work(connection, runner, request):
            carried = queue.open_attempts(connection, runner_id=request.runner_id)
            next_ready = queue.next_ready_at_ms(connection)
            is_due = next_ready is not None and next_ready <= now
            if is_due or queue.any_ready(connection) or undelivered(carried, request):
                return True
        return bool(queue.cancel_requests(connection, request.runner_id))

    def take(self, connection: Connection, request: ClaimRequest, made: list[Choice]) -> Claimed:
        """Give a runner what it has room for.

        Args:
            made: what has been chosen, for :meth:`undo`; whatever it holds from an earlier run is taken back.
        """
        self.undo(made)
        now = now_ms()
        runner = check_life(
            runners.touch_runner(connection, request.runner_id, now), request.runner_id, request.incarnation
        )
        cancel = [attempt_id(row) for row in queue.cancel_requests(connection, request.runner_id)]
        if not self._gives_work(connection, runner, request):
            return Claimed([], {}, cancel, drain=self.draining)
        carried = queue.open_attempts(connection, runner_id=request.runner_id)
        if lost := undelivered(carried, request)[: request.free_slots]:
            store.lock_executions(connection, [row["execution_id"] for row in lost])
            # looked at again once they are held: they may just have been taken back
            carried = queue.open_attempts(connection, runner_id=request.runner_id)
            lost = undelivered(carried, request)[: request.free_slots]
        assignments = [self._deliver_again(connection, row, now) for row in lost]
        queue.make_ready(connection, now)
        room = room_of(connection, request, runner, assignments, is_idle=not carried, now=now)
        leaves = None if room.is_like_others else cache(room.leaves)
        waiting = StoredQueue(connection, self._places, room.slots, now, leaves)
        choice = self._chooser.choose(waiting, room, now)
        made.append(choice)
        # batch by batch in one order, so that two claims at once do not wait for each other
        begun: list[AttemptBegin] = []
        served: list[Transition] = []
        for candidate in sorted(choice.taken, key=_batch_order):
            done = self._open(connection, candidate.execution_id, runner, now)
            if done is None:
                continue
            row = store.written_execution(connection, candidate.execution_id)
            if self._cache is not None and (ended := self._cache.serve(connection, row, now)) is not None:
                served.append(ended.done)
                continue
            assignment = self._assignment(connection, row)
            assignments.append(assignment)
            begun.append(attempt_begin(done, now, assignment.trace_parent))
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
        return Claimed(
            assignments, specifications, cancel, lacks_room=choice.lacks_room, begun=begun, served=served
        )

    def _open(self, connection: Connection, execution_id: str, runner: Row, now: int) -> Transition | None:
        """Make the next attempt of an execution that was chosen, and give its lease to a runner.

        Returns None where there is none now: where the clock was set back it is claimed when that has passed.
        """
        try:
            done = apply_event(connection, execution_id, lambda state: rules.claim(state, now), now)
        except Refused:
            return None
        if done is None:
            return None
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
        return done

    def _deliver_again(self, connection: Connection, attempt: Row, now: int) -> Assignment:
        """Hand over what was claimed before, by an answer that never arrived."""
        queue.extend_lease(connection, attempt["execution_id"], attempt["attempt"], now + LEASE_MS)
        return self._assignment(connection, store.written_execution(connection, attempt["execution_id"]))

    def _assignment(self, connection: Connection, row: Row) -> Assignment:
        execution_id = row["execution_id"]
        sizes = (
            blob_rows.owned_sizes(connection, row["tenant_id"], list(row["inputs"].values()))
            if row["inputs"]
            else {}
        )
        first_sequence = 1
        if row["attempt"] > 1:
            first_sequence += logs.last_sequence(connection, [execution_id]).get(execution_id, 0)
        secrets, secrets_problem = self._secrets(connection, row)
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
            trace_parent=row["trace_parent"],
            secrets=secrets,
            secrets_problem=secrets_problem,
            **asdict(self._limits),
        )

    def _secrets(self, connection: Connection, row: Row) -> tuple[dict[str, str], str | None]:
        if not row["secrets"]:
            return {}, None
        if self._sealer is None:
            raise RuntimeError("an execution has secrets, and there is nothing to open them with")
        return open_secrets(connection, self._sealer, row["tenant_id"], row["secrets"])

    def undo(self, made: list[Choice]) -> None:
        """Take back the charges of choices whose transaction was undone."""
        while made:
            self._chooser.undo(made.pop())

    def _gives_work(self, connection: Connection, runner: Row, request: ClaimRequest) -> bool:
        """Whether a runner may be given something now."""
        if self.draining or not takes_work(runner, request):
            return False
        return runners.all_drained_at_ms(connection) is None


def attempt_id(row: Row) -> AttemptId:
    """Which attempt a row is about."""
    return AttemptId(row["execution_id"], row["attempt"])


def _batch_order(candidate: Candidate) -> tuple[str, str, int]:
    return (*candidate.flow, candidate.sequence)
