"""What a runner offers with a claim: who it is, what it has free, and what it never received."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from rgrid_server.domain.attempts import Assignment, AttemptId
from rgrid_server.domain.choosing import Capacity, Machine, Room
from rgrid_server.domain.runtimes import Offer
from rgrid_server.errors import Conflict, Superseded
from rgrid_server.store import runners
from rgrid_server.store.database import Row


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A runner's offer to carry attempts; older runners name neither their life nor their memory."""

    runner_id: str
    free_cpus_milli: int
    free_slots: int
    wait_ms: int
    free_memory_mib: int | None = None
    incarnation: str = ""
    known: frozenset[AttemptId] | None = None
    """What the runner has received and not yet ended; None of one that does not say."""


def check_life(runner: Row | None, runner_id: str, incarnation: str) -> Row:
    """Make sure that a runner is the one that was registered last by its name.

    Raises:
        Conflict: ``not_registered``.
        Superseded: another one is.
    """
    if runner is None:
        raise Conflict("not_registered", f"the runner {runner_id} is not registered; register first")
    if incarnation and runner["incarnation"] != incarnation:
        raise Superseded(
            f"another runner has registered as {runner_id}, on {runner['hostname']}; this one has lost what "
            "it carried and is to end; give each runner a data directory of its own"
        )
    return runner


def takes_work(runner: Row, request: ClaimRequest) -> bool:
    """Whether a runner may be given something: it has a free slot, and nobody wants it to be drained."""
    return request.free_slots > 0 and runner["drained_at_ms"] is None


def room_of(
    connection: Connection,
    request: ClaimRequest,
    runner: Row,
    delivered: Sequence[Assignment],
    *,
    is_idle: bool,
    now: int,
) -> Room:
    """What a runner offers, but for what it is handed over again."""
    memory_mib = request.free_memory_mib
    others = runners.list_runners(connection, now - runners.SEEN_WITHIN_MS)
    return Room(
        runner_id=request.runner_id,
        slots=request.free_slots - len(delivered),
        free=Capacity(
            request.free_cpus_milli - sum(item.cpus_milli for item in delivered),
            None if memory_mib is None else memory_mib - sum(item.memory_mib for item in delivered),
        ),
        machine=_machine(runner),
        is_idle=is_idle,
        others=[
            _machine(other)
            for other in others
            if other["runner_id"] != request.runner_id and other["drained_at_ms"] is None
        ],
    )


def runtimes_of(runner: Row) -> tuple[Offer, ...]:
    """What a runner has said that it runs."""
    return tuple(Offer(offer["name"], offer.get("version", "")) for offer in runner["runtimes"])


def _machine(runner: Row) -> Machine:
    return Machine(Capacity(runner["slots"] * 1000, runner["memory_mib"]), runtimes_of(runner))


def undelivered(carried: Sequence[Row], request: ClaimRequest) -> list[Row]:
    """Attempts of a runner that it does not know: the answer that named them was lost on its way.

    The claims of one life of a runner come one after the other, so none of these is still on its way; what
    another life of it has received is that one's.
    """
    if request.known is None:
        return []
    return [
        row
        for row in carried
        if AttemptId(row["execution_id"], row["attempt"]) not in request.known
        and request.incarnation in {"", row["incarnation"]}
    ]
