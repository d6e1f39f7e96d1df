"""Bytes in and out: blobs, artifacts, and URLs that work without a key."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rgrid_server.api import views
from rgrid_server.api.errors import ApiError
from rgrid_server.api.json import Json, JsonRequest
from rgrid_server.api.ranges import bytes_answer
from rgrid_server.api.routing import Who, guarded_router, needs
from rgrid_server.api.schemas import DownloadUrlBody, HashesBody, InputCacheBody
from rgrid_server.api.services import services
from rgrid_server.api.urls import check_signature, download_url
from rgrid_server.blobs.base import Received
from rgrid_server.domain import frames
from rgrid_server.domain.apikeys import Scope
from rgrid_server.domain.submission import Problem, is_sha256
from rgrid_server.errors import Invalid
from rgrid_server.scheduler.files import ARTIFACT_PLACE

router = guarded_router()
router.tags = ["files"]
signed_routes = APIRouter(tags=["files"])

MAX_FRAME_BYTES = 64 * 1024 * 1024
_INPUT_HASH = re.compile(r"^[0-9a-fA-F]{64}$")


@router.post("/blobs/missing", summary="Which blobs are to be uploaded")
@needs(Scope.SUBMIT)
async def missing_blobs(request: Request, body: HashesBody, who: Who) -> Response:
    """Those of the hashes that this tenant has not uploaded."""
    for sha256 in body.hashes:
        check_hash(sha256)
    found = services(request)
    missing = await found.uploads.missing(who.tenant_id, body.hashes)
    found.observer.blobs_asked(len(set(body.hashes)), len(missing))
    return Json({"missing": missing})


@router.put("/blobs/{sha256}", summary="Upload a blob", status_code=201)
@needs(Scope.SUBMIT)
async def put_blob(request: Request, sha256: str, who: Who) -> Response:
    """The raw bytes, verified against the hash: 201, or 200 if they were here."""
    check_hash(sha256)
    found = services(request)
    received = await receive_body(request, sha256)
    (is_new,) = await found.uploads.add(who.tenant_id, [received])
    return Json({"sha256": sha256, "size_bytes": received.size_bytes}, 201 if is_new else 200)


@router.post("/blobs", summary="Upload many small blobs")
@needs(Scope.SUBMIT, max_body_bytes=MAX_FRAME_BYTES)
async def put_blobs(request: Request, who: Who) -> Response:
    """A frame (application/x-rgrid-frame) of blobs, each verified against its hash."""
    header, received = await receive_frame(request)
    await services(request).uploads.add(who.tenant_id, received)
    return Json({"stored": [blob["sha256"] for blob in header["blobs"]]})


@router.api_route("/blobs/{sha256}", methods=["GET", "HEAD"], summary="Fetch a blob")
@needs(Scope.READ)
async def get_blob(request: Request, sha256: str, who: Who) -> Response:
    """The raw bytes, or those that ``Range`` asks for."""
    check_hash(sha256)
    stored = await services(request).files.open_blob(who.tenant_id, sha256)
    return await bytes_answer(request, stored, "application/octet-stream")


@router.get("/executions/{execution_id}/artifacts", summary="List an execution's files")
@needs(Scope.READ)
async def list_artifacts(request: Request, execution_id: str, who: Who) -> Response:
    """Inputs, then outputs, by name."""
    found = services(request)
    rows = await found.files.artifacts(who.tenant_id, execution_id)
    expires_at_ms = found.settings.retention.outputs_expire_at_ms
    return Json([views.artifact(row, expires_at_ms(row["completed_at_ms"])) for row in rows])


@router.post("/artifacts/download-url", summary="A URL that fetches an artifact without a key")
@needs(Scope.READ)
async def artifact_download_url(request: Request, body: DownloadUrlBody, who: Who) -> Response:
    """For an artifact's ``file_path``."""
    if not body.s3_key:
        raise ApiError(400, "s3_key_missing", "name an artifact by its file_path in s3_key")
    kind, _, rest = body.s3_key.partition("/")
    artifact_id = rest.partition("/")[0] if kind == ARTIFACT_PLACE else ""
    row = await services(request).files.artifact(artifact_id, who.tenant_id)
    return Json({"download_url": download_url(request, row["artifact_id"], row["filename"])})


@router.get("/input-cache/{input_hash}", summary="References stored for a hash of inputs")
@needs(Scope.READ)
async def get_cached_inputs(request: Request, input_hash: str, who: Who) -> Response:
    """``cache_hit``, and the references where it is one."""
    _check_input_hash(input_hash)
    found = services(request)
    references = await found.files.cached_inputs(who.tenant_id, input_hash.lower())
    found.observer.input_cache_asked(is_hit=references is not None)
    if references is None:
        return Json({"cache_hit": False})
    return Json({"cache_hit": True, "file_references": references})


@router.post("/input-cache", summary="Store references for a hash of inputs")
@needs(Scope.SUBMIT)
async def put_cached_inputs(request: Request, body: InputCacheBody, who: Who) -> Response:
    """The first ones stay."""
    _check_input_hash(body.input_hash)
    stored = await services(request).files.store_cached_inputs(
        who.tenant_id, body.input_hash.lower(), body.file_references
    )
    return Json({"stored": stored, "existing": not stored})


@signed_routes.put("/uploads/{execution_id}/{name:path}", summary="Upload an awaited file")
async def put_input(request: Request, execution_id: str, name: str) -> Response:
    """The raw bytes, without a key, under the URL that ``upload_urls`` gave."""
    check_signature(request)
    received = await receive_body(request, None)
    await services(request).uploads.put_input(execution_id, name, received)
    return Json({"filename": name, "sha256": received.sha256, "size_bytes": received.size_bytes})


@signed_routes.api_route(
    "/downloads/{artifact_id}/{filename:path}", methods=["GET", "HEAD"], summary="Fetch an artifact"
)
async def get_artifact(request: Request, artifact_id: str, filename: str) -> Response:
    """As a blob, without a key, under a URL that this server has signed."""
    check_signature(request)
    found = services(request)
    row = await found.files.artifact(artifact_id)
    stored = await found.files.open_blob(row["tenant_id"], row["sha256"])
    answer = await bytes_answer(request, stored, row["content_type"])
    base = filename.rpartition("/")[2]
    # what a script has made is never shown as a page of this server's own
    answer.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(base)}"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer


async def receive_body(request: Request, expected_sha256: str | None) -> Received:
    """Take in a request's raw body; what breaks off leaves nothing."""
    try:
        return await services(request).uploads.receive(request.stream(), expected_sha256)
    except ClientDisconnect:
        raise ApiError(400, "cut_short", "the connection ended inside the file; send it again") from None


async def receive_frame(request: Request) -> tuple[dict[str, Any], list[Received]]:
    """Take in a frame's header and the bytes of its blobs."""
    if not isinstance(request, JsonRequest):
        raise TypeError("frames are read by guarded routes only")
    try:
        header, parts = frames.decode(await request.body())
    except ClientDisconnect:
        raise ApiError(400, "cut_short", "the connection ended inside the frame; send it again") from None
    except frames.FrameError as error:
        raise ApiError(400, "frame_invalid", str(error)) from None
    hashes = [str(blob["sha256"]) for blob in header["blobs"]]
    return header, await services(request).uploads.receive_parts(parts, hashes)


def check_hash(sha256: str) -> None:
    """Refuse what is not a SHA-256."""
    if not is_sha256(sha256):
        message = f"{sha256[:80]!r} is not a SHA-256 in lower-case hex"
        raise Invalid([Problem(("sha256",), message, part="path")])


def _check_input_hash(input_hash: str) -> None:
    if _INPUT_HASH.fullmatch(input_hash) is None:
        raise ApiError(400, "input_hash_invalid", f"{input_hash[:80]!r} is not 64 hex digits")
