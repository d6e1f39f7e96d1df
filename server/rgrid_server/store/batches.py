"""Batches: their rows, their counts and their members in pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import bindparam, func, insert, select, tuple_, update
from sqlalchemy.engine import Connection

from rgrid_server.domain.batch import Counts
from rgrid_server.domain.execution import Status
from rgrid_server.store.database import Row
from rgrid_server.store.executions import LISTED
from rgrid_server.store.prepared import Prepared, all_rows, first_row
from rgrid_server.store.runkeys import is_held, look_up
from rgrid_server.store.tables import batches, executions, specifications

_BATCH = Prepared(
    select(batches).where(
        batches.c.tenant_id == bindparam("tenant_id"), batches.c.batch_id == bindparam("batch_id")
    )
)

_LOCKED = Prepared(
    select(batches)
    .where(batches.c.tenant_id == bindparam("tenant_id"), batches.c.batch_id == bindparam("batch_id"))
    .with_for_update()
)


def lock_batch(connection: Connection, tenant_id: str, batch_id: str) -> Row | None:
    """A batch's row, which nobody else changes until the transaction ends."""
    return _LOCKED.first(connection, tenant_id=tenant_id, batch_id=batch_id)


_LIMITED = Prepared(
    select(batches.c.parallelism, batches.c.running)
    .where(
        batches.c.tenant_id == bindparam("tenant_id"),
        batches.c.batch_id == bindparam("batch_id"),
        batches.c.parallelism.is_not(None),
    )
    .with_for_update()
)


def hold_limited(connection: Connection, wanted: Iterable[tuple[str, str]]) -> None:
    """Hold those of some batches, by tenant and id, that have a parallelism, until the transaction ends.

    All at once and in one order, so that two claims do not wait for each other.
    """
    if connection.dialect.name == "sqlite":
        return
    keys = [key for key in wanted if key[1]]
    if keys:
        key_columns = (batches.c.tenant_id, batches.c.batch_id)
        query = select(*key_columns).where(tuple_(*key_columns).in_(keys), batches.c.parallelism.is_not(None))
        all_rows(connection, query.order_by(*key_columns).with_for_update())


def room_in_batch(connection: Connection, tenant_id: str, batch_id: str) -> int | None:
    """How many more of a batch may run, which stays so until the transaction ends; None for any number."""
    limited = _LIMITED.first(connection, tenant_id=tenant_id, batch_id=batch_id)
    return None if limited is None else int(limited["parallelism"]) - int(limited["running"])


def insert_batch(connection: Connection, values: dict[str, Any]) -> None:
    """Add a batch.

    Raises:
        sqlalchemy.exc.IntegrityError: its id or its run key is held already.
    """
    connection.execute(insert(batches).values(values))


def get_batch(connection: Connection, tenant_id: str, batch_id: str) -> Row | None:
    """A batch's row; None also when it is another tenant's."""
    return _BATCH.first(connection, tenant_id=tenant_id, batch_id=batch_id)


def lookup_batches(
    connection: Connection, tenant_id: str, ids: Sequence[str], run_keys: Sequence[str] = ()
) -> Sequence[Row]:
    """Rows of those of the ids that there are, and of what holds one of the run keys."""
    return look_up(connection, select(batches), batches.c.batch_id, tenant_id, ids, run_keys)


def find_batch_by_run_key(connection: Connection, tenant_id: str, run_key: str) -> Row | None:
    """The unacknowledged batch that holds a run key."""
    query = select(batches).where(
        batches.c.tenant_id == tenant_id,
        batches.c.run_key == run_key,
        is_held(batches),
    )
    return first_row(connection, query)


def update_batch(connection: Connection, tenant_id: str, batch_id: str, **values: object) -> None:
    """Write columns of a batch."""
    connection.execute(
        update(batches).where(batches.c.tenant_id == tenant_id, batches.c.batch_id == batch_id).values(values)
    )


def counts_of(row: Row) -> Counts:
    """The counts in a batch's row."""
    return Counts(
        queued=row["queued"],
        running=row["running"],
        completed=row["completed"],
        failed=row["failed"],
        canceled=row["canceled"],
    )


def next_index(connection: Connection, tenant_id: str, batch_id: str) -> int:
    """The index of the next execution of a batch, from 0."""
    highest = connection.execute(
        select(func.max(executions.c.batch_index)).where(
            executions.c.tenant_id == tenant_id, executions.c.batch_id == batch_id
        )
    ).scalar()
    return 0 if highest is None else int(highest) + 1


def batch_statuses(connection: Connection, tenant_id: str, batch_id: str) -> list[str]:
    """Every execution's status, in order of index."""
    query = (
        select(executions.c.status)
        .where(executions.c.tenant_id == tenant_id, executions.c.batch_id == batch_id)
        .order_by(executions.c.batch_index)
    )
    return list(connection.execute(query).scalars())


def batch_executions(
    connection: Connection,
    tenant_id: str,
    batch_id: str,
    *,
    limit: int | None = None,
    after: int = -1,
    status: Status | None = None,
) -> Sequence[Row]:
    """Executions of a batch behind an index, in order of it."""
    query = (
        select(*LISTED)
        .where(
            executions.c.tenant_id == tenant_id,
            executions.c.batch_id == batch_id,
            executions.c.batch_index > after,
        )
        .order_by(executions.c.batch_index)
        .limit(limit)
    )
    if status is not None:
        query = query.where(executions.c.status == status.value)
    return all_rows(connection, query)


def canceled_unfinished(connection: Connection) -> Sequence[Row]:
    """Batches that were canceled and of which something has not ended."""
    query = select(batches.c.tenant_id, batches.c.batch_id).where(
        batches.c.cancel_requested_at_ms.is_not(None), batches.c.completed_at_ms.is_(None)
    )
    return all_rows(connection, query)


def full_executions(
    connection: Connection,
    tenant_id: str,
    batch_id: str,
    statuses: Sequence[Status],
    *,
    after: int,
    limit: int,
) -> Sequence[Row]:
    """Executions of a batch behind an index with their specifications, for submitting them again."""
    query = (
        select(
            executions,
            specifications.c.script_content,
            specifications.c.script_name,
            specifications.c.requirements_content,
        )
        .join_from(
            executions, specifications, executions.c.specification_id == specifications.c.specification_id
        )
        .where(
            executions.c.tenant_id == tenant_id,
            executions.c.batch_id == batch_id,
            executions.c.batch_id.is_not(None),
            executions.c.batch_index > after,
            executions.c.status.in_([status.value for status in statuses]),
        )
        .order_by(executions.c.batch_index)
        .limit(limit)
    )
    return all_rows(connection, query)
