"""Exit codes of the command line's own; a script's code passes through as it is."""

from __future__ import annotations

from rgrid import exceptions
from rgrid.texts import not_text

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
    if isinstance(error, exceptions.Unauthorized | exceptions.Forbidden | exceptions.SpendingLimitExceeded):
        return NOT_ALLOWED
    if isinstance(error, UnicodeEncodeError):
        return USAGE
    return FAILED if isinstance(error, exceptions.RGridError | OSError) else None


def told_of(error: Exception) -> str:
    """What is said of an error."""
    if isinstance(error, UnicodeEncodeError):
        return str(not_text(str(error.object), "an argument"))
    if isinstance(error, OSError) and error.filename is None:
        # files are named; what is not is where we print
        return f"stdout cannot be written: {error.strerror}"
    return str(error)


def tell_failure(error: Exception) -> int:
    """Say what went wrong; returns the exit code, or raises what is none of ours."""
    code = exit_code_of(error)
    if code is None:
        raise error
    from rgrid.cli.display import tell

    tell(told_of(error))
    return code
