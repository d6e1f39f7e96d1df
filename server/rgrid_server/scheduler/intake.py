"""Taking executions in: what is looked at, and what is stored, in the transaction of a submission."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import NamedTuple

from sqlalchemy.engine import Connection

from rgrid_server.billing.budgets import check_budget
from rgrid_server.clock import new_ids, now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.attempts import Specification
from rgrid_server.domain.caching import Caching
from rgrid_server.domain.execution import State, Status
from rgrid_server.domain.retention import KEEP_UNUSED_MS
from rgrid_server.domain.retries import RetryPolicy
from rgrid_server.domain.submission import Problem, Submission, fingerprint, specification_id
from rgrid_server.errors import Conflict, Invalid, LimitReached
from rgrid_server.scheduler.wakeups import WORK, batch_topic, tenant_topic
from rgrid_server.store import batches as batch_store
from rgrid_server.store import blobs as blob_store
from rgrid_server.store import executions as store
from rgrid_server.store import intake as intake_store
from rgrid_server.store.database import Row
from rgrid_server.store.intake import NewExecution

INPUTS_DUE_MS = 3_600_000


class Submitted(NamedTuple):
    """An execution as stored; ``attached`` when a run key found it rather than made it."""

    row: Row
    attached: bool


class Asked(NamedTuple):
    """Work that a tenant asks for."""

    tenant_id: str
    submission: Submission


Taken = tuple[Submitted, list[str]]
"""What became of it, and the topics to wake."""


def is_independent(submission: Submission) -> bool:
    """Whether it touches nothing that other submissions hold, so that many may share a transaction."""
    return submission.batch_id is None and not submission.inputs


def submit_one(connection: Connection, tenant_id: str, submission: Submission) -> Taken:
    """Store an execution.

    Raises:
        Conflict, Invalid, LimitReached: as :meth:`Executions.submit` says.
    """
    (taken,) = submit_together(connection, [Asked(tenant_id, submission)])
    if isinstance(taken, Exception):
        raise taken
    return taken


def submit_together(connection: Connection, asked: Sequence[Asked]) -> list[Taken | Exception]:
    """Store executions that may be many tenants'; answers each, or says why not."""
    now = now_ms()
    places_of: defaultdict[str, list[int]] = defaultdict(list)
    for place, (tenant_id, _) in enumerate(asked):
        places_of[tenant_id].append(place)
    found: dict[int, Taken | Exception] = {}
    fresh = iter(new_ids("exec", len(asked)))
    # in one order, so that two who take in the same do not wait for each other
    for tenant_id, places in sorted(places_of.items()):
        intake = _Intake(connection, tenant_id, now, fresh)
        for place in sorted(places, key=lambda place: asked[place].submission.run_key or ""):
            try:
                intake.take(place, asked[place].submission)
            except (Conflict, Invalid, LimitReached) as error:
                found[place] = error
        found.update(intake.store())
    return [found[place] for place in range(len(asked))]


class _Intake:
    """A tenant's submissions in one transaction."""

    def __init__(self, connection: Connection, tenant_id: str, now: int, fresh: Iterator[str]) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self._now = now
        self._fresh = fresh
        self._may_spend = False
        self._new: dict[int, NewExecution] = {}
        self._specifications: dict[Specification, str] = {}
        self._states: dict[tuple[bool, RetryPolicy | None], State] = {}
        self._attached: dict[int, str] = {}
        self._holders: dict[str, tuple[str, str | None]] = {}

    def take(self, place: int, submission: Submission) -> None:
        """Look at one.

        Raises:
            Conflict, Invalid, LimitReached: it cannot be taken; nothing was written for it.
        """
        mark = fingerprint(submission) if submission.run_key is not None else None
        if submission.run_key is not None and (holder := self._holder(submission.run_key)) is not None:
            execution_id, its_mark = holder
            if its_mark != mark:
                raise run_key_conflict(submission.run_key, execution_id=execution_id)
            self._attached[place] = execution_id
            return
        if not self._may_spend:
            check_budget(self._connection, self._tenant_id, self._now)
            self._may_spend = True
        if submission.inputs:
            check_blobs(self._connection, self._tenant_id, [submission.inputs])
        inputs_are_here = not submission.inputs or all(submission.inputs.values())
        new = self._new[place] = NewExecution(
            execution_id=next(self._fresh),
            specification_id=self._specification_id(submission.specification),
            submission=submission,
            fingerprint=mark,
            state=self._state(inputs_are_here, submission.retry_policy),
            batch_index=join_batch(self._connection, self._tenant_id, submission, self._now),
            batch_input=next(iter(submission.inputs), None),
            inputs_due_at_ms=None if inputs_are_here else self._now + INPUTS_DUE_MS,
        )
        if submission.run_key is not None:
            self._holders[submission.run_key] = (new.execution_id, mark)

    def store(self) -> dict[int, Taken]:
        """Write what was taken; by place."""
        stored = insert_new(self._connection, self._tenant_id, list(self._new.values()), self._now)
        found: dict[int, Taken] = {}
        tenant = tenant_topic(self._tenant_id)
        for (place, new), row in zip(self._new.items(), stored, strict=True):
            submission = new.submission
            topics = [tenant]
            if new.inputs_due_at_ms is None:
                topics.append(WORK)
            else:
                # what has come is kept until the others must have
                here = [sha256 for sha256 in submission.inputs.values() if sha256]
                kept_until_ms = new.inputs_due_at_ms + KEEP_UNUSED_MS
                blob_store.keep(self._connection, self._tenant_id, here, kept_until_ms)
            if submission.batch_id is not None:
                topics.append(batch_topic(self._tenant_id, submission.batch_id))
            found[place] = Submitted(row, attached=False), topics
        for place, execution_id in self._attached.items():
            row = store.written_execution(self._connection, execution_id)
            found[place] = Submitted(row, attached=True), []
        return found

    def _state(self, inputs_are_here: bool, retry_policy: RetryPolicy | None) -> State:
        """How an execution of this moment begins; made once for all that begin alike."""
        key = (inputs_are_here, retry_policy)
        found = self._states.get(key)
        if found is None:
            found = self._states[key] = rules.submit(
                self._now, inputs_are_here=inputs_are_here, retry_policy=retry_policy
            )
        return found

    def _specification_id(self, specification: Specification) -> str:
        found = self._specifications.get(specification)
        if found is None:
            found = self._specifications[specification] = specification_id(self._tenant_id, specification)
        return found

    def _holder(self, run_key: str) -> tuple[str, str | None] | None:
        """Who holds a run key, and what work that is."""
        if run_key in self._holders:
            return self._holders[run_key]
        held = store.find_by_run_key(self._connection, self._tenant_id, run_key)
        return None if held is None else (held["execution_id"], held["fingerprint"])


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
        secrets=row.get("secrets") or {},
        cache=row.get("cache") or Caching.OFF,
    )


def insert_new(connection: Connection, tenant_id: str, new: Sequence[NewExecution], now_ms: int) -> list[Row]:
    """Insert executions, their shared specification first; inputs that are here become artifacts."""
    if not new:
        # a run key has found all that was asked for
        return []
    by_specification = {item.specification_id: item.submission for item in new}
    # in one order, so that two who insert the same do not wait for each other
    for specification, submission in sorted(by_specification.items(), key=itemgetter(0)):
        intake_store.insert_specification(connection, tenant_id, specification, submission, now_ms)
    rows = intake_store.insert_executions(connection, tenant_id, new)
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


def run_key_conflict(run_key: str, **holder: str) -> Conflict:
    """The error of a run key that other work holds."""
    what, holder_id = next(iter(holder.items()))
    return Conflict(
        "run_key_conflict",
        f"the run key {run_key!r} is held by {holder_id}, which is other work; "
        f"acknowledge that first, or use another key",
        **{what: holder_id},
    )
