"""Work on the grid that has ended, as it is told to whom it concerns beside the task itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgrid.models import Artifact, Execution
from rgrid_provider._compat import Asset

MAX_ARTIFACTS_IN_XCOM = 1000


@dataclass(frozen=True, slots=True)
class Written:
    """A file that came of the work: where it was put on the worker, or None where it stayed on the grid."""

    name: str
    path: Path | None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A piece of work that has ended.

    Attributes:
        kind: ``execution`` or ``batch``.
        id: its id.
        server: the server's address.
        status: how it ended.
        cost_micros: in micro-euro.
        executions: how many it was.
        read: input files, as the worker has them.
        written: its outputs.
    """

    kind: str
    id: str
    server: str
    status: str
    cost_micros: int
    executions: int = 1
    read: tuple[Path, ...] = ()
    written: tuple[Written, ...] = ()


def tell_assets(outlets: Iterable[Any], context: Any, done: Done) -> None:
    """Write into the events of a task's assets which work made them, and what it cost."""
    events = context.get("outlet_events")
    if events is None:
        return
    for outlet in outlets:
        if isinstance(outlet, Asset):
            events[outlet].extra.update(
                {f"rgrid_{done.kind}_id": done.id, "rgrid_cost_micros": done.cost_micros}
            )


def outputs_of(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """Those of an execution's files that its script wrote."""
    return [item for item in artifacts if item.artifact_type == "output"]


def files_in_xcom(outputs: Iterable[Artifact]) -> list[dict[str, Any]]:
    """Outputs as the XCom ``artifacts`` has them."""
    return [
        {"filename": item.filename, "file_path": item.file_path, "size_bytes": item.size_bytes}
        for item in outputs
    ][:MAX_ARTIFACTS_IN_XCOM]


def tell_end(log: Any, execution: Execution) -> None:
    """Write into the task's log how an execution ended."""
    log.info(
        "%s %s after %s s for %s micro-euro",
        execution.execution_id,
        execution.status,
        execution.duration_seconds,
        execution.cost_micros,
    )
