"""From what a script prints to log entries: lines, and the parts of lines that it leaves unfinished."""

from __future__ import annotations

import asyncio
import base64
import codecs
import os
from collections.abc import Callable, Collection

from rgrid_server.domain.attempts import OUTPUT_HEAD_CHARS, LogChunk, LogEntry, LogFlags, Stream
from rgrid_server.runner.masking import Masker

READ_BYTES = 256 * 1024
MAX_ENTRY_BYTES = 64 * 1024
PARTIAL_AFTER_SECONDS = 0.2
"""So long an unfinished line is held at least: unbuffered, print() writes a line and its end apart."""
MAX_HELD_BYTES = 4 * 1024 * 1024
"""So much may wait to be sent; beyond it the script's own writes wait."""
ENTRY_OVERHEAD_BYTES = 32
MAX_PIPE_BYTES = 1024 * 1024
"""What a pipe holds at most (/proc/sys/fs/pipe-max-size)."""


class LineSplitter:
    """Splits one stream of bytes into entries; pure.

    An entry ends at a newline, at MAX_ENTRY_BYTES, or when :meth:`flush` is called; never inside a UTF-8
    character that is still to be completed, unless the stream ends there.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._held = bytearray()
        self._line = 0

    @property
    def held_line(self) -> int | None:
        """Which line is held unfinished, by a number that no other one has; None where none is."""
        return self._line if self._held else None

    def feed(self, data: bytes, timestamp_ms: int) -> list[LogEntry]:
        """Add bytes; returns the entries that they complete."""
        entries: list[LogEntry] = []
        self._held += data
        start = 0
        while (end := self._held.find(b"\n", start)) >= 0:
            entries.extend(self._pieces(bytes(self._held[start:end]), timestamp_ms, ends_line=True))
            start = end + 1
            self._line += 1
        del self._held[:start]
        if len(self._held) > MAX_ENTRY_BYTES:
            entries.extend(self.flush(timestamp_ms))
        return entries

    def flush(self, timestamp_ms: int, *, at_end: bool = False) -> list[LogEntry]:
        """The unfinished line as far as it goes."""
        keep = 0 if at_end else _incomplete_tail(self._held)
        ready = bytes(self._held[: len(self._held) - keep])
        self._line += 1
        del self._held[: len(ready)]
        return self._pieces(ready, timestamp_ms, ends_line=False) if ready else []

    def _pieces(self, line: bytes, timestamp_ms: int, *, ends_line: bool) -> list[LogEntry]:
        pieces: list[bytes] = []
        while len(line) > MAX_ENTRY_BYTES:
            cut = MAX_ENTRY_BYTES - _incomplete_tail(line[:MAX_ENTRY_BYTES])
            pieces.append(line[:cut])
            line = line[cut:]
        pieces.append(line)
        last = len(pieces) - 1
        return [
            _entry(self._stream, piece, timestamp_ms, newline=ends_line and index == last)
            for index, piece in enumerate(pieces)
        ]


class AttemptLog:
    """Both streams of an attempt: read from pipes, numbered in order of arrival, held until they are sent."""

    def __init__(
        self,
        first_sequence: int,
        limit_bytes: int,
        on_entries: Callable[[], None],
        now_ms: Callable[[], int],
        secrets: Collection[str] = (),
    ) -> None:
        self.is_truncated = False
        self._next_sequence = first_sequence
        self._first_sequence = first_sequence
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0
        self._on_entries = on_entries
        self._now_ms = now_ms
        self._pending: list[LogEntry] = []
        self._pending_bytes = 0
        self._heads = {Stream.STDOUT: _Head(), Stream.STDERR: _Head()}
        self._splitters = {stream: LineSplitter(stream) for stream in Stream}
        self._maskers = {stream: Masker(secrets) for stream in Stream}
        self._open: dict[int, Stream] = {}
        self._is_paused = False
        self._partial_timer: asyncio.TimerHandle | None = None

    def read_from(self, descriptor: int, stream: Stream) -> None:
        """Read a pipe until its end."""
        os.set_blocking(descriptor, False)
        self._open[descriptor] = stream
        asyncio.get_running_loop().add_reader(descriptor, self._readable, descriptor)

    def finish(self) -> None:
        """Take what the pipes still hold, and close them; whoever wrote to them has ended.

        What is left is no more than pipes hold, so it is taken also while more than enough waits to be sent.
        """
        for descriptor in list(self._open):
            left = MAX_PIPE_BYTES
            while left > 0 and (data := self._read(descriptor)):
                self._keep(descriptor, data)
                left -= len(data)
            self._end(descriptor)

    def say(self, line: str) -> None:
        """Add a line of the grid's own, such as of a build; no stream of the script's has it."""
        if self.is_truncated:
            return
        masker = self._maskers[Stream.SYSTEM]
        masked = masker.feed(f"{line}\n".encode(errors="replace")) + masker.end()
        self._add(self._splitters[Stream.SYSTEM].feed(masked, self._now_ms()))

    def take(self, max_bytes: int) -> LogChunk | None:
        """The entries that wait, up to a size; the script goes on printing as they leave."""
        if not self._pending:
            return None
        size = count = 0
        for entry in self._pending:
            size += len(entry.text) + ENTRY_OVERHEAD_BYTES
            count += 1
            if size >= max_bytes:
                break
        entries, self._pending = self._pending[:count], self._pending[count:]
        chunk = LogChunk(self._first_sequence, entries)
        self._first_sequence += count
        self._pending_bytes -= size
        if self._is_paused and self._pending_bytes < MAX_HELD_BYTES // 2:
            self._resume()
        return chunk

    @property
    def pending_bytes(self) -> int:
        """How much waits to be sent."""
        return self._pending_bytes

    @property
    def last_sequence(self) -> int:
        """The number of the newest entry."""
        return self._next_sequence - 1

    def head(self, stream: Stream) -> str:
        """The first characters of a stream, as the execution itself shows them."""
        return self._heads[stream].text

    @property
    def has_more_than_heads(self) -> bool:
        """Whether either stream is longer than its head, or the log was cut."""
        return self.is_truncated or any(head.is_cut for head in self._heads.values())

    def _readable(self, descriptor: int) -> None:
        data = self._read(descriptor)
        if data:
            self._keep(descriptor, data)
        elif data is not None:
            self._end(descriptor)

    @staticmethod
    def _read(descriptor: int) -> bytes | None:
        """What there is; nothing at the end, None when there is nothing just now."""
        try:
            return os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _keep(self, descriptor: int, data: bytes) -> None:
        stream = self._open[descriptor]
        self._keep_masked(stream, self._maskers[stream].feed(data))

    def _keep_masked(self, stream: Stream, data: bytes) -> None:
        self._heads[stream].feed(data)
        if self.is_truncated:
            return
        room = self._limit_bytes - self._taken_bytes
        self._taken_bytes += len(data)
        self._add(self._splitters[stream].feed(data[:room], self._now_ms()))
        if len(data) > room:
            self._truncate()
        else:
            self._time_partials()

    def _time_partials(self) -> None:
        """See to it that a line that stays unfinished is sent as far as it goes."""
        held = {stream: item.held_line for stream, item in self._splitters.items()}
        if self._partial_timer is None and any(line is not None for line in held.values()):
            loop = asyncio.get_running_loop()
            self._partial_timer = loop.call_later(PARTIAL_AFTER_SECONDS, self._flush_partials, held)

    def _flush_partials(self, held: dict[Stream, int | None]) -> None:
        self._partial_timer = None
        for stream, splitter in self._splitters.items():
            # a line that was begun after the timer has time until the next one
            if splitter.held_line is not None and splitter.held_line == held[stream]:
                self._add(splitter.flush(self._now_ms()))
        self._time_partials()

    def give_up(self, why: str) -> None:
        """Keep nothing more of it, nor what waits to be sent; the script goes on."""
        self._first_sequence += len(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        # said again each time: the word about it may have been lost as well
        self._end_with(f"[rgrid: {why}; the rest of the log is not kept]")
        if self._is_paused:
            self._resume()

    def _truncate(self) -> None:
        for splitter in self._splitters.values():
            self._add(splitter.flush(self._now_ms()))
        self._end_with(f"[rgrid: the log is longer than {self._limit_bytes} bytes; the rest is not kept]")

    def _end_with(self, text: str) -> None:
        self.is_truncated = True
        self._add([LogEntry(Stream.STDERR.number, self._now_ms(), text, int(LogFlags.NEWLINE))])

    def _add(self, entries: list[LogEntry]) -> None:
        if not entries:
            return
        self._pending.extend(entries)
        self._next_sequence += len(entries)
        self._pending_bytes += sum(len(entry.text) + ENTRY_OVERHEAD_BYTES for entry in entries)
        if self._pending_bytes > MAX_HELD_BYTES and not self._is_paused:
            self._is_paused = True
            for descriptor in self._open:
                asyncio.get_running_loop().remove_reader(descriptor)
        self._on_entries()

    def _resume(self) -> None:
        self._is_paused = False
        for descriptor in self._open:
            asyncio.get_running_loop().add_reader(descriptor, self._readable, descriptor)

    def _end(self, descriptor: int) -> None:
        stream = self._open.pop(descriptor)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        self._keep_masked(stream, self._maskers[stream].end())
        self._heads[stream].end()
        if not self.is_truncated:
            self._add(self._splitters[stream].flush(self._now_ms(), at_end=True))
        if not self._open and self._partial_timer is not None:
            self._partial_timer.cancel()
            self._partial_timer = None


class _Head:
    """The first characters of a stream."""

    def __init__(self) -> None:
        self.is_cut = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._parts: list[str] = []
        self._chars = 0

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def feed(self, data: bytes) -> None:
        if not self.is_cut:
            self._keep(self._decoder.decode(data))

    def end(self) -> None:
        if not self.is_cut:
            self._keep(self._decoder.decode(b"", final=True))

    def _keep(self, text: str) -> None:
        room = OUTPUT_HEAD_CHARS - self._chars
        if len(text) > room:
            self.is_cut = True
            text = text[:room]
        self._parts.append(text)
        self._chars += len(text)


def _entry(stream: Stream, data: bytes, timestamp_ms: int, *, newline: bool) -> LogEntry:
    flags = LogFlags.NEWLINE if newline else LogFlags.NONE
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = base64.b64encode(data).decode()
        flags |= LogFlags.BASE64
    return LogEntry(stream.number, timestamp_ms, text, int(flags))


def _incomplete_tail(data: bytes | bytearray) -> int:
    """How many bytes at the end begin a UTF-8 character that is not whole (RFC 3629)."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if length > back else 0
    return 0
