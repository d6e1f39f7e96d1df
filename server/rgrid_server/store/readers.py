"""Threads for short queries that take several along at a time.

To hand a query to a thread and to hear of its end takes the event loop about as long as a short query takes
the thread, and threads of Python run one at a time. So what waits is handed over together, on one connection,
and told of together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.engine import Connection

from rgrid_server.store.together import settle

T = TypeVar("T")

MAX_TOGETHER = 16
"""So many queries at most wait for each other."""


@dataclass(slots=True)
class _Waiting:
    query: Callable[[Connection], Any]
    future: asyncio.Future[Any]


class _Outcome(NamedTuple):
    result: Any
    error: Exception | None = None


class Readers:
    """Runs queries, each as if it were alone; it belongs to the event loop that first uses it.

    Args:
        count: how many threads, each with a connection while it has something to do.
        connected: gives a connection for as long as it is needed.
    """

    def __init__(self, count: int, connected: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._count = count
        self._connected = connected
        self._threads = ThreadPoolExecutor(count, "postgres-read")
        self._waiting: deque[_Waiting] = deque()
        self._under_way: set[asyncio.Future[list[_Outcome]]] = set()
        self._is_due = False

    async def run(self, query: Callable[[Connection], T]) -> T:
        """Run a query.

        Raises:
            Exception: what it raises, or why there is no connection.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(query, loop.create_future())
        self._waiting.append(waiting)
        if not self._is_due:
            # once round the loop, so that those which arrive together go together
            self._is_due = True
            loop.call_soon(self._hand_over)
        found: T = await waiting.future
        return found

    async def close(self) -> None:
        """Finish what waits, then let go of the threads."""
        # what came last is handed over
        await asyncio.sleep(0)
        while self._under_way:
            await asyncio.wait(self._under_way)
        await asyncio.to_thread(self._threads.shutdown)

    def _hand_over(self) -> None:
        self._is_due = False
        loop = asyncio.get_running_loop()
        # not for those who have left
        self._waiting = deque(one for one in self._waiting if not one.future.done())
        while self._waiting and (free := self._count - len(self._under_way)) > 0:
            # shared out among the threads that are free
            size = min(MAX_TOGETHER, -(-len(self._waiting) // free))
            group = [self._waiting.popleft() for _ in range(size)]
            job = loop.run_in_executor(self._threads, self._each, [one.query for one in group])
            self._under_way.add(job)
            job.add_done_callback(partial(self._ended, group))

    def _each(self, queries: Sequence[Callable[[Connection], Any]]) -> list[_Outcome]:
        found: list[_Outcome] = []
        with self._connected() as connection:
            for query in queries:
                try:
                    found.append(_Outcome(query(connection)))
                except Exception as error:
                    found.append(_Outcome(None, error))
                    if connection.invalidated:
                        # it was lost, and the others with it: each is asked again
                        found += [_Outcome(None, error)] * (len(queries) - len(found))
                        break
        return found

    def _ended(self, group: Sequence[_Waiting], job: asyncio.Future[list[_Outcome]]) -> None:
        self._under_way.discard(job)
        self._hand_over()
        error = job.exception()
        if error is None:
            outcomes = job.result()
        else:
            # there was no connection
            outcomes = [_Outcome(None, error if isinstance(error, Exception) else RuntimeError(str(error)))]
            outcomes *= len(group)
        for one, outcome in zip(group, outcomes, strict=True):
            settle(one.future, outcome.result, outcome.error)
