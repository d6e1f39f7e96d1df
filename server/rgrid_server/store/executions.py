"""Executions: found, listed, and moved from state to state by the rules of domain.execution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from sqlalchemy import Integer, bindparam, literal_column, select, update
from sqlalchemy.engine import Connection

from rgrid_server.domain.execution import State, Status
from rgrid_server.domain.retries import RetryPolicy
from rgrid_server.store.database import Row
from rgrid_server.store.events import INSERT_EVENT, event_row
from rgrid_server.store.prepared import Prepared, all_rows
from rgrid_server.store.runkeys import is_held, look_up
from rgrid_server.store.tables import batches, executions, specifications

STATE_FIELDS = tuple(field.name for field in fields(State))

_WITH_SPECIFICATION = select(
    executions,
    specifications.c.script_content,
    specifications.c.script_name,
    specifications.c.requirements_content,
).join_from(executions, specifications, executions.c.specification_id == specifications.c.specification_id)

_EXECUTION = Prepared(_WITH_SPECIFICATION.where(executions.c.execution_id == bindparam("execution_id")))

_STATE_AND_OWNER = Prepared(
    select(
        executions.c.tenant_id,
        executions.c.batch_id,
        *[executions.c[name] for name in STATE_FIELDS],
    )
    .where(executions.c.execution_id == bindparam("execution_id"))
    .with_for_update()
)
_STATUS = Prepared(
    select(
        executions.c.status,
        executions.c.exit_code,
        executions.c.last_sequence,
        executions.c.completed_at_ms,
    ).where(
        executions.c.execution_id == bindparam("execution_id"),
        executions.c.tenant_id == bindparam("tenant_id"),
    )
)
_BY_RUN_KEY = Prepared(
    select(executions.c.execution_id, executions.c.fingerprint, executions.c.batch_id).where(
        executions.c.tenant_id == bindparam("tenant_id"),
        executions.c.run_key == bindparam("run_key"),
        is_held(executions),
    )
)
_LOCK = select(executions.c.execution_id).order_by(executions.c.execution_id).with_for_update()
_LOCK_ONE = Prepared(_LOCK.where(executions.c.execution_id == bindparam("execution_id")))
LISTED = (
    executions.c.sequence,
    executions.c.execution_id,
    executions.c.status,
    executions.c.created_at_ms,
    executions.c.started_at_ms,
    executions.c.completed_at_ms,
    executions.c.duration_ms,
    executions.c.exit_code,
    executions.c.charge_nanos,
    executions.c.user_metadata,
    executions.c.batch_id,
    executions.c.batch_index,
    executions.c.batch_input,
    executions.c.error_message,
    executions.c.attempt,
)
"""What lists show; scripts and outputs stay where they are."""


@dataclass(frozen=True, slots=True)
class Transition:
    """An execution before and after an event; equal when nothing changed."""

    execution_id: str
    tenant_id: str
    batch_id: str | None
    before: State
    after: State

    @property
    def changed_status(self) -> bool:
        return self.before.status is not self.after.status

    @property
    def ended(self) -> bool:
        return self.after.status.is_terminal and self.changed_status


_DURATIONS = Prepared(
    select(executions.c.duration_ms)
    .where(
        executions.c.tenant_id == bindparam("tenant_id"),
        executions.c.runtime == bindparam("runtime"),
        executions.c.status == literal_column("'completed'"),
        executions.c.completed_at_ms >= bindparam("since_ms"),
        executions.c.duration_ms.is_not(None),
    )
    .order_by(executions.c.completed_at_ms.desc())
    .limit(bindparam("max_rows", type_=Integer))
)


def get_execution(connection: Connection, tenant_id: str | None, execution_id: str) -> Row | None:
    """An execution with its specification; None also when it is another tenant's."""
    row = _EXECUTION.first(connection, execution_id=execution_id)
    if row is not None and tenant_id is not None and row["tenant_id"] != tenant_id:
        return None
    return row


def written_execution(connection: Connection, execution_id: str) -> Row:
    """An execution that was written in this transaction, or found in it."""
    row = get_execution(connection, None, execution_id)
    if row is None:
        raise RuntimeError(f"{execution_id} was written in this transaction and is not there")
    return row


def lock_executions(connection: Connection, ids: Iterable[str]) -> None:
    """Hold executions until the transaction ends; what is read of them from now on stays true in it.

    Whoever changes an execution, its attempts or its inputs holds it, and holds it before its batch. All are
    taken at once and in one order, so that two who want the same do not wait for each other.
    """
    if connection.dialect.name == "sqlite":
        return
    wanted = sorted(set(ids))
    if len(wanted) == 1:
        _LOCK_ONE.first(connection, execution_id=wanted[0])
    elif wanted:
        all_rows(connection, _LOCK.where(executions.c.execution_id.in_(wanted)))


def get_status(connection: Connection, tenant_id: str, execution_id: str) -> Row | None:
    """An execution's status, exit code, end and length of log; None also when it is another tenant's."""
    return _STATUS.first(connection, execution_id=execution_id, tenant_id=tenant_id)


def find_by_run_key(connection: Connection, tenant_id: str, run_key: str) -> Row | None:
    """The unacknowledged execution that holds a run key."""
    return _BY_RUN_KEY.first(connection, tenant_id=tenant_id, run_key=run_key)


def lookup_executions(
    connection: Connection, tenant_id: str, ids: Sequence[str], run_keys: Sequence[str] = ()
) -> Sequence[Row]:
    """List rows of those of the ids that there are, and of what holds one of the run keys."""
    return look_up(connection, select(*LISTED), executions.c.execution_id, tenant_id, ids, run_keys)


def get_state(row: Row | Mapping[str, Any]) -> State:
    """The state that a row says."""
    return State(
        **{name: row[name] for name in STATE_FIELDS}
        | {"status": Status(row["status"]), "retry_policy": RetryPolicy.from_wire(row["retry_policy"])}
    )


def transition(
    connection: Connection, execution_id: str, event: Callable[[State], State], now_ms: int
) -> Transition | None:
    """Apply an event by the rules, and write what it changes: the row, its batch's counts, and the feed.

    Returns None when there is no such execution.

    Raises:
        rgrid_server.domain.execution.Refused: the rules refuse the event; nothing is written.
    """
    row = _STATE_AND_OWNER.first(connection, execution_id=execution_id)
    if row is None:
        return None
    before = get_state(row)
    after = event(before)
    done = Transition(execution_id, row["tenant_id"], row["batch_id"], before, after)
    changes = {
        name: getattr(after, name) for name in STATE_FIELDS if getattr(after, name) != getattr(before, name)
    }
    if "ready_at_ms" in changes and after.ready_at_ms is not None:
        changes["backoff_until_ms"] = after.ready_at_ms if after.ready_at_ms > now_ms else None
    if changes:
        changing(tuple(changes)).run(connection, changed_id=execution_id, **changes)
    if done.changed_status:
        INSERT_EVENT.run(connection, **event_row(done.tenant_id, execution_id, done.batch_id, after, now_ms))
        if done.batch_id is not None:
            count_in_batch(
                connection,
                done.tenant_id,
                done.batch_id,
                {before.status: -1, after.status: 1},
            )
    return done


def count_in_batch(
    connection: Connection, tenant_id: str, batch_id: str, changes: Mapping[Status, int]
) -> None:
    """Keep a batch's counts by status, in the transaction of what changes them."""
    _counting(tuple(status.value for status in changes)).run(
        connection,
        of_tenant=tenant_id,
        of_batch=batch_id,
        **{f"{status.value}_change": change for status, change in changes.items()},
    )


def charge_batch(connection: Connection, tenant_id: str, batch_id: str, nanos: int) -> None:
    """Add a charge to its batch's sum."""
    _counting(("charge_nanos",)).run(
        connection, of_tenant=tenant_id, of_batch=batch_id, charge_nanos_change=nanos
    )


def set_inputs(connection: Connection, execution_id: str, inputs: Mapping[str, str | None]) -> None:
    """Write which blob each input is, as files arrive."""
    changing(("inputs",)).run(connection, changed_id=execution_id, inputs=dict(inputs))


def set_result(connection: Connection, execution_id: str, values: Mapping[str, Any]) -> None:
    """Write what an attempt left beside its state: outputs' heads, host, metadata, charge."""
    changing(tuple(values)).run(connection, changed_id=execution_id, **values)


def recent_durations_ms(
    connection: Connection, tenant_id: str, runtime: str, since_ms: int, limit: int
) -> list[int]:
    """How long the latest completed executions of a runtime took."""
    rows = _DURATIONS.all(connection, tenant_id=tenant_id, runtime=runtime, since_ms=since_ms, max_rows=limit)
    return [row["duration_ms"] for row in rows]


def overdue_inputs(connection: Connection, now_ms: int, limit: int = 500) -> Sequence[Row]:
    """Executions whose files should have arrived by now."""
    query = (
        select(executions.c.execution_id, executions.c.inputs)
        .where(
            executions.c.status == Status.QUEUED.value,
            executions.c.ready_at_ms.is_(None),
            executions.c.inputs_due_at_ms <= now_ms,
        )
        .limit(limit)
    )
    return all_rows(connection, query)


@cache
def changing(columns: tuple[str, ...]) -> Prepared:
    """The update of some columns of one execution, ``changed_id``."""
    return Prepared(
        update(executions).where(executions.c.execution_id == bindparam("changed_id")),
        ["changed_id", *columns],
    )


@cache
def _counting(columns: tuple[str, ...]) -> Prepared:
    return Prepared(
        update(batches)
        .where(
            batches.c.tenant_id == bindparam("of_tenant"),
            batches.c.batch_id == bindparam("of_batch"),
        )
        .values({name: batches.c[name] + bindparam(f"{name}_change") for name in columns})
    )
