"""Log lines of a process: as text to read, or as one JSON document each; with the request or attempt that
they belong to, and without any key.

Everything logs through the standard library, uvicorn and Python's warnings too; structlog makes the lines.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["text", "json"]

current_request: ContextVar[MutableMapping[str, Any] | None] = ContextVar("current_request", default=None)
"""The state of the request that is being served; its task is its own, so nobody has to reset it."""

_FIRST = ("timestamp", "level", "event", "logger")
_SECRETS = (
    (re.compile(r"\bsk_[A-Za-z0-9_-]{6,}"), "sk_[hidden]"),
    (re.compile(r"(?i)\b(bearer)\s+[^\s'\",]+"), r"\1 [hidden]"),
    (re.compile(r"\b(signature|token)=[^&\s'\"]+"), r"\1=[hidden]"),
    (re.compile(r"://([^/\s:@]+):[^/\s@]+@"), r"://\1:[hidden]@"),
)
_QUIET = {"alembic": logging.WARNING, "httpx": logging.WARNING, "uvicorn.access": logging.WARNING}


def configure_logging(log_format: Format, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to stderr (or ``stream``), in a format."""
    renderer: Processor = _render_json if log_format == "json" else _render_text
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                _add_request,
                structlog.stdlib.ExtraAdder(),
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _hide_secrets,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(True)


def bind(**facts: object) -> None:
    """Put facts on every line that this task logs from here on."""
    structlog.contextvars.bind_contextvars(**facts)


def hide_secrets(text: str) -> str:
    """A text without what opens anything: keys, bearer tokens, signatures, passwords in addresses.

    >>> hide_secrets("the key sk_live_1234567890 of postgresql://rgrid:hunter2@db/rgrid")
    'the key sk_[hidden] of postgresql://rgrid:[hidden]@db/rgrid'
    """
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def _add_request(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    request = current_request.get()
    if request is not None:
        line.setdefault("request_id", request.get("request_id"))
        principal = request.get("principal")
        if principal is not None:
            line.setdefault("tenant_id", principal.tenant_id)
    return line


def _hide_secrets(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    for name, value in line.items():
        if isinstance(value, str):
            line[name] = hide_secrets(value)
    return line


def _render_json(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
    line.pop("color_message", None)
    return orjson.dumps(_in_order(line), default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _render_text(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
    line.pop("color_message", None)
    exception = line.pop("exception", None)
    facts = " ".join(f"{name}={value}" for name, value in line.items() if name not in _FIRST)
    text = f"{line['timestamp']} {line['level'].upper()} {line['logger']}: {line['event']}"
    text = f"{text} [{facts}]" if facts else text
    return f"{text}\n{exception}" if exception else text


def _in_order(line: Mapping[str, Any]) -> dict[str, Any]:
    first = {name: line[name] for name in _FIRST if name in line}
    return first | {name: value for name, value in line.items() if name not in first}
