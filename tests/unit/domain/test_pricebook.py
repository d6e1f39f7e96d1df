"""What may be added to the price book, and what never changes."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.domain.pricebook import (
    ENGINES,
    MAX_NANOS,
    NOTICE_MS,
    READ_AGAIN_MS,
    PricesInvalid,
    changes_to,
    read_prices,
    shown_time,
)
from rgrid_server.domain.prices import DEFAULT_PRICES, Price, price_at

GOOD = """
[[price]]
price_id = "2027"
engine = "local"
effective_from = 2027-01-01
nanos_per_vcpu_hour = 2_500_000
nanos_per_gib_hour = 600_000
"""
AT_2027 = 1_798_761_600_000
NOW = 1_000_000_000


def test_a_document_is_read_as_its_prices() -> None:
    later = GOOD.replace("2027-01-01", "2027-02-01T00:00:00.25+01:00").replace('"2027"', '"2027.2"')
    first, second = read_prices(tomllib.loads(GOOD + later))
    assert first == Price("2027", "local", AT_2027, 2_500_000, 600_000)
    at_ms = AT_2027 + 30 * 86_400_000 + 82_800_250
    assert second == replace(first, price_id="2027.2", effective_from_ms=at_ms)
    assert [shown_time(one.effective_from_ms) for one in (first, second)] == [
        "2027-01-01",
        "2027-01-31T23:00:00.250Z",
    ]


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        (GOOD, "", "there is no price"),
        (GOOD, "price = []", "there is no price"),
        (GOOD, "price = [1]", "price 1: it is no table"),
        ("[[price]]", "[[prices]]", "'prices' is no part of a price book"),
        ('engine = "local"\n', "", "price 1: engine is missing"),
        (
            'engine = "local"',
            'engine = "local"\ncurrency = "USD"',
            "'currency' is no field; there is",
        ),
        ('"local"', '"lokal"', "price 1: engine is 'lokal'; there is local and ray"),
        ('"local"', "[]", "price 1: engine is []; there is"),
        ('"2027"', '""', "price 1: price_id is ''"),
        ('"2027"', "2027", "price 1: price_id is 2027; write at most 64 letters"),
        ('"2027"', f'"{"a" * 65}"', "price 1: price_id is 'aaa"),
        ("2027-01-01", "2027-01-01T00:00:00", "effective_from is 2027-01-01 00:00:00; write a date"),
        ("2027-01-01", '"2027-01-01"', "effective_from is '2027-01-01'; write a date"),
        ("2027-01-01", "00:00:00", "effective_from is"),
        ("2_500_000", "2.5", "nanos_per_vcpu_hour is 2.5; write a whole number of nano-euro"),
        ("2_500_000", "true", "nanos_per_vcpu_hour is True"),
        ("600_000", "-1", "nanos_per_gib_hour is -1"),
        ("600_000", str(MAX_NANOS + 1), f"nanos_per_gib_hour is {MAX_NANOS + 1}"),
    ],
)
def test_a_document_that_is_not_as_it_should_be_is_refused_by_name(
    written: str, instead: str, said: str
) -> None:
    with pytest.raises(PricesInvalid) as raised:
        read_prices(tomllib.loads(GOOD.replace(written, instead)))
    assert said in str(raised.value)


def test_every_problem_of_a_document_is_told_at_once() -> None:
    with pytest.raises(PricesInvalid) as raised:
        read_prices(tomllib.loads(GOOD.replace("local", "x") + GOOD.replace("600_000", "1.5")))
    assert [problem[:8] for problem in raised.value.problems] == ["price 1:", "price 2:"]


def entry(price_id: str, at_ms: int, nanos: int = 1, engine: str = "local") -> Price:
    return Price(price_id, engine, at_ms, nanos, nanos)


BOOK = [*DEFAULT_PRICES, entry("now", NOW - 5), entry("soon", NOW + 5), entry("later", NOW + 2 * NOTICE_MS)]
EARLIEST = NOW + NOTICE_MS


@pytest.mark.parametrize(
    ("wanted", "changed"),
    [
        ([], []),
        ([entry("new", EARLIEST)], ["new"]),
        ([entry("now", NOW - 5), entry("new", EARLIEST)], ["new"]),
        ([entry("later", NOW + 2 * NOTICE_MS)], []),
        ([entry("later", NOW + 2 * NOTICE_MS, 7)], ["later"]),
        ([entry("later", EARLIEST)], ["later"]),
        ([entry("new", NOW + 2 * NOTICE_MS), entry("later", EARLIEST)], ["new", "later"]),
        ([entry("new", NOW + 2 * NOTICE_MS, engine="ray")], ["new"]),
    ],
)
def test_what_is_new_and_what_does_not_hold_yet_is_written(wanted: list[Price], changed: list[str]) -> None:
    assert [price.price_id for price in changes_to(BOOK, wanted, NOW)] == changed


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            [entry("now", NOW - 5, 2)],
            "now: this price holds from 1970-01-12T13:46:39.995Z, and what",
        ),
        ([entry("default-2025", 0)], "default-2025: this price holds from 1970-01-01"),
        ([entry("soon", EARLIEST)], "soon: this price holds from"),
        (
            [entry("new", EARLIEST - 1)],
            "new: effective_from is 1970-01-12T13:47:39.999Z, and it is 1970-",
        ),
        ([entry("new", 5)], "a price holds a minute after it was loaded at the earliest"),
        ([entry("later", NOW)], "later: effective_from is"),
        ([entry("new", NOW + 2 * NOTICE_MS)], "later and new would both hold for local from"),
        ([entry("new", EARLIEST), entry("new", EARLIEST + 1)], "new: there are two of this price_id"),
    ],
)
def test_what_would_change_a_price_that_holds_is_refused(wanted: list[Price], said: str) -> None:
    with pytest.raises(PricesInvalid) as raised:
        changes_to(BOOK, wanted, NOW)
    assert said in str(raised.value)


def test_every_server_has_read_a_price_before_it_holds() -> None:
    assert READ_AGAIN_MS < NOTICE_MS


TIMES = st.integers(NOW - 3, NOW + NOTICE_MS + 3) | st.integers(NOW + NOTICE_MS - 3, NOW + 3 * NOTICE_MS)
PRICES = st.builds(
    Price,
    st.sampled_from("abcdef"),
    st.sampled_from(ENGINES),
    TIMES,
    st.integers(0, 3),
    st.integers(0, 3),
)


@given(st.lists(st.tuples(TIMES, st.lists(PRICES, max_size=4)), max_size=8), st.sampled_from(ENGINES), TIMES)
def test_no_sequence_of_loads_changes_what_a_time_costs_once_it_has_come_near(
    loads: list[tuple[int, list[Price]]], engine: str, asked_ms: int
) -> None:
    book = {price.price_id: price for price in DEFAULT_PRICES}
    fixed: Price | None = None
    for now, wanted in sorted(loads, key=lambda load: load[0]):
        if fixed is None and asked_ms < now + NOTICE_MS:
            fixed = price_at(list(book.values()), engine, asked_ms)
        try:
            changed = changes_to(list(book.values()), wanted, now)
        except PricesInvalid:
            continue
        book.update((price.price_id, price) for price in changed)
        # loading the same again changes nothing
        assert changes_to(list(book.values()), wanted, now) == []
        keys = [(price.engine, price.effective_from_ms) for price in book.values()]
        assert len(set(keys)) == len(keys)
        if fixed is not None:
            assert price_at(list(book.values()), engine, asked_ms) == fixed
