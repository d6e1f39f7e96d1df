"""How long a reader that follows something puts up with a server that is away."""

from __future__ import annotations

from rgrid.exceptions import RateLimited, ServerError, TransportError

PASSING = (TransportError, ServerError, RateLimited)
"""What passes when it is tried again later."""

MAX_FAILURES = 60
MAX_DELAY_SECONDS = 5.0


class Patience:
    """Counts failures in a row; about five minutes of them are too many.

    Args:
        most: after so many failures in a row the next one is raised.
    """

    def __init__(self, most: int = MAX_FAILURES) -> None:
        self._most = most
        self._failures = 0

    def renew(self) -> None:
        """Something came: what failed before does not count any more."""
        self._failures = 0

    def delay_after(self, failure: Exception) -> float:
        """Seconds to wait before the next try.

        Raises:
            Exception: the failure itself, when there were too many.
        """
        self._failures += 1
        if self._failures > self._most:
            raise failure
        return min(MAX_DELAY_SECONDS, 0.2 * self._failures)
