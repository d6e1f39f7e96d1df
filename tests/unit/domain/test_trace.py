"""W3C Trace Context, by the examples of its own text."""

from __future__ import annotations

import pytest

from rgrid_server.domain.trace import TraceContext, attempt_span_id, parse_trace_parent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("flags", "is_sampled"), [("01", True), ("00", False), ("03", True), ("02", False)])
def test_a_header_is_read_with_its_sampling(flags: str, is_sampled: bool) -> None:
    assert parse_trace_parent(f"00-{TRACE}-{SPAN}-{flags}") == TraceContext(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-0g",
    ],
)
def test_what_is_no_valid_header_begins_anew(header: str | None) -> None:
    assert parse_trace_parent(header) is None


def test_a_later_version_may_say_more() -> None:
    assert parse_trace_parent(f"01-{TRACE}-{SPAN}-01-more") == TraceContext(TRACE, SPAN)


def test_every_attempt_has_a_span_of_its_own_that_anyone_finds_again() -> None:
    first, again = attempt_span_id("exec_a", 1), attempt_span_id("exec_a", 1)
    assert first == again
    assert len({first, attempt_span_id("exec_a", 2), attempt_span_id("exec_b", 1)}) == 3
    assert parse_trace_parent(str(TraceContext(TRACE, first))) == TraceContext(TRACE, first)
