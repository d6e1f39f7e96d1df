"""Why a server is not ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from rgrid_server.blobs.directory import DirectoryBlobStore
from rgrid_server.observability import readiness
from rgrid_server.observability.readiness import Finding, Readiness
from rgrid_server.store.database import Database, StorageFull


class FakeDatabase:
    """Writes as it is told: not at all, with an error, or without an end."""

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self.error = error
        self.hangs = hangs
        self.writes = 0

    async def write(self, _operation: Callable[..., Any], **_options: Any) -> None:
        self.writes += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


def look(
    database: FakeDatabase,
    blobs: DirectoryBlobStore,
    *,
    times: int = 1,
    is_draining: bool = False,
    has_runner: bool = True,
) -> Finding:
    async def ask() -> bool:
        return has_runner

    async def look_often() -> Finding:
        looked = Readiness(cast(Database, database), blobs, lambda: is_draining, ask)
        return [await looked.look() for _ in range(times)][-1]

    return asyncio.run(look_often())


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobStore:
    return DirectoryBlobStore(tmp_path / "blobs", min_free_bytes=0)


def codes(found: Finding) -> list[str]:
    return [reason.code for reason in found.reasons]


def test_a_server_that_can_write_is_ready(blobs: DirectoryBlobStore) -> None:
    assert look(FakeDatabase(), blobs) == Finding()


def test_no_runner_is_a_warning(blobs: DirectoryBlobStore) -> None:
    found = look(FakeDatabase(), blobs, has_runner=False)
    assert codes(found) == []
    assert [warning.code for warning in found.warnings] == ["no_runner"]


@pytest.mark.parametrize("error", [StorageFull("the disk is full; make room"), OSError("gone")])
def test_a_database_that_cannot_be_written_is_a_reason(blobs: DirectoryBlobStore, error: Exception) -> None:
    assert codes(look(FakeDatabase(error), blobs)) == ["database"]


def test_a_database_that_does_not_commit_is_a_reason(
    blobs: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "COMMIT_SECONDS", 0.01)
    found = look(FakeDatabase(hangs=True), blobs)
    assert codes(found) == ["database"]
    assert "not committed" in found.reasons[0].message


def test_a_disk_without_room_is_a_reason_that_names_it(tmp_path: Path) -> None:
    found = look(FakeDatabase(), DirectoryBlobStore(tmp_path / "blobs", min_free_bytes=2**62))
    assert codes(found) == ["blobs"]
    assert str(tmp_path / "blobs") in found.reasons[0].message


def test_a_directory_that_is_gone_is_a_reason(tmp_path: Path, blobs: DirectoryBlobStore) -> None:
    (tmp_path / "blobs" / "incoming").rmdir()
    assert codes(look(FakeDatabase(), blobs)) == ["blobs"]


def test_every_reason_is_told_and_draining_first(tmp_path: Path) -> None:
    full = DirectoryBlobStore(tmp_path / "blobs", min_free_bytes=2**62)
    found = look(FakeDatabase(StorageFull("full")), full, is_draining=True)
    assert codes(found) == ["draining", "database", "blobs"]


def test_asking_often_costs_one_commit(blobs: DirectoryBlobStore) -> None:
    database = FakeDatabase()
    look(database, blobs, times=50)
    assert database.writes == 1


def test_a_blob_store_leaves_nothing_behind_of_its_probe(tmp_path: Path, blobs: DirectoryBlobStore) -> None:
    assert asyncio.run(blobs.problem()) is None
    assert list((tmp_path / "blobs" / "incoming").iterdir()) == []
