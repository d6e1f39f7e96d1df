"""Many executions of one script, submitted, watched, ended and retried together."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from sqlalchemy.engine import Connection

from rgrid_server.billing.budgets import check_budget
from rgrid_server.clock import new_id, now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.batch import PACE_ENDS, End, eta_seconds
from rgrid_server.domain.execution import Status
from rgrid_server.domain.submission import Limits, Submission, fingerprint
from rgrid_server.errors import Conflict, Invalid, NotFound
from rgrid_server.scheduler.batch_items import (
    BatchItem,
    check_items,
    find_batch_problems,
    insert_items,
    is_repeated,
)
from rgrid_server.scheduler.cancellations import Cancellations
from rgrid_server.scheduler.intake import inputs_that_expire, run_key_conflict, submission_of
from rgrid_server.scheduler.observer import Observer
from rgrid_server.scheduler.transitions import finish_batch, hold_batch
from rgrid_server.scheduler.wakeups import WORK, Wakeups, batch_topic, tenant_topic
from rgrid_server.store import batches as store
from rgrid_server.store import blobs as blob_rows
from rgrid_server.store import results
from rgrid_server.store.database import Database, Row

T = TypeVar("T")

LONG_ITEMS = 50
"""More items than this are checked and written in a thread."""

RETRY_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class BatchSubmission:
    """A batch as asked for; every item's submission is the template with the item's own parts."""

    template: Submission
    items: Sequence[BatchItem]
    parallelism: int | None = None
    run_key: str | None = None
    user_metadata: dict[str, object] | None = None
    closed: bool = True


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch as stored; ``attached`` when a run key found it rather than made it."""

    row: Row
    attached: bool = False


class Batches:
    """Everything a tenant may do with batches."""

    def __init__(
        self, database: Database, wakeups: Wakeups, limits: Limits, observer: Observer | None = None
    ) -> None:
        self._database = database
        self._observer = observer or Observer()
        self._wakeups = wakeups
        self._limits = limits
        self.cancellations = Cancellations(database, wakeups)

    async def submit(self, tenant_id: str, batch: BatchSubmission) -> StoredBatch:
        """Store a batch and all its executions in one transaction; with a run key, at most once.

        Raises:
            Invalid, Conflict, LimitReached: as for one execution.
        """
        problems = await _threaded(
            len(batch.items),
            lambda: find_batch_problems(batch.template, batch.items, batch.parallelism, self._limits),
        )
        if problems:
            raise Invalid(problems)
        batch_id = new_id("batch")
        mark = None
        if batch.run_key is not None:
            mark = await _threaded(len(batch.items), lambda: _fingerprint(batch))

        def store_all(connection: Connection) -> StoredBatch:
            now = now_ms()
            if batch.run_key is not None:
                held = store.find_batch_by_run_key(connection, tenant_id, batch.run_key)
                if held is not None:
                    if held["fingerprint"] != mark:
                        raise run_key_conflict(batch.run_key, batch_id=held["batch_id"])
                    return StoredBatch(_existing(connection, tenant_id, held["batch_id"]), attached=True)
            check_budget(connection, tenant_id, now)
            store.insert_batch(
                connection,
                {
                    "tenant_id": tenant_id,
                    "batch_id": batch_id,
                    "parallelism": batch.parallelism,
                    "run_key": batch.run_key,
                    "fingerprint": mark,
                    "user_metadata": batch.user_metadata or {},
                    "template": _template_wire(batch.template),
                    "closed": batch.closed,
                    "created_at_ms": now,
                },
            )
            if not batch.closed:
                # an open batch keeps what its template names, for items to come
                named = [sha256 for sha256 in batch.template.inputs.values() if sha256]
                blob_rows.lock_owned_sizes(connection, tenant_id, named)
            insert_items(connection, tenant_id, batch_id, batch.items)
            finish_batch(connection, tenant_id, batch_id, now)
            return StoredBatch(_existing(connection, tenant_id, batch_id))

        began = perf_counter()
        stored = await self._database.write(store_all, is_long=len(batch.items) > LONG_ITEMS, takes_in=True)
        self._wakeups.wake([WORK, tenant_topic(tenant_id), batch_topic(tenant_id, batch_id)])
        executions = 0 if stored.attached else len(batch.items)
        self._observer.submitted(executions, perf_counter() - began, batch.template.trace_parent)
        return stored

    async def template(self, tenant_id: str, batch_id: str) -> Submission:
        """What the items of a batch share.

        Raises:
            NotFound: the tenant has none such.
            Conflict: it was begun without a template.
        """
        row = await self._get(tenant_id, batch_id)
        if row["template"] is None:
            raise Conflict(
                "conflict", f"the batch {batch_id} has no template; submit executions that name it"
            )
        return _template_of(row["template"])

    async def append(
        self, tenant_id: str, batch_id: str, items: Sequence[BatchItem], first_index: int | None = None
    ) -> StoredBatch:
        """Add items to a batch that is open; ``first_index`` makes it safe to repeat.

        Raises:
            NotFound, Invalid, LimitReached: as for submitting.
            Conflict: it is closed, or ``index_conflict``.
        """
        await _threaded(len(items), lambda: check_items(items, self._limits))

        def add(connection: Connection) -> StoredBatch:
            # nobody else appends before this transaction ends, so no index is given twice
            row = hold_batch(connection, tenant_id, batch_id)
            if first_index is not None and is_repeated(connection, tenant_id, batch_id, first_index, items):
                return StoredBatch(_existing(connection, tenant_id, batch_id), attached=True)
            if row["closed"] or row["cancel_requested_at_ms"] is not None:
                raise Conflict("conflict", f"the batch {batch_id} is closed; submit another")
            check_budget(connection, tenant_id, now_ms())
            insert_items(connection, tenant_id, batch_id, items)
            return StoredBatch(_existing(connection, tenant_id, batch_id))

        began = perf_counter()
        stored = await self._database.write(add, is_long=len(items) > LONG_ITEMS, takes_in=True)
        self._wakeups.wake([WORK, tenant_topic(tenant_id), batch_topic(tenant_id, batch_id)])
        executions = 0 if stored.attached else len(items)
        trace_parent = items[0].base.trace_parent if items else None
        self._observer.submitted(executions, perf_counter() - began, trace_parent)
        return stored

    async def close(self, tenant_id: str, batch_id: str) -> Row:
        """Say that no more items come.

        Raises:
            NotFound: the tenant has none such.
        """

        def end(connection: Connection) -> Row:
            hold_batch(connection, tenant_id, batch_id)
            store.update_batch(connection, tenant_id, batch_id, closed=True)
            finish_batch(connection, tenant_id, batch_id, now_ms())
            return _existing(connection, tenant_id, batch_id)

        row = await self._database.write(end)
        self._wakeups.wake([batch_topic(tenant_id, batch_id)])
        return row

    async def get(self, tenant_id: str, batch_id: str, wait_seconds: float = 0) -> Row:
        """A batch, at once or as soon as all of it is terminal, at the latest after ``wait_seconds``.

        Raises:
            NotFound: the tenant has none such.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        with self._wakeups.watch(batch_topic(tenant_id, batch_id)) as watch:
            while True:
                row = await self._get(tenant_id, batch_id)
                if row["completed_at_ms"] is not None or not await watch.wait(deadline - loop.time()):
                    return row

    async def lookup(self, tenant_id: str, ids: Sequence[str], run_keys: Sequence[str] = ()) -> Sequence[Row]:
        """Those of the ids that the tenant has, and what holds the run keys, with no guess at their ends."""
        found = await self._database.read(lambda c: store.lookup_batches(c, tenant_id, ids, run_keys))
        return [{**row, "eta_seconds": None} for row in found]

    async def statuses(self, tenant_id: str, batch_id: str) -> tuple[list[str], int]:
        """Every execution's status in order, and the batch's charge in nano-euro.

        Raises:
            NotFound: the tenant has none such.
        """
        row = await self._get(tenant_id, batch_id)
        statuses = await self._database.scan(lambda c: store.batch_statuses(c, tenant_id, batch_id))
        return statuses, int(row["charge_nanos"])

    async def executions(
        self, tenant_id: str, batch_id: str, *, limit: int | None, after: int, status: Status | None
    ) -> Sequence[Row]:
        """Executions of a batch in order of index, those behind one.

        Raises:
            NotFound: the tenant has no such batch.
        """
        await self._get(tenant_id, batch_id)
        return await self._database.scan(
            lambda c: store.batch_executions(c, tenant_id, batch_id, limit=limit, after=after, status=status)
        )

    async def cancel(self, tenant_id: str, batch_id: str) -> Row:
        """End all of a batch that has not ended; when this returns, nothing of it will begin any more.

        A server that dies meanwhile has noted that the batch is canceled, and another one goes on with it.

        Raises:
            NotFound: the tenant has none such.
        """
        await self.cancellations.cancel(tenant_id, batch_id)
        return await self._get(tenant_id, batch_id)

    async def acknowledge(self, tenant_id: str, batch_id: str) -> Row:
        """Free a batch's run key.

        Raises:
            NotFound: the tenant has none such.
            Conflict: ``not_finished``.
        """

        def take(connection: Connection) -> Row:
            row = hold_batch(connection, tenant_id, batch_id)
            if row["completed_at_ms"] is None:
                raise Conflict(
                    "not_finished", f"the batch {batch_id} has not finished; wait for it or cancel it"
                )
            if row["acknowledged_at_ms"] is None:
                store.update_batch(connection, tenant_id, batch_id, acknowledged_at_ms=now_ms())
            return _existing(connection, tenant_id, batch_id)

        return await self._database.write(take)

    async def retry(self, tenant_id: str, batch_id: str, *, failed_only: bool) -> StoredBatch:
        """A new batch of the same work, or of what of it did not complete.

        Raises:
            NotFound, LimitReached: as for submitting.
            Conflict: ``nothing_to_retry``, ``not_finished``, or ``inputs_expired``.
        """
        wanted = [Status.FAILED, Status.CANCELED] if failed_only else list(rules.TERMINAL)
        new_batch_id = new_id("batch")

        def again(connection: Connection) -> StoredBatch:
            now = now_ms()
            old = _existing(connection, tenant_id, batch_id)
            if old["completed_at_ms"] is None:
                raise Conflict(
                    "not_finished", f"the batch {batch_id} has not finished; wait for it or cancel it"
                )
            check_budget(connection, tenant_id, now)
            last_index, is_begun = -1, False
            while rows := store.full_executions(
                connection, tenant_id, batch_id, wanted, after=last_index, limit=RETRY_PAGE
            ):
                last_index = rows[-1]["batch_index"]
                items = _items_again(rows)
                if items and not is_begun:
                    is_begun = True
                    store.insert_batch(
                        connection,
                        {
                            "tenant_id": tenant_id,
                            "batch_id": new_batch_id,
                            "parallelism": old["parallelism"],
                            "user_metadata": old["user_metadata"],
                            "template": _template_wire(items[0].base),
                            "closed": True,
                            "created_at_ms": now,
                        },
                    )
                insert_items(connection, tenant_id, new_batch_id, items)
            if not is_begun:
                raise Conflict("nothing_to_retry", f"every execution of the batch {batch_id} completed")
            return StoredBatch(_existing(connection, tenant_id, new_batch_id))

        with inputs_that_expire(f"the batch {batch_id}"):
            stored = await self._database.write(again, is_long=True, takes_in=True)
        self._wakeups.wake([WORK, tenant_topic(tenant_id), batch_topic(tenant_id, new_batch_id)])
        return stored

    async def _get(self, tenant_id: str, batch_id: str) -> Row:
        return await self._database.read(lambda c: _existing(c, tenant_id, batch_id))


async def _threaded(count: int, work: Callable[[], T]) -> T:
    """Do here what is short, and in a thread what would hold the others up."""
    return await asyncio.to_thread(work) if count > LONG_ITEMS else work()


def _items_again(rows: Sequence[Row]) -> list[BatchItem]:
    """Items that ask for what executions were; files that never arrived cannot be asked for."""
    items: list[BatchItem] = []
    base: Submission | None = None
    for row in rows:
        if not all(row["inputs"].values()):
            continue
        asked = submission_of(row)
        shared = asked._replace(
            run_key=None, batch_id=None, args=(), env_vars={}, inputs={}, user_metadata={}
        )
        if base is None or shared != base:
            base = shared
        items.append(
            BatchItem(base, asked.args, asked.env_vars, asked.inputs, asked.user_metadata, row["batch_input"])
        )
    return items


def _existing(connection: Connection, tenant_id: str, batch_id: str) -> Row:
    """A batch's row, and with it ``eta_seconds`` as its counts and its latest ends have it."""
    row = store.get_batch(connection, tenant_id, batch_id)
    if row is None:
        raise NotFound("Batch")
    counts = store.counts_of(row)
    if not counts.finished or counts.finished == counts.total:
        return {**row, "eta_seconds": eta_seconds(counts, [], now_ms())}
    ends = [
        End(found["started_at_ms"], found["at_ms"])
        for found in results.latest_ends(connection, tenant_id, batch_id, PACE_ENDS)
    ]
    return {**row, "eta_seconds": eta_seconds(counts, ends, now_ms())}


def _fingerprint(batch: BatchSubmission) -> str:
    parts = [[list(item.args), dict(item.env_vars), dict(item.inputs)] for item in batch.items]
    canonical = json.dumps([fingerprint(batch.template), parts], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _template_wire(template: Submission) -> dict[str, object]:
    return {
        "script_content": template.script_content,
        "runtime": template.runtime,
        "script_name": template.script_name,
        "requirements_content": template.requirements_content,
        "args": list(template.args),
        "env_vars": dict(template.env_vars),
        "inputs": dict(template.inputs),
        "outputs": list(template.outputs) if template.outputs is not None else None,
        "timeout_seconds": template.timeout_seconds,
        "cpus_milli": template.cpus_milli,
        "memory_mib": template.memory_mib,
        "priority": template.priority,
        "user_metadata": dict(template.user_metadata),
        "run_key": None,
        "batch_id": None,
        "retry_policy": None if template.retry_policy is None else template.retry_policy.to_wire(),
        "secrets": dict(template.secrets),
        "cache": template.cache,
    }


def _template_of(wire: dict[str, object]) -> Submission:
    return submission_of(wire)
