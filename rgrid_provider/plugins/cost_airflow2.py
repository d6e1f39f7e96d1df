"""The cost view's doorway into Airflow 2: a Flask-AppBuilder view, behind Airflow's own login."""

from __future__ import annotations

from typing import Any

from airflow.auth.managers.models.resource_details import DagDetails
from airflow.www.auth import has_access_view
from airflow.www.extensions.init_auth_manager import get_auth_manager
from flask import Response, request, url_for
from flask_appbuilder import BaseView, expose

from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.plugins import pages


class RGridCostView(BaseView):
    """Spend, executions and batches."""

    route_base = "/rgrid"
    default_view = "cost"

    @expose("/")
    @has_access_view()
    def cost(self) -> Response:
        """Spend."""
        return _html(pages.cost_page(_visitor(), request.args.to_dict(), _root()))

    @expose("/executions/<string:execution_id>")
    @has_access_view()
    def execution(self, execution_id: str) -> Response:
        """One execution."""
        return _html(pages.execution_page(_visitor(), execution_id, _root()))

    @expose("/batches/<string:batch_id>")
    @has_access_view()
    def batch(self, batch_id: str) -> Response:
        """One batch."""
        return _html(pages.batch_page(_visitor(), batch_id, _root()))


def _visitor() -> pages.Visitor:
    manager = get_auth_manager()
    return pages.Visitor(
        may_read=lambda dag_id: manager.is_authorized_dag(
            method="GET", details=DagDetails(id=dag_id) if dag_id else None
        ),
        connect=lambda: RGridHook().client,
    )


def _root() -> str:
    return str(url_for("RGridCostView.cost")).rstrip("/")


def _html(page: pages.Page) -> Response:
    return Response(page.html, page.status, pages.SECURITY_HEADERS, mimetype="text/html")


APPBUILDER_VIEWS: list[dict[str, Any]] = [
    {"name": "RGrid cost", "category": "Browse", "view": RGridCostView()}
]
