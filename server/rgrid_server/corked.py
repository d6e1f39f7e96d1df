"""HTTP connections that spend little on each request: uvicorn's protocol, less what it does for everybody.

What an answer takes is mostly there once for each of its parts: uvicorn writes them one by one, and uvloop
hands each to the kernel at once; a system call costs as much as a third of the work behind a read. It looks
at every byte of every header, and arms a timer behind every answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from rgrid_server.api.lane import WHOLE_ANSWER

log = logging.getLogger(__name__)

MAX_HELD_BYTES = 64 * 1024
"""What is larger goes at once, so that the transport can say when it is too much."""


class CorkedProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, writing through a cork."""

    _corked: _CorkedTransport
    _is_idle = False
    _idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self._corked = _CorkedTransport(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._corked))

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def eof_received(self) -> None:
        """Let out what is held before the transport closes itself: who asks no more may still read."""
        self._corked.flush()

    def on_response_complete(self) -> None:
        """Begin with the next request, or wait for it; the timer for that runs through many requests."""
        self.server_state.total_requests += 1
        if self._corked.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._is_idle, self._idle_since = True, self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait_at_most(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been idle for so long; look again when one could be that has not."""
        self.timeout_keep_alive_task = None
        if not self._is_idle:
            # what it is busy with will have it wait anew
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._wait_at_most(left)
        else:
            super().timeout_keep_alive_handler()

    def _wait_at_most(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        self._is_idle = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        scope: Any = cycle.scope
        scope[WHOLE_ANSWER] = partial(self._answer, cycle)
        super()._start_asgi_task(cycle, app)

    def _answer(
        self, cycle: RequestResponseCycle, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> bool:
        """Do what ``send`` does for an answer's two parts (:class:`rgrid_server.api.lane.WholeAnswer`)."""
        if cycle.flow.write_paused or cycle.response_started:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if cycle.disconnected:
            return True
        parts = [STATUS_LINE[status], _default_lines.of(cycle.default_headers)]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", body)
        self._corked.write(b"".join(parts))
        if not cycle.keep_alive:
            self._corked.close()
        self.on_response_complete()
        return True


class _DefaultLines:
    """The headers of every answer, as they are written; uvicorn has others each second, for the date."""

    def __init__(self) -> None:
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        self._lines = b""

    def of(self, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The lines of these headers."""
        if headers is not self._headers:
            self._headers = headers
            self._lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        return self._lines


_default_lines = _DefaultLines()


class _CorkedTransport:
    """A transport that holds what is written until the loop's next turn.

    What it has of the other's own is taken over once: a class with ``__getattr__`` is slow in everything.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._cork = _corks.setdefault(loop, _Cork())
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.get_protocol = transport.get_protocol
        self.set_protocol = transport.set_protocol
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.set_write_buffer_limits = transport.set_write_buffer_limits
        self.can_write_eof = transport.can_write_eof
        self.abort = transport.abort

    def write(self, data: bytes) -> None:
        """Hold it until the loop's next turn, or until there is much of it."""
        if not self._held:
            self._cork.hold(self, self._loop)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= MAX_HELD_BYTES:
            self.flush()

    def writelines(self, parts: Iterable[bytes]) -> None:
        """Hold them until the loop's next turn."""
        for part in parts:
            self.write(part)

    def close(self) -> None:
        """Let what is held go first."""
        self.flush()
        self._transport.close()

    def write_eof(self) -> None:
        """Let what is held go first."""
        self.flush()
        self._transport.write_eof()

    def get_write_buffer_size(self) -> int:
        """What is held here and there."""
        return self._held_bytes + self._transport.get_write_buffer_size()

    def flush(self) -> None:
        """Hand over what is held, unless nobody is there any more."""
        if self._held:
            held, self._held, self._held_bytes = self._held, [], 0
            if not self.is_closing():
                self._transport.write(b"".join(held))


class _Cork:
    """What the connections of an event loop hold, to be handed over one behind the other at its next turn.

    An answer that is sent in the middle of a turn has its caller ask again at once; then the loop turns for
    few requests at a time, where it could have turned for many, and a third less is answered.
    """

    def __init__(self) -> None:
        self._holding: list[_CorkedTransport] = []

    def hold(self, transport: _CorkedTransport, loop: asyncio.AbstractEventLoop) -> None:
        """Flush it at the loop's next turn."""
        if not self._holding:
            loop.call_soon(self._flush)
        self._holding.append(transport)

    def _flush(self) -> None:
        holding, self._holding = self._holding, []
        for transport in holding:
            try:
                transport.flush()
            except Exception:
                # what one connection cannot be given is no matter of the others'
                log.exception("an answer cannot be written; its connection is ended")
                transport.abort()


_corks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Cork] = WeakKeyDictionary()
