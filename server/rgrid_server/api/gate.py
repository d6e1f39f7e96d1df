"""What stands before everything: 503 while the server is starting, and for new work while it is stopping."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from rgrid_server.api.errors import RETRY_AFTER_SECONDS
from rgrid_server.api.json import Json
from rgrid_server.api.middleware import begin_request
from rgrid_server.api.urls import PREFIX

STARTING = ("starting", "the server is starting; try again")
DRAINING = ("draining", "the server is stopping; try again, it or another one will answer")
_STILL_SERVED = tuple(
    f"{prefix}/{name}" for prefix in ("", PREFIX) for name in ("health", "ready", "readyz", "metrics")
)
_RUNNERS = f"{PREFIX}/runner/"
"""Runners report what ends while the server stops."""


class Gate:
    """Passes requests on to an application from :meth:`open` to :meth:`close`."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._is_closed = False

    def open(self, app: ASGIApp) -> None:
        """Everything is there: let requests in."""
        self._app = app

    def close(self) -> None:
        """Let no more work in; what is being answered goes on."""
        self._is_closed = True

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request or connection; what it is passed on to is awaited without a step between."""
        if self._app is None:
            return _refuse(scope, receive, send, *STARTING)
        if self._is_closed and not _is_still_served(scope["path"]):
            return _refuse(scope, receive, send, *DRAINING)
        return self._app(scope, receive, send)


def _is_still_served(path: str) -> bool:
    return path in _STILL_SERVED or path.startswith(_RUNNERS)


async def _refuse(scope: Scope, receive: Receive, send: Send, code: str, message: str) -> None:
    headers = {
        "Retry-After": RETRY_AFTER_SECONDS,
        # the next try is to find whoever listens then
        "Connection": "close",
        "X-Request-Id": begin_request(scope).decode(),
    }
    reasons = [{"code": code, "message": message}]
    answer = Json({"detail": {"error": code, "message": message, "reasons": reasons}}, 503, headers)
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1013, "reason": message})
        return
    await answer(scope, receive, send)
