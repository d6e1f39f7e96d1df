"""The header traceparent of the client's calls."""

from __future__ import annotations

import pytest

from rgrid import calls, tracing
from rgrid.transport.base import Server

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(autouse=True)
def no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACEPARENT", raising=False)
    monkeypatch.delenv("RGRID_TRACE", raising=False)


def sent() -> dict[str, str]:
    return Server("http://grid", "sk_key").headers(calls.health())


def test_without_a_trace_no_header_is_sent() -> None:
    assert "traceparent" not in sent()
    assert tracing.trace_id() is None


def test_the_trace_of_whoever_started_the_process_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", PARENT)
    monkeypatch.setenv("RGRID_TRACE", "1")
    assert sent()["traceparent"] == PARENT
    assert tracing.trace_id() == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_trace_that_was_asked_for_is_one_for_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RGRID_TRACE", "1")
    first = sent()["traceparent"]
    assert first == sent()["traceparent"]
    assert first.split("-")[1] == tracing.trace_id()


@pytest.mark.parametrize("value", ["", "0"])
def test_a_trace_that_was_not_asked_for_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RGRID_TRACE", value)
    assert "traceparent" not in sent()


@pytest.mark.parametrize("value", ["x", "00-0-0-0", PARENT.replace("-01", "-01\r\nX-Evil: 1")])
def test_what_is_no_valid_trace_is_not_sent(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TRACEPARENT", value)
    assert "traceparent" not in sent()


def test_a_later_version_is_continued_as_far_as_it_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", PARENT.replace("00-4", "01-4") + "-more\r\nX-Evil: 1")
    assert sent()["traceparent"] == PARENT


def test_a_signed_url_is_not_told_of_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", PARENT)
    headers = Server("http://grid", "sk_key").headers(calls.fetch("https://elsewhere/x"))
    assert "traceparent" not in headers
