"""What a connection carries: whole answers, in order beside those that take uvicorn's usual way."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.live import LiveServer

SUBMISSION = b'{"script_content": "print(1)"}'


class Answer(NamedTuple):
    """As it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A socket to the server, with one key."""

    def __init__(self, server: LiveServer, sent: socket.socket) -> None:
        self._server = server
        self._socket = sent
        self._received: BinaryIO = sent.makefile("rb")

    def request(
        self, method: str, path: str, body: bytes = b"", *headers: str, version: str = "HTTP/1.1"
    ) -> bytes:
        """A request's bytes."""
        lines = [f"{method} {path} {version}", "Host: grid", f"Authorization: Bearer {self._server.api_key}"]
        if not any(header.lower().startswith("transfer-encoding") for header in headers):
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "Content-Type: application/json", *headers, "", ""]).encode() + body

    def send(self, *parts: bytes) -> None:
        """Send bytes, each part by itself."""
        for part in parts:
            self._socket.sendall(part)

    def send_no_more(self) -> None:
        """Close this side alone, as ``nc -N`` does."""
        self._socket.shutdown(socket.SHUT_WR)

    def answer(self) -> Answer:
        """The next answer."""
        status = int(self._received.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self._received.readline().strip():
            name, _, value = line.decode().partition(": ")
            assert name not in headers, f"{name} stands twice"
            headers[name] = value
        return Answer(status, headers, self._received.read(int(headers["content-length"])))

    def is_closed(self) -> bool:
        """Whether the server has ended it, with nothing more to be read."""
        return self._received.read(1) == b""


@contextmanager
def connected(server: LiveServer) -> Iterator[Connection]:
    place = urlsplit(server.url)
    with socket.create_connection((str(place.hostname), int(place.port or 0)), timeout=60) as sent:
        sent.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Connection(server, sent)


@pytest.fixture
def connection(server: LiveServer) -> Iterator[Connection]:
    with connected(server) as made:
        yield made


def test_requests_that_do_not_wait_for_answers_are_answered_in_their_order(connection: Connection) -> None:
    asked = [
        ("GET", "/health", b""),
        ("POST", "/api/v1/executions", SUBMISSION),
        ("GET", "/api/v1/runtimes", b""),
        ("POST", "/api/v1/executions", b'{"script_content": ""}'),
        ("GET", "/api/v1/executions?limit=1", b""),
        ("GET", "/no/such/path", b""),
        ("GET", "/api/v1/cost", b""),
    ] * 5
    ids = [f"X-Request-Id: in-order-{number}" for number in range(len(asked))]
    connection.send(b"".join(connection.request(*one, name) for one, name in zip(asked, ids, strict=True)))
    answers = [connection.answer() for _ in asked]
    assert [f"X-Request-Id: {one.headers['x-request-id']}" for one in answers] == ids
    assert [one.status for one in answers] == [200, 200, 200, 422, 200, 404, 200] * 5
    assert all(isinstance(json.loads(one.body), dict | list) for one in answers)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/health", b""), ("/api/v1/executions", SUBMISSION), ("/api/v1/runtimes", b"")],
    ids=["hot", "hot with a body", "usual"],
)
@pytest.mark.parametrize(
    ("version", "headers"), [("HTTP/1.1", ["Connection: close"]), ("HTTP/1.0", [])], ids=["asked to", "1.0"]
)
def test_a_connection_that_is_to_end_ends_behind_the_answer(
    connection: Connection, path: str, body: bytes, version: str, headers: list[str]
) -> None:
    connection.send(connection.request("POST" if body else "GET", path, body, *headers, version=version))
    answer = connection.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert connection.is_closed()


@pytest.mark.parametrize(
    "headers",
    [[], ["Transfer-Encoding: chunked"], ["Expect: 100-continue"]],
    ids=["parts", "chunked", "expect"],
)
def test_a_body_that_comes_bit_by_bit_is_whole_when_it_is_looked_at(
    connection: Connection, headers: list[str]
) -> None:
    request = connection.request("POST", "/api/v1/executions", SUBMISSION, *headers)
    head, body = request[: -len(SUBMISSION)], SUBMISSION
    if headers and headers[0].startswith("Transfer"):
        body = b"".join(b"1\r\n%c\r\n" % byte for byte in SUBMISSION) + b"0\r\n\r\n"
    connection.send(head)
    if headers and headers[0].startswith("Expect"):
        assert connection._received.readline() + connection._received.readline() == (
            b"HTTP/1.1 100 Continue\r\n\r\n"
        )
    connection.send(*(body[at : at + 1] for at in range(len(body))))
    answer = connection.answer()
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "queued")


def test_who_leaves_before_the_answer_harms_nobody(server: LiveServer, connection: Connection) -> None:
    for path, body in [("/api/v1/executions", SUBMISSION), ("/api/v1/runtimes", b""), ("/health", b"")] * 10:
        with connected(server) as leaving:
            leaving.send(leaving.request("POST" if body else "GET", path, body))
    connection.send(connection.request("GET", "/health"))
    assert connection.answer().status == 200


@pytest.mark.parametrize("path", ["/health", "/api/v1/runtimes"], ids=["hot", "usual"])
def test_who_says_that_nothing_more_comes_still_gets_the_answer(server: LiveServer, path: str) -> None:
    for _ in range(50):
        with connected(server) as connection:
            connection.send(connection.request("GET", path))
            connection.send_no_more()
            assert connection.answer().status == 200


def test_an_answer_cannot_be_given_headers_by_a_request(connection: Connection) -> None:
    fields = json.dumps({"script_content": "print(1)", "a\r\nx-evil: 1": 1, "b,c": 2, "é": 3}).encode()
    connection.send(connection.request("POST", "/api/v1/executions", fields, "X-Request-Id: a b"))
    answer = connection.answer()
    assert answer.status == 200
    assert "x-evil" not in answer.headers
    assert answer.headers["x-ignored-fields"] == "b,c"
    assert answer.headers["x-request-id"] != "a b"


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        ([], "http"),
        (["X-Forwarded-Proto: https"], "https"),
        (["X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.7"], "https"),
        (["X-Forwarded-Proto: gopher"], "http"),
    ],
    ids=["none", "scheme", "both", "unknown"],
)
def test_addresses_are_those_of_the_proxy_that_clients_ask(
    connection: Connection, headers: list[str], scheme: str
) -> None:
    fields = json.dumps({"script_content": "print(1)", "input_files": ["a.csv"]}).encode()
    connection.send(connection.request("POST", "/api/v1/executions", fields, *headers))
    assert json.loads(connection.answer().body)["upload_urls"]["a.csv"].startswith(f"{scheme}://grid/")
