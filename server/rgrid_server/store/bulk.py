"""Many executions at once: inserted, or moved by one event, at a fraction of what each alone takes.

Items of a batch differ in five columns of fifty, so the others are converted for the database once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Integer, bindparam, insert, literal_column, or_, select
from sqlalchemy.engine import Connection

from rgrid_server.domain.execution import State, Status
from rgrid_server.store.database import Row
from rgrid_server.store.events import INSERT_EVENT, event_row
from rgrid_server.store.executions import (
    STATE_FIELDS,
    Transition,
    changing,
    count_in_batch,
    get_state,
)
from rgrid_server.store.intake import INSERT_EXECUTION, NewExecution, indexed_metadata, new_row
from rgrid_server.store.prepared import Prepared
from rgrid_server.store.tables import executions, metadata_index


class NewItem(NamedTuple):
    """What an item of a batch has of its own."""

    execution_id: str
    batch_index: int
    batch_input: str | None
    args: Sequence[str]
    env_vars: Mapping[str, str]
    inputs: Mapping[str, str | None]
    user_metadata: Mapping[str, object]


LIVE = (Status.QUEUED, Status.RUNNING)

_OF_BATCH = (
    executions.c.tenant_id == bindparam("tenant_id"),
    executions.c.batch_id == bindparam("batch_id"),
    # the partial index of batches is used only where the query says so
    executions.c.batch_id.is_not(None),
)
_SEQUENCES = Prepared(
    select(executions.c.batch_index, executions.c.sequence)
    .where(
        *_OF_BATCH,
        executions.c.batch_index >= bindparam("first"),
    )
    .order_by(executions.c.batch_index)
    .limit(bindparam("max_rows", type_=Integer))
)
_INSERT_INDEXED = Prepared(insert(metadata_index), ["tenant_id", "name", "value", "sequence"])
_UNFINISHED = Prepared(
    select(executions.c.execution_id, *[executions.c[name] for name in STATE_FIELDS])
    .where(
        *_OF_BATCH,
        executions.c.batch_index > bindparam("after_index"),
        or_(*[executions.c.status == literal_column(f"'{one.value}'") for one in LIVE]),
        executions.c.cancel_requested_at_ms.is_(None),
    )
    .add_columns(executions.c.batch_index)
    .order_by(executions.c.batch_index)
    .limit(bindparam("max_rows", type_=Integer))
)
_ITEMS = Prepared(
    select(*[executions.c[name] for name in NewItem._fields])
    .where(
        *_OF_BATCH,
        executions.c.batch_index >= bindparam("first"),
    )
    .order_by(executions.c.batch_index)
    .limit(bindparam("max_rows", type_=Integer))
)


def insert_items(
    connection: Connection, tenant_id: str, shared: NewExecution, items: Sequence[NewItem]
) -> None:
    """Insert executions of one batch that differ in nothing but what :class:`NewItem` has.

    Their events and their index of metadata come with them; the batch's counts do not. The items'
    ``batch_index`` are consecutive.
    """
    row = new_row(tenant_id, shared)
    INSERT_EXECUTION.run_alike(connection, row, NewItem._fields, items)
    event = event_row(tenant_id, "", row["batch_id"], shared.state, shared.state.created_at_ms)
    INSERT_EVENT.run_alike(connection, event, ["execution_id"], [(item.execution_id,) for item in items])
    _index_metadata(connection, tenant_id, row["batch_id"], items)


def stored_items(
    connection: Connection, tenant_id: str, batch_id: str, first: int, count: int
) -> list[NewItem]:
    """A batch's items from an index on, as they were inserted."""
    rows = _ITEMS.all(connection, tenant_id=tenant_id, batch_id=batch_id, first=first, max_rows=count)
    return [NewItem(**row) for row in rows]


def unfinished_of_batch(
    connection: Connection, tenant_id: str, batch_id: str, after_index: int, limit: int
) -> Sequence[Row]:
    """A batch's executions behind an index that are neither terminal nor asked to stop, with their states."""
    return _UNFINISHED.all(
        connection, tenant_id=tenant_id, batch_id=batch_id, after_index=after_index, max_rows=limit
    )


def transition_rows(
    connection: Connection,
    tenant_id: str,
    batch_id: str,
    rows: Sequence[Row],
    event: Callable[[State], State],
    now_ms: int,
) -> list[Transition]:
    """Apply an event by the rules to executions of one batch whose rows were read in this transaction.

    What changes is written as :func:`rgrid_server.store.executions.transition` does it for one.

    Raises:
        rgrid_server.domain.execution.Refused: the rules refuse the event for one; the caller undoes all.
    """
    done: list[Transition] = []
    changes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    counted: Counter[Status] = Counter()
    told: list[dict[str, Any]] = []
    for row in rows:
        before = get_state(row)
        after = event(before)
        one = Transition(row["execution_id"], tenant_id, batch_id, before, after)
        done.append(one)
        changed = tuple(name for name in STATE_FIELDS if getattr(after, name) != getattr(before, name))
        if changed:
            values = {name: getattr(after, name) for name in changed}
            changes.setdefault(changed, []).append({"changed_id": one.execution_id, **values})
        if one.changed_status:
            told.append(event_row(tenant_id, one.execution_id, batch_id, after, now_ms))
            counted[before.status] -= 1
            counted[after.status] += 1
    for names, values_of in changes.items():
        changing(names).run_many(connection, values_of)
    if told:
        INSERT_EVENT.run_many(connection, told)
        count_in_batch(connection, tenant_id, batch_id, counted)
    return done


def _index_metadata(connection: Connection, tenant_id: str, batch_id: str, items: Sequence[NewItem]) -> None:
    named = {
        item.batch_index: pairs
        for item in items
        if item.user_metadata and (pairs := indexed_metadata(item.user_metadata))
    }
    if not named:
        return
    numbered = _SEQUENCES.all(
        connection,
        tenant_id=tenant_id,
        batch_id=batch_id,
        first=items[0].batch_index,
        max_rows=len(items),
    )
    _INSERT_INDEXED.run_alike(
        connection,
        {"tenant_id": tenant_id},
        ("name", "value", "sequence"),
        [
            (name, value, row["sequence"])
            for row in numbered
            for name, value in named.get(row["batch_index"], ())
        ],
    )
