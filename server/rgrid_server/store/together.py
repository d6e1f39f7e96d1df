"""Doing once for many what each of them would have to do alone: items that wait for the same operation."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

from sqlalchemy.engine import Connection

from rgrid_server.store.database import StorageError

T = TypeVar("T")
Item = TypeVar("Item")

MAX_TOGETHER = 64
"""So many items at most are handed to an operation at once: more would hold others up for milliseconds."""


@dataclass(slots=True)
class _Waiting:
    item: Any
    future: asyncio.Future[Any]


class Group:
    """One run of an operation, on the items that wait when it begins.

    Args:
        operation: is given the items.
        take: gives them up, once.
    """

    def __init__(
        self,
        operation: Callable[[Connection, Sequence[Any]], Sequence[Any]],
        take: Callable[[], list[_Waiting]],
    ) -> None:
        self._operation = operation
        self._take = take
        self.waiting: list[_Waiting] = []

    def __call__(self, connection: Connection) -> Sequence[Any]:
        """Run it; the same items again where a conflict has undone it."""
        if not self.waiting:
            self.waiting = self._take()
        items = [waiting.item for waiting in self.waiting]
        return self._operation(connection, items) if items else []


def carried_by(operation: Callable[[Connection], Any]) -> int:
    """How many operations an operation stands for: a group for its items."""
    return len(operation.waiting) if isinstance(operation, Group) else 1


class WritesTogether(ABC):
    """Has a database hand the items that wait for the same operation to it at once, in one transaction.

    Which items those are is settled when the transaction begins, so that those come along that arrived while
    it waited for its turn. An operation that raises has done nothing; then each of its items is tried alone,
    so that none suffers from another.
    """

    groups_at_once: ClassVar[int]
    """How many such transactions may be under way; with fewer, each carries more."""

    def __init__(self) -> None:
        self._queues: dict[tuple[Hashable, bool], _Queue] = {}

    @abstractmethod
    async def write(
        self, operation: Callable[[Connection], T], *, is_long: bool = False, takes_in: bool = False
    ) -> T:
        """Run an operation in a transaction; when this returns, what it did is durable."""

    def write_together(
        self,
        operation: Callable[[Connection, Sequence[Item]], Sequence[T | Exception]],
        item: Item,
        *,
        takes_in: bool = False,
    ) -> Awaitable[T]:
        """Run an operation on an item, beside those of others; gives what it has returned for the item.

        Raises:
            Exception: what the operation has returned for the item, or has raised for it alone.
        """
        key = (operation, takes_in)
        queue = self._queues.get(key)
        if queue is None:
            write = partial(self.write, takes_in=takes_in)
            queue = self._queues[key] = _Queue(write, operation, self.groups_at_once)
        return queue.add(item)


class _Queue:
    """What waits for one operation."""

    def __init__(
        self,
        write: Callable[[Group], Awaitable[Sequence[Any]]],
        operation: Callable[[Connection, Sequence[Any]], Sequence[Any]],
        at_once: int,
    ) -> None:
        self._write = write
        self._operation = operation
        self._at_once = at_once
        # a database belongs to one loop; Python 3.11 makes a system call each time that it is asked which
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._yet_to_take: set[int] = set()

    def add(self, item: Any) -> asyncio.Future[Any]:
        """Queue an item; its result comes by the future."""
        loop = self._loop
        waiting = _Waiting(item, loop.create_future())
        self._waiting.append(waiting)
        is_taken_along = len(self._waiting) <= MAX_TOGETHER * len(self._yet_to_take)
        if not is_taken_along and len(self._running) < self._at_once:
            task = loop.create_task(self._run())
            self._running.add(task)
            self._yet_to_take.add(id(task))
            task.add_done_callback(self._ended)
        return waiting.future

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._yet_to_take.discard(id(task))

    async def _run(self) -> None:
        runner = id(asyncio.current_task())
        while self._waiting:
            self._yet_to_take.add(runner)
            group = Group(self._operation, partial(self._take, runner))
            try:
                results = await self._write(group)
            except Exception as error:
                # what was refused before it began took nobody along
                await self._each_alone(group.waiting or self._take(runner), error)
            else:
                for waiting, result in zip(group.waiting, results, strict=True):
                    _settle(waiting, result)

    def _take(self, runner: int) -> list[_Waiting]:
        self._yet_to_take.discard(runner)
        taken: list[_Waiting] = []
        while len(taken) < MAX_TOGETHER:
            try:
                taken.append(self._waiting.popleft())
            except IndexError:
                # another thread may have taken the last one
                break
        return taken

    async def _each_alone(self, group: list[_Waiting], error: Exception) -> None:
        if isinstance(error, StorageError) or len(group) == 1:
            for waiting in group:
                _settle(waiting, error)
            return
        for waiting in group:
            try:
                alone = Group(self._operation, partial(list, [waiting]))
                (result,) = await self._write(alone)
            except Exception as its_own:
                _settle(waiting, its_own)
            else:
                _settle(waiting, result)


def _settle(waiting: _Waiting, answer: Any) -> None:
    if isinstance(answer, Exception):
        settle(waiting.future, None, answer)
    else:
        settle(waiting.future, answer)


def settle(future: asyncio.Future[Any], result: Any, error: Exception | None = None) -> None:
    """Answer one who waits, with an error or else a result; it may have left."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
