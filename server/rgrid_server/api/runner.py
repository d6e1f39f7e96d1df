"""What runners call (docs/reference/runner-protocol.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import Request
from starlette.responses import Response

from rgrid_server.api.errors import ApiError
from rgrid_server.api.files import check_hash, receive_body, receive_frame
from rgrid_server.api.json import Json
from rgrid_server.api.partials import UploadComplete, UploadOffset, receive_part, upload_answer
from rgrid_server.api.ranges import bytes_answer
from rgrid_server.api.routing import bearer, guarded_router, needs
from rgrid_server.api.schemas import (
    AttemptRef,
    CarriedBody,
    ChunksBody,
    ClaimBody,
    HashesBody,
    RegisterBody,
    ReleaseBody,
)
from rgrid_server.api.services import services
from rgrid_server.clock import now_ms
from rgrid_server.domain.apikeys import Scope
from rgrid_server.domain.attempts import AttemptId, LogChunk, LogEntry, Report
from rgrid_server.scheduler.claims import LEASE_MS
from rgrid_server.scheduler.leases import HEARTBEAT_MS
from rgrid_server.scheduler.offers import ClaimRequest
from rgrid_server.scheduler.reports import SentChunk

router = guarded_router()
router.tags = ["runners"]
attempt_routes = guarded_router()
attempt_routes.tags = ["runners"]

MAX_RUNNER_BODY_BYTES = 128 * 1024 * 1024


@router.post("/runner/register", summary="Register a runner")
@needs(Scope.RUNNER)
async def register(request: Request, body: RegisterBody) -> Response:
    """Attempts of its earlier incarnations are taken back."""
    known = body.model_dump(include=set(RegisterBody.model_fields))
    await services(request).leases.register(known)
    return Json({"lease_ms": LEASE_MS, "heartbeat_ms": HEARTBEAT_MS, "now_ms": now_ms()})


@router.post("/runner/claim", summary="Claim attempts")
@needs(Scope.RUNNER)
async def claim(request: Request, body: ClaimBody) -> Response:
    """At once when there is work, else within ``wait_ms``."""
    claimed = await services(request).leases.claim(
        ClaimRequest(
            runner_id=body.runner_id,
            free_cpus_milli=body.free_cpus_milli,
            free_slots=body.free_slots,
            wait_ms=body.wait_ms,
            free_memory_mib=body.free_memory_mib,
            known=None if body.known is None else frozenset(_ids(body.known)),
            incarnation=body.incarnation,
        ),
        request.is_disconnected,
    )
    return Json(
        {
            "attempts": [asdict(item) for item in claimed.attempts],
            "specifications": claimed.specifications,
            "cancel": _refs(claimed.cancel),
            "drain": claimed.drain,
        }
    )


@router.post("/runner/heartbeat", summary="Keep leases")
@needs(Scope.RUNNER)
async def heartbeat(request: Request, body: CarriedBody) -> Response:
    """Says which attempts to cancel, and which are lost."""
    cancel, lost = await services(request).leases.heartbeat(
        body.runner_id, _ids(body.attempts), body.incarnation
    )
    return Json({"cancel": _refs(cancel), "lost": _refs(lost), "now_ms": now_ms()})


@router.post("/runner/release", summary="Hand attempts back")
@needs(Scope.RUNNER)
async def release(request: Request, body: ReleaseBody) -> Response:
    """They are queued again, at no cost."""
    await services(request).leases.release(
        body.runner_id, _ids(body.attempts), body.incarnation, is_end=body.ends
    )
    return Json({})


@router.post("/runner/logs", summary="Send log chunks")
@needs(Scope.RUNNER, max_body_bytes=MAX_RUNNER_BODY_BYTES)
async def append_logs(request: Request, body: ChunksBody) -> Response:
    """Each under its attempt's token."""
    verdicts = await services(request).reports.append_logs(
        [
            SentChunk(
                item.execution_id,
                item.attempt,
                item.token,
                LogChunk(item.first_sequence, [LogEntry(*entry) for entry in item.entries]),
            )
            for item in body.chunks
        ]
    )
    return Json({"results": [verdict.value for verdict in verdicts]})


@router.post("/runner/report", summary="End attempts")
@needs(Scope.RUNNER, max_body_bytes=MAX_RUNNER_BODY_BYTES)
async def report(request: Request) -> Response:
    """A frame of reports with their small outputs."""
    header, received = await receive_frame(request)
    try:
        listed: Any = header["reports"]
        reports = [Report.from_wire(item) for item in listed]
    except (KeyError, TypeError, ValueError) as error:
        raise ApiError(422, "report_invalid", f"a report cannot be read: {error!r}") from None
    found = services(request)
    hosts = {row["runner_id"]: row["hostname"] for row in await found.leases.runners()}
    async with found.uploads.taking(received):
        verdicts = await found.reports.end_attempts(reports, {item.sha256: item for item in received}, hosts)
    return Json({"results": [verdict.value for verdict in verdicts]})


@attempt_routes.post("/runner/attempts/{execution_id}/{attempt}/blobs/missing")
async def missing_blobs(request: Request, execution_id: str, attempt: int, body: HashesBody) -> Response:
    """Which outputs are to be uploaded."""
    tenant_id = await _tenant_of(request, execution_id, attempt)
    for sha256 in body.hashes:
        check_hash(sha256)
    return Json({"missing": await services(request).uploads.missing(tenant_id, body.hashes)})


@attempt_routes.put("/runner/attempts/{execution_id}/{attempt}/blobs/{sha256}")
async def put_blob(request: Request, execution_id: str, attempt: int, sha256: str) -> Response:
    """An output's bytes."""
    tenant_id = await _tenant_of(request, execution_id, attempt)
    check_hash(sha256)
    received = await receive_body(request, sha256)
    await services(request).uploads.add(tenant_id, [received])
    return Json({"sha256": sha256, "size_bytes": received.size_bytes})


@attempt_routes.get("/runner/attempts/{execution_id}/{attempt}/blobs/{sha256}/upload")
async def get_upload(request: Request, execution_id: str, attempt: int, sha256: str) -> Response:
    """How far an output that comes in parts is."""
    tenant_id = await _tenant_of(request, execution_id, attempt)
    check_hash(sha256)
    return upload_answer(sha256, await services(request).partials.state(tenant_id, sha256))


@attempt_routes.patch("/runner/attempts/{execution_id}/{attempt}/blobs/{sha256}/upload")
async def patch_upload(
    request: Request,
    execution_id: str,
    attempt: int,
    sha256: str,
    upload_offset: UploadOffset,
    upload_complete: UploadComplete = None,
) -> Response:
    """A part of an output."""
    tenant_id = await _tenant_of(request, execution_id, attempt)
    check_hash(sha256)
    return await receive_part(request, tenant_id, sha256, upload_offset, upload_complete)


@attempt_routes.delete("/runner/attempts/{execution_id}/{attempt}/blobs/{sha256}/upload", status_code=204)
async def delete_upload(request: Request, execution_id: str, attempt: int, sha256: str) -> Response:
    """Forget what has come of an output in parts."""
    tenant_id = await _tenant_of(request, execution_id, attempt)
    check_hash(sha256)
    await services(request).partials.discard(tenant_id, sha256)
    return Response(status_code=204)


@attempt_routes.get("/runner/attempts/{execution_id}/{attempt}/blobs/{sha256}")
async def get_blob(request: Request, execution_id: str, attempt: int, sha256: str) -> Response:
    """An input's bytes, or those that ``Range`` asks for, of this attempt only."""
    tenant_id = await _tenant_of(request, execution_id, attempt)
    check_hash(sha256)
    found = services(request)
    if not await found.executions.has_input(execution_id, sha256):
        raise ApiError(404, "not_found", f"{sha256} is no input of this attempt")
    stored = await found.files.open_blob(tenant_id, sha256)
    return await bytes_answer(request, stored, "application/octet-stream")


async def _tenant_of(request: Request, execution_id: str, attempt: int) -> str:
    """The tenant of an attempt that is being carried, and whose token the request carries."""
    found = services(request)
    if not found.signer.is_attempt_token(bearer(request) or "", execution_id, attempt):
        raise ApiError(401, "unauthorized", "this token does not open this attempt")
    tenant_id = await found.executions.tenant_of_attempt(execution_id, attempt)
    if tenant_id is None:
        raise ApiError(
            403,
            "stale_attempt",
            f"attempt {attempt} of {execution_id} has ended or was lost; stop carrying it",
        )
    return tenant_id


def _ids(refs: Sequence[AttemptRef]) -> list[AttemptId]:
    return [AttemptId(item.execution_id, item.attempt) for item in refs]


def _refs(ids: Sequence[AttemptId]) -> list[dict[str, Any]]:
    return [asdict(item) for item in ids]
