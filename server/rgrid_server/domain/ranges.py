"""Which bytes a request asks for by its Range header (RFC 9110, section 14)."""

from __future__ import annotations

import re
from typing import NamedTuple

_ONE_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.ASCII | re.IGNORECASE)


class Span(NamedTuple):
    """Bytes from ``start`` up to and without ``end``."""

    start: int
    end: int


class Unsatisfiable(Exception):
    """What is asked for lies beyond the end."""


def wanted_span(asked: str | None, if_range: str | None, etag: str, size_bytes: int) -> Span | None:
    """The bytes that are asked for; None for all of them.

    All are answered too where the header cannot be read, names several ranges, or is meant for other bytes
    (``if_range`` is another entity tag): whoever asks sees by the status what it got.

    Raises:
        Unsatisfiable: none of them are there.

    >>> wanted_span("bytes=2-", None, '"x"', 10)
    Span(start=2, end=10)
    >>> wanted_span("bytes=-3", '"x"', '"x"', 10)
    Span(start=7, end=10)
    """
    found = _ONE_RANGE.fullmatch(asked.strip()) if asked is not None else None
    if found is None or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = found.groups()
    if not first:
        if not last:
            return None
        if int(last) == 0 or size_bytes == 0:
            raise Unsatisfiable
        return Span(max(0, size_bytes - int(last)), size_bytes)
    if last and int(last) < int(first):
        return None
    if int(first) >= size_bytes:
        raise Unsatisfiable
    return Span(int(first), min(size_bytes, int(last) + 1) if last else size_bytes)
