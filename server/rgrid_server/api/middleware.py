"""What happens to every request: an id of its own, and a note of when the server was last asked."""

from __future__ import annotations

import itertools
import os
import re
from time import monotonic

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SANE_ID = re.compile(rb"^[A-Za-z0-9._-]{1,128}$")
_STARTED = os.urandom(8).hex()
_COUNT = itertools.count()
_QUIET_PATHS = ("/health", "/readyz", "/api/v1/health", "/api/v1/runner/")


def begin_request(scope: Scope) -> bytes:
    """Note that a request came, and give it an id: the caller's own where it is sane, else a fresh one."""
    state = scope.setdefault("state", {})
    if "request_id" in state:
        known: str = state["request_id"]
        return known.encode()
    given: bytes = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    request_id = given.decode() if _SANE_ID.match(given) else f"{_STARTED}{next(_COUNT):016x}"
    state["request_id"] = request_id
    if not scope["path"].startswith(_QUIET_PATHS):
        scope["app"].state.services.last_asked = monotonic()
    return request_id.encode()


class RequestIds:
    """Gives every answer an X-Request-Id: the caller's own where it is sane, else a fresh one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request_id = begin_request(scope).decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)
