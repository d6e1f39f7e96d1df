"""The feed: every change of status of every execution, in one order that never changes behind a reader.

An event's ``sequence`` is its position. A reader asks for what comes after a position, and remembers the last
one it has seen; it must never have to look back. On SQLite the single writer numbers events in the order of
their commits. On PostgreSQL transactions commit in another order than they began, so numbers of a sequence
would appear behind a reader. There a position begins with the number of a transaction, and a reader is shown
only positions below the oldest transaction that still runs: whatever will yet be committed comes after them.
``docs/explanation/event-feed.md`` says why this holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Integer, bindparam, func, insert, literal_column, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from rgrid_server.domain.execution import State
from rgrid_server.store.database import MAX_POSITION, Row
from rgrid_server.store.prepared import Prepared
from rgrid_server.store.tables import events

POSITION_BITS = 20
"""On PostgreSQL so many bits of a position tell apart the events under one transaction's number."""
BASE_SETTING = "event_base"
"""What is added to transactions' numbers; more than 0 where the rows have moved to another cluster."""


class visible_before(FunctionElement[int]):  # noqa: N801 - it reads as the SQL function that it is
    """SQL for the position from which on something may yet appear."""

    type = BigInteger()
    inherit_cache = True


@compiles(visible_before)
def _everything(_element: visible_before, _compiler: SQLCompiler, **_options: Any) -> str:
    return str(MAX_POSITION)


@compiles(visible_before, "postgresql")
def _below_the_oldest_transaction(_element: visible_before, _compiler: SQLCompiler, **_options: Any) -> str:
    return "rgrid_visible_before()"


INSERT_EVENT = Prepared(
    insert(events), ["tenant_id", "execution_id", "batch_id", "status", "attempt", "at_ms"]
)
_FEED = (
    select(events)
    .where(
        events.c.tenant_id == bindparam("tenant_id"),
        events.c.sequence > bindparam("after"),
        events.c.sequence < visible_before(),
    )
    .order_by(events.c.sequence)
    .limit(bindparam("max_rows", type_=Integer))
)
_AFTER = Prepared(_FEED)
_BATCH_ENDED = Prepared(
    _FEED.where(
        events.c.batch_id == bindparam("batch_id"),
        # as the index has it, to the letter
        events.c.batch_id.is_not(None),
        events.c.status.in_([literal_column(f"'{word}'") for word in ("completed", "failed", "canceled")]),
    )
)
_NEWEST = Prepared(
    select(func.max(events.c.sequence).label("newest")).where(events.c.sequence < visible_before())
)
_HIDDEN = Prepared(
    select(events.c.at_ms).where(events.c.sequence >= visible_before()).order_by(events.c.sequence).limit(1)
)
_BOUND = Prepared(select(visible_before().label("bound")))


def event_row(
    tenant_id: str, execution_id: str, batch_id: str | None, state: State, now_ms: int
) -> dict[str, Any]:
    """The columns of an event to insert."""
    return {
        "tenant_id": tenant_id,
        "execution_id": execution_id,
        "batch_id": batch_id,
        "status": state.status.value,
        "attempt": state.attempt,
        "at_ms": now_ms,
    }


def events_after(connection: Connection, tenant_id: str, after: int, limit: int) -> Sequence[Row]:
    """A tenant's events behind a position, in order; none will ever appear before the last of them."""
    return _AFTER.all(connection, tenant_id=tenant_id, after=after, max_rows=limit)


def batch_ended_after(
    connection: Connection, tenant_id: str, batch_id: str, after: int, limit: int
) -> Sequence[Row]:
    """The ends of a batch's executions behind a position, in order, as :func:`events_after`."""
    return _BATCH_ENDED.all(connection, tenant_id=tenant_id, batch_id=batch_id, after=after, max_rows=limit)


def latest_position(connection: Connection) -> int:
    """The position behind which everything comes that cannot be seen yet; 0 where nothing has happened."""
    if connection.dialect.name == "sqlite":
        return int(_NEWEST.scalar(connection) or 0)
    return int(_BOUND.scalar(connection)) - 1


def oldest_hidden_at_ms(connection: Connection) -> int | None:
    """When the first event happened that is committed and yet held back from readers; None for none such."""
    found: int | None = _HIDDEN.scalar(connection)
    return found


def rebase_positions(connection: Connection) -> bool:
    """Go on above the positions there are; returns whether that took a new base.

    PostgreSQL only. Rows that were dumped from one cluster and restored into another keep their positions,
    and the other cluster's transactions may have lower numbers than those of the first.
    """
    moved = connection.execute(
        text(
            "INSERT INTO settings (name, value) "
            "SELECT :name, ((max(sequence) >> :bits) + 1)::text FROM events "
            "HAVING (max(sequence) >> :bits) >="
            " pg_snapshot_xmax(pg_current_snapshot())::text::bigint + rgrid_event_base() "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        ),
        {"name": BASE_SETTING, "bits": POSITION_BITS},
    )
    return moved.rowcount > 0
