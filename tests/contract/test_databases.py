"""What every database promises (rgrid_server.store.database), and what RGrid's rules need of it.

Each test runs on SQLite, where one process has the file, and on PostgreSQL, seen by two processes at once.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import delete
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from rgrid_server.billing import costs
from rgrid_server.billing.pricebook import add_prices
from rgrid_server.clock import now_ms
from rgrid_server.config import Settings
from rgrid_server.domain.attempts import AttemptId, Outcome
from rgrid_server.domain.execution import Status
from rgrid_server.domain.pricebook import NOTICE_MS, PricesInvalid
from rgrid_server.domain.prices import Price
from rgrid_server.errors import Conflict
from rgrid_server.scheduler.batches import BatchItem, BatchSubmission
from rgrid_server.scheduler.uploads import add_received
from rgrid_server.storage import migrate, open_database
from rgrid_server.store import batches, blobs, events, listing, runners, spend, tenants
from rgrid_server.store import executions as execution_store
from rgrid_server.store.tables import attempts, prices
from tests.contract.stores import Process, Store, blob, give, identities, work

if TYPE_CHECKING:
    from tests.postgres import PostgresCluster

DATABASES = ["sqlite", "postgres"]


def settings_of(kind: str, directory: Path, request: pytest.FixtureRequest) -> Settings:
    """A fresh database of a kind."""
    url = None
    if kind == "postgres":
        cluster: PostgresCluster = request.getfixturevalue("postgres")
        url = SecretStr(cluster.create_database())
    return Settings(data_dir=directory, database_url=url, database_connections=12)  # type: ignore[call-arg]


@pytest.fixture(scope="module", params=DATABASES)
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A database of this module's own, with this version's schema."""
    found = settings_of(request.param, tmp_path_factory.mktemp("data"), request)
    migrate(found)
    return found


@pytest.fixture(scope="module")
def store(settings: Settings) -> Iterator[Store]:
    """It is shared by the tests, which tell their things apart by tenant."""
    with asyncio.Runner() as loop:

        async def start() -> Store:
            databases = [open_database(settings)]
            # SQLite has one writer; PostgreSQL any number
            databases.append(databases[0] if settings.database_url is None else open_database(settings))
            return Store(loop, databases)

        found = loop.run(start())
        for process in found.processes:
            loop.run(process.register())
        yield found
        for database in found.databases:
            loop.run(database.close())


@pytest.fixture
def empty_queue(store: Store) -> Iterator[Store]:
    """Nothing of another test is ready to be claimed."""
    yield store
    while ready := identities(store.run(store.processes[0].claim(100))):
        store.together([store.processes[0].end(attempt) for attempt in ready])


def either(store: Store, number: int) -> Process:
    """One process or the other, in turn."""
    return store.processes[number % len(store.processes)]


# what the protocol says


def test_a_write_is_read_at_once_by_every_process(store: Store) -> None:
    for number in range(20):
        name = uuid.uuid4().hex
        store.run(either(store, number).database.write(lambda c, n=name: tenants.put_setting(c, n, "kept")))
        read = either(store, number + 1).database.read(lambda c, n=name: tenants.get_setting(c, n))
        assert store.run(read) == "kept"


def test_what_an_operation_returns_comes_back(store: Store) -> None:
    assert store.write(lambda _: {"a": [1, 2]}) == {"a": [1, 2]}


def test_an_operation_that_fails_leaves_nothing_and_others_stay(store: Store) -> None:
    names = [uuid.uuid4().hex for _ in range(40)]

    def put(name: str, fails: bool) -> object:
        def operation(connection: Connection) -> None:
            tenants.put_setting(connection, name, "kept")
            if fails:
                raise ValueError(name)

        return operation

    async def run() -> list[object]:
        writes = [
            either(store, number).database.write(put(name, fails=number % 3 == 0))  # type: ignore[arg-type]
            for number, name in enumerate(names)
        ]
        return list(await asyncio.gather(*writes, return_exceptions=True))

    outcomes = store.run(run())
    for number, (name, outcome) in enumerate(zip(names, outcomes, strict=True)):
        kept = store.read(lambda c, n=name: tenants.get_setting(c, n))
        if number % 3 == 0:
            assert isinstance(outcome, ValueError)
            assert kept is None
        else:
            assert (outcome, kept) == (None, "kept")


def test_a_statement_that_fails_ends_its_operation_with_its_error(store: Store) -> None:
    name = uuid.uuid4().hex
    store.write(lambda c: tenants.put_setting(c, name, "first"))
    with pytest.raises(IntegrityError):
        store.write(lambda c: tenants.put_setting(c, name, "second"))
    assert store.read(lambda c: tenants.get_setting(c, name)) == "first"


def test_a_scan_sees_one_moment(store: Store) -> None:
    name = uuid.uuid4().hex
    has_looked, may_look_again = threading.Event(), threading.Event()

    def look_twice(connection: Connection) -> tuple[str | None, str | None]:
        first = tenants.get_setting(connection, name)
        has_looked.set()
        assert may_look_again.wait(60)
        return first, tenants.get_setting(connection, name)

    async def run() -> tuple[str | None, str | None]:
        scan = asyncio.ensure_future(store.databases[0].scan(look_twice))
        assert await asyncio.to_thread(has_looked.wait, 60)
        await store.databases[0].write(lambda c: tenants.put_setting(c, name, "later"))
        may_look_again.set()
        return await scan

    assert store.run(run()) == (None, None)
    assert store.read(lambda c: tenants.get_setting(c, name)) == "later"


class Refused(Exception):
    """What an operation answers an item with."""


@pytest.mark.parametrize("spoilt", [False, True])
def test_items_that_wait_together_are_answered_each_for_itself(store: Store, spoilt: bool) -> None:
    """One that is refused, or that spoils the whole transaction, takes none of the others along."""
    names = [f"together-{secrets.token_hex(4)}" for _ in range(100)]
    odd = set(names[::7])
    sizes: list[int] = []

    def put(connection: Connection, items: Sequence[str]) -> list[str | Exception]:
        sizes.append(len(items))
        answers: list[str | Exception] = []
        for name in items:
            if name in odd and spoilt:
                raise Refused(name)
            if name not in odd:
                tenants.put_setting(connection, name, "kept")
            answers.append(Refused(name) if name in odd else f"answer to {name}")
        return answers

    async def run() -> list[str | BaseException]:
        database = store.databases[0]
        return await asyncio.gather(
            *[database.write_together(put, name) for name in names], return_exceptions=True
        )

    for name, answer in zip(names, store.run(run()), strict=True):
        if name in odd:
            assert isinstance(answer, Refused)
            assert answer.args == (name,)
        else:
            assert answer == f"answer to {name}"
        assert store.read(lambda c, name=name: tenants.get_setting(c, name)) == (
            None if name in odd else "kept"
        )
    assert max(sizes) > 1


WRITER = """
import asyncio, pathlib, sys
from rgrid_server.config import Settings
from rgrid_server.storage import open_database
from rgrid_server.store import tenants

async def main():
    url, directory = sys.argv[1:]
    database = open_database(Settings(data_dir=pathlib.Path(directory), database_url=url or None))
    async def write(number):
        while True:
            name = f"setting-{number}"
            await database.write(lambda c: tenants.put_setting(c, name, "answered"))
            print(name, flush=True)
            number += 8
    await asyncio.gather(*[write(number) for number in range(8)])

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", DATABASES)
def test_what_was_answered_survives_the_process_that_is_killed(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = settings_of(kind, tmp_path, request)
    migrate(settings)
    url = settings.database_url.get_secret_value() if settings.database_url is not None else ""
    command = [sys.executable, "-c", WRITER, url, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        answered = [writer.stdout.readline().strip() for _ in range(200)]
        writer.send_signal(signal.SIGKILL)
        answered += [line.strip() for line in writer.stdout if line.endswith("\n")]

    async def look() -> list[str | None]:
        database = open_database(settings)
        found = [await database.read(lambda c, name=name: tenants.get_setting(c, name)) for name in answered]
        await database.close()
        return found

    assert all(answered)
    assert asyncio.run(look()) == ["answered"] * len(answered)


def test_a_closed_database_refuses_more_work(settings: Settings) -> None:
    async def run() -> None:
        database = open_database(settings)
        await database.close()
        await database.close()
        with pytest.raises(RuntimeError, match="closed"):
            await database.write(lambda c: tenants.get_setting(c, "x"))

    asyncio.run(run())


# values come back as they went in


def test_every_kind_of_value_comes_back_as_it_was(empty_queue: Store) -> None:
    store = empty_queue
    tenant_id = store.tenant()
    metadata = {"text": "ümläut ☃", "number": 7, "real": 0.5, "yes": True, "none": None, "deep": {"a": [1]}}
    submission = work(args=("--x", "ü", ""), user_metadata=metadata, env_vars={"A": "b"}, outputs=("*.csv",))
    submitted = store.run(store.processes[0].executions.submit(tenant_id, submission))
    execution_id = submitted.row["execution_id"]
    (attempt,) = identities(store.run(store.processes[0].claim()))
    store.run(store.processes[0].end(attempt, stdout="zero \0 and ☃"))
    row = store.run(store.processes[1].executions.get(tenant_id, execution_id))
    assert row["user_metadata"] == metadata
    assert (row["args"], row["env_vars"], row["outputs"]) == (["--x", "ü", ""], {"A": "b"}, ["*.csv"])
    assert bytes(row["stdout"]) == "zero \0 and ☃".encode()
    assert row["output_truncated"] is False
    assert row["retry_policy"] is None
    assert set(submitted.row) == set(row) - {"sequence"}


def test_blobs_come_back_byte_for_byte(store: Store) -> None:
    tenant_id = store.tenant()
    data = bytes(range(256)) * 200
    name = give(store, tenant_id, data)
    found = store.read(lambda c: blobs.get_blob(c, name))
    assert found is not None
    assert bytes(found["content"]) == data


# run keys


@pytest.mark.parametrize("times", range(5))
def test_a_run_key_makes_one_execution_however_many_ask_at_once(store: Store, times: int) -> None:
    tenant_id, key = store.tenant(), f"key-{times}"
    answers = store.together(
        [
            either(store, number).executions.submit(tenant_id, work(run_key=key, batch_id="held-back"))
            for number in range(16)
        ]
    )
    assert len({answer.row["execution_id"] for answer in answers}) == 1
    assert sum(not answer.attached for answer in answers) == 1
    counts = store.read(lambda c: batches.get_batch(c, tenant_id, "held-back"))
    assert counts is not None
    assert counts["queued"] == 1
    store.run(store.processes[0].batches.cancel(tenant_id, "held-back"))


def test_a_run_key_makes_one_batch_however_many_ask_at_once(store: Store) -> None:
    tenant_id = store.tenant()
    batch = BatchSubmission(
        template=work(), items=[BatchItem.of(work(args=(str(n),))) for n in range(20)], run_key="nightly"
    )
    answers = store.together([either(store, number).batches.submit(tenant_id, batch) for number in range(16)])
    (batch_id,) = {answer.row["batch_id"] for answer in answers}
    assert sum(not answer.attached for answer in answers) == 1
    assert store.counts(tenant_id, batch_id) == {"queued": 20}
    store.run(store.processes[0].batches.cancel(tenant_id, batch_id))


def test_other_work_under_a_held_run_key_is_a_conflict_at_once_too(store: Store) -> None:
    tenant_id = store.tenant()

    async def run() -> list[object]:
        submissions = [
            either(store, number).executions.submit(
                tenant_id, work(run_key="k", args=(str(number),), batch_id="b")
            )
            for number in range(8)
        ]
        return list(await asyncio.gather(*submissions, return_exceptions=True))

    outcomes = store.run(run())
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 7
    store.run(store.processes[0].batches.cancel(tenant_id, "b"))


# claims and transitions


async def drain(process: Process, taken: list[AttemptId], slots: int) -> None:
    """Claim until there is nothing more."""
    while claimed := identities(await process.claim(slots)):
        taken += claimed


def submit_many(store: Store, tenant_id: str, count: int, **changes: object) -> None:
    """Submit so many, from every process."""
    store.together(
        [
            either(store, number).executions.submit(tenant_id, work(args=(str(number),), **changes))
            for number in range(count)
        ]
    )


def test_each_execution_is_claimed_exactly_once(empty_queue: Store) -> None:
    store = empty_queue
    tenant_id = store.tenant()
    submit_many(store, tenant_id, 120)
    submit_many(store, tenant_id, 120, batch_id="many")
    taken: list[AttemptId] = []
    store.together([drain(either(store, number), taken, slots=number % 5 + 1) for number in range(20)])
    # one that was passed over because another was about to take it is left for the next look
    store.together([drain(process, taken, slots=8) for process in store.processes])
    assert len(taken) == 240
    assert len({attempt.execution_id for attempt in taken}) == 240
    assert {attempt.attempt for attempt in taken} == {1}
    row = store.read(lambda c: batches.get_batch(c, tenant_id, "many"))
    assert row is not None
    assert batches.counts_of(row).running == 120
    verdicts = store.together([either(store, n).end(attempt) for n, attempt in enumerate(taken)])
    assert set(verdicts) == {"accepted"}
    row = store.read(lambda c: batches.get_batch(c, tenant_id, "many"))
    assert row is not None
    assert (row["running"], row["completed"]) == (0, 120)
    assert row["completed_at_ms"] is not None


def test_a_batchs_parallelism_is_kept_by_claims_at_once(empty_queue: Store) -> None:
    store = empty_queue
    tenant_id = store.tenant()
    for parallelism in (3, 5):
        items = [BatchItem.of(work(args=(str(n),))) for n in range(30)]
        batch = BatchSubmission(template=work(), items=items, parallelism=parallelism)
        store.run(store.processes[0].batches.submit(tenant_id, batch))
    taken: list[AttemptId] = []
    store.together([drain(either(store, number), taken, slots=4) for number in range(12)])
    assert len(taken) == 8
    while taken:
        ended, taken = taken, []
        store.together([either(store, n).end(attempt) for n, attempt in enumerate(ended)])
        store.together([drain(either(store, number), taken, slots=4) for number in range(6)])
        assert len(taken) <= 8


def test_a_tenants_limit_is_kept_by_claims_at_once(empty_queue: Store) -> None:
    store = empty_queue
    tenant_id = store.tenant()
    store.write(lambda c: tenants.set_max_running(c, tenant_id, 3))
    submit_many(store, tenant_id, 20)
    taken: list[AttemptId] = []
    store.together([drain(either(store, number), taken, slots=2) for number in range(12)])
    assert len(taken) == 3
    store.write(lambda c: tenants.set_max_running(c, tenant_id, None))
    store.together([either(store, n).end(attempt) for n, attempt in enumerate(taken)])


def test_one_end_of_an_attempt_counts_however_many_are_reported_at_once(empty_queue: Store) -> None:
    store = empty_queue
    tenant_id = store.tenant()
    submit_many(store, tenant_id, 10, batch_id="ends")
    taken = identities(store.run(store.processes[0].claim(10)))
    reports = [(number, attempt) for attempt in taken for number in range(6)]
    random.Random(7).shuffle(reports)
    verdicts = store.together([either(store, number).end(attempt) for number, attempt in reports])
    assert Counter(verdicts) == {"accepted": 10, "duplicate": 50}
    row = store.read(lambda c: batches.get_batch(c, tenant_id, "ends"))
    assert row is not None
    assert (row["queued"], row["running"], row["completed"]) == (0, 0, 10)
    assert store.counts(tenant_id, "ends") == {"completed": 10}
    sums = store.read(
        lambda c: spend.sum_daily(c, tenant_id, [], first_day="2000-01-01", last_day="2999-01-01")
    )
    assert int(sums[0]["executions"]) == 10
    assert int(sums[0]["nanos"]) == int(row["charge_nanos"]) > 0


def test_a_lost_lease_and_its_late_report_end_an_attempt_once(empty_queue: Store) -> None:
    store = empty_queue
    tenant_id = store.tenant()
    submit_many(store, tenant_id, 30, batch_id="late")
    taken = identities(store.run(store.processes[0].claim(30)))
    store.write(lambda c: c.execute(attempts.update().values(lease_expires_at_ms=1)))

    async def run() -> list[str]:
        reports = [either(store, n).end(attempt) for n, attempt in enumerate(taken)]
        sweeps = [either(store, n).leases.expire(now_ms()) for n in range(6)]
        verdicts, _ = await asyncio.gather(asyncio.gather(*reports), asyncio.gather(*sweeps))
        return list(verdicts)

    verdicts = store.run(run())
    row = store.read(lambda c: batches.get_batch(c, tenant_id, "late"))
    assert row is not None
    assert set(verdicts) <= {"accepted", "stale"}
    assert row["completed"] == verdicts.count("accepted")
    assert row["queued"] == verdicts.count("stale")
    for attempt, verdict in zip(taken, verdicts, strict=True):
        closed = store.read(lambda c, a=attempt: c.execute(_of(a)).one())
        expected = Outcome.EXITED if verdict == "accepted" else Outcome.GRID_FAULT
        assert closed.outcome == expected.value
    store.run(store.processes[0].batches.cancel(tenant_id, "late"))


def _of(attempt: AttemptId):  # type: ignore[no-untyped-def]
    return attempts.select().where(
        attempts.c.execution_id == attempt.execution_id, attempts.c.attempt == attempt.attempt
    )


def test_of_a_claim_and_a_cancel_at_once_one_comes_first(empty_queue: Store) -> None:
    store = empty_queue
    tenant_id = store.tenant()
    submit_many(store, tenant_id, 60, batch_id="wanted-or-not")
    page = store.read(lambda c: batches.batch_executions(c, tenant_id, "wanted-or-not"))
    taken: list[AttemptId] = []

    async def run() -> None:
        cancels = [
            either(store, number).executions.cancel(tenant_id, row["execution_id"])
            for number, row in enumerate(page)
        ]
        claims = [drain(either(store, number), taken, slots=2) for number in range(8)]
        await asyncio.gather(*cancels, *claims)

    store.run(run())
    row = store.read(lambda c: batches.get_batch(c, tenant_id, "wanted-or-not"))
    assert row is not None
    assert (row["queued"], row["running"]) == (0, len(taken))
    assert store.together([either(store, n).end(attempt) for n, attempt in enumerate(taken)]) == [
        "accepted"
    ] * len(taken)
    counts = {word: count for word, count in store.counts(tenant_id, "wanted-or-not").items() if count}
    expected = {"completed": len(taken), "canceled": 60 - len(taken)}
    assert counts == {word: count for word, count in expected.items() if count}


def test_counts_stay_equal_to_what_is_counted_whatever_happens_at_once(empty_queue: Store) -> None:
    store = empty_queue
    tenant_id = store.tenant()
    chance = random.Random(11)
    names = ["one", "two", "three"]

    async def submit(number: int) -> None:
        await either(store, number).executions.submit(
            tenant_id, work(args=(str(number),), batch_id=names[number % 3])
        )

    async def carry(number: int) -> None:
        for _ in range(12):
            process = either(store, number)
            for attempt in identities(await process.claim(3)):
                if chance.random() < 0.2:
                    await process.leases.release(process.runner_id, [attempt])
                else:
                    await process.end(attempt, exit_code=int(chance.random() < 0.3))
            await asyncio.sleep(chance.random() / 100)

    async def run() -> None:
        works = [submit(number) for number in range(150)] + [carry(number) for number in range(8)]
        await asyncio.gather(*works)
        await asyncio.gather(
            *[carry(number) for number in range(4)], store.processes[1].batches.cancel(tenant_id, "two")
        )

    store.run(run())
    for name in names:
        row = store.read(lambda c, n=name: batches.get_batch(c, tenant_id, n))
        assert row is not None
        kept = {status.value: row[status.value] for status in Status if row[status.value]}
        assert kept == store.counts(tenant_id, name)
        page = store.read(lambda c, n=name: batches.batch_executions(c, tenant_id, n))
        assert [item["batch_index"] for item in page] == list(range(50))


def test_two_files_that_arrive_at_once_both_stay(store: Store) -> None:
    tenant_id = store.tenant()
    for _ in range(5):
        names = [f"file-{number}" for number in range(6)]
        submitted = store.run(
            store.processes[0].executions.submit(
                tenant_id, work(inputs=dict.fromkeys(names), batch_id="files")
            )
        )
        execution_id = submitted.row["execution_id"]
        store.together(
            [
                either(store, number).uploads.put_input(execution_id, name, blob(name.encode()))
                for number, name in enumerate(names)
            ]
        )
        row = store.run(store.processes[0].executions.get(tenant_id, execution_id))
        assert all(row["inputs"].values())
        assert row["ready_at_ms"] is not None
    store.run(store.processes[0].batches.cancel(tenant_id, "files"))


# the feed


def test_a_reader_of_the_feed_misses_nothing_while_many_commit_at_once(store: Store) -> None:
    tenant_id = store.tenant()
    writers, rounds = 12, 25
    expected = writers * rounds * 2
    seen: list[tuple[int, str]] = []
    written = threading.Event()

    def write(name: str, pause: float) -> object:
        def operation(connection: Connection) -> None:
            for part in ("a", "b"):
                events.INSERT_EVENT.run(
                    connection,
                    tenant_id=tenant_id,
                    execution_id=f"{name}-{part}",
                    batch_id=None,
                    status="queued",
                    attempt=0,
                    at_ms=1,
                )
                time.sleep(pause)

        return operation

    async def commit(writer: int) -> None:
        chance = random.Random(writer)
        for number in range(rounds):
            pause = chance.choice([0, 0, 0.001, 0.004])
            await either(store, writer).database.write(write(f"{writer}-{number}", pause), is_long=True)  # type: ignore[arg-type]

    async def follow() -> None:
        position, idle = 0, 0
        while len(seen) < expected and idle < 500:
            page = await store.databases[1].read(
                lambda c, after=position: events.events_after(c, tenant_id, after, 7)
            )
            for row in page:
                assert row["sequence"] > position
                position = row["sequence"]
                seen.append((row["sequence"], row["execution_id"]))
            idle = 0 if page or not written.is_set() else idle + 1
            await asyncio.sleep(0 if page else 0.002)

    async def run() -> None:
        following = asyncio.ensure_future(follow())
        await asyncio.gather(*[commit(writer) for writer in range(writers)])
        written.set()
        await following

    store.run(run())
    assert len(seen) == expected
    assert len({name for _, name in seen}) == expected


def test_the_latest_position_is_behind_all_that_was_and_before_all_that_comes(store: Store) -> None:
    tenant_id = store.tenant()
    store.run(store.processes[0].executions.submit(tenant_id, work(batch_id="b")))
    latest = store.read(events.latest_position)
    assert store.read(lambda c: events.events_after(c, tenant_id, latest, 10)) == []
    store.run(store.processes[1].batches.cancel(tenant_id, "b"))
    (row,) = store.read(lambda c: events.events_after(c, tenant_id, latest, 10))
    assert row["status"] == "canceled"
    assert store.read(events.latest_position) >= row["sequence"]


def test_the_ends_of_a_batch_come_in_their_order_and_only_they(empty_queue: Store) -> None:
    store = empty_queue
    tenant_id = store.tenant()
    submit_many(store, tenant_id, 9, batch_id="ordered")
    ended = []
    for attempt in identities(store.run(store.processes[0].claim(9)))[::-1]:
        store.run(store.processes[1].end(attempt))
        ended.append(attempt.execution_id)
    found: list[str] = []
    position = 0
    while page := store.read(lambda c, p=position: events.batch_ended_after(c, tenant_id, "ordered", p, 4)):
        found += [row["execution_id"] for row in page]
        position = page[-1]["sequence"]
    assert found == ended


def test_the_events_of_an_execution_come_in_the_order_in_which_they_happened(empty_queue: Store) -> None:
    store = empty_queue
    tenant_id = store.tenant()

    async def live(number: int) -> None:
        process = either(store, number)
        for turn in range(8):
            await process.executions.submit(tenant_id, work(args=(f"{number}-{turn}",)))
            for attempt in identities(await either(store, number + turn).claim(2)):
                await either(store, turn).end(attempt)

    store.together([live(number) for number in range(10)])
    of: dict[str, list[str]] = {}
    for row in store.read(lambda c: events.events_after(c, tenant_id, 0, 10_000)):
        of.setdefault(row["execution_id"], []).append(row["status"])
    assert len(of) == 80
    for statuses in of.values():
        assert statuses == ["queued", "running", "completed"][: len(statuses)]


# what is kept once


def test_an_upsert_of_spend_loses_nothing(store: Store) -> None:
    tenant_id = store.tenant()
    key = {
        "tenant_id": tenant_id,
        "day": "2026-03-04",
        "dag_id": "",
        "task_id": "",
        "owner": "",
        "runtime": "r",
    }

    def add(connection: Connection) -> None:
        spend.add_to_rollups(connection, key, executions=1, failed=0, compute_ms=5, nanos=7)

    store.together([either(store, number).database.write(add) for number in range(100)])
    (row,) = store.read(
        lambda c: spend.sum_daily(c, tenant_id, ["day"], first_day="2026-03-04", last_day="2026-03-04")
    )
    assert (int(row["executions"]), int(row["compute_ms"]), int(row["nanos"])) == (100, 500, 700)
    assert store.read(lambda c: spend.month_nanos(c, tenant_id, "2026-03")) == 700


def test_every_process_charges_by_the_price_that_held_at_the_claim(empty_queue: Store) -> None:
    store = empty_queue
    tenant_id = store.tenant()
    charging, loading = store.processes
    submit_many(store, tenant_id, 3)

    def cost(attempt: AttemptId) -> int:
        assert store.run(charging.end(attempt)) == "accepted"
        row = store.read(lambda c: execution_store.get_execution(c, tenant_id, attempt.execution_id))
        assert row is not None
        return int(row["charge_nanos"])

    first, second = identities(store.run(charging.claim(2)))
    usual = cost(first)
    # loaded a minute before it holds, it is what a process charges by that had read the book before
    at_ms = now_ms() + 1
    dearer = [Price(uuid.uuid4().hex, "local", at_ms, 7_000_000, 0)]
    added = store.run(loading.database.write(lambda c: add_prices(c, dearer, at_ms - NOTICE_MS)))
    assert added == dearer
    while now_ms() < at_ms:
        pass
    charging.book_seconds += NOTICE_MS / 1000
    (third,) = identities(store.run(charging.claim()))
    assert (cost(second), cost(third)) == (usual, 7_000_000)
    # the others go on as before
    with pytest.raises(PricesInvalid, match="never changes"):
        store.run(
            loading.database.write(lambda c: add_prices(c, [replace(dearer[0], engine="ray")], now_ms()))
        )
    store.write(lambda c: c.execute(delete(prices).where(prices.c.price_id == dearer[0].price_id)))
    charging.book_seconds += NOTICE_MS / 1000


def test_the_bill_comes_page_by_page_with_every_attempt_once(
    empty_queue: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = empty_queue
    tenant_id, other_id = store.tenant(), store.tenant()
    submit_many(store, tenant_id, 10, batch_id="billed")
    submit_many(store, other_id, 2, batch_id="another's")
    taken = identities(store.run(store.processes[0].claim(12)))
    store.together([either(store, number).end(attempt) for number, attempt in enumerate(taken)])
    monkeypatch.setattr(costs, "BILL_PAGE_ROWS", 3)
    bill = costs.Costs(store.databases[0], "local").bill

    async def pages(first: date, last: date) -> list[list[dict[str, Any]]]:
        return [page async for page in bill(tenant_id, "ann", (first, last))]

    today = datetime.now(UTC).date()
    found = store.run(pages(today - timedelta(days=1), today + timedelta(days=1)))
    assert [len(page) for page in found] == [3, 3, 3, 1]
    rows = [row for page in found for row in page]
    ids = {row["x_RowId"] for row in rows}
    assert len(ids) == 10
    assert ids < {f"{attempt.execution_id}:{attempt.attempt}" for attempt in taken}
    billed = store.read(lambda c: batches.get_batch(c, tenant_id, "billed"))
    assert billed is not None
    assert sum(Decimal(row["BilledCost"]) for row in rows) * 10**9 == billed["charge_nanos"] > 0
    assert store.run(pages(today - timedelta(days=9), today - timedelta(days=8))) == []


def test_a_blob_is_new_to_its_tenant_once(store: Store) -> None:
    first, second = store.tenant(), store.tenant()
    several = [blob(uuid.uuid4().bytes) for _ in range(5)]

    async def add(number: int) -> list[bool]:
        given = random.Random(number).sample(several, len(several))
        tenant_id = first if number % 2 else second
        return await either(store, number // 2).database.write(lambda c: add_received(c, tenant_id, given))

    answers = store.together([add(number) for number in range(32)])
    assert sum(sum(answer) for answer in answers[1::2]) == 5
    assert sum(sum(answer) for answer in answers[0::2]) == 5
    assert len(store.read(lambda c: blobs.owned_sizes(c, first, [one.sha256 for one in several]))) == 5


def test_references_of_inputs_are_stored_once(store: Store) -> None:
    tenant_id = store.tenant()

    async def put(number: int) -> bool:
        return await either(store, number).database.write(
            lambda c: blobs.put_cached_inputs(c, tenant_id, "hash", {"by": number}, 1)
        )

    answers = store.together([put(number) for number in range(12)])
    assert sum(answers) == 1
    kept = store.read(lambda c: blobs.get_cached_inputs(c, tenant_id, "hash"))
    assert kept == {"by": answers.index(True)}


def test_a_runner_that_registers_twice_at_once_is_one_runner(store: Store) -> None:
    async def register(number: int) -> None:
        process = either(store, number)
        await process.database.write(
            lambda c: runners.put_runner(
                c,
                {
                    "runner_id": "runner_twice",
                    "incarnation": str(number),
                    "hostname": "h",
                    "slots": number,
                    "runtimes": [],
                    "sandbox": "bubblewrap",
                    "version": "0",
                    "registered_at_ms": 1,
                    "seen_at_ms": 1,
                },
            )
        )

    store.together([register(number) for number in range(10)])
    rows = [row for row in store.read(runners.list_runners) if row["runner_id"] == "runner_twice"]
    assert len(rows) == 1
    assert rows[0]["incarnation"] == str(rows[0]["slots"])


def test_a_tenants_name_is_taken_once(store: Store) -> None:
    name = uuid.uuid4().hex

    async def run() -> list[object]:
        added = [either(store, number).tenancy.add_tenant(name) for number in range(8)]
        return list(await asyncio.gather(*added, return_exceptions=True))

    outcomes = store.run(run())
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 7


def test_servers_that_start_at_once_agree_on_what_the_first_start_makes(store: Store) -> None:
    name = uuid.uuid4().hex
    secrets = store.together(
        [either(store, number).tenancy.secret(name, f"fresh-{number}") for number in range(10)]
    )
    assert len(set(secrets)) == 1
    tenant_ids = store.together([either(store, number).tenancy.default_tenant() for number in range(10)])
    assert len(set(tenant_ids)) == 1
    made = store.together(
        [
            either(store, number).tenancy.provide_first_key(tenant_ids[0], f"sk_{number:040}")
            for number in range(10)
        ]
    )
    assert sum(made) == 1


# lists


def test_lists_show_what_matches_newest_first_in_pages(store: Store) -> None:
    tenant_id = store.tenant()
    ids = []
    for number in range(12):
        metadata = {"half": str(number % 2), "third": str(number % 3)}
        submission = work(user_metadata=metadata, batch_id=f"batch-{number % 4}")
        answer = store.run(either(store, number).executions.submit(tenant_id, submission))
        ids.append(answer.row["execution_id"])
    store.run(store.processes[0].batches.cancel(tenant_id, "batch-0"))

    def listed(**filters: object) -> list[str]:
        found: list[str] = []
        before = None
        while page := store.read(
            lambda c: listing.list_executions(c, tenant_id, limit=3, before=before, **filters)  # type: ignore[arg-type]  # noqa: B023
        ):
            found += [row["execution_id"] for row in page]
            before = page[-1]["sequence"]
        return found

    assert listed() == ids[::-1]
    assert listed(status=Status.CANCELED) == ids[::4][::-1]
    assert listed(metadata={"half": "1"}) == ids[1::2][::-1]
    assert listed(metadata={"half": "1", "third": "2"}) == ids[5::6][::-1]
    assert listed(metadata={"half": "0"}, status=Status.CANCELED) == ids[::4][::-1]
    for number in range(1, 4):
        store.run(store.processes[0].batches.cancel(tenant_id, f"batch-{number}"))


def test_an_execution_of_another_tenant_is_in_no_list(store: Store) -> None:
    mine, other = store.tenant(), store.tenant()
    store.run(store.processes[0].executions.submit(other, work(batch_id="b", user_metadata={"a": "b"})))
    assert store.read(lambda c: listing.list_executions(c, mine, limit=10)) == []
    found = store.read(lambda c: listing.list_executions(c, mine, limit=10, metadata={"a": "b"}))
    assert found == []
    store.run(store.processes[0].batches.cancel(other, "b"))
