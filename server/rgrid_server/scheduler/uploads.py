"""Taking in bytes: a tenant's blobs, and the named files that executions wait for."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from sqlalchemy.engine import Connection

from rgrid_server.blobs.base import INLINE_MAX_BYTES, BlobStore, Received
from rgrid_server.clock import now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.execution import Status
from rgrid_server.domain.retention import KEEP_UNUSED_MS
from rgrid_server.errors import Conflict, NotFound, ServiceError
from rgrid_server.scheduler.intake import insert_input_artifacts
from rgrid_server.scheduler.observer import Observer
from rgrid_server.scheduler.transitions import apply_event, topics_of
from rgrid_server.scheduler.wakeups import Wakeups
from rgrid_server.store import blobs as blob_rows
from rgrid_server.store import executions as store
from rgrid_server.store.database import Database, StorageError, StorageFull
from rgrid_server.store.executions import Transition

log = logging.getLogger(__name__)

UNUSED_MARGIN_MS = KEEP_UNUSED_MS // 2
"""Whoever is told that a blob is here may rely on that for so long at least."""
LONG_HASHES = 100
"""More blobs than this are kept longer in a thread."""


class Uploads:
    """Receives bytes, verifies them, and notes whose they are."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        wakeups: Wakeups,
        max_blob_bytes: int,
        observer: Observer | None = None,
    ) -> None:
        self._database = database
        self._observer = observer or Observer()
        self._blobs = blobs
        self._wakeups = wakeups
        self._max_blob_bytes = max_blob_bytes

    async def missing(self, tenant_id: str, hashes: Sequence[str]) -> list[str]:
        """Those of the hashes that the tenant has not given, in the order asked; the others are kept on."""
        until = await self._database.read(lambda c: blob_rows.kept_until(c, tenant_id, hashes))
        now = now_ms()
        soon = [sha256 for sha256, at_ms in until.items() if (at_ms or 0) < now + UNUSED_MARGIN_MS]
        if soon:

            def keep(connection: Connection) -> dict[str, int]:
                here = blob_rows.lock_owned_sizes(connection, tenant_id, soon)
                blob_rows.keep(connection, tenant_id, here, now + KEEP_UNUSED_MS)
                return here

            still_here = await self._database.write(keep, is_long=len(soon) > LONG_HASHES)
            until = {sha256: at for sha256, at in until.items() if sha256 not in soon or sha256 in still_here}
        return [sha256 for sha256 in dict.fromkeys(hashes) if sha256 not in until]

    async def owned_bytes(self, tenant_id: str, sha256: str) -> int | None:
        """The size of a blob of the tenant's, None where it has none such; one that is here is kept on."""
        if await self.missing(tenant_id, [sha256]):
            return None
        found = await self._database.read(lambda c: blob_rows.owned_sizes(c, tenant_id, [sha256]))
        return found.get(sha256)

    def note_received(self, size_bytes: int) -> None:
        """Count a blob that has come in another way."""
        self._observer.received_bytes(size_bytes)

    async def receive(self, chunks: AsyncIterable[bytes], expected_sha256: str | None) -> Received:
        """Take in bytes; nothing is left of them when they break off or are refused.

        Raises:
            BlobError: too large, another hash, or no room.
        """
        upload = self._blobs.begin(self._max_blob_bytes)
        try:
            async for chunk in chunks:
                await upload.write(chunk)
            received = await upload.finish(expected_sha256)
        except BaseException:
            await upload.abandon()
            raise
        self._observer.received_bytes(received.size_bytes)
        return received

    async def receive_parts(self, parts: Sequence[bytes], hashes: Sequence[str]) -> list[Received]:
        """Take in the verified parts of a frame."""
        received: list[Received] = []
        try:
            for part, sha256 in zip(parts, hashes, strict=True):
                if len(part) <= INLINE_MAX_BYTES:
                    received.append(Received(sha256, len(part), content=part))
                    self._observer.received_bytes(len(part))
                else:
                    received.append(await self.receive(_once(part), sha256))
        except BaseException:
            await self._discard_unused(received)
            raise
        return received

    async def add(self, tenant_id: str, received: Sequence[Received]) -> list[bool]:
        """Note blobs of a tenant; says of each whether it is new to the tenant."""
        async with self.taking(received):
            return await self._database.write(lambda c: add_received(c, tenant_id, received), takes_in=True)

    @asynccontextmanager
    async def taking(self, received: Sequence[Received]) -> AsyncIterator[None]:
        """Around a transaction that takes up blobs: afterwards the files that it left out are removed.

        Nothing is removed while it is not known whether the transaction took place, such as when who waited
        for it has left. What stays so is found when the store is looked through (:mod:`~.retention`).
        """
        try:
            yield
        except (ServiceError, StorageFull):
            await self._discard_unused(received)
            raise
        await self._discard_unused(received)

    async def _discard_unused(self, received: Sequence[Received]) -> None:
        for item in received:
            if item.location is None:
                continue
            try:
                kept_at = await self._database.read(partial(blob_rows.location_in_use, sha256=item.sha256))
                if kept_at != item.location:
                    await self._blobs.delete(item.location)
            except (StorageError, OSError) as error:
                log.warning("the upload %s is not needed and cannot be removed now: %s", item.location, error)

    async def put_input(self, execution_id: str, name: str, received: Received) -> None:
        """A file that an execution waits for has arrived; with the last one runners may see it.

        Raises:
            NotFound: there is no such execution, or it waits for no such file.
            Conflict: it does not wait any more.
        """

        def put(connection: Connection) -> Transition | None:
            now = now_ms()
            # held, so that two files that arrive at once both stay
            store.lock_executions(connection, [execution_id])
            row = store.get_execution(connection, None, execution_id)
            if row is None:
                raise NotFound("Execution")
            if name not in row["inputs"]:
                raise NotFound("Input file")
            if row["inputs"][name] == received.sha256:
                return None
            if row["ready_at_ms"] is not None or row["status"] != Status.QUEUED.value:
                raise Conflict(
                    "upload_too_late",
                    f"the execution is {row['status']} and does not wait for {name} any more; submit again",
                )
            tenant_id = row["tenant_id"]
            add_received(connection, tenant_id, [received])
            inputs = {**row["inputs"], name: received.sha256}
            store.set_inputs(connection, execution_id, inputs)
            if not all(inputs.values()):
                return None
            insert_input_artifacts(connection, tenant_id, {execution_id: inputs}, now)
            return apply_event(connection, execution_id, lambda state: rules.receive_inputs(state, now), now)

        async with self.taking([received]):
            done = await self._database.write(put, takes_in=True)
        self._wakeups.wake(topics_of(done))


def add_received(connection: Connection, tenant_id: str, received: Sequence[Received]) -> list[bool]:
    """Note blobs of a tenant, in a transaction; says of each whether it is new to the tenant."""
    now = now_ms()
    is_new = [False] * len(received)
    # in one order, so that two who bring the same do not wait for each other
    for index, item in sorted(enumerate(received), key=lambda one: one[1].sha256):
        is_new[index] = blob_rows.add_blob(
            connection, tenant_id, item, now_ms=now, keep_until_ms=now + KEEP_UNUSED_MS
        )
    return is_new


async def _once(part: bytes) -> AsyncIterator[bytes]:
    yield part
