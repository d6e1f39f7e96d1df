"""The feed of a tenant's transitions: read once for all who follow, and from any position on for each.

Whoever follows stands either behind the tail's beginning, and reads pages of the database at its own pace, or
within it, and shares what one query has read. A reader that stalls holds a page and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter

from sqlalchemy.engine import Connection

from rgrid_server.clock import is_set_within
from rgrid_server.domain.submission import Problem
from rgrid_server.errors import Gone, Invalid
from rgrid_server.scheduler.wakeups import Wakeups, tenant_topic
from rgrid_server.store import events, results
from rgrid_server.store.database import Database, Row

log = logging.getLogger(__name__)

PAGE_EVENTS = 200
TAIL_EVENTS = 2_000
LOOK_AGAIN_SECONDS = 5.0
"""A wake may be lost with the process that was to send it."""

HIDDEN_SECONDS = 0.05
"""What was committed may be hidden a while behind an open transaction: after a wake it is looked for again so
soon, and then ever less often."""

GATHER_SECONDS = 0.005
"""What happens within so long is read together."""


@dataclass(slots=True, eq=False)
class Event:
    """One transition, with what tells its execution apart."""

    position: int
    row: Row
    labels: Row | None
    wire: bytes = field(default=b"")
    """How the edge writes it, once for all readers."""


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive events, and the position behind them; none when nothing happened for a while."""

    events: Sequence[Event]
    position: int


class Feed:
    """Follows tenants' transitions."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups
        self._tails: dict[str, _Tail] = {}

    @property
    def is_ending(self) -> bool:
        """Whether the server is about to stop, so that streams have to end."""
        return self._wakeups.is_ending

    async def begin(self, after: int | None) -> int:
        """The position to read from: the one asked for, or now.

        Raises:
            Invalid: it is in the future.
            Gone: ``position_expired``, events behind it were removed.
        """

        def look(connection: Connection) -> int:
            latest = max(events.latest_position(connection), results.forgotten_position(connection))
            if after is None:
                return latest
            if after > latest:
                raise Invalid(
                    [
                        Problem(
                            ("after",),
                            f"the position {after} is in the future; the feed has come to {latest}, leave "
                            "'after' out to begin there",
                            code="position_unknown",
                            part="query",
                        )
                    ]
                )
            _check_kept(connection, after)
            return after

        return await self._database.read(look)

    async def page(
        self, tenant_id: str, after: int, *, limit: int, batch_id: str | None = None, wait_seconds: float = 0
    ) -> Page:
        """Events behind a position; waits up to ``wait_seconds`` for the first one.

        Raises:
            Gone: as :meth:`begin`.
        """
        page = await self._read(tenant_id, after, limit)
        wanted = _of_batch(page, batch_id)
        if wanted.events or not wait_seconds:
            return wanted
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        async for page in self.follow(
            tenant_id, wanted.position, batch_id=batch_id, idle_seconds=wait_seconds, limit=limit
        ):
            wanted = page
            if page.events or loop.time() >= deadline:
                break
        return wanted

    async def follow(
        self,
        tenant_id: str,
        after: int,
        *,
        idle_seconds: float,
        batch_id: str | None = None,
        limit: int = PAGE_EVENTS,
    ) -> AsyncIterator[Page]:
        """Every event behind a position, in pages, until the server is about to stop.

        Yields a page without events when there was none for ``idle_seconds``.

        Raises:
            Gone: as :meth:`begin`; the reader stalled for as long as events are kept.
        """
        loop = asyncio.get_running_loop()
        position, spoken_at = after, loop.time()
        with self._tail(tenant_id, await self._database.read(events.latest_position)) as tail:
            while not self.is_ending:
                start = tail.start
                if position >= start:
                    page = tail.behind(position, limit)
                else:
                    page = await self._read(tenant_id, position, limit)
                    if not page.events:
                        # nothing of the tenant stands between here and what the tail has
                        page = Page([], start)
                    # a backlog is read without ever waiting: let the others have their turn
                    await asyncio.sleep(0)
                is_new, position = page.position > position, page.position
                page = _of_batch(page, batch_id)
                has_news = is_new or await tail.grown(position, spoken_at + idle_seconds - loop.time())
                if page.events or not has_news:
                    yield page
                    spoken_at = loop.time()

    async def _read(self, tenant_id: str, after: int, limit: int) -> Page:
        return await self._database.read(lambda c: _page(c, tenant_id, after, limit))

    @contextmanager
    def _tail(self, tenant_id: str, start: int) -> Iterator[_Tail]:
        tail = self._tails.get(tenant_id)
        if tail is None:
            tail = self._tails[tenant_id] = _Tail(self._database, self._wakeups, tenant_id, start)
        tail.readers += 1
        try:
            yield tail
        finally:
            tail.readers -= 1
            if not tail.readers:
                del self._tails[tenant_id]
                tail.close()


class _Tail:
    """A tenant's newest events: all of those behind ``start``, read as they come."""

    def __init__(self, database: Database, wakeups: Wakeups, tenant_id: str, start: int) -> None:
        self.readers = 0
        self.start = self._position = start
        self._database = database
        self._wakeups = wakeups
        self._tenant_id = tenant_id
        self._events: list[Event] = []
        self._grown = asyncio.Event()
        self._task = asyncio.create_task(self._read_on())

    def behind(self, position: int, limit: int) -> Page:
        """Events behind a position that is not before ``start``."""
        first = bisect_right(self._events, position, key=attrgetter("position"))
        found = self._events[first : first + limit]
        return Page(found, found[-1].position if found else position)

    async def grown(self, position: int, seconds: float) -> bool:
        """Wait until there are events behind a position; False after some seconds without."""
        if self._position > position:
            return True
        if seconds <= 0:
            return False
        return await is_set_within(self._grown, seconds)

    def close(self) -> None:
        """Read no more."""
        self._task.cancel()

    async def _read_on(self) -> None:
        with self._wakeups.watch(tenant_topic(self._tenant_id)) as watch:
            pause_seconds = HIDDEN_SECONDS
            while not self._wakeups.is_ending:
                try:
                    found = await self._look()
                except Exception:
                    log.exception("the feed of %s cannot be read just now", self._tenant_id)
                    found = 0
                if found < PAGE_EVENTS:
                    was_woken = await watch.wait(pause_seconds)
                    pause_seconds = (
                        HIDDEN_SECONDS if was_woken else min(2 * pause_seconds, LOOK_AGAIN_SECONDS)
                    )
                await asyncio.sleep(GATHER_SECONDS)
        self._release()

    async def _look(self) -> int:
        page = await self._database.read(
            lambda c: _page(c, self._tenant_id, self._position, PAGE_EVENTS, is_tail=True)
        )
        if page.events:
            self._events.extend(page.events)
            self._position = page.position
            surplus = len(self._events) - TAIL_EVENTS
            if surplus > 0:
                self.start = self._events[surplus - 1].position
                del self._events[:surplus]
            self._release()
        return len(page.events)

    def _release(self) -> None:
        waited, self._grown = self._grown, asyncio.Event()
        waited.set()


def _page(connection: Connection, tenant_id: str, after: int, limit: int, *, is_tail: bool = False) -> Page:
    if not is_tail:
        _check_kept(connection, after)
    rows = events.events_after(connection, tenant_id, after, limit)
    labels = results.labels_of(connection, [row["execution_id"] for row in rows]) if rows else {}
    found = [Event(row["sequence"], row, labels.get(row["execution_id"])) for row in rows]
    return Page(found, found[-1].position if found else after)


def _of_batch(page: Page, batch_id: str | None) -> Page:
    if batch_id is None:
        return page
    return Page([event for event in page.events if event.row["batch_id"] == batch_id], page.position)


def _check_kept(connection: Connection, after: int) -> None:
    forgotten = results.forgotten_position(connection)
    if after < forgotten:
        raise Gone(
            "position_expired",
            f"events behind the position {after} were removed, the feed begins at {forgotten}; look at the "
            "executions that you wait for with POST /executions/lookup, and follow on from there",
            oldest_position=forgotten,
        )
