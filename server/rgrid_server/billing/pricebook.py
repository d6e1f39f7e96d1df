"""The price book as servers charge by it, and how it is added to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from sqlalchemy.engine import Connection

from rgrid_server.domain.pricebook import READ_AGAIN_MS, changes_to
from rgrid_server.domain.prices import Price
from rgrid_server.store import spend


class PriceBook:
    """The database's book, which is read again so often that no price is missed when it begins to hold.

    Args:
        seconds: by a clock that nobody sets.
    """

    def __init__(self, seconds: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._held: tuple[float, Sequence[Price]] | None = None

    def prices(self, connection: Connection) -> Sequence[Price]:
        """All prices, oldest first."""
        now, held = self._seconds(), self._held
        if held is None or now - held[0] > READ_AGAIN_MS / 1000:
            # at once, with the time before it was read: several threads may do so
            held = self._held = (now, spend.load_prices(connection))
        return held[1]


def add_prices(connection: Connection, wanted: Sequence[Price], now_ms: int) -> list[Price]:
    """Add prices to the book, and change those of it that do not hold yet; returns what was written.

    Raises:
        PricesInvalid: they would change what never changes.
    """
    changed = changes_to(spend.load_prices(connection), wanted, now_ms)
    spend.put_prices(connection, changed)
    return changed
