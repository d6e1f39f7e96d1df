"""The rules of rounding: nothing is lost, and the parts sum to the total."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.domain import money

nanos = st.integers(min_value=-(10**15), max_value=10**15)


@pytest.mark.parametrize(
    ("numerator", "denominator", "expected"),
    [
        (0, 1, 0),
        (499, 1000, 0),
        (500, 1000, 0),
        (501, 1000, 1),
        (1500, 1000, 2),
        (2500, 1000, 2),
        (-1500, 1000, -2),
    ],
)
def test_division_rounds_to_the_nearest_and_ties_to_even(
    numerator: int, denominator: int, expected: int
) -> None:
    assert money.divide_half_even(numerator, denominator) == expected


@given(nanos, st.integers(min_value=1, max_value=10**9))
def test_division_is_never_off_by_more_than_half(numerator: int, denominator: int) -> None:
    quotient = money.divide_half_even(numerator, denominator)
    assert abs(2 * (numerator - quotient * denominator)) <= denominator


@given(nanos, st.lists(st.integers(min_value=0, max_value=10**9), min_size=1))
def test_apportioned_parts_sum_to_the_total_and_stay_within_one_of_their_share(
    total: int, weights: list[int]
) -> None:
    parts = money.apportion(total, weights)
    assert sum(parts) == total
    whole = sum(weights)
    if whole:
        for part, weight in zip(parts, weights, strict=True):
            assert abs(part * whole - total * weight) < whole


@given(st.lists(nanos))
def test_rounded_parts_sum_to_the_rounded_total(parts: list[int]) -> None:
    micros = money.round_parts_to_micros(parts)
    assert sum(micros) == money.nanos_to_micros(sum(parts))
    assert all(abs(m * 1000 - n) < 1000 for m, n in zip(micros, parts, strict=True))


def test_apportioning_to_nobody_is_refused_and_nothing_to_nobody_is_nothing() -> None:
    assert money.apportion(0, []) == []
    with pytest.raises(ValueError, match="nothing to apportion to"):
        money.apportion(1, [])


def test_euros_as_written_become_micros() -> None:
    assert money.euros_to_micros(Decimal("10")) == 10_000_000
    assert money.euros_to_micros(Decimal("0.0000005")) == 0


@given(st.integers(min_value=-(10**12), max_value=10**12))
def test_a_displayed_amount_reads_back_to_the_same_micros(micros: int) -> None:
    shown = money.display_euros(micros)
    assert money.euros_to_micros(Decimal(shown.replace("€", ""))) == micros
