"""Large blobs in parts: as in the IETF's resumable uploads, under the blob's own hash."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rgrid_server.api.errors import ApiError
from rgrid_server.api.files import check_hash
from rgrid_server.api.json import Json
from rgrid_server.api.routing import Who, guarded_router, needs
from rgrid_server.api.services import services
from rgrid_server.domain.apikeys import Scope
from rgrid_server.domain.submission import Problem
from rgrid_server.errors import Conflict, Invalid
from rgrid_server.scheduler.partials import UploadState

router = guarded_router()
router.tags = ["files"]

UploadOffset = Annotated[str, Header()]
UploadComplete = Annotated[str | None, Header()]

_COMPLETE = {"?1": True, "?0": False}
"""Booleans as structured header fields (RFC 9651)."""


@router.api_route("/blobs/{sha256}/upload", methods=["GET", "HEAD"], summary="How far an upload in parts is")
@needs(Scope.SUBMIT)
async def get_upload(request: Request, sha256: str, who: Who) -> Response:
    """``Upload-Offset``: so many bytes are here; 0 where it was not begun."""
    check_hash(sha256)
    return upload_answer(sha256, await services(request).partials.state(who.tenant_id, sha256))


@router.patch("/blobs/{sha256}/upload", summary="Upload a part of a blob", status_code=200)
@needs(Scope.SUBMIT)
async def patch_upload(
    request: Request,
    sha256: str,
    who: Who,
    upload_offset: UploadOffset,
    upload_complete: UploadComplete = None,
    upload_length: Annotated[str | None, Header()] = None,
) -> Response:
    """The raw bytes from ``Upload-Offset`` on; with ``Upload-Complete: ?1`` the last ones."""
    check_hash(sha256)
    return await receive_part(request, who.tenant_id, sha256, upload_offset, upload_complete, upload_length)


@router.delete("/blobs/{sha256}/upload", summary="Forget an upload in parts", status_code=204)
@needs(Scope.SUBMIT)
async def delete_upload(request: Request, sha256: str, who: Who) -> Response:
    """What has come of it is removed; a blob that it has become stays."""
    check_hash(sha256)
    await services(request).partials.discard(who.tenant_id, sha256)
    return Response(status_code=204)


async def receive_part(
    request: Request,
    tenant_id: str,
    sha256: str,
    upload_offset: str,
    upload_complete: str | None,
    upload_length: str | None = None,
) -> Response:
    """Take in a part; what has come of one that breaks off stays."""
    offset = _size("Upload-Offset", upload_offset)
    is_last = _COMPLETE.get(upload_complete or "?0")
    if is_last is None:
        message = f"{(upload_complete or '')[:40]!r} is none of ?0 and ?1"
        raise Invalid([Problem(("Upload-Complete",), message, part="header")])
    found = services(request)
    largest = found.settings.max_blob_bytes
    if upload_length is not None and _size("Upload-Length", upload_length) > largest:
        raise ApiError(413, "blob_too_large", f"the file is larger than {largest} bytes")
    try:
        state = await found.partials.append(tenant_id, sha256, offset, request.stream(), is_last=is_last)
    except ClientDisconnect:
        raise ApiError(400, "cut_short", "the connection ended inside the part; see how far it is") from None
    except Conflict as error:
        raise ApiError(
            409,
            error.code,
            str(error),
            headers={"Upload-Offset": str(error.facts["upload_offset"]), "Upload-Complete": "?0"},
            **error.facts,
        ) from None
    return upload_answer(sha256, state)


def upload_answer(sha256: str, state: UploadState) -> Response:
    """How far an upload is: 201 when it has just become a new blob of the tenant's, else 200."""
    return Json(
        {"sha256": sha256, "upload_offset": state.offset, "complete": state.is_complete},
        201 if state.is_new else 200,
        {
            "Upload-Offset": str(state.offset),
            "Upload-Complete": "?1" if state.is_complete else "?0",
            "Cache-Control": "no-store",
        },
    )


def _size(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Invalid([Problem((name,), f"{text[:40]!r} is no number of bytes", part="header")])
    return int(text)
