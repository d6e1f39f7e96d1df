"""What a scrape asks of the database, on both of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import Connection

from rgrid_server.clock import now_ms
from rgrid_server.config import Settings
from rgrid_server.scheduler.batch_items import BatchItem
from rgrid_server.scheduler.batches import BatchSubmission
from rgrid_server.storage import migrate, open_database, postgres_url
from rgrid_server.store.gauges import Fill, read_fill
from tests.contract.stores import Store, identities, work
from tests.contract.test_databases import DATABASES, settings_of

A_WEEK_MS = 7 * 24 * 3_600_000


@pytest.fixture(params=DATABASES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An empty database with this version's schema."""
    found = settings_of(request.param, tmp_path, request)
    migrate(found)
    return found


@pytest.fixture
def commits() -> list[tuple[int, float]]:
    """What was told of commits."""
    return []


@pytest.fixture
def store(settings: Settings, commits: list[tuple[int, float]]) -> Iterator[Store]:
    """One process on it."""
    with asyncio.Runner() as loop:

        async def start() -> Store:
            return Store(loop, [open_database(settings, lambda count, took: commits.append((count, took)))])

        found = loop.run(start())
        loop.run(found.processes[0].register())
        yield found
        loop.run(found.databases[0].close())


def fill_of(store: Store, at_ms: int | None = None) -> Fill:
    """How full it is, as a scrape sees it."""
    when = now_ms() if at_ms is None else at_ms
    return store.run(store.databases[0].scan(lambda c: read_fill(c, when, when - A_WEEK_MS)))


def test_an_empty_server_has_nothing(store: Store) -> None:
    fill = fill_of(store)
    assert fill.by_rank == {}
    assert (fill.running, fill.runners, fill.runner_slots) == (0, 1, 4)
    assert fill.oldest_hidden_event_at_ms is None


def test_the_queue_is_counted_by_rank_and_what_runs_beside_it(store: Store) -> None:
    tenant_id, process = store.tenant(), store.processes[0]
    single = store.run(process.executions.submit(tenant_id, work())).row
    store.run(process.executions.submit(tenant_id, work(priority=7)))
    batch = BatchSubmission(work(), [BatchItem.of(work()) for _ in range(5)])
    store.run(process.batches.submit(tenant_id, batch))
    before = fill_of(store)
    assert {rank: part.depth for rank, part in before.by_rank.items()} == {-7: 1, 0: 6}
    assert before.by_rank[0].oldest_ready_at_ms == single["ready_at_ms"]
    (urgent,) = identities(store.run(process.claim()))
    after = fill_of(store)
    assert {rank: part.depth for rank, part in after.by_rank.items()} == {0: 6}
    assert after.running == 1
    store.run(process.end(urgent))
    assert fill_of(store).running == 0


def test_every_commit_is_told_of_with_what_it_carried(store: Store, commits: list[tuple[int, float]]) -> None:
    tenant_id, process = store.tenant(), store.processes[0]
    commits.clear()
    store.together([process.executions.submit(tenant_id, work()) for _ in range(20)])
    assert sum(count for count, _ in commits) == 20
    assert all(took > 0 for _, took in commits)


def test_an_operation_that_fails_by_itself_is_no_commit_that_is_told_of_on_postgres(
    store: Store, commits: list[tuple[int, float]]
) -> None:
    def fail(_connection: Connection) -> None:
        raise ValueError

    commits.clear()
    with pytest.raises(ValueError):
        store.write(fail)
    # SQLite commits what else is in the group
    assert commits == [] or store.dialect == "sqlite"


def test_events_that_an_open_transaction_holds_back_are_seen_to_wait(
    store: Store, settings: Settings
) -> None:
    url = postgres_url(settings)
    process = store.processes[0]
    if url is None:
        # nothing is ever held back: the single writer numbers events as it commits them
        store.run(process.executions.submit(store.tenant(), work()))
        assert fill_of(store).oldest_hidden_event_at_ms is None
        return
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(dsn) as slow:
        slow.execute("SELECT pg_current_xact_id()")
        row = store.run(process.executions.submit(store.tenant(), work())).row
        assert fill_of(store).oldest_hidden_event_at_ms == row["created_at_ms"]
    assert fill_of(store).oldest_hidden_event_at_ms is None
