"""What may be spent, and what will be."""

from __future__ import annotations

from dataclasses import dataclass, field

from rgrid.models.base import Model


@dataclass(frozen=True, slots=True)
class Budget(Model):
    """The monthly limit and this month's use of it."""

    has_limit: bool
    monthly_limit_micros: int | None
    current_usage_micros: int
    status: str
    usage_percent: float = 0.0
    monthly_limit_display: str | None = None
    current_usage_display: str = ""
    alert_threshold_percent: int = 80
    message: str = ""

    @property
    def left_micros(self) -> int | None:
        """What may yet be spent this month, below 0 where more was; None without a limit."""
        if not self.has_limit or self.monthly_limit_micros is None:
            return None
        return self.monthly_limit_micros - self.current_usage_micros


@dataclass(frozen=True, slots=True)
class Estimate(Model):
    """What runs are likely to take and cost."""

    estimated_executions: int
    estimated_duration_seconds: float
    estimated_total_duration_seconds: float
    estimated_cost_micros: int
    estimated_cost_display: str = ""
    assumptions: list[str] = field(default_factory=list)
