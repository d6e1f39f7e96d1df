"""What every blob store promises, tried on each of them.

A store comes with a harness that can do to it what a test cannot do through its interface: make its place
full, leave an upload unfinished as a killed process does, turn back the time at which something was written.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from rgrid_server.blobs.base import (
    INLINE_MAX_BYTES,
    BlobError,
    BlobStore,
    Received,
    location_of,
    sha256_at,
)
from rgrid_server.blobs.directory import DirectoryBlobStore

LARGE = bytes(range(256)) * 2048
MAX_BYTES = 1 << 30
LONG_AGO_MS = 1_000_000_000_000


class Harness(Protocol):
    """A kind of store, from outside."""

    def open(self) -> BlobStore:
        """The store as a process finds it that starts now."""

    def is_full(self) -> contextlib.AbstractContextManager[None]:
        """For the length of a block its place takes no more than 300,000 bytes."""

    def kill_an_upload(self) -> None:
        """Begin an upload in another process, and end that with SIGKILL before it is finished."""

    def leftovers(self) -> list[str]:
        """What unfinished uploads have left."""

    def make_old(self, location: str) -> None:
        """Turn back the time at which a blob was written."""


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from rgrid_server.blobs.directory import DirectoryBlobStore

async def begin():
    upload = DirectoryBlobStore(Path(sys.argv[1])).begin(1 << 30)
    await upload.write(bytes(3_000_000))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(begin())
"""


class DirectoryHarness:
    """Blobs as files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self) -> BlobStore:
        return DirectoryBlobStore(self._directory)

    @contextlib.contextmanager
    def is_full(self) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def kill_an_upload(self) -> None:
        done = subprocess.run([sys.executable, "-c", KILLED, str(self._directory)], check=False)
        assert done.returncode == -signal.SIGKILL

    def leftovers(self) -> list[str]:
        return [path.name for path in (self._directory / "incoming").iterdir()]

    def make_old(self, location: str) -> None:
        os.utime(self._directory / location, (LONG_AGO_MS / 1000, LONG_AGO_MS / 1000))


@pytest.fixture(params=["directory"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    """Each kind of store."""
    del request
    return DirectoryHarness(tmp_path / "blobs")


async def put(
    store: BlobStore, data: bytes, expected: str | None = None, chunk_bytes: int = 100_000
) -> Received:
    """Upload in chunks, as :class:`rgrid_server.scheduler.uploads.Uploads` does."""
    upload = store.begin(MAX_BYTES)
    try:
        for start in range(0, len(data), chunk_bytes):
            await upload.write(data[start : start + chunk_bytes])
        return await upload.finish(expected)
    except BaseException:
        await upload.abandon()
        raise


async def put_large(store: BlobStore, data: bytes = LARGE) -> str:
    """Upload what is too large for the database; returns its location."""
    received = await put(store, data)
    assert received.location is not None
    return received.location


async def content(store: BlobStore, location: str) -> bytes:
    return b"".join([chunk async for chunk in store.read(location)])


async def listed(store: BlobStore, before_ms: int) -> list[str]:
    return [location async for group in store.written_before(before_ms) for location in group]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size_bytes", [0, 1, INLINE_MAX_BYTES])
def test_small_bytes_come_back_for_the_database(harness: Harness, size_bytes: int) -> None:
    data = LARGE[:size_bytes]
    received = asyncio.run(put(harness.open(), data, digest(data)))
    assert received == Received(digest(data), size_bytes, content=data, location=None)
    assert harness.leftovers() == []


@pytest.mark.parametrize("chunk_bytes", [1000, 65_537, len(LARGE)])
def test_large_bytes_are_kept_whole_under_a_location(harness: Harness, chunk_bytes: int) -> None:
    async def check() -> None:
        store = harness.open()
        received = await put(store, LARGE, digest(LARGE), chunk_bytes)
        assert (received.sha256, received.size_bytes, received.content) == (digest(LARGE), len(LARGE), None)
        assert received.location is not None
        assert await content(store, received.location) == LARGE
        assert await store.size_bytes(received.location) == len(LARGE)

    asyncio.run(check())


def test_what_was_kept_is_there_for_the_next_process(harness: Harness) -> None:
    location = asyncio.run(put_large(harness.open()))
    assert asyncio.run(content(harness.open(), location)) == LARGE


def test_a_location_says_the_hash_of_what_it_keeps(harness: Harness) -> None:
    location = asyncio.run(put_large(harness.open()))
    assert sha256_at(location) == digest(LARGE)
    assert sha256_at(location_of(digest(LARGE), None)) == digest(LARGE)


def test_uploads_of_the_same_bytes_at_once_have_locations_of_their_own(harness: Harness) -> None:
    async def check() -> None:
        store = harness.open()
        locations = await asyncio.gather(*(put_large(store) for _ in range(8)))
        assert len(set(locations)) == 8
        await asyncio.gather(*(store.delete(location) for location in locations[1:]))
        assert await content(store, locations[0]) == LARGE

    asyncio.run(check())


def test_an_upload_after_a_deletion_is_not_hit_by_it(harness: Harness) -> None:
    async def check() -> None:
        store = harness.open()
        old = await put_large(store)
        new = await put_large(store)
        await store.delete(old)
        await store.delete(old)
        assert await store.size_bytes(old) is None
        assert await content(store, new) == LARGE
        with pytest.raises(FileNotFoundError):
            await content(store, old)

    asyncio.run(check())


@pytest.mark.parametrize("data", [LARGE[:10], LARGE])
def test_bytes_with_another_hash_are_refused_and_leave_nothing(harness: Harness, data: bytes) -> None:
    store = harness.open()
    with pytest.raises(BlobError, match=digest(data)) as refused:
        asyncio.run(put(store, data, "0" * 64))
    assert refused.value.code == "hash_mismatch"
    assert harness.leftovers() == []
    assert asyncio.run(listed(store, 2**52)) == []


def test_more_bytes_than_allowed_are_refused_and_leave_nothing(harness: Harness) -> None:
    async def upload() -> None:
        one = harness.open().begin(len(LARGE) - 1)
        await one.write(LARGE[:-1])
        with pytest.raises(BlobError) as refused:
            await one.write(LARGE[-1:])
        assert refused.value.code == "blob_too_large"
        await one.abandon()

    asyncio.run(upload())
    assert harness.leftovers() == []


def test_an_upload_that_breaks_off_leaves_nothing(harness: Harness) -> None:
    async def upload() -> None:
        one = harness.open().begin(MAX_BYTES)
        await one.write(LARGE)
        assert harness.leftovers() != []
        await one.abandon()

    asyncio.run(upload())
    assert harness.leftovers() == []


@pytest.mark.parametrize("size_bytes", [400_000, 4_000_000])
def test_a_full_place_is_said_and_nothing_is_left(harness: Harness, size_bytes: int) -> None:
    store = harness.open()
    with harness.is_full(), pytest.raises(BlobError) as refused:
        asyncio.run(put(store, bytes(size_bytes)))
    assert refused.value.code == "storage_full"
    assert harness.leftovers() == []
    assert asyncio.run(listed(store, 2**52)) == []
    assert asyncio.run(put_large(store))


def test_what_a_killed_process_left_is_removed_by_the_next_one(harness: Harness) -> None:
    harness.kill_an_upload()
    assert harness.leftovers() != []
    harness.open()
    assert harness.leftovers() == []


def test_a_process_that_starts_leaves_the_uploads_of_others_alone(harness: Harness) -> None:
    async def check() -> None:
        one = harness.open().begin(MAX_BYTES)
        await one.write(LARGE)
        other = harness.open()
        received = await one.finish(digest(LARGE))
        assert received.location is not None
        assert await content(other, received.location) == LARGE

    asyncio.run(check())


def test_what_was_written_before_a_time_is_listed(harness: Harness) -> None:
    async def check() -> None:
        store = harness.open()
        old, new = await put_large(store), await put_large(store, LARGE[1:])
        harness.make_old(old)
        assert await listed(store, LONG_AGO_MS) == []
        assert await listed(store, LONG_AGO_MS + 1) == [old]
        assert sorted(await listed(store, time.time_ns() // 1_000_000 + 60_000)) == sorted([old, new])

    asyncio.run(check())


def test_an_unfinished_upload_is_not_listed(harness: Harness) -> None:
    async def check() -> None:
        store = harness.open()
        one = store.begin(MAX_BYTES)
        await one.write(LARGE)
        assert await listed(store, 2**52) == []
        await one.abandon()

    asyncio.run(check())
