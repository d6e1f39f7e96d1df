"""The hot calls' way past the framework, answered by the same functions as their routes.

Routing among sixty paths, solving dependencies and unwinding five layers takes the framework about 200 µs,
four times what reading an execution takes. So the few calls that are sent thousands of times a second are
answered here; whatever is unusual about a request (no valid key, an odd parameter, a body that is no valid
submission, another origin) takes the usual way, which has the last word on it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from types import SimpleNamespace
from typing import Protocol
from urllib.parse import parse_qsl

import orjson
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rgrid_server.api import costs, errors, executions, system
from rgrid_server.api.middleware import begin_request
from rgrid_server.api.schemas import SubmitBody
from rgrid_server.api.services import Services
from rgrid_server.api.urls import PREFIX
from rgrid_server.domain.apikeys import Scope as KeyScope
from rgrid_server.domain.apikeys import opens
from rgrid_server.store.tenants import Principal

log = logging.getLogger(__name__)

MAX_HOT_BODY_BYTES = 256 * 1024
_EXECUTION = re.compile(rf"^{PREFIX}/executions/(exec_[0-9a-f]{{32}})$")
_BEARER = b"Bearer sk_"
_JSON = b"application/json"
_UNUSUAL = frozenset({b"origin", b"transfer-encoding", b"expect"})
WHOLE_ANSWER = "rgrid.whole_answer"
"""Where a request's scope has its :class:`WholeAnswer`; it is taken out, for it holds the scope itself."""


class WholeAnswer(Protocol):
    """Sends an answer that is there as a whole, in place of ASGI's ``send``."""

    def __call__(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Send the answer to a request other than HEAD; False where that is to be left to ``send``.

        Args:
            status: of HTTP, one that has a body.
            headers: nobody looks through them any more: names in lower case, ``content-length`` among them,
                ``connection`` and ``transfer-encoding`` not, and no control character in any value.
            body: all of it.
        """


@dataclass(slots=True)
class Ask:
    """A hot request, as far as it was read."""

    request: Request
    services: Services
    principal: Principal
    execution_id: str
    query: dict[str, str]
    body: bytes = b""


Answerer = Callable[[Ask], Awaitable[Response | None]]


async def _read(ask: Ask) -> Response | None:
    wait = ask.query.pop("wait", "0")
    if ask.query or not wait.isdecimal() or int(wait) > executions.MAX_WAIT_SECONDS:
        return None
    return await executions.read(ask.request, ask.principal, ask.execution_id, int(wait))


async def _list(ask: Ask) -> Response | None:
    limit = ask.query.pop("limit", "50")
    if ask.query or not limit.isdecimal() or not 1 <= int(limit) <= executions.MAX_LIMIT:
        return None
    return await executions.page(ask.request, ask.principal, limit=int(limit))


async def _submit(ask: Ask) -> Response | None:
    try:
        body = SubmitBody.model_validate(orjson.loads(ask.body))
    except (ValidationError, orjson.JSONDecodeError):
        return None
    return None if ask.query else await executions.accept(ask.request, ask.principal, body)


async def _cost(ask: Ask) -> Response | None:
    days = ask.query.pop("days", None)
    if ask.query or (days is not None and not days.isdecimal()):
        return None
    return await costs.by_day(ask.request, ask.principal, days=None if days is None else int(days))


async def _estimate(ask: Ask) -> Response | None:
    runtime, files = ask.query.pop("runtime", None), ask.query.pop("files", "1")
    if ask.query or not files.isdecimal() or len(files) > 6:
        return None
    return await costs.estimated(ask.request, ask.principal, runtime=runtime, count=int(files))


_BY_PATH: dict[tuple[str, str], tuple[KeyScope, Answerer, str]] = {
    ("GET", f"{PREFIX}/executions"): (KeyScope.READ, _list, "/executions"),
    ("POST", f"{PREFIX}/executions"): (KeyScope.SUBMIT, _submit, "/executions"),
    ("GET", f"{PREFIX}/cost"): (KeyScope.READ, _cost, "/cost"),
    ("GET", f"{PREFIX}/estimate"): (KeyScope.READ, _estimate, "/estimate"),
}
_BY_ID: tuple[KeyScope, Answerer, str] = (KeyScope.READ, _read, "/executions/{execution_id}")
_HEALTH = {"/health", f"{PREFIX}/health"}


class Lane:
    """Stands before an application, and answers what it can."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._holder = _Holder(services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        whole: WholeAnswer | None = scope.pop(WHOLE_ANSWER, None)
        path, method = scope["path"], scope["method"]
        if path in _HEALTH and method == "GET":
            scope["app"] = self._holder
            await _send(await system.health(Request(scope, receive)), scope, send, whole)
            self._services.notes.finished(scope, "/health", 200, began)
            return
        execution_id, found = "", _BY_PATH.get((method, path))
        if found is None and method == "GET" and (match := _EXECUTION.match(path)):
            execution_id, found = match[1], _BY_ID
        if found is None:
            await self._app(scope, receive, send)
            return
        needed, answerer, route = found
        try:
            ask = await self._ask(scope, receive, needed, execution_id)
        except Exception as error:
            # looking the key up needs the database, which may be away
            scope["app"] = self._holder
            await _send(await errors.answer_to(Request(scope, receive), error), scope, send)
            return
        if ask is None:
            await self._app(scope, receive, send)
            return
        read = await _read_messages(receive) if method == "POST" else []
        ask.body = b"".join(message.get("body", b"") for message in read)
        try:
            answer = await answerer(ask)
        except Exception as error:
            answer = await errors.answer_to(ask.request, error)
        if answer is None:
            await self._app(scope, _again(read, receive), send)
            return
        await _send(answer, scope, send, whole)
        self._services.notes.finished(scope, route, answer.status_code, began)

    async def _ask(self, scope: Scope, receive: Receive, needed: KeyScope, execution_id: str) -> Ask | None:
        """The request as a hot one, None where it is to take the usual way."""
        key, length, content_type = b"", b"0", _JSON
        for name, value in scope["headers"]:
            if name == b"authorization":
                key = value
            elif name == b"content-length":
                length = value
            elif name == b"content-type":
                content_type = value
            elif name in _UNUSUAL:
                return None
        if not key.startswith(_BEARER) or not key.isascii():
            return None
        if not content_type.startswith(_JSON):
            return None
        if not length.isdigit() or len(length) > 6 or int(length) > MAX_HOT_BODY_BYTES:
            return None
        principal = await self._services.tenancy.authenticate(key[7:].decode().strip())
        if principal is None or not opens(principal.scopes, needed):
            return None
        query = scope["query_string"]
        scope["app"] = self._holder
        begin_request(scope)
        scope["state"]["principal"] = principal
        return Ask(
            request=Request(scope, receive),
            services=self._services,
            principal=principal,
            execution_id=execution_id,
            query=dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if query else {},
        )


class _Holder:
    """Stands in a hot request's scope for the application, and holds the services as it does."""

    def __init__(self, services: Services) -> None:
        self.state = SimpleNamespace(services=services)


async def _send(answer: Response, scope: Scope, send: Send, whole: WholeAnswer | None = None) -> None:
    headers = answer.raw_headers
    headers.append((b"x-request-id", begin_request(scope)))
    # what an error says may have come from anywhere, so that its headers are to be looked through
    if whole is not None and answer.status_code == 200 and whole(200, headers, bytes(answer.body)):
        return
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _read_messages(receive: Receive) -> list[Message]:
    """What brings the body, up to its end."""
    read = [await receive()]
    while read[-1].get("more_body", False):
        read.append(await receive())
    return read


def _again(read: list[Message], receive: Receive) -> Receive:
    """A way to receive once more what was read."""

    async def again() -> Message:
        return read.pop(0) if read else await receive()

    return again


def answered_here() -> list[tuple[str, str]]:
    """The calls that are hot, by method and path; for the tests that hold them to their routes."""
    return [*_BY_PATH, ("GET", f"{PREFIX}/executions/{{execution_id}}"), ("GET", "/health")]
