"""Claims, leases, limits and retries, from submission to report, on a real database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from rgrid_server.domain.attempts import LogChunk, LogEntry, Outcome
from rgrid_server.domain.retries import RetryPolicy
from rgrid_server.errors import Invalid, Superseded
from rgrid_server.scheduler import choosing, leases
from rgrid_server.scheduler.reports import Verdict
from rgrid_server.store import queue
from tests.core import Core, sqlite_core

Run = Callable[[Callable[[Core], Awaitable[None]]], None]
DAY_MS = 86_400_000


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a story on a fresh core."""

    def tell(story: Callable[[Core], Awaitable[None]]) -> None:
        async def within() -> None:
            async with sqlite_core(tmp_path / "rgrid.sqlite") as core:
                await story(core)

        asyncio.run(asyncio.wait_for(within(), 120))

    return tell


class Clock:
    """The server's clock, as far as leases and retries look at it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from rgrid_server.scheduler import claims, executions, intake, reports

        self.now_ms = 1_800_000_000_000
        for module in (claims, leases, executions, intake, reports):
            monkeypatch.setattr(module, "now_ms", lambda: self.now_ms)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def until_watched(core: Core, topic: str) -> None:
    """Wait until somebody waits for a topic."""
    while topic not in core.wakeups._watches:
        await asyncio.sleep(0)


# --- who is next


def test_an_interactive_execution_gets_the_next_slot_beside_a_large_batch(run: Run) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.register()
        batch = await core.submit_batch(tenant, 500)
        assert {item.batch_id for item in (await core.claim(4)).attempts} == {batch}
        mine = await core.submit(tenant)
        assert [item.execution_id for item in (await core.claim(1)).attempts] == [mine]

    run(story)


def test_tenants_share_what_is_free_however_much_each_has_queued(run: Run) -> None:
    async def story(core: Core) -> None:
        large, small = await core.tenant("large"), await core.tenant("small")
        await core.register()
        for _ in range(10):
            await core.submit_batch(large, 50)
        await core.submit_batch(small, 20)
        given: Counter[str] = Counter()
        for _ in range(10):
            given.update(item.tenant_id for item in (await core.claim(3)).attempts)
            assert abs(given[large] - given[small]) <= 1
        assert given.total() == 30

    run(story)


def test_claims_that_are_written_together_take_turns_all_the_same(run: Run) -> None:
    async def story(core: Core) -> None:
        tenants = [await core.tenant(name) for name in "abcd"]
        for tenant in tenants:
            await core.submit_batch(tenant, 20)
        for number in range(12):
            await core.register(f"r{number}")
        claimed = await asyncio.gather(*(core.claim(1, f"r{number}") for number in range(12)))
        given = Counter(item.tenant_id for one in claimed for item in one.attempts)
        assert given == dict.fromkeys(tenants, 3)

    run(story)


def test_priority_comes_before_fair_shares(run: Run) -> None:
    async def story(core: Core) -> None:
        first, second = await core.tenant("a"), await core.tenant("b")
        await core.register()
        await core.submit(first, priority=-5)
        urgent = [await core.submit(second, priority=5) for _ in range(3)]
        assert [item.execution_id for item in (await core.claim(3)).attempts] == urgent

    run(story)


def test_more_flows_than_one_claim_looks_at_are_all_served(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "MAX_CONTENDERS", 3)

    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.register()
        batches = {await core.submit_batch(tenant, 5) for _ in range(11)}
        served: set[str | None] = set()
        for _ in range(22):
            served |= {item.batch_id for item in (await core.claim(1)).attempts}
        assert served == batches
        # and the executions of no batch always contend
        mine = await core.submit(tenant)
        assert mine in [item.execution_id for item in (await core.claim(2)).attempts]

    run(story)


# --- limits


def test_a_batchs_parallelism_is_never_exceeded_by_runners_that_claim_at_once(run: Run) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        batch = await core.submit_batch(tenant, 60, parallelism=5)
        for number in range(8):
            await core.register(f"r{number}")
        for _ in range(6):
            claimed = await asyncio.gather(*(core.claim(3, f"r{number}") for number in range(8)))
            running = [item for one in claimed for item in one.attempts]
            assert len(running) == 5
            assert (await core.batches.get(tenant, batch))["running"] == 5
            for item in running:
                await core.report(item)

    run(story)


def test_a_tenants_limit_is_never_exceeded_and_makes_nobody_else_wait(run: Run) -> None:
    async def story(core: Core) -> None:
        limited, free = await core.tenant("limited"), await core.tenant("free")
        await core.tenancy.set_max_running(limited, 2)
        await core.submit_batch(limited, 10)
        for _ in range(10):
            await core.submit(limited)
        for number in range(6):
            await core.register(f"r{number}")
        claimed = await asyncio.gather(*(core.claim(4, f"r{number}") for number in range(6)))
        running = [item for one in claimed for item in one.attempts]
        assert [item.tenant_id for item in running] == [limited] * 2
        await core.submit(free)
        assert [item.tenant_id for item in (await core.claim(4)).attempts] == [free]

    run(story)


def test_the_end_of_one_lets_a_limited_tenants_next_one_run_at_once(run: Run) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.tenancy.set_max_running(tenant, 1)
        await core.register()
        await core.register("r2")
        ids = [await core.submit(tenant) for _ in range(2)]
        (first,) = (await core.claim(1)).attempts
        waiting = asyncio.create_task(core.claim(1, "r2", wait_ms=60_000))
        await until_watched(core, "work")
        await core.report(first)
        assert [item.execution_id for item in (await waiting).attempts] == ids[1:]

    run(story)


# --- room


def test_memory_and_cpus_are_packed(run: Run) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.register(memory_mib=8192)
        await core.submit(tenant, memory_mib=6000)
        await core.submit(tenant, memory_mib=6000)
        third = await core.submit(tenant, memory_mib=2000, cpus_milli=500)
        claimed = await core.claim(4, memory_mib=8192)
        assert [item.memory_mib for item in claimed.attempts] == [6000, 2000]
        assert claimed.attempts[1].execution_id == third
        assert claimed.lacks_room

    run(story)


def test_a_runner_that_has_more_room_than_it_said_is_asked_to_say_it_again(run: Run) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.register()
        await core.submit(tenant, cpus_milli=3000)
        await core.submit(tenant, cpus_milli=2000)
        (large,) = (await core.claim(4)).attempts
        waiting = asyncio.create_task(core.claim(3, cpus_milli=1000, wait_ms=60_000))
        await until_watched(core, "room:r1")
        await core.report(large)
        assert (await waiting).attempts == []
        assert len((await core.claim(4)).attempts) == 1

    run(story)


# --- leases and fences


def test_what_waits_out_a_backoff_is_not_in_the_queue_and_comes_back(run: Run, clock: Clock) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.register()
        await core.submit(tenant)
        (first,) = (await core.claim()).attempts
        await core.report(first, Outcome.GRID_FAULT, None)
        due = await core.database.read(queue.next_ready_at_ms)
        assert due is not None
        assert due > clock.now_ms
        assert not await core.database.read(queue.any_ready)
        assert await core.database.read(queue.any_unfinished)
        assert (await core.claim()).attempts == []
        clock.now_ms = due
        assert [item.attempt for item in (await core.claim()).attempts] == [2]
        assert await core.database.read(queue.next_ready_at_ms) is None

    run(story)


def test_a_clock_that_is_set_back_delays_and_breaks_nothing(run: Run, clock: Clock) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.register()
        await core.submit(tenant)
        clock.now_ms -= DAY_MS
        assert (await core.claim()).attempts == []
        clock.now_ms += DAY_MS
        assert len((await core.claim()).attempts) == 1

    run(story)


def test_an_expired_lease_is_handed_on_and_the_old_attempt_is_refused_everything(
    run: Run, clock: Clock
) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.register()
        execution = await core.submit(tenant)
        (old,) = (await core.claim()).attempts
        assert await core.send_log(old, ["one", "two"], 1) is Verdict.ACCEPTED
        clock.now_ms += leases.LEASE_MS + 1
        await core.leases.expire(clock.now_ms)
        clock.now_ms += 60_000
        (new,) = (await core.claim()).attempts
        assert (new.execution_id, new.attempt, new.first_sequence) == (execution, 2, 3)

        assert await core.send_log(old, ["late"], 3) is Verdict.STALE
        assert await core.report(old) is Verdict.STALE
        assert await core.executions.tenant_of_attempt(execution, old.attempt) is None
        assert await core.executions.tenant_of_attempt(execution, new.attempt) == tenant
        _, lost = await core.leases.heartbeat("r1", [old.id, new.id], "1")
        assert lost == [old.id]

        assert await core.send_log(new, ["three"], new.first_sequence) is Verdict.ACCEPTED
        assert await core.report(new) is Verdict.ACCEPTED
        page = await core.logs.page(tenant, execution, 0)
        assert [(number, entry.text) for number, entry in page.entries] == [
            (1, "one"),
            (2, "two"),
            (3, "three"),
        ]

    run(story)


def test_of_two_runners_by_one_name_the_older_is_fenced_out(run: Run) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.register("r1", "older")
        await core.submit(tenant)
        (carried,) = (await core.claim(1, "r1", "older")).attempts
        waiting = asyncio.create_task(core.claim(1, "r1", "older", wait_ms=60_000))
        await until_watched(core, "runner:r1")
        await core.register("r1", "newer")
        # its long question is answered at once
        with pytest.raises(Superseded, match=r"r1, on host-of-r1.*data directory of its own"):
            await waiting
        with pytest.raises(Superseded):
            await core.leases.heartbeat("r1", [carried.id], "older")
        await core.leases.release("r1", [carried.id], "older")
        assert await core.report(carried) is Verdict.STALE
        assert (await core.leases.heartbeat("r1", [], "newer")) == ([], [])

    run(story)


@pytest.mark.parametrize("off_ms", [-DAY_MS, DAY_MS, -(10**15), 10**18])
def test_a_log_whose_times_are_off_is_put_within_the_attempts_own(
    run: Run, clock: Clock, off_ms: int
) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.register()
        execution = await core.submit(tenant)
        (attempt,) = (await core.claim()).attempts
        claimed_at_ms = clock.now_ms
        clock.now_ms += 5_000
        await core.send_log(attempt, ["a"], 1, clock.now_ms + off_ms)
        last = LogChunk(2, [LogEntry(1, clock.now_ms + off_ms, "b", 1)])
        await core.report(attempt, log=last)
        page = await core.logs.page(tenant, execution, 0)
        assert len(page.entries) == 2
        assert all(claimed_at_ms <= entry.timestamp_ms <= clock.now_ms for _, entry in page.entries)

    run(story)


# --- retries by policy


def test_a_failed_script_runs_again_by_its_policy_and_every_attempt_is_charged(
    run: Run, clock: Clock
) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.register()
        policy = RetryPolicy(2, backoff_seconds=10, backoff_factor=3)
        execution = await core.submit(tenant, retry_policy=policy)
        waits_ms = []
        for number in (1, 2, 3):
            (attempt,) = (await core.claim()).attempts
            assert attempt.attempt == number
            await core.send_log(attempt, [f"attempt {number}"], attempt.first_sequence)
            await core.report(attempt, exit_code=4 - number, duration_ms=2000)
            row = await core.get(tenant, execution)
            if number < 3:
                assert (row["status"], row["script_retry_count"]) == ("queued", number)
                waits_ms.append(row["ready_at_ms"] - clock.now_ms)
                clock.now_ms = row["ready_at_ms"]
        assert waits_ms == [10_000, 30_000]
        assert (row["status"], row["exit_code"], row["retry_count"]) == ("failed", 1, 0)
        charges = await core.database.read(
            lambda c: c.execute(text("SELECT attempt, nanos FROM charges ORDER BY attempt")).all()
        )
        assert [attempt for attempt, _ in charges] == [1, 2, 3]
        assert row["charge_nanos"] == sum(nanos for _, nanos in charges) > 0
        page = await core.logs.page(tenant, execution, 0)
        assert [entry.text for _, entry in page.entries] == [f"attempt {number}" for number in (1, 2, 3)]

    run(story)


def test_a_retry_of_a_batchs_execution_keeps_its_counts(run: Run) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        await core.register()
        batch = await core.submit_batch(tenant, 2, retry_policy=RetryPolicy(1, backoff_seconds=0))
        for item in (await core.claim(2)).attempts:
            await core.report(item, exit_code=1)
        row = await core.batches.get(tenant, batch)
        assert (row["queued"], row["running"], row["failed"]) == (2, 0, 0)
        again = (await core.claim(2)).attempts
        await core.report(again[0])
        await core.report(again[1], exit_code=1)
        row = await core.batches.get(tenant, batch)
        assert (row["completed"], row["failed"]) == (1, 1)
        assert row["completed_at_ms"] is not None
        template = await core.batches.template(tenant, batch)
        assert template.retry_policy == RetryPolicy(1, backoff_seconds=0)

    run(story)


def test_a_repeated_execution_keeps_its_policy(run: Run) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        policy = RetryPolicy(3, on=("signal",))
        execution = await core.submit(tenant, retry_policy=policy)
        again = await core.executions.retry(tenant, execution)
        assert RetryPolicy.from_wire(again["retry_policy"]) == policy

    run(story)


@pytest.mark.parametrize(
    ("changes", "field", "why"),
    [
        ({"max_retries": 21}, "max_retries", "from 0 to 20"),
        ({"max_retries": -1}, "max_retries", "from 0 to 20"),
        ({"on": ("sigkill",)}, "on", "'sigkill' is no failure to retry on"),
        ({"on": ()}, "on", "on is empty"),
        ({"exit_codes": (0,)}, "exit_codes", "0 is no exit code of a failure"),
        ({"exit_codes": ()}, "exit_codes", "exit_codes is empty"),
        ({"exit_codes": (1,), "on": ("signal",)}, "exit_codes", "add it to on"),
        ({"backoff_seconds": -1.0}, "backoff_seconds", "from 0 to"),
        ({"backoff_seconds": float("nan")}, "backoff_seconds", "from 0 to"),
        ({"backoff_factor": 0.5}, "backoff_factor", "from 1 to 100"),
        ({"max_backoff_seconds": 1e9}, "max_backoff_seconds", "from 0 to 86400"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_its_place(
    run: Run, changes: dict[str, Any], field: str, why: str
) -> None:
    async def story(core: Core) -> None:
        tenant = await core.tenant()
        with pytest.raises(Invalid, match=why) as refused:
            await core.submit(tenant, retry_policy=RetryPolicy(**{"max_retries": 1, **changes}))
        assert [problem.location for problem in refused.value.problems] == [("retry_policy", field)]

    run(story)
