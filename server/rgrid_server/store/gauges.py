"""How full the queue is, asked in steps that do not grow with it.

The queue's index leads from one flow (a batch, or a tenant's single executions) to the next, as a claim walks
it. A batch's row has the count of its queued executions; single ones are counted in the index, all of them
together only up to a limit, so that a million of them cost a scrape no more than that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Integer, bindparam, func, select
from sqlalchemy.engine import Connection

from rgrid_server.domain.fairshare import Flow
from rgrid_server.store import events, queue
from rgrid_server.store.prepared import Prepared
from rgrid_server.store.tables import attempts, batches, executions, runners

MAX_FLOWS = 500
MAX_COUNTED = 100_000

_OF_FLOW = (
    queue.IS_READY,
    executions.c.queue_rank == bindparam("rank"),
    executions.c.tenant_id == bindparam("tenant_id"),
    executions.c.flow == bindparam("flow"),
)
_HEAD = Prepared(
    select(executions.c.ready_at_ms)
    .where(*_OF_FLOW, executions.c.ready_at_ms <= bindparam("now_ms"))
    .order_by(executions.c.sequence)
    .limit(1)
)
_COUNT = Prepared(
    select(func.count()).select_from(
        select(executions.c.sequence)
        .where(*_OF_FLOW)
        .limit(bindparam("max_rows", type_=Integer))
        .subquery("counted")
    )
)
_BATCH_QUEUED = Prepared(
    select(batches.c.queued).where(
        batches.c.tenant_id == bindparam("tenant_id"), batches.c.batch_id == bindparam("flow")
    )
)
_RUNNING = Prepared(select(func.count()).select_from(attempts).where(attempts.c.ended_at_ms.is_(None)))
_RUNNERS = Prepared(
    select(func.count().label("runners"), func.coalesce(func.sum(runners.c.slots), 0).label("slots")).where(
        runners.c.seen_at_ms >= bindparam("since_ms")
    )
)


@dataclass(slots=True)
class QueueFill:
    """A rank's part of the queue; ``oldest_ready_at_ms`` is None where nothing may be claimed now."""

    depth: int = 0
    oldest_ready_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Fill:
    """The queue by rank (minus the priority), who carries what, and since when the feed is held back."""

    by_rank: dict[int, QueueFill]
    running: int
    runners: int
    runner_slots: int
    oldest_hidden_event_at_ms: int | None


def read_fill(connection: Connection, now_ms: int, runners_since_ms: int) -> Fill:
    """How full the queue is now.

    At most ``MAX_FLOWS`` flows are visited and ``MAX_COUNTED`` single executions counted; beyond either the
    depth is a lower bound. The oldest of a flow is its first that may be claimed, in the order of submission.
    """
    by_rank: dict[int, QueueFill] = {}
    seen_batches: set[Flow] = set()
    left = MAX_COUNTED
    for rank, flow in _flows(connection):
        fill = by_rank.setdefault(rank, QueueFill())
        place = {"tenant_id": flow.tenant_id, "flow": flow.batch_id}
        if not flow.batch_id:
            counted = int(_COUNT.scalar(connection, rank=rank, max_rows=left, **place)) if left else 0
            left -= counted
            fill.depth += counted
        elif flow not in seen_batches:
            # one that stands in two ranks is counted in the more urgent one
            seen_batches.add(flow)
            fill.depth += int(_BATCH_QUEUED.scalar(connection, **place) or 0)
        ready_at_ms = _HEAD.scalar(connection, rank=rank, now_ms=now_ms, **place)
        if ready_at_ms is not None:
            known = fill.oldest_ready_at_ms
            fill.oldest_ready_at_ms = ready_at_ms if known is None else min(known, ready_at_ms)
    present = _RUNNERS.first(connection, since_ms=runners_since_ms)
    assert present is not None
    return Fill(
        by_rank=by_rank,
        running=int(_RUNNING.scalar(connection)),
        runners=int(present["runners"]),
        runner_slots=int(present["slots"]),
        oldest_hidden_event_at_ms=events.oldest_hidden_at_ms(connection),
    )


def _flows(connection: Connection) -> Iterator[tuple[int, Flow]]:
    left = MAX_FLOWS
    rank = queue.next_rank(connection, None)
    while rank is not None:
        for tenant_id, _ in queue.tenants_of(connection, rank, None, left):
            for name, _ in queue.flows_of(connection, rank, tenant_id, None, left):
                yield rank, Flow(tenant_id, name)
                left -= 1
            if left <= 0:
                return
        rank = queue.next_rank(connection, rank)
