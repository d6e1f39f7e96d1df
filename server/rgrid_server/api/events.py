"""The feed of transitions: server-sent events, or pages of JSON for those who would rather ask again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import orjson
from fastapi import Query, Request
from starlette.responses import Response, StreamingResponse

from rgrid_server.api import views
from rgrid_server.api.executions import Wait
from rgrid_server.api.routing import Who, guarded_router, needs
from rgrid_server.api.services import services
from rgrid_server.api.sse import KEEP_ALIVE_SECONDS, RETRY, STREAM_HEADERS, last_event_id
from rgrid_server.domain.apikeys import Scope
from rgrid_server.errors import Gone
from rgrid_server.scheduler.feed import PAGE_EVENTS, Event, Feed
from rgrid_server.store.database import MAX_POSITION

router = guarded_router()
router.tags = ["events"]

MAX_EVENTS_A_PAGE = 1000
MAX_METADATA_BYTES = 1024
"""Metadata longer than this stands in the execution only."""

Position = Annotated[int, Query(ge=0, le=MAX_POSITION, description="the position that was read last")]


@router.get("/events", summary="Follow a tenant's transitions")
@needs(Scope.READ)
async def get_events(
    request: Request,
    who: Who,
    after: Position | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS_A_PAGE)] = PAGE_EVENTS,
    wait: Wait = 0,
    batch_id: str | None = None,
) -> Response:
    """By ``Accept``: one page as application/json, or else text/event-stream.

    In order, none twice and none left out; from now on without ``after`` or ``Last-Event-ID``.
    """
    feed = services(request).feed
    resumed = last_event_id(request)
    position = await feed.begin(resumed if resumed is not None else after)
    if "application/json" in request.headers.get("accept", ""):
        page = await feed.page(who.tenant_id, position, limit=limit, batch_id=batch_id, wait_seconds=wait)
        shown = b",".join(_wire(event) for event in page.events)
        headers = {"X-Next-Cursor": str(page.position)}
        return Response(b"[%s]" % shown, media_type="application/json", headers=headers)
    return StreamingResponse(
        _stream(feed, who.tenant_id, position, batch_id),
        media_type="text/event-stream",
        headers=STREAM_HEADERS,
    )


async def _stream(feed: Feed, tenant_id: str, position: int, batch_id: str | None) -> AsyncIterator[bytes]:
    yield b'event: position\nid: %d\ndata: {"position":%d}\n\n' % (position, position)
    try:
        async for page in feed.follow(
            tenant_id, position, batch_id=batch_id, idle_seconds=KEEP_ALIVE_SECONDS
        ):
            if page.events:
                yield b"".join(
                    b"event: execution\nid: %d\ndata: %s\n\n" % (event.position, _wire(event))
                    for event in page.events
                )
            else:
                # an id without data moves the place to resume from, and is no event
                yield b": nothing new\nid: %d\n\n" % page.position
    except Gone as gone:
        told = orjson.dumps({"error": gone.code, "message": str(gone), **gone.facts})
        yield b"event: reset\ndata: %s\n\n" % told
        return
    yield RETRY


def _wire(event: Event) -> bytes:
    if not event.wire:
        event.wire = orjson.dumps(views.transition(event.row, event.labels, MAX_METADATA_BYTES))
    return event.wire
