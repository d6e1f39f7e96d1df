"""Lists of a tenant's executions, newest first, whatever they are filtered by.

Each filter has an index in the order of the answer. The one that matches least drives the query and the
others are looked up for what it finds, so that a filter which matches almost nothing is quick beside one
which matches almost everything. Two that match much and have little in common are still walked through.

The lookup is a subquery for one value. PostgreSQL makes a join of an EXISTS, and chooses its order: for a
statement that it has prepared it does so without looking at the values, and then a status that matches almost
nothing is looked for in every entry of the metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, bindparam, func, literal, select
from sqlalchemy.engine import Connection

from rgrid_server.domain.execution import Status
from rgrid_server.store.database import Row
from rgrid_server.store.executions import LISTED
from rgrid_server.store.prepared import Prepared, all_rows
from rgrid_server.store.tables import executions, metadata_index

MAX_SEQUENCE = 2**62
PROBED_ROWS = 1_000
"""So far filters are compared; counting so many entries of an index takes some 100 µs."""

_ALL = (
    select(*LISTED)
    .where(executions.c.tenant_id == bindparam("tenant_id"), executions.c.sequence < bindparam("before"))
    .order_by(executions.c.sequence.desc())
    .limit(bindparam("max_rows", type_=Integer))
)
_LIST = Prepared(_ALL)
_LIST_BY_STATUS = Prepared(_ALL.where(executions.c.status == bindparam("status")))


def _counted(matching: Select[Any]) -> Prepared:
    return Prepared(select(func.count()).select_from(matching.limit(PROBED_ROWS).subquery()))


_COUNT_OF_VALUE = _counted(
    select(literal(1)).where(
        metadata_index.c.tenant_id == bindparam("tenant_id"),
        metadata_index.c.name == bindparam("name"),
        metadata_index.c.value == bindparam("value"),
        metadata_index.c.sequence < bindparam("before"),
    )
)
_COUNT_OF_STATUS = _counted(
    select(literal(1)).where(
        executions.c.tenant_id == bindparam("tenant_id"),
        executions.c.status == bindparam("status"),
        executions.c.sequence < bindparam("before"),
    )
)


def list_executions(
    connection: Connection,
    tenant_id: str,
    *,
    limit: int,
    before: int | None = None,
    status: Status | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Sequence[Row]:
    """Newest first, those before a sequence number; every name of ``metadata`` has to match."""
    last = MAX_SEQUENCE if before is None else before
    if metadata:
        driver = _narrowest(connection, tenant_id, last, status, metadata)
        return all_rows(connection, _filtered(tenant_id, limit, last, status, metadata, driver))
    if status is None:
        return _LIST.all(connection, tenant_id=tenant_id, before=last, max_rows=limit)
    return _LIST_BY_STATUS.all(
        connection, tenant_id=tenant_id, before=last, max_rows=limit, status=status.value
    )


def _narrowest(
    connection: Connection, tenant_id: str, before: int, status: Status | None, metadata: Mapping[str, str]
) -> str | None:
    """The name of the metadata filter that matches least, None where the status does."""
    if status is None and len(metadata) == 1:
        return next(iter(metadata))
    counts: dict[str | None, int] = {
        name: _COUNT_OF_VALUE.scalar(connection, tenant_id=tenant_id, name=name, value=value, before=before)
        for name, value in metadata.items()
    }
    if status is not None:
        counts[None] = _COUNT_OF_STATUS.scalar(
            connection, tenant_id=tenant_id, status=status.value, before=before
        )
    return min(counts, key=lambda name: counts[name])


def _filtered(
    tenant_id: str,
    limit: int,
    before: int,
    status: Status | None,
    metadata: Mapping[str, str],
    driver: str | None,
) -> Select[Any]:
    matching: list[ColumnElement[bool]] = [
        _has_value(tenant_id, name, value) for name, value in metadata.items() if name != driver
    ]
    if status is not None:
        matching.append(executions.c.status == status.value)
    if driver is None:
        matching += [executions.c.tenant_id == tenant_id, executions.c.sequence < before]
        return select(*LISTED).where(*matching).order_by(executions.c.sequence.desc()).limit(limit)
    index = metadata_index.c
    return (
        select(*LISTED)
        .join_from(metadata_index, executions, executions.c.sequence == index.sequence)
        .where(
            index.tenant_id == tenant_id,
            index.name == driver,
            index.value == metadata[driver],
            index.sequence < before,
            *matching,
        )
        .order_by(index.sequence.desc())
        .limit(limit)
    )


def _has_value(tenant_id: str, name: str, value: str) -> ColumnElement[bool]:
    """Whether an execution has a value; looked up for each that the rest of the query has found."""
    other = metadata_index.alias()
    return (
        select(other.c.sequence)
        .where(
            other.c.tenant_id == tenant_id,
            other.c.name == name,
            other.c.value == value,
            other.c.sequence == executions.c.sequence,
        )
        .scalar_subquery()
        .is_not(None)
    )
