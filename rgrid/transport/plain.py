"""Reads over a bare socket, for commands that ask one thing and end; everything else goes to http.client.

Loading http.client takes 20 ms, of which a third is TLS and half is the parsing of mail headers: more than
all else that `rgrid status` does. A short GET of an address without TLS needs neither. HTTP/1.0 is asked for,
whose answers end where the connection does (RFC 1945), so that no framing is to be read either.
"""

from __future__ import annotations

import os
import socket

from rgrid import exceptions
from rgrid._typing import TYPE_CHECKING, TypeVar
from rgrid.calls import Answer, Call
from rgrid.transport.base import (
    RetryPolicy,
    Server,
    base_url,
    is_signed,
    read_answer,
    send_repeatedly,
    timed_out,
    unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rgrid.transport.stdlib import StdlibTransport

T = TypeVar("T")

READ_BYTES = 64 * 1024


class PlainTransport:
    """Carries plain reads itself, and has http.client carry the rest."""

    def __init__(self, server: Server, retries: RetryPolicy | None = None) -> None:
        self._server = server
        self._retries = retries or RetryPolicy()
        self._full: StdlibTransport | None = None

    def send(self, call: Call[T]) -> T:
        """Send a call, again where that is safe."""
        if self._full is not None or not self._is_plain(call):
            return self._rest.send(call)

        def send_once() -> T:
            return read_answer(self._server, call, self._read(call))

        return send_repeatedly(call, self._retries, send_once)

    def stream(self, call: Call[Any]) -> Iterator[bytes]:
        """Send a call once; yields the body as it comes."""
        return self._rest.stream(call)

    def close(self) -> None:
        """Let go of every connection."""
        if self._full is not None:
            self._full.close()

    @property
    def _rest(self) -> StdlibTransport:
        if self._full is None:
            from rgrid.transport.stdlib import StdlibTransport

            self._full = StdlibTransport(self._server, self._retries)
        return self._full

    def _is_plain(self, call: Call[Any]) -> bool:
        return (
            call.method == "GET"
            and not call.wait_seconds
            and not is_signed(call)
            and self._server.url.startswith("http://")
            and not any(name in os.environ for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"))
        )

    def _read(self, call: Call[Any]) -> Answer:
        base = base_url(self._server.url)
        place, _, _ = base.removeprefix("http://").partition("/")
        host, _, port = place.rpartition(":") if ":" in place.rpartition("]")[2] else (place, "", "80")
        target = self._server.absolute(call).removeprefix(f"http://{place}")
        headers = {"Host": place, **self._server.headers(call)}
        lines = [f"GET {target} HTTP/1.0", *(f"{name}: {value}" for name, value in headers.items())]
        try:
            request = "\r\n".join([*lines, "", ""]).encode("latin-1")
        except UnicodeEncodeError as error:
            raise exceptions.ConfigurationError(
                "the API key has characters other than plain ASCII"
            ) from error
        try:
            # as bytes a plain name is resolved without loading the codec of international ones
            name = host.strip("[]").encode("idna" if not host.isascii() else "ascii")
            connection = socket.create_connection(
                (name, int(port)),  # type: ignore[arg-type]  # getaddrinfo takes bytes; typeshed does not say so
                timeout=self._server.timeout_for(call),
            )
        except (OSError, ValueError, OverflowError) as error:
            raise unreachable(self._server, error, was_sent=False) from error
        try:
            with connection:
                connection.sendall(request)
                parts: list[bytes] = []
                while part := connection.recv(READ_BYTES):
                    parts.append(part)
        except TimeoutError as error:
            raise timed_out(self._server, call) from error
        except OSError as error:
            raise unreachable(self._server, error, was_sent=True) from error
        return self._parse(b"".join(parts))

    def _parse(self, received: bytes) -> Answer:
        head, blank, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        words = status.split(" ", 2)
        if not received:
            raise exceptions.ServerUnreachable(f"{self._server.url} closed the connection without an answer")
        if not blank or not words[0].startswith("HTTP/") or not words[1:2] or not words[1].isdigit():
            raise exceptions.ResponseInvalid(f"{self._server.url} does not speak HTTP: {received[:60]!r}")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (li.partition(":") for li in lines)
        }
        length = headers.get("content-length", "")
        if length.isdigit() and len(body) != int(length):
            raise exceptions.ResponseInvalid(
                f"the answer of {self._server.url} was cut short: {len(body)} of {length} bytes"
            )
        return Answer(int(words[1]), headers, body)
