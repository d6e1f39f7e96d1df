"""Usage, charges and the rollups of them that are kept in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from sqlalchemy import Integer, Table, bindparam, delete, func, insert, select, tuple_
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ClauseElement

from rgrid_server.domain.prices import Price
from rgrid_server.store.database import Row
from rgrid_server.store.prepared import Prepared, Upsert, all_rows
from rgrid_server.store.tables import charges, prices, spend_daily, spend_monthly, usages

DIMENSIONS = ("dag_id", "task_id", "owner", "runtime")
"""What the daily rollup can be cut by, beside the day."""


_INSERT_USAGE = Prepared(insert(usages), [column.name for column in usages.c])
_INSERT_CHARGE = Prepared(insert(charges), [column.name for column in charges.c])
_INSERT_PRICE = Prepared(
    lambda insert: insert(prices).on_conflict_do_nothing(index_elements=["price_id"]),
    [column.name for column in prices.c],
)
_MONTH_NANOS = Prepared(
    select(spend_monthly.c.nanos).where(
        spend_monthly.c.tenant_id == bindparam("tenant_id"), spend_monthly.c.month == bindparam("month")
    )
)


def insert_usage(connection: Connection, values: dict[str, Any]) -> None:
    """Keep an attempt's usage; the database refuses a second one."""
    _INSERT_USAGE.run(connection, **values)


def insert_charge(connection: Connection, values: dict[str, Any]) -> None:
    """Keep an attempt's charge; the database refuses a second one."""
    _INSERT_CHARGE.run(connection, **values)


def add_to_rollups(
    connection: Connection,
    key: dict[str, str],
    *,
    executions: int = 0,
    failed: int = 0,
    compute_ms: int = 0,
    nanos: int = 0,
) -> None:
    """Add to a day's row, and to the month's, where ``key`` has tenant_id, day and every dimension."""
    _add(
        connection,
        spend_daily,
        key,
        {"executions": executions, "failed": failed, "compute_ms": compute_ms, "nanos": nanos},
    )
    if nanos:
        month = {"tenant_id": key["tenant_id"], "month": key["day"][:7]}
        _add(connection, spend_monthly, month, {"nanos": nanos})


def month_nanos(connection: Connection, tenant_id: str, month: str) -> int:
    """What a tenant has spent in a month (YYYY-MM)."""
    return int(_MONTH_NANOS.scalar(connection, tenant_id=tenant_id, month=month) or 0)


def sum_daily(
    connection: Connection,
    tenant_id: str,
    columns: Sequence[str],
    *,
    first_day: str,
    last_day: str,
    filters: dict[str, str] | None = None,
) -> Sequence[Row]:
    """Sums of the rollup over days from first to last, grouped by ``day`` and any of DIMENSIONS."""
    filters = filters or {}
    summing = _summing(tuple(columns), tuple(filters))
    wanted = {f"only_{name}": value for name, value in filters.items()}
    return summing.all(connection, tenant_id=tenant_id, first_day=first_day, last_day=last_day, **wanted)


@cache
def _summing(columns: tuple[str, ...], filters: tuple[str, ...]) -> Prepared:
    table = spend_daily.c
    query = (
        select(
            *[table[name] for name in columns],
            func.sum(table.executions).label("executions"),
            func.sum(table.failed).label("failed"),
            func.sum(table.compute_ms).label("compute_ms"),
            func.sum(table.nanos).label("nanos"),
        )
        .where(
            table.tenant_id == bindparam("tenant_id"),
            table.day >= bindparam("first_day"),
            table.day <= bindparam("last_day"),
        )
        .group_by(*[table[name] for name in columns])
    )
    for name in filters:
        query = query.where(table[name] == bindparam(f"only_{name}"))
    return Prepared(query)


_CHARGED = usages.outerjoin(
    charges, (charges.c.execution_id == usages.c.execution_id) & (charges.c.attempt == usages.c.attempt)
)
_NANOS = func.coalesce(charges.c.nanos, 0).label("nanos")


def usages_between(connection: Connection, tenant_id: str, *, first_day: str, last_day: str) -> Sequence[Row]:
    """Every attempt's usage with its charge, for cuts that the rollup does not have."""
    query = (
        select(
            usages.c.execution_id,
            usages.c.attempt,
            usages.c.day,
            usages.c.is_final,
            usages.c.is_failed,
            usages.c.duration_ms,
            usages.c.batch_id,
            usages.c.dag_id,
            usages.c.run_id,
            usages.c.task_id,
            usages.c.owner,
            usages.c.runtime,
            usages.c.user_metadata,
            _NANOS,
        )
        .select_from(_CHARGED)
        .where(usages.c.tenant_id == tenant_id, usages.c.day >= first_day, usages.c.day <= last_day)
    )
    return all_rows(connection, query)


_BILL_KEY = (usages.c.day, usages.c.execution_id, usages.c.attempt)
_BILL = Prepared(
    select(usages, charges.c.price_id, _NANOS)
    .select_from(_CHARGED)
    .where(
        usages.c.tenant_id == bindparam("tenant_id"),
        usages.c.day <= bindparam("last_day"),
        tuple_(*_BILL_KEY)
        > tuple_(
            bindparam("after_day"), bindparam("after_execution_id"), bindparam("after_attempt", type_=Integer)
        ),
    )
    .order_by(*_BILL_KEY)
    .limit(bindparam("max_rows", type_=Integer))
)

BillPosition = tuple[str, str, int]
"""The day, the execution and the attempt of a row of the bill."""


def bill_page(
    connection: Connection, tenant_id: str, *, after: BillPosition, last_day: str, max_rows: int
) -> Sequence[Row]:
    """Usages with their charges, in the bill's order, from behind a position up to a day."""
    day, execution_id, attempt = after
    return _BILL.all(
        connection,
        tenant_id=tenant_id,
        last_day=last_day,
        after_day=day,
        after_execution_id=execution_id,
        after_attempt=attempt,
        max_rows=max_rows,
    )


def load_prices(connection: Connection) -> list[Price]:
    """The price book, oldest first."""
    rows = all_rows(connection, select(prices).order_by(prices.c.effective_from_ms))
    return [Price(**row) for row in rows]


def insert_prices(connection: Connection, book: Sequence[Price]) -> None:
    """Add entries to the price book; one with a known id is left as it stands."""
    _INSERT_PRICE.run_many(connection, [asdict(price) for price in book])


def put_prices(connection: Connection, changed: Sequence[Price]) -> None:
    """Write entries of the price book, each in the place of the one that has its id."""
    if changed:
        # first all of them are taken away: two may exchange the times from which they hold
        ids = [price.price_id for price in changed]
        connection.execute(delete(prices).where(prices.c.price_id.in_(ids)))
        insert_prices(connection, changed)


def _add(connection: Connection, table: Table, key: dict[str, str], amounts: dict[str, int]) -> None:
    _adding(table, tuple(amounts)).run(connection, **key, **amounts)


@cache
def _adding(table: Table, amounts: tuple[str, ...]) -> Prepared:
    key = [column.name for column in table.primary_key]

    def upsert(insert: Upsert) -> ClauseElement:
        adding = insert(table)
        return adding.on_conflict_do_update(
            index_elements=key,
            set_={name: table.c[name] + adding.excluded[name] for name in amounts},
        )

    return Prepared(upsert, [*key, *amounts])
