"""Calls about money: estimates, spend, the bill, and the budget."""

from __future__ import annotations

from rgrid import models
from rgrid._typing import TYPE_CHECKING
from rgrid.calls.base import Call, query_of, read_body, read_message, read_one

if TYPE_CHECKING:
    from collections.abc import Mapping


def estimate(runtime: str | None = None, files: int | None = None) -> Call[models.Estimate]:
    """What runs are likely to take and cost."""
    return Call(
        "GET", "/estimate", read_one(lambda: models.Estimate), query=query_of(runtime=runtime, files=files)
    )


def cost(since: str | None = None, until: str | None = None, days: int | None = None) -> Call[models.Cost]:
    """Spend by day."""
    return Call(
        "GET", "/cost", read_one(lambda: models.Cost), query=query_of(since=since, until=until, days=days)
    )


def cost_breakdown(
    group_by: str,
    since: str | None = None,
    until: str | None = None,
    days: int | None = None,
    filters: Mapping[str, str] | None = None,
) -> Call[models.CostBreakdown]:
    """Spend in parts that sum to it."""
    narrowed = [(f"filter[{name}]", value) for name, value in (filters or {}).items()]
    return Call(
        "GET",
        "/cost/breakdown",
        read_one(lambda: models.CostBreakdown),
        query=[*query_of(group_by=group_by, since=since, until=until, days=days), *narrowed],
    )


def cost_export(since: str | None = None, until: str | None = None, days: int | None = None) -> Call[bytes]:
    """The bill, a row an attempt, as comma-separated values in FOCUS columns."""
    query = query_of(format="focus", since=since, until=until, days=days)
    return Call("GET", "/cost/export", read_body, query=query)


def get_budget() -> Call[models.Budget]:
    """The monthly limit and its use."""
    return Call("GET", "/cost/limit", read_one(lambda: models.Budget))


def set_budget(monthly_limit_euros: str) -> Call[str]:
    """Set the monthly limit; returns what the server says of it."""
    # a number to the last digit: the text is JSON's own form of one
    body = f'{{"monthly_limit_euros": {monthly_limit_euros}}}'.encode()
    return Call("PUT", "/cost/limit", read_message, body=body, headers={"Content-Type": "application/json"})


def remove_budget() -> Call[str]:
    """Remove the monthly limit; returns what the server says of it."""
    return Call("DELETE", "/cost/limit", read_message)
