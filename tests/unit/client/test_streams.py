"""Streams of a batch, in pieces of any size."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid.exceptions import ResponseInvalid, ServerUnreachable
from rgrid.patience import Patience
from rgrid.streams import OutputFiles, ResultLines, TarMember, TarStream, folder_by_input, no_folder
from rgrid_server.domain import archive

FILES = {
    "a.txt": b"a" * 700,
    "empty": b"",
    "block": b"b" * 512,
    "ünï/" + "x" * 120 + "/deep": b"c",
}


def told(position: int, files: dict[str, bytes], **more: object) -> bytes:
    """A result as the server writes it."""
    artifacts = [
        {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "mode": 0o600}
        for name, data in files.items()
    ]
    wire = {"position": position, "execution_id": f"exec_{position}", "status": "completed"}
    return json.dumps({**wire, "artifacts": artifacts, **more}).encode()


def member(name: str, data: bytes) -> bytes:
    """A member with its bytes."""
    head = archive.member_head(name, size_bytes=len(data), mode=0o644, modified_at_ms=1_700_000_000_000)
    return head + data + archive.padding(len(data))


def archive_of(*results: tuple[int, dict[str, bytes]]) -> bytes:
    """A whole stream of results, with a pause between each two."""
    parts: list[bytes] = []
    for position, files in results:
        folder = archive.folder_of(position, "in/put")
        parts.append(member(f"{folder}.json", told(position, files, input_file=f"in/{position}")))
        parts += [member(f"{folder}/{name}", data) for name, data in files.items()]
        parts.append(archive.keep_alive())
    return b"".join([*parts, archive.END])


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Bytes in pieces of some sizes, over and over."""
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    return pieces


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=5))
def test_an_archive_is_read_alike_in_pieces_of_any_size(sizes: list[int]) -> None:
    stream = TarStream()
    found: dict[str, bytes] = {}
    name = ""
    for piece in cut(archive_of((1, FILES)), sizes):
        for part in stream.feed(piece):
            if isinstance(part, TarMember):
                name = part.name
                found[name] = b""
            else:
                found[name] += part
    assert {name.partition("/")[2]: data for name, data in found.items() if "/" in name} == FILES


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_lines_are_read_alike_in_pieces_of_any_size(sizes: list[int]) -> None:
    lines = ResultLines()
    content = b"\n" + told(1, {}) + b"\n\n" + told(2, FILES) + b"\n" + told(3, {})
    found = [result.position for piece in cut(content, sizes) for result in lines.feed(piece)]
    # the third has no end yet
    assert found == [1, 2]


def test_each_result_comes_when_its_files_are_written(tmp_path: Path) -> None:
    files = OutputFiles(tmp_path, folder_by_input)
    seen: list[int] = []
    for piece in cut(archive_of((1, FILES), (2, {}), (3, {"z": b"z"})), [100]):
        for result in files.feed(piece):
            seen.append(result.position)
            for item in result.artifacts:
                path = tmp_path / f"in/{result.position}" / item.name
                assert hashlib.sha256(path.read_bytes()).hexdigest() == item.sha256
                assert path.stat().st_mode & 0o777 == 0o600
    assert seen == [1, 2, 3]


def test_a_stream_that_is_cut_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    whole = archive_of((1, {"first": b"1" * 5000}), (2, {"second": b"2" * 5000}))
    files = OutputFiles(tmp_path, no_folder)
    at = whole.index(b"2222") + 100
    assert [result.position for result in files.feed(whole[:at])] == [1]
    files.abandon()
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_file_with_other_bytes_than_were_told_is_refused(tmp_path: Path) -> None:
    data = archive_of((1, {"x": b"right"})).replace(b"right", b"wrong")
    with pytest.raises(ResponseInvalid, match="other bytes"):
        list(OutputFiles(tmp_path, no_folder).feed(data))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_no_file_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(ResponseInvalid):
        list(OutputFiles(tmp_path / "in", folder_by_input).feed(archive_of((1, {name: b"x"}))))
    assert not (tmp_path / "x").exists()


def test_a_member_in_another_ones_place_is_refused(tmp_path: Path) -> None:
    data = member("1.json", told(1, {"a": b"a"})) + member("1/b", b"b")
    with pytest.raises(ResponseInvalid, match="where 'a' belongs"):
        list(OutputFiles(tmp_path, no_folder).feed(data))


@pytest.mark.parametrize("data", [b"<html>" * 200, b"\xff" * 512])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ResponseInvalid, match="cannot be read"):
        list(OutputFiles(tmp_path, no_folder).feed(data))


def test_what_is_no_result_is_refused() -> None:
    with pytest.raises(ResponseInvalid, match="is not a result"):
        list(ResultLines().feed(b"<html>\n"))


def test_folders_are_told_apart_by_their_index_and_hold_no_slash() -> None:
    assert archive.folder_of(3, "a/b\\c\n") == "3-a_b_c_"
    assert archive.folder_of(3, None) == "3"
    assert archive.folder_of(3, "..") == "3-.."
    assert len(archive.folder_of(3, "ü" * 500).encode()) <= archive.MAX_LABEL_BYTES + 2


def test_patience_ends_with_the_failure_and_begins_anew_when_something_comes() -> None:
    patience = Patience(most=2)
    failure = ServerUnreachable("away")
    assert patience.delay_after(failure) <= patience.delay_after(failure)
    patience.renew()
    patience.delay_after(failure)
    patience.delay_after(failure)
    with pytest.raises(ServerUnreachable):
        patience.delay_after(failure)
