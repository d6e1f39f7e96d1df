"""Who and what this server is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from rgrid_server import __version__
from rgrid_server.api.errors import RETRY_AFTER_SECONDS, ApiError
from rgrid_server.api.json import Json
from rgrid_server.api.routing import Who, guarded_router, needs
from rgrid_server.api.services import services
from rgrid_server.domain.apikeys import Scope
from rgrid_server.domain.submission import Limits
from rgrid_server.scheduler.executions import DEFAULT_RUNTIME
from rgrid_server.store.database import Row

open_routes = APIRouter(tags=["system"])
router = guarded_router()
router.tags = ["system"]
metrics_routes = guarded_router()
metrics_routes.tags = ["system"]


@open_routes.head("/", include_in_schema=False)
@open_routes.get("/", summary="What this is")
async def root() -> Response:
    """The API's name and version."""
    return Json({"message": "RGrid API", "version": __version__})


@open_routes.head("/health", include_in_schema=False)
@open_routes.get("/health", summary="Whether it is well")
async def health(request: Request) -> Response:
    """Answers once the database can be read."""
    await services(request).tenancy.ping()
    return Json(
        {
            "status": "ok (db: connected)",
            "version": __version__,
            "timestamp": datetime.now(UTC).isoformat(),
        }
    )


@open_routes.get("/ready", summary="Whether it takes work")
@open_routes.get("/readyz", include_in_schema=False)
async def ready(request: Request) -> Response:
    """200, or 503 with every reason; what does not keep it from taking work is a warning."""
    found = await services(request).readiness.look()
    if found.reasons:
        raise ApiError(
            503,
            found.reasons[0].code,
            "; ".join(reason.message for reason in found.reasons),
            headers={"Retry-After": RETRY_AFTER_SECONDS},
            reasons=[asdict(reason) for reason in found.reasons],
        )
    return Json({"status": "ready", "warnings": [asdict(warning) for warning in found.warnings]})


@metrics_routes.get("/metrics", summary="Prometheus metrics")
@needs(Scope.ADMIN, of_operator=True)
async def metrics(request: Request) -> Response:
    """All tenants' together, so a key of the operator's is asked for; without one on the port for metrics."""
    content, content_type = await services(request).scrape.render(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": content_type})


@router.get("/whoami", summary="Whose key this is")
@needs(Scope.READ)
async def whoami(who: Who) -> Response:
    """The key's tenant and scopes."""
    return Json(
        {
            "tenant_id": who.tenant_id,
            "tenant_name": who.tenant_name,
            "key_prefix": who.key_prefix,
            "scopes": [scope.value for scope in who.scopes],
        }
    )


@router.get("/runtimes", summary="What scripts can run with")
@needs(Scope.READ)
async def runtimes(request: Request) -> Response:
    """Names and versions, newest first."""
    offered: dict[str, str] = {}
    for offer in await services(request).executions.offered_runtimes():
        offered.setdefault(offer.name, offer.version)
    default = DEFAULT_RUNTIME if DEFAULT_RUNTIME in offered else next(iter(offered), None)
    shown = [
        {"name": name, "version": version, "default": name == default} for name, version in offered.items()
    ]
    return Json(shown)


@router.get("/limits", summary="What may be asked for")
@needs(Scope.READ)
async def limits(request: Request, who: Who) -> Response:
    """The upper ends of what a submission may ask for, as far as a runner that is here can give it."""
    found = services(request).executions.limits
    runners = await services(request).executions.present_runners()
    return Json(
        {
            "max_timeout_seconds": found.max_timeout_seconds,
            **_largest(found, runners),
            "max_script_bytes": found.max_script_bytes,
            "max_blob_bytes": found.max_blob_bytes,
            "max_batch_items": found.max_batch_items,
            "max_input_files": found.max_input_files,
            "max_running": await services(request).tenancy.max_running(who.tenant_id),
            "engine": services(request).settings.engine,
            "sandboxes": sorted({runner["sandbox"] for runner in runners}),
            "sandbox_reasons": sorted(
                {runner["sandbox_reason"] for runner in runners if runner["sandbox_reason"]}
            ),
        }
    )


def _largest(limits: Limits, runners: Sequence[Row]) -> dict[str, float | int]:
    """The most vCPUs and memory that any runner has; what is asked for beyond it one carries alone."""
    cpus_milli = max((runner["slots"] * 1000 for runner in runners), default=limits.max_cpus_milli)
    # a runner that does not count its memory has as much as may be asked for
    memory_mib = max(
        (
            limits.max_memory_mib if runner["memory_mib"] is None else runner["memory_mib"]
            for runner in runners
        ),
        default=limits.max_memory_mib,
    )
    return {
        "max_cpus": min(cpus_milli, limits.max_cpus_milli) / 1000,
        "max_memory_mib": min(memory_mib, limits.max_memory_mib),
    }
