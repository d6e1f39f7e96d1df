"""Submitting executions, looking at them, and ending them from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic, perf_counter

from sqlalchemy.engine import Connection

from rgrid_server.clock import now_ms
from rgrid_server.domain import execution as rules
from rgrid_server.domain.execution import State, Status
from rgrid_server.domain.runtimes import (
    Chosen,
    Offer,
    Preset,
    is_offered,
    newest_first,
    offered_presets,
)
from rgrid_server.domain.submission import Limits, Problem, Submission, find_problems
from rgrid_server.errors import Conflict, Invalid, NotFound
from rgrid_server.scheduler.intake import (
    Asked,
    Submitted,
    Taken,
    inputs_that_expire,
    is_independent,
    submission_of,
    submit_one,
    submit_together,
)
from rgrid_server.scheduler.observer import Observer
from rgrid_server.scheduler.offers import runtimes_of
from rgrid_server.scheduler.transitions import apply_event, topics_of
from rgrid_server.scheduler.wakeups import Wakeups, execution_topic, runner_topic
from rgrid_server.store import executions as store
from rgrid_server.store import listing, queue, runners
from rgrid_server.store.database import Database, Row
from rgrid_server.store.executions import Transition

DEFAULT_RUNTIME = "python:3.11"
OFFERED_SECONDS = 0.5
"""So long what runners offer is taken to be what it was."""


class Executions:
    """Everything a tenant may do with executions."""

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        limits: Limits,
        observer: Observer | None = None,
        presets: Mapping[str, Preset] | None = None,
    ) -> None:
        self._database = database
        self._observer = observer or Observer()
        self._wakeups = wakeups
        self.limits = limits
        self._presets = dict(presets or {})
        self._offered: list[Offer] = []
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
        if is_independent(submission):
            submitted, topics = await self._database.write_together(
                submit_together, Asked(tenant_id, submission), takes_in=True
            )
        else:
            submitted, topics = await self._database.write(
                lambda c: submit_one(c, tenant_id, submission), takes_in=True
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

    async def lookup(self, tenant_id: str, ids: Sequence[str], run_keys: Sequence[str] = ()) -> Sequence[Row]:
        """Those of the ids that the tenant has, and what holds the run keys."""
        return await self._database.read(lambda c: store.lookup_executions(c, tenant_id, ids, run_keys))

    async def retry(self, tenant_id: str, execution_id: str) -> Row:
        """A new execution of the same work, in no batch and under no run key.

        Raises:
            NotFound, LimitReached: as for submitting.
            Conflict: its input files never arrived, or are not kept any more (``inputs_expired``).
        """

        def again(connection: Connection) -> Taken:
            row = store.get_execution(connection, tenant_id, execution_id)
            if row is None:
                raise NotFound("Execution")
            missing = [name for name, sha256 in row["inputs"].items() if sha256 is None]
            if missing:
                raise Conflict(
                    "inputs_missing",
                    f"the input files {', '.join(missing)} never arrived; submit again and upload them",
                )
            submission = submission_of(row)._replace(run_key=None, batch_id=None)
            with inputs_that_expire(execution_id):
                return submit_one(connection, tenant_id, submission)

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

    async def offered_runtimes(self) -> list[Offer]:
        """What can be asked for: Pythons first, newer versions before older, then the presets.

        It is what the runners that were heard of lately can run, and the presets that stand for any of it.
        """
        rows = await self.present_runners()
        offers = {offer for row in rows for offer in runtimes_of(row)}
        there = newest_first(offers)
        return [*there, *offered_presets(self._presets.values(), there)]

    async def present_runners(self) -> Sequence[Row]:
        """Runners that were heard of lately."""
        since = now_ms() - runners.SEEN_WITHIN_MS
        return await self._database.read(lambda c: runners.list_runners(c, since))

    async def choose(self, asked: str | None, requirements: str | None = None) -> Chosen:
        """What to run with: what a preset stands for, before the requirements that there are beside it.

        Raises:
            Invalid: none of the runners that are here offers it.
        """
        preset = self._presets.get(asked) if asked is not None else None
        if preset is None:
            return Chosen(await self._choose_runtime(asked), requirements)
        both = [part for part in (preset.requirements, requirements or "") if part.strip()]
        return Chosen(await self._choose_runtime(preset.runtime), "\n".join(both) or None)

    async def choose_estimated(self, asked: str | None) -> str:
        """The runtime whose earlier runs an estimate looks at; also one that nobody offers now."""
        if asked and asked not in self._presets:
            return asked
        return (await self.choose(asked or None)).runtime

    async def _choose_runtime(self, asked: str | None) -> str:
        """The runtime that was asked for, else the default, else the newest there is.

        Raises:
            Invalid: none of the runners that are here offers it.
        """
        if self._offered_until < monotonic():
            self._offered = await self.offered_runtimes()
            self._offered_until = monotonic() + OFFERED_SECONDS
        offered = self._offered
        if not offered or is_offered(offered, asked or DEFAULT_RUNTIME):
            return asked or DEFAULT_RUNTIME
        if asked is None:
            return offered[0].name
        raise Invalid(
            [
                Problem(
                    ("runtime",),
                    f"no runner here offers {asked[:80]!r}; "
                    f"there is {', '.join(dict.fromkeys(offer.name for offer in offered))}",
                    code="runtime_unavailable",
                )
            ]
        )

    async def _get(self, tenant_id: str, execution_id: str) -> Row:
        row = await self._database.read(lambda c: store.get_execution(c, tenant_id, execution_id))
        if row is None:
            raise NotFound("Execution")
        return row

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
