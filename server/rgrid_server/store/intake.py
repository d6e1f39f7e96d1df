"""Executions as they are submitted: the rows that one begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sqlalchemy import String, bindparam, insert, select
from sqlalchemy.engine import Connection

from rgrid_server.domain.caching import Caching
from rgrid_server.domain.execution import State
from rgrid_server.domain.submission import Submission
from rgrid_server.domain.text import NUL
from rgrid_server.store.database import Row
from rgrid_server.store.events import INSERT_EVENT, event_row
from rgrid_server.store.executions import STATE_FIELDS
from rgrid_server.store.prepared import Prepared
from rgrid_server.store.tables import executions, metadata_index, specifications

MAX_INDEXED_CHARS = 256
_STATE_VALUES = attrgetter(*STATE_FIELDS)

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
_DEFAULTS = {"output_truncated": False, "last_sequence": 0, "charge_nanos": 0}
_UNSET: dict[str, Any] = {
    column.name: None for column in executions.c if column.name not in {"sequence", *_DEFAULTS}
}
INSERT_EXECUTION = Prepared(insert(executions), list(_UNSET))


@dataclass(frozen=True, slots=True)
class NewExecution:
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
    rows = [new_row(tenant_id, item) for item in new]
    INSERT_EXECUTION.run_many(connection, rows)
    indexed = [
        {"tenant_id": tenant_id, "name": name, "value": value, "execution_id": item.execution_id}
        for item in new
        if item.submission.user_metadata
        for name, value in indexed_metadata(item.submission.user_metadata)
    ]
    if indexed:
        _INSERT_INDEXED.run_many(connection, indexed)
    INSERT_EVENT.run_many(
        connection,
        [
            event_row(
                tenant_id, item.execution_id, item.submission.batch_id, item.state, item.state.created_at_ms
            )
            for item in new
        ],
    )
    by_id = {item.specification_id: item.submission for item in new}
    wires = {one: submission.specification.wire() for one, submission in by_id.items()}
    for row, item in zip(rows, new, strict=True):
        row.update(_DEFAULTS)
        row.update(wires[item.specification_id])
    return list(rows)


def new_row(tenant_id: str, item: NewExecution) -> dict[str, Any]:
    """The columns of an execution to insert."""
    submission = item.submission
    state = item.state
    return {
        **_UNSET,
        **dict(zip(STATE_FIELDS, _STATE_VALUES(state), strict=True)),
        "status": state.status.value,
        "retry_policy": None if state.retry_policy is None else state.retry_policy.to_wire(),
        "execution_id": item.execution_id,
        "tenant_id": tenant_id,
        "specification_id": item.specification_id,
        "runtime": submission.runtime,
        "batch_id": submission.batch_id,
        "batch_index": item.batch_index,
        "batch_input": item.batch_input,
        "flow": submission.batch_id or "",
        "args": list(submission.args),
        "env_vars": dict(submission.env_vars),
        "inputs": dict(submission.inputs),
        "outputs": list(submission.outputs) if submission.outputs is not None else None,
        "user_metadata": dict(submission.user_metadata),
        "timeout_seconds": submission.timeout_seconds,
        "cpus_milli": submission.cpus_milli,
        "memory_mib": submission.memory_mib,
        "priority": submission.priority,
        "queue_rank": -submission.priority,
        "run_key": submission.run_key,
        "fingerprint": item.fingerprint,
        "inputs_due_at_ms": item.inputs_due_at_ms,
        "trace_parent": submission.trace_parent,
        "secrets": dict(submission.secrets) or None,
        "cache": None if submission.cache == Caching.OFF else submission.cache,
    }


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
