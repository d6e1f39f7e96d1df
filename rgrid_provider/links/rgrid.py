"""Links from a task's page to what it runs on the grid."""

from __future__ import annotations

from typing import Any

from rgrid_provider._compat import BaseOperatorLink, XCom, base_url

EXECUTION_PAGE = "/rgrid/executions"
BATCH_PAGE = "/rgrid/batches"


class RGridExecutionLink(BaseOperatorLink):
    """To the execution's page in the cost view."""

    name = "RGrid execution"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address, empty until the task has submitted."""
        return _page_of(EXECUTION_PAGE, XCom.get_value(key="execution_id", ti_key=ti_key))


class RGridBatchLink(BaseOperatorLink):
    """To the batch's page in the cost view."""

    name = "RGrid batch"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address, empty until the task has submitted."""
        return _page_of(BATCH_PAGE, XCom.get_value(key="batch_id", ti_key=ti_key))


def _page_of(page: str, identifier: Any) -> str:
    return f"{base_url()}{page}/{identifier}" if identifier else ""
