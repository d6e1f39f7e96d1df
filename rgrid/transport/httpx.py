"""httpx, for callers that await: the asynchronous client and Airflow's triggers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx

from rgrid import exceptions
from rgrid.calls import Answer, Call
from rgrid.transport.base import (
    RetryPolicy,
    Server,
    Wanted,
    api_error,
    read_answer,
    timed_out,
    unreachable,
)
from rgrid.transport.spans import FileSpan

T = TypeVar("T")

CHUNK_BYTES = 256 * 1024
CONNECT_SECONDS = 10.0


class HttpxTransport:
    """Sends calls through an httpx.AsyncClient."""

    def __init__(
        self,
        server: Server,
        retries: RetryPolicy | None = None,
        *,
        client: httpx.AsyncClient | None = None,
        verify: bool | str = True,
        proxies: Mapping[str, str] | None = None,
        kept_connections: int | None = None,
    ) -> None:
        self._server = server
        self._retries = retries or RetryPolicy()
        self._client = client or _client(verify, proxies or {}, kept_connections)

    async def send(self, call: Call[T]) -> T:
        """Send a call, again where that is safe."""
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self._open(call) as response:
                    answer = Answer(response.status_code, _headers(response), await response.aread())
                    return read_answer(self._server, call, answer)
            except (exceptions.ApiError, exceptions.TransportError) as failure:
                delay = self._retries.delay_after(attempt, call, failure)
                if delay is None:
                    raise
                await asyncio.sleep(delay)

    async def stream(self, call: Call[Any]) -> AsyncIterator[bytes]:
        """Send a call once; yields the body as it comes."""
        async with self._open(call) as response:
            if response.status_code >= 300:
                raise api_error(
                    self._server, call, response.status_code, _headers(response), await response.aread()
                )
            wanted = Wanted(self._server, call, response.status_code, _headers(response))
            async for chunk in response.aiter_bytes():
                yield wanted.of(chunk)

    async def close(self) -> None:
        """Let go of every connection."""
        await self._client.aclose()

    @asynccontextmanager
    async def _open(self, call: Call[Any]) -> AsyncIterator[httpx.Response]:
        if call.file is None:
            content = json.dumps(call.json).encode() if call.json is not None else call.body
            async with self._answered(call, content) as response:
                yield response
            return
        with await asyncio.to_thread(FileSpan, call.file, call.span) as file:
            async with self._answered(call, _chunks(file), {"Content-Length": str(len(file))}) as response:
                yield response

    @asynccontextmanager
    async def _answered(
        self, call: Call[Any], content: Any, more_headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        headers = {**self._server.headers(call), **(more_headers or {})}
        timeout = httpx.Timeout(self._server.timeout_for(call), connect=CONNECT_SECONDS)
        try:
            async with self._client.stream(
                call.method, self._server.absolute(call), headers=headers, content=content, timeout=timeout
            ) as response:
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise unreachable(self._server, error, was_sent=False) from error
        except httpx.TimeoutException as error:
            raise timed_out(self._server, call) from error
        except httpx.RemoteProtocolError as error:
            if "incomplete" in str(error) or "without sending complete" in str(error):
                raise exceptions.ResponseInvalid(f"the answer of {self._server.url} was cut short") from error
            raise unreachable(self._server, error, was_sent=True) from error
        except httpx.TransportError as error:
            raise unreachable(self._server, error, was_sent=True) from error


def _headers(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


async def _chunks(file: FileSpan) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk


def _client(
    verify: bool | str, proxies: Mapping[str, str], kept_connections: int | None
) -> httpx.AsyncClient:
    """A client with proxies by scheme, as requests has them, that keeps so many connections between calls."""
    context = _context(verify)
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=kept_connections)
    mounts = {
        f"{scheme}://": httpx.AsyncHTTPTransport(verify=context, proxy=url, limits=limits)
        for scheme, url in proxies.items()
    }
    return httpx.AsyncClient(verify=context, mounts=mounts, limits=limits)


def _context(verify: bool | str) -> Any:
    if isinstance(verify, str):
        import ssl

        return ssl.create_default_context(cafile=verify)
    return verify
