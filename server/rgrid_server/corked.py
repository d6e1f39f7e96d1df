"""HTTP connections whose writes of one turn of the loop leave together: an answer is one packet.

uvicorn writes them one by one, and uvloop hands each to the kernel at once; a system call costs as much as
a third of the work behind a read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HELD_BYTES = 64 * 1024
"""What is larger goes at once, so that the transport can say when it is too much."""


class CorkedProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, writing through a cork."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(cast("asyncio.Transport", _CorkedTransport(transport, self.loop)))


class _CorkedTransport:
    """A transport that holds what is written until the loop's next turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, data: bytes) -> None:
        """Hold it until the loop's next turn, or until there is much of it."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= MAX_HELD_BYTES:
            self._flush()

    def writelines(self, parts: Iterable[bytes]) -> None:
        """Hold them until the loop's next turn."""
        for part in parts:
            self.write(part)

    def close(self) -> None:
        """Let what is held go first."""
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """What is held here and there."""
        return self._held_bytes + self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        if self._held:
            data, self._held, self._held_bytes = b"".join(self._held), [], 0
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
