"""Telling the other processes on a PostgreSQL database what has changed: LISTEN and NOTIFY.

A notification is sent after the commit that it tells of, in a transaction of its own: PostgreSQL lets one
transaction at a time commit that notifies, and the writing ones are not to queue behind each other for it.
What is to be told while one is under way goes out together. A notification may be lost with its process, or
while the database is away; so nobody may rely on it alone, and whoever waits looks again from time to time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson
import psycopg
from sqlalchemy import URL

from rgrid_server.store.postgres import connect_arguments

log = logging.getLogger(__name__)

CHANNEL = "rgrid_topics"
MAX_PAYLOAD_BYTES = 7_900
"""PostgreSQL takes less than 8,000."""
MAX_PENDING = 20_000
"""Where more waits to be told, everyone is told to look at everything instead."""
RECONNECT_SECONDS = 1.0
EVERYTHING = "*"


class Notifications:
    """Sends topics to the other processes on a database, and hears theirs."""

    def __init__(self, url: URL) -> None:
        self._arguments = connect_arguments(url)
        self._self = secrets.token_hex(8)
        self._pending: dict[str, None] = {}
        self._has_pending = asyncio.Event()

    def send(self, topics: Iterable[str]) -> None:
        """Tell the other processes soon; returns at once."""
        self._pending.update(dict.fromkeys(topics))
        if len(self._pending) > MAX_PENDING:
            self._pending = {EVERYTHING: None}
        if self._pending:
            self._has_pending.set()

    async def run(self, heard: Callable[[Sequence[str]], None], missed: Callable[[], None]) -> None:
        """Send and listen until canceled, connecting again whenever that breaks.

        Args:
            heard: called with topics that another process sent.
            missed: called when some may not have been heard.
        """
        async with asyncio.TaskGroup() as both:
            both.create_task(self._again_and_again(self._send_all))
            both.create_task(self._again_and_again(lambda: self._listen(heard, missed)))

    async def _again_and_again(self, work: Callable[[], Any]) -> None:
        while True:
            try:
                await work()
            except psycopg.Error as error:
                log.debug("notifications between servers are interrupted: %s", error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(autocommit=True, **self._arguments)

    async def _send_all(self) -> None:
        async with await self._connect() as connection:
            while True:
                await self._has_pending.wait()
                self._has_pending.clear()
                topics, self._pending = list(self._pending), {}
                payloads = list(_payloads(self._self, topics))
                await connection.execute("SELECT pg_notify(%s, unnest(%s::text[]))", [CHANNEL, payloads])

    async def _listen(self, heard: Callable[[Sequence[str]], None], missed: Callable[[], None]) -> None:
        async with await self._connect() as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            # what was sent before this moment has gone by
            missed()
            async for notification in connection.notifies():
                sender, topics = orjson.loads(notification.payload)
                if sender == self._self:
                    continue
                if EVERYTHING in topics:
                    missed()
                else:
                    heard(topics)


def _payloads(sender: str, topics: Iterable[str]) -> Iterator[str]:
    """Messages that each fit into a notification; a topic that fits into none is left out."""
    part: list[str] = []
    size = frame = len(orjson.dumps([sender, []]))
    for topic in topics:
        length = len(orjson.dumps(topic)) + 1
        if size + length > MAX_PAYLOAD_BYTES and part:
            yield orjson.dumps([sender, part]).decode()
            part, size = [], frame
        if size + length <= MAX_PAYLOAD_BYTES:
            part.append(topic)
            size += length
    if part:
        yield orjson.dumps([sender, part]).decode()
