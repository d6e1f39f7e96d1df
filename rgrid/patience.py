"""How long who follows something waits for more of it, and puts up with a server that is away."""

from __future__ import annotations

from rgrid.exceptions import ApiError, RateLimited, RGridError, ServerError, TransportError

PASSING = (TransportError, ServerError, RateLimited)
"""What passes when it is tried again later."""

WAIT_SECONDS = 30.0
"""So long one call waits for something to come; then it is made again."""
MAX_CUTS = 3
"""So often in a row a file is fetched in vain, no byte of it coming."""
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


class Cuts:
    """Whether a file whose bytes broke off is to be fetched on, by another URL where the last has expired."""

    def __init__(self) -> None:
        self._in_vain = 0
        self._received_bytes = 0

    def bear(self, failure: RGridError, received_bytes: int) -> None:
        """Bear a failure, after so many bytes are here.

        Raises:
            rgrid.exceptions.RGridError: the failure itself, when trying again does not help.
        """
        has_expired = isinstance(failure, ApiError) and failure.code == "signature_expired"
        self._in_vain = 1 if received_bytes > self._received_bytes else self._in_vain + 1
        self._received_bytes = received_bytes
        if self._in_vain >= MAX_CUTS or not (has_expired or isinstance(failure, PASSING)):
            raise failure
