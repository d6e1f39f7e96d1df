"""One piece of work for all who ask for it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Once:
    """Work that is under way, by what it is."""

    def __init__(self) -> None:
        self._pending: dict[str, asyncio.Task[Any]] = {}

    @property
    def under_way(self) -> frozenset[str]:
        """What is being done now."""
        return frozenset(self._pending)

    async def do(self, what: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do it, or wait for it; one of those who ask going away does not end it for the others."""
        task = self._pending.get(what)
        if task is None or task.done():
            task = asyncio.create_task(work())
            self._pending[what] = task
            task.add_done_callback(lambda done: self._settle(what, done))
        result: T = await asyncio.shield(task)
        return result

    async def close(self) -> None:
        """End what is under way."""
        pending = list(self._pending.values())
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def _settle(self, what: str, done: asyncio.Task[Any]) -> None:
        if self._pending.get(what) is done:
            del self._pending[what]
        if not done.cancelled():
            # who asked may be gone; then nobody else looks at the error
            done.exception()
