"""Run a Python script on a grid as simply as on one's own machine.

>>> import rgrid
>>> rgrid.run("summarise.py", "data.csv")  # doctest: +SKIP

Everything public is here; each name is loaded when it is first used.
"""

from __future__ import annotations

from rgrid._typing import TYPE_CHECKING
from rgrid._version import __version__

if TYPE_CHECKING:
    from typing import Any

    from rgrid.aio import AsyncClient
    from rgrid.client import Client
    from rgrid.exceptions import (
        ApiError,
        ConfigurationError,
        ExecutionFailed,
        RGridError,
        TransportError,
    )
    from rgrid.models import (
        Artifact,
        Batch,
        BatchResult,
        Budget,
        Cost,
        CostBreakdown,
        Event,
        Execution,
        LogEntry,
    )
    from rgrid.runs import arun, run, submit

_HOMES = {
    "AsyncClient": "aio",
    "Client": "client",
    "ApiError": "exceptions",
    "ConfigurationError": "exceptions",
    "ExecutionFailed": "exceptions",
    "RGridError": "exceptions",
    "TransportError": "exceptions",
    "Artifact": "models",
    "Batch": "models",
    "BatchResult": "models",
    "Budget": "models",
    "Cost": "models",
    "CostBreakdown": "models",
    "Event": "models",
    "Execution": "models",
    "LogEntry": "models",
    "arun": "runs",
    "run": "runs",
    "submit": "runs",
}

__all__ = [
    "ApiError",
    "Artifact",
    "AsyncClient",
    "Batch",
    "BatchResult",
    "Budget",
    "Client",
    "ConfigurationError",
    "Cost",
    "CostBreakdown",
    "Event",
    "Execution",
    "ExecutionFailed",
    "LogEntry",
    "RGridError",
    "TransportError",
    "__version__",
    "arun",
    "run",
    "submit",
]


def __getattr__(name: str) -> Any:
    from rgrid._lazy import load

    return load(globals(), _HOMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
