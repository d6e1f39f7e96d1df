"""What the feed's readers are shown beside the events themselves, and how far back the feed reaches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import (
    ColumnElement,
    Integer,
    LargeBinary,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.engine import Connection

from rgrid_server.store.database import Row
from rgrid_server.store.prepared import Prepared, all_rows
from rgrid_server.store.tables import artifacts, events, executions, settings

TAIL_BYTES = 1000
FORGOTTEN_SETTING = "events_forgotten_to"
"""The position up to which events were removed: whoever read less has missed some for good."""

_FORGOTTEN = Prepared(select(settings.c.value).where(settings.c.name == bindparam("name")))
_ENDED: tuple[ColumnElement[bool], ...] = (
    events.c.tenant_id == bindparam("tenant_id"),
    events.c.batch_id == bindparam("batch_id"),
    events.c.batch_id.is_not(None),
    literal_column("status IN ('completed', 'failed', 'canceled')"),
)
_LAST_ENDED = Prepared(select(func.max(events.c.sequence)).where(*_ENDED))
_COUNT_ENDED = Prepared(select(func.count()).select_from(events).where(*_ENDED))
_LATEST_ENDED = Prepared(
    select(executions.c.started_at_ms, events.c.at_ms)
    .join_from(events, executions, executions.c.execution_id == events.c.execution_id)
    .where(
        events.c.tenant_id == bindparam("tenant_id"),
        events.c.batch_id == bindparam("batch_id"),
        events.c.batch_id.is_not(None),
        literal_column("events.status IN ('completed', 'failed', 'canceled')"),
    )
    .order_by(events.c.sequence.desc())
    .limit(bindparam("max_rows", type_=Integer))
)
_LABELS = (executions.c.execution_id, executions.c.batch_index, executions.c.user_metadata)
_FINISHED = (
    executions.c.execution_id,
    executions.c.batch_index,
    executions.c.batch_input,
    executions.c.status,
    executions.c.attempt,
    executions.c.exit_code,
    executions.c.error_code,
    executions.c.error_message,
    executions.c.started_at_ms,
    executions.c.completed_at_ms,
    executions.c.duration_ms,
    executions.c.charge_nanos,
    executions.c.user_metadata,
    executions.c.execution_metadata,
    executions.c.output_truncated,
    # a start before the first byte is the first byte, on every database
    func.substr(
        executions.c.stdout, func.length(executions.c.stdout) - (TAIL_BYTES - 1), type_=LargeBinary
    ).label("stdout_tail"),
)


def latest_ends(connection: Connection, tenant_id: str, batch_id: str, limit: int) -> Sequence[Row]:
    """When the latest executions of a batch to end had begun, and when they ended."""
    return _LATEST_ENDED.all(connection, tenant_id=tenant_id, batch_id=batch_id, max_rows=limit)


def labels_of(connection: Connection, execution_ids: Sequence[str]) -> dict[str, Row]:
    """Index and metadata of executions, by id."""
    query = select(*_LABELS).where(executions.c.execution_id.in_(set(execution_ids)))
    return {row["execution_id"]: row for row in all_rows(connection, query)}


def finished_executions(connection: Connection, execution_ids: Sequence[str]) -> dict[str, Row]:
    """What came of executions, by id; ``stdout_tail`` is the end of what is kept of stdout."""
    query = select(*_FINISHED).where(executions.c.execution_id.in_(execution_ids))
    return {row["execution_id"]: row for row in all_rows(connection, query)}


def outputs_of(connection: Connection, execution_ids: Sequence[str]) -> dict[str, list[Row]]:
    """The files that executions left, by id, each in order of name."""
    query = (
        select(artifacts)
        .where(artifacts.c.execution_id.in_(execution_ids), artifacts.c.artifact_type == "output")
        .order_by(artifacts.c.execution_id, artifacts.c.filename)
    )
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in all_rows(connection, query):
        found[row["execution_id"]].append(row)
    return found


def last_ended_position(connection: Connection, tenant_id: str, batch_id: str) -> int:
    """The position of the newest end in a batch, also where readers may not see it yet; 0 for none."""
    return int(_LAST_ENDED.scalar(connection, tenant_id=tenant_id, batch_id=batch_id) or 0)


def count_ended(connection: Connection, tenant_id: str, batch_id: str) -> int:
    """How many ends of a batch the feed still has; it counts them, so ask rarely."""
    return int(_COUNT_ENDED.scalar(connection, tenant_id=tenant_id, batch_id=batch_id))


def forgotten_position(connection: Connection) -> int:
    """The position up to which events were removed; 0 where none was."""
    return int(_FORGOTTEN.scalar(connection, name=FORGOTTEN_SETTING) or 0)


def set_forgotten_position(connection: Connection, position: int) -> None:
    """Note that events up to a position are removed, in the transaction that removes them."""
    values = {"name": FORGOTTEN_SETTING, "value": str(position)}
    changed = connection.execute(update(settings).where(settings.c.name == FORGOTTEN_SETTING).values(values))
    if changed.rowcount == 0:
        connection.execute(insert(settings).values(values))
