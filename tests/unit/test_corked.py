"""When a connection that nobody uses is closed: by a timer that runs through many requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from rgrid_server.corked import CorkedProtocol, _CorkedTransport

KEEP_ALIVE = 75


class Timer:
    """One that the clock below calls."""

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback = callback
        self.is_canceled = False

    def cancel(self) -> None:
        self.is_canceled = True


class Clock:
    """As much of an event loop as timers need, whose time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self.now + seconds, callback)
        self.timers.append(timer)
        return timer

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and call what is due."""
        end = self.now + seconds
        while due := [timer for timer in self.live if timer.due <= end]:
            first = min(due, key=lambda timer: timer.due)
            self.timers.remove(first)
            self.now = first.due
            first.callback()
        self.now = end

    @property
    def live(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.is_canceled]


class Transport(asyncio.Transport):
    """A socket that remembers whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def connection(clock: Clock, transport: Transport) -> CorkedProtocol:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None: ...

    config = uvicorn.Config(app, lifespan="off", timeout_keep_alive=KEEP_ALIVE, log_config=None)
    loop = cast("asyncio.AbstractEventLoop", clock)
    made = CorkedProtocol(config, ServerState(), {}, loop)
    made.connection_made(transport)
    return made


def test_an_idle_connection_is_closed_when_it_was_idle_for_so_long(
    connection: CorkedProtocol, clock: Clock, transport: Transport
) -> None:
    connection.on_response_complete()
    clock.pass_by(KEEP_ALIVE - 1)
    assert not transport.is_closed
    clock.pass_by(1)
    assert transport.is_closed


@pytest.mark.parametrize("pause", [1, 10, 40, KEEP_ALIVE - 1])
def test_the_wait_begins_anew_with_each_answer_and_one_timer_serves_them_all(
    connection: CorkedProtocol, clock: Clock, transport: Transport, pause: int
) -> None:
    for _ in range(300 // pause + 3):
        connection._unset_keepalive_if_required()
        connection.on_response_complete()
        assert len(clock.live) == 1
        clock.pass_by(pause)
    assert not transport.is_closed
    clock.pass_by(KEEP_ALIVE - pause)
    assert transport.is_closed
    assert not clock.live


def test_a_connection_that_is_busy_for_long_is_left_alone(
    connection: CorkedProtocol, clock: Clock, transport: Transport
) -> None:
    connection.on_response_complete()
    connection._unset_keepalive_if_required()
    clock.pass_by(10 * KEEP_ALIVE)
    assert not transport.is_closed
    connection.on_response_complete()
    clock.pass_by(KEEP_ALIVE)
    assert transport.is_closed


@pytest.mark.parametrize("error", [None, ConnectionResetError()], ids=["ended", "torn"])
def test_a_lost_connection_leaves_no_timer(
    connection: CorkedProtocol, clock: Clock, error: Exception | None
) -> None:
    connection.on_response_complete()
    connection.connection_lost(error)
    assert not clock.live


class Written(asyncio.Transport):
    """A socket that remembers what was written, and whether it was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_aborted = False

    def is_closing(self) -> bool:
        return self.is_aborted

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.is_aborted = True


def test_what_one_connection_cannot_be_given_harms_no_other() -> None:
    async def write() -> list[Written]:
        loop = asyncio.get_running_loop()
        transports = [Written() for _ in range(3)]
        corked = [_CorkedTransport(transport, loop) for transport in transports]
        for turn in (b"1", b"2"):
            for at, one in enumerate(corked):
                one.write("text" if at == 1 and turn == b"1" else turn)  # type: ignore[arg-type]
            await asyncio.sleep(0)
        return transports

    first, bad, last = asyncio.run(write())
    assert first.written == last.written == [b"1", b"2"]
    assert bad.is_aborted
    assert not bad.written


def test_what_is_written_in_one_turn_leaves_as_one_piece_in_the_order_of_the_connections() -> None:
    order: list[str] = []

    class Noted(Written):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def write(self, data: bytes | bytearray | memoryview) -> None:
            order.append(f"{self.name}:{bytes(data).decode()}")

    async def write() -> None:
        loop = asyncio.get_running_loop()
        one, other = (_CorkedTransport(Noted(name), loop) for name in "ab")
        one.write(b"head ")
        other.write(b"head ")
        one.write(b"body")
        other.write(b"body")
        assert not order
        await asyncio.sleep(0)

    asyncio.run(write())
    assert order == ["a:head body", "b:head body"]
