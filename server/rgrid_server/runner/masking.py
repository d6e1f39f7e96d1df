"""Secrets in what a script prints: put out of sight before anything of it leaves the runner."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

from rgrid_server.domain.sealing import MIN_CHARS

MASK = b"***"


class Masker:
    """Replaces secrets in a stream of bytes, however it is cut into pieces; pure.

    What may be the beginning of a secret is held back until more has come, or the stream ends.

    >>> masker = Masker(["hunter22"])
    >>> masker.feed(b"it is hunt"), masker.feed(b"er22, she said. h"), masker.end()
    (b'it is ', b'***, she said. ', b'h')
    """

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values for form in _forms(value)}
        # of those that begin at one place the longest is tried first
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        # a lookahead finds those, too, that begin within another
        anyone = b"|".join(map(re.escape, self._forms))
        self._pattern = re.compile(b"(?=(" + anyone + b"))") if self._forms else None
        self._longest = len(self._forms[0]) if self._forms else 0
        self._held = b""
        self._covered = 0
        """So much of what is held belongs to a secret whose mask has been shown."""

    def feed(self, data: bytes) -> bytes:
        """Add bytes; returns what is safe to show."""
        if self._pattern is None:
            return data
        held = self._held + data
        return self._masked(self._pattern, held, self._undecided_from(held))

    def end(self) -> bytes:
        """What was held back: the stream has ended."""
        return b"" if self._pattern is None else self._masked(self._pattern, self._held, len(self._held))

    def _masked(self, pattern: re.Pattern[bytes], data: bytes, until: int) -> bytes:
        """Show the bytes up to a place, and hold the others back."""
        shown = bytearray()
        position = self._covered
        for found in pattern.finditer(data):
            start, end = found.span(1)
            if start >= until:
                break
            if start >= position:
                shown += data[position:start] + MASK
            position = max(position, end)
        if position < until:
            shown += data[position:until]
        self._held = data[until:]
        self._covered = max(0, position - until)
        return bytes(shown)

    def _undecided_from(self, data: bytes) -> int:
        """Where the first secret begins that may go on behind the end of the bytes."""
        for start in range(max(0, len(data) - self._longest + 1), len(data)):
            tail = data[start:]
            if any(len(form) > len(tail) and form.startswith(tail) for form in self._forms):
                return start
        return len(data)


def _forms(value: str) -> Iterable[bytes]:
    """How a secret may be printed: as it is, line by line, as JSON, as Python, or in a URL."""
    texts = {value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe=""), quote_plus(value)}
    texts |= {line.strip() for line in value.splitlines() if len(line.strip()) >= MIN_CHARS}
    return {text.encode(errors="surrogateescape") for text in texts if text}
