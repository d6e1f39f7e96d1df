"""Spend in parts that sum to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rgrid.models.base import Model


@dataclass(frozen=True, slots=True)
class CostGroup(Model):
    """One part of a breakdown; ``key`` has one text for each dimension."""

    key: tuple[str, ...]
    executions: int
    cost_micros: int
    failed: int = 0
    compute_time_seconds: float = 0.0
    cost_display: str = ""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> CostGroup:
        """Read one from an answer's JSON."""
        key = wire["key"]
        known = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        return cls(**known | {"key": tuple(key) if isinstance(key, list) else (key,)})


@dataclass(frozen=True, slots=True)
class CostBreakdown(Model):
    """Spend in parts that sum to ``total_cost_micros``."""

    group_by: str
    start_date: str
    end_date: str
    total_cost_micros: int
    total_executions: int
    groups: list[CostGroup]
    total_cost_display: str = ""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> CostBreakdown:
        """Read one from an answer's JSON."""
        known = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        return cls(**known | {"groups": [CostGroup.from_wire(group) for group in wire["groups"]]})
