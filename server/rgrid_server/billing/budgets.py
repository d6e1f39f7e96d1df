"""The monthly limit: looked at before work is taken in."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.engine import Connection

from rgrid_server.domain.budget import Budget, BudgetStatus
from rgrid_server.domain.money import nanos_to_micros
from rgrid_server.errors import LimitReached
from rgrid_server.store import spend, tenants


def get_budget(connection: Connection, tenant_id: str, now_ms: int) -> Budget:
    """A tenant's limit and what it has used of it this month (UTC)."""
    tenant = tenants.get_tenant(connection, tenant_id)
    limit = None if tenant is None else tenant["monthly_limit_micros"]
    used_nanos = spend.month_nanos(connection, tenant_id, month_of(now_ms))
    return Budget(limit_micros=limit, usage_micros=nanos_to_micros(used_nanos))


def check_budget(connection: Connection, tenant_id: str, now_ms: int) -> None:
    """Let work pass while there is budget.

    Raises:
        LimitReached: it is used up.
    """
    tenant = tenants.get_tenant(connection, tenant_id)
    if tenant is None or tenant["monthly_limit_micros"] is None:
        return
    budget = get_budget(connection, tenant_id, now_ms)
    if budget.status is BudgetStatus.BLOCKED and budget.limit_micros is not None:
        raise LimitReached(budget.usage_micros, budget.limit_micros, budget.message)


def day_of(at_ms: int) -> str:
    """The day (UTC) of a time, YYYY-MM-DD."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def month_of(at_ms: int) -> str:
    """The month (UTC) of a time, YYYY-MM."""
    return day_of(at_ms)[:7]
