"""What an administrator does: tenants, keys, and a look at runners.

Keys of the default tenant are the operator's and administer the server. An administrator of another tenant
sees and changes only what is that tenant's; the rest is not there for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request
from starlette.responses import Response

from rgrid_server.api import views
from rgrid_server.api.json import Json
from rgrid_server.api.routing import Who, check_operator, guarded_router, needs
from rgrid_server.api.schemas import KeyBody, RotateBody, TenantBody, TenantLimitsBody
from rgrid_server.api.services import services
from rgrid_server.clock import now_ms
from rgrid_server.domain.apikeys import Scope, parse_scopes
from rgrid_server.domain.submission import Problem
from rgrid_server.errors import Invalid, NotFound
from rgrid_server.store.tenants import Principal
from rgrid_server.tenancy import IssuedKey, is_operator

router = guarded_router()
router.tags = ["admin"]


@router.post("/admin/tenants", summary="Make a tenant")
@needs(Scope.ADMIN, of_operator=True)
async def add_tenant(request: Request, body: TenantBody) -> Response:
    """Its name is its own; 409 where it is taken."""
    return Json({"tenant_id": await services(request).tenancy.add_tenant(body.name), "name": body.name})


@router.get("/admin/tenants", summary="List tenants")
@needs(Scope.ADMIN)
async def list_tenants(request: Request, who: Who) -> Response:
    """Oldest first; only the own one for whoever is not the operator."""
    own = _own_tenant(who)
    rows = [row for row in await services(request).tenancy.list_tenants() if own in {None, row["tenant_id"]}]
    return Json(
        [
            {
                "tenant_id": row["tenant_id"],
                "name": row["name"],
                "monthly_limit_micros": row["monthly_limit_micros"],
                "max_running": row["max_running"],
                "created_at": views.iso(row["created_at_ms"]),
            }
            for row in rows
        ]
    )


@router.patch("/admin/tenants/{tenant_id}", summary="Limit a tenant")
@needs(Scope.ADMIN, of_operator=True)
async def limit_tenant(request: Request, tenant_id: str, body: TenantLimitsBody) -> Response:
    """How many of its executions run at once; what runs already goes on."""
    await services(request).tenancy.set_max_running(tenant_id, body.max_running)
    services(request).leases.look_again()
    return Json({"tenant_id": tenant_id, "max_running": body.max_running})


@router.post("/admin/keys", summary="Make a key")
@needs(Scope.ADMIN)
async def issue_key(request: Request, body: KeyBody, who: Who) -> Response:
    """Of the asker's own tenant where none is named; the key is shown this once."""
    try:
        scopes = parse_scopes(",".join(body.scopes))
    except ValueError as error:
        raise Invalid([Problem(("scopes",), str(error))]) from None
    if not scopes:
        raise Invalid([Problem(("scopes",), "a key needs at least one scope")])
    _check_own(who, body.tenant_id)
    _check_mintable(who, scopes)
    lifetime = body.expires_in_seconds
    issued = await services(request).tenancy.issue_key(
        body.tenant_id or who.tenant_id,
        scopes,
        body.name,
        expires_at_ms=None if lifetime is None else now_ms() + lifetime * 1000,
    )
    return Json(_issued(issued))


@router.get("/admin/keys", summary="List keys by prefix")
@needs(Scope.ADMIN)
async def list_keys(request: Request, who: Who, tenant_id: str | None = None) -> Response:
    """Of one tenant, or of all that the asker administers."""
    _check_own(who, tenant_id)
    rows = await services(request).tenancy.list_keys(tenant_id or _own_tenant(who))
    return Json([views.key(row) for row in rows])


@router.delete("/admin/keys/{key_id}", summary="Revoke a key")
@needs(Scope.ADMIN)
async def revoke_key(request: Request, key_id: str, who: Who) -> Response:
    """At once."""
    await services(request).tenancy.revoke_key(key_id, _own_tenant(who))
    return Json({"key_id": key_id, "revoked": True})


@router.post("/admin/keys/{key_id}/rotate", summary="Replace a key")
@needs(Scope.ADMIN)
async def rotate_key(request: Request, key_id: str, body: RotateBody, who: Who) -> Response:
    """A new one of the same scopes; the old one ends after the overlap."""
    tenancy, own = services(request).tenancy, _own_tenant(who)
    if own is not None:
        for row in await tenancy.list_keys(own):
            if row["key_id"] == key_id:
                _check_mintable(who, parse_scopes(row["scopes"]))
    return Json(_issued(await tenancy.rotate_key(key_id, body.overlap_seconds, own)))


@router.get("/admin/runners", summary="List runners")
@needs(Scope.ADMIN, of_operator=True)
async def list_runners(request: Request) -> Response:
    """With when each was last heard of."""
    rows = await services(request).leases.runners()
    return Json(
        [
            {
                "runner_id": row["runner_id"],
                "hostname": row["hostname"],
                "slots": row["slots"],
                "memory_mib": row["memory_mib"],
                "runtimes": row["runtimes"],
                "sandbox": row["sandbox"],
                "version": row["version"],
                "registered_at": views.iso(row["registered_at_ms"]),
                "seen_at": views.iso(row["seen_at_ms"]),
                "drained_at": views.iso(row["drained_at_ms"]),
            }
            for row in rows
        ]
    )


@router.get("/admin/drain", summary="Whether work is given to runners")
@needs(Scope.ADMIN, of_operator=True)
async def drained(request: Request) -> Response:
    """``drained_at`` is null where it is."""
    return Json({"drained_at": views.iso(await services(request).leases.all_drained_at_ms())})


@router.post("/admin/drain", summary="Give no runner work any more")
@needs(Scope.ADMIN, of_operator=True)
async def drain(request: Request) -> Response:
    """Until it is resumed, on all servers of the database and over restarts; what runs goes on."""
    await services(request).leases.set_all_drained(is_drained=True)
    return await drained(request)


@router.post("/admin/resume", summary="Give runners work again")
@needs(Scope.ADMIN, of_operator=True)
async def resume(request: Request) -> Response:
    """At once; a runner that was drained by itself stays so."""
    await services(request).leases.set_all_drained(is_drained=False)
    return await drained(request)


@router.get("/admin/prices", summary="The price book")
@needs(Scope.ADMIN, of_operator=True)
async def list_prices(request: Request) -> Response:
    """Oldest first; each holds from its time until a later one of its engine does."""
    return Json(
        [
            {
                "price_id": price.price_id,
                "engine": price.engine,
                "effective_from": views.iso(price.effective_from_ms),
                "nanos_per_vcpu_hour": price.nanos_per_vcpu_hour,
                "nanos_per_gib_hour": price.nanos_per_gib_hour,
            }
            for price in await services(request).costs.book()
        ]
    )


@router.post("/admin/runners/{runner_id}/drain", summary="Give a runner no more work")
@needs(Scope.ADMIN, of_operator=True)
async def drain_runner(request: Request, runner_id: str) -> Response:
    """Until it is resumed, also over its restarts; what it carries goes on."""
    await services(request).leases.set_drained(runner_id, is_drained=True)
    return Json({"runner_id": runner_id, "drained": True})


@router.post("/admin/runners/{runner_id}/resume", summary="Give a drained runner work again")
@needs(Scope.ADMIN, of_operator=True)
async def resume_runner(request: Request, runner_id: str) -> Response:
    """At once."""
    await services(request).leases.set_drained(runner_id, is_drained=False)
    return Json({"runner_id": runner_id, "drained": False})


def _own_tenant(who: Principal) -> str | None:
    """The one tenant that the asker administers; None for the operator, who administers all."""
    return None if is_operator(who) else who.tenant_id


def _check_own(who: Principal, tenant_id: str | None) -> None:
    if tenant_id is not None and _own_tenant(who) not in {None, tenant_id}:
        raise NotFound("Tenant")


def _check_mintable(who: Principal, scopes: Sequence[Scope]) -> None:
    # a runner is handed the work of all tenants
    if Scope.RUNNER in scopes:
        check_operator(who)


def _issued(issued: IssuedKey) -> dict[str, object]:
    return {
        "key_id": issued.key_id,
        "key": issued.key,
        "key_prefix": issued.prefix,
        "tenant_id": issued.tenant_id,
        "scopes": [scope.value for scope in issued.scopes],
    }
