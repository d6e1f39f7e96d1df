"""A tenant's monthly limit: whether it is reached, and how that is said."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rgrid_server.domain.money import display_euros, divide_half_even

ALERT_THRESHOLD_PERCENT = 80


class BudgetStatus(StrEnum):
    OK = "ok"
    WARNING = "warning"
    BLOCKED = "blocked"
    UNLIMITED = "unlimited"


@dataclass(frozen=True, slots=True)
class Budget:
    """This month's spend against its limit; ``limit_micros`` is None where there is no limit."""

    limit_micros: int | None
    usage_micros: int

    @property
    def status(self) -> BudgetStatus:
        if self.limit_micros is None:
            return BudgetStatus.UNLIMITED
        if self.usage_micros >= self.limit_micros:
            return BudgetStatus.BLOCKED
        if self.usage_micros * 100 >= self.limit_micros * ALERT_THRESHOLD_PERCENT:
            return BudgetStatus.WARNING
        return BudgetStatus.OK

    @property
    def usage_percent(self) -> float:
        """Spend as a percentage of the limit, to a tenth; 100 where the limit is 0, 0 without a limit."""
        if self.limit_micros is None:
            return 0.0
        if self.limit_micros == 0:
            return 100.0
        return divide_half_even(self.usage_micros * 1000, self.limit_micros) / 10

    @property
    def message(self) -> str:
        if self.limit_micros is None:
            return "No monthly limit is set"
        used, limit = display_euros(self.usage_micros), display_euros(self.limit_micros)
        if self.status is BudgetStatus.BLOCKED:
            return (
                f"The monthly limit of {limit} is reached ({used} used); raise or remove it to submit again"
            )
        return f"{used} of {limit} used this month ({self.usage_percent:g} %)"
