"""Batches: submit, look, wait, append, close, cancel, acknowledge, retry."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from rgrid_server.api import views
from rgrid_server.api.bulk import bulk_body, read_bulk
from rgrid_server.api.executions import Limit, Wait, ignoring, read_cursor, write_cursor
from rgrid_server.api.json import Json
from rgrid_server.api.routing import Who, guarded_router, needs
from rgrid_server.api.schemas import BatchBody, IdsBody, ItemsBody, RetryBatchBody
from rgrid_server.api.services import services
from rgrid_server.api.submissions import batch_items, batch_submission, template_submission
from rgrid_server.api.traces import submitting
from rgrid_server.domain.apikeys import Scope
from rgrid_server.domain.execution import Status
from rgrid_server.domain.money import nanos_to_micros

router = guarded_router()
router.tags = ["batches"]

MAX_BATCH_BODY_BYTES = 128 * 1024 * 1024


@router.post("/batches", summary="Submit a batch", openapi_extra=bulk_body(BatchBody))
@needs(Scope.SUBMIT, max_body_bytes=MAX_BATCH_BODY_BYTES)
async def submit(request: Request, who: Who) -> Response:
    """All of its executions in one transaction; with a ``run_key`` at most once."""
    found = services(request)
    body = await read_bulk(request, BatchBody)
    with submitting(request, "/batches") as trace_parent:
        template = await template_submission(
            *(who.tenant_id, body.template, found.executions, found.secrets), trace_parent=trace_parent
        )
        asked = batch_submission(body, template)
        stored = await found.batches.submit(who.tenant_id, asked)
    return ignoring(body, views.batch(stored.row, attached=stored.attached))


@router.post("/batches/lookup", summary="Look at many batches")
@needs(Scope.READ)
async def lookup(request: Request, body: IdsBody, who: Who) -> Response:
    """Those of the ids that there are, in the order asked, what holds the run keys, and the unknown ids."""
    rows = await services(request).batches.lookup(who.tenant_id, body.ids, body.run_keys)
    by_id = {row["batch_id"]: views.batch(row) for row in rows}
    return Json(views.looked_up("batches", by_id, body.ids))


@router.get("/batches/{batch_id}", summary="Look at a batch, or wait for it")
@needs(Scope.READ)
async def get_batch(request: Request, batch_id: str, who: Who, wait: Wait = 0) -> Response:
    """Counts, cost and ETA; at once, or as soon as all of it is terminal."""
    return Json(views.batch(await services(request).batches.get(who.tenant_id, batch_id, wait)))


@router.get("/batches/{batch_id}/status", summary="Every execution's status")
@needs(Scope.READ)
async def batch_status(request: Request, batch_id: str, who: Who) -> Response:
    """In the order of submission, with the batch's cost."""
    statuses, nanos = await services(request).batches.statuses(who.tenant_id, batch_id)
    return Json({"statuses": statuses, "total_cost_micros": nanos_to_micros(nanos)})


@router.get("/batches/{batch_id}/executions", summary="List a batch's executions")
@needs(Scope.READ)
async def batch_executions(
    request: Request,
    batch_id: str,
    who: Who,
    limit: Limit | None = None,
    cursor: str | None = None,
    status: Status | None = None,
) -> Response:
    """In order of ``batch_index``; all of them where no ``limit`` is given."""
    rows = await services(request).batches.executions(
        who.tenant_id,
        batch_id,
        limit=limit,
        after=read_cursor(cursor) if cursor else -1,
        status=status,
    )
    answer = Json([views.batch_member(row) for row in rows])
    if limit is not None and len(rows) == limit:
        answer.headers["X-Next-Cursor"] = write_cursor(rows[-1]["batch_index"])
    return answer


@router.post(
    "/batches/{batch_id}/items", summary="Append to an open batch", openapi_extra=bulk_body(ItemsBody)
)
@needs(Scope.SUBMIT, max_body_bytes=MAX_BATCH_BODY_BYTES)
async def append(request: Request, batch_id: str, who: Who) -> Response:
    """More executions of its template; with ``first_index`` at most once."""
    found = services(request)
    body = await read_bulk(request, ItemsBody)
    template = await found.batches.template(who.tenant_id, batch_id)
    with submitting(request, "/batches/{batch_id}/items") as trace_parent:
        items = batch_items(template._replace(trace_parent=trace_parent), body.items)
        stored = await found.batches.append(who.tenant_id, batch_id, items, body.first_index)
    return ignoring(body, views.batch(stored.row, attached=stored.attached))


@router.post("/batches/{batch_id}/close", summary="Say that no more items come")
@needs(Scope.SUBMIT)
async def close(request: Request, batch_id: str, who: Who) -> Response:
    """From then on it can finish."""
    return Json(views.batch(await services(request).batches.close(who.tenant_id, batch_id)))


@router.post("/batches/{batch_id}/cancel", summary="Stop a batch")
@needs(Scope.SUBMIT)
async def cancel(request: Request, batch_id: str, who: Who) -> Response:
    """End all of it that has not ended."""
    return Json(views.batch(await services(request).batches.cancel(who.tenant_id, batch_id)))


@router.post("/batches/{batch_id}/acknowledge", summary="Free its run key")
@needs(Scope.SUBMIT)
async def acknowledge(request: Request, batch_id: str, who: Who) -> Response:
    """Say that its results were taken; 409 while it runs."""
    return Json(views.batch(await services(request).batches.acknowledge(who.tenant_id, batch_id)))


@router.post("/batches/{batch_id}/retry", summary="Run it again")
@needs(Scope.SUBMIT)
async def retry(request: Request, batch_id: str, who: Who, body: RetryBatchBody | None = None) -> Response:
    """A new batch of the same work, or of what of it did not complete."""
    failed_only = body.failed_only if body is not None else False
    stored = await services(request).batches.retry(who.tenant_id, batch_id, failed_only=failed_only)
    return Json(views.batch(stored.row))
