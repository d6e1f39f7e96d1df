"""Executions as they are submitted: the rows that one begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import String, bindparam, insert, select
from sqlalchemy.engine import Connection

from rgrid_server.domain.caching import Caching
from rgrid_server.domain.execution import State
from rgrid_server.domain.submission import Submission
from rgrid_server.domain.text import NUL
from rgrid_server.store.database import Row
from rgrid_server.store.events import INSERT_EVENT, event_row
from rgrid_server.store.prepared import Prepared, plain_names
from rgrid_server.store.tables import executions, metadata_index, specifications

MAX_INDEXED_CHARS = 256

_HAS_SPECIFICATION = Prepared(
    select(specifications.c.specification_id).where(
        specifications.c.specification_id == bindparam("specification_id")
    )
)
_INSERT_SPECIFICATION = Prepared(
    lambda insert: insert(specifications).on_conflict_do_nothing(),
    [column.name for column in specifications.c],
)
_INSERT_INDEXED = Prepared(
    insert(metadata_index).from_select(
        ["tenant_id", "name", "value", "sequence"],
        select(
            bindparam("tenant_id", type_=String),
            bindparam("name", type_=String),
            bindparam("value", type_=String),
            executions.c.sequence,
        ).where(executions.c.execution_id == bindparam("execution_id")),
    )
)
_COLUMNS = (
    *("execution_id", "tenant_id", "specification_id", "runtime"),
    *("batch_id", "batch_index", "batch_input", "flow"),
    *("status", "created_at_ms", "ready_at_ms"),
    *("attempt", "retry_count", "max_retries", "script_retry_count"),
    *("args", "env_vars", "inputs", "outputs", "user_metadata"),
    *("timeout_seconds", "cpus_milli", "memory_mib", "priority", "queue_rank"),
    *("retry_policy", "secrets", "cache", "run_key", "fingerprint", "inputs_due_at_ms", "trace_parent"),
)
"""What an execution may have when it is submitted, in the order of its table; all else comes later."""
_BLANK: dict[str, Any] = {
    **dict.fromkeys(plain_names(column.name for column in executions.c if column.name != "sequence")),
    "output_truncated": False,
    "last_sequence": 0,
    "charge_nanos": 0,
}
"""A row before anything is known; to copy it and change it takes half as long as to put one together."""
_NO_TEXTS: list[str] = []
_NO_NAMES: dict[str, Any] = {}
"""These two stand in many rows, so that they are written for the database once."""
_OFF = Caching.OFF
INSERT_EXECUTION = Prepared(insert(executions), list(_COLUMNS))


class NewExecution(NamedTuple):
    """One execution to insert."""

    execution_id: str
    specification_id: str
    submission: Submission
    fingerprint: str | None
    state: State
    batch_index: int | None = None
    batch_input: str | None = None
    inputs_due_at_ms: int | None = None


def insert_specification(
    connection: Connection, tenant_id: str, specification_id: str, submission: Submission, now_ms: int
) -> None:
    """Keep a specification once, whoever submits it again."""
    if _HAS_SPECIFICATION.first(connection, specification_id=specification_id) is None:
        _INSERT_SPECIFICATION.run(
            connection,
            specification_id=specification_id,
            tenant_id=tenant_id,
            created_at_ms=now_ms,
            **submission.specification.wire(),
        )


def insert_executions(connection: Connection, tenant_id: str, new: Sequence[NewExecution]) -> list[Row]:
    """Insert executions with their index of metadata, their events and their batch's counts.

    Returns what :func:`get_execution` would of each.

    Raises:
        sqlalchemy.exc.IntegrityError: a run key is held already.
    """
    # those of one moment share their states
    states = {id(item.state): item.state for item in new}
    born = {key: _born(state) for key, state in states.items()}
    values = [_values(tenant_id, item, born[id(item.state)]) for item in new]
    INSERT_EXECUTION.run_alike(connection, {}, _COLUMNS, values)
    indexed = [
        {"tenant_id": tenant_id, "name": name, "value": value, "execution_id": item.execution_id}
        for item in new
        if item.submission.user_metadata
        for name, value in indexed_metadata(item.submission.user_metadata)
    ]
    if indexed:
        _INSERT_INDEXED.run_many(connection, indexed)
    for key, state in states.items():
        INSERT_EVENT.run_alike(
            connection,
            event_row(tenant_id, "", None, state, state.created_at_ms),
            ("execution_id", "batch_id"),
            [(item.execution_id, item.submission.batch_id) for item in new if id(item.state) == key],
        )
    by_id = {item.specification_id: item.submission for item in new}
    blank = {one: _BLANK | submission.specification.wire() for one, submission in by_id.items()}
    rows = [blank[item.specification_id].copy() for item in new]
    for row, given in zip(rows, values, strict=True):
        row.update(zip(_COLUMNS, given, strict=True))
    return list(rows)


def new_row(tenant_id: str, item: NewExecution) -> Row:
    """The columns of an execution to insert."""
    return dict(zip(_COLUMNS, _values(tenant_id, item, _born(item.state)), strict=True))


def _values(tenant_id: str, item: NewExecution, born: Sequence[object]) -> tuple[Any, ...]:
    """What stands in ``_COLUMNS``; a dictionary of it takes three times as long."""
    submission = item.submission
    batch_id, priority = submission.batch_id, submission.priority
    return (
        *(item.execution_id, tenant_id, item.specification_id, submission.runtime),
        *(batch_id, item.batch_index, item.batch_input, batch_id or ""),
        *born,
        list(submission.args) if submission.args else _NO_TEXTS,
        dict(submission.env_vars) if submission.env_vars else _NO_NAMES,
        dict(submission.inputs) if submission.inputs else _NO_NAMES,
        list(submission.outputs) if submission.outputs is not None else None,
        dict(submission.user_metadata) if submission.user_metadata else _NO_NAMES,
        *(submission.timeout_seconds, submission.cpus_milli, submission.memory_mib, priority, -priority),
        None if submission.retry_policy is None else submission.retry_policy.to_wire(),
        dict(submission.secrets) if submission.secrets else None,
        None if submission.cache == _OFF else submission.cache,
        *(submission.run_key, item.fingerprint, item.inputs_due_at_ms, submission.trace_parent),
    )


def _born(state: State) -> tuple[object, ...]:
    """What stands in ``_COLUMNS`` from ``status`` to ``script_retry_count``."""
    return (
        *(state.status.value, state.created_at_ms, state.ready_at_ms),
        *(state.attempt, state.retry_count, state.max_retries, state.script_retry_count),
    )


def indexed_metadata(user_metadata: Mapping[str, object]) -> list[tuple[str, str]]:
    """Names and values that lists can be filtered by: what is a plain value and not a text of its own."""
    return [
        (name, text)
        for name, value in user_metadata.items()
        if len(name) <= MAX_INDEXED_CHARS
        and (text := metadata_text(value)) is not None
        and NUL not in name
        and NUL not in text
    ]


def metadata_text(value: object) -> str | None:
    """How a metadata value is written in a filter; None for what cannot stand in one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        text = str(value)
        return text if len(text) <= MAX_INDEXED_CHARS else None
    return None
