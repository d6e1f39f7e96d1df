"""Uploads in parts, and downloads that go on: whatever is cut, all arrives and little is sent twice."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid import calls, patience, transfers
from rgrid.arriving import KEEP_FROM_BYTES, AtomicFile, Told
from rgrid.exceptions import (
    ConfigurationError,
    Conflict,
    InvalidRequest,
    NotFound,
    RGridError,
    ServerUnreachable,
    TooLarge,
)
from rgrid.parts import PART_BYTES, PART_VARIABLE, acarry, carry, next_part, part_bytes, upload_steps
from rgrid.transport.spans import FileSpan

CUT = ServerUnreachable("the connection broke")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two tries."""
    monkeypatch.setattr(patience, "MAX_DELAY_SECONDS", 0.0)


@given(st.integers(0, 100), st.integers(0, 120), st.integers(1, 50))
def test_a_part_is_what_comes_next_and_the_last_one_says_so(size: int, offset: int, most: int) -> None:
    part = next_part(size, offset, most)
    assert part.start == min(offset, size)
    assert 0 <= part.length <= most
    assert part.is_last == (part.start + part.length == size)
    assert part.length > 0 or part.is_last, "each step comes nearer to the end"


class PartsServer:
    """Keeps parts as the server does, and cuts each call as it is told.

    Args:
        data: the file.
        cuts: of each call how many bytes arrive before it is cut; None for all, and the answer too.
        there: what was there before.
    """

    def __init__(self, data: bytes, cuts: list[int | None], there: bytes = b"") -> None:
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.there = bytearray(there)
        self.is_blob = False
        self.sent_bytes = 0
        self.lost_bytes = 0
        self._cuts = cuts

    def send(self, call: calls.Call[Any]) -> tuple[int, bool]:
        """Take a call."""
        cut = self._cuts.pop(0) if self._cuts else None
        if call.method == "PATCH":
            assert call.file is not None
            assert not call.is_repeatable
            with FileSpan(call.file, call.span) as file:
                body = file.read()
            self._append(int(call.headers["Upload-Offset"]), body, cut)
            if cut is None and call.headers["Upload-Complete"] == "?1":
                self._finish()
        if cut is not None:
            raise CUT
        return len(self.there), self.is_blob

    def _append(self, offset: int, body: bytes, cut: int | None) -> None:
        if offset > len(self.there):
            raise Conflict("not there", status=409, code="upload_offset_mismatch")
        arrived = body if cut is None else body[:cut]
        self.sent_bytes += len(body)
        self.lost_bytes += len(body) - len(arrived)
        self.there += arrived[len(self.there) - offset :]

    def _finish(self) -> None:
        if hashlib.sha256(self.there).hexdigest() != self.sha256:
            self.there.clear()
            raise InvalidRequest("other bytes", status=400, code="hash_mismatch")
        self.is_blob = True


def upload(server: PartsServer, path: Path, most: int, *, awaited: bool = False) -> list[int]:
    """Upload a file; returns what was told of its progress."""
    moved: list[int] = []
    steps = upload_steps(server.sha256, path, path.stat().st_size, most, moved.append)
    if awaited:

        async def send(call: calls.Call[Any]) -> Any:
            return server.send(call)

        asyncio.run(acarry(steps, send))
    else:
        carry(steps, server.send)
    return moved


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of generated cases stand."""
    return tmp_path_factory.mktemp("parts")


@given(
    data=st.binary(max_size=200),
    most=st.integers(1, 80),
    cuts=st.lists(st.none() | st.integers(0, 100), max_size=12),
    known=st.integers(0, 200),
    awaited=st.booleans(),
)
def test_whatever_is_cut_all_arrives_and_only_what_was_lost_is_sent_again(
    place: Path, data: bytes, most: int, cuts: list[int | None], known: int, awaited: bool
) -> None:
    path = place / "file"
    path.write_bytes(data)
    server = PartsServer(data, list(cuts), there=data[:known])
    moved = upload(server, path, most, awaited=awaited)
    assert server.is_blob
    assert bytes(server.there) == data
    assert sum(moved) == len(data)
    assert server.sent_bytes - server.lost_bytes == len(data) - len(data[:known])


@given(data=st.binary(min_size=1, max_size=100), other=st.binary(max_size=120), most=st.integers(1, 50))
def test_what_was_there_of_another_file_is_replaced(
    place: Path, data: bytes, other: bytes, most: int
) -> None:
    path = place / "file"
    path.write_bytes(data)
    server = PartsServer(data, [], there=other)
    assert sum(upload(server, path, most)) == len(data)
    assert server.is_blob


def test_a_file_that_changes_meanwhile_is_refused_after_one_more_try(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"other")
    server = PartsServer(b"bytes", [])
    with pytest.raises(InvalidRequest):
        upload(server, path, 3)
    assert server.sent_bytes == 5


def test_a_server_of_before_gets_the_file_whole(tmp_path: Path) -> None:
    path, sent = tmp_path / "file", []
    path.write_bytes(b"bytes")

    def send(call: calls.Call[Any]) -> Any:
        sent.append((call.method, call.path))
        if call.path.endswith("/upload"):
            raise NotFound("Not Found", status=404)

    moved: list[int] = []
    carry(upload_steps("a" * 64, path, 5, 2, moved.append), send)
    assert sent == [("GET", f"/blobs/{'a' * 64}/upload"), ("PUT", f"/blobs/{'a' * 64}")]
    assert sum(moved) == 5


def test_what_does_not_pass_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"bytes")

    def send(call: calls.Call[Any]) -> Any:
        raise TooLarge("too much", status=413, code="partial_limit")

    with pytest.raises(TooLarge):
        carry(upload_steps("a" * 64, path, 5, 2, lambda _moved: None), send)


def test_a_server_that_stays_away_is_borne_for_a_while_only(tmp_path: Path) -> None:
    path, tries = tmp_path / "file", []
    path.write_bytes(b"bytes")

    def send(call: calls.Call[Any]) -> Any:
        tries.append(call)
        raise CUT

    with pytest.raises(ServerUnreachable):
        carry(upload_steps("a" * 64, path, 5, 2, lambda _moved: None), send)
    assert len(tries) == patience.MAX_FAILURES + 1


def test_the_size_of_a_part_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PART_VARIABLE, raising=False)
    assert part_bytes() == PART_BYTES
    monkeypatch.setenv(PART_VARIABLE, "1000")
    assert part_bytes() == 1000
    for wrong in ("0", "-1", "64M"):
        monkeypatch.setenv(PART_VARIABLE, wrong)
        with pytest.raises(ConfigurationError, match=PART_VARIABLE):
            part_bytes()


class Downloads:
    """A transport whose fetches are cut as it is told; it counts the bytes that it gives.

    Args:
        data: the file.
        cuts: of each fetch how many bytes come before it is cut.
        failure: what a cut is.
    """

    def __init__(self, data: bytes, cuts: list[int], failure: BaseException = CUT) -> None:
        self.data = data
        self.cuts = cuts
        self.given_bytes = 0
        self._failure = failure

    def stream(self, call: calls.Call[Any]) -> Iterator[bytes]:
        """The bytes behind the offset that is asked for."""
        assert call.headers.get("Range", "bytes=0-") == f"bytes={call.start}-"
        rest = self.data[call.start :]
        end = self.cuts.pop(0) if self.cuts else len(rest)
        size = max(7, len(self.data) // 50)
        for start in range(0, min(end, len(rest)), size):
            chunk = rest[start : min(start + size, end)]
            self.given_bytes += len(chunk)
            yield chunk
        if end < len(rest):
            raise self._failure

    def send(self, call: calls.Call[Any]) -> Any:
        """Nothing else is asked for."""
        raise AssertionError(call.path)

    def close(self) -> None:
        """Nothing is open."""


class Moved:
    """Sums what it is told."""

    def __init__(self) -> None:
        self.bytes = 0

    def on_start(self, total_bytes: int) -> None:
        """Nothing."""

    def on_advance(self, moved_bytes: int) -> None:
        """Add."""
        self.bytes += moved_bytes

    def on_end(self) -> None:
        """Nothing."""


def fetch(transport: Downloads, target: Path, size_bytes: int | None, sha256: str | None = None) -> int:
    """Fetch the file; returns what was told of its progress."""
    moved = Moved()
    told = hashlib.sha256(transport.data).hexdigest() if sha256 is None else sha256
    with AtomicFile(target, told, 0o644, size_bytes) as file:
        transfers.fetch(transport, file, lambda start: calls.get_blob(told, start), Told(file, moved))
    return moved.bytes


@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(1, 60), max_size=6))
def test_a_download_asks_for_what_is_missing_only(place: Path, data: bytes, cuts: list[int]) -> None:
    transport = Downloads(data, list(cuts))
    assert fetch(transport, place / "out", len(data)) == len(data)
    assert (place / "out").read_bytes() == data
    assert transport.given_bytes == len(data)
    assert [path.name for path in place.iterdir() if path.name.endswith(".part")] == []


LARGE = bytes(range(256)) * (KEEP_FROM_BYTES // 128)


@pytest.mark.parametrize("failure", [CUT, KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_has_come_of_a_large_file_stays_for_the_next_call(
    tmp_path: Path, failure: BaseException
) -> None:
    first = Downloads(LARGE, [KEEP_FROM_BYTES + 100, 0, 0, 0], failure)
    with pytest.raises(type(failure)):
        fetch(first, tmp_path / "out", len(LARGE))
    (part,) = tmp_path.iterdir()
    assert part.read_bytes() == LARGE[: first.given_bytes]
    second = Downloads(LARGE, [])
    assert fetch(second, tmp_path / "out", len(LARGE)) == len(LARGE)
    assert second.given_bytes == len(LARGE) - first.given_bytes
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("cut", "failure", "size_bytes"),
    [
        (KEEP_FROM_BYTES - 1, CUT, len(LARGE)),
        (KEEP_FROM_BYTES + 1, NotFound("it is gone", status=404), len(LARGE)),
        (KEEP_FROM_BYTES + 1, ConfigurationError("the disk is full"), len(LARGE)),
        (KEEP_FROM_BYTES + 1, CUT, None),
    ],
)
def test_nothing_stays_of_what_is_little_or_not_to_be_gone_on_with(
    tmp_path: Path, cut: int, failure: RGridError, size_bytes: int | None
) -> None:
    with pytest.raises(type(failure)):
        fetch(Downloads(LARGE, [cut, 0, 0, 0], failure), tmp_path / "out", size_bytes)
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_of_a_file_whose_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RGridError, match="other bytes"):
        fetch(Downloads(LARGE, []), tmp_path / "out", len(LARGE), "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_part_is_taken_without_asking(tmp_path: Path) -> None:
    sha256 = hashlib.sha256(LARGE).hexdigest()
    (tmp_path / f".out.{sha256[:16]}.part").write_bytes(LARGE)
    transport = Downloads(LARGE, [])
    assert fetch(transport, tmp_path / "out", len(LARGE)) == len(LARGE)
    assert transport.given_bytes == 0
    assert (tmp_path / "out").read_bytes() == LARGE


@pytest.mark.parametrize("there", [LARGE + b"more", bytes(len(LARGE))])
def test_a_part_that_cannot_be_one_of_this_file_is_begun_anew(tmp_path: Path, there: bytes) -> None:
    sha256 = hashlib.sha256(LARGE).hexdigest()
    (tmp_path / f".out.{sha256[:16]}.part").write_bytes(there)
    assert fetch(Downloads(LARGE, []), tmp_path / "out", len(LARGE)) == len(LARGE)
    assert (tmp_path / "out").read_bytes() == LARGE


def test_two_downloads_of_one_file_to_one_place_do_not_share_a_part(tmp_path: Path) -> None:
    sha256 = hashlib.sha256(LARGE).hexdigest()
    with AtomicFile(tmp_path / "out", sha256, 0o644, len(LARGE)) as first:
        first.write(LARGE[:100])
        fetch(Downloads(LARGE, []), tmp_path / "out", len(LARGE))
        first.write(LARGE[100:])
    assert (tmp_path / "out").read_bytes() == LARGE
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_name_as_long_as_names_may_be_has_a_part_beside_it(tmp_path: Path) -> None:
    name = "é" * 127
    fetch(Downloads(b"bytes", []), tmp_path / name, 5)
    assert (tmp_path / name).read_bytes() == b"bytes"
