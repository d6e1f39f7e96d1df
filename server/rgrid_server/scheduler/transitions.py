"""Applying the rules to an execution in a transaction, and whom to wake when it is committed."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Connection

from rgrid_server.domain.execution import State, Status
from rgrid_server.errors import NotFound
from rgrid_server.scheduler.wakeups import WORK, batch_topic, execution_topic, log_topic, tenant_topic
from rgrid_server.store import batches, executions
from rgrid_server.store.database import Row
from rgrid_server.store.executions import Transition


def apply_event(
    connection: Connection, execution_id: str, event: Callable[[State], State], now_ms: int
) -> Transition | None:
    """Move an execution by the rules, and finish its batch with its last; None when there is none such."""
    done = executions.transition(connection, execution_id, event, now_ms)
    if done is not None and done.ended and done.batch_id is not None:
        finish_batch(connection, done.tenant_id, done.batch_id, now_ms)
    return done


def hold_batch(connection: Connection, tenant_id: str, batch_id: str) -> Row:
    """A batch's row, which nobody else changes until the transaction ends.

    Raises:
        NotFound: the tenant has none such.
    """
    row = batches.lock_batch(connection, tenant_id, batch_id)
    if row is None:
        raise NotFound("Batch")
    return row


def finish_batch(connection: Connection, tenant_id: str, batch_id: str, now_ms: int) -> None:
    """Note when a closed batch's last execution has ended."""
    batch = batches.get_batch(connection, tenant_id, batch_id)
    if batch is None or not batch["closed"] or batch["completed_at_ms"] is not None:
        return
    counts = batches.counts_of(batch)
    if counts.total == counts.finished:
        batches.update_batch(connection, tenant_id, batch_id, completed_at_ms=now_ms)


def topics_of(done: Transition | None) -> list[str]:
    """Whom a committed transition wakes."""
    if done is None or done.before == done.after:
        return []
    topics = [execution_topic(done.execution_id)]
    if done.changed_status:
        topics.append(tenant_topic(done.tenant_id))
    if done.batch_id is not None and done.changed_status:
        topics.append(batch_topic(done.tenant_id, done.batch_id))
    if done.ended:
        # followers of its log wait for the end too
        topics.append(log_topic(done.execution_id))
    becomes_ready = done.after.status is Status.QUEUED and done.after.ready_at_ms is not None
    if becomes_ready or (done.before.status is Status.RUNNING and done.changed_status):
        # the end of one makes room within what its tenant and its batch may run at once
        topics.append(WORK)
    return topics
