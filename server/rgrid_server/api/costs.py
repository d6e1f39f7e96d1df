"""What was spent, what it may be, and what it will be."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from starlette.responses import Response, StreamingResponse

from rgrid_server.api import views
from rgrid_server.api.json import Json
from rgrid_server.api.routing import Who, guarded_router, needs
from rgrid_server.api.schemas import LimitBody
from rgrid_server.api.services import services
from rgrid_server.api.sse import STREAM_HEADERS
from rgrid_server.billing.costs import find_period
from rgrid_server.domain import focus
from rgrid_server.domain.apikeys import Scope
from rgrid_server.domain.budget import ALERT_THRESHOLD_PERCENT
from rgrid_server.domain.money import display_euros, euros_to_micros
from rgrid_server.domain.submission import Problem
from rgrid_server.errors import Invalid
from rgrid_server.store.tenants import Principal

router = guarded_router()
router.tags = ["money"]

MAX_FILES = 10_000_000
_FILTER = "filter["


@router.get("/estimate", summary="What runs are likely to take and cost")
@needs(Scope.READ)
async def estimate(
    request: Request,
    who: Who,
    runtime: str | None = None,
    files: Annotated[int | None, Query(ge=0, le=MAX_FILES)] = None,
    batch_size: Annotated[int | None, Query(ge=0, le=MAX_FILES)] = None,
) -> Response:
    """From the median of this tenant's own runs; ``batch_size`` is the older name of ``files``."""
    asked = next((count for count in (files, batch_size) if count is not None), 1)
    return await estimated(request, who, runtime=runtime, count=asked)


@router.get("/cost", summary="Spend by day")
@needs(Scope.READ)
async def cost(
    request: Request,
    who: Who,
    since: str | None = None,
    until: str | None = None,
    days: int | None = None,
) -> Response:
    """Both days included, the last seven by default, newest first."""
    return await by_day(request, who, since=since, until=until, days=days)


@router.get("/cost/breakdown", summary="Spend in parts that sum to it")
@needs(Scope.READ)
async def breakdown(
    request: Request,
    who: Who,
    group_by: str = "day",
    since: str | None = None,
    until: str | None = None,
    days: int | None = None,
) -> Response:
    """By day, dag, task, run, owner, batch, runtime, metadata.NAME; commas for several, ``filter[dag]=x``."""
    dimensions = list(dict.fromkeys(part.strip() for part in group_by.split(",") if part.strip()))
    if not dimensions:
        message = "group_by is empty; name day, dag, task, run, owner or batch"
        raise Invalid([Problem(("group_by",), message, part="query")])
    filters = {
        name[len(_FILTER) : -1]: value
        for name, value in request.query_params.multi_items()
        if name.startswith(_FILTER) and name.endswith("]")
    }
    statement = await services(request).costs.statement(
        who.tenant_id, dimensions, find_period(since, until, days), filters
    )
    return Json(views.breakdown(group_by, dimensions, statement))


@router.get("/cost/export", summary="The bill, a row an attempt, as comma-separated values")
@needs(Scope.READ)
async def export(
    request: Request,
    who: Who,
    format: Literal["focus"] = "focus",
    since: str | None = None,
    until: str | None = None,
    days: int | None = None,
) -> Response:
    """In the columns of the FinOps specification FOCUS; ``x_RowId`` names a row for good."""
    first, last = find_period(since, until, days)
    pages = services(request).costs.bill(who.tenant_id, who.tenant_name, (first, last))
    return StreamingResponse(
        _lines(pages),
        media_type="text/csv",
        headers={
            **STREAM_HEADERS,
            "Content-Disposition": f'attachment; filename="rgrid-{format}-{first}-{last}.csv"',
        },
    )


async def _lines(pages: AsyncIterator[list[dict[str, Any]]]) -> AsyncIterator[str]:
    yield _csv([dict(zip(focus.COLUMNS, focus.COLUMNS, strict=True))])
    async for page in pages:
        yield _csv(page)


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    written = io.StringIO()
    csv.DictWriter(written, focus.COLUMNS, lineterminator="\n").writerows(rows)
    return written.getvalue()


@router.get("/cost/limit", summary="The monthly limit and its use")
@needs(Scope.READ)
async def get_limit(request: Request, who: Who) -> Response:
    """This month (UTC) against the limit."""
    budget = await services(request).costs.budget(who.tenant_id)
    limit = budget.limit_micros
    return Json(
        {
            "has_limit": limit is not None,
            "monthly_limit_micros": limit,
            "monthly_limit_display": None if limit is None else _monthly(limit),
            "current_usage_micros": budget.usage_micros,
            "current_usage_display": display_euros(budget.usage_micros),
            "usage_percent": budget.usage_percent,
            "status": budget.status.value,
            "alert_threshold_percent": ALERT_THRESHOLD_PERCENT,
            "message": budget.message,
        }
    )


@router.put("/cost/limit", summary="Set the monthly limit")
@needs(Scope.SUBMIT)
async def set_limit(request: Request, body: LimitBody, who: Who) -> Response:
    """From then on work is refused with 402 once the month's spend has reached it."""
    limit_micros = euros_to_micros(body.monthly_limit_euros)
    if body.monthly_limit_euros > 0 and limit_micros == 0:
        message = (
            f"{body.monthly_limit_euros} is less than a millionth of a euro, the least that is counted; "
            "0 lets nothing run, DELETE removes the limit"
        )
        raise Invalid([Problem(("monthly_limit_euros",), message)])
    await services(request).costs.set_limit(who.tenant_id, limit_micros)
    return Json(
        {
            "success": True,
            "monthly_limit_micros": limit_micros,
            "monthly_limit_display": _monthly(limit_micros),
            "message": f"The monthly limit is {display_euros(limit_micros)}",
        }
    )


@router.delete("/cost/limit", summary="Remove the monthly limit")
@needs(Scope.SUBMIT)
async def remove_limit(request: Request, who: Who) -> Response:
    """From then on nothing is refused for its cost."""
    await services(request).costs.set_limit(who.tenant_id, None)
    return Json({"success": True, "message": "The monthly limit is removed"})


def _monthly(limit_micros: int) -> str:
    return f"{display_euros(limit_micros)}/month"


async def by_day(
    request: Request, who: Principal, *, since: str | None = None, until: str | None = None, days: int | None
) -> Response:
    """Answer what was spent by day."""
    period = find_period(since, until, days)
    return Json(views.cost(await services(request).costs.statement(who.tenant_id, ["day"], period)))


async def estimated(request: Request, who: Principal, *, runtime: str | None, count: int) -> Response:
    """Answer what some runs are likely to take and cost."""
    found = services(request)
    wanted = await found.executions.choose_estimated(runtime)
    expected = await found.costs.estimate(who.tenant_id, wanted, count)
    return Json(
        {
            "estimated_executions": expected.executions,
            "estimated_duration_seconds": expected.duration_ms / 1000,
            "estimated_total_duration_seconds": expected.total_duration_ms / 1000,
            "estimated_cost_micros": expected.cost_micros,
            "estimated_cost_display": display_euros(expected.cost_micros),
            "assumptions": list(expected.assumptions),
        }
    )
