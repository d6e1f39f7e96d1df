"""The items of batches: checked and written by the thousand, each by what it has of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from sqlalchemy.engine import Connection

from rgrid_server.clock import new_ids, now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.execution import Status
from rgrid_server.domain.submission import (
    Limits,
    Problem,
    Submission,
    find_part_problems,
    find_problems,
    specification_id,
)
from rgrid_server.errors import Conflict, Invalid
from rgrid_server.scheduler.intake import check_blobs, insert_input_artifacts
from rgrid_server.store import batches as store
from rgrid_server.store import bulk
from rgrid_server.store import executions as execution_store
from rgrid_server.store.bulk import NewItem
from rgrid_server.store.intake import NewExecution, insert_specification

MAX_PROBLEMS = 20


class BatchItem(NamedTuple):
    """One execution of a batch: what it shares with others, and what it has of its own.

    Where an item says nothing of its own, it holds the very object of ``base``, so that what is done with
    that once need not be done again.
    """

    base: Submission
    args: Sequence[str]
    env_vars: Mapping[str, str]
    inputs: Mapping[str, str | None]
    user_metadata: Mapping[str, object]
    input_file: str | None = None

    @classmethod
    def of(cls, submission: Submission, input_file: str | None = None) -> BatchItem:
        """An item that is a submission and nothing of its own."""
        return cls(
            submission,
            submission.args,
            submission.env_vars,
            submission.inputs,
            submission.user_metadata,
            input_file,
        )

    @property
    def name(self) -> str | None:
        """What the batch calls it by."""
        return self.input_file or next(iter(self.inputs), None)


def find_batch_problems(
    template: Submission | None, items: Sequence[BatchItem], parallelism: int | None, limits: Limits
) -> list[Problem]:
    """What is wrong with a batch, each problem with its place in the request; some, where there are many."""
    problems = find_problems(template, limits) if template is not None else []
    if len(items) > limits.max_batch_items:
        problems.append(
            Problem(
                ("items",),
                f"{len(items)} items; at most {limits.max_batch_items} at once are allowed, "
                "append the others with POST /batches/{id}/items",
                too_large=True,
            )
        )
    if parallelism is not None and parallelism < 1:
        problems.append(Problem(("parallelism",), f"parallelism is {parallelism}; it must be at least 1"))
    for index, item in enumerate(items):
        problems.extend(
            replace(problem, location=("items", str(index), *problem.location))
            for problem in find_part_problems(item, item.base.script_name, limits)
        )
        if len(problems) > MAX_PROBLEMS:
            break
    return problems


def check_items(items: Sequence[BatchItem], limits: Limits) -> None:
    """Make sure that items can be appended.

    Raises:
        Invalid: some ask for what cannot be.
    """
    problems = find_batch_problems(items[0].base if items else None, items, None, limits)
    if problems:
        raise Invalid(problems)


def insert_items(connection: Connection, tenant_id: str, batch_id: str, items: Sequence[BatchItem]) -> None:
    """Write items behind those that a batch has, with all that comes with them.

    Raises:
        Invalid: a blob that an input names is not here.
    """
    if not items:
        return
    now = now_ms()
    check_blobs(connection, tenant_id, [inputs for inputs, _ in groupby(item.inputs for item in items)])
    first = store.next_index(connection, tenant_id, batch_id)
    written: dict[str, Mapping[str, str | None]] = {}
    for base, group in _by_base(items):
        submission = base._replace(
            batch_id=batch_id, run_key=None, args=(), env_vars={}, inputs={}, user_metadata={}
        )
        specification = specification_id(tenant_id, base.specification)
        insert_specification(connection, tenant_id, specification, base, now)
        shared = NewExecution(
            execution_id="",
            specification_id=specification,
            submission=submission,
            fingerprint=None,
            state=rules.submit(now, inputs_are_here=True, retry_policy=base.retry_policy),
        )
        ids = new_ids("exec", len(group))
        rows = [
            NewItem(ids[at], first + at, item.name, item.args, item.env_vars, item.inputs, item.user_metadata)
            for at, item in enumerate(group)
        ]
        bulk.insert_items(connection, tenant_id, shared, rows)
        first += len(group)
        written.update((row.execution_id, row.inputs) for row in rows if row.inputs)
    insert_input_artifacts(connection, tenant_id, written, now)
    execution_store.count_in_batch(connection, tenant_id, batch_id, {Status.QUEUED: len(items)})


def is_repeated(
    connection: Connection, tenant_id: str, batch_id: str, first_index: int, items: Sequence[BatchItem]
) -> bool:
    """Whether items that name their first index are there already, from a request whose answer was lost.

    Raises:
        Conflict: ``index_conflict``; they would leave a gap, or others stand where they belong.
    """
    expected = store.next_index(connection, tenant_id, batch_id)
    if first_index == expected:
        return False
    here = bulk.stored_items(connection, tenant_id, batch_id, first_index, len(items))
    if len(here) == len(items) and all(map(_is_same, here, items)):
        return True
    raise Conflict(
        "index_conflict",
        f"the next item of the batch {batch_id} has the index {expected}, and these items begin at "
        f"{first_index} without being those that are there; send what follows",
        expected_index=expected,
    )


def _is_same(stored: NewItem, item: BatchItem) -> bool:
    return (
        list(stored.args) == list(item.args)
        and stored.batch_input == item.name
        and stored.env_vars == item.env_vars
        and stored.inputs == item.inputs
        and stored.user_metadata == item.user_metadata
    )


def _by_base(items: Sequence[BatchItem]) -> Iterator[tuple[Submission, list[BatchItem]]]:
    """Items in order, in groups that share one base."""
    for _, group in groupby(items, key=lambda item: id(item.base)):
        found = list(group)
        yield found[0].base, found
