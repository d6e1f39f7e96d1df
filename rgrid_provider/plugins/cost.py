"""The plugin that Airflow loads: the doorway of the major that runs."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowPlugin

from rgrid_provider._compat import AIRFLOW_V_3_0_PLUS


def _web_server_parts() -> tuple[list[Any], list[Any], list[Any]]:
    """FastAPI applications, external views and AppBuilder views, where Airflow's web parts are installed."""
    try:
        if AIRFLOW_V_3_0_PLUS:
            from rgrid_provider.plugins.cost_airflow3 import EXTERNAL_VIEWS, FASTAPI_APPS

            return FASTAPI_APPS, EXTERNAL_VIEWS, []
        from rgrid_provider.plugins.cost_airflow2 import APPBUILDER_VIEWS
    except ImportError:
        # a worker with the task SDK alone has no pages to show
        return [], [], []
    return [], [], APPBUILDER_VIEWS


_fastapi_apps, _external_views, _appbuilder_views = _web_server_parts()


class RGridCostPlugin(AirflowPlugin):
    """Adds the cost view to Airflow."""

    name = "rgrid_cost"
    fastapi_apps: ClassVar[list[Any]] = _fastapi_apps
    external_views: ClassVar[list[Any]] = _external_views
    appbuilder_views: ClassVar[list[Any]] = _appbuilder_views
