"""What every transport shares: addresses, errors, and what is tried again, and when."""

from __future__ import annotations

import time

from rgrid import exceptions, tracing
from rgrid._typing import TYPE_CHECKING, Protocol, TypeVar
from rgrid._version import __version__
from rgrid.calls import Answer, Call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from typing import Any

T = TypeVar("T")

API_PREFIX = "/api/v1"
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
USER_AGENT = f"rgrid/{__version__}"

_ERRORS: dict[int, type[exceptions.ApiError]] = {
    400: exceptions.InvalidRequest,
    401: exceptions.Unauthorized,
    402: exceptions.SpendingLimitExceeded,
    403: exceptions.Forbidden,
    404: exceptions.NotFound,
    409: exceptions.Conflict,
    413: exceptions.TooLarge,
    422: exceptions.InvalidRequest,
    429: exceptions.RateLimited,
    502: exceptions.Unavailable,
    503: exceptions.Unavailable,
    504: exceptions.Unavailable,
}


class Transport(Protocol):
    """Sends calls and waits for their answers."""

    def send(self, call: Call[T]) -> T:
        """Send a call, again where that is safe; returns what its answer says.

        Raises:
            rgrid.exceptions.ApiError: the server refused it.
            rgrid.exceptions.TransportError: there was no answer that can be used.
        """

    def stream(self, call: Call[Any]) -> Iterator[bytes]:
        """Send a call once; yields the body from ``call.start`` on as it comes.

        Raises: as :meth:`send`.
        """

    def close(self) -> None:
        """Let go of every connection."""


class AsyncTransport(Protocol):
    """Sends calls and awaits their answers."""

    async def send(self, call: Call[T]) -> T:
        """As :meth:`Transport.send`."""

    def stream(self, call: Call[Any]) -> AsyncIterator[bytes]:
        """As :meth:`Transport.stream`."""

    async def close(self) -> None:
        """Let go of every connection."""


class Server:
    """Where the server is and how it is spoken to; nothing changes it."""

    __slots__ = ("api_key", "timeout_seconds", "url")

    def __init__(self, url: str, api_key: str | None = None, timeout_seconds: float = 30.0) -> None:
        self.url = url
        self.api_key = api_key
        self.timeout_seconds = timeout_seconds

    def absolute(self, call: Call[Any]) -> str:
        """The whole URL of a call; signed URLs are whole already."""
        if is_signed(call):
            return call.target
        return f"{base_url(self.url)}{API_PREFIX}{call.target}"

    def headers(self, call: Call[Any]) -> dict[str, str]:
        """What goes with a call; the key only to this server's own API."""
        headers = {"User-Agent": USER_AGENT, "Accept": "*/*", **call.headers}
        if self.api_key and not is_signed(call):
            headers["Authorization"] = f"Bearer {self.api_key}"
        if call.json is not None:
            headers["Content-Type"] = "application/json"
        if tracing.is_wanted() and not is_signed(call) and (parent := tracing.trace_parent()) is not None:
            headers[tracing.HEADER] = parent
        return headers

    def timeout_for(self, call: Call[Any]) -> float:
        """How long to wait for bytes of a call's answer."""
        return self.timeout_seconds + call.wait_seconds


class RetryPolicy:
    """What is tried again, and after how long: exponential backoff with full jitter.

    A refused connection and the statuses 429 and 503 are always tried again, since nothing was begun; a
    broken connection, a timeout and the statuses 502 and 504 only for calls that are safe to repeat.
    """

    __slots__ = ("attempts", "first_seconds", "max_seconds")

    def __init__(self, attempts: int = 5, first_seconds: float = 0.2, max_seconds: float = 10.0) -> None:
        self.attempts = attempts
        self.first_seconds = first_seconds
        self.max_seconds = max_seconds

    def delay_after(self, attempt: int, call: Call[Any], failure: Exception) -> float | None:
        """Seconds to wait after try number ``attempt`` (from 1) has failed; None to give up."""
        if attempt >= self.attempts or not self._may_repeat(call, failure):
            return None
        longest = min(self.max_seconds, self.first_seconds * 2 ** (attempt - 1))
        asked = failure.facts.get("retry_after_seconds") if isinstance(failure, exceptions.ApiError) else None
        import random

        jittered = random.uniform(0, longest)  # noqa: S311 - no secret
        return jittered if asked is None else min(float(asked), 60.0) + jittered

    @staticmethod
    def _may_repeat(call: Call[Any], failure: Exception) -> bool:
        if isinstance(failure, exceptions.ServerUnreachable) and not failure.was_sent:
            return True
        if isinstance(failure, exceptions.ApiError):
            # a server that says 429 or 503 has not begun with the request
            return failure.status in {429, 503} or (call.is_repeatable and failure.status in RETRIED_STATUSES)
        return call.is_repeatable and isinstance(failure, exceptions.TransportError)


def send_repeatedly(call: Call[T], retries: RetryPolicy, send_once: Callable[[], T]) -> T:
    """Send a call until it is answered or not worth another try."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return send_once()
        except (exceptions.ApiError, exceptions.TransportError) as failure:
            delay = retries.delay_after(attempt, call, failure)
            if delay is None:
                raise
            time.sleep(delay)


class Wanted:
    """What of an answer's body is wanted: what is behind ``call.start``, also from a server that sends all.

    Raises:
        rgrid.exceptions.ResponseInvalid: it is a part that begins elsewhere.
    """

    __slots__ = ("_left_bytes",)

    def __init__(self, server: Server, call: Call[Any], status: int, headers: Mapping[str, str]) -> None:
        self._left_bytes = 0 if status == 206 else call.start
        if status == 206 and not headers.get("content-range", "").startswith(f"bytes {call.start}-"):
            raise exceptions.ResponseInvalid(
                f"{base_url(server.url)} answered {_asked(call)} with other bytes than from {call.start} on"
            )

    def of(self, chunk: bytes) -> bytes:
        """What of the next bytes is wanted."""
        if not self._left_bytes:
            return chunk
        passed_over = min(self._left_bytes, len(chunk))
        self._left_bytes -= passed_over
        return chunk[passed_over:]


def base_url(url: str) -> str:
    """A server's address without a slash or ``/api/v1`` at its end.

    Raises:
        rgrid.exceptions.ConfigurationError: it is not an http address.
    """
    if not url.startswith(("http://", "https://")):
        raise exceptions.ConfigurationError(
            f"the server's address {url!r} does not begin with http:// or https://; see RGRID_API_URL"
        )
    return url.rstrip("/").removesuffix(API_PREFIX).rstrip("/")


def is_signed(call: Call[Any]) -> bool:
    """Whether a call goes to a signed URL, which takes no key."""
    return call.path.startswith(("http://", "https://"))


def read_answer(server: Server, call: Call[T], answer: Answer) -> T:
    """What an answer says, or the error that it is.

    Raises:
        rgrid.exceptions.ApiError: the server refused the call.
        rgrid.exceptions.ResponseInvalid: the answer is not RGrid's.
    """
    if answer.status >= 300:
        raise api_error(server, call, answer.status, answer.headers, answer.body)
    try:
        return call.read(answer)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise exceptions.ResponseInvalid(
            f"{base_url(server.url)} answered {_asked(call)} with {_shown(answer)}, which is not "
            "what RGrid answers; is RGRID_API_URL the address of an RGrid server?"
        ) from error


def api_error(
    server: Server, call: Call[Any], status: int, headers: Mapping[str, str], body: bytes
) -> exceptions.RGridError:
    """The error that an answer is."""
    answer = Answer(status, headers, body)
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        if status not in RETRIED_STATUSES:
            return exceptions.ResponseInvalid(
                f"{base_url(server.url)} answered {_asked(call)} with status {status} and "
                f"{_shown(answer)}; is RGRID_API_URL the address of an RGrid server?"
            )
        detail = _unexplained(server, call, status)
    code, message, facts = _explain(detail)
    kind = _ERRORS.get(status, exceptions.ServerError if status >= 500 else exceptions.ApiError)
    if code == "run_key_conflict":
        kind = exceptions.RunKeyConflict
    retry_after = headers.get("retry-after", "")
    if retry_after.isdigit():
        facts["retry_after_seconds"] = int(retry_after)
    request_id = headers.get("x-request-id", "")
    return kind(message, status=status, code=code, request_id=request_id, facts=facts)


def unreachable(server: Server, error: Exception, *, was_sent: bool) -> exceptions.ServerUnreachable:
    """The error of a connection that was refused or broke."""
    what = "broke off" if was_sent else "could not be made"
    return exceptions.ServerUnreachable(
        f"the connection to {base_url(server.url)} {what} ({error}); is the server running there?",
        was_sent=was_sent,
    )


def timed_out(server: Server, call: Call[Any]) -> exceptions.TimedOut:
    """The error of an answer that did not come."""
    return exceptions.TimedOut(
        f"{base_url(server.url)} did not answer {_asked(call)} within {server.timeout_for(call):g} s"
    )


def _asked(call: Call[Any]) -> str:
    return f"{call.method} {call.path.partition('?')[0]}"


def _unexplained(server: Server, call: Call[Any], status: int) -> str:
    """What a status means that comes without RGrid's words: a proxy before the server gave it."""
    told = f"{base_url(server.url)} answered {_asked(call)} with status {status}"
    if status == 429:
        return f"{told}: too many requests; try again later"
    return (
        f"{told} and not in RGrid's words, as a proxy does whose server is away or too slow; try again "
        "later, and look whether the server behind that address runs"
    )


def _explain(detail: Any) -> tuple[str, str, dict[str, Any]]:
    if isinstance(detail, dict):
        facts = {name: value for name, value in detail.items() if name not in {"error", "message"}}
        return str(detail.get("error", "")), str(detail.get("message", detail)), facts
    if isinstance(detail, list):
        told = [_problem(item) for item in detail if isinstance(item, dict)]
        return "invalid", "; ".join(told), {"problems": detail}
    return "", str(detail), {}


def _problem(item: dict[str, Any]) -> str:
    """One of FastAPI's problems in a line."""
    if item.get("type") == "json_invalid":
        # the place is no field's name but a number of characters
        return f"the request is no JSON that the server can read ({item.get('msg', 'JSON decode error')})"
    return f"{'.'.join(str(part) for part in item.get('loc', [])[1:])}: {item.get('msg', item)}"


def _shown(answer: Answer) -> str:
    kind = answer.headers.get("content-type", "no content type").partition(";")[0]
    start = answer.body[:60].decode(errors="replace").strip()
    return f"{kind} ({start!r})"
