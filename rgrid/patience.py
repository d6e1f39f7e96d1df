"""How long a reader that follows something puts up with a server that is away."""

from __future__ import annotations

from rgrid.exceptions import ApiError, RateLimited, RGridError, ServerError, TransportError

PASSING = (TransportError, ServerError, RateLimited)
"""What passes when it is tried again later."""

MAX_URLS = 3
"""So many URLs are asked for until a file is here."""
MAX_FAILURES = 60
MAX_DELAY_SECONDS = 5.0


def wants_another_url(failure: RGridError, attempt: int) -> bool:
    """Whether a file that did not come by a signed URL is to be fetched by another one."""
    has_expired = isinstance(failure, ApiError) and failure.code == "signature_expired"
    return attempt < MAX_URLS and (has_expired or isinstance(failure, TransportError))


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
