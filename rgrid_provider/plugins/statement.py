"""What the cost page shows: sums that add up, of the DAGs that a user may read."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rgrid.models import CostBreakdown, CostGroup

GROUP_BY = "day,dag,task"
PERIODS_DAYS = (7, 30, 90)
DEFAULT_DAYS = 30
MAX_DAYS = 366


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table; ``share`` is its part of the total, from 0 to 1."""

    name: str
    detail: str
    executions: int
    failed: int
    compute_seconds: float
    cost_micros: int
    share: float


@dataclass(frozen=True, slots=True)
class Day:
    """A bar of the chart."""

    date: datetime.date
    cost_micros: int
    executions: int


@dataclass(frozen=True, slots=True)
class Statement:
    """Everything on the page. Days, DAGs and tasks each sum to ``total_micros``."""

    first_day: datetime.date
    last_day: datetime.date
    total_micros: int
    executions: int
    failed: int
    days: list[Day]
    dags: list[Row]
    tasks: list[Row]
    hidden_dags: int


@dataclass(frozen=True, slots=True)
class Period:
    """The days that are asked for, both included, and what was wrong with the asking."""

    first_day: datetime.date
    last_day: datetime.date
    problem: str | None = None

    @property
    def days(self) -> int:
        """How many."""
        return (self.last_day - self.first_day).days + 1


def find_period(days: str | None, since: str | None, until: str | None, today: datetime.date) -> Period:
    """Read a page's query; what cannot be read falls back to the default, and is said."""
    default = Period(today - datetime.timedelta(days=DEFAULT_DAYS - 1), today)
    try:
        last = datetime.date.fromisoformat(until) if until else today
        if since:
            first = datetime.date.fromisoformat(since)
        else:
            first = last - datetime.timedelta(days=int(days or DEFAULT_DAYS) - 1)
    except (ValueError, OverflowError):
        return Period(default.first_day, default.last_day, "A day is written as YYYY-MM-DD.")
    if first > last:
        return Period(default.first_day, default.last_day, f"The first day {first} is after the last {last}.")
    if (last - first).days >= MAX_DAYS:
        return Period(default.first_day, default.last_day, f"A page shows at most {MAX_DAYS} days.")
    return Period(first, last)


def build_statement(breakdown: CostBreakdown, may_read: Callable[[str], bool]) -> Statement:
    """Sum a breakdown by day, dag and task.

    Args:
        breakdown: grouped by GROUP_BY.
        may_read: whether the user may read a DAG; for the empty name, whether they may read all DAGs, who
            alone see what runs outside of any. What they may not see is left out of every sum: a total
            that held it would tell what it cost.
    """
    known: dict[str, bool] = {}
    groups: list[CostGroup] = []
    for group in breakdown.groups:
        dag_id = group.key[1]
        if dag_id not in known:
            known[dag_id] = may_read(dag_id)
        if known[dag_id]:
            groups.append(group)
    first = datetime.date.fromisoformat(breakdown.start_date)
    last = datetime.date.fromisoformat(breakdown.end_date)
    total = sum(group.cost_micros for group in groups)
    return Statement(
        first_day=first,
        last_day=last,
        total_micros=total,
        executions=sum(group.executions for group in groups),
        failed=sum(group.failed for group in groups),
        days=_days(groups, first, last),
        dags=_rows(groups, total, lambda group: (group.key[1], "")),
        tasks=_rows(groups, total, lambda group: (group.key[2], group.key[1])),
        hidden_dags=sum(not readable for readable in known.values()),
    )


def _days(groups: Iterable[CostGroup], first: datetime.date, last: datetime.date) -> list[Day]:
    costs: defaultdict[str, int] = defaultdict(int)
    counts: defaultdict[str, int] = defaultdict(int)
    for group in groups:
        costs[group.key[0]] += group.cost_micros
        counts[group.key[0]] += group.executions
    dates = [first + datetime.timedelta(days=offset) for offset in range((last - first).days + 1)]
    return [Day(date, costs[date.isoformat()], counts[date.isoformat()]) for date in dates]


def _rows(
    groups: Iterable[CostGroup], total: int, key_of: Callable[[CostGroup], tuple[str, str]]
) -> list[Row]:
    parts: defaultdict[tuple[str, str], list[CostGroup]] = defaultdict(list)
    for group in groups:
        parts[key_of(group)].append(group)
    rows = [
        Row(
            name=name,
            detail=detail,
            executions=sum(group.executions for group in members),
            failed=sum(group.failed for group in members),
            compute_seconds=sum(group.compute_time_seconds for group in members),
            cost_micros=(cost := sum(group.cost_micros for group in members)),
            share=cost / total if total else 0.0,
        )
        for (name, detail), members in parts.items()
    ]
    return sorted(rows, key=lambda row: (-row.cost_micros, row.name, row.detail))
