"""Which bytes a Range header asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.domain.ranges import Span, Unsatisfiable, wanted_span

ETAG = '"abc"'


@pytest.mark.parametrize(
    ("asked", "span"),
    [
        ("bytes=0-", Span(0, 10)),
        ("bytes=3-4", Span(3, 5)),
        ("bytes=9-", Span(9, 10)),
        ("bytes=3-400", Span(3, 10)),
        ("bytes=-4", Span(6, 10)),
        ("bytes=-400", Span(0, 10)),
        (" Bytes = 1 - 2 ", Span(1, 3)),
        # all of it, for what cannot be read, or names several
        (None, None),
        ("bytes=4-3", None),
        ("bytes=-", None),
        ("bytes=1-2,4-5", None),
        ("lines=1-2", None),
        ("bytes=٣-", None),
        ("bytes=99999999999999999999999-", None),
    ],
)
def test_a_header_names_bytes_or_all(asked: str | None, span: Span | None) -> None:
    assert wanted_span(asked, None, ETAG, 10) == span


@pytest.mark.parametrize(("asked", "size_bytes"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0)])
def test_what_lies_beyond_the_end_is_refused(asked: str, size_bytes: int) -> None:
    with pytest.raises(Unsatisfiable):
        wanted_span(asked, None, ETAG, size_bytes)


def test_a_range_of_other_bytes_is_answered_with_all_of_these() -> None:
    assert wanted_span("bytes=3-", ETAG, ETAG, 10) == Span(3, 10)
    assert wanted_span("bytes=3-", '"other"', ETAG, 10) is None
    assert wanted_span("bytes=30-", '"other"', ETAG, 10) is None


@given(st.binary(max_size=20), st.integers(0, 25), st.integers(0, 25))
def test_a_span_is_what_slicing_gives(data: bytes, first: int, last: int) -> None:
    try:
        span = wanted_span(f"bytes={first}-{last}", None, ETAG, len(data))
    except Unsatisfiable:
        assert data[first : last + 1] == b""
        return
    if span is None:
        assert last < first
    else:
        assert data[span.start : span.end] == data[first : last + 1] != b""


@given(st.text(max_size=12))
def test_any_text_is_answered(text: str) -> None:
    for asked in (text, f"bytes={text}"):
        try:
            span = wanted_span(asked, None, ETAG, 10)
        except Unsatisfiable:
            continue
        assert span is None or 0 <= span.start < span.end <= 10
