"""The bill of an RGrid server in a table of PostgreSQL, a row an attempt, in the columns of FOCUS."""

from __future__ import annotations

import contextlib
import csv
import datetime
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

from rgrid_provider._compat import BaseOperator
from rgrid_provider.hooks.rgrid import RGridHook

DEFAULT_TABLE = "rgrid_cost"
_NUMBERS = ("Cost", "Quantity", "UnitPrice")
_TIMES = ("PeriodStart", "PeriodEnd")
_INTEGERS = frozenset(
    {"x_Attempt", "x_CpuMilliseconds", "x_PeakMemoryMiB", "x_BytesIn", "x_BytesOut", "x_BytesStored"}
)
_OF_DAYS = 'WHERE "x_ChargeDay" BETWEEN %s AND %s AND "BillingAccountId" = %s'
_TYPES = {"Tags": "jsonb", "x_ChargeDay": "date", "x_RowId": "text PRIMARY KEY"}


class RGridCostToPostgresOperator(BaseOperator):
    """Copies the bill of some days into a table, whose rows of those days are replaced in one transaction.

    So a task may run as often as it likes, for any day and in any order: what it has copied before is there
    once, and a reader sees a day's rows of before or after, never a part. Each row is an attempt's; the
    columns are those of the FinOps specification FOCUS (focus.finops.org), and amounts are exact to the
    nano-euro, so ``sum("BilledCost")`` of a day is what the server says of it. The table is made where it is
    missing, and gets columns that a newer server has.

    Args:
        first_day: the first day (UTC) as YYYY-MM-DD; by default the run's logical date, ``{{ ds }}``.
        last_day: the last day, included; by default the first.
        table: the table's name, with its schema's where that is not the connection's first.
        rgrid_conn_id: the RGrid connection, whose tenant's bill it is.
        postgres_conn_id: the PostgreSQL connection.

    Returns:
        How many rows there are of these days.
    """

    template_fields: Sequence[str] = ("first_day", "last_day", "table")
    ui_color = "#e6f2ef"
    operator_extra_links: ClassVar[tuple[Any, ...]] = ()

    def __init__(
        self,
        *,
        first_day: str = "{{ ds }}",
        last_day: str | None = None,
        table: str = DEFAULT_TABLE,
        rgrid_conn_id: str = RGridHook.default_conn_name,
        postgres_conn_id: str = "postgres_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.first_day = first_day
        self.last_day = last_day
        self.table = table
        self.rgrid_conn_id = rgrid_conn_id
        self.postgres_conn_id = postgres_conn_id

    @cached_property
    def hook(self) -> RGridHook:
        """The hook of the RGrid connection."""
        return RGridHook(self.rgrid_conn_id)

    def execute(self, context: Any) -> int:
        """Copy the days.

        Raises:
            ValueError: a day is not one, or the first is after the last.
        """
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        first, last = find_days(self.first_day, self.last_day)
        client = self.hook.client
        tenant_id = client.whoami().tenant_id
        chunks = client.cost_export(since=first.isoformat(), until=last.isoformat())
        head, body = split_head(chunks)
        days = (first, last, tenant_id)
        # the end of the connection's own block commits, an exception in it takes everything back
        with (
            contextlib.closing(PostgresHook(self.postgres_conn_id).get_conn()) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            table = quoted_table(self.table)
            columns = next(csv.reader([head]))
            make_table(cursor, table, columns)
            cursor.execute(f"DELETE FROM {table} {_OF_DAYS}", days)  # noqa: S608 - quoted
            names = ", ".join(map(quoted, columns))
            copy_in(cursor, f"COPY {table} ({names}) FROM STDIN (FORMAT csv)", body)
            cursor.execute(f'SELECT count(*), coalesce(sum("BilledCost"), 0) FROM {table} {_OF_DAYS}', days)  # noqa: S608 - quoted
            rows, euros = cursor.fetchone()
        self.log.info("%s has %d rows of %s to %s, %s EUR together", self.table, rows, first, last, euros)
        return int(rows)


def find_days(first: str, last: str | None) -> tuple[datetime.date, datetime.date]:
    """Read the two days.

    Raises:
        ValueError: one is none, or the first is after the last.
    """
    days = []
    for name, text in (("first_day", first), ("last_day", last or first)):
        try:
            days.append(datetime.date.fromisoformat(text))
        except ValueError:
            raise ValueError(f"{name} is {text!r}; a day is written as YYYY-MM-DD") from None
    if days[0] > days[1]:
        raise ValueError(f"first_day {days[0]} is after last_day {days[1]}")
    return days[0], days[1]


def split_head(chunks: Iterator[bytes]) -> tuple[str, Iterator[bytes]]:
    """The first line of a stream, and what follows it.

    Raises:
        ValueError: it ended before its first line did.
    """
    held = b""
    for chunk in chunks:
        held += chunk
        head, newline, rest = held.partition(b"\n")
        if newline:
            return head.decode(), _chained(rest, chunks)
    raise ValueError("the server's export has no head; is it an RGrid server of this version or later?")


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def quoted(name: str) -> str:
    """An identifier as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def quoted_table(name: str) -> str:
    """A table's name as SQL writes it, with its schema's where it has one.

    >>> quoted_table('finance.rgrid_cost')
    '"finance"."rgrid_cost"'

    Raises:
        ValueError: it is none.
    """
    parts = name.split(".")
    if not 1 <= len(parts) <= 2 or not all(parts) or "\0" in name:
        raise ValueError(f"table is {name!r}; it is a table's name, or schema.table")
    return ".".join(map(quoted, parts))


def column_type(name: str) -> str:
    """The type of a column of FOCUS, or of ours."""
    if name in _TYPES:
        return _TYPES[name]
    if name in _INTEGERS:
        return "bigint"
    if name.endswith(_NUMBERS):
        return "numeric"
    return "timestamptz" if name.endswith(_TIMES) else "text"


def make_table(cursor: Any, table: str, columns: Sequence[str]) -> None:
    """Make the table, or the columns that it lacks; two tasks that do so at once wait for each other."""
    cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"rgrid:{table}",))
    cursor.execute("SELECT to_regclass(%s)", (table,))
    (found,) = cursor.fetchone()
    if found is None:
        defined = ", ".join(f"{quoted(name)} {column_type(name)}" for name in columns)
        cursor.execute(f"CREATE TABLE {table} ({defined})")
        cursor.execute(f'CREATE INDEX ON {table} ("x_ChargeDay", "BillingAccountId")')
        return
    cursor.execute(
        "SELECT attname FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        (table,),
    )
    known = {name for (name,) in cursor.fetchall()}
    for name in columns:
        if name not in known:
            cursor.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {column_type(name)}")


def copy_in(cursor: Any, statement: str, chunks: Iterator[bytes]) -> None:
    """Send the bytes of a COPY as they come; PostgresHook's cursor is psycopg's, or psycopg2's before it."""
    if hasattr(cursor, "copy"):
        with cursor.copy(statement) as copy:
            for chunk in chunks:
                copy.write(chunk)
    else:
        source = _Readable(chunks)
        try:
            cursor.copy_expert(statement, source)
        except Exception:
            if source.error is not None:
                # psycopg2 would say that a query was canceled
                raise source.error from None
            raise


class _Readable:
    """A stream of chunks as a file, which psycopg2 wants."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b""
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes; none at the end."""
        while not self._held:
            try:
                chunk = next(self._chunks, None)
            except Exception as error:
                self.error = error
                raise
            if chunk is None:
                return b""
            self._held = chunk
        cut = len(self._held) if size < 0 else size
        part, self._held = self._held[:cut], self._held[cut:]
        return part
