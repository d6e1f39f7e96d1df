"""RGridCostToPostgresOperator: from a real server into a real PostgreSQL, on psycopg2 and on psycopg."""

from __future__ import annotations

import datetime
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.operators.rgrid import RGridRunOperator
from rgrid_provider.transfers.rgrid_to_postgres import RGridCostToPostgresOperator, quoted_table
from tests.postgres import PostgresCluster, airflow_connection

ContextOf = Callable[..., dict[str, Any]]


@pytest.fixture
def warehouse(
    postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection[Any]]:
    """A fresh database, which the connection ``postgres_default`` names."""
    url = postgres.create_database()
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_DEFAULT", airflow_connection(url))
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def copy(**options: Any) -> int:
    """Run the operator for a day."""
    options = {"first_day": today(), **options}
    return RGridCostToPostgresOperator(task_id="bill", **options).execute({})


def spend(context_of: ContextOf, script: str = "print(1)") -> None:
    """Run something that costs."""
    operator = RGridRunOperator(
        task_id="spender", script=script, owner="ann", user_metadata={"team": 'r"e,d\n'}, deferrable=False
    )
    operator.execute(context_of(operator))


def test_a_days_rows_come_once_however_often_they_are_copied(
    context_of: ContextOf, warehouse: psycopg.Connection[Any]
) -> None:
    spend(context_of, "sum(range(10**6))")
    first = copy()
    spend(context_of)
    assert copy() == copy() == first + 1
    rows, euros, ids = warehouse.execute(
        'SELECT count(*), sum("BilledCost"), count(DISTINCT "x_RowId") FROM rgrid_cost'
    ).fetchone()
    assert (rows, ids) == (first + 1, first + 1)
    said = RGridHook().client.cost(days=1).total_cost_micros
    assert abs(euros * 1_000_000 - said) <= Decimal("0.5")


def test_columns_have_types_and_tags_are_json(
    context_of: ContextOf, warehouse: psycopg.Connection[Any]
) -> None:
    spend(context_of)
    copy()
    row = warehouse.execute(
        """
        SELECT "x_DagId", "x_TaskId", "x_Owner", "Tags" ->> 'team',
               "ChargePeriodEnd" > now() - interval '1 h', "BillingCurrency", "x_ChargeDay"
        FROM rgrid_cost WHERE "x_TaskId" = 'spender' LIMIT 1
        """
    ).fetchone()
    assert row[:6] == ("tests", "spender", "ann", 'r"e,d\n', True, "EUR")
    assert row[6].isoformat() == today()


def test_other_days_and_other_tenants_are_left_alone(
    context_of: ContextOf, warehouse: psycopg.Connection[Any]
) -> None:
    spend(context_of)
    copy()
    before = warehouse.execute("SELECT count(*) FROM rgrid_cost").fetchone()
    warehouse.execute(
        """
        INSERT INTO rgrid_cost ("x_RowId", "x_ChargeDay", "BillingAccountId") VALUES
        ('a', current_date, 'another'),
        ('b', '2020-01-01', (SELECT min("BillingAccountId") FROM rgrid_cost))
        """
    )
    copy()
    assert warehouse.execute("SELECT count(*) FROM rgrid_cost").fetchone() == (before[0] + 2,)
    assert copy(first_day="2020-01-01") == 0
    assert warehouse.execute("SELECT count(*) FROM rgrid_cost").fetchone() == (before[0] + 1,)


def test_a_copy_that_fails_leaves_what_was_there(
    context_of: ContextOf, warehouse: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spend(context_of)
    there = copy()

    def cut(self: Any, **_options: Any) -> Iterator[bytes]:
        chunks = whole(self, **_options)
        yield next(chunks)
        raise ConnectionError("the line went dead")

    client = type(RGridHook().client)
    whole = client.cost_export
    monkeypatch.setattr(client, "cost_export", cut)
    with pytest.raises(ConnectionError):
        copy()
    assert warehouse.execute("SELECT count(*) FROM rgrid_cost").fetchone() == (there,)


def test_several_at_once_and_a_table_in_a_schema(
    context_of: ContextOf, warehouse: psycopg.Connection[Any]
) -> None:
    spend(context_of)
    warehouse.execute("CREATE SCHEMA finance")
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as workers:
        waiting = [workers.submit(copy, table="finance.Grid cost") for _ in range(4)]
        counts = [one.result(timeout=60) for one in waiting]
    assert len(counts) == 4
    assert set(counts) == {warehouse.execute('SELECT count(*) FROM finance."Grid cost"').fetchone()[0]}


def test_a_table_of_an_older_version_gets_the_columns_that_it_lacks(
    context_of: ContextOf, warehouse: psycopg.Connection[Any]
) -> None:
    spend(context_of)
    copy()
    warehouse.execute('ALTER TABLE rgrid_cost DROP COLUMN "x_PeakMemoryMiB"')
    copy()
    assert warehouse.execute('SELECT min("x_PeakMemoryMiB") FROM rgrid_cost').fetchone()[0] >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_day": "yesterday"}, "first_day is 'yesterday'"),
        ({"first_day": "2026-02-02", "last_day": "2026-02-01"}, "is after last_day"),
        ({"table": "a.b.c"}, "table is 'a.b.c'"),
        ({"table": ""}, "table is ''"),
    ],
)
def test_what_is_wrong_is_named(
    warehouse: psycopg.Connection[Any], server: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        copy(**options)
    assert warehouse.execute("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'rgrid%'").fetchone() == (
        0,
    )


def test_names_are_quoted() -> None:
    assert quoted_table('x"; DROP TABLE y') == '"x""; DROP TABLE y"'
