"""What is let go when its time is over: logs, artifacts, events, stored references, blobs.

Each function does a bounded part in the transaction that it is given, under :func:`lock_progress`, so that of
several processes one at a time lets things go.

What keeps a blob: an artifact of any tenant, a time until which its tenant keeps it (``keep_until_ms``), or
the template of an open batch. Whoever begins to point to one locks its row against :func:`drop_unused_blobs`
(``store.blobs.lock_owned_sizes``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Table,
    and_,
    delete,
    exists,
    func,
    insert,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.engine import Connection

from rgrid_server.domain.execution import TERMINAL, Status
from rgrid_server.store.database import Row
from rgrid_server.store.events import visible_before
from rgrid_server.store.prepared import all_rows, first_row
from rgrid_server.store.results import set_forgotten_position
from rgrid_server.store.tables import (
    artifacts,
    batches,
    blobs,
    events,
    executions,
    input_cache,
    log_chunks,
    settings,
    tenant_blobs,
)

PROGRESS = "retention"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far in the feed of events each kind of data was let go: all up to that sequence number."""

    logs: int = 0
    data: int = 0


def lock_progress(connection: Connection) -> Progress | None:
    """How far retention has come, for this transaction alone; None while another one holds it."""
    query = select(settings.c.value).where(settings.c.name == PROGRESS)
    row = first_row(connection, query.with_for_update(skip_locked=True))
    if row is not None:
        return Progress(**orjson.loads(row["value"]))
    if first_row(connection, query) is not None:
        return None
    connection.execute(
        insert(settings).values(name=PROGRESS, value=orjson.dumps(asdict(Progress())).decode())
    )
    return Progress()


def save_progress(connection: Connection, progress: Progress) -> None:
    """Note how far it has come."""
    connection.execute(
        update(settings)
        .where(settings.c.name == PROGRESS)
        .values(value=orjson.dumps(asdict(progress)).decode())
    )


def events_until(connection: Connection, after: int, until_ms: int, limit: int) -> list[Row]:
    """The next events behind a position, of all tenants, as far as they happened until a time."""
    query = (
        select(events.c.sequence, events.c.execution_id, events.c.status, events.c.at_ms)
        .where(events.c.sequence > after, events.c.sequence < visible_before())
        .order_by(events.c.sequence)
        .limit(limit)
    )
    return list(takewhile(lambda row: row["at_ms"] <= until_ms, all_rows(connection, query)))


def ends_execution(event: Row) -> bool:
    """Whether an event is an execution's last."""
    return Status(event["status"]) in TERMINAL


def delete_events(connection: Connection, last: int, limit: int) -> int:
    """Remove up to so many events up to a position, oldest first; returns how many there were.

    Whoever reads on from before them is told. The newest one stays, so that positions go on above it also
    where the rows are copied to.
    """
    newest = select(func.max(events.c.sequence)).scalar_subquery()
    found = (
        select(events.c.sequence)
        .where(events.c.sequence <= last, events.c.sequence < newest)
        .order_by(events.c.sequence)
        .limit(limit)
    )
    rows = [tuple(row) for row in connection.execute(found)]
    if rows:
        set_forgotten_position(connection, rows[-1][0])
    return _delete_keys(connection, events, (events.c.sequence,), rows)


def with_logs(connection: Connection, execution_ids: Sequence[str]) -> set[str]:
    """Those of the executions of whose log something is kept."""
    return _found(connection, log_chunks.c.execution_id, execution_ids)


def with_artifacts(connection: Connection, execution_ids: Sequence[str]) -> set[str]:
    """Those of the executions that have artifacts."""
    return _found(connection, artifacts.c.execution_id, execution_ids)


def delete_log(connection: Connection, execution_id: str, limit: int) -> int:
    """Remove up to so many chunks of a log, the newest last; returns how many there were.

    Before its first one goes the execution notes how long the log was, if it does not know.
    """
    newest = (
        select(func.coalesce(func.max(log_chunks.c.last_sequence), 0))
        .where(log_chunks.c.execution_id == execution_id)
        .scalar_subquery()
    )
    connection.execute(
        update(executions)
        .where(executions.c.execution_id == execution_id, executions.c.last_sequence < newest)
        .values(last_sequence=newest)
    )
    key = (log_chunks.c.execution_id, log_chunks.c.first_sequence)
    found = (
        select(*key)
        .where(log_chunks.c.execution_id == execution_id)
        .order_by(log_chunks.c.first_sequence)
        .limit(limit)
    )
    return _delete_keys(connection, log_chunks, key, [tuple(row) for row in connection.execute(found)])


def delete_artifacts(connection: Connection, execution_id: str, limit: int, now_ms: int) -> int:
    """Remove up to so many of an execution's artifacts; returns how many there were.

    Blobs that no other artifact of their tenant points to are left to :func:`drop_unused_blobs`.
    """
    found = all_rows(
        connection,
        select(artifacts.c.artifact_id, artifacts.c.tenant_id, artifacts.c.sha256)
        .where(artifacts.c.execution_id == execution_id)
        .limit(limit),
    )
    key = (artifacts.c.artifact_id,)
    _delete_keys(connection, artifacts, key, [(row["artifact_id"],) for row in found])
    for tenant_id, sha256 in sorted({(row["tenant_id"], row["sha256"]) for row in found}):
        connection.execute(
            update(tenant_blobs)
            .where(
                tenant_blobs.c.tenant_id == tenant_id,
                tenant_blobs.c.sha256 == sha256,
                tenant_blobs.c.keep_until_ms.is_(None),
                ~_has_artifact(tenant_blobs),
            )
            .values(keep_until_ms=now_ms)
        )
    return len(found)


def clear_heads(connection: Connection, execution_ids: Sequence[str]) -> None:
    """Remove what executions show of their output."""
    connection.execute(
        update(executions)
        .where(
            executions.c.execution_id.in_(execution_ids),
            or_(executions.c.stdout.is_not(None), executions.c.stderr.is_not(None)),
        )
        .values(stdout=null(), stderr=null())
    )


def delete_stored_references(connection: Connection, until_ms: int, limit: int) -> int:
    """Remove up to so many references for hashes of inputs that were stored until a time."""
    key = (input_cache.c.tenant_id, input_cache.c.input_hash)
    found = select(*key).where(input_cache.c.created_at_ms <= until_ms).limit(limit)
    return _delete_keys(connection, input_cache, key, [tuple(row) for row in connection.execute(found)])


def drop_unused_blobs(connection: Connection, now_ms: int, again_at_ms: int, limit: int) -> int:
    """Take from tenants what their time to keep is over for, and condemn what then is nobody's.

    What artifacts point to is left to them; what an open batch's template names is looked at again at
    ``again_at_ms``. Returns how many were looked at.
    """
    is_due = tenant_blobs.c.keep_until_ms <= now_ms
    due = list(
        connection.execute(
            select(tenant_blobs.c.sha256).where(is_due).order_by(tenant_blobs.c.keep_until_ms).limit(limit)
        ).scalars()
    )
    if not due:
        return 0
    locked = list(
        connection.execute(
            select(blobs.c.sha256)
            .where(blobs.c.sha256.in_(due))
            .order_by(blobs.c.sha256)
            .with_for_update(skip_locked=True)
        ).scalars()
    )
    # looked at only now: until the lock was held others could begin to use them
    pairs = all_rows(
        connection,
        select(tenant_blobs.c.tenant_id, tenant_blobs.c.sha256, _has_artifact(tenant_blobs).label("is_used"))
        .where(tenant_blobs.c.sha256.in_(locked), is_due)
        .order_by(tenant_blobs.c.sha256, tenant_blobs.c.tenant_id),
    )
    open_inputs = _inputs_of_open_batches(connection, sorted({row["tenant_id"] for row in pairs}))
    for row in pairs:
        pair = (row["tenant_id"], row["sha256"])
        of_pair = and_(tenant_blobs.c.tenant_id == pair[0], tenant_blobs.c.sha256 == pair[1])
        if row["is_used"]:
            connection.execute(update(tenant_blobs).where(of_pair).values(keep_until_ms=null()))
        elif pair in open_inputs:
            connection.execute(update(tenant_blobs).where(of_pair).values(keep_until_ms=again_at_ms))
        else:
            connection.execute(delete(tenant_blobs).where(of_pair))
    connection.execute(
        update(blobs)
        .where(
            blobs.c.sha256.in_(locked),
            blobs.c.condemned_at_ms.is_(None),
            ~exists().where(tenant_blobs.c.sha256 == blobs.c.sha256),
        )
        .values(condemned_at_ms=now_ms)
    )
    return len(pairs)


@dataclass(frozen=True, slots=True)
class Deleted:
    """A blob whose row is gone; ``location`` as the row had it, None also where its bytes stood in it."""

    sha256: str
    location: str | None
    was_inline: bool


def delete_condemned_blobs(connection: Connection, until_ms: int, limit: int) -> list[Deleted]:
    """Remove the rows of up to so many blobs that were condemned until a time; then their bytes may go."""
    rows = all_rows(
        connection,
        select(blobs.c.sha256, blobs.c.location, blobs.c.content.is_not(None).label("was_inline"))
        .where(blobs.c.condemned_at_ms <= until_ms)
        .order_by(blobs.c.sha256)
        .limit(limit)
        .with_for_update(skip_locked=True),
    )
    _delete_keys(connection, blobs, (blobs.c.sha256,), [(row["sha256"],) for row in rows])
    return [Deleted(row["sha256"], row["location"], bool(row["was_inline"])) for row in rows]


def locations_of(connection: Connection, hashes: Sequence[str]) -> dict[str, str | None]:
    """Where those of the blobs are kept, by their rows, whose bytes do not stand in these."""
    query = select(blobs.c.sha256, blobs.c.location).where(
        blobs.c.sha256.in_(hashes), blobs.c.content.is_(None)
    )
    return {row["sha256"]: row["location"] for row in all_rows(connection, query)}


def _has_artifact(owned: Table) -> ColumnElement[bool]:
    return exists().where(artifacts.c.sha256 == owned.c.sha256, artifacts.c.tenant_id == owned.c.tenant_id)


def _inputs_of_open_batches(connection: Connection, tenant_ids: Sequence[str]) -> set[tuple[str, str]]:
    query = select(batches.c.tenant_id, batches.c.template).where(
        batches.c.tenant_id.in_(tenant_ids), ~batches.c.closed
    )
    return {
        (row["tenant_id"], sha256)
        for row in all_rows(connection, query)
        if row["template"] is not None
        for sha256 in row["template"]["inputs"].values()
    }


def _found(connection: Connection, column: ColumnElement[str], wanted: Sequence[str]) -> set[str]:
    return set(connection.execute(select(column).where(column.in_(wanted)).distinct()).scalars())


def _delete_keys(
    connection: Connection, table: Table, key: Sequence[ColumnElement[Any]], found: Sequence[tuple[Any, ...]]
) -> int:
    if found:
        condition = key[0].in_([one for (one,) in found]) if len(key) == 1 else tuple_(*key).in_(found)
        connection.execute(delete(table).where(condition))
    return len(found)
