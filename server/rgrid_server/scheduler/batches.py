"""Many executions of one script, submitted, watched, ended and retried together."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.engine import Connection

from rgrid_server.billing.budgets import check_budget
from rgrid_server.clock import new_id, now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.execution import Status
from rgrid_server.domain.submission import (
    Limits,
    Problem,
    Submission,
    find_item_problems,
    find_problems,
    fingerprint,
    specification_id,
)
from rgrid_server.errors import Conflict, Invalid, NotFound
from rgrid_server.scheduler.executions import (
    cancel_topics,
    check_blobs,
    inputs_that_expire,
    insert_new,
    run_key_conflict,
    submission_of,
)
from rgrid_server.scheduler.transitions import apply_event, finish_batch, topics_of
from rgrid_server.scheduler.wakeups import WORK, Wakeups, batch_topic
from rgrid_server.store import batches as store
from rgrid_server.store import blobs as blob_rows
from rgrid_server.store import executions as execution_store
from rgrid_server.store.database import Database, Row
from rgrid_server.store.executions import NewExecution

LONG_ITEMS = 50
"""More items than this are written in a thread."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One execution of a batch, and the name of what it works on."""

    submission: Submission
    input_file: str | None


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

    def __init__(self, database: Database, wakeups: Wakeups, limits: Limits) -> None:
        self._database = database
        self._wakeups = wakeups
        self._limits = limits

    async def submit(self, tenant_id: str, batch: BatchSubmission) -> StoredBatch:
        """Store a batch and all its executions in one transaction; with a run key, at most once.

        Raises:
            Invalid, Conflict, LimitReached: as for one execution.
        """
        self._check(batch.template, batch.items, batch.parallelism)
        batch_id = new_id("batch")
        mark = _fingerprint(batch) if batch.run_key is not None else None

        def store_all(connection: Connection) -> StoredBatch:
            now = now_ms()
            if batch.run_key is not None:
                held = store.find_batch_by_run_key(connection, tenant_id, batch.run_key)
                if held is not None:
                    if held["fingerprint"] != mark:
                        raise run_key_conflict(batch.run_key, batch_id=held["batch_id"])
                    return StoredBatch(held, attached=True)
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
            self._insert_items(connection, tenant_id, batch_id, batch.items)
            finish_batch(connection, tenant_id, batch_id, now)
            return StoredBatch(_existing(connection, tenant_id, batch_id))

        stored = await self._database.write(store_all, is_long=len(batch.items) > LONG_ITEMS)
        self._wakeups.wake([WORK, batch_topic(tenant_id, batch_id)])
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

    async def append(self, tenant_id: str, batch_id: str, items: Sequence[BatchItem]) -> Row:
        """Add items to a batch that is open.

        Raises:
            NotFound, Invalid, LimitReached: as for submitting.
            Conflict: it is closed.
        """
        self._check(items[0].submission if items else None, items, None)

        def add(connection: Connection) -> Row:
            row = _held(connection, tenant_id, batch_id)
            if row["closed"] or row["cancel_requested_at_ms"] is not None:
                raise Conflict("conflict", f"the batch {batch_id} is closed; submit another")
            check_budget(connection, tenant_id, now_ms())
            self._insert_items(connection, tenant_id, batch_id, items)
            return _existing(connection, tenant_id, batch_id)

        row = await self._database.write(add, is_long=len(items) > LONG_ITEMS)
        self._wakeups.wake([WORK, batch_topic(tenant_id, batch_id)])
        return row

    async def close(self, tenant_id: str, batch_id: str) -> Row:
        """Say that no more items come.

        Raises:
            NotFound: the tenant has none such.
        """

        def end(connection: Connection) -> Row:
            _held(connection, tenant_id, batch_id)
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
        """End all of a batch that has not ended.

        Raises:
            NotFound: the tenant has none such.
        """

        def stop(connection: Connection) -> list[str]:
            now = now_ms()
            # executions before their batch, as everyone takes them; those that joined meanwhile after it
            execution_store.lock_executions(connection, store.unfinished_ids(connection, tenant_id, batch_id))
            row = _held(connection, tenant_id, batch_id)
            if row["completed_at_ms"] is not None:
                return []
            store.update_batch(
                connection,
                tenant_id,
                batch_id,
                closed=True,
                cancel_requested_at_ms=row["cancel_requested_at_ms"] or now,
            )
            done = [
                apply_event(connection, execution_id, lambda state: rules.request_cancel(state, now), now)
                for execution_id in store.unfinished_ids(connection, tenant_id, batch_id)
            ]
            finish_batch(connection, tenant_id, batch_id, now)
            topics = {topic for item in done for topic in topics_of(item)}
            return [*topics, *cancel_topics(connection, done), batch_topic(tenant_id, batch_id)]

        self._wakeups.wake(await self._database.write(stop, is_long=True))
        return await self._get(tenant_id, batch_id)

    async def acknowledge(self, tenant_id: str, batch_id: str) -> Row:
        """Free a batch's run key.

        Raises:
            NotFound: the tenant has none such.
            Conflict: ``not_finished``.
        """

        def take(connection: Connection) -> Row:
            row = _held(connection, tenant_id, batch_id)
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
        old = await self._get(tenant_id, batch_id)
        if old["completed_at_ms"] is None:
            raise Conflict("not_finished", f"the batch {batch_id} has not finished; wait for it or cancel it")
        rows = await self._database.scan(lambda c: store.full_executions(c, tenant_id, batch_id, wanted))
        items = [
            BatchItem(replace(submission_of(row), run_key=None, batch_id=None), row["batch_input"])
            for row in rows
            if all(row["inputs"].values())
        ]
        if not items:
            raise Conflict("nothing_to_retry", f"every execution of the batch {batch_id} completed")
        again = BatchSubmission(
            template=items[0].submission,
            items=items,
            parallelism=old["parallelism"],
            user_metadata=old["user_metadata"],
        )
        with inputs_that_expire(f"the batch {batch_id}"):
            return await self.submit(tenant_id, again)

    async def _get(self, tenant_id: str, batch_id: str) -> Row:
        return await self._database.read(lambda c: _existing(c, tenant_id, batch_id))

    def _check(
        self, template: Submission | None, items: Sequence[BatchItem], parallelism: int | None
    ) -> None:
        problems = find_problems(template, self._limits) if template is not None else []
        if len(items) > self._limits.max_batch_items:
            problems.append(
                Problem(
                    ("items",),
                    f"{len(items)} items; at most {self._limits.max_batch_items} at once are allowed, "
                    "append the others with POST /batches/{id}/items",
                    too_large=True,
                )
            )
        if parallelism is not None and parallelism < 1:
            problems.append(Problem(("parallelism",), f"parallelism is {parallelism}; it must be at least 1"))
        for index, item in enumerate(items):
            problems.extend(
                replace(problem, location=("items", str(index), *problem.location))
                for problem in find_item_problems(item.submission, self._limits)
            )
            if len(problems) > 20:
                break
        if problems:
            raise Invalid(problems)

    def _insert_items(
        self, connection: Connection, tenant_id: str, batch_id: str, items: Sequence[BatchItem]
    ) -> None:
        if not items:
            return
        now = now_ms()
        check_blobs(connection, tenant_id, [item.submission for item in items])
        # the batch is held by whoever inserted it or is about to append, so nobody else takes the same places
        first = store.next_index(connection, tenant_id, batch_id)
        state = rules.submit(now, inputs_are_here=True)
        ids = {
            specification: specification_id(tenant_id, specification)
            for specification in {item.submission.specification for item in items}
        }
        insert_new(
            connection,
            tenant_id,
            [
                NewExecution(
                    execution_id=new_id("exec"),
                    specification_id=ids[item.submission.specification],
                    submission=replace(item.submission, batch_id=batch_id, run_key=None),
                    fingerprint=None,
                    state=state,
                    batch_index=first + offset,
                    batch_input=item.input_file or next(iter(item.submission.inputs), None),
                )
                for offset, item in enumerate(items)
            ],
            now,
        )
        execution_store.count_in_batch(connection, tenant_id, batch_id, {Status.QUEUED: len(items)})


def _existing(connection: Connection, tenant_id: str, batch_id: str) -> Row:
    row = store.get_batch(connection, tenant_id, batch_id)
    if row is None:
        raise NotFound("Batch")
    return row


def _held(connection: Connection, tenant_id: str, batch_id: str) -> Row:
    row = store.lock_batch(connection, tenant_id, batch_id)
    if row is None:
        raise NotFound("Batch")
    return row


def _fingerprint(batch: BatchSubmission) -> str:
    parts = [
        [
            list(item.submission.args),
            dict(item.submission.env_vars),
            dict(item.submission.inputs),
        ]
        for item in batch.items
    ]
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
    }


def _template_of(wire: dict[str, object]) -> Submission:
    return submission_of(wire)
