"""The standard library's http.client: what the command line uses, since it loads fast and needs nothing."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rgrid import exceptions
from rgrid.calls import Answer, Call
from rgrid.transport.base import (
    RetryPolicy,
    Server,
    Wanted,
    api_error,
    read_answer,
    send_repeatedly,
    timed_out,
    unreachable,
)

T = TypeVar("T")

CHUNK_BYTES = 256 * 1024


class StdlibTransport:
    """Keeps one connection a host, and more while streams are open; for one thread at a time."""

    def __init__(
        self, server: Server, retries: RetryPolicy | None = None, *, verify: bool | str = True
    ) -> None:
        self._server = server
        self._retries = retries or RetryPolicy()
        self._verify = verify
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def send(self, call: Call[T]) -> T:
        """Send a call, again where that is safe."""

        def send_once() -> T:
            with self._open(call) as response:
                answer = Answer(response.status, _headers(response), self._body(response))
                return read_answer(self._server, call, answer)

        return send_repeatedly(call, self._retries, send_once)

    def stream(self, call: Call[Any]) -> Iterator[bytes]:
        """Send a call once; yields the body as it comes."""
        with self._open(call) as response:
            if response.status >= 300:
                raise api_error(self._server, call, response.status, _headers(response), self._body(response))
            wanted = Wanted(self._server, call, response.status, _headers(response))
            while chunk := self._read(response, CHUNK_BYTES):
                yield wanted.of(chunk)

    def close(self) -> None:
        """Let go of every connection."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    @contextmanager
    def _open(self, call: Call[Any]) -> Iterator[http.client.HTTPResponse]:
        url = urlsplit(self._server.absolute(call))
        place = (url.scheme, url.netloc)
        if not call.is_repeatable:
            # on a kept connection that the server has just closed, nobody could tell whether it was sent
            self._drop(place)
        # taken out while it is used: a stream that is read slowly leaves room for other calls beside it
        connection, was_sent = self._take(place, self._server.timeout_for(call)), False
        is_reusable = False
        try:
            if connection.sock is None:
                connection.connect()
            was_sent = True
            self._request(connection, call, f"{url.path}?{url.query}" if url.query else url.path)
            response = connection.getresponse()
            yield response
            # what is left unread would be taken for the next answer
            is_reusable = response.isclosed() or not response.read(1)
        except exceptions.TransportError:
            raise
        except exceptions.RGridError:
            is_reusable = True
            raise
        except TimeoutError as error:
            if not was_sent:
                raise unreachable(self._server, error, was_sent=False) from error
            raise timed_out(self._server, call) from error
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self._server, error, was_sent=was_sent) from error
        finally:
            if is_reusable and place not in self._connections:
                self._connections[place] = connection
            else:
                connection.close()

    def _request(self, connection: http.client.HTTPConnection, call: Call[Any], target: str) -> None:
        headers = self._server.headers(call)
        if call.file is not None:
            from rgrid.transport.spans import FileSpan

            with FileSpan(call.file, call.span) as file:
                headers["Content-Length"] = str(len(file))
                connection.request(call.method, target, body=file, headers=headers)
            return
        body = json.dumps(call.json).encode() if call.json is not None else call.body
        connection.request(call.method, target, body=body, headers=headers)

    def _take(self, place: tuple[str, str], timeout: float) -> http.client.HTTPConnection:
        connection = self._connections.pop(place, None)
        if connection is None:
            scheme, netloc = place
            proxy = _proxy_for(scheme, netloc)
            host = proxy or netloc
            if scheme == "https":
                connection = http.client.HTTPSConnection(host, timeout=timeout, context=self._context())
            else:
                connection = http.client.HTTPConnection(host, timeout=timeout)
            if proxy:
                connection.set_tunnel(netloc)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._verify is False:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        cafile = self._verify if isinstance(self._verify, str) else os.environ.get("REQUESTS_CA_BUNDLE")
        return ssl.create_default_context(cafile=cafile)

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except http.client.IncompleteRead as error:
            raise exceptions.ResponseInvalid(
                f"the answer of {self._server.url} was cut short after {len(error.partial)} bytes"
            ) from error

    def _read(self, response: http.client.HTTPResponse, size: int) -> bytes:
        try:
            chunk = response.read1(size)
        except http.client.IncompleteRead as error:
            raise exceptions.ResponseInvalid(f"the answer of {self._server.url} was cut short") from error
        if not chunk and response.length:
            raise exceptions.ResponseInvalid(
                f"the answer of {self._server.url} was cut short: {response.length} bytes are missing"
            )
        return chunk

    def _drop(self, place: tuple[str, str]) -> None:
        connection = self._connections.pop(place, None)
        if connection is not None:
            connection.close()


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _proxy_for(scheme: str, netloc: str) -> str | None:
    """The proxy that the environment names for a host, as host:port."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass

    host = netloc.rpartition("@")[2].partition(":")[0]
    proxy = getproxies().get(scheme)
    if not proxy or host in {"127.0.0.1", "localhost"} or proxy_bypass(host):
        return None
    return urlsplit(proxy if "//" in proxy else f"//{proxy}").netloc
