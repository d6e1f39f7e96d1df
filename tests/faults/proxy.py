"""A TCP proxy on loopback that tears connections, by a seeded plan.

An *exchange* is what one side asks and the other answers on one connection: bytes from the client after
bytes from the server begin the next one. For each exchange the plan is asked which fault befalls it. The
proxy knows no HTTP: since the server answers only what it has committed, its first bytes say that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

READ_BYTES = 64 * 1024


class Kind(StrEnum):
    """What may befall an exchange."""

    NONE = "none"
    CUT_BEFORE = "cut before forwarding"
    CUT_REQUEST = "cut in the request"
    CUT_UPLOAD = "cut in the upload"
    LOSE_ANSWER = "answer lost"
    CUT_ANSWER = "cut in the answer"
    DELAY = "delayed"
    BLACKHOLE = "swallowed for a while, then cut"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and its measure.

    Attributes:
        kind: what befalls the exchange.
        after_bytes: so much of the request (of the answer, for CUT_ANSWER) passes before the cut.
        seconds: how long a delay or a black hole lasts.
    """

    kind: Kind = Kind.NONE
    after_bytes: int = 0
    seconds: float = 0.0


Plan = Callable[[], Fault]
"""The fault of the next exchange."""


def no_faults() -> Fault:
    """A plan that does nothing."""
    return Fault()


def seeded(seed: int, share: float, kinds: Mapping[Kind, int] | None = None) -> Plan:
    """A plan that gives a share of exchanges a fault, the kinds by their weights; a seed is always the same.

    >>> plan, again = seeded(3, 0.5), seeded(3, 0.5)
    >>> [plan() for _ in range(100)] == [again() for _ in range(100)]
    True
    """
    chance = random.Random(seed)
    weights = dict(kinds or dict.fromkeys((kind for kind in Kind if kind is not Kind.NONE), 1))

    def plan() -> Fault:
        # all three are drawn each time, so that an exchange more or less changes no other one's measure
        is_hit = chance.random() < share
        kind = chance.choices(list(weights), list(weights.values()))[0]
        measure = chance.random()
        if not is_hit:
            return Fault()
        if kind is Kind.CUT_UPLOAD:
            return Fault(kind, after_bytes=20_000 + int(measure * 200_000))
        return Fault(kind, after_bytes=1 + int(measure * 300), seconds=0.01 + 0.3 * measure)

    return plan


class _Cut(Exception):
    """The plan ends this connection."""


class Proxy:
    """Forwards connections to a target that may move, in a thread of its own.

    ``dealt`` counts the faults of exchanges, ``refused`` the connections that led nowhere, ``asked_bytes``
    and ``answered_bytes`` what has passed in either direction; ``held`` is set while an answer is kept back.

    Args:
        target: host and port of the server, asked for at each connection; None while there is none.
        plan: the fault of each exchange.
    """

    def __init__(self, target: Callable[[], tuple[str, int] | None], plan: Plan = no_faults) -> None:
        self.port = 0
        self.dealt: Counter[Kind] = Counter()
        self.refused = 0
        self.asked_bytes = 0
        self.answered_bytes = 0
        self._target = target
        self._plan = plan
        self.held = threading.Event()
        self._is_isolated = False
        self._holds_next = False
        self._connections: set[asyncio.Task[None]] = set()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._released = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """Where the proxy listens."""
        return f"http://127.0.0.1:{self.port}"

    def plan(self, plan: Plan) -> None:
        """Go on by another plan."""
        self._plan = plan

    def isolate(self) -> None:
        """Cut every connection and let none be made, until ``join``."""
        self._is_isolated = True
        asyncio.run_coroutine_threadsafe(self._cut_all(), self._loop).result(60)

    def join(self) -> None:
        """Let connections be made again."""
        self._is_isolated = False

    def hold_next(self) -> None:
        """Keep back the answer that comes next, until ``release`` or the proxy's end; others pass."""
        self._holds_next = True

    def release(self) -> None:
        """Let go of the answer that is kept back."""
        self._loop.call_soon_threadsafe(self._released.set)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._started.wait(60)
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(60)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stopping.wait()
        server.close()
        await self._cut_all()

    async def _cut_all(self) -> None:
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._connect(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = [writer]
        try:
            target = None if self._is_isolated else self._target()
            if target is None:
                self.refused += 1
                return
            up_reader, up_writer = await asyncio.open_connection(*target)
            opened.append(up_writer)
            hooks = self._next_fault, self._count, self._hold
            await _Connection(*hooks, reader, writer, up_reader, up_writer).carry()
        except (OSError, _Cut, asyncio.CancelledError):
            # both sides see a connection that is reset, which is what this proxy is for
            return
        finally:
            for one in opened:
                # reset, not closed: nothing that was still to be sent arrives later
                one.transport.abort()

    def _count(self, asked_bytes: int, answered_bytes: int) -> None:
        self.asked_bytes += asked_bytes
        self.answered_bytes += answered_bytes

    async def _hold(self) -> None:
        if self._holds_next:
            self._holds_next = False
            self._released.clear()
            self.held.set()
            await self._released.wait()
            self.held.clear()

    def _next_fault(self) -> Fault:
        fault = self._plan()
        self.dealt[fault.kind] += 1
        return fault


class _Connection:
    """One connection with both its directions."""

    def __init__(
        self,
        next_fault: Plan,
        count: Callable[[int, int], None],
        hold: Callable[[], Awaitable[None]],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        self._next_fault = next_fault
        self._count = count
        self._hold = hold
        self._reader, self._writer = reader, writer
        self._up_reader, self._up_writer = up_reader, up_writer
        self._fault = Fault()
        self._asked_bytes = self._answered_bytes = 0
        self._is_answered = True

    async def carry(self) -> None:
        """Forward until either side ends.

        Raises:
            _Cut: the plan ends it.
        """
        directions = [asyncio.ensure_future(self._ask()), asyncio.ensure_future(self._answer())]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            for one in directions:
                if one.done():
                    one.result()
        finally:
            for one in directions:
                one.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _ask(self) -> None:
        while data := await self._reader.read(READ_BYTES):
            if self._is_answered:
                self._is_answered = False
                self._fault = self._next_fault()
                self._asked_bytes = self._answered_bytes = 0
                await self._begin()
            await self._send_within(self._up_writer, data, (Kind.CUT_REQUEST, Kind.CUT_UPLOAD))
        with contextlib.suppress(OSError):
            self._up_writer.write_eof()
        # the client has said all; what is still answered goes to it
        await asyncio.Event().wait()

    async def _answer(self) -> None:
        while data := await self._up_reader.read(READ_BYTES):
            self._is_answered = True
            await self._hold()
            if self._fault.kind is Kind.LOSE_ANSWER:
                raise _Cut
            await self._send_within(self._writer, data, (Kind.CUT_ANSWER,))

    async def _begin(self) -> None:
        if self._fault.kind is Kind.CUT_BEFORE:
            raise _Cut
        if self._fault.kind is Kind.DELAY:
            await asyncio.sleep(self._fault.seconds)
        if self._fault.kind is Kind.BLACKHOLE:
            await asyncio.sleep(self._fault.seconds)
            raise _Cut

    async def _send_within(self, writer: asyncio.StreamWriter, data: bytes, cuts: tuple[Kind, ...]) -> None:
        is_cut = self._fault.kind in cuts
        passed = self._answered_bytes if Kind.CUT_ANSWER in cuts else self._asked_bytes
        if is_cut:
            data = data[: max(0, self._fault.after_bytes - passed)]
        writer.write(data)
        await writer.drain()
        if Kind.CUT_ANSWER in cuts:
            self._answered_bytes += len(data)
            self._count(0, len(data))
        else:
            self._asked_bytes += len(data)
            self._count(len(data), 0)
        if is_cut and passed + len(data) >= self._fault.after_bytes:
            raise _Cut
