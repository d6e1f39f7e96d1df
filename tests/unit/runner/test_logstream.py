"""From what a script prints to log entries."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.domain.attempts import OUTPUT_HEAD_CHARS, LogEntry, LogFlags, Stream
from rgrid_server.runner import logstream
from rgrid_server.runner.logstream import MAX_ENTRY_BYTES, AttemptLog, LineSplitter


def read_back(entries: list[LogEntry], stream: Stream = Stream.STDOUT) -> bytes:
    """What was printed, from its entries."""
    printed = b""
    for entry in entries:
        if entry.stream == stream.number:
            is_base64 = bool(entry.flags & LogFlags.BASE64)
            printed += base64.b64decode(entry.text) if is_base64 else entry.text.encode()
            printed += b"\n" if entry.flags & LogFlags.NEWLINE else b""
    return printed


@given(st.lists(st.one_of(st.binary(max_size=200), st.text(max_size=50).map(str.encode)), max_size=20))
def test_the_entries_are_what_was_printed_byte_for_byte(parts: list[bytes]) -> None:
    splitter = LineSplitter(Stream.STDOUT)
    entries = [entry for part in parts for entry in splitter.feed(part, 0)]
    assert read_back(entries + splitter.flush(0, at_end=True)) == b"".join(parts)


@given(st.text(min_size=1, max_size=60), st.integers(1, 5))
def test_text_is_never_torn_inside_a_character(text: str, size: int) -> None:
    data = text.encode()
    splitter = LineSplitter(Stream.STDOUT)
    entries: list[LogEntry] = []
    for start in range(0, len(data), size):
        entries += splitter.feed(data[start : start + size], 0)
        entries += splitter.flush(0)
    entries += splitter.flush(0, at_end=True)
    assert not any(entry.flags & LogFlags.BASE64 for entry in entries)
    assert read_back(entries) == data


def test_a_line_is_an_entry_without_its_newline() -> None:
    entries = LineSplitter(Stream.STDERR).feed(b"one\ntwo\n", 7)
    assert entries == [LogEntry(2, 7, "one", 1), LogEntry(2, 7, "two", 1)]


def test_an_empty_line_is_an_entry() -> None:
    assert LineSplitter(Stream.STDOUT).feed(b"\n", 7) == [LogEntry(1, 7, "", 1)]


def test_an_unfinished_line_waits() -> None:
    splitter = LineSplitter(Stream.STDOUT)
    assert splitter.feed(b"half", 7) == []
    assert splitter.held_line is not None


def test_bytes_that_are_not_utf8_travel_as_base64() -> None:
    (entry,) = LineSplitter(Stream.STDOUT).feed(b"caf\xe9\n", 7)
    assert entry == LogEntry(1, 7, base64.b64encode(b"caf\xe9").decode(), 3)


def test_a_line_without_end_is_cut_into_entries_of_bounded_size() -> None:
    splitter = LineSplitter(Stream.STDOUT)
    entries = splitter.feed(b"x" * (3 * MAX_ENTRY_BYTES), 7)
    assert max(len(entry.text) for entry in entries) == MAX_ENTRY_BYTES
    assert not any(entry.flags & LogFlags.NEWLINE for entry in entries)


class Scene:
    """An attempt's log that reads two pipes."""

    def __init__(self, *, first_sequence: int = 1, limit_bytes: int = 2**30) -> None:
        self.wakes = 0
        self.log = AttemptLog(first_sequence, limit_bytes, self._wake, lambda: 1_700_000_000_000)
        self.woken = asyncio.Event()
        self.out = self._pipe(Stream.STDOUT)
        self.err = self._pipe(Stream.STDERR)

    def _wake(self) -> None:
        self.wakes += 1
        self.woken.set()

    def _pipe(self, stream: Stream) -> int:
        read, write = os.pipe()
        self.log.read_from(read, stream)
        return write

    def close(self) -> None:
        os.close(self.out)
        os.close(self.err)

    def end(self) -> list[LogEntry]:
        """Close the script's side, and take all that is left."""
        self.close()
        self.log.finish()
        entries: list[LogEntry] = []
        while (chunk := self.log.take(2**30)) is not None:
            entries += chunk.entries
        return entries


def scene(check: Callable[[Scene], object], *, first_sequence: int = 1, limit_bytes: int = 2**30) -> None:
    async def play() -> None:
        check(Scene(first_sequence=first_sequence, limit_bytes=limit_bytes))

    asyncio.run(play())


def test_what_pipes_still_hold_at_the_end_is_taken() -> None:
    def check(on: Scene) -> None:
        os.write(on.out, b"last words")
        assert read_back(on.end()) == b"last words"

    scene(check)


def test_a_pipe_that_a_stranger_holds_open_does_not_keep_the_log_waiting() -> None:
    async def play() -> None:
        on = Scene()
        stranger = os.dup(on.out)
        os.write(on.out, b"said")
        entries = on.end()
        os.close(stranger)
        assert read_back(entries) == b"said"

    asyncio.run(play())


def test_an_unfinished_line_is_shown_after_a_moment() -> None:
    async def play() -> None:
        on = Scene()
        os.write(on.out, b"working")
        await asyncio.wait_for(on.woken.wait(), 10)
        chunk = on.log.take(2**20)
        on.end()
        assert chunk is not None
        assert chunk.entries[0].text == "working"
        assert chunk.entries[0].flags == LogFlags.NONE

    asyncio.run(play())


def test_a_line_whose_end_follows_soon_stays_one_entry_however_many_came_before() -> None:
    async def play() -> None:
        on = Scene()
        # unbuffered, print() writes a line and its end apart: ever shorter gaps around the timer of the first
        for number in range(40):
            os.write(on.out, b"%d" % number)
            await asyncio.sleep(0.011)
            os.write(on.out, b"\n")
            await asyncio.sleep(0.001)
        assert [entry.text for entry in on.end()] == [str(number) for number in range(40)]

    asyncio.run(play())


def test_entries_are_numbered_on_from_an_earlier_attempts() -> None:
    def check(on: Scene) -> None:
        os.write(on.out, b"a\nb\n")
        on.close()
        on.log.finish()
        first, second = on.log.take(1), on.log.take(1)
        assert first is not None
        assert second is not None
        assert (first.first_sequence, second.first_sequence, on.log.last_sequence) == (41, 42, 42)

    scene(check, first_sequence=41)


def test_beyond_its_limit_one_line_says_so_and_the_rest_is_dropped() -> None:
    def check(on: Scene) -> None:
        os.write(on.out, b"12345\n12345\n12345\n")
        entries = on.end()
        assert read_back(entries) == b"12345\n1234"
        assert read_back(entries, Stream.STDERR).startswith(b"[rgrid: the log is longer than 10 bytes")
        assert on.log.has_more_than_heads

    scene(check, limit_bytes=10)


def test_the_head_goes_on_past_the_logs_limit() -> None:
    def check(on: Scene) -> None:
        os.write(on.out, b"12345678")
        on.end()
        assert on.log.head(Stream.STDOUT) == "12345678"

    scene(check, limit_bytes=3)


@pytest.mark.parametrize(("size", "is_cut"), [(OUTPUT_HEAD_CHARS, False), (OUTPUT_HEAD_CHARS + 1, True)])
def test_the_head_is_the_first_characters(size: int, is_cut: bool) -> None:
    async def play() -> None:
        on = Scene()
        printer = asyncio.create_task(asyncio.to_thread(_write_all, on.out, ("ü" * size).encode()))
        await printer
        on.end()
        assert on.log.head(Stream.STDOUT) == "ü" * OUTPUT_HEAD_CHARS
        assert on.log.has_more_than_heads is is_cut

    asyncio.run(play())


def test_a_script_that_prints_faster_than_is_sent_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logstream, "MAX_HELD_BYTES", 64 * 1024)
    line = b"x" * 1023 + b"\n"

    async def play() -> None:
        on = Scene()
        printing = asyncio.create_task(asyncio.to_thread(_write_all, on.out, line * 4096))
        held_bytes = 0
        taken: list[LogEntry] = []
        while not printing.done():
            await asyncio.wait(
                [asyncio.create_task(on.woken.wait()), printing],
                timeout=10,
                return_when=asyncio.FIRST_COMPLETED,
            )
            on.woken.clear()
            held_bytes = max(held_bytes, on.log.pending_bytes)
            while (chunk := on.log.take(16 * 1024)) is not None:
                taken += chunk.entries
        taken += on.end()
        assert held_bytes < 64 * 1024 + 2 * logstream.READ_BYTES
        assert read_back(taken) == line * 4096

    asyncio.run(play())


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def test_a_log_that_there_is_no_room_for_ends_with_a_word_about_it_under_the_next_number() -> None:
    async def give_up() -> None:
        log = AttemptLog(1, 10_000, lambda: None, lambda: 7)
        read, write = os.pipe()
        log.read_from(read, Stream.STDOUT)
        os.write(write, b"one\ntwo\nthree")
        os.close(write)
        log.finish()
        log.give_up("no room")
        chunk = log.take(10_000)
        assert chunk is not None
        assert chunk.first_sequence == log.last_sequence == 4
        assert [entry.text for entry in chunk.entries] == [
            "[rgrid: no room; the rest of the log is not kept]"
        ]
        assert log.has_more_than_heads
        assert (log.pending_bytes, log.head(Stream.STDOUT)) == (0, "one\ntwo\nthree")

    asyncio.run(give_up())
