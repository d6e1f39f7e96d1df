"""What came of a batch, in order of completion: read in pages from the feed, and from any position on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy.engine import Connection

from rgrid_server.domain.batch import Counts
from rgrid_server.domain.submission import Problem
from rgrid_server.errors import Gone, Invalid, NotFound
from rgrid_server.scheduler.wakeups import Wakeups, batch_topic
from rgrid_server.store import batches, events, results
from rgrid_server.store.database import Database, Row

PAGE_RESULTS = 100
LOOK_AGAIN_SECONDS = 5.0
HIDDEN_SECONDS = 0.05
"""As in the feed: so soon what may be hidden behind an open transaction is looked for again."""

GATHER_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Finished:
    """An execution that has ended, the files that it left, and where its end stands in the feed."""

    position: int
    row: Row
    outputs: Sequence[Row]


@dataclass(frozen=True, slots=True)
class _Look:
    found: list[Finished]
    position: int
    is_over: bool


class Results:
    """Follows the ends of batches' executions."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups

    @property
    def is_ending(self) -> bool:
        """Whether the server is about to stop, so that streams have to end."""
        return self._wakeups.is_ending

    async def check(self, tenant_id: str, batch_id: str, after: int) -> None:
        """Make sure that a batch can be read from a position on.

        Raises:
            NotFound: the tenant has no such batch.
            Invalid: the position is in the future.
            Gone: ``results_expired``, ends of the batch behind the position were removed from the feed.
        """

        def look(connection: Connection) -> None:
            row = batches.get_batch(connection, tenant_id, batch_id)
            if row is None:
                raise NotFound("Batch")
            forgotten = results.forgotten_position(connection)
            if after > max(events.latest_position(connection), forgotten):
                problem = Problem(
                    ("after",),
                    f"the position {after} is in the future; take it from a result of this batch",
                    code="position_unknown",
                    part="query",
                )
                raise Invalid([problem])
            if after >= forgotten:
                return
            if results.count_ended(connection, tenant_id, batch_id) < batches.counts_of(row).finished:
                raise Gone(
                    "results_expired",
                    f"results of the batch {batch_id} behind the position {after} are kept no more; what is "
                    f"left of it is listed by GET /batches/{batch_id}/executions",
                )

        await self._database.scan(look)

    async def follow(
        self, tenant_id: str, batch_id: str, after: int, *, follow: bool, idle_seconds: float
    ) -> AsyncIterator[list[Finished]]:
        """What has ended behind a position, in pages; with ``follow`` until all of the batch has.

        Yields an empty page when nothing ended for ``idle_seconds``.
        """
        loop = asyncio.get_running_loop()
        position, spoken_at = after, loop.time()
        pause_seconds = HIDDEN_SECONDS
        with self._wakeups.watch(batch_topic(tenant_id, batch_id)) as watch:
            while True:
                look = await self._database.read(
                    partial(_look, tenant_id=tenant_id, batch_id=batch_id, after=position)
                )
                position = look.position
                if look.found:
                    yield look.found
                    spoken_at = loop.time()
                    # what ends meanwhile is read together; others have their turn
                    await asyncio.sleep(GATHER_SECONDS if len(look.found) < PAGE_RESULTS else 0)
                    continue
                if look.is_over or not follow or self.is_ending:
                    return
                left = spoken_at + idle_seconds - loop.time()
                if left <= 0:
                    yield []
                    spoken_at = loop.time()
                was_woken = await watch.wait(min(max(left, GATHER_SECONDS), pause_seconds))
                pause_seconds = HIDDEN_SECONDS if was_woken else min(2 * pause_seconds, LOOK_AGAIN_SECONDS)


def _look(connection: Connection, tenant_id: str, batch_id: str, after: int) -> _Look:
    ends = events.batch_ended_after(connection, tenant_id, batch_id, after, PAGE_RESULTS)
    if not ends:
        return _Look([], after, _is_over(connection, tenant_id, batch_id, after))
    ids = [row["execution_id"] for row in ends]
    rows = results.finished_executions(connection, ids)
    outputs = results.outputs_of(connection, ids)
    found = [
        Finished(end["sequence"], rows[end["execution_id"]], outputs.get(end["execution_id"], []))
        for end in ends
        if end["execution_id"] in rows
    ]
    return _Look(found, ends[-1]["sequence"], is_over=False)


def _is_over(connection: Connection, tenant_id: str, batch_id: str, after: int) -> bool:
    batch = batches.get_batch(connection, tenant_id, batch_id)
    if batch is None:
        return True
    counts: Counts = batches.counts_of(batch)
    if not batch["closed"] or counts.finished < counts.total:
        return False
    # the last ones may be committed, and still hidden from readers behind somebody's open transaction
    return results.last_ended_position(connection, tenant_id, batch_id) <= after
