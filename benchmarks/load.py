"""A load generator in a process of its own: connections that send their next request on each answer.

`load.py HOST PORT CONNECTIONS SECONDS` reads requests' bytes from stdin, with a NUL between them, which each
connection sends in turn, and prints one JSON document: answers a second, milliseconds at the median and the
99th percentile, and how many were no 200.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from typing import cast

import uvloop


class Connection(asyncio.Protocol):
    """Sends a request, waits for the whole answer, and sends again."""

    def __init__(
        self, requests: Iterator[bytes], latencies: list[float], failures: list[bytes], deadline: float
    ) -> None:
        self._requests = requests
        self._latencies = latencies
        self._failures = failures
        self._deadline = deadline
        self._received = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports are asyncio's in all but name
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Take what comes until the answer is whole."""
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        at = head.lower().index(b"content-length:") + 15
        end = head.find(b"\r\n", at)
        length = int(head[at : end if end >= 0 else None])
        if len(body) < length:
            return
        if b" 200 " not in head[:16]:
            self._failures.append(head[:80])
        now = time.perf_counter()
        self._latencies.append(now - self._sent_at)
        self._received = b""
        if now < self._deadline:
            self._send()
        elif self._transport is not None:
            self._transport.close()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        if self._transport is not None:
            self._transport.write(next(self._requests))


async def run(
    host: str, port: int, connections: int, seconds: float, requests: list[bytes]
) -> dict[str, float]:
    """Load a server."""
    latencies: list[float] = []
    failures: list[bytes] = []
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    deadline = started + seconds
    for number in range(connections):
        first = number % len(requests)
        turns = cycle(requests[first:] + requests[:first])
        await loop.create_connection(partial(Connection, turns, latencies, failures, deadline), host, port)
    await asyncio.sleep(deadline - time.perf_counter() + 0.5)
    ordered = sorted(latencies)
    return {
        "per_second": len(ordered) / seconds,
        "median_ms": ordered[len(ordered) // 2] * 1000,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
        "failures": len(failures),
    }


if __name__ == "__main__":
    host, port, connections, seconds = sys.argv[1:5]
    requests = sys.stdin.buffer.read().split(b"\0")
    print(json.dumps(uvloop.run(run(host, int(port), int(connections), float(seconds), requests))))
