"""Canceling a batch: first it is noted, then what is left of it is ended, a page at a time.

Between the two a server may die. On its database it has left a batch that is noted as canceled and still has
executions that nobody has asked to stop; whoever comes across it goes on where that server was: the next
server when it starts, and where several are on one database each of the others.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from sqlalchemy.engine import Connection

from rgrid_server.clock import now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.scheduler.executions import cancel_topics
from rgrid_server.scheduler.transitions import finish_batch, hold_batch, topics_of
from rgrid_server.scheduler.wakeups import Wakeups, batch_topic
from rgrid_server.store import batches as store
from rgrid_server.store import bulk
from rgrid_server.store import executions as execution_store
from rgrid_server.store.database import Database, StorageError

log = logging.getLogger(__name__)

PAGE = 1_000
"""So many are ended in one transaction, so that others are written in between."""
LOOK_SECONDS = 1.0

Batch = tuple[str, str]
"""A tenant and the id of its batch."""


class Cancellations:
    """Ends canceled batches, those that another server has begun to end as well."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups
        self._at_work: set[Batch] = set()
        self._left_from: dict[Batch, int | None] = {}

    async def cancel(self, tenant_id: str, batch_id: str) -> None:
        """End all of a batch that has not ended; when this returns, nothing of it will begin any more.

        Raises:
            NotFound: the tenant has none such.
        """
        if await self._database.write(lambda c: _note(c, tenant_id, batch_id)):
            self._wakeups.wake([batch_topic(tenant_id, batch_id)])
            await self._end(tenant_id, batch_id)

    async def end_begun(self) -> None:
        """Go on with every cancellation that was begun, as the first server of a database does."""
        for row in await self._database.read(store.canceled_unfinished):
            await self._end(row["tenant_id"], row["batch_id"])

    async def keep_up(self, every_seconds: float = LOOK_SECONDS) -> None:
        """Go on with those that stand still, again and again, until canceled; an error is logged."""
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await self.take_over()
            except StorageError as error:
                log.warning("cancellations that stand still cannot be looked for: %s", error)
            except Exception:
                log.exception("going on with a cancellation failed; it is tried again")

    async def take_over(self) -> None:
        """Go on with those that stand where they stood at the last look: whoever began them is gone.

        That they move is seen by the first execution that nobody has asked to stop. No clock says when, for
        those of two servers may differ. Where the other one was only slow, both end the rest, each page once.
        """
        begun = await self._database.read(store.canceled_unfinished)
        batches = [(row["tenant_id"], row["batch_id"]) for row in begun]
        self._left_from = {batch: left for batch, left in self._left_from.items() if batch in batches}
        for batch in batches:
            if batch in self._at_work or (batch in self._left_from and self._left_from[batch] is None):
                # it is being ended here, or only waits for what it has asked to stop
                continue
            before = self._left_from.get(batch)
            left_from = await self._database.read(partial(_left_from, batch=batch, not_before=before or 0))
            if left_from is not None and left_from == before:
                log.info("going on with the cancellation of the batch %s from %d", batch[1], left_from)
                await self._end(*batch, left_from)
                left_from = None
            self._left_from[batch] = left_from

    async def _end(self, tenant_id: str, batch_id: str, first_index: int = 0) -> None:
        """End what is left of a batch from an index on."""
        last_index: int | None = first_index - 1
        self._at_work.add((tenant_id, batch_id))
        try:
            while last_index is not None:
                page = partial(_end_page, tenant_id=tenant_id, batch_id=batch_id, after=last_index)
                last_index, topics = await self._database.write(page, is_long=True)
                self._wakeups.wake(topics)
        finally:
            self._at_work.discard((tenant_id, batch_id))


def _note(connection: Connection, tenant_id: str, batch_id: str) -> bool:
    """Note that a batch is canceled and takes no more items; False where all of it has ended already."""
    # whoever appends or joins does so before this, or finds the batch canceled
    row = hold_batch(connection, tenant_id, batch_id)
    if row["completed_at_ms"] is not None:
        return False
    asked_at_ms = row["cancel_requested_at_ms"] or now_ms()
    store.update_batch(connection, tenant_id, batch_id, closed=True, cancel_requested_at_ms=asked_at_ms)
    finish_batch(connection, tenant_id, batch_id, now_ms())
    return True


def _end_page(
    connection: Connection, tenant_id: str, batch_id: str, after: int
) -> tuple[int | None, list[str]]:
    """End a page of a canceled batch behind an index, as often as it is asked for once.

    Returns the last index of the page, None where it was the last page, and whom to wake.
    """
    now = now_ms()
    found = bulk.unfinished_of_batch(connection, tenant_id, batch_id, after, PAGE)
    last = found[-1]["batch_index"] if len(found) == PAGE else None
    # executions before their batch, as everyone takes them; then they are as they will stay
    execution_store.lock_executions(connection, [row["execution_id"] for row in found])
    held = {row["batch_index"] for row in found}
    again = bulk.unfinished_of_batch(connection, tenant_id, batch_id, after, len(found))
    rows = [row for row in again if row["batch_index"] in held]
    done = bulk.transition_rows(
        connection, tenant_id, batch_id, rows, lambda state: rules.request_cancel(state, now), now
    )
    finish_batch(connection, tenant_id, batch_id, now)
    topics = {topic for item in done for topic in topics_of(item)}
    topics.update(cancel_topics(connection, done), [batch_topic(tenant_id, batch_id)])
    return last, list(topics)


def _left_from(connection: Connection, batch: Batch, not_before: int) -> int | None:
    """The first index from one on of what nobody has asked to stop; None when there is none."""
    left = bulk.unfinished_of_batch(connection, *batch, not_before - 1, 1)
    return left[0]["batch_index"] if left else None
