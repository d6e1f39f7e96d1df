"""What comes of a batch as it comes: results as JSON lines, outputs as one tar stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
from fastapi import Request
from starlette.responses import Response, StreamingResponse

from rgrid_server.api import views
from rgrid_server.api.events import Position
from rgrid_server.api.routing import Who, guarded_router, needs
from rgrid_server.api.services import services
from rgrid_server.api.sse import KEEP_ALIVE_SECONDS, STREAM_HEADERS
from rgrid_server.domain import archive
from rgrid_server.domain.apikeys import Scope
from rgrid_server.scheduler.files import Files
from rgrid_server.scheduler.results import Finished, Results

router = guarded_router()
router.tags = ["batches"]

LINES_TYPE = "application/x-ndjson"
SEND_BYTES = 64 * 1024
"""Small members are sent together, up to so much."""


@router.get("/batches/{batch_id}/results", summary="Results in order of completion")
@needs(Scope.READ)
async def results(
    request: Request, batch_id: str, who: Who, after: Position = 0, follow: bool = False
) -> Response:
    """A JSON line for each execution that has ended; with ``follow`` until all have."""
    found = services(request).results
    await found.check(who.tenant_id, batch_id, after)
    lines = _lines(found, who.tenant_id, batch_id, after, follow=follow)
    return StreamingResponse(lines, media_type=LINES_TYPE, headers=STREAM_HEADERS)


@router.get("/batches/{batch_id}/outputs", summary="Outputs in order of completion")
@needs(Scope.READ)
async def outputs(
    request: Request, batch_id: str, who: Who, after: Position = 0, follow: bool = False
) -> Response:
    """One tar stream: for each execution its result as ``<folder>.json``, then its files."""
    found = services(request)
    await found.results.check(who.tenant_id, batch_id, after)
    stream = _archive(found.results, found.files, who.tenant_id, batch_id, after, follow=follow)
    return StreamingResponse(stream, media_type=archive.CONTENT_TYPE, headers=STREAM_HEADERS)


async def _lines(
    found: Results, tenant_id: str, batch_id: str, after: int, *, follow: bool
) -> AsyncIterator[bytes]:
    async for page in found.follow(
        tenant_id, batch_id, after, follow=follow, idle_seconds=KEEP_ALIVE_SECONDS
    ):
        # an empty line, which readers of JSON lines pass over, when nothing has ended for a while
        yield b"\n".join([*(orjson.dumps(_shown(item)) for item in page), b""]) or b"\n"


async def _archive(
    found: Results, files: Files, tenant_id: str, batch_id: str, after: int, *, follow: bool
) -> AsyncIterator[bytes]:
    async for page in found.follow(
        tenant_id, batch_id, after, follow=follow, idle_seconds=KEEP_ALIVE_SECONDS
    ):
        held = bytearray() if page else bytearray(archive.keep_alive())
        for item in page:
            async for part in _members(files, tenant_id, item):
                held += part
                if len(held) >= SEND_BYTES:
                    yield bytes(held)
                    held.clear()
        if held:
            yield bytes(held)
    yield archive.END


async def _members(files: Files, tenant_id: str, item: Finished) -> AsyncIterator[bytes]:
    """An execution's members, whose bytes are read as they are sent."""
    folder = archive.folder_of(item.row["batch_index"], item.row["batch_input"])
    ended_at_ms = item.row["completed_at_ms"]
    told = orjson.dumps(_shown(item))
    yield archive.member_head(f"{folder}.json", size_bytes=len(told), mode=0o644, modified_at_ms=ended_at_ms)
    yield told + archive.padding(len(told))
    for output in item.outputs:
        size_bytes = output["size_bytes"]
        yield archive.member_head(
            f"{folder}/{output['filename']}",
            size_bytes=size_bytes,
            mode=output["mode"],
            modified_at_ms=ended_at_ms,
        )
        async for chunk in files.read_blob(tenant_id, output["sha256"], size_bytes):
            yield chunk
        yield archive.padding(size_bytes)


def _shown(item: Finished) -> dict[str, object]:
    return views.finished(item.position, item.row, item.outputs)
