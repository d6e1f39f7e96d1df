"""Log lines: one JSON document each, or text; with what they belong to, without secrets."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.observability.logs import Format, bind, configure_logging, current_request, hide_secrets

log = logging.getLogger("rgrid_server.tests")
KEY_CHARS = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=20, max_size=50
)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.contextvars.clear_contextvars()
    current_request.set(None)


def written(log_format: Format) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(log_format, "info", stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_when_how_grave_what_and_who() -> None:
    stream = written("json")
    log.info("%d of %s", 3, "them", extra={"execution_id": "exec_a"})
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "3 of them",
        "logger": "rgrid_server.tests",
        "execution_id": "exec_a",
    }


def test_a_line_has_the_request_or_the_attempt_that_it_belongs_to() -> None:
    stream = written("json")
    current_request.set({"request_id": "r1"})
    bind(execution_id="exec_a", attempt=2)
    log.warning("something")
    (line,) = lines(stream)
    assert (line["request_id"], line["execution_id"], line["attempt"]) == ("r1", "exec_a", 2)


def test_an_exception_is_one_line_with_its_traceback() -> None:
    stream = written("json")
    try:
        raise ValueError("no\nnewline breaks this")
    except ValueError:
        log.exception("it failed")
    (line,) = lines(stream)
    assert "Traceback" in line["exception"]
    assert "ValueError: no\nnewline" in line["exception"]


def test_warnings_and_what_others_log_come_the_same_way() -> None:
    stream = written("json")
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    logging.getLogger("uvicorn.error").warning("cut", extra={"color_message": "\x1b[36mcut"})
    first, second = lines(stream)
    assert first["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in first["event"]
    assert second["event"] == "cut"
    assert "color_message" not in second


def test_what_json_cannot_say_is_said_as_text() -> None:
    stream = written("json")
    log.info("odd", extra={"odd": {1: object, "bytes": b"x"}})
    assert "class 'object'" in lines(stream)[0]["odd"]["1"]


def test_text_is_read_as_before_with_its_facts_behind() -> None:
    stream = written("text")
    log.info("hello", extra={"execution_id": "exec_a"})
    line = stream.getvalue().rstrip("\n")
    assert line.endswith("Z INFO rgrid_server.tests: hello [execution_id=exec_a]")


@given(KEY_CHARS)
def test_a_key_is_hidden_wherever_it_stands(chars: str) -> None:
    key = f"sk_{chars}"
    for text in (
        key,
        f"'{key}'",
        f"Authorization: Bearer {key}",
        f"https://grid/x?token={key}&a=1",
        f"({key})",
    ):
        assert chars not in hide_secrets(text)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_hidden_in_events_facts_and_tracebacks(log_format: Format) -> None:
    stream = written(log_format)
    secret = "sk_live_0123456789abcdef"
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("the key %s", secret, extra={"url": "postgresql://rgrid:hunter2@db/rgrid", "k": secret})
    assert secret not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
    assert "rgrid:[hidden]@db" in stream.getvalue()
