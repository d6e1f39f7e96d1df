"""Waking those who wait: by topic, after the commit that they wait for.

Where several servers share a database, a wake is also told to the others. That may be lost; so there those
who wait look again from time to time, as if they had been woken.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rgrid_server.clock import is_set_within

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


def tenant_topic(tenant_id: str) -> str:
    """A tenant's feed of transitions grew."""
    return f"tenant:{tenant_id}"


def runner_topic(runner_id: str) -> str:
    """A runner has something to be told."""
    return f"runner:{runner_id}"


def room_topic(runner_id: str) -> str:
    """A runner has more room than when it asked for work."""
    return f"room:{runner_id}"


RELOOK_SECONDS = 15.0
"""So often those who wait look again where a wake may be lost."""
WORK_RELOOK_SECONDS = 2.0
"""So often those do that wait for work: what another server was about to claim may be left over."""


class Watch:
    """One who waits for any of some topics; with ``relook_seconds`` never longer than that at a time."""

    def __init__(self, owner: Wakeups, relook_seconds: float | None = None) -> None:
        self._owner = owner
        self._event = asyncio.Event()
        self._relook_seconds = relook_seconds

    def wake(self) -> None:
        """End the wait, or the next one."""
        self._event.set()

    @property
    def is_woken(self) -> bool:
        """Whether there was a wake since the last wait."""
        return self._event.is_set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a wake since the last wait; returns whether to look again within ``seconds``.

        A server that is about to stop lets nobody wait: the answer is then False, as after the whole time.
        """
        if seconds <= 0 or self._owner.is_ending:
            return False
        limit = seconds if self._relook_seconds is None else min(seconds, self._relook_seconds)
        if not await is_set_within(self._event, limit):
            return limit < seconds
        self._event.clear()
        return not self._owner.is_ending


class Wakeups:
    """Topics and who watches them.

    Watch first, then read, then wait: what changes between the read and the wait ends the wait.

    Args:
        tell_others: tells topics to the other servers on the database; None where there are none.
    """

    def __init__(self, tell_others: Callable[[Sequence[str]], None] | None = None) -> None:
        self._tell_others = tell_others
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self.is_ending = False

    @contextmanager
    def watch(self, *topics: str) -> Iterator[Watch]:
        """Watch topics for the length of a ``with`` block."""
        relook_seconds = WORK_RELOOK_SECONDS if WORK in topics else RELOOK_SECONDS
        watch = Watch(self, None if self._tell_others is None else relook_seconds)
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
        """Wake everyone who watches any of the topics, on every server."""
        woken = list(topics)
        self.wake_here(woken)
        if self._tell_others is not None:
            self._tell_others(woken)

    def wake_here(self, topics: Iterable[str]) -> None:
        """Wake those of this server who watch any of the topics."""
        for topic in topics:
            for watch in self._watches.get(topic, ()):
                watch.wake()

    def waiting(self) -> dict[str, int]:
        """How many watch, by the kind of their topic."""
        kinds: dict[str, int] = {}
        for topic, watches in self._watches.items():
            kind = topic.partition(":")[0]
            kinds[kind] = kinds.get(kind, 0) + len(watches)
        return kinds

    def wake_all(self) -> None:
        """Wake everyone here: wakes may have been lost."""
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()

    def end_all(self) -> None:
        """End every wait here, now and from now on: the server is about to stop."""
        self.is_ending = True
        self.wake_all()
