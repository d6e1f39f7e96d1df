"""The cost view's doorway into Airflow 3: an application under /rgrid, behind Airflow's own login."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from rgrid_provider._compat import base_url
from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.plugins import pages

URL_PREFIX = "/rgrid"

app = FastAPI(title="RGrid cost", docs_url=None, redoc_url=None, openapi_url=None)


@app.exception_handler(HTTPException)
async def _not_allowed(request: Request, error: HTTPException) -> Response:
    """Someone who is not logged in is sent to Airflow's login, and comes back from there."""
    if error.status_code == 401 and request.method == "GET":
        asked = f"{base_url()}{URL_PREFIX}/"
        return RedirectResponse(f"{get_auth_manager().get_url_login()}?next={quote(asked, safe='')}", 302)
    return HTMLResponse(f"{error.status_code} {error.detail}", error.status_code, pages.SECURITY_HEADERS)


def _visitor(user: Annotated[Any, Depends(get_user)]) -> pages.Visitor:
    manager = get_auth_manager()
    if not manager.is_authorized_view(access_view=AccessView.WEBSITE, user=user):
        raise HTTPException(403, "you may not see Airflow's pages")
    return pages.Visitor(
        may_read=lambda dag_id: manager.is_authorized_dag(
            method="GET", details=DagDetails(id=dag_id) if dag_id else None, user=user
        ),
        connect=lambda: RGridHook().client,
    )


VisitorDep = Annotated[pages.Visitor, Depends(_visitor)]


@app.get("/")
def cost(request: Request, visitor: VisitorDep) -> Response:
    """Spend."""
    return _html(pages.cost_page(visitor, dict(request.query_params), _root(request)))


@app.get("/executions/{execution_id}")
def execution(request: Request, execution_id: str, visitor: VisitorDep) -> Response:
    """One execution."""
    return _html(pages.execution_page(visitor, execution_id, _root(request)))


@app.get("/batches/{batch_id}")
def batch(request: Request, batch_id: str, visitor: VisitorDep) -> Response:
    """One batch."""
    return _html(pages.batch_page(visitor, batch_id, _root(request)))


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/") or URL_PREFIX


def _html(page: pages.Page) -> Response:
    return HTMLResponse(page.html, page.status, pages.SECURITY_HEADERS)


FASTAPI_APPS = [{"app": app, "url_prefix": URL_PREFIX, "name": "RGrid cost"}]
EXTERNAL_VIEWS = [
    {
        "name": "RGrid cost",
        "href": f"{base_url()}{URL_PREFIX}/",
        "destination": "nav",
        "category": "browse",
        "url_route": "rgrid-cost",
    }
]
