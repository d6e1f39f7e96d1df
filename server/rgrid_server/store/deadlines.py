"""The times that something is due at, moved all at once after the clock was set."""

from __future__ import annotations

from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection

from rgrid_server.domain.execution import Status
from rgrid_server.store.tables import attempts, events, executions


def latest_event_at_ms(connection: Connection) -> int | None:
    """What the clock said when the newest event was written."""
    newest = select(func.max(events.c.sequence)).scalar_subquery()
    found: int | None = connection.execute(select(events.c.at_ms).where(events.c.sequence == newest)).scalar()
    return found


def begin_anew(connection: Connection, now_ms: int, *, lease_ms: int, inputs_due_ms: int) -> None:
    """Give every lease and every missing input its whole time again, and let nothing wait for a later time.

    Doing so twice, as several processes may, is no harm.
    """
    connection.execute(
        update(attempts).where(attempts.c.ended_at_ms.is_(None)).values(lease_expires_at_ms=now_ms + lease_ms)
    )
    queued = update(executions).where(executions.c.status == Status.QUEUED.value)
    connection.execute(queued.where(executions.c.ready_at_ms > now_ms).values(ready_at_ms=now_ms))
    connection.execute(
        queued.where(executions.c.ready_at_ms.is_(None)).values(inputs_due_at_ms=now_ms + inputs_due_ms)
    )
