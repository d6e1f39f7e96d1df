"""Everything that can go wrong, as one tree::

RGridError
├── ApiError                     the server answered with an error
│   ├── Unauthorized             401: no key, or one that opens nothing
│   ├── Forbidden                403: the key lacks a scope
│   ├── NotFound                 404
│   ├── Conflict                 409
│   │   └── RunKeyConflict       the run key is held by other work
│   ├── SpendingLimitExceeded    402: the month's budget is used up
│   ├── TooLarge                 413
│   ├── InvalidRequest           400, 422
│   ├── RateLimited              429
│   └── ServerError              5xx
│       └── Unavailable          502, 503, 504: starting, draining, out of room, or behind a proxy and away
├── TransportError               no answer that can be used
│   ├── ServerUnreachable        the connection was refused, or broke
│   ├── TimedOut                 no answer in time
│   └── ResponseInvalid          an answer that is not RGrid's: HTML, cut short, no JSON
├── ConfigurationError           an address, a key or an option is missing or wrong
└── ExecutionFailed              the script failed; ``execution`` has all of it
"""

from __future__ import annotations

from rgrid._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from rgrid.models import Execution


class RGridError(Exception):
    """The base of everything that this package raises."""


class ApiError(RGridError):
    """The server answered with an error.

    Attributes:
        status: the HTTP status.
        code: the server's stable word for it, such as ``run_key_conflict``; empty where it gave none.
        request_id: what to look for in the server's log.
        facts: what else the answer said.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        request_id: str = "",
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.facts = facts or {}


class Unauthorized(ApiError):
    """No key, or one that opens nothing."""


class Forbidden(ApiError):
    """The key lacks a scope."""


class NotFound(ApiError):
    """There is no such thing, or it is another tenant's."""


class Conflict(ApiError):
    """The thing's state does not allow it."""


class RunKeyConflict(Conflict):
    """A run key is held by other work; ``holder_id`` is the execution or batch that has it."""

    @property
    def holder_id(self) -> str:
        """The execution or batch that holds the key."""
        return str(self.facts.get("execution_id") or self.facts.get("batch_id") or "")


class SpendingLimitExceeded(ApiError):
    """The month's budget is used up."""


class TooLarge(ApiError):
    """A script, a file or a request is larger than the server takes."""


class InvalidRequest(ApiError):
    """The request asks for what cannot be."""


class RateLimited(ApiError):
    """Too many requests."""


class ServerError(ApiError):
    """The server failed."""


class Unavailable(ServerError):
    """The server cannot serve just now."""


class TransportError(RGridError):
    """There was no answer that can be used."""


class ServerUnreachable(TransportError):
    """The connection was refused, or it broke.

    Attributes:
        was_sent: whether the server may have seen the request.
    """

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class TimedOut(TransportError):
    """There was no answer in time."""


class ResponseInvalid(TransportError):
    """The answer is not RGrid's."""


class ConfigurationError(RGridError):
    """An address, a key or an option is missing or wrong."""


class ExecutionFailed(RGridError):
    """A script did not complete; ``execution`` has its output and what went wrong."""

    def __init__(self, execution: Execution) -> None:
        reason = execution.execution_error or f"it ended with exit code {execution.exit_code}"
        super().__init__(f"{execution.execution_id} {execution.status}: {reason}")
        self.execution = execution
