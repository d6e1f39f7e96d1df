"""Room that is set aside, given up, and put back."""

from __future__ import annotations

import asyncio
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from rgrid_server.blobs.base import BlobError
from rgrid_server.blobs.directory import DirectoryBlobStore
from rgrid_server.store.reserve import Reserve

Usage = namedtuple("Usage", "total used free")
SIZE = 64 * 1024


class Disk:
    """What the machine says of its disk."""

    def __init__(self) -> None:
        self.total = 1024 * SIZE
        self.free = 1024 * SIZE

    def usage(self, _path: object) -> Usage:
        return Usage(self.total, self.total - self.free, self.free)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(shutil, "disk_usage", made.usage)
    return made


def test_the_room_is_taken_on_the_disk_and_not_only_named(tmp_path: Path, disk: Disk) -> None:
    assert disk.free > SIZE
    Reserve(tmp_path / "reserve", SIZE)
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= SIZE


def test_a_small_disk_sets_little_aside(tmp_path: Path, disk: Disk) -> None:
    disk.total = 32 * 4096
    Reserve(tmp_path / "reserve", SIZE)
    assert (tmp_path / "reserve").stat().st_size == 4096


def test_a_reserve_that_was_given_up_is_in_use_until_there_is_twice_the_room(
    tmp_path: Path, disk: Disk
) -> None:
    reserve = Reserve(tmp_path / "reserve", SIZE)
    assert not reserve.is_in_use()
    reserve.give_up()
    disk.free = 2 * SIZE - 1
    assert not (tmp_path / "reserve").exists()
    assert reserve.is_in_use()
    disk.free = 2 * SIZE
    assert not reserve.is_in_use()
    assert (tmp_path / "reserve").stat().st_size == SIZE


def test_a_server_that_wants_no_reserve_takes_everything_in(tmp_path: Path, disk: Disk) -> None:
    reserve = Reserve(tmp_path / "reserve", 0)
    reserve.give_up()
    assert not reserve.is_in_use()
    assert list(tmp_path.iterdir()) == []


def test_uploads_leave_the_databases_room_alone(tmp_path: Path, disk: Disk) -> None:
    async def fill() -> None:
        store = DirectoryBlobStore(tmp_path, untouched_bytes=SIZE)
        disk.free = 4 * SIZE
        upload = store.begin(2**30)
        await upload.write(bytes(2 * SIZE))
        disk.free = 2 * SIZE
        try:
            await upload.write(bytes(2 * 1024 * 1024))
        finally:
            await upload.abandon()

    with pytest.raises(BlobError, match="no room") as refused:
        asyncio.run(fill())
    assert refused.value.code == "storage_full"
