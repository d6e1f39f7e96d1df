"""Logs: a page as JSON, a stream of events, the bytes as printed, or a WebSocket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, WebSocket
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocketDisconnect

from rgrid_server.api import views
from rgrid_server.api.errors import RETRY_AFTER_SECONDS, ApiError
from rgrid_server.api.executions import Wait
from rgrid_server.api.json import Json
from rgrid_server.api.routing import Who, authenticate, check_scope, guarded_router, needs
from rgrid_server.api.services import Services, services
from rgrid_server.api.sse import (
    KEEP_ALIVE_SECONDS,
    RETRY,
    STREAM_HEADERS,
    last_event_id,
    read_position,
)
from rgrid_server.domain.apikeys import Scope
from rgrid_server.domain.attempts import LogEntry, Stream
from rgrid_server.errors import NotFound
from rgrid_server.scheduler.logs import LogPage
from rgrid_server.store.database import MAX_POSITION, StorageError

log = logging.getLogger(__name__)

router = guarded_router()
router.tags = ["logs"]
sockets = APIRouter()

KEY_PROTOCOL = "rgrid.key."
STREAM_ENTRIES = 4_000
"""A stream holds so many entries of a log at a time, however slowly its reader takes them."""

NORMAL_CLOSURE = 1000
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
"""RFC 6455's registry of close codes: the server restarts, connect again."""

After = Annotated[int, Query(ge=0, le=MAX_POSITION, description="the number of the last entry that is known")]


@router.get("/executions/{execution_id}/logs", summary="Read or follow a log")
@needs(Scope.READ)
async def get_logs(
    request: Request,
    execution_id: str,
    who: Who,
    after: After = 0,
    follow: bool = False,
    stream: Literal["stdout", "stderr", "system"] | None = None,
    wait: Wait = 0,
) -> Response:
    """By ``Accept``: text/event-stream, application/json, or else the bytes as printed."""
    found = services(request)
    accept = request.headers.get("accept", "*/*")
    resumed = last_event_id(request)
    after = max(after, resumed) if resumed is not None else after
    wanted = Stream(stream) if stream is not None else None
    if "text/event-stream" in accept:
        await found.logs.page(who.tenant_id, execution_id, after, max_entries=1)
        events = _events(found, who.tenant_id, execution_id, after, wanted, follow=follow)
        return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)
    if "application/json" in accept:
        page = await found.logs.page(who.tenant_id, execution_id, after, wait)
        return Json(
            {
                "entries": [
                    views.log_entry(sequence, entry)
                    for sequence, entry in page.entries
                    if _is_wanted(entry, wanted)
                ],
                "next_after": page.entries[-1][0] if page.entries else after,
                "complete": page.is_complete,
                "status": page.status.value,
                "exit_code": page.exit_code,
            }
        )
    await found.logs.page(who.tenant_id, execution_id, after, max_entries=1)
    printed = _printed(found, who.tenant_id, execution_id, after, wanted, follow=follow)
    return StreamingResponse(printed, media_type="text/plain; charset=utf-8")


@sockets.websocket("/ws/executions/{execution_id}/logs")
async def follow_logs(websocket: WebSocket, execution_id: str) -> None:
    """Log messages as they come, then ``complete``; resumes after ``cursor``."""
    found = services(websocket)
    offered = websocket.scope.get("subprotocols", [])
    protocol = next((name for name in offered if name.startswith(KEY_PROTOCOL)), None)
    key = protocol.removeprefix(KEY_PROTOCOL) if protocol else None
    try:
        principal = await authenticate(websocket, key)
        check_scope(principal, Scope.READ)
    except ApiError as error:
        await websocket.send_denial_response(Json({"detail": error.detail}, error.status_code, error.headers))
        return
    except StorageError as error:
        # looking the key up needs the database, which may be away
        detail = {"error": "storage_unavailable", "message": str(error)}
        await websocket.send_denial_response(
            Json({"detail": detail}, 503, {"Retry-After": RETRY_AFTER_SECONDS})
        )
        return
    await websocket.accept(subprotocol=protocol)
    cursor = websocket.query_params.get("cursor") or "0"
    after = read_position(cursor)
    if after is None:
        await _refuse(websocket, f"the cursor {cursor[:40]!r} is not a sequence number")
        return
    sending = asyncio.create_task(_send_log(websocket, found, principal.tenant_id, execution_id, after))
    leaving = asyncio.create_task(_until_left(websocket))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)


async def _send_log(
    websocket: WebSocket, found: Services, tenant_id: str, execution_id: str, cursor: int
) -> None:
    try:
        while True:
            page = await found.logs.page(tenant_id, execution_id, cursor, KEEP_ALIVE_SECONDS, STREAM_ENTRIES)
            for sequence, entry in page.entries:
                shown = views.log_entry(sequence, entry)
                shown.pop("newline")
                await _send(websocket, {"type": "log", **shown})
                cursor = sequence
            if page.is_complete:
                await _send(websocket, _complete(page))
                await websocket.close()
                return
            if found.logs.is_ending:
                await websocket.close(SERVICE_RESTART, "the server is stopping; resume with cursor")
                return
            await asyncio.sleep(0)
    except NotFound as error:
        await _refuse(websocket, str(error))
    except WebSocketDisconnect:
        return
    except StorageError as error:
        await _refuse(websocket, f"{error}; resume with cursor", SERVICE_RESTART)
    except Exception:
        log.exception("the log of %s could not be sent", execution_id)
        message = "the server failed to read the log; its own log has the cause, resume with cursor"
        await _refuse(websocket, message, INTERNAL_ERROR)


async def _until_left(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        continue


async def _refuse(websocket: WebSocket, message: str, code: int = NORMAL_CLOSURE) -> None:
    try:
        await _send(websocket, {"type": "error", "message": message})
        await websocket.close(code, message[:100])
    except (WebSocketDisconnect, RuntimeError):
        # it has left, or was closed already: there is nobody to tell
        return


async def _send(websocket: WebSocket, message: dict[str, Any]) -> None:
    await websocket.send_text(orjson.dumps(message).decode())


async def _events(
    found: Services,
    tenant_id: str,
    execution_id: str,
    after: int,
    wanted: Stream | None,
    *,
    follow: bool,
) -> AsyncIterator[bytes]:
    async for page in _pages(found, tenant_id, execution_id, after, follow=follow):
        if page.entries:
            yield b"".join(
                _event("log", views.log_entry(sequence, entry), sequence)
                for sequence, entry in page.entries
                if _is_wanted(entry, wanted)
            )
        elif page.is_complete:
            shown = {"exit_code": page.exit_code, "status": page.status.value}
            yield _event("complete", shown, None)
        else:
            yield RETRY if found.logs.is_ending else b": still running\n\n"


async def _printed(
    found: Services,
    tenant_id: str,
    execution_id: str,
    after: int,
    wanted: Stream | None,
    *,
    follow: bool,
) -> AsyncIterator[bytes]:
    async for page in _pages(found, tenant_id, execution_id, after, follow=follow):
        yield b"".join(views.log_bytes(entry) for _, entry in page.entries if _is_printed(entry, wanted))


async def _pages(
    found: Services, tenant_id: str, execution_id: str, after: int, *, follow: bool
) -> AsyncIterator[LogPage]:
    """A log in pages; with ``follow`` until it is complete, with empty pages while nothing is printed."""
    wait_seconds = KEEP_ALIVE_SECONDS if follow else 0
    while True:
        page = await found.logs.page(tenant_id, execution_id, after, wait_seconds, STREAM_ENTRIES)
        if page.entries:
            after = page.entries[-1][0]
        elif not follow and not page.is_complete:
            return
        is_last = page.is_complete or (found.logs.is_ending and not page.entries)
        yield page
        if is_last:
            return
        # a log that is all there is read without ever waiting: let the others have their turn
        await asyncio.sleep(0)


def _event(name: str, data: dict[str, Any], event_id: int | None) -> bytes:
    identity = b"" if event_id is None else b"id: %d\n" % event_id
    return b"event: %s\n%sdata: %s\n\n" % (name.encode(), identity, orjson.dumps(data))


def _is_wanted(entry: LogEntry, wanted: Stream | None) -> bool:
    return wanted is None or entry.stream == wanted.number


def _is_printed(entry: LogEntry, wanted: Stream | None) -> bool:
    """Whether it is of what was printed; the grid's own words are so only where they are asked for."""
    return _is_wanted(entry, wanted) and (wanted is not None or entry.stream != Stream.SYSTEM.number)


def _complete(page: LogPage) -> dict[str, Any]:
    return {"type": "complete", "exit_code": page.exit_code, "status": page.status.value}
