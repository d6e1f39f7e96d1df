"""All rows of a database into another one, whichever kind each is, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import JSON, Column, Insert, Select, Table, Text, bindparam, cast, insert, select, table, text
from sqlalchemy import column as plain_column
from sqlalchemy.engine import Connection

from rgrid_server.store.tables import metadata

ROWS_AT_ONCE = 32
"""A row of a log holds up to a MiB."""


def copy_rows(source: Connection, target: Connection) -> int:
    """Copy every row; both have this version's schema, and the target's tables are empty. Returns how many.

    The source's isolation is the caller's to choose; the target's transaction is the caller's to end.
    """
    copied = 0
    for one in metadata.sorted_tables:
        statement = _insert_into(one, target.dialect.name)
        for rows in _rows_of(source, one):
            target.execute(statement, rows)
            copied += len(rows)
    if target.dialect.name == "postgresql":
        _go_on_numbering(target)
    return copied


def is_empty(connection: Connection) -> bool:
    """Whether no table has a row."""
    return not any(
        connection.execute(select(text("1")).select_from(one).limit(1)).first()
        for one in metadata.sorted_tables
    )


def _rows_of(source: Connection, one: Table) -> Iterator[list[dict[str, Any]]]:
    # JSON travels as its text, so that a null inside it and a column without a value stay two things
    query: Select[Any] = select(
        *(cast(column, Text).label(column.name) if _is_json(column) else column for column in one.c)
    ).order_by(*one.primary_key)
    streamed = source.execution_options(stream_results=True, yield_per=ROWS_AT_ONCE)
    for part in streamed.execute(query).mappings().partitions():
        yield [dict(row) for row in part]


def _insert_into(one: Table, dialect: str) -> Insert:
    if dialect == "postgresql":
        values = {
            column.name: cast(bindparam(column.name, type_=Text()), JSON)
            if _is_json(column)
            else bindparam(column.name, type_=column.type)
            for column in one.c
        }
        return insert(one).values(values)
    as_text = table(
        one.name,
        *(plain_column(column.name, Text() if _is_json(column) else column.type) for column in one.c),
    )
    return insert(as_text).values({column.name: bindparam(column.name) for column in as_text.c})


def _is_json(column: Column[Any]) -> bool:
    return isinstance(column.type, JSON)


def _go_on_numbering(target: Connection) -> None:
    """Let PostgreSQL number new rows behind the copied ones."""
    for one in metadata.sorted_tables:
        (key, *others) = one.primary_key
        if not others and key.autoincrement is True:
            target.execute(
                text(
                    "SELECT setval(serial, greatest(1, (SELECT coalesce(max(sequence), 0) FROM "  # noqa: S608
                    f'"{one.name}"))) FROM pg_get_serial_sequence(:name, :key) AS serial '
                    "WHERE serial IS NOT NULL"
                ),
                {"name": one.name, "key": key.name},
            )
