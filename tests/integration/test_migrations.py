"""Schemas of every version that was released come to this one's, with what is in them, on both databases."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Engine, MetaData, create_engine, make_url, select, text
from sqlalchemy.engine import Connection

from rgrid_server.clock import new_id
from rgrid_server.config import Settings
from rgrid_server.storage import DATABASE_FILE, migrate, open_database
from rgrid_server.store import events
from rgrid_server.store.schema import NewerSchema, alembic_config, known_revisions, upgrade_schema
from rgrid_server.store.sqlite import sqlite_engine
from rgrid_server.store.tables import metadata
from tests.contract.stores import Process, identities
from tests.live import ROOT

if TYPE_CHECKING:
    from tests.postgres import PostgresCluster

RELEASED = ["0001", "0002"]
"""Every revision that a released version ends with."""


class Place:
    """A database that is brought from revision to revision."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        url = settings.database_url
        self.engine: Engine = (
            sqlite_engine(settings.data_dir / DATABASE_FILE).execution_options(isolation_level="SERIALIZABLE")
            if url is None
            else create_engine(make_url(url.get_secret_value()).set(drivername="postgresql+psycopg"))
        )

    def upgrade_to(self, revision: str) -> None:
        """As an older version's start would have done."""
        with self.engine.begin() as connection:
            command.upgrade(alembic_config(connection), revision)

    def insert(self, table: str, **values: Any) -> None:
        """Insert a row by the columns that the database has, knowing nothing of this version's."""
        known = MetaData()
        known.reflect(self.engine, only=[table])
        with self.engine.begin() as connection:
            connection.execute(known.tables[table].insert().values(values))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table as this version sees it."""
        with self.engine.connect() as connection:
            query = select(metadata.tables[table])
            return [dict(row._mapping) for row in connection.execute(query)]


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty database."""
    url = None
    if request.param == "postgres":
        cluster: PostgresCluster = request.getfixturevalue("postgres")
        url = SecretStr(cluster.create_database())
    found = Place(Settings(data_dir=tmp_path, database_url=url, database_connections=6))  # type: ignore[call-arg]
    yield found
    found.engine.dispose()


TENANT = "tenant_of_the_old"


def write_as_then(place: Place, revision: str, name: str, batch_id: str | None) -> str:
    """An execution with its specification, its event and its batch, as a version inserts them."""
    since_0002: dict[str, Any] = {"flow": batch_id or ""} if revision >= "0002" else {}
    execution_id = new_id("exec")
    place.insert(
        "specifications",
        specification_id=f"spec-{name}",
        tenant_id=TENANT,
        script_content="print('old')",
        script_name="script.py",
        runtime="python:3.11",
        created_at_ms=1,
    )
    if batch_id is not None:
        place.insert(
            "batches",
            tenant_id=TENANT,
            batch_id=batch_id,
            user_metadata={"a": 1},
            closed=True,
            created_at_ms=1,
            queued=1,
        )
    place.insert(
        "executions",
        execution_id=execution_id,
        tenant_id=TENANT,
        specification_id=f"spec-{name}",
        runtime="python:3.11",
        batch_id=batch_id,
        batch_index=None if batch_id is None else 0,
        status="queued",
        created_at_ms=1,
        ready_at_ms=1,
        attempt=0,
        retry_count=0,
        max_retries=2,
        args=["x"],
        env_vars={},
        inputs={},
        user_metadata={"name": name},
        timeout_seconds=300,
        cpus_milli=1000,
        memory_mib=512,
        priority=0,
        queue_rank=0,
        **since_0002,
    )
    place.insert(
        "events",
        tenant_id=TENANT,
        execution_id=execution_id,
        batch_id=batch_id,
        status="queued",
        attempt=0,
        at_ms=1,
    )
    return execution_id


def write_the_rest(place: Place) -> None:
    """A row in every other table that a later revision touches."""
    place.insert("tenants", tenant_id=TENANT, name="old", created_at_ms=1)
    place.insert("blobs", sha256="a" * 64, size_bytes=3, content=b"a\0b", created_at_ms=1)
    place.insert("tenant_blobs", tenant_id=TENANT, sha256="a" * 64)
    place.insert(
        "runners",
        runner_id="runner_old",
        incarnation="1",
        hostname="h",
        slots=1,
        runtimes=[],
        sandbox="bubblewrap",
        version="0",
        registered_at_ms=1,
        seen_at_ms=1,
    )


def differences(place: Place) -> list[Any]:
    """What this version's tables have and the database has not, and the other way round."""
    with place.engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))


def carry_all(place: Place) -> list[tuple[str, str]]:
    """Run what is ready, as this version's server does; returns what the feed says of the old tenant."""

    async def run() -> list[tuple[str, str]]:
        database = open_database(place.settings)
        process = Process(database)
        await process.register()
        while ready := identities(await process.claim(10)):
            for attempt in ready:
                assert await process.end(attempt) == "accepted"
        rows = await database.read(lambda c: events.events_after(c, TENANT, 0, 100))
        await database.close()
        return [(row["execution_id"], row["status"]) for row in rows]

    return asyncio.run(run())


def test_an_empty_database_comes_to_this_versions_schema(place: Place) -> None:
    migrate(place.settings)
    assert differences(place) == []


def made_by(way: Callable[[Engine], None], file: Path) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """What a way to this version's schema makes of an empty file: its statements, and its tables' rows."""
    engine = sqlite_engine(file)
    way(engine)
    with engine.connect() as connection:
        made = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").all()
        rows = {
            name: [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}")]
            for (name,) in names
        }
    return {name: " ".join(sql.split()) for name, sql in made}, rows


def test_the_schema_that_an_empty_sqlite_database_gets_at_once_is_that_of_all_migrations(
    tmp_path: Path,
) -> None:
    def migrated(engine: Engine) -> None:
        with engine.connect() as connection:
            command.upgrade(alembic_config(connection), "head")

    def at_once(engine: Engine) -> None:
        with engine.connect() as connection:
            upgrade_schema(connection, "here")

    assert made_by(at_once, tmp_path / "at once") == made_by(migrated, tmp_path / "migrated")
    # the file is also what its script writes, to the letter
    command_line = [sys.executable, str(ROOT / "scripts/schema_snapshot.py"), "--check"]
    assert subprocess.run(command_line, check=False).returncode == 0


def test_the_revisions_are_named_by_their_files() -> None:
    with create_engine("sqlite://").connect() as connection:
        scripts = ScriptDirectory.from_config(alembic_config(connection))
    assert known_revisions() == sorted(script.revision for script in scripts.walk_revisions())
    assert known_revisions()[-1] == scripts.get_current_head()


def test_a_server_on_data_of_its_version_does_without_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rgrid_server.config import Settings;"
        "from rgrid_server.storage import migrate; import rgrid_server.serve;"
        "migrate(Settings(data_dir=Path(sys.argv[1])));"
        "print('alembic' in sys.modules)"
    )
    for _ in ("made", "found"):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=True)
        assert done.stdout == b"False\n"


@pytest.mark.parametrize("revision", RELEASED)
def test_a_released_schema_comes_to_this_one_with_all_that_is_in_it(place: Place, revision: str) -> None:
    place.upgrade_to(revision)
    alone = write_as_then(place, revision, "alone", None)
    in_batch = write_as_then(place, revision, "in a batch", "batch-1")
    write_the_rest(place)
    migrate(place.settings)
    assert differences(place) == []
    executions = {row["execution_id"]: row for row in place.rows("executions")}
    assert (executions[alone]["flow"], executions[in_batch]["flow"]) == ("", "batch-1")
    assert executions[in_batch]["user_metadata"] == {"name": "in a batch"}
    (blob,) = place.rows("blobs")
    assert (bytes(blob["content"]), blob["location"], blob["condemned_at_ms"]) == (b"a\0b", None, None)
    assert [row["memory_mib"] for row in place.rows("runners")] == [None]
    told = carry_all(place)
    assert sorted(told) == sorted(
        (execution_id, status)
        for execution_id in (alone, in_batch)
        for status in ("queued", "running", "completed")
    )
    assert [status for execution_id, status in told if execution_id == alone] == [
        "queued",
        "running",
        "completed",
    ]
    (batch,) = place.rows("batches")
    assert (batch["queued"], batch["completed"]) == (0, 1)


@pytest.mark.parametrize("revision", RELEASED)
def test_what_an_older_process_writes_after_the_migration_is_carried_too(place: Place, revision: str) -> None:
    place.upgrade_to(revision)
    write_as_then(place, revision, "before", None)
    write_the_rest(place)
    columns_before = {table: set(_columns(place, table)) for table in metadata.tables}
    migrate(place.settings)
    for table, columns in columns_before.items():
        # what an older process selects, inserts and updates is still there
        assert columns <= set(_columns(place, table)), table
    after = write_as_then(place, revision, "after", "batch-2")
    assert (after, "completed") in carry_all(place)


def _columns(place: Place, table: str) -> list[str]:
    known = MetaData()
    # one that a later version adds is not there yet
    known.reflect(place.engine, only=lambda name, _: name == table)
    return list(known.tables[table].c.keys()) if table in known.tables else []


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
def test_several_processes_may_migrate_at_once(place: Place) -> None:
    place.upgrade_to("0001")
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: migrate(place.settings), range(6)))
    assert differences(place) == []


def test_a_migration_leaves_alone_what_is_there_already(place: Place) -> None:
    migrate(place.settings)
    write_the_rest(place)
    migrate(place.settings)
    assert len(place.rows("tenants")) == 1


def test_a_newer_schema_is_refused_and_left_as_it_is(place: Place) -> None:
    migrate(place.settings)

    def revision(connection: Connection) -> str:
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())

    with place.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(NewerSchema, match="newer RGrid"):
        migrate(place.settings)
    with place.engine.connect() as connection:
        assert revision(connection) == "9999"
