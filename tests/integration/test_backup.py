"""Backups taken while the server works, and what comes back of them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr
from sqlalchemy import JSON, Text, cast, func, select, text
from sqlalchemy.engine import Connection

from rgrid_server import storage
from rgrid_server.backup.archive import BackupError
from rgrid_server.backup.making import make_backup
from rgrid_server.backup.restoring import restore
from rgrid_server.blobs.base import INLINE_MAX_BYTES
from rgrid_server.blobs.directory import DirectoryBlobStore
from rgrid_server.clock import now_ms
from rgrid_server.config import Settings
from rgrid_server.domain.retention import DELETE_AFTER_MS, RetentionTimes
from rgrid_server.scheduler.batches import BatchItem, BatchSubmission
from rgrid_server.scheduler.retention import Retention
from rgrid_server.scheduler.uploads import add_received
from rgrid_server.store import tenants
from rgrid_server.store.tables import attempts, batches, charges, executions, metadata
from tests.contract.stores import Store, identities, work
from tests.integration.conftest import Api
from tests.live import PYTHON, LiveServer
from tests.postgres import PostgresCluster

LARGE = bytes(INLINE_MAX_BYTES * 3)
SCRIPT = """
import sys
print("line", sys.argv[1])
open("small", "w").write(sys.argv[1])
open("large", "wb").write(sys.argv[1].encode() * 100_000)
"""


def rgrid_server(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of ``rgrid server``."""
    command = [str(PYTHON), "-m", "rgrid_server", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def api_of(server: LiveServer) -> Api:
    return Api(server.api, server.api_key)


def everything(api: Api, ids: list[str]) -> dict[str, Any]:
    """What the API shows of executions, their logs and their files, and what each cost."""
    found: dict[str, Any] = {}
    for one in ids:
        shown = api.get(f"/executions/{one}").json()
        downloads = shown.pop("download_urls")
        found[one] = {
            "shown": shown,
            "log": api.get(f"/executions/{one}/logs", headers={"Accept": "text/plain"}).text,
            "files": api.get(f"/executions/{one}/artifacts").json(),
            "hashes": {
                name: hashlib.sha256(requests.get(url, timeout=30).content).hexdigest()
                for name, url in downloads.items()
            },
        }
    return found


def test_a_server_started_on_a_backup_of_a_busy_one_has_all_of_it(tmp_path: Path) -> None:
    names = ("backup", "backup.tar")
    with LiveServer(tmp_path / "data", options=["--slots", "2"]) as server:
        server.wait_for_runner()
        api = api_of(server)
        ids = [api.submit(SCRIPT, args=[str(n)])["execution_id"] for n in range(4)]
        assert {api.wait(one)["status"] for one in ids} == {"completed"}
        before = everything(api, ids)
        running = api.submit("import time; print('begun', flush=True); time.sleep(1000)")["execution_id"]
        wait_for_log(api, running)
        with busy(server):
            for name in names:
                done = rgrid_server("backup", "--verify", "--data-dir", server.data_dir, tmp_path / name)
                assert done.returncode == 0, done.stderr

    def begin_again(name: str) -> None:
        again = tmp_path / f"of-{name}"
        done = rgrid_server("restore", tmp_path / name, "--data-dir", again)
        assert done.returncode == 0, done.stderr
        with LiveServer(again, options=["--slots", "1"]) as server:
            server.wait_for_runner()
            api = api_of(server)
            assert everything(api, ids) == before
            assert nanos_of(again, ids) == nanos_of(tmp_path / "data", ids) > 0
            # what ran when the backup was made has lost its runner, and begins again when its lease is over
            assert wait_until_attempt(api, running, 2) == "running"
            assert api.post(f"/executions/{running}/cancel").status_code == 200

    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(begin_again, names))


def test_a_backup_is_for_its_owner_alone(tmp_path: Path) -> None:
    with filled(tmp_path, None) as (settings, _):
        for target in (tmp_path / "backup", tmp_path / "backup.tar"):
            make_backup(settings, target)
        root = tmp_path / "backup"
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        for name in ("rgrid.sqlite", "backup.json"):
            assert stat.S_IMODE((root / name).stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "backup.tar").stat().st_mode) == 0o600


def test_a_backup_overwrites_nothing_and_a_restore_neither(tmp_path: Path) -> None:
    with filled(tmp_path, None) as (settings, _):
        make_backup(settings, tmp_path / "backup.tar")
        before = (tmp_path / "backup.tar").read_bytes()
        with pytest.raises(BackupError, match="exists"):
            make_backup(settings, tmp_path / "backup.tar")
        assert (tmp_path / "backup.tar").read_bytes() == before
        with pytest.raises(BackupError, match="not empty"):
            restore(tmp_path / "backup.tar", settings)


def test_a_backup_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    with filled(tmp_path, None) as (settings, _):
        (victim, *_others) = blob_files(settings.data_dir / "blobs")
        victim.unlink()
        with pytest.raises(BackupError, match=victim.name.partition("-")[0]):
            make_backup(settings, tmp_path / "out" / "backup")
        assert list((tmp_path / "out").iterdir()) == []


def test_a_backup_with_a_lost_blob_is_not_restored(tmp_path: Path) -> None:
    with filled(tmp_path, None) as (settings, _):
        make_backup(settings, tmp_path / "backup")
    (victim, *_others) = blob_files(tmp_path / "backup" / "blobs")
    victim.unlink()
    target = settings.model_copy(update={"data_dir": tmp_path / "again"})
    with pytest.raises(BackupError, match="is missing"):
        restore(tmp_path / "backup", target)
    assert not target.data_dir.exists()


def test_other_bytes_of_the_same_size_are_found_when_every_hash_is_compared(tmp_path: Path) -> None:
    with filled(tmp_path, None) as (settings, _):
        make_backup(settings, tmp_path / "linked")
    shutil.copytree(tmp_path / "linked", tmp_path / "backup")
    (victim, *_others) = blob_files(tmp_path / "backup" / "blobs")
    victim.write_bytes(bytes([255]) * victim.stat().st_size)
    target = settings.model_copy(update={"data_dir": tmp_path / "again"})
    with pytest.raises(BackupError, match="has other bytes"):
        restore(tmp_path / "backup", target, is_thorough=True)
    assert not target.data_dir.exists()


@pytest.mark.parametrize("content", [b"", b"no tar at all"])
def test_what_is_no_backup_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "backup.tar").write_bytes(content)
    done = rgrid_server("restore", tmp_path / "backup.tar", "--data-dir", tmp_path / "again")
    assert (done.returncode, "backup" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr


def test_blobs_that_are_let_go_right_after_the_snapshot_are_still_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rgrid_server.backup import making

    with filled(tmp_path, None) as (settings, store):
        take = making._take_snapshot

        def then_let_go(settings: Settings, target: Path) -> None:
            take(settings, target)
            later = now_ms() + 365 * 86_400_000
            clocks = iter([later, later + DELETE_AFTER_MS - 1000])
            for moment in clocks:
                kept = Retention(
                    store.databases[0],
                    DirectoryBlobStore(settings.data_dir / "blobs"),
                    RetentionTimes(log_ms=1, output_ms=1),
                    clock=lambda moment=moment: moment,
                )
                store.run(kept.let_go())

        monkeypatch.setattr(making, "_take_snapshot", then_let_go)
        make_backup(settings, tmp_path / "backup", is_thorough=True)
        assert store.read(condemned) == [hashlib.sha256(LARGE[1:]).hexdigest()]
    assert hashlib.sha256(LARGE[1:]).hexdigest() in {
        blob.name.partition("-")[0] for blob in blob_files(tmp_path / "backup" / "blobs")
    }


def test_condemned_blobs_stay_out_of_a_backup(tmp_path: Path) -> None:
    with filled(tmp_path, None) as (settings, store):
        sha256 = store.read(lambda c: c.execute(select(metadata.tables["blobs"].c.sha256)).scalars().first())
        table = metadata.tables["blobs"]
        condemn = table.update().where(table.c.sha256 == sha256).values(condemned_at_ms=now_ms())
        store.write(lambda c: c.execute(condemn).rowcount)
        all_of_them = store.read(lambda c: c.execute(text_count("blobs")).scalar_one())
        assert make_backup(settings, tmp_path / "backup").blobs == all_of_them - 1


@pytest.mark.parametrize("to_postgres", [False, True])
@pytest.mark.parametrize("from_postgres", [False, True])
def test_every_row_comes_back_on_either_database(
    tmp_path: Path, postgres: PostgresCluster, from_postgres: bool, to_postgres: bool
) -> None:
    with filled(tmp_path, postgres if from_postgres else None) as (settings, store):
        before = store.read(all_rows_of)
        assert store.read(charged) > 0
        make_backup(settings, tmp_path / "backup.tar", is_thorough=True)
    target = Settings(data_dir=tmp_path / "again", database_url=url_of(postgres) if to_postgres else None)  # type: ignore[call-arg]
    restore(tmp_path / "backup.tar", target)
    with opened(target) as again:
        after = again.read(all_rows_of)
        assert {name: len(rows) for name, rows in after.items()} == {
            name: len(rows) for name, rows in before.items()
        }
        after["settings"] = [row for row in after["settings"] if row[0] != "event_base"]
        before["settings"] = [row for row in before["settings"] if row[0] != "event_base"]
        assert after == before


@pytest.mark.parametrize("to_postgres", [False, True])
def test_a_restored_database_goes_on_numbering_behind_what_it_has(
    tmp_path: Path, postgres: PostgresCluster, to_postgres: bool
) -> None:
    with filled(tmp_path, postgres) as (settings, store):
        make_backup(settings, tmp_path / "backup")
        newest = store.read(newest_numbers)
    target = Settings(data_dir=tmp_path / "again", database_url=url_of(postgres) if to_postgres else None)  # type: ignore[call-arg]
    restore(tmp_path / "backup", target)
    with opened(target) as again:
        tenant_id = again.tenant()
        again.run(
            again.processes[0].batches.submit(tenant_id, BatchSubmission(work(), [BatchItem.of(work())]))
        )
        after = again.read(newest_numbers)
        assert all(new > old for new, old in zip(after, newest, strict=True))


def test_what_ran_is_queued_again_when_its_lease_is_over(tmp_path: Path) -> None:
    with filled(tmp_path, None) as (settings, store):
        running = store.read(running_ids)
        assert len(running) == 1
        make_backup(settings, tmp_path / "backup")
        paid = store.read(charged)
    target = settings.model_copy(update={"data_dir": tmp_path / "again"})
    restore(tmp_path / "backup", target)
    with opened(target) as again:
        leases = again.processes[0].leases
        again.run(leases.extend_all())
        again.run(leases.expire(now_ms()))
        assert again.read(running_ids) == running
        again.run(leases.expire(now_ms() + 3_600_000))
        assert again.read(running_ids) == []
        status = select(executions.c.status, executions.c.retry_count).where(
            executions.c.execution_id == running[0]
        )
        assert again.read(lambda c: tuple(c.execute(status).one())) == ("queued", 1)
        assert again.read(charged) == paid


def test_a_postgres_with_data_is_not_restored_into(tmp_path: Path, postgres: PostgresCluster) -> None:
    with filled(tmp_path, postgres) as (settings, store):
        make_backup(settings, tmp_path / "backup")
        before = store.read(all_rows_of)
        target = settings.model_copy(update={"data_dir": tmp_path / "again"})
        with pytest.raises(BackupError, match="has data"):
            restore(tmp_path / "backup", target)
        assert store.read(all_rows_of) == before
        assert list(target.data_dir.iterdir()) == []


def test_a_restore_into_postgres_begins_a_server_there(tmp_path: Path, postgres: PostgresCluster) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "1"]) as server:
        server.wait_for_runner()
        api = api_of(server)
        one = api.run(SCRIPT, args=["1"])["execution_id"]
        before = everything(api, [one])
        assert rgrid_server("backup", "--data-dir", server.data_dir, tmp_path / "backup").returncode == 0
    url = postgres.create_database()
    done = rgrid_server(
        "restore", tmp_path / "backup", "--data-dir", tmp_path / "again", "--database-url", url
    )
    assert done.returncode == 0, done.stderr
    assert "secret-word" not in done.stdout + done.stderr
    with LiveServer(tmp_path / "again", options=["--slots", "1", "--database-url", url]) as server:
        server.wait_for_runner()
        api = api_of(server)
        assert everything(api, [one]) == before
        assert api.run("print(1)")["status"] == "completed"
    assert json.loads((tmp_path / "backup" / "backup.json").read_text())["database"] == "sqlite"


# what they are made of


def url_of(postgres: PostgresCluster) -> SecretStr:
    return SecretStr(postgres.create_database())


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """A server's services on a database."""
    with asyncio.Runner() as loop:

        async def start() -> Store:
            return Store(loop, [storage.open_database(settings)])

        store = loop.run(start())
        try:
            yield store
        finally:
            loop.run(store.databases[0].close())


@contextlib.contextmanager
def filled(tmp_path: Path, postgres: PostgresCluster | None) -> Iterator[tuple[Settings, Store]]:
    """A database with something in it: two executions that ended, one that runs, a batch, blobs."""
    settings = Settings(  # type: ignore[call-arg]
        data_dir=tmp_path / "data",
        database_url=None if postgres is None else url_of(postgres),
        database_connections=6,
    )
    settings.data_dir.mkdir()
    storage.migrate(settings)
    blobs = storage.open_blobs(settings)
    with opened(settings) as store:
        process, tenant_id = store.processes[0], store.tenant()
        process.uploads._blobs = blobs
        store.run(process.register())
        for content in (b"small", LARGE, LARGE[1:]):
            store.run(give(process, tenant_id, content))
        store.write(lambda c: tenants.put_setting(c, "signing_secret", "kept"))
        inputs = {"a": hashlib.sha256(b"small").hexdigest(), "b": hashlib.sha256(LARGE).hexdigest()}
        for number in range(3):
            submitted = work(inputs=inputs, env_vars={"N": str(number)}, user_metadata={"n": None, "ä": [1]})
            store.run(process.executions.submit(tenant_id, submitted))
        for attempt in identities(store.run(process.claim(2))):
            store.run(process.end(attempt, stdout="printed\0ü"))
        assert identities(store.run(process.claim(1)))
        items = [BatchItem.of(work(args=(str(n),))) for n in range(5)]
        store.run(process.batches.submit(tenant_id, BatchSubmission(work(), items, parallelism=2)))
        yield settings, store


async def give(process: Any, tenant_id: str, content: bytes) -> None:
    async def chunks() -> Any:
        yield content

    received = await process.uploads.receive(chunks(), None)
    await process.database.write(lambda c: add_received(c, tenant_id, [received]))


def all_rows_of(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table; JSON as it is written."""
    return {
        table.name: [
            tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
            for row in connection.execute(
                select(
                    *(cast(column, Text) if isinstance(column.type, JSON) else column for column in table.c)
                ).order_by(*table.primary_key)
            )
        ]
        for table in metadata.sorted_tables
    }


def charged(connection: Connection) -> int:
    return int(connection.execute(select(func.coalesce(func.sum(charges.c.nanos), 0))).scalar_one())


def newest_numbers(connection: Connection) -> list[int]:
    columns = (executions.c.sequence, batches.c.sequence, metadata.tables["events"].c.sequence)
    return [int(connection.execute(select(func.max(column))).scalar_one()) for column in columns]


def running_ids(connection: Connection) -> list[str]:
    return list(
        connection.execute(select(attempts.c.execution_id).where(attempts.c.ended_at_ms.is_(None))).scalars()
    )


def condemned(connection: Connection) -> list[str]:
    table = metadata.tables["blobs"]
    return list(
        connection.execute(select(table.c.sha256).where(table.c.condemned_at_ms.is_not(None))).scalars()
    )


def text_count(what: str) -> Any:
    return text(f"SELECT count(*) FROM {what}")


def blob_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def nanos_of(data_dir: Path, ids: list[str]) -> int:
    """What executions cost together, in nano-euro."""
    with contextlib.closing(sqlite3.connect(data_dir / "rgrid.sqlite")) as database:
        marks = ",".join("?" * len(ids))
        query = f"SELECT sum(nanos) FROM charges WHERE execution_id IN ({marks})"
        return int(database.execute(query, ids).fetchone()[0])


@contextlib.contextmanager
def busy(server: LiveServer) -> Iterator[None]:
    """Submissions and uploads go on, from several threads."""
    ending = threading.Event()

    def go_on(number: int) -> None:
        api = api_of(server)
        count = 0
        while not ending.is_set():
            count += 1
            content = f"{number}-{count}".encode() * 20_000
            sha256 = hashlib.sha256(content).hexdigest()
            api.call("PUT", f"/blobs/{sha256}", data=content)
            api.submit("print(1)", inputs={"in": sha256})

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def wait_for_log(api: Api, execution_id: str) -> None:
    until(lambda: api.get(f"/executions/{execution_id}/logs?wait=20", headers=JSON_LOG).json()["entries"])


def wait_until_attempt(api: Api, execution_id: str, attempt: int) -> str:
    def begun() -> Any:
        shown = api.get(f"/executions/{execution_id}").json()
        return shown["status"] if shown["attempt"] == attempt and shown["status"] == "running" else None

    return str(until(begun))


JSON_LOG = {"Accept": "application/json"}


def until(look: Callable[[], Any], seconds: float = 120) -> Any:
    """What a look finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come")
