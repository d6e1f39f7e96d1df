"""Letting go of what was kept long enough, a little at a time, so that nobody waits for it.

Logs go first, then what else executions leave: inputs, outputs, the heads of their output, events. Their
rows, usages, charges and sums stay for ever. A blob that nothing keeps any more is first condemned: from then
on it counts as absent, and giving it again revives it. Its bytes are removed after a grace, so that whoever
began to read them, a backup too, comes to the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TypeVar

from sqlalchemy.engine import Connection

from rgrid_server.blobs.base import BlobStore, location_of, sha256_at
from rgrid_server.clock import now_ms
from rgrid_server.domain.retention import (
    DELETE_AFTER_MS,
    KEEP_UNUSED_MS,
    ORPHANED_AFTER_MS,
    RetentionTimes,
)
from rgrid_server.domain.submission import is_sha256
from rgrid_server.store import results_cache
from rgrid_server.store import retention as store
from rgrid_server.store.database import Database, Row, StorageError
from rgrid_server.store.retention import Deleted

log = logging.getLogger(__name__)

T = TypeVar("T")

EVERY_SECONDS = 60.0
LOOK_THROUGH_STORE_MS = 6 * 3_600_000
CLOCK_STEP_SECONDS = 60.0
CLOCK_DOUBT_SECONDS = 3600.0
EVENTS_A_STEP = 200
CHUNKS_A_STEP = 32
"""A chunk of a log is up to a MiB."""
ARTIFACTS_A_STEP = 1000
BLOBS_A_STEP = 200


class Retention:
    """Lets go of logs, files and blobs.

    Args:
        database: where the rows are.
        blobs: where the large blobs' bytes are.
        times: how long logs and files are kept.
        clock: the time, in milliseconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        times: RetentionTimes,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._times = times
        self._clock = clock
        self._looked_through_at_ms = 0
        self._ahead_seconds = clock() / 1000 - monotonic()
        self._trusted_from = 0.0

    async def keep_up(self, every_seconds: float = EVERY_SECONDS) -> None:
        """Let go of what is due, again and again, until canceled; an error is logged and tried anew."""
        while True:
            await asyncio.sleep(every_seconds)
            if self._is_clock_in_doubt():
                continue
            try:
                await self.let_go()
            except (StorageError, OSError) as error:
                log.warning("what was kept long enough cannot be let go now: %s", error)
            except Exception:
                log.exception("letting go of old data failed; it is tried again")

    def _is_clock_in_doubt(self) -> bool:
        """Whether the clock was set lately: what a wrong one lets go a right one does not bring back."""
        ahead_seconds = self._clock() / 1000 - monotonic()
        step_seconds = ahead_seconds - self._ahead_seconds
        self._ahead_seconds = ahead_seconds
        if abs(step_seconds) > CLOCK_STEP_SECONDS:
            self._trusted_from = monotonic() + CLOCK_DOUBT_SECONDS
            log.warning("the clock was set by %+.1f s; nothing is let go for an hour", step_seconds)
        return monotonic() < self._trusted_from

    async def let_go(self) -> None:
        """Let go of all that is due now.

        Raises:
            StorageError, OSError: something could not be removed; the rest is done next time.
        """
        for step in (
            *(self._logs, self._data, self._events, self._references, self._unused_blobs),
            self._expired_results,
        ):
            while await self._in_turn(step):
                continue
        while deleted := await self._in_turn(self._condemned_blobs):
            for blob in deleted:
                if not blob.was_inline:
                    await self._blobs.delete(location_of(blob.sha256, blob.location))
        dropped = await self._blobs.drop_partials(self._clock() - self._times.upload_ms)
        if dropped:
            log.info("forgot %d uploads that did not go on", dropped)
        if self._clock() - self._looked_through_at_ms >= LOOK_THROUGH_STORE_MS:
            await self.remove_orphans()
            self._looked_through_at_ms = self._clock()

    async def remove_orphans(self) -> int:
        """Remove files of the store that no row points to, left by a crash; returns how many.

        What is younger than an hour may still be on its way into a row.
        """
        removed = 0
        async for locations in self._blobs.written_before(self._clock() - ORPHANED_AFTER_MS):
            by_hash = {location: sha256_at(location) for location in locations}
            hashes = sorted({sha256 for sha256 in by_hash.values() if is_sha256(sha256)})
            kept_at = await self._database.scan(partial(store.locations_of, hashes=hashes))
            for location, sha256 in by_hash.items():
                is_kept = sha256 in kept_at and location_of(sha256, kept_at[sha256]) == location
                if is_sha256(sha256) and not is_kept:
                    await self._blobs.delete(location)
                    removed += 1
        if removed:
            log.info("removed %d files that a crash had left in the blob store", removed)
        return removed

    async def _in_turn(self, step: Callable[[Connection, store.Progress], T]) -> T | None:
        """Run a step, then leave the writer to others for as long; None while another process is at it."""

        def run(connection: Connection) -> T | None:
            progress = store.lock_progress(connection)
            return None if progress is None else step(connection, progress)

        began_at = monotonic()
        done = await self._database.write(run, is_long=True)
        await asyncio.sleep(monotonic() - began_at)
        return done

    def _logs(self, connection: Connection, progress: store.Progress) -> bool:
        until_ms = self._clock() - self._times.log_ms
        found = store.events_until(connection, progress.logs, until_ms, EVENTS_A_STEP)
        position, room = progress.logs, CHUNKS_A_STEP
        with_logs = store.with_logs(connection, _ended(found))
        for event in found:
            if event["execution_id"] in with_logs and store.ends_execution(event):
                room -= store.delete_log(connection, event["execution_id"], room)
                if room <= 0:
                    # there may be more of it; the next step begins with it
                    break
            position = event["sequence"]
        store.save_progress(connection, replace(progress, logs=position))
        return bool(found)

    def _data(self, connection: Connection, progress: store.Progress) -> bool:
        now = self._clock()
        found = store.events_until(connection, progress.data, now - self._times.output_ms, EVENTS_A_STEP)
        position, room = progress.data, ARTIFACTS_A_STEP
        with_artifacts = store.with_artifacts(connection, _ended(found))
        for event in found:
            if event["execution_id"] in with_artifacts and store.ends_execution(event):
                room -= store.delete_artifacts(connection, event["execution_id"], room, now)
                if room <= 0:
                    break
            position = event["sequence"]
        store.clear_heads(connection, _ended([event for event in found if event["sequence"] <= position]))
        store.save_progress(connection, replace(progress, data=position))
        return bool(found)

    def _events(self, connection: Connection, progress: store.Progress) -> int:
        # both walks go by them
        return store.delete_events(connection, min(progress.logs, progress.data), EVENTS_A_STEP)

    def _references(self, connection: Connection, _progress: store.Progress) -> int:
        until_ms = self._clock() - self._times.output_ms
        return store.delete_stored_references(connection, until_ms, BLOBS_A_STEP)

    def _unused_blobs(self, connection: Connection, _progress: store.Progress) -> int:
        now = self._clock()
        return store.drop_unused_blobs(connection, now, now + KEEP_UNUSED_MS, BLOBS_A_STEP)

    def _expired_results(self, connection: Connection, _progress: store.Progress) -> int:
        return results_cache.forget_expired(connection, self._clock(), EVENTS_A_STEP)

    def _condemned_blobs(self, connection: Connection, _progress: store.Progress) -> list[Deleted]:
        return store.delete_condemned_blobs(connection, self._clock() - DELETE_AFTER_MS, BLOBS_A_STEP)


def _ended(events: Sequence[Row]) -> list[str]:
    return [event["execution_id"] for event in events if store.ends_execution(event)]
