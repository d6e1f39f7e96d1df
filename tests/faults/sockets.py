"""Many clients of one process, as plain sockets."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

CONNECTING_AT_ONCE = 200
SPARE_DESCRIPTORS = 500


def raise_descriptor_limit(clients: int) -> int:
    """Let this process, and what it starts, have a descriptor for each client; returns for how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = clients + SPARE_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    return allowed - SPARE_DESCRIPTORS


class Waiter:
    """A client that asks with ``?wait=`` until what it waits for has ended.

    Args:
        url: the server's address.
        key: its key.
        path: what to ask for, under ``/api/v1``.
    """

    def __init__(self, url: str, key: str, path: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._request = (
            f"GET /api/v1{path}?wait=60 HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {key}\r\n\r\n"
        ).encode()
        self.status = ""
        self.has_asked = asyncio.Event()

    async def wait(self, connecting: asyncio.Semaphore) -> None:
        """Ask until it has ended."""
        async with connecting:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            while True:
                writer.write(self._request)
                await writer.drain()
                self.has_asked.set()
                self.status = (await _answer(reader))["status"]
                if self.status not in {"queued", "running"}:
                    return
        finally:
            writer.close()


async def gather_all(waiters: Sequence[Waiter]) -> asyncio.Future[list[None]]:
    """Let all of them ask; returns when they have, with what ends when they have their answers."""
    connecting = asyncio.Semaphore(CONNECTING_AT_ONCE)
    waiting = asyncio.gather(*(waiter.wait(connecting) for waiter in waiters))
    asked = asyncio.gather(*(waiter.has_asked.wait() for waiter in waiters))
    await asyncio.wait([waiting, asked], return_when=asyncio.FIRST_COMPLETED)
    if waiting.done():
        # it failed before all could ask, or was very quick
        await waiting
    return waiting


async def _answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    body: dict[str, Any] = json.loads(await reader.readexactly(length))
    assert head.startswith(b"http/1.1 200"), body
    return body
