"""What only PostgreSQL can do to a server: several processes on it, connections that break, restarts."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import pytest
import requests
from pydantic import SecretStr
from sqlalchemy import make_url, text
from sqlalchemy.engine import Connection

from rgrid_server.clock import now_ms
from rgrid_server.config import Settings
from rgrid_server.domain.execution import Status
from rgrid_server.domain.fairshare import Flow
from rgrid_server.domain.submission import Submission
from rgrid_server.scheduler.choosing import Places, StoredQueue
from rgrid_server.storage import UnknownStorage, check_storage, migrate, name_of
from rgrid_server.store import events, listing, tenants
from rgrid_server.store.database import StorageUnavailable
from rgrid_server.store.notifications import MAX_PAYLOAD_BYTES, MAX_PENDING, Notifications
from rgrid_server.store.postgres import PostgresDatabase, Trouble, trouble_of
from tests.core import RUNTIME, Core
from tests.integration.conftest import Api
from tests.live import LiveServer

if TYPE_CHECKING:
    from tests.postgres import PostgresCluster

T = TypeVar("T")


def settings_for(url: str, directory: Path) -> Settings:
    return Settings(data_dir=directory, database_url=SecretStr(url))  # type: ignore[call-arg]


@pytest.fixture
def url(postgres: PostgresCluster, tmp_path: Path) -> str:
    """A database with this version's schema."""
    found = postgres.create_database()
    migrate(settings_for(found, tmp_path))
    return found


def with_database(url: str, work: Callable[[PostgresDatabase], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine over an open database."""

    async def run() -> T:
        database = PostgresDatabase(make_url(url), 6)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def put(connection: Connection, name: str) -> str:
    tenants.put_setting(connection, name, "kept")
    return name


def kept(postgres: PostgresCluster, url: str) -> list[str]:
    """The settings that are there."""
    with postgres.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM settings ORDER BY name")]


def session_of(connection: Connection) -> psycopg.Connection[Any]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


# connections that break


def test_an_operation_whose_connection_broke_is_run_again(postgres: PostgresCluster, url: str) -> None:
    runs = []

    def operation(connection: Connection) -> str:
        runs.append(1)
        name = put(connection, f"name-{len(runs)}")
        if len(runs) == 1:
            with postgres.connect() as other:
                other.execute("SELECT pg_terminate_backend(%s)", [session_of(connection).info.backend_pid])
            connection.execute(text("SELECT 1"))
        return name

    assert with_database(url, lambda database: database.write(operation)) == "name-2"
    assert kept(postgres, url) == ["name-2"]


def test_short_reads_that_share_a_connection_outlive_its_end(postgres: PostgresCluster, url: str) -> None:
    broken = []

    def asking(number: int) -> Callable[[Connection], int]:
        def query(connection: Connection) -> int:
            if number == 5 and not broken:
                broken.append(number)
                with postgres.connect() as other:
                    pid = session_of(connection).info.backend_pid
                    other.execute("SELECT pg_terminate_backend(%s)", [pid])
            return int(connection.execute(text("SELECT :number"), {"number": number}).scalar_one())

        return query

    async def run(database: PostgresDatabase) -> list[int]:
        return list(await asyncio.gather(*(database.read(asking(number)) for number in range(40))))

    assert with_database(url, run) == list(range(40))
    assert broken


class CutAtCommit:
    """Breaks a connection around its commit, so that the answer never arrives."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        is_committed: bool,
        afterwards: Callable[[], None] = lambda: None,
    ) -> None:
        self.cuts = 0
        execute = psycopg.Connection.execute

        def cut(connection: psycopg.Connection[Any], query: Any, *options: Any, **named: Any) -> Any:
            if query != "COMMIT" or self.cuts:
                return execute(connection, query, *options, **named)
            self.cuts += 1
            if is_committed:
                execute(connection, query)
            connection.close()
            afterwards()
            raise psycopg.OperationalError("the answer was lost")

        monkeypatch.setattr(psycopg.Connection, "execute", cut)


def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    postgres: PostgresCluster, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = CutAtCommit(monkeypatch, is_committed=True)
    runs = []

    def operation(connection: Connection) -> str:
        runs.append(1)
        return put(connection, f"name-{len(runs)}")

    assert with_database(url, lambda database: database.write(operation)) == "name-1"
    assert cut.cuts == 1
    assert kept(postgres, url) == ["name-1"]


def test_a_commit_that_never_arrived_is_made_by_another_run(
    postgres: PostgresCluster, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = CutAtCommit(monkeypatch, is_committed=False)
    runs = []

    def operation(connection: Connection) -> str:
        runs.append(1)
        return put(connection, f"name-{len(runs)}")

    assert with_database(url, lambda database: database.write(operation)) == "name-2"
    assert cut.cuts == 1
    assert kept(postgres, url) == ["name-2"]


def test_what_may_be_of_before_a_crash_is_neither_called_done_nor_made_again(
    postgres: PostgresCluster, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_every_session() -> None:
        """What a crash does, as far as a client can see it."""
        with postgres.connect(url) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    cut = CutAtCommit(monkeypatch, is_committed=True, afterwards=end_every_session)
    runs = []

    def operation(connection: Connection) -> str:
        runs.append(1)
        return put(connection, f"name-{len(runs)}")

    with pytest.raises(StorageUnavailable, match="not known yet whether that was made"):
        with_database(url, lambda database: database.write(operation))
    assert (cut.cuts, len(runs)) == (1, 1)
    assert kept(postgres, url) == ["name-1"]


def test_a_transaction_that_conflicts_is_run_again(postgres: PostgresCluster, url: str) -> None:
    with postgres.connect(url) as connection:
        connection.execute("INSERT INTO settings VALUES ('a', '0'), ('b', '0')")
    both_hold_one, one_is_through = threading.Barrier(2), threading.Event()
    runs = []

    def change(first: str, second: str) -> Callable[[Connection], None]:
        def operation(connection: Connection) -> None:
            runs.append(first)
            if len(runs) > 2:
                # it may not take what the other one, just let go on, has not been quick enough to take
                assert one_is_through.wait(60)
            add = text("UPDATE settings SET value = (value::int + 1)::text WHERE name = :name")
            connection.execute(add, {"name": first})
            if len(runs) <= 2:
                both_hold_one.wait(60)
            connection.execute(add, {"name": second})

        return operation

    async def write(database: PostgresDatabase, operation: Callable[[Connection], None]) -> None:
        await database.write(operation)
        one_is_through.set()

    async def deadlock(database: PostgresDatabase) -> None:
        await asyncio.gather(write(database, change("a", "b")), write(database, change("b", "a")))

    with_database(url, deadlock)
    assert len(runs) == 3
    with postgres.connect(url) as connection:
        assert connection.execute("SELECT value FROM settings").fetchall() == [("2",), ("2",)]


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (psycopg.OperationalError("connection refused"), Trouble.AWAY),
        (psycopg.DatabaseError("server closed the connection unexpectedly"), Trouble.AWAY),
        (psycopg.errors.AdminShutdown(), Trouble.AWAY),
        (psycopg.errors.CrashShutdown(), Trouble.AWAY),
        (psycopg.errors.CannotConnectNow(), Trouble.AWAY),
        (psycopg.errors.TooManyConnections(), Trouble.AWAY),
        (psycopg.errors.ReadOnlySqlTransaction(), Trouble.AWAY),
        (psycopg.errors.ConnectionFailure(), Trouble.AWAY),
        (psycopg.errors.DeadlockDetected(), Trouble.CONFLICT),
        (psycopg.errors.SerializationFailure(), Trouble.CONFLICT),
        (psycopg.errors.UniqueViolation(), Trouble.DUPLICATE),
        (psycopg.errors.DiskFull(), Trouble.FULL),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL"), None),
        (psycopg.ProgrammingError("a placeholder is missing"), None),
        (psycopg.errors.NotNullViolation(), None),
        (ValueError("the operation's own"), None),
    ],
)
def test_an_error_says_whether_another_run_may_help(error: Exception, trouble: Trouble | None) -> None:
    assert trouble_of(error) is trouble


def test_a_database_that_does_not_come_back_is_said_to_be_away(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rgrid_server.store.postgres.PATIENCE_SECONDS", 0.05)
    gone = url.replace("host=/", "host=/nowhere/")
    with pytest.raises(StorageUnavailable, match="ask again") as raised:
        with_database(gone, lambda database: database.write(lambda c: put(c, "x")))
    assert "secret-word" not in str(raised.value)
    assert "nowhere" not in str(raised.value)


# claims


def test_what_a_claim_leaves_to_another_runner_is_there_for_it_meanwhile(url: str) -> None:
    has_looked, may_end = threading.Event(), threading.Event()

    async def run(database: PostgresDatabase) -> None:
        core = Core(database)
        await core.register("r1")
        tenant_id = await core.tenant()
        asked = {
            runtime: (await core.executions.submit(tenant_id, Submission("pass", runtime))).row[
                "execution_id"
            ]
            for runtime in ("node:20", RUNTIME)
        }

        def leave(connection: Connection) -> list[str]:
            waiting = StoredQueue(connection, Places(), 4, now_ms(), lambda runtime: runtime == "node:20")
            seen = [one.runtime for one in waiting.heads(0, Flow(tenant_id, ""))]
            has_looked.set()
            assert may_end.wait(60)
            return seen

        leaving = asyncio.ensure_future(database.write(leave))
        assert await asyncio.to_thread(has_looked.wait, 60)
        claimed = await core.claim(4)
        may_end.set()
        assert await leaving == ["node:20", RUNTIME]
        # what is its own is held until it ends
        assert [one.execution_id for one in claimed.attempts] == [asked["node:20"]]

    with_database(url, run)


# the order of events


def test_a_transaction_that_began_earlier_puts_its_event_after_what_it_waited_for(
    postgres: PostgresCluster, url: str
) -> None:
    has_begun, may_go_on = threading.Event(), threading.Event()

    def add(connection: Connection, status: str) -> None:
        row = {"tenant_id": "t", "execution_id": "e", "batch_id": None, "attempt": 0, "at_ms": 0}
        events.INSERT_EVENT.run(connection, status=status, **row)

    def older(connection: Connection) -> None:
        put(connection, "it has its number")
        has_begun.set()
        assert may_go_on.wait(60)
        add(connection, "running")

    async def run(database: PostgresDatabase) -> list[str]:
        first = asyncio.ensure_future(database.write(older))
        assert await asyncio.to_thread(has_begun.wait, 60)
        await database.write(lambda c: add(c, "queued"))
        # committed, and yet nothing is shown: something before it may still come
        assert await database.read(lambda c: events.events_after(c, "t", 0, 10)) == []
        may_go_on.set()
        await first
        return [row["status"] for row in await database.read(lambda c: events.events_after(c, "t", 0, 10))]

    assert with_database(url, run) == ["queued", "running"]


def test_positions_go_on_rising_where_rows_were_restored_into_a_younger_cluster(
    postgres: PostgresCluster, url: str, tmp_path: Path
) -> None:
    def add(connection: Connection) -> None:
        row = {"tenant_id": "t", "execution_id": "e", "batch_id": None, "attempt": 0, "at_ms": 0}
        events.INSERT_EVENT.run(connection, status="queued", **row)

    with_database(url, lambda database: database.write(add))
    with postgres.connect(url) as connection:
        connection.execute("UPDATE events SET sequence = sequence + (1000000000::bigint << 20)")
        restored = connection.execute("SELECT max(sequence) FROM events").fetchone()
    assert restored is not None
    for _ in range(2):
        migrate(settings_for(url, tmp_path))
        with_database(url, lambda database: database.write(add))
    found = with_database(url, lambda database: database.read(lambda c: events.events_after(c, "t", 0, 10)))
    positions = [row["sequence"] for row in found]
    assert positions[0] == restored[0]
    assert len(positions) == 3
    assert positions == sorted(positions)
    assert positions[-1] >> 20 < (positions[0] >> 20) + 1_000_000_000


# telling each other


class Listener:
    """What one server hears."""

    def __init__(self, url: str) -> None:
        self.notifications = Notifications(make_url(url))
        self.heard: list[str] = []
        self.missed = 0
        self.has_news = asyncio.Event()

    def hear(self, topics: Sequence[str]) -> None:
        self.heard += topics
        self.has_news.set()

    def miss(self) -> None:
        self.missed += 1
        self.has_news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self.has_news.clear()
                await self.has_news.wait()


async def listening(url: str, work: Callable[[Listener, Listener], Coroutine[Any, Any, None]]) -> None:
    first, second = Listener(url), Listener(url)
    tasks = [asyncio.create_task(one.notifications.run(one.hear, one.miss)) for one in (first, second)]
    for one in (first, second):
        await one.until(lambda one=one: one.missed == 1)  # type: ignore[misc]
    await work(first, second)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_what_one_server_wakes_the_others_hear_and_itself_does_not(url: str) -> None:
    topics = [f"execution:{number}" for number in range(2_000)] + ["batch:x:" + "ü" * MAX_PAYLOAD_BYTES]

    async def work(first: Listener, second: Listener) -> None:
        first.notifications.send(topics)
        await second.until(lambda: len(second.heard) == 2_000)
        second.notifications.send(["the end"])
        await first.until(lambda: bool(first.heard))
        assert second.heard == topics[:-1]
        assert first.heard == ["the end"]

    asyncio.run(listening(url, work))


def test_more_than_can_be_told_becomes_a_word_to_look_at_everything(url: str) -> None:
    async def work(first: Listener, second: Listener) -> None:
        first.notifications.send(str(number) for number in range(MAX_PENDING + 1))
        await second.until(lambda: second.missed == 2)
        assert second.heard == []

    asyncio.run(listening(url, work))


def test_a_listener_whose_connection_broke_looks_at_everything_and_hears_again(
    postgres: PostgresCluster, url: str
) -> None:
    async def work(first: Listener, second: Listener) -> None:
        with postgres.connect(url) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await second.until(lambda: second.missed == 2)
        while not second.heard:
            # the sender finds out that its connection broke by losing one
            first.notifications.send(["again"])
            await asyncio.sleep(0.05)
        assert "again" in second.heard

    asyncio.run(listening(url, work))


# lists


@pytest.mark.parametrize(("driver", "looked_up"), [(None, ["dag", "owner"]), ("dag", ["owner"])])
def test_a_list_looks_its_other_filters_up_and_joins_none_of_them(
    url: str, driver: str | None, looked_up: list[str]
) -> None:
    """In which order it joined them would be chosen without looking at the values, once it is prepared."""
    query = listing._filtered("t", 50, 2**62, Status.CANCELED, {"dag": "d", "owner": "o"}, driver)

    def plan_of(connection: Connection) -> str:
        written = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        return "\n".join(connection.exec_driver_sql(f"EXPLAIN {written}").scalars())

    plan = with_database(url, lambda database: database.scan(plan_of))
    assert "Semi Join" not in plan
    filters = [line for line in plan.splitlines() if "Filter: " in line and "SubPlan" in line]
    assert sum(line.count("(SubPlan ") for line in filters) == len(looked_up), plan


# several servers


@pytest.fixture(scope="module")
def two_servers(
    postgres: PostgresCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LiveServer, LiveServer]]:
    """Two servers that were started at once on an empty database; only the first has a runner."""
    url = postgres.create_database()
    blobs = tmp_path_factory.mktemp("shared-blobs")
    options = ["--database-url", url, "--blob-url", blobs.as_uri()]
    servers = [LiveServer(options=[*options, "--slots", slots]) for slots in ("2", "0")]
    with ThreadPoolExecutor() as threads:
        first, second = threads.map(LiveServer.__enter__, servers)
    yield first.wait_for_runner(), second
    for server in servers:
        server.__exit__(None, None, None)


def apis(two_servers: tuple[LiveServer, LiveServer]) -> tuple[Api, Api]:
    first, second = two_servers
    return Api(first.api, first.api_key), Api(second.api, second.api_key)


def test_servers_on_one_database_are_one_server(two_servers: tuple[LiveServer, LiveServer]) -> None:
    first, second = apis(two_servers)
    assert len(first.get("/admin/tenants").json()) == 1
    assert first.get("/whoami").json() == second.get("/whoami").json()
    ended = second.run("print('from afar')")
    assert (ended["status"], ended["stdout"]) == ("completed", "from afar\n")
    assert first.get(f"/executions/{ended['execution_id']}").json()["stdout"] == "from afar\n"


def test_one_run_key_sent_to_two_servers_at_once_is_one_execution(
    two_servers: tuple[LiveServer, LiveServer],
) -> None:
    both = apis(two_servers)
    for _ in range(5):
        key = uuid.uuid4().hex
        start = threading.Barrier(8)

        def submit(number: int, key: str = key, start: threading.Barrier = start) -> dict[str, Any]:
            start.wait(60)
            body = {"script_content": "print(1)", "run_key": key}
            base = both[number % 2]
            answer = requests.post(
                f"{base.base}/executions", json=body, headers=dict(base.session.headers), timeout=60
            )
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(submit, range(8)))
        assert len({answer["execution_id"] for answer in answers}) == 1
        assert sum(not answer["attached"] for answer in answers) == 1


def test_a_large_blob_given_to_one_server_is_taken_from_the_other(
    two_servers: tuple[LiveServer, LiveServer],
) -> None:
    first, second = apis(two_servers)
    data = uuid.uuid4().bytes * 50_000
    name = hashlib.sha256(data).hexdigest()
    assert second.call("PUT", f"/blobs/{name}", data=data).status_code == 201
    assert first.get(f"/blobs/{name}").content == data
    script = "import hashlib, pathlib; print(hashlib.sha256(pathlib.Path('x').read_bytes()).hexdigest())"
    assert second.run(script, inputs={"x": name})["stdout"].strip() == name


def test_a_cancel_at_one_server_reaches_the_runner_of_the_other(
    two_servers: tuple[LiveServer, LiveServer],
) -> None:
    first, second = apis(two_servers)
    script = "import time\nprint('begun', flush=True)\ntime.sleep(600)"
    execution_id = first.submit(script, timeout_seconds=900)["execution_id"]
    while first.get(f"/executions/{execution_id}").json()["status"] == "queued":
        pass
    second.post(f"/executions/{execution_id}/cancel")
    assert first.wait(execution_id)["status"] == "canceled"


def test_a_server_whose_database_was_killed_answers_again_when_it_is_back(
    postgres: PostgresCluster, tmp_path: Path
) -> None:
    with type(postgres)() as cluster:
        options = ["--database-url", cluster.create_database(), "--slots", "1"]
        with LiveServer(tmp_path / "data", options=options) as server:
            api = Api(server.wait_for_runner().api, server.api_key)
            assert api.run("print(1)")["status"] == "completed"
            cluster.kill()
            answer = api.get("/executions")
            assert answer.status_code == 503, server.log
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["detail"]["error"] == "storage_unavailable"
            cluster.start()
            assert len(api.get("/executions").json()) == 1
            assert api.run("print(2)")["status"] == "completed"
            assert "secret-word" not in server.log


# settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mysql://root:secret-word@host/x", "postgresql://"),
        ("postgresql+asyncpg://root:secret-word@host/x", "postgresql://"),
        ("no url with secret-word", "postgresql://"),
    ],
)
def test_a_database_of_another_kind_is_refused_without_its_password(given: str, said: str) -> None:
    with pytest.raises(UnknownStorage, match=said) as raised:
        check_storage(settings_for(given, Path("x")))
    assert "secret-word" not in str(raised.value)


@pytest.mark.parametrize("given", ["s3://bucket", "relative/directory", "file://other-host/x", "gs://x/y"])
def test_a_place_for_blobs_that_is_no_directory_is_refused(given: str) -> None:
    with pytest.raises(UnknownStorage, match="file:///DIRECTORY"):
        check_storage(Settings(blob_url=given))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "given",
    ["postgresql://me:secret-word@db:5433/grid", "postgres://me@db:5433/grid?password=secret-word"],
)
def test_no_message_shows_the_password(given: str) -> None:
    settings = settings_for(given, Path("x"))
    assert name_of(settings) == "postgresql://db:5433/grid"
    assert "secret-word" not in repr(settings)
