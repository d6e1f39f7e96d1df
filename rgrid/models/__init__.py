"""What the server answers, as frozen values. Fields that a newer server adds are passed over.

Times are ISO 8601 texts in UTC, money is integers of micro-euro, sizes are bytes. Making a dataclass takes
half a millisecond, so each is loaded when it is first used: a command needs one or two.
"""

from __future__ import annotations

from rgrid._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from rgrid.models.artifacts import Artifact
    from rgrid.models.base import TERMINAL, M, Model
    from rgrid.models.batches import Batch, BatchCounts, BatchExecution, BatchResult, ResultFile
    from rgrid.models.breakdowns import CostBreakdown, CostGroup
    from rgrid.models.budgets import Budget, Estimate
    from rgrid.models.costs import Cost, CostDay
    from rgrid.models.events import Event, EventPage
    from rgrid.models.executions import Execution
    from rgrid.models.logs import LogEntry, LogPage
    from rgrid.models.system import Health, Identity, KeptSecret, Limits, Runtime

_HOMES = {
    "Artifact": "artifacts",
    "Batch": "batches",
    "BatchCounts": "batches",
    "BatchExecution": "batches",
    "BatchResult": "batches",
    "Budget": "budgets",
    "Cost": "costs",
    "CostBreakdown": "breakdowns",
    "CostDay": "costs",
    "CostGroup": "breakdowns",
    "Estimate": "budgets",
    "Event": "events",
    "EventPage": "events",
    "Execution": "executions",
    "Health": "system",
    "Identity": "system",
    "KeptSecret": "system",
    "Limits": "system",
    "LogEntry": "logs",
    "LogPage": "logs",
    "M": "base",
    "Model": "base",
    "ResultFile": "batches",
    "Runtime": "system",
    "TERMINAL": "base",
}

__all__ = [
    "TERMINAL",
    "Artifact",
    "Batch",
    "BatchCounts",
    "BatchExecution",
    "BatchResult",
    "Budget",
    "Cost",
    "CostBreakdown",
    "CostDay",
    "CostGroup",
    "Estimate",
    "Event",
    "EventPage",
    "Execution",
    "Health",
    "Identity",
    "KeptSecret",
    "Limits",
    "LogEntry",
    "LogPage",
    "M",
    "Model",
    "ResultFile",
    "Runtime",
]


def __getattr__(name: str) -> Any:
    from rgrid._lazy import load

    return load(globals(), _HOMES, name)
