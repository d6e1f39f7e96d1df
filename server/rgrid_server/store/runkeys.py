"""Who holds a run key: the one execution, and the one batch, that has it and is not acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, FromClause, Select, and_
from sqlalchemy.engine import Connection

from rgrid_server.store.database import Row
from rgrid_server.store.prepared import all_rows


def is_held(table: FromClause) -> ColumnElement[bool]:
    """Whether a row of executions or batches holds its run key, as their unique indexes say."""
    return and_(table.c.run_key.is_not(None), table.c.acknowledged_at_ms.is_(None))


def look_up(
    connection: Connection,
    query: Select[Any],
    key: Column[Any],
    tenant_id: str,
    ids: Sequence[str],
    run_keys: Sequence[str],
) -> Sequence[Row]:
    """Rows of those of the ids that there are, and of what holds one of the run keys.

    Args:
        connection: an open connection.
        query: selects what is wanted of each row.
        key: the column of the ids, of the table that is looked into.
        tenant_id: whose rows they are.
        ids: any number of them, in any order.
        run_keys: none or more.
    """
    table = key.table
    query = query.where(table.c.tenant_id == tenant_id)
    found = all_rows(connection, query.where(key.in_(ids)))
    if not run_keys:
        return found
    return [*found, *all_rows(connection, query.where(table.c.run_key.in_(run_keys), is_held(table)))]
