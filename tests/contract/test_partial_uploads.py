"""What every blob store promises of uploads in parts, tried on each of them."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.blobs.base import INLINE_MAX_BYTES, BehindPartial, BlobError, BlobStore, Partial
from rgrid_server.blobs.directory import DirectoryBlobStore
from rgrid_server.blobs.partial import MAX_PARTIALS

LARGE = random.Random(1).randbytes(300_000)
MAX_BYTES = 1 << 30

Open = Callable[[], BlobStore]


@pytest.fixture(params=["directory"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Each kind of store, as a process finds it that starts now."""
    del request
    return lambda: DirectoryBlobStore(tmp_path / "blobs")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def begin(
    store: BlobStore, data: bytes = LARGE, owner: str = "tenant_a", max_owner_bytes: int = MAX_BYTES
) -> Partial:
    """An owner's upload of some bytes."""
    return store.partial(owner, digest(data), MAX_BYTES, max_owner_bytes)


async def kept(store: BlobStore, location: str | None) -> bytes:
    assert location is not None
    return b"".join([chunk async for chunk in store.read(location)])


def test_parts_make_a_blob_that_stays_when_they_are_forgotten(open_store: Open) -> None:
    async def check() -> None:
        store = open_store()
        one = begin(store)
        assert await one.size_bytes() == 0
        assert await one.append(0, LARGE[:100_000]) == 100_000
        assert await one.append(100_000, LARGE[100_000:]) == len(LARGE)
        await one.settle()
        received = await one.finish()
        assert (received.sha256, received.size_bytes) == (digest(LARGE), len(LARGE))
        assert await one.size_bytes() == len(LARGE), "it stays until it is known that it was taken up"
        await one.discard()
        await one.discard()
        assert await one.size_bytes() == 0
        assert await kept(store, received.location) == LARGE

    asyncio.run(check())


@pytest.mark.parametrize("size_bytes", [0, 1, INLINE_MAX_BYTES])
def test_small_bytes_come_back_for_the_database(open_store: Open, size_bytes: int) -> None:
    async def check() -> None:
        data = LARGE[:size_bytes]
        one = begin(open_store(), data)
        await one.append(0, data)
        assert (await one.finish()).content == data

    asyncio.run(check())


def test_parts_are_there_for_the_next_process(open_store: Open) -> None:
    async def check() -> None:
        await begin(open_store()).append(0, LARGE[:1000])
        later = begin(open_store())
        assert await later.size_bytes() == 1000
        await later.append(1000, LARGE[1000:])
        store = open_store()
        assert await kept(store, (await begin(store).finish()).location) == LARGE

    asyncio.run(check())


def test_nobody_has_another_ones_parts(open_store: Open) -> None:
    async def check() -> None:
        store = open_store()
        await begin(store).append(0, LARGE[:1000])
        other = begin(store, owner="tenant_b")
        assert await other.size_bytes() == 0
        with pytest.raises(BehindPartial):
            await other.append(1000, LARGE[1000:])
        await other.append(0, LARGE[:10])
        await other.discard()
        assert await begin(store).size_bytes() == 1000

    asyncio.run(check())


@pytest.mark.parametrize("here", [0, 1000])
def test_bytes_behind_the_end_are_refused(open_store: Open, here: int) -> None:
    async def check() -> None:
        one = begin(open_store())
        if here:
            await one.append(0, LARGE[:here])
        with pytest.raises(BehindPartial) as refused:
            await one.append(here + 1, LARGE[here + 1 :])
        assert refused.value.size_bytes == here

    asyncio.run(check())


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), max_size=30))
def test_what_is_there_already_is_passed_over(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, int]]
) -> None:
    data = LARGE[:60]

    async def check() -> None:
        one = begin(DirectoryBlobStore(tmp_path_factory.mktemp("blobs")), data)
        here = 0
        for start, length in [*pieces, (0, 60)]:
            piece = data[start : start + length]
            if start > here:
                with pytest.raises(BehindPartial):
                    await one.append(start, piece)
            else:
                here = max(here, start + len(piece))
                assert await one.append(start, piece) == here
        assert (await one.finish()).content == data

    asyncio.run(check())


def test_a_whole_with_another_hash_is_refused_and_forgotten(open_store: Open) -> None:
    async def check() -> None:
        store = open_store()
        one = begin(store)
        await one.append(0, LARGE[1:])
        with pytest.raises(BlobError, match=digest(LARGE)) as refused:
            await one.finish()
        assert refused.value.code == "hash_mismatch"
        assert await one.size_bytes() == 0
        assert [item async for item in store.written_before(2**52)] == []

    asyncio.run(check())


def test_a_finished_one_that_was_not_taken_up_can_be_finished_again(open_store: Open) -> None:
    async def check() -> None:
        store = open_store()
        await begin(store).append(0, LARGE)
        first = await begin(store).finish()
        # its second name would make what is added part of the blob
        assert await begin(store).append(len(LARGE), b"more") == len(LARGE)
        second = await begin(store).finish()
        assert first.location != second.location
        assert await kept(store, first.location) == await kept(store, second.location) == LARGE

    asyncio.run(check())


def test_a_finished_blob_is_as_young_as_its_finish(open_store: Open, tmp_path: Path) -> None:
    async def check() -> None:
        store = open_store()
        await begin(store).append(0, LARGE)
        for path in (tmp_path / "blobs" / "partial").glob("*/*"):
            os.utime(path, (1, 1))
        before_ms = time.time_ns() // 1_000_000 - 60_000
        await begin(store).finish()
        assert [item async for item in store.written_before(before_ms)] == [], "no leftover of a crash"

    asyncio.run(check())


def test_a_file_system_without_links_takes_the_file_itself(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    async def check() -> None:
        store = open_store()
        await begin(store).append(0, LARGE)
        monkeypatch.setattr(os, "link", refuse)
        received = await begin(store).finish()
        assert await begin(store).size_bytes() == 0
        assert await kept(store, received.location) == LARGE

    asyncio.run(check())


def test_an_owner_has_so_much_unfinished_and_no_more(open_store: Open) -> None:
    async def check() -> None:
        store = open_store()
        await begin(store, LARGE[:1000]).append(0, LARGE[:600])
        other = begin(store, max_owner_bytes=1000)
        assert await other.append(0, LARGE[:400]) == 400
        with pytest.raises(BlobError, match="1000 bytes in all") as refused:
            await other.append(400, LARGE[400:401])
        assert refused.value.code == "partial_limit"
        third = begin(store, LARGE[1:], max_owner_bytes=1000)
        with pytest.raises(BlobError):
            await third.append(0, LARGE[1:2])
        assert await begin(store, owner="tenant_b", max_owner_bytes=1000).append(0, LARGE[:1000]) == 1000
        await begin(store, LARGE[:1000]).discard()
        assert await third.append(0, LARGE[1:501]) == 500

    asyncio.run(check())


def test_an_owner_has_so_many_unfinished_and_no_more(open_store: Open) -> None:
    async def check() -> None:
        store = open_store()
        for number in range(MAX_PARTIALS):
            await begin(store, b"%d" % number).append(0, b"%d" % number)
        with pytest.raises(BlobError) as refused:
            await begin(store).append(0, LARGE)
        assert refused.value.code == "partial_limit"
        await begin(store, b"0").discard()
        await begin(store).append(0, LARGE)

    asyncio.run(check())


def test_more_bytes_than_a_blob_may_have_are_refused(open_store: Open) -> None:
    async def check() -> None:
        one = open_store().partial("tenant_a", digest(LARGE), 1000, MAX_BYTES)
        await one.append(0, LARGE[:1000])
        with pytest.raises(BlobError) as refused:
            await one.append(1000, LARGE[1000:1001])
        assert refused.value.code == "blob_too_large"

    asyncio.run(check())


def test_those_to_which_nothing_was_added_for_long_are_forgotten(open_store: Open, tmp_path: Path) -> None:
    async def check() -> None:
        store = open_store()
        await begin(store).append(0, LARGE[:1000])
        for path in (tmp_path / "blobs" / "partial").glob("*/*"):
            os.utime(path, (1, 1))
        await begin(store, owner="tenant_b").append(0, LARGE[:1000])
        assert await store.drop_partials(1000) == 0
        assert await store.drop_partials(2000) == 1
        assert await begin(store).size_bytes() == 0
        assert await begin(store, owner="tenant_b").size_bytes() == 1000

    asyncio.run(check())


def test_unfinished_uploads_are_no_blobs(open_store: Open) -> None:
    async def check() -> None:
        store = open_store()
        await begin(store).append(0, LARGE)
        assert [item async for item in store.written_before(2**52)] == []

    asyncio.run(check())


APPENDING = """
import asyncio, hashlib, os, random, signal, sys
from pathlib import Path
from rgrid_server.blobs.base import BehindPartial
from rgrid_server.blobs.directory import DirectoryBlobStore

data = random.Random(1).randbytes(300_000)
chance = random.Random(int(sys.argv[2]))

async def bring():
    sha256 = hashlib.sha256(data).hexdigest()
    one = DirectoryBlobStore(Path(sys.argv[1])).partial("tenant_a", sha256, 1 << 30, 1 << 30)
    print("ready", flush=True)
    sys.stdin.readline()
    here = 0
    while here < len(data):
        here = await one.append(here, data[here : here + chance.randrange(1, 5000)])
        if sys.argv[3] == "killed" and here > 100_000:
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(bring())
"""


def test_processes_that_bring_the_same_bytes_at_once_make_one_whole(open_store: Open, tmp_path: Path) -> None:
    endings = ["killed", "whole", "killed", "whole"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", APPENDING, str(tmp_path / "blobs"), str(number), ending],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number, ending in enumerate(endings)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    codes = [process.wait(60) for process in processes]
    for process in processes:
        process.communicate()
    assert codes == [-signal.SIGKILL, 0, -signal.SIGKILL, 0]

    async def check() -> None:
        store = open_store()
        assert await begin(store).size_bytes() == len(LARGE)
        assert await kept(store, (await begin(store).finish()).location) == LARGE

    asyncio.run(check())
