"""Streams of a batch, read as their bytes come, whoever carries them: JSON lines, and a tar of outputs."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rgrid.arriving import KEEP_FROM_BYTES, AtomicFile
from rgrid.exceptions import ResponseInvalid
from rgrid.files import target_of
from rgrid.models import BatchResult, ResultFile

BLOCK_BYTES = 512
MAX_HEADER_BYTES = 1024 * 1024

FolderOf = Callable[[BatchResult], str]


def folder_by_input(result: BatchResult) -> str:
    """What a result's folder is called by default: as its input, or else as its execution."""
    return result.input_file or result.execution_id


def no_folder(_result: BatchResult) -> str:
    """All files in one directory."""
    return ""


@dataclass(frozen=True, slots=True)
class Rest:
    """What a stream was cut in: a result, and its files that are not written whole, with their places."""

    result: BatchResult
    files: list[tuple[ResultFile, Path]]


class Sink(Protocol):
    """Takes a stream's bytes, and gives the results that are whole with them."""

    def feed(self, data: bytes) -> Iterator[BatchResult]:
        """The results that these bytes make whole."""

    def rest(self) -> Rest | None:
        """What of the result in which the stream was cut is worth fetching by itself."""

    def abandon(self) -> None:
        """The stream was cut, or has ended: leave nothing behind but what can be gone on with."""


class ResultLines:
    """Takes JSON lines in pieces of any size, and gives the results that are whole."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> Iterator[BatchResult]:
        """The results whose lines end in these bytes."""
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield _result(line)

    def rest(self) -> Rest | None:
        """Nothing: a line is short."""
        return None

    def abandon(self) -> None:
        """Nothing: a line that is not whole was not given."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar stream, whose bytes follow."""

    name: str
    size_bytes: int


class TarStream:
    """Takes a POSIX tar stream in pieces of any size; gives each member, and then its bytes as they come.

    The standard library's own reader asks for bytes and blocks; this one is given them.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._left_bytes = 0
        self._padding_bytes = 0
        self._extended: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[TarMember | bytes]:
        """What these bytes bring."""
        self._held += data
        while self._held:
            held_bytes = len(self._held)
            if self._left_bytes:
                part = bytes(self._held[: self._left_bytes])
                del self._held[: len(part)]
                self._left_bytes -= len(part)
                yield part
            elif self._padding_bytes:
                skipped = min(self._padding_bytes, held_bytes)
                del self._held[:skipped]
                self._padding_bytes -= skipped
            elif (member := self._head()) is not None:
                yield member
            elif len(self._held) == held_bytes:
                # the rest of a head is still to come
                return

    def _head(self) -> TarMember | None:
        """The member that begins here; None where its head is not whole, or is about another one."""
        if len(self._held) < BLOCK_BYTES:
            return None
        block = bytes(self._held[:BLOCK_BYTES])
        if not block.strip(b"\0"):
            # the end is two such blocks
            del self._held[:BLOCK_BYTES]
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ResponseInvalid(f"the server's archive cannot be read: {error}") from error
        if info.type in {tarfile.XHDTYPE, tarfile.XGLTYPE}:
            self._take_extended(info)
            return None
        del self._held[:BLOCK_BYTES]
        name = self._extended.get("path", info.name)
        self._left_bytes = int(self._extended.get("size", info.size))
        self._padding_bytes = -self._left_bytes % BLOCK_BYTES
        self._extended = {}
        return TarMember(name, self._left_bytes)

    def _take_extended(self, info: tarfile.TarInfo) -> None:
        if info.size > MAX_HEADER_BYTES:
            raise ResponseInvalid(f"the server's archive has a header of {info.size} bytes")
        end = BLOCK_BYTES + info.size
        if len(self._held) < end + -info.size % BLOCK_BYTES:
            return
        if info.type == tarfile.XHDTYPE:
            self._extended = _records(bytes(self._held[BLOCK_BYTES:end]))
        del self._held[:end]
        self._padding_bytes = -info.size % BLOCK_BYTES


class OutputFiles:
    """Takes a batch's tar stream, and writes each file under its folder, whole or not at all.

    Args:
        output_dir: where the folders go.
        folder_of: what a result's folder is called; nothing for none.
    """

    def __init__(self, output_dir: Path, folder_of: FolderOf) -> None:
        self._output_dir = output_dir
        self._folder_of = folder_of
        self._tar = TarStream()
        self._told = bytearray()
        self._result: BatchResult | None = None
        self._written = 0
        self._file: AtomicFile | None = None
        self._left_bytes = 0
        self._known_bytes = 0
        self.moved_bytes = 0

    def feed(self, data: bytes) -> Iterator[BatchResult]:
        """The results all of whose files are written with these bytes."""
        for part in self._tar.feed(data):
            if isinstance(part, TarMember):
                self._begin(part)
            else:
                self._take(part)
            if self._left_bytes == 0:
                yield from self._end_member()

    def rest(self) -> Rest | None:
        """The result's files from the one that was cut on, where much of that is here."""
        result, file = self._result, self._file
        if result is None or file is None or file.received_bytes < KEEP_FROM_BYTES:
            return None
        left = result.artifacts[self._written :]
        return Rest(result, [(item, self._target(result, item)) for item in left])

    def abandon(self) -> None:
        """The stream was cut: leave no part of a file behind, but of a large one what can be gone on with."""
        if self._file is not None:
            self._file.__exit__(ResponseInvalid, None, None)
            self._file = None

    def _begin(self, member: TarMember) -> None:
        self._left_bytes = member.size_bytes
        if self._result is None:
            self._told.clear()
            return
        expected = self._result.artifacts[self._written]
        if not member.name.endswith(f"/{expected.name}"):
            raise ResponseInvalid(f"the server's archive has {member.name!r} where {expected.name!r} belongs")
        target = self._target(self._result, expected)
        self._file = AtomicFile(target, expected.sha256, expected.mode, expected.size_bytes)
        self._file.__enter__()
        self._known_bytes = self._file.received_bytes

    def _target(self, result: BatchResult, file: ResultFile) -> Path:
        folder = self._folder_of(result)
        directory = target_of(folder, self._output_dir) if folder else self._output_dir
        return target_of(file.name, directory)

    def _take(self, part: bytes) -> None:
        self._left_bytes -= len(part)
        if self._file is None:
            self._told += part
        else:
            # what an earlier stream has left is not written again
            known_bytes = min(self._known_bytes, len(part))
            self._known_bytes -= known_bytes
            self._file.write(part[known_bytes:])
            self.moved_bytes += len(part)

    def _end_member(self) -> Iterator[BatchResult]:
        if self._result is None:
            self._result = _result(bytes(self._told))
        elif self._file is not None:
            file, self._file = self._file, None
            file.__exit__(None, None, None)
            self._written += 1
        if self._written == len(self._result.artifacts):
            result, self._result, self._written = self._result, None, 0
            yield result


def _result(told: bytes) -> BatchResult:
    try:
        wire: Any = json.loads(told)
        return BatchResult.from_wire(wire)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ResponseInvalid(f"{told[:60]!r} is not a result of a batch") from error


def _records(content: bytes) -> dict[str, str]:
    """The records of a pax header: ``length keyword=value`` and a newline each."""
    found: dict[str, str] = {}
    while content:
        digits, _, _ = content.partition(b" ")
        if not digits.isdigit() or not len(digits) < int(digits) <= len(content):
            raise ResponseInvalid("the server's archive has a header that cannot be read")
        record, content = content[len(digits) + 1 : int(digits) - 1], content[int(digits) :]
        keyword, _, value = record.partition(b"=")
        found[keyword.decode(errors="replace")] = value.decode(errors="surrogateescape")
    return found
