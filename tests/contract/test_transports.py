"""One suite for every transport, against a real server that misbehaves on command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rgrid import calls, exceptions
from rgrid.transport.base import RetryPolicy, Server, base_url
from rgrid.transport.httpx import HttpxTransport
from rgrid.transport.plain import PlainTransport
from rgrid.transport.requests import RequestsTransport
from rgrid.transport.stdlib import StdlibTransport

QUICK = RetryPolicy(attempts=3, first_seconds=0.001, max_seconds=0.01)
HEALTH = json.dumps({"status": "ok", "version": "1"}).encode()

Behaviour = Callable[[socket.socket, int], None]


class Misbehaving:
    """Answers each connection as it is told; the last behaviour goes on."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.behaviours: list[Behaviour] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more, not even to who asks just now."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                try:
                    self.requests.append(_read_request(connection))
                    behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
                    behaviour(connection, len(self.requests))
                except OSError:
                    continue


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answers(
    status: int = 200, body: bytes = HEALTH, kind: str = "application/json", cut: int = 0, **headers: str
) -> Behaviour:
    """A whole answer, or one that ends ``cut`` bytes too early."""

    def answer(connection: socket.socket, _number: int) -> None:
        lines = [
            f"HTTP/1.1 {status} X",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[: len(body) - cut])

    return answer


def hangs_up(_connection: socket.socket, _number: int) -> None:
    """Closes without a word."""


def stays_silent(connection: socket.socket, _number: int) -> None:
    """Never answers; ends when the client does."""
    connection.recv(1)


@pytest.fixture
def server() -> Iterator[Misbehaving]:
    """A server that does what it is told."""
    server = Misbehaving()
    yield server
    server.close()


class Blocking:
    """An asynchronous transport, waited for."""

    def __init__(self, server: Server, retries: RetryPolicy) -> None:
        self._server = server
        self._retries = retries

    def send(self, call: calls.Call[Any]) -> Any:
        """Send one."""

        async def send() -> Any:
            transport = HttpxTransport(self._server, self._retries, client=httpx.AsyncClient(trust_env=False))
            try:
                return await transport.send(call)
            finally:
                await transport.close()

        return asyncio.run(send())


TRANSPORTS: dict[str, Callable[[Server, RetryPolicy], Any]] = {
    "stdlib": StdlibTransport,
    "plain": PlainTransport,
    "requests": RequestsTransport,
    "httpx": Blocking,
}


@pytest.fixture(params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest, server: Misbehaving) -> Any:
    """Each transport, with a key and little patience."""
    return TRANSPORTS[request.param](Server(server.url, "sk_secret", timeout_seconds=0.5), QUICK)


def test_an_answer_is_read(transport: Any, server: Misbehaving) -> None:
    server.behaviours = [answers()]
    assert transport.send(calls.health()).version == "1"


def test_the_key_goes_with_the_call(transport: Any, server: Misbehaving) -> None:
    server.behaviours = [answers()]
    transport.send(calls.health())
    assert b"authorization: bearer sk_secret" in server.requests[0].lower()
    assert b" /api/v1/health " in server.requests[0]


def test_the_key_does_not_go_with_a_signed_url(transport: Any, server: Misbehaving) -> None:
    server.behaviours = [answers(body=b"bytes")]
    assert transport.send(calls.fetch(f"{server.url}/signed?x=1")) == b"bytes"
    assert b"sk_secret" not in server.requests[0]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, exceptions.InvalidRequest),
        (401, exceptions.Unauthorized),
        (402, exceptions.SpendingLimitExceeded),
        (403, exceptions.Forbidden),
        (404, exceptions.NotFound),
        (409, exceptions.Conflict),
        (413, exceptions.TooLarge),
        (422, exceptions.InvalidRequest),
        (500, exceptions.ServerError),
    ],
)
def test_an_error_is_raised_as_its_kind_and_not_repeated(
    transport: Any, server: Misbehaving, status: int, kind: type[exceptions.ApiError]
) -> None:
    body = json.dumps({"detail": {"error": "a_code", "message": "what and why", "more": 1}}).encode()
    server.behaviours = [answers(status, body, X_Request_Id="r-1")]
    with pytest.raises(kind, match="what and why") as raised:
        transport.send(calls.health())
    assert (raised.value.code, raised.value.request_id, raised.value.facts) == ("a_code", "r-1", {"more": 1})
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_also_for_what_cannot_be_repeated(
    transport: Any, server: Misbehaving, status: int
) -> None:
    busy = answers(status, b'{"detail": "busy"}', Retry_After="0")
    server.behaviours = [busy, busy, answers(body=b'{"execution_id": "e", "status": "queued"}')]
    assert transport.send(calls.submit_execution({"script_content": "1"})).execution_id == "e"
    assert len(server.requests) == 3


def test_it_gives_up_after_its_tries(transport: Any, server: Misbehaving) -> None:
    server.behaviours = [answers(503, b'{"detail": "draining"}', Retry_After="0")]
    with pytest.raises(exceptions.Unavailable, match="draining"):
        transport.send(calls.health())
    assert len(server.requests) == 3


def test_a_broken_connection_is_repeated_where_that_is_safe(transport: Any, server: Misbehaving) -> None:
    server.behaviours = [hangs_up, answers()]
    assert transport.send(calls.health()).status == "ok"


def test_a_broken_connection_is_not_repeated_where_it_is_not(transport: Any, server: Misbehaving) -> None:
    server.behaviours = [hangs_up]
    with pytest.raises(exceptions.TransportError):
        transport.send(calls.submit_execution({"script_content": "1"}))
    assert len(server.requests) == 1


def test_a_run_key_makes_a_submission_safe_to_repeat(transport: Any, server: Misbehaving) -> None:
    server.behaviours = [hangs_up, answers(body=b'{"execution_id": "e", "status": "queued"}')]
    found = transport.send(calls.submit_execution({"script_content": "1", "run_key": "k"}))
    assert found.execution_id == "e"


def test_a_server_that_is_not_there_is_unreachable(transport: Any, server: Misbehaving) -> None:
    server.close()
    with pytest.raises(exceptions.ServerUnreachable, match="is the server running there"):
        transport.send(calls.health())


def test_a_silent_server_times_out(transport: Any, server: Misbehaving) -> None:
    server.behaviours = [stays_silent]
    with pytest.raises(exceptions.TimedOut, match=r"did not answer POST /executions within 0\.5 s"):
        transport.send(calls.submit_execution({"script_content": "1"}))


@pytest.mark.parametrize("status", [200, 404])
def test_html_is_no_answer_of_rgrid(transport: Any, server: Misbehaving, status: int) -> None:
    server.behaviours = [answers(status, b"<html>a proxy's page</html>", "text/html")]
    with pytest.raises(exceptions.ResponseInvalid, match="RGRID_API_URL"):
        transport.send(calls.cost())


def test_an_answer_that_is_cut_short_is_repeated_and_then_an_error(
    transport: Any, server: Misbehaving
) -> None:
    server.behaviours = [answers(cut=3), answers()]
    assert transport.send(calls.health()).status == "ok"
    server.behaviours = [answers(cut=3)]
    with pytest.raises(exceptions.TransportError):
        transport.send(calls.health())


def test_a_file_is_sent_whole(transport: Any, server: Misbehaving, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * 300_000)
    server.behaviours = [answers(body=b"{}")]
    transport.send(calls.put_blob("a" * 64, file))
    assert server.requests[0].endswith(b"x" * 300_000)


@pytest.mark.parametrize("name", ["stdlib", "plain", "requests"])
def test_a_stream_that_is_cut_short_is_an_error(server: Misbehaving, name: str) -> None:
    transport = TRANSPORTS[name](Server(server.url, "sk_secret", timeout_seconds=0.5), QUICK)
    server.behaviours = [answers(body=b"x" * 1000, cut=10)]
    with pytest.raises(exceptions.TransportError):
        list(transport.stream(calls.fetch(f"{server.url}/file")))


@pytest.mark.parametrize(
    "url", ["http://h:1", "http://h:1/", "http://h:1/api/v1", "http://h:1/api/v1/", "http://h:1/grid/api/v1"]
)
def test_an_address_may_end_in_the_apis_path(url: str) -> None:
    assert base_url(url) in {"http://h:1", "http://h:1/grid"}


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(exceptions.ConfigurationError, match="RGRID_API_URL"):
        base_url("grid.example.org")
