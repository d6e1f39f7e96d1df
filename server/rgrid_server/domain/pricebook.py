"""What may be added to a price book: entries of a file, and how they stand to those that are there.

What is in force, has been, or will be within a minute never changes. So every server has read a new entry
before it holds (:data:`READ_AGAIN_MS`), and whatever was claimed is charged as it would have been.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import TypeVar

from rgrid_server.domain.prices import Price

T = TypeVar("T")

ENGINES = ("local", "ray")
NOTICE_MS = 60_000
"""A price holds so long after it was loaded at the earliest."""
READ_AGAIN_MS = 30_000
"""A server reads the book again when it is older; what is left of the notice is for clocks that differ."""
MAX_NANOS = 10**12
"""A thousand euros an hour: what is more is a price in another unit."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_NANOS = ("nanos_per_vcpu_hour", "nanos_per_gib_hour")
_FIELDS = ("price_id", "engine", "effective_from", *_NANOS)


class PricesInvalid(Exception):
    """Prices that cannot be taken; one message says each reason and the way out."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def read_prices(document: Mapping[str, object]) -> list[Price]:
    """The entries of a document: a list ``price`` of tables with the fields of :class:`Price`.

    ``effective_from`` is a date, from midnight UTC on, or a time with its offset.

    Raises:
        PricesInvalid: they are not written as they are to be.
    """
    tables = document.get("price")
    unknown = [name for name in document if name != "price"]
    if unknown:
        raise PricesInvalid([f"{unknown[0]!r} is no part of a price book; write [[price]] before each price"])
    if not isinstance(tables, list) or not tables:
        raise PricesInvalid(["there is no price; write [[price]] and its fields below"])
    problems: list[str] = []
    found: list[Price] = []
    for number, table in enumerate(tables, 1):
        why = _problems_of(table)
        problems += [f"price {number}: {one}" for one in why]
        if not why and (at_ms := _at_ms(table["effective_from"])) is not None:
            nanos = (table[name] for name in _NANOS)
            found.append(Price(table["price_id"], table["engine"], at_ms, *nanos))
    if problems:
        raise PricesInvalid(problems)
    return found


def changes_to(book: Sequence[Price], wanted: Sequence[Price], now_ms: int) -> list[Price]:
    """Which of some prices are to be written: those that are not there yet, or there and not yet in force.

    One that is there as it is wanted is no change. What :func:`rgrid_server.domain.prices.price_at` says of
    any time before ``now_ms + NOTICE_MS`` is the same before and after.

    Raises:
        PricesInvalid: one would change a price that never changes, or two would hold from one time on.
    """
    there = {price.price_id: price for price in book}
    fixed_before_ms = now_ms + NOTICE_MS
    problems = [
        f"{one}: there are two of this price_id; give each its own"
        for one in _repeated(price.price_id for price in wanted)
    ]
    changed = [price for price in wanted if there.get(price.price_id) != price]
    for price in changed:
        known = there.get(price.price_id)
        if known is not None and known.effective_from_ms < fixed_before_ms:
            problems.append(
                f"{price.price_id}: this price holds from {shown_time(known.effective_from_ms)}, and "
                "what holds never changes; give the new price a price_id of its own"
            )
        elif price.effective_from_ms < fixed_before_ms:
            problems.append(
                f"{price.price_id}: effective_from is {shown_time(price.effective_from_ms)}, and it is "
                f"{shown_time(now_ms)}; a price holds a minute after it was loaded at the earliest"
            )
    after = {**there, **{price.price_id: price for price in wanted}}.values()
    for engine, at_ms in _repeated((price.engine, price.effective_from_ms) for price in after):
        ids = [
            price.price_id for price in after if (price.engine, price.effective_from_ms) == (engine, at_ms)
        ]
        problems.append(
            f"{' and '.join(ids)} would both hold for {engine} from {shown_time(at_ms)} on; leave one, or "
            "let one begin at another time"
        )
    if problems:
        raise PricesInvalid(problems)
    return changed


def shown_time(at_ms: int) -> str:
    """A time as people read it: the day alone where it is midnight UTC."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    if at.time() == time():
        return at.strftime("%Y-%m-%d")
    return at.isoformat(timespec="milliseconds" if at.microsecond else "seconds").replace("+00:00", "Z")


def _problems_of(table: object) -> list[str]:
    if not isinstance(table, Mapping):
        return ["it is no table; write [[price]] and its fields below"]
    problems = [f"{name} is missing" for name in _FIELDS if name not in table]
    known = ", ".join(_FIELDS)
    problems += [f"{name!r} is no field; there is {known}" for name in table if name not in _FIELDS]
    if problems:
        return problems
    price_id, engine, at = table["price_id"], table["engine"], table["effective_from"]
    if not isinstance(price_id, str) or _ID.fullmatch(price_id) is None:
        problems.append(
            f"price_id is {_short(price_id)}; write at most 64 letters, digits, '_', '.', ':' and '-', "
            "beginning with a letter or digit"
        )
    if engine not in ENGINES:
        problems.append(f"engine is {_short(engine)}; there is {' and '.join(ENGINES)}")
    if _at_ms(at) is None:
        problems.append(
            f"effective_from is {_short(at)}; write a date, such as 2027-01-01 for midnight UTC, or a time "
            "with its offset, such as 2027-01-01T00:00:00+01:00"
        )
    for name in _NANOS:
        nanos = table[name]
        if not isinstance(nanos, int) or isinstance(nanos, bool) or not 0 <= nanos <= MAX_NANOS:
            problems.append(
                f"{name} is {_short(nanos)}; write a whole number of nano-euro from 0 to {MAX_NANOS}: "
                "0.002 EUR are 2_000_000"
            )
    return problems


def _at_ms(value: object) -> int | None:
    """Milliseconds since the epoch; None where a value is neither a date nor a time with an offset."""
    if isinstance(value, datetime):
        at = value
    elif isinstance(value, date):
        at = datetime.combine(value, time(), UTC)
    else:
        return None
    if at.tzinfo is None:
        return None
    since = at - datetime.fromtimestamp(0, UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def _repeated(values: Iterable[T]) -> list[T]:
    seen: dict[T, int] = {}
    for value in values:
        seen[value] = seen.get(value, 0) + 1
    return [value for value, count in seen.items() if count > 1]


def _short(value: object) -> str:
    return repr(value)[:60] if not isinstance(value, date) else str(value)
