"""Spend by day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rgrid.models.base import Model


@dataclass(frozen=True, slots=True)
class CostDay(Model):
    """A day's spend."""

    date: str
    executions: int
    compute_time_seconds: float
    cost_micros: int
    cost_display: str = ""


@dataclass(frozen=True, slots=True)
class Cost(Model):
    """Spend by day, newest first."""

    start_date: str
    end_date: str
    total_cost_micros: int
    total_executions: int
    by_date: list[CostDay]
    total_cost_display: str = ""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Cost:
        """Read one from an answer's JSON."""
        known = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        return cls(**known | {"by_date": [CostDay.from_wire(day) for day in wire["by_date"]]})
