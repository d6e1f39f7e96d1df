"""Work on the grid that has ended, as it is told to whom it concerns beside the task itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgrid_provider._compat import Asset


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
