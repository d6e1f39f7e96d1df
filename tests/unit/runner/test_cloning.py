"""Copies that a file system makes without copying, and those that it cannot make so."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from pathlib import Path

import pytest

from rgrid_server.runner.cloning import COPY_CHUNK_BYTES, FICLONE, copy_file
from rgrid_server.runner.workspace import Workspace


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.write_bytes(b"as it was\n" * 100_000)
    return made


@pytest.fixture
def cloned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what a file system that clones has cloned."""
    sizes: list[int] = []

    def clone(target: int, request: int, original: int) -> int:
        assert request == FICLONE
        size_bytes = os.fstat(original).st_size
        os.pwrite(target, os.pread(original, size_bytes, 0), 0)
        sizes.append(size_bytes)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", clone)
    return sizes


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much was copied, piece by piece."""
    pieces: list[int] = []
    real = os.sendfile

    def send(target: int, original: int, offset: int, count: int) -> int:
        pieces.append(real(target, original, offset, count))
        return pieces[-1]

    monkeypatch.setattr(os, "sendfile", send)
    return pieces


def test_a_file_system_that_clones_is_asked_to_and_nothing_is_copied(
    source: Path, tmp_path: Path, cloned: list[int], copied: list[int]
) -> None:
    assert copy_file(source, tmp_path / "target") is True
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert (cloned, copied) == ([source.stat().st_size], [])


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.EINVAL])
def test_where_it_cannot_the_bytes_are_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: list[int], refusal: int
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert copy_file(source, tmp_path / "target") is False
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert sum(copied) == source.stat().st_size


def test_a_file_of_several_pieces_is_copied_whole(tmp_path: Path) -> None:
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(COPY_CHUNK_BYTES + 1)
        file.seek(COPY_CHUNK_BYTES)
        file.write(b"!")
    copy_file(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes()[-2:] == b"\0!"
    assert (tmp_path / "target").stat().st_size == COPY_CHUNK_BYTES + 1


def test_what_stood_there_before_is_replaced_to_its_end(source: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"x" * (source.stat().st_size + 1))
    copy_file(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_source_that_is_gone_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        copy_file(tmp_path / "none", tmp_path / "target")


@pytest.mark.parametrize("way", ["write", "append", "truncate", "map", "chmod"])
def test_whatever_a_script_does_to_its_input_the_kept_file_stays_as_it_is(
    source: Path, tmp_path: Path, way: str
) -> None:
    before = source.read_bytes()
    workspace = Workspace(tmp_path / "attempt")
    workspace.create()
    workspace.put("in.txt", source, sha256=hashlib.sha256(before).hexdigest())
    mine = workspace.work / "in.txt"
    if way == "chmod":
        mine.chmod(0o777)
    elif way == "truncate":
        os.truncate(mine, 0)
    elif way == "map":
        write_through_a_map(mine)
    else:
        with mine.open({"write": "r+b", "append": "ab"}[way]) as file:
            file.write(b"changed")
    assert source.read_bytes() == before
    assert source.stat().st_ino != mine.stat().st_ino
    assert source.stat().st_mode & 0o777 != 0o777


def write_through_a_map(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 7) as mapped:
        mapped[:] = b"changed"
