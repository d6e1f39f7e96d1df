"""What happens to every request: an id of its own, and notes of when it came and of how it went."""

from __future__ import annotations

import itertools
import os
import re
from time import monotonic, perf_counter
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rgrid_server.observability.logs import current_request
from rgrid_server.observability.requests import CLIENT_LEFT, UNMATCHED

_SANE_ID = re.compile(rb"^[A-Za-z0-9._-]{1,128}$")
_STARTED = os.urandom(8).hex()
_COUNT = itertools.count()
_QUIET_PATHS = (
    *("/health", "/ready", "/metrics", "/api/v1/health", "/api/v1/ready", "/api/v1/metrics"),
    "/api/v1/runner/",
)


def begin_request(scope: Scope) -> bytes:
    """Note that a request came, and give it an id: the caller's own where it is sane, else a fresh one."""
    state = scope.setdefault("state", {})
    if "request_id" in state:
        known: str = state["request_id"]
        return known.encode()
    given = header_of(scope, b"x-request-id") or b""
    request_id = given.decode() if _SANE_ID.match(given) else f"{_STARTED}{next(_COUNT):016x}"
    state["request_id"] = request_id
    current_request.set(state)
    if "app" in scope and not scope["path"].startswith(_QUIET_PATHS):
        scope["app"].state.services.last_asked = monotonic()
    return request_id.encode()


def header_of(scope: Scope, wanted: bytes) -> bytes | None:
    """A header's first value by its name in lower case: all that a hot call needs of Starlette's Headers."""
    # a loop: a generator would take as long as the whole search
    for name, value in scope["headers"]:
        if name == wanted:
            found: bytes = value
            return found
    return None


class RequestIds:
    """Gives every answer an X-Request-Id: the caller's own where it is sane, else a fresh one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        request_id = begin_request(scope).decode()
        status = CLIENT_LEFT

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if scope["type"] == "http":
                scope["app"].state.services.notes.finished(scope, _route_of(scope), status, began)


def _route_of(scope: Scope) -> str:
    """The template of the path that was asked for, without the prefix of the API, so that no id is in it."""
    route: Any = scope.get("route")
    path: str = getattr(route, "path", UNMATCHED)
    return path.removeprefix("/api/v1")
