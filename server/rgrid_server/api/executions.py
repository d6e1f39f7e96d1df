"""Executions: submit, look, wait, retry, cancel, acknowledge."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from rgrid_server.api import views
from rgrid_server.api.json import Json
from rgrid_server.api.routing import Who, guarded_router, needs
from rgrid_server.api.schemas import Body, LookupBody, SubmitBody
from rgrid_server.api.services import services
from rgrid_server.api.submissions import execution_submission
from rgrid_server.api.traces import submitting
from rgrid_server.api.urls import download_url, upload_url
from rgrid_server.domain.apikeys import Scope
from rgrid_server.domain.execution import TERMINAL, Status
from rgrid_server.domain.submission import Problem
from rgrid_server.errors import Invalid
from rgrid_server.store.database import MAX_POSITION, Row
from rgrid_server.store.tenants import Principal

router = guarded_router()
router.tags = ["executions"]

MAX_WAIT_SECONDS = 60
MAX_LIMIT = 500
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS, description="seconds to wait for the end")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
_METADATA_FILTER = re.compile(r"^metadata\[(.+)\]$", re.DOTALL)


@router.post("/executions", summary="Submit an execution")
@needs(Scope.SUBMIT)
async def submit(request: Request, body: SubmitBody, who: Who) -> Response:
    """Store it, durably, and answer it; with a ``run_key`` at most once."""
    return await accept(request, who, body)


@router.get("/executions", summary="List executions, newest first")
@needs(Scope.READ)
async def list_executions(
    request: Request,
    who: Who,
    limit: Limit = 50,
    status: Status | None = None,
    cursor: str | None = None,
) -> Response:
    """Filtered by ``status`` and by any ``metadata[name]=value``."""
    metadata = {
        match.group(1): value
        for name, value in request.query_params.multi_items()
        if (match := _METADATA_FILTER.match(name))
    }
    before = read_cursor(cursor) if cursor else None
    return await page(request, who, limit=limit, before=before, status=status, metadata=metadata)


@router.post("/executions/lookup", summary="Look at many executions")
@needs(Scope.READ)
async def lookup(request: Request, body: LookupBody, who: Who) -> Response:
    """Those of the ids that there are, in the order asked, what holds the run keys, and the unknown ids."""
    rows = await services(request).executions.lookup(who.tenant_id, body.ids, body.run_keys)
    by_id = {row["execution_id"]: views.listed_execution(row) for row in rows}
    if body.log_sequence:
        newest = await services(request).logs.newest(list(by_id))
        for execution_id, found in by_id.items():
            found["log_sequence"] = newest.get(execution_id, 0)
    return Json(views.looked_up("executions", by_id, body.ids))


@router.get("/executions/{execution_id}", summary="Look at an execution, or wait for it")
@needs(Scope.READ)
async def get_execution(request: Request, execution_id: str, who: Who, wait: Wait = 0) -> Response:
    """At once, or as soon as it is terminal, at the latest after ``wait`` seconds."""
    return await read(request, who, execution_id, wait)


@router.post("/executions/{execution_id}/retry", summary="Run it again")
@needs(Scope.SUBMIT)
async def retry(request: Request, execution_id: str, who: Who) -> Response:
    """A new execution of the same script and inputs, in no batch."""
    row = await services(request).executions.retry(who.tenant_id, execution_id)
    return Json(await execution_answer(request, row))


@router.post("/executions/{execution_id}/cancel", summary="Stop it")
@needs(Scope.SUBMIT)
async def cancel(request: Request, execution_id: str, who: Who) -> Response:
    """At once when it is queued; a running one gets SIGTERM, and SIGKILL after a grace."""
    row = await services(request).executions.cancel(who.tenant_id, execution_id)
    return Json(await execution_answer(request, row))


@router.post("/executions/{execution_id}/acknowledge", summary="Free its run key")
@needs(Scope.SUBMIT)
async def acknowledge(request: Request, execution_id: str, who: Who) -> Response:
    """Say that the result was taken; 409 while it runs."""
    row = await services(request).executions.acknowledge(who.tenant_id, execution_id)
    return Json(await execution_answer(request, row))


async def accept(request: Request, who: Principal, body: SubmitBody) -> Response:
    """Store what a body asks for, and answer it."""
    found = services(request)
    with submitting(request, "/executions") as trace_parent:
        submission = await execution_submission(
            who.tenant_id, body, found.executions, found.files, found.secrets, trace_parent
        )
        submitted = await found.executions.submit(who.tenant_id, submission)
    return ignoring(body, await execution_answer(request, submitted.row, attached=submitted.attached))


async def read(request: Request, who: Principal, execution_id: str, wait: float) -> Response:
    """Answer an execution, at once or when it has ended."""
    row = await services(request).executions.get(who.tenant_id, execution_id, wait)
    return Json(await execution_answer(request, row))


async def page(
    request: Request,
    who: Principal,
    *,
    limit: int,
    before: int | None = None,
    status: Status | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Response:
    """Answer a page of a tenant's executions."""
    rows = await services(request).executions.list_page(
        who.tenant_id, limit=limit, before=before, status=status, metadata=metadata or {}
    )
    answer = Json([views.listed_execution(row) for row in rows])
    if len(rows) == limit:
        answer.headers["X-Next-Cursor"] = write_cursor(rows[-1]["sequence"])
    return answer


async def execution_answer(request: Request, row: Row, *, attached: bool = False) -> dict[str, Any]:
    """An execution with the URLs that belong to its state."""
    downloads: dict[str, str] = {}
    if row["status"] in TERMINAL and row["attempt"]:
        outputs = await services(request).files.outputs(row["execution_id"])
        downloads = {
            item["filename"]: download_url(request, item["artifact_id"], item["filename"]) for item in outputs
        }
    uploads = {name: upload_url(request, row["execution_id"], name) for name in views.missing_inputs(row)}
    return views.execution(row, upload_urls=uploads, download_urls=downloads, attached=attached)


def ignoring(body: Body, content: Any) -> Response:
    """An answer that names what of the request meant nothing."""
    answer = Json(content)
    if body.ignored_fields:
        names = ",".join(name for name in body.ignored_fields if name.isascii() and name.isprintable())
        answer.headers["X-Ignored-Fields"] = names[:1000]
    return answer


def write_cursor(position: int) -> str:
    """A position in a list, opaque to clients."""
    return base64.urlsafe_b64encode(str(position).encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> int:
    """The position that a cursor stands for.

    Raises:
        Invalid: it is none of ours.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        position: int | None = int(base64.urlsafe_b64decode(padded.encode("ascii")))
    except (ValueError, binascii.Error, UnicodeEncodeError):
        position = None
    if position is None or abs(position) > MAX_POSITION:
        message = f"{cursor[:80]!r} is not a cursor; take it from X-Next-Cursor"
        problem = Problem(("cursor",), message, part="query")
        raise Invalid([problem])
    return position
