"""What is ready to run and who has it: claims and leases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    String,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.engine import Connection

from rgrid_server.domain.fairshare import Flow
from rgrid_server.store.database import Row
from rgrid_server.store.prepared import Prepared, all_rows
from rgrid_server.store.tables import attempts, executions, specifications

IS_READY = and_(
    # as the index has it, to the letter
    executions.c.status == literal_column("'queued'"),
    executions.c.ready_at_ms.is_not(None),
    executions.c.backoff_until_ms.is_(None),
)
_WAITS_OUT = and_(
    executions.c.status == literal_column("'queued'"), executions.c.backoff_until_ms.is_not(None)
)
_NEXT_RANK = Prepared(
    select(executions.c.queue_rank)
    .where(IS_READY, executions.c.queue_rank > bindparam("after"))
    .order_by(executions.c.queue_rank)
    .limit(1)
)


def _walking(name: ColumnElement[str], *same: ColumnElement[bool], behind_one: bool) -> Prepared:
    """The names that stand in a column of the queue, in their order, each with its oldest execution.

    A loose index scan: each step seeks the next name, over however many executions there are between. All
    steps are one statement, for over a network each would take as long as that.
    """
    of_name = select(name).where(IS_READY, executions.c.queue_rank == bindparam("rank"), *same)
    of_name = of_name.order_by(name).limit(literal_column("1"))
    first = of_name.where(name > bindparam("after", type_=String)) if behind_one else of_name
    walk = select(first.scalar_subquery().label("name"), literal_column("1", Integer).label("number")).cte(
        "walk", recursive=True
    )
    walk = walk.union_all(
        select(
            of_name.where(name > walk.c.name).scalar_subquery(), walk.c.number + literal_column("1")
        ).where(walk.c.name.is_not(None), walk.c.number < bindparam("most", type_=Integer))
    )
    oldest = (
        select(executions.c.sequence)
        .where(IS_READY, executions.c.queue_rank == bindparam("rank"), *same, name == walk.c.name)
        .order_by(executions.c.flow, executions.c.sequence)
        .limit(literal_column("1"))
    )
    return Prepared(
        select(walk.c.name, walk.c.number, oldest.scalar_subquery().label("oldest")).where(
            walk.c.name.is_not(None)
        )
    )


_OF_TENANT = executions.c.tenant_id == bindparam("tenant_id", type_=String)
_TENANTS = _walking(executions.c.tenant_id, behind_one=False)
_TENANTS_BEHIND = _walking(executions.c.tenant_id, behind_one=True)
_FLOWS = _walking(executions.c.flow, _OF_TENANT, behind_one=False)
_FLOWS_BEHIND = _walking(executions.c.flow, _OF_TENANT, behind_one=True)
_OLDEST = (
    select(
        executions.c.sequence,
        executions.c.execution_id,
        executions.c.cpus_milli,
        executions.c.memory_mib,
        executions.c.runtime,
    )
    .where(
        IS_READY,
        executions.c.queue_rank == bindparam("rank"),
        executions.c.tenant_id == bindparam("tenant_id"),
        executions.c.flow == bindparam("flow"),
        executions.c.sequence > bindparam("after"),
        # false only where the clock was set back
        executions.c.ready_at_ms <= bindparam("now_ms"),
    )
    .order_by(executions.c.sequence)
    .limit(bindparam("max_rows", type_=Integer))
)
_HEADS = Prepared(_OLDEST)
_HELD_HEADS = Prepared(_OLDEST.with_for_update(skip_locked=True))
_HOLD_READY = Prepared(
    select(executions.c.sequence)
    .where(IS_READY, executions.c.sequence == bindparam("sequence"))
    .with_for_update(skip_locked=True)
)
_ANY_READY = Prepared(
    select(executions.c.sequence)
    .where(IS_READY)
    .order_by(executions.c.queue_rank, executions.c.tenant_id, executions.c.flow, executions.c.sequence)
    .limit(1)
)
_NEXT_READY = Prepared(
    select(executions.c.backoff_until_ms).where(_WAITS_OUT).order_by(executions.c.backoff_until_ms).limit(1)
)
_WAITED_OUT = Prepared(
    select(executions.c.execution_id)
    .where(_WAITS_OUT, executions.c.backoff_until_ms <= bindparam("now_ms"))
    .order_by(executions.c.backoff_until_ms)
    .limit(bindparam("max_rows", type_=Integer))
    .with_for_update(skip_locked=True)
)
_MAKE_READY = Prepared(
    update(executions).where(executions.c.execution_id == bindparam("ready_id")),
    ["ready_id", "backoff_until_ms"],
)
_RUNNING_OF = Prepared(
    select(func.count())
    .select_from(attempts)
    .where(attempts.c.tenant_id == bindparam("tenant_id"), attempts.c.ended_at_ms.is_(None))
)
_ANY_OPEN = Prepared(select(attempts.c.attempt).where(attempts.c.ended_at_ms.is_(None)).limit(1))
_ANY_OPEN_OF_RUNNER = Prepared(
    select(attempts.c.attempt)
    .where(attempts.c.ended_at_ms.is_(None), attempts.c.runner_id == bindparam("runner_id"))
    .limit(1)
)
_CARRIER = Prepared(
    select(attempts.c.runner_id).where(
        attempts.c.execution_id == bindparam("execution_id"), attempts.c.ended_at_ms.is_(None)
    )
)
_OPEN = Prepared(
    insert(attempts),
    [
        "execution_id",
        "attempt",
        "tenant_id",
        "runner_id",
        "incarnation",
        "claimed_at_ms",
        "lease_expires_at_ms",
    ],
)
_OPEN_ATTEMPT = Prepared(
    select(attempts)
    .where(
        attempts.c.execution_id == bindparam("execution_id"),
        attempts.c.attempt == bindparam("attempt"),
        attempts.c.ended_at_ms.is_(None),
    )
    .with_for_update()
)
_TENANT_OF_ATTEMPT = Prepared(
    select(attempts.c.tenant_id).where(
        attempts.c.execution_id == bindparam("execution_id"),
        attempts.c.attempt == bindparam("attempt"),
        attempts.c.ended_at_ms.is_(None),
    )
)
_CLOSE = Prepared(
    update(attempts).where(
        attempts.c.execution_id == bindparam("of_execution"), attempts.c.attempt == bindparam("number")
    ),
    ["of_execution", "number", "ended_at_ms", "outcome"],
)
_EXTEND = Prepared(
    update(attempts).where(
        attempts.c.execution_id == bindparam("of_execution"),
        attempts.c.attempt == bindparam("number"),
        attempts.c.ended_at_ms.is_(None),
    ),
    ["of_execution", "number", "lease_expires_at_ms"],
)
_CANCELED = Prepared(
    select(attempts.c.execution_id, attempts.c.attempt)
    .join_from(attempts, executions, executions.c.execution_id == attempts.c.execution_id)
    .where(
        attempts.c.ended_at_ms.is_(None),
        attempts.c.runner_id == bindparam("runner_id"),
        executions.c.cancel_requested_at_ms.is_not(None),
    )
)
_SPECIFICATION = Prepared(
    select(specifications).where(specifications.c.specification_id == bindparam("specification_id"))
)
LEAST_RANK = -(10**9)
MAX_MADE_READY = 500


def next_rank(connection: Connection, after: int | None) -> int | None:
    """The rank of the queue that comes after one, and has something ready; the lowest is the most urgent."""
    found: int | None = _NEXT_RANK.scalar(connection, after=LEAST_RANK if after is None else after)
    return found


def tenants_of(connection: Connection, rank: int, after: str | None, limit: int) -> list[tuple[str, int]]:
    """Tenants with something of a rank ready, in order of their ids, those behind one or all.

    Each comes with the oldest of its first flow.
    """
    if after is None:
        rows = _TENANTS.all(connection, rank=rank, most=limit)
    else:
        rows = _TENANTS_BEHIND.all(connection, rank=rank, after=after, most=limit)
    return _in_order(rows)


def flows_of(
    connection: Connection, rank: int, tenant_id: str, after: str | None, limit: int
) -> list[tuple[str, int]]:
    """A tenant's flows with something of a rank ready, in order of their names, each with its oldest."""
    if after is None:
        rows = _FLOWS.all(connection, rank=rank, tenant_id=tenant_id, most=limit)
    else:
        rows = _FLOWS_BEHIND.all(connection, rank=rank, tenant_id=tenant_id, after=after, most=limit)
    return _in_order(rows)


def _in_order(rows: list[Row]) -> list[tuple[str, int]]:
    return [(row["name"], row["oldest"]) for row in sorted(rows, key=lambda row: row["number"])]


def heads(
    connection: Connection,
    rank: int,
    flow: Flow,
    after: int,
    now_ms: int,
    limit: int,
    *,
    are_held: bool = True,
) -> list[Row]:
    """The oldest executions of a flow that may be claimed now, those after a sequence number.

    Where several processes claim at once, each sees only what no other is about to claim, if they are held
    until the end of the transaction; otherwise each is to be, by :func:`hold_ready`, before it is claimed.
    """
    return (_HELD_HEADS if are_held else _HEADS).all(
        connection,
        rank=rank,
        tenant_id=flow.tenant_id,
        flow=flow.batch_id,
        after=after,
        now_ms=now_ms,
        max_rows=limit,
    )


def hold_ready(connection: Connection, sequence: int) -> bool:
    """Keep an execution from other claims until the transaction ends; False where one has it, or had."""
    return _HOLD_READY.first(connection, sequence=sequence) is not None


def any_ready(connection: Connection) -> bool:
    """Whether anything may be claimed, parallelism and limits aside."""
    return _ANY_READY.first(connection) is not None


def running_of(connection: Connection, tenant_id: str) -> int:
    """How many attempts a tenant has that have not ended."""
    return int(_RUNNING_OF.scalar(connection, tenant_id=tenant_id))


def next_ready_at_ms(connection: Connection) -> int | None:
    """When the next execution that waits out a backoff may be claimed."""
    found: int | None = _NEXT_READY.scalar(connection)
    return found


def make_ready(connection: Connection, now_ms: int, limit: int = MAX_MADE_READY) -> int:
    """Put those into the queue that have waited out their backoff; returns how many."""
    due = _WAITED_OUT.all(connection, now_ms=now_ms, max_rows=limit)
    if due:
        _MAKE_READY.run_many(
            connection, [{"ready_id": row["execution_id"], "backoff_until_ms": None} for row in due]
        )
    return len(due)


def any_open(connection: Connection, runner_id: str | None = None) -> bool:
    """Whether any attempt has not ended, of one runner or at all."""
    if runner_id is None:
        return _ANY_OPEN.first(connection) is not None
    return _ANY_OPEN_OF_RUNNER.first(connection, runner_id=runner_id) is not None


def any_unfinished(connection: Connection) -> bool:
    """Whether any execution is to be carried or is; those that still wait for files are not counted."""
    return any_ready(connection) or any_open(connection) or next_ready_at_ms(connection) is not None


def carrier_of(connection: Connection, execution_id: str) -> str | None:
    """The runner that carries an execution."""
    found: str | None = _CARRIER.scalar(connection, execution_id=execution_id)
    return found


def open_attempt(connection: Connection, values: dict[str, Any]) -> None:
    """Record an attempt and its lease, in the transaction of its claim."""
    _OPEN.run(connection, **values)


def tenant_of_attempt(connection: Connection, execution_id: str, attempt: int) -> str | None:
    """Whose an attempt is; None when it has ended."""
    found: str | None = _TENANT_OF_ATTEMPT.scalar(connection, execution_id=execution_id, attempt=attempt)
    return found


def close_attempt(
    connection: Connection, execution_id: str, attempt: int, outcome: str, now_ms: int
) -> Row | None:
    """Record how an attempt ended; returns its row, None when it was closed before."""
    row = _OPEN_ATTEMPT.first(connection, execution_id=execution_id, attempt=attempt)
    if row is not None:
        _CLOSE.run(connection, of_execution=execution_id, number=attempt, ended_at_ms=now_ms, outcome=outcome)
    return row


def forget_attempt(connection: Connection, execution_id: str, attempt: int) -> None:
    """Remove an attempt that was handed back; the number is not used again."""
    connection.execute(
        delete(attempts).where(attempts.c.execution_id == execution_id, attempts.c.attempt == attempt)
    )


def open_attempts(
    connection: Connection,
    *,
    runner_id: str | None = None,
    incarnation: str | None = None,
    other_incarnation: str | None = None,
    expired_by_ms: int | None = None,
) -> Sequence[Row]:
    """Attempts that have not ended: of a runner, of one or the others of its lives, or of expired leases."""
    query = select(attempts).where(attempts.c.ended_at_ms.is_(None))
    if runner_id is not None:
        query = query.where(attempts.c.runner_id == runner_id)
    if incarnation is not None:
        query = query.where(attempts.c.incarnation == incarnation)
    if other_incarnation is not None:
        query = query.where(attempts.c.incarnation != other_incarnation)
    if expired_by_ms is not None:
        query = query.where(attempts.c.lease_expires_at_ms <= expired_by_ms)
    return all_rows(connection, query)


def extend_lease(connection: Connection, execution_id: str, attempt: int, expires_at_ms: int) -> None:
    """Move one attempt's deadline."""
    _EXTEND.run(connection, of_execution=execution_id, number=attempt, lease_expires_at_ms=expires_at_ms)


def extend_all_leases(connection: Connection, expires_at_ms: int) -> None:
    """Move every deadline: while the server was away no runner could."""
    connection.execute(
        update(attempts)
        .where(attempts.c.ended_at_ms.is_(None), attempts.c.lease_expires_at_ms < expires_at_ms)
        .values(lease_expires_at_ms=expires_at_ms)
    )


def cancel_requests(connection: Connection, runner_id: str) -> Sequence[Row]:
    """Open attempts of a runner that their submitters want stopped."""
    return _CANCELED.all(connection, runner_id=runner_id)


def get_specifications(connection: Connection, ids: Sequence[str]) -> Sequence[Row]:
    """Specifications by their ids."""
    found = (_SPECIFICATION.first(connection, specification_id=one) for one in ids)
    return [row for row in found if row is not None]
