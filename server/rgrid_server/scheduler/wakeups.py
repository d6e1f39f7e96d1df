"""Waking those who wait, in this process: by topic, after the commit that they wait for."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

WORK = "work"
"""Something became ready to be claimed."""


def execution_topic(execution_id: str) -> str:
    """An execution changed its status."""
    return f"execution:{execution_id}"


def batch_topic(tenant_id: str, batch_id: str) -> str:
    """A batch's counts changed."""
    return f"batch:{tenant_id}:{batch_id}"


def log_topic(execution_id: str) -> str:
    """An execution's log grew."""
    return f"log:{execution_id}"


def runner_topic(runner_id: str) -> str:
    """A runner has something to be told."""
    return f"runner:{runner_id}"


class Watch:
    """One who waits for any of some topics."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """End the wait, or the next one."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a wake since the last wait; returns whether there was one within ``seconds``."""
        if seconds <= 0:
            return False
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Wakeups:
    """Topics and who watches them.

    Watch first, then read, then wait: what changes between the read and the wait ends the wait.
    """

    def __init__(self) -> None:
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)

    @contextmanager
    def watch(self, *topics: str) -> Iterator[Watch]:
        """Watch topics for the length of a ``with`` block."""
        watch = Watch()
        for topic in topics:
            self._watches[topic].add(watch)
        try:
            yield watch
        finally:
            for topic in topics:
                self._watches[topic].discard(watch)
                if not self._watches[topic]:
                    del self._watches[topic]

    def wake(self, topics: Iterable[str]) -> None:
        """Wake everyone who watches any of the topics."""
        for topic in topics:
            for watch in self._watches.get(topic, ()):
                watch.wake()

    def wake_all(self) -> None:
        """Wake everyone: the server is about to stop."""
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()
