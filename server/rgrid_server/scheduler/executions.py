"""Submitting executions, looking at them, and ending them from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from time import monotonic, perf_counter

from sqlalchemy.engine import Connection

from rgrid_server.billing.budgets import check_budget
from rgrid_server.clock import new_id, new_ids, now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.execution import State, Status
from rgrid_server.domain.retention import KEEP_UNUSED_MS
from rgrid_server.domain.retries import RetryPolicy
from rgrid_server.domain.submission import (
    Limits,
    Problem,
    Submission,
    find_problems,
    fingerprint,
    specification_id,
)
from rgrid_server.errors import Conflict, Invalid, NotFound
from rgrid_server.scheduler.observer import Observer
from rgrid_server.scheduler.transitions import apply_event, topics_of
from rgrid_server.scheduler.wakeups import (
    WORK,
    Wakeups,
    batch_topic,
    execution_topic,
    runner_topic,
    tenant_topic,
)
from rgrid_server.store import batches as batch_store
from rgrid_server.store import blobs as blob_store
from rgrid_server.store import executions as store
from rgrid_server.store import listing, queue, runners
from rgrid_server.store.database import Database, Row
from rgrid_server.store.executions import NewExecution, Transition

INPUTS_DUE_MS = 3_600_000
DEFAULT_RUNTIME = "python:3.11"
OFFERED_SECONDS = 0.5
"""So long what runners offer is taken to be what it was."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """An execution as stored; ``attached`` when a run key found it rather than made it."""

    row: Row
    attached: bool


class Executions:
    """Everything a tenant may do with executions."""

    def __init__(
        self, database: Database, wakeups: Wakeups, limits: Limits, observer: Observer | None = None
    ) -> None:
        self._database = database
        self._observer = observer or Observer()
        self._wakeups = wakeups
        self.limits = limits
        self._offered: list[str] = []
        self._offered_until = 0.0

    async def submit(self, tenant_id: str, submission: Submission) -> Submitted:
        """Store an execution, durably; with a run key, at most once.

        Raises:
            Invalid: the submission asks for what cannot be.
            Conflict: its run key is held by other work.
            LimitReached: the tenant's budget is used up.
        """
        problems = find_problems(submission, self.limits)
        if problems:
            raise Invalid(problems)
        began = perf_counter()
        submitted, topics = await self._database.write(
            lambda c: self._submit(c, tenant_id, submission), takes_in=True
        )
        self._wakeups.wake(topics)
        executions = 0 if submitted.attached else 1
        self._observer.submitted(executions, perf_counter() - began, submission.trace_parent)
        return submitted

    async def get(self, tenant_id: str, execution_id: str, wait_seconds: float = 0) -> Row:
        """An execution, at once or as soon as it is terminal, at the latest after ``wait_seconds``.

        Raises:
            NotFound: the tenant has none such.
        """
        if not wait_seconds:
            return await self._get(tenant_id, execution_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        with self._wakeups.watch(execution_topic(execution_id)) as watch:
            while True:
                row = await self._get(tenant_id, execution_id)
                if Status(row["status"]).is_terminal or not await watch.wait(deadline - loop.time()):
                    return row

    async def list_page(
        self,
        tenant_id: str,
        *,
        limit: int,
        before: int | None,
        status: Status | None,
        metadata: Mapping[str, str],
    ) -> Sequence[Row]:
        """Newest first."""
        run = self._database.scan if metadata else self._database.read
        return await run(
            lambda c: listing.list_executions(
                c, tenant_id, limit=limit, before=before, status=status, metadata=metadata
            )
        )

    async def lookup(self, tenant_id: str, ids: Sequence[str]) -> Sequence[Row]:
        """Those of the ids that the tenant has."""
        return await self._database.read(lambda c: store.lookup_executions(c, tenant_id, ids))

    async def retry(self, tenant_id: str, execution_id: str) -> Row:
        """A new execution of the same work, in no batch and under no run key.

        Raises:
            NotFound, LimitReached: as for submitting.
            Conflict: its input files never arrived, or are not kept any more (``inputs_expired``).
        """

        def again(connection: Connection) -> tuple[Submitted, list[str]]:
            row = store.get_execution(connection, tenant_id, execution_id)
            if row is None:
                raise NotFound("Execution")
            missing = [name for name, sha256 in row["inputs"].items() if sha256 is None]
            if missing:
                raise Conflict(
                    "inputs_missing",
                    f"the input files {', '.join(missing)} never arrived; submit again and upload them",
                )
            submission = replace(submission_of(row), run_key=None, batch_id=None)
            with inputs_that_expire(execution_id):
                return self._submit(connection, tenant_id, submission)

        submitted, topics = await self._database.write(again, takes_in=True)
        self._wakeups.wake(topics)
        return submitted.row

    async def cancel(self, tenant_id: str, execution_id: str) -> Row:
        """Stop it: at once when it is queued, through its runner when it runs; a terminal one stays as it is.

        Raises:
            NotFound: the tenant has none such.
        """
        return await self._change(
            tenant_id, execution_id, lambda state: rules.request_cancel(state, now_ms())
        )

    async def acknowledge(self, tenant_id: str, execution_id: str) -> Row:
        """Free its run key.

        Raises:
            NotFound: the tenant has none such.
            Refused: it has not finished.
        """
        return await self._change(tenant_id, execution_id, lambda state: rules.acknowledge(state, now_ms()))

    async def expire_inputs(self, now: int) -> None:
        """Fail those whose files did not arrive by a time (milliseconds since the epoch)."""
        overdue = await self._database.read(lambda c: store.overdue_inputs(c, now))
        for row in overdue:
            missing = [name for name, sha256 in row["inputs"].items() if sha256 is None]
            await self._apply(row["execution_id"], partial(rules.expire_inputs, now_ms=now, missing=missing))

    async def tenant_of_attempt(self, execution_id: str, attempt: int) -> str | None:
        """Whose an execution is, while this attempt of it is carried; None once it is not any more."""
        return await self._database.read(lambda c: queue.tenant_of_attempt(c, execution_id, attempt))

    async def has_input(self, execution_id: str, sha256: str) -> bool:
        """Whether a blob is one of an execution's inputs."""
        row = await self._database.read(lambda c: store.get_execution(c, None, execution_id))
        return row is not None and sha256 in row["inputs"].values()

    async def any_unfinished(self) -> bool:
        """Whether anything of anyone is queued or runs."""
        return await self._database.read(queue.any_unfinished)

    async def offered_runtimes(self) -> list[dict[str, str]]:
        """What the runners that were heard of lately can run, newest version first."""
        rows = await self.present_runners()
        by_name = {runtime["name"]: runtime for row in rows for runtime in row["runtimes"]}
        return sorted(by_name.values(), key=_version_of, reverse=True)

    async def present_runners(self) -> Sequence[Row]:
        """Runners that were heard of lately."""
        since = now_ms() - runners.SEEN_WITHIN_MS
        return await self._database.read(lambda c: runners.list_runners(c, since))

    async def choose_runtime(self, asked: str | None) -> str:
        """The runtime to run with: the one asked for, else the default, else the newest there is.

        Raises:
            Invalid: none of the runners that are here offers it.
        """
        if self._offered_until < monotonic():
            self._offered = [runtime["name"] for runtime in await self.offered_runtimes()]
            self._offered_until = monotonic() + OFFERED_SECONDS
        offered = self._offered
        wanted: str = asked or DEFAULT_RUNTIME
        if not offered or wanted in offered:
            return wanted
        if asked is None:
            return offered[0]
        raise Invalid(
            [
                Problem(
                    ("runtime",),
                    f"no runner here offers {asked[:80]!r}; there is {', '.join(offered)}",
                    code="runtime_unavailable",
                )
            ]
        )

    async def _get(self, tenant_id: str, execution_id: str) -> Row:
        row = await self._database.read(lambda c: store.get_execution(c, tenant_id, execution_id))
        if row is None:
            raise NotFound("Execution")
        return row

    def _submit(
        self, connection: Connection, tenant_id: str, submission: Submission
    ) -> tuple[Submitted, list[str]]:
        now = now_ms()
        mark = fingerprint(submission) if submission.run_key is not None else None
        if submission.run_key is not None:
            held = store.find_by_run_key(connection, tenant_id, submission.run_key)
            if held is not None:
                if held["fingerprint"] != mark:
                    raise run_key_conflict(submission.run_key, execution_id=held["execution_id"])
                return Submitted(_stored(connection, held["execution_id"]), attached=True), []
        check_budget(connection, tenant_id, now)
        check_blobs(connection, tenant_id, [submission.inputs])
        inputs_are_here = all(submission.inputs.values())
        state = rules.submit(now, inputs_are_here=inputs_are_here, retry_policy=submission.retry_policy)
        new = NewExecution(
            execution_id=new_id("exec"),
            specification_id=specification_id(tenant_id, submission.specification),
            submission=submission,
            fingerprint=mark,
            state=state,
            batch_index=join_batch(connection, tenant_id, submission, now),
            batch_input=next(iter(submission.inputs), None),
            inputs_due_at_ms=None if inputs_are_here else now + INPUTS_DUE_MS,
        )
        (row,) = insert_new(connection, tenant_id, [new], now)
        if not inputs_are_here:
            # what has come is kept until the others must have
            here = [sha256 for sha256 in submission.inputs.values() if sha256]
            blob_store.keep(connection, tenant_id, here, now + INPUTS_DUE_MS + KEEP_UNUSED_MS)
        topics = [tenant_topic(tenant_id), *([WORK] if inputs_are_here else [])]
        if submission.batch_id is not None:
            topics.append(batch_topic(tenant_id, submission.batch_id))
        return Submitted(row, attached=False), topics

    async def _change(self, tenant_id: str, execution_id: str, event: Callable[[State], State]) -> Row:
        await self._get(tenant_id, execution_id)
        await self._apply(execution_id, event)
        return await self.get(tenant_id, execution_id)

    async def _apply(self, execution_id: str, event: Callable[[State], State]) -> None:
        def change(connection: Connection) -> tuple[Transition | None, list[str]]:
            done = apply_event(connection, execution_id, event, now_ms())
            return done, cancel_topics(connection, [done])

        done, topics = await self._database.write(change)
        self._wakeups.wake([*topics_of(done), *topics])


def submission_of(row: Row) -> Submission:
    """What was submitted, from its row."""
    return Submission(
        script_content=row["script_content"],
        runtime=row["runtime"],
        script_name=row["script_name"],
        requirements_content=row["requirements_content"],
        args=tuple(row["args"]),
        env_vars=row["env_vars"],
        inputs=row["inputs"],
        outputs=tuple(row["outputs"]) if row["outputs"] is not None else None,
        timeout_seconds=row["timeout_seconds"],
        cpus_milli=row["cpus_milli"],
        memory_mib=row["memory_mib"],
        priority=row["priority"],
        user_metadata=row["user_metadata"],
        run_key=row["run_key"],
        batch_id=row["batch_id"],
        # templates of batches that were made before there were policies have none
        retry_policy=RetryPolicy.from_wire(row.get("retry_policy")),
    )


def insert_new(connection: Connection, tenant_id: str, new: Sequence[NewExecution], now_ms: int) -> list[Row]:
    """Insert executions, their shared specification first; inputs that are here become artifacts."""
    by_specification = {item.specification_id: item.submission for item in new}
    # in one order, so that two who insert the same do not wait for each other
    for specification, submission in sorted(by_specification.items(), key=itemgetter(0)):
        store.insert_specification(connection, tenant_id, specification, submission, now_ms)
    rows = store.insert_executions(connection, tenant_id, new)
    ready = {item.execution_id: item.submission.inputs for item in new if item.state.ready_at_ms is not None}
    insert_input_artifacts(connection, tenant_id, ready, now_ms)
    return rows


def insert_input_artifacts(
    connection: Connection,
    tenant_id: str,
    inputs_by_execution: Mapping[str, Mapping[str, str | None]],
    now_ms: int,
) -> None:
    """List the input files of executions whose files have all arrived."""
    hashes = [sha256 for inputs in inputs_by_execution.values() for sha256 in inputs.values() if sha256]
    if not hashes:
        return
    ids = iter(new_ids("art", len(hashes)))
    sizes = blob_store.lock_owned_sizes(connection, tenant_id, hashes)
    blob_store.insert_artifacts(
        connection,
        [
            {
                "artifact_id": next(ids),
                "execution_id": execution_id,
                "tenant_id": tenant_id,
                "artifact_type": "input",
                "filename": name,
                "sha256": sha256,
                "size_bytes": sizes[sha256],
                "content_type": "application/octet-stream",
                "mode": 0o644,
                "created_at_ms": now_ms,
            }
            for execution_id, inputs in inputs_by_execution.items()
            for name, sha256 in inputs.items()
            if sha256
        ],
    )


def check_blobs(
    connection: Connection, tenant_id: str, inputs_of: Sequence[Mapping[str, str | None]]
) -> None:
    """Make sure that every blob that inputs name is here.

    Raises:
        Invalid: some are not; each is named.
    """
    named = {sha256: name for inputs in inputs_of for name, sha256 in inputs.items() if sha256}
    if not named:
        return
    here = blob_store.lock_owned_sizes(connection, tenant_id, list(named))
    problems = [
        Problem(
            ("inputs", name),
            f"the blob {sha256} is not here; upload it with PUT /blobs/{sha256} first",
            code="blob_missing",
        )
        for sha256, name in named.items()
        if sha256 not in here
    ]
    if problems:
        raise Invalid(problems)


@contextmanager
def inputs_that_expire(what: str) -> Iterator[None]:
    """Around submitting again what has ended: a blob that is missing now was there, and was kept long enough.

    Raises:
        Conflict: ``inputs_expired``.
    """
    try:
        yield
    except Invalid as error:
        names = sorted({item.location[-1] for item in error.problems if item.code == "blob_missing"})
        if not names:
            raise
        raise Conflict(
            "inputs_expired",
            f"input files of {what} are not kept any more ({', '.join(names[:10])}); upload them again with "
            "a new submission",
        ) from None


def join_batch(connection: Connection, tenant_id: str, submission: Submission, now_ms: int) -> int | None:
    """Count an execution in the batch it names, which is made when it is new; returns its index there."""
    if submission.batch_id is None:
        return None
    # held from here on, so that two who join at once get different places
    batch = batch_store.lock_batch(connection, tenant_id, submission.batch_id)
    if batch is None:
        batch_store.insert_batch(
            connection,
            {
                "tenant_id": tenant_id,
                "batch_id": submission.batch_id,
                "user_metadata": {},
                "closed": True,
                "created_at_ms": now_ms,
            },
        )
    elif batch["cancel_requested_at_ms"] is not None:
        raise Conflict("conflict", f"the batch {submission.batch_id} was canceled; name another")
    elif batch["completed_at_ms"] is not None:
        batch_store.update_batch(connection, tenant_id, submission.batch_id, completed_at_ms=None)
    index = batch_store.next_index(connection, tenant_id, submission.batch_id)
    store.count_in_batch(connection, tenant_id, submission.batch_id, {Status.QUEUED: 1})
    return index


def cancel_topics(connection: Connection, done: Sequence[Transition | None]) -> list[str]:
    """The runners that are to be told of cancellations."""
    wanted = {
        item.execution_id
        for item in done
        if item is not None
        and item.after.cancel_requested_at_ms != item.before.cancel_requested_at_ms
        and item.after.status is Status.RUNNING
    }
    if not wanted:
        return []
    carriers = {queue.carrier_of(connection, execution_id) for execution_id in wanted}
    return sorted(runner_topic(runner_id) for runner_id in carriers if runner_id is not None)


def run_key_conflict(run_key: str, **holder: str) -> Conflict:
    """The error of a run key that other work holds."""
    what, holder_id = next(iter(holder.items()))
    return Conflict(
        "run_key_conflict",
        f"the run key {run_key!r} is held by {holder_id}, which is other work; "
        f"acknowledge that first, or use another key",
        **{what: holder_id},
    )


def _stored(connection: Connection, execution_id: str) -> Row:
    row = store.get_execution(connection, None, execution_id)
    if row is None:
        raise RuntimeError(f"{execution_id} was written in this transaction and is not there")
    return row


def _version_of(runtime: Mapping[str, str]) -> tuple[int, ...]:
    return tuple(int(part) for part in runtime.get("version", "0").split(".") if part.isdigit())
