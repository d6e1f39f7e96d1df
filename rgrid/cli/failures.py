"""Exit codes of the command line's own; a script's code passes through as it is."""

from __future__ import annotations

from rgrid import exceptions

FAILED = 1
USAGE = 2
UNREACHABLE = 69
NOT_ALLOWED = 77
INTERRUPTED = 130


def exit_code_of(error: Exception) -> int | None:
    """The code for an error, None for one that is none of ours."""
    if isinstance(error, exceptions.ConfigurationError | exceptions.InvalidRequest | exceptions.TooLarge):
        return USAGE
    if isinstance(error, exceptions.TransportError | exceptions.Unavailable):
        return UNREACHABLE
    if isinstance(error, exceptions.ServerError) and error.status in {502, 504}:
        # a proxy's word that the server behind it does not answer
        return UNREACHABLE
    if isinstance(error, exceptions.Unauthorized | exceptions.Forbidden | exceptions.SpendingLimitExceeded):
        return NOT_ALLOWED
    return FAILED if isinstance(error, exceptions.RGridError) else None
