"""The requests library, where proxies, certificates and adapters are set up on a session of the caller's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import requests

from rgrid import exceptions
from rgrid.calls import Answer, Call
from rgrid.transport.base import (
    RetryPolicy,
    Server,
    Wanted,
    api_error,
    is_signed,
    read_answer,
    send_repeatedly,
    timed_out,
    unreachable,
)
from rgrid.transport.spans import FileSpan

T = TypeVar("T")

CHUNK_BYTES = 256 * 1024
CONNECT_SECONDS = 10.0


class RequestsTransport:
    """Sends calls through a requests.Session."""

    def __init__(
        self, server: Server, retries: RetryPolicy | None = None, *, session: requests.Session | None = None
    ) -> None:
        self._server = server
        self._retries = retries or RetryPolicy()
        self._session = session or requests.Session()

    def send(self, call: Call[T]) -> T:
        """Send a call, again where that is safe."""

        def send_once() -> T:
            with self._open(call) as response:
                answer = Answer(response.status_code, _headers(response), response.content)
                return read_answer(self._server, call, answer)

        return send_repeatedly(call, self._retries, send_once)

    def stream(self, call: Call[Any]) -> Iterator[bytes]:
        """Send a call once; yields the body as it comes."""
        with self._open(call) as response:
            if response.status_code >= 300:
                raise api_error(
                    self._server, call, response.status_code, _headers(response), response.content
                )
            wanted = Wanted(self._server, call, response.status_code, _headers(response))
            for chunk in response.iter_content(CHUNK_BYTES):
                yield wanted.of(chunk)

    def close(self) -> None:
        """Let go of every connection."""
        self._session.close()

    @contextmanager
    def _open(self, call: Call[Any]) -> Iterator[requests.Response]:
        try:
            if call.file is not None:
                with FileSpan(call.file, call.span) as file:
                    response = self._request(call, file)
            else:
                response = self._request(call, json.dumps(call.json) if call.json is not None else call.body)
            with response:
                yield response
        except (
            requests.ConnectTimeout,
            requests.exceptions.ProxyError,
            requests.exceptions.SSLError,
        ) as error:
            raise unreachable(self._server, error, was_sent=False) from error
        except requests.Timeout as error:
            raise timed_out(self._server, call) from error
        except requests.exceptions.ChunkedEncodingError as error:
            raise exceptions.ResponseInvalid(f"the answer of {self._server.url} was cut short") from error
        except requests.ConnectionError as error:
            if "timed out" in str(error).lower():
                raise timed_out(self._server, call) from error
            raise unreachable(self._server, error, was_sent=not _was_refused(error)) from error

    def _request(self, call: Call[Any], body: Any) -> requests.Response:
        request = requests.Request(
            call.method,
            self._server.absolute(call),
            headers=self._server.headers(call),
            data=body,
            auth=_no_auth,
        )
        prepared = self._session.prepare_request(request)
        if is_signed(call):
            # a session may have headers of its own; a signed URL is not to get the key
            prepared.headers.pop("Authorization", None)
        url = prepared.url or ""
        settings = self._session.merge_environment_settings(url, {}, stream=True, verify=None, cert=None)
        answer_seconds = self._server.timeout_for(call)
        timeout = (min(CONNECT_SECONDS, answer_seconds), answer_seconds)
        return self._session.send(prepared, timeout=timeout, **settings)


def _no_auth(request: Any) -> Any:
    # keeps requests from taking other credentials for this host out of a .netrc file
    return request


def _was_refused(error: requests.ConnectionError) -> bool:
    return "NewConnectionError" in repr(error) or "Name or service not known" in str(error)


def _headers(response: requests.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}
