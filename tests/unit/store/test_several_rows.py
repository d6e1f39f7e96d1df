"""Rows that are inserted several at a time are those that were given, in their order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import JSON, Boolean, Column, Integer, MetaData, String, Table, create_engine, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import StaticPool

from rgrid_server.store.prepared import Prepared, all_rows
from rgrid_server.store.severalrows import MAX_FORMS, ROWS_AT_ONCE, SeveralRows

NAMES = ("name", "number", "flag", "labels")
THINGS = Table(
    "things",
    MetaData(),
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("name", String, unique=True),
    Column("number", Integer),
    Column("flag", Boolean),
    Column("labels", JSON),
    Column("other", String),
)
VALUES = st.tuples(
    st.one_of(st.none(), st.integers(0, 2)),
    st.one_of(st.none(), st.booleans()),
    st.one_of(st.none(), st.just({}), st.just([]), st.dictionaries(st.text(max_size=2), st.integers())),
)


@given(
    rows=st.lists(VALUES, max_size=3 * max(ROWS_AT_ONCE)),
    is_one=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    shared=st.sampled_from([{}, {"other": "x"}]),
)
def test_they_are_what_was_given(
    rows: list[tuple[object, ...]], is_one: tuple[bool, ...], shared: dict[str, object]
) -> None:
    # columns that are alike in all rows, and such that are not
    given_rows = [
        (f"name {at}", *(rows[0][place] if same else row[place] for place, same in enumerate(is_one)))
        for at, row in enumerate(rows)
    ]
    engine = create_engine("sqlite://", poolclass=StaticPool)
    THINGS.create(engine)
    statement = Prepared(insert(THINGS), [*NAMES, *shared])
    with engine.connect() as connection:
        statement.run_alike(connection, shared, NAMES, given_rows)
        stored = all_rows(connection, select(THINGS).order_by(THINGS.c.sequence))
    assert [tuple(row[name] for name in NAMES) for row in stored] == given_rows
    assert [row["sequence"] for row in stored] == [at + 1 for at in range(len(rows))]
    assert {row["other"] for row in stored} <= {shared.get("other")}


@pytest.mark.parametrize("count", [2, 4, 5, 16, 40])
def test_one_that_cannot_be_is_an_error_of_the_database(count: int) -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    THINGS.create(engine)
    statement = Prepared(insert(THINGS), ["name", "number"])
    rows = [(f"name {at % (count - 1)}", at) for at in range(count)]
    with engine.connect() as connection, pytest.raises(IntegrityError):
        statement.run_alike(connection, {}, ("name", "number"), rows)


def test_a_statement_of_another_form_is_left_as_it_is() -> None:
    assert SeveralRows.of("INSERT INTO t (a) VALUES (?) ON CONFLICT DO NOTHING", 1) is None
    assert SeveralRows.of("UPDATE t SET a = ?", 1) is None


def test_a_statement_has_only_so_many_forms() -> None:
    parameters = MAX_FORMS + 1
    several = SeveralRows.of(f"INSERT INTO t VALUES ({', '.join('?' * parameters)})", parameters)
    assert several is not None
    forms = [several.sql(4, (at,)) for at in range(parameters)]
    assert None not in forms[:MAX_FORMS]
    assert forms[MAX_FORMS] is None
    assert several.sql(4, (0,)) == forms[0]
