"""Money: integers of nano-euro inside, micro-euro on the wire, rounding in this module only.

One euro is 10^9 nano-euro and 10^6 micro-euro. Amounts are added in nanos and rounded once, when they
leave; parts of a total are rounded together by the largest-remainder rule (Hamilton's method), so that on
every page and in every export the parts sum to the total.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal

NANOS_PER_MICRO = 1_000
MICROS_PER_EURO = 1_000_000
NANOS_PER_EURO = NANOS_PER_MICRO * MICROS_PER_EURO


def divide_half_even(numerator: int, denominator: int) -> int:
    """Divide integers, rounding to the nearest, a tie to the even neighbour (IEEE 754's default).

    >>> [divide_half_even(n, 2) for n in (1, 3, 5, -1, -3)]
    [0, 2, 2, 0, -2]
    """
    if denominator <= 0:
        raise ValueError(f"denominator must be positive, not {denominator}")
    quotient, remainder = divmod(numerator, denominator)
    doubled = 2 * remainder
    if doubled > denominator or (doubled == denominator and quotient % 2 == 1):
        quotient += 1
    return quotient


def nanos_to_micros(nanos: int) -> int:
    """Round an amount of nano-euro to micro-euro; call it once, on a sum."""
    return divide_half_even(nanos, NANOS_PER_MICRO)


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Split an integer ``total`` in proportion to non-negative ``weights``; the parts sum to ``total``.

    Each part is its exact share rounded down, and the units left over go to the largest remainders, ties to
    the earlier part. With no weight at all everything goes to the first part.

    >>> apportion(100, [1, 1, 1])
    [34, 33, 33]
    """
    if not weights:
        if total:
            raise ValueError("nothing to apportion to")
        return []
    if any(weight < 0 for weight in weights):
        raise ValueError("weights must not be negative")
    sum_of_weights = sum(weights)
    if sum_of_weights == 0:
        return [total, *[0] * (len(weights) - 1)]
    sign = -1 if total < 0 else 1
    shares = [divmod(abs(total) * weight, sum_of_weights) for weight in weights]
    parts = [whole for whole, _ in shares]
    left_over = abs(total) - sum(parts)
    by_remainder = sorted(range(len(weights)), key=lambda i: (-shares[i][1], i))
    for i in by_remainder[:left_over]:
        parts[i] += 1
    return [sign * part for part in parts]


def round_parts_to_micros(parts_nanos: Sequence[int]) -> list[int]:
    """Round parts of a statement from nanos to micros so that they sum to the rounded total.

    The largest-remainder rule on the parts' own fractions: no part moves by a whole micro or more.

    >>> round_parts_to_micros([600, 600, 600])
    [1, 1, 0]
    """
    total_micros = nanos_to_micros(sum(parts_nanos))
    floors_and_remainders = [divmod(nanos, NANOS_PER_MICRO) for nanos in parts_nanos]
    micros = [floor for floor, _ in floors_and_remainders]
    left_over = total_micros - sum(micros)
    by_remainder = sorted(range(len(micros)), key=lambda i: (-floors_and_remainders[i][1], i))
    for i in by_remainder[:left_over]:
        micros[i] += 1
    return micros


def euros_to_micros(euros: Decimal) -> int:
    """Convert euros, as a person writes them, to micro-euro; finer fractions are rounded half to even."""
    return int((euros * MICROS_PER_EURO).to_integral_value(rounding=ROUND_HALF_EVEN))


def display_euros(micros: int) -> str:
    """Show an amount: two decimals, or all six where two would show a non-zero amount wrongly.

    >>> display_euros(10_000_000), display_euros(0), display_euros(35), display_euros(-1_234_567)
    ('€10.00', '€0.00', '€0.000035', '-€1.234567')
    """
    sign = "-" if micros < 0 else ""
    euros, fraction = divmod(abs(micros), MICROS_PER_EURO)
    digits = f"{fraction:06d}"
    if digits.endswith("0000"):
        digits = digits[:2]
    return f"{sign}€{euros}.{digits}"
