"""One reader of the event feed for all that wait in a process through one connection.

Ten thousand waiting tasks cost one held request: the feed of every transition. Whoever begins to wait is
looked up once, a thousand at a time, after the feed's position is known, so that nothing can fall between the
two. The feed is read again from its position after every break; where the server does not know that position
any more, everybody who waits is looked up anew.

Logs that are followed cost no connection either: one lookup tells which of a thousand logs have grown, and
only those are read, few at a time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from contextvars import Context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from rgrid import calls
from rgrid.aio import AsyncClient
from rgrid.exceptions import ApiError, InvalidRequest, NotFound, RGridError
from rgrid.models import Execution, LogEntry, LogPage
from rgrid.patience import PASSING

T = TypeVar("T")

log = logging.getLogger(__name__)

HELD_SECONDS = 30.0
"""So long the server may hold the feed's request while nothing happens."""
LOOKUP_IDS = 1000
"""The most that one lookup takes."""
SCOUT_SECONDS = 1.0
"""So often the followed logs are looked at, a thousand of them; ten thousand ten times as seldom."""
READERS = 4
"""So many short reads, of logs and of batches, are under way at once."""
RETRY_SECONDS = (0.2, 10.0)
"""The first and the longest pause while the server does not answer; each is drawn below it."""
FAILED_PAUSE_SECONDS = 5.0


class Feed:
    """Tells those who wait what has ended.

    Args:
        client: the connection's; closed with the feed.
    """

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self._waiting: defaultdict[str, set[asyncio.Future[str]]] = defaultdict(set)
        self._unseen: dict[str, None] = {}
        self._has_unseen = asyncio.Event()
        self._batches: defaultdict[str, set[asyncio.Future[str]]] = defaultdict(set)
        self._moved: dict[str, None] = {}
        self._has_moved = asyncio.Event()
        self._grown: defaultdict[str, set[_Follower]] = defaultdict(set)
        self._has_position = asyncio.Event()
        self._reading = asyncio.Semaphore(READERS)
        # whoever waits first must not lend its log's context to what is done for all
        self._tasks = [
            asyncio.get_running_loop().create_task(self._keep_up(work), context=Context())
            for work in (self._read, self._look, self._look_at_batches, self._scout)
        ]

    async def ended(self, execution_id: str) -> str:
        """Wait for the end of an execution; returns its status.

        Raises:
            rgrid.exceptions.RGridError: the server refuses to tell, or knows no such execution.
        """
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[execution_id].add(future)
        self._look_at([execution_id])
        try:
            return await future
        finally:
            _leave(self._waiting, execution_id, future)

    async def batch_ended(self, batch_id: str, look_seconds: float) -> str:
        """Wait until all of a batch has ended; returns its status.

        It is looked at when one of its executions has ended, and every ``look_seconds``, because an open
        batch may also end by being closed.

        Raises:
            rgrid.exceptions.RGridError: the server refuses to tell, or knows no such batch.
        """
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._batches[batch_id].add(future)
        try:
            while True:
                self._move([batch_id])
                done, _ = await asyncio.wait([future], timeout=look_seconds)
                if done:
                    return future.result()
        finally:
            _leave(self._batches, batch_id, future)

    async def budget_left(self, least_micros: int, look_seconds: float) -> int | None:
        """Wait until this month's budget leaves so much; returns what it leaves, None without a limit.

        Raises:
            rgrid.exceptions.RGridError: the server refuses to tell.
        """
        while True:
            left_micros = (await self.ask(calls.get_budget())).left_micros
            if left_micros is None or left_micros >= least_micros:
                return left_micros
            await asyncio.sleep(look_seconds)

    async def ask(self, call: calls.Call[T]) -> T:
        """The answer to a short question, few of which are asked at once, however long the server is away.

        Raises:
            rgrid.exceptions.RGridError: the server refuses to tell.
        """
        return await self._answer_to(call, self._reading)

    async def log(self, execution_id: str) -> AsyncIterator[LogEntry]:
        """A log's entries as they come, until it is complete.

        Raises:
            rgrid.exceptions.RGridError: the server refuses to tell, or keeps the log no more.
        """
        follower = _Follower()
        self._grown[execution_id].add(follower)
        self._look_at([execution_id])
        try:
            while True:
                await follower.grown.wait()
                follower.grown.clear()
                page = await self._log_page(execution_id, follower.after)
                while page.entries:
                    for entry in page.entries:
                        yield entry
                    follower.after = page.next_after
                    page = await self._log_page(execution_id, follower.after)
                if page.is_complete:
                    return
        finally:
            _leave(self._grown, execution_id, follower)

    async def close(self) -> None:
        """End the reader, and let go of the connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.close()

    # what is done for all

    async def _keep_up(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it again after an error that nobody foresaw; who waits hears of it rather than of nothing."""
        while True:
            try:
                await work()
            except Exception as error:
                log.exception("waiting for the grid failed; it is begun again")
                failure = RGridError(f"waiting failed: {type(error).__name__}: {error}")
                failure.__cause__ = error
                await self._fail(failure)

    async def _read(self) -> None:
        after: int | None = None
        while True:
            wait_seconds = 0 if after is None else HELD_SECONDS
            try:
                page = await self._answer_to(calls.get_events(after, wait_seconds=wait_seconds))
            except RGridError as error:
                if after is not None and _is_lost_position(error):
                    after = None
                else:
                    await self._fail(error)
                continue
            if after is None:
                self._begin_anew()
            after = page.next_after
            for event in page.events:
                if event.is_terminal:
                    self._end(event.execution_id, event.status)
                    self._move([event.batch_id or ""])

    def _begin_anew(self) -> None:
        """Nothing is missed from here on; what was before is to be looked at."""
        self._has_position.set()
        self._look_at([*self._waiting, *self._grown])
        self._move(self._batches)

    async def _look(self) -> None:
        await self._has_position.wait()
        while True:
            await self._has_unseen.wait()
            ids = _taken(self._unseen, self._has_unseen)
            wanted = [one for one in ids if one in self._waiting or one in self._grown]
            try:
                found = await self._lookup(wanted)
            except RGridError as error:
                self._refuse(wanted, error)
                continue
            unknown = [one for one in wanted if one not in found]
            self._refuse(unknown, NotFound("the server knows no such execution", status=404))

    async def _look_at_batches(self) -> None:
        """Look at batches of which something has ended, in one request for all of a second."""
        await self._has_position.wait()
        while True:
            await self._has_moved.wait()
            ids = _taken(self._moved, self._has_moved)
            wanted = [one for one in ids if one in self._batches]
            try:
                found = await self.ask(calls.lookup_batches(wanted)) if wanted else {}
            except RGridError as error:
                self._refuse_batches(wanted, error)
                continue
            for batch_id, batch in found.items():
                if batch.is_terminal:
                    _settle(self._batches.get(batch_id, ()), batch.status)
            unknown = [one for one in wanted if one not in found]
            self._refuse_batches(unknown, NotFound("the server knows no such batch", status=404))
            # a batch of thousands is not looked at for each of them
            await asyncio.sleep(SCOUT_SECONDS)

    async def _scout(self) -> None:
        """Look which of the followed logs have grown."""
        while True:
            await asyncio.sleep(SCOUT_SECONDS * max(1.0, len(self._grown) / LOOKUP_IDS))
            ids = list(self._grown)
            for first in range(0, len(ids), LOOKUP_IDS):
                # what cannot be told now is told later; those who wait hear of it by the feed's reader
                with suppress(RGridError):
                    await self._lookup(ids[first : first + LOOKUP_IDS])

    async def _lookup(self, ids: list[str]) -> dict[str, Execution]:
        """Look at executions, and tell those who wait for them."""
        if not ids:
            return {}
        call = calls.lookup_executions(ids, log_sequence=any(one in self._grown for one in ids))
        found = await self.ask(call)
        for execution in found.values():
            for follower in self._grown.get(execution.execution_id, ()):
                if (execution.log_sequence or 0) > follower.after:
                    follower.grown.set()
            if execution.is_terminal:
                self._end(execution.execution_id, execution.status)
        return found

    def _look_at(self, ids: Iterable[str]) -> None:
        self._unseen.update(dict.fromkeys(ids))
        self._has_unseen.set()

    def _move(self, batch_ids: Iterable[str]) -> None:
        self._moved.update(dict.fromkeys(one for one in batch_ids if one in self._batches))
        if self._moved:
            self._has_moved.set()

    def _end(self, execution_id: str, status: str) -> None:
        _set(one.grown for one in self._grown.get(execution_id, ()))
        _settle(self._waiting.get(execution_id, ()), status)

    def _refuse(self, ids: Iterable[str], error: RGridError) -> None:
        for execution_id in ids:
            # who follows a log asks for it and hears the same
            _set(one.grown for one in self._grown.get(execution_id, ()))
            _settle(self._waiting.get(execution_id, ()), error)

    def _refuse_batches(self, ids: Iterable[str], error: RGridError) -> None:
        for batch_id in ids:
            _settle(self._batches.get(batch_id, ()), error)

    async def _fail(self, error: RGridError) -> None:
        """Tell all who wait that the server refuses; who comes later is not refused unasked."""
        self._refuse([*self._waiting, *self._grown], error)
        self._refuse_batches(list(self._batches), error)
        await asyncio.sleep(FAILED_PAUSE_SECONDS)

    async def _log_page(self, execution_id: str, after: int) -> LogPage:
        return await self.ask(calls.get_logs(execution_id, after))

    async def _answer_to(
        self, call: calls.Call[T], gate: AbstractAsyncContextManager[None] | None = None
    ) -> T:
        """Ask until the server answers, however long it is away: the task's own timeout bounds the wait.

        What is refused again and again waits outside of the gate, where it keeps nobody else from asking.
        """
        pause, longest = RETRY_SECONDS
        while True:
            try:
                async with gate or nullcontext():
                    return await self.client.send(call)
            except PASSING:
                # ten thousand do not come back in the same moment
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause = min(longest, pause * 2)


class _Follower:
    """Someone who follows a log: up to where it was read, and whether there is more."""

    def __init__(self) -> None:
        self.after = 0
        self.grown = asyncio.Event()


_feeds: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Shared]] = WeakKeyDictionary()


class _Shared:
    """A feed that is being begun or in use, and by how many."""

    def __init__(self) -> None:
        self.users = 0
        self.begun = asyncio.Lock()
        self.feed: Feed | None = None


@asynccontextmanager
async def shared_feed(
    connection_id: str, connect: Callable[[], Awaitable[AsyncClient]]
) -> AsyncIterator[Feed]:
    """The feed of a connection in this event loop: begun by the first, ended when the last has left.

    Args:
        connection_id: who shares: those of the same one.
        connect: makes the client, where a feed is begun.
    """
    of_loop = _feeds.setdefault(asyncio.get_running_loop(), {})
    shared = of_loop.setdefault(connection_id, _Shared())
    shared.users += 1
    try:
        async with shared.begun:
            if shared.feed is None:
                shared.feed = Feed(await connect())
        yield shared.feed
    finally:
        shared.users -= 1
        if not shared.users:
            # whoever comes while this one is closed begins another
            of_loop.pop(connection_id, None)
            if shared.feed is not None:
                await asyncio.shield(shared.feed.close())


def _is_lost_position(error: RGridError) -> bool:
    """Whether the server does not know a position: it is too old, or another database was restored."""
    return isinstance(error, InvalidRequest) or (isinstance(error, ApiError) and error.status == 410)


def _taken(noted: dict[str, None], has_noted: asyncio.Event) -> list[str]:
    """The first of what was noted, as many as one lookup takes; the event says whether any are left."""
    ids = list(noted)[:LOOKUP_IDS]
    for one in ids:
        del noted[one]
    if not noted:
        has_noted.clear()
    return ids


def _set(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        event.set()


def _settle(futures: Iterable[asyncio.Future[str]], outcome: str | RGridError) -> None:
    for future in futures:
        if future.done():
            continue
        if isinstance(outcome, RGridError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _leave(groups: dict[str, set[Any]], name: str, member: object) -> None:
    members = groups.get(name)
    if members is not None:
        members.discard(member)
        if not members:
            del groups[name]
