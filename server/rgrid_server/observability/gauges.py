"""What is asked when metrics are scraped: how full the queue is, who carries, who waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rgrid_server.clock import now_ms
from rgrid_server.observability.metrics import Metrics
from rgrid_server.observability.readiness import Readiness
from rgrid_server.store.database import Database
from rgrid_server.store.gauges import Fill, read_fill
from rgrid_server.store.runners import SEEN_WITHIN_MS

PRIORITIES = ("high", "normal", "low")


class Scrape:
    """Answers a scrape.

    Args:
        metrics: the instruments.
        database: asked for what all processes share, by queries whose cost is bounded.
        readiness: whether this server takes work.
        waiting: how many wait in this process, by what for.
    """

    def __init__(
        self,
        metrics: Metrics,
        database: Database,
        readiness: Readiness,
        waiting: Callable[[], Mapping[str, int]],
    ) -> None:
        self._metrics = metrics
        self._database = database
        self._readiness = readiness
        self._waiting = waiting

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics as they are now, as text, and its content type.

        Raises:
            rgrid_server.store.database.StorageError: the database does not answer.
        """
        now = now_ms()
        fill = await self._database.scan(lambda c: read_fill(c, now, now - SEEN_WITHIN_MS))
        self._set(fill, now)
        self._metrics.ready.set(not (await self._readiness.look()).reasons)
        self._metrics.set_labelled(self._metrics.waiting, self._waiting())
        return self._metrics.render(accept)

    def _set(self, fill: Fill, now: int) -> None:
        depths, ages = dict.fromkeys(PRIORITIES, 0), dict.fromkeys(PRIORITIES, 0.0)
        for rank, part in fill.by_rank.items():
            name = priority_class(rank)
            depths[name] += part.depth
            if part.oldest_ready_at_ms is not None:
                ages[name] = max(ages[name], (now - part.oldest_ready_at_ms) / 1000)
        self._metrics.set_labelled(self._metrics.queue_depth, depths)
        self._metrics.set_labelled(self._metrics.oldest_age, ages)
        self._metrics.running.set(fill.running)
        self._metrics.runners.set(fill.runners)
        self._metrics.runner_slots.set(fill.runner_slots)
        hidden_at_ms = fill.oldest_hidden_event_at_ms
        self._metrics.events_lag.set(0 if hidden_at_ms is None else max(0, now - hidden_at_ms) / 1000)


def priority_class(rank: int) -> str:
    """The class of a rank of the queue, which is minus the priority: over 0 high, 0 normal, under 0 low."""
    return "high" if rank < 0 else "normal" if rank == 0 else "low"
