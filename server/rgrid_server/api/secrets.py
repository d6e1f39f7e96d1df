"""Secrets that are kept on the server under their names; no answer has a value."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from rgrid_server.api import views
from rgrid_server.api.json import Json
from rgrid_server.api.routing import Who, guarded_router, needs
from rgrid_server.api.schemas import SecretBody
from rgrid_server.api.services import services
from rgrid_server.domain.apikeys import Scope

router = guarded_router()
router.tags = ["secrets"]


@router.get("/secrets", summary="Names of the secrets that are kept")
@needs(Scope.READ)
async def list_secrets(request: Request, who: Who) -> Response:
    """In order of their names, each with the time of its last change."""
    rows = await services(request).secrets.list(who.tenant_id)
    return Json([{"name": row["name"], "updated_at": views.iso(row["updated_at_ms"])} for row in rows])


@router.put("/secrets/{name}", summary="Keep a secret")
@needs(Scope.SUBMIT)
async def put_secret(request: Request, name: str, body: SecretBody, who: Who) -> Response:
    """In place of what was kept under that name; what has yet to begin gets the new value."""
    await services(request).secrets.put(who.tenant_id, name, body.value)
    return Json({"success": True, "message": f"The secret {name} is kept"})


@router.delete("/secrets/{name}", summary="Keep a secret no more")
@needs(Scope.SUBMIT)
async def remove_secret(request: Request, name: str, who: Who) -> Response:
    """What has yet to begin with it fails, and says so."""
    await services(request).secrets.remove(who.tenant_id, name)
    return Json({"success": True, "message": f"The secret {name} is removed"})
