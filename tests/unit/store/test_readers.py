"""Queries that share a thread and a connection, each as if it were alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rgrid_server.store.readers import MAX_TOGETHER, Readers

LOST = -2


@dataclass(eq=False)
class Connection:
    """Is lost when it is told so."""

    number: int
    invalidated: bool = False


class Connections:
    """Numbers connections, and keeps which queries came on each."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.made = 0
        self.open = 0
        self.used: dict[int, list[int]] = {}
        self._failure = failure
        self._lock = threading.Lock()

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """A connection for a while."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            self.made += 1
            number = self.made
            self.open += 1
        try:
            yield Connection(number)
        finally:
            self.open -= 1

    def asks(self, value: int) -> Any:
        """A query that answers its value."""

        def query(connection: Connection) -> int:
            assert not connection.invalidated
            self.used.setdefault(connection.number, []).append(value)
            if value < 0:
                connection.invalidated = value == LOST
                raise ValueError(value)
            return value

        return query


def test_what_arrives_together_shares_connections_and_keeps_its_own_answer_or_error() -> None:
    async def ask() -> None:
        connections = Connections()
        readers = Readers(2, connections.connected)
        values = [*range(10), -1, *range(11, 3 * MAX_TOGETHER)]
        answers = await asyncio.gather(
            *(readers.run(connections.asks(value)) for value in values), return_exceptions=True
        )
        assert [str(one) for one in answers] == [str(value) for value in values]
        assert isinstance(answers[10], ValueError)
        # two threads at once at first, then whatever is left
        assert 3 <= connections.made <= 4
        assert max(map(len, connections.used.values())) <= MAX_TOGETHER
        await readers.close()
        assert connections.open == 0

    asyncio.run(ask())


def test_when_a_connection_is_lost_those_behind_hear_it_too_and_may_ask_again() -> None:
    async def ask() -> None:
        connections = Connections()
        readers = Readers(1, connections.connected)
        values = [1, LOST, 2, 3]
        answers = await asyncio.gather(
            *(readers.run(connections.asks(value)) for value in values), return_exceptions=True
        )
        assert [str(one) for one in answers] == ["1", str(LOST), str(LOST), str(LOST)]
        assert await readers.run(connections.asks(2)) == 2
        await readers.close()

    asyncio.run(ask())


def test_without_a_connection_each_hears_why() -> None:
    async def ask() -> None:
        connections = Connections(OSError("away"))
        readers = Readers(3, connections.connected)
        answers = await asyncio.gather(
            *(readers.run(connections.asks(value)) for value in range(40)), return_exceptions=True
        )
        assert [str(one) for one in answers] == ["away"] * 40
        await readers.close()

    asyncio.run(ask())


def test_who_leaves_takes_nobody_along_and_close_waits_for_the_rest() -> None:
    async def ask() -> None:
        connections = Connections()
        readers = Readers(1, connections.connected)
        tasks = [asyncio.create_task(readers.run(connections.asks(value))) for value in range(50)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.sleep(0)
        await readers.close()
        assert [task.result() for task in tasks if task is not tasks[3]] == [
            value for value in range(50) if value != 3
        ]
        assert tasks[3].cancelled()
        # and it was not asked for nothing
        assert all(3 not in values for values in connections.used.values())

    asyncio.run(ask())
