"""What was spent, cut as one likes; the parts of every answer sum to its total."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from rgrid_server.billing.budgets import get_budget
from rgrid_server.clock import now_ms
from rgrid_server.domain import focus
from rgrid_server.domain.budget import Budget
from rgrid_server.domain.estimate import HISTORY_DAYS, HISTORY_RUNS, Estimate, estimate
from rgrid_server.domain.money import nanos_to_micros, round_parts_to_micros
from rgrid_server.domain.prices import Price, price_at
from rgrid_server.domain.submission import Problem, Submission
from rgrid_server.errors import Invalid
from rgrid_server.store import executions as execution_store
from rgrid_server.store import spend, tenants
from rgrid_server.store.database import Database, Row
from rgrid_server.store.intake import metadata_text

DEFAULT_DAYS = 7
MAX_DAYS = 3660
SHORT_DAYS = 31
DAY_MS = 86_400_000
BILL_PAGE_ROWS = 2_000

_ROLLUP_COLUMNS = {"day": "day", "dag": "dag_id", "task": "task_id", "owner": "owner", "runtime": "runtime"}
_USAGE_COLUMNS = {**_ROLLUP_COLUMNS, "run": "run_id", "batch": "batch_id"}
_METADATA = "metadata."


@dataclass(frozen=True, slots=True)
class Group:
    """One part of a statement; ``key`` has one text for each dimension that it was cut by."""

    key: tuple[str, ...]
    executions: int
    failed: int
    compute_ms: int
    cost_micros: int


@dataclass(frozen=True, slots=True)
class Statement:
    """Spend between two days, both included, in parts that sum to it."""

    first_day: date
    last_day: date
    total_micros: int
    groups: list[Group]

    @property
    def executions(self) -> int:
        return sum(group.executions for group in self.groups)


class Costs:
    """A tenant's spend and its limit."""

    def __init__(self, database: Database, engine: str) -> None:
        self._database = database
        self._engine = engine

    async def book(self) -> Sequence[Price]:
        """The price book, oldest first."""
        return await self._database.read(spend.load_prices)

    async def statement(
        self,
        tenant_id: str,
        dimensions: Sequence[str],
        period: tuple[date, date],
        filters: dict[str, str] | None = None,
    ) -> Statement:
        """Spend cut by dimensions: day, dag, task, run, owner, batch, runtime or metadata.NAME.

        Raises:
            Invalid: there is no such dimension.
        """
        filters = filters or {}
        named = [*dimensions, *filters]
        unknown = [name for name in named if name not in _USAGE_COLUMNS and not name.startswith(_METADATA)]
        if unknown:
            raise Invalid(
                [
                    _in_query(
                        "group_by",
                        f"{unknown[0][:80]!r} is nothing to cut by; there is "
                        f"{', '.join(_USAGE_COLUMNS)} and metadata.NAME",
                    )
                ]
            )
        first_day, last_day = period
        if all(name in _ROLLUP_COLUMNS for name in named):
            sums = await self._from_rollup(tenant_id, dimensions, period, filters)
        else:
            sums = await self._from_usages(tenant_id, dimensions, period, filters)
        ordered = _ordered(sums, newest_first=bool(dimensions) and dimensions[0] == "day")
        micros = round_parts_to_micros([row.nanos for row in ordered])
        return Statement(
            first_day=first_day,
            last_day=last_day,
            total_micros=nanos_to_micros(sum(row.nanos for row in ordered)),
            groups=[
                Group(row.key, row.executions, row.failed, row.compute_ms, cost)
                for row, cost in zip(ordered, micros, strict=True)
            ],
        )

    async def bill(
        self, tenant_id: str, tenant_name: str, period: tuple[date, date]
    ) -> AsyncIterator[list[dict[str, str | int | None]]]:
        """The rows of :mod:`focus`, page by page, in an order that stays; a day that is over gets no more."""
        after: spend.BillPosition = (period[0].isoformat(), "", 0)
        last_day = period[1].isoformat()

        def page(connection: Connection) -> Sequence[Row]:
            return spend.bill_page(
                connection, tenant_id, after=after, last_day=last_day, max_rows=BILL_PAGE_ROWS
            )

        while rows := await self._database.scan(page):
            # after the rows, so that whatever they were charged by is there
            prices = {price.price_id: price for price in await self.book()}
            yield [
                focus.row(row, prices.get(row["price_id"]), int(row["nanos"]), tenant_name) for row in rows
            ]
            last = rows[-1]
            after = (last["day"], last["execution_id"], last["attempt"])

    async def budget(self, tenant_id: str) -> Budget:
        """A tenant's limit and this month's use of it."""
        return await self._database.read(lambda c: get_budget(c, tenant_id, now_ms()))

    async def set_limit(self, tenant_id: str, limit_micros: int | None) -> None:
        """Set the monthly limit, or remove it with None."""
        await self._database.write(lambda c: tenants.set_monthly_limit(c, tenant_id, limit_micros))

    async def estimate(self, tenant_id: str, runtime: str, executions: int) -> Estimate:
        """What so many runs with a runtime are likely to take and cost."""
        now = now_ms()
        since = now - HISTORY_DAYS * DAY_MS
        durations = await self._database.read(
            lambda c: execution_store.recent_durations_ms(c, tenant_id, runtime, since, HISTORY_RUNS)
        )
        asked = Submission(script_content="", runtime=runtime)
        return estimate(
            executions,
            runtime,
            durations,
            price_at(await self.book(), self._engine, now),
            asked.cpus_milli,
            asked.memory_mib,
        )

    async def _from_rollup(
        self, tenant_id: str, dimensions: Sequence[str], period: tuple[date, date], filters: dict[str, str]
    ) -> list[_Sum]:
        columns = [_ROLLUP_COLUMNS[name] for name in dimensions]
        # a month's rows are few; what is longer may take long
        is_short = (period[1] - period[0]).days <= SHORT_DAYS
        run = self._database.read if is_short else self._database.scan
        rows = await run(
            lambda c: spend.sum_daily(
                c,
                tenant_id,
                columns,
                first_day=period[0].isoformat(),
                last_day=period[1].isoformat(),
                filters={_ROLLUP_COLUMNS[name]: value for name, value in filters.items()},
            )
        )
        return [
            _Sum(
                tuple(row[column] for column in columns),
                int(row["executions"]),
                int(row["failed"]),
                int(row["compute_ms"]),
                int(row["nanos"]),
            )
            for row in rows
            if row["executions"] is not None
        ]

    async def _from_usages(
        self, tenant_id: str, dimensions: Sequence[str], period: tuple[date, date], filters: dict[str, str]
    ) -> list[_Sum]:
        rows = await self._database.scan(
            lambda c: spend.usages_between(
                c, tenant_id, first_day=period[0].isoformat(), last_day=period[1].isoformat()
            )
        )
        sums: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for row in rows:
            if any(_value(row, name) != wanted for name, wanted in filters.items()):
                continue
            amounts = sums[tuple(_value(row, name) for name in dimensions)]
            amounts[0] += row["is_final"]
            amounts[1] += row["is_failed"]
            amounts[2] += row["duration_ms"]
            amounts[3] += row["nanos"]
        return [_Sum(key, *amounts) for key, amounts in sums.items()]


@dataclass(frozen=True, slots=True)
class _Sum:
    key: tuple[str, ...]
    executions: int
    failed: int
    compute_ms: int
    nanos: int


def find_period(since: str | None, until: str | None, days: int | None) -> tuple[date, date]:
    """The days that are asked for, both included; the last seven by default, up to today (UTC).

    Raises:
        Invalid: a day is not one, or the first is after the last.
    """
    today = datetime.now(UTC).date()
    last = _day("until", until) if until else today
    if since:
        first = _day("since", since)
    else:
        count = DEFAULT_DAYS if days is None else days
        if not 1 <= count <= MAX_DAYS:
            raise Invalid([_in_query("days", f"days is {count}; it must be from 1 to {MAX_DAYS}")])
        first = last - timedelta(days=count - 1)
    if first > last:
        raise Invalid([_in_query("since", f"the first day {first} is after the last {last}")])
    return first, last


def _day(name: str, text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise Invalid([_in_query(name, f"{text[:40]!r} is not a day; write it as YYYY-MM-DD")]) from None


def _in_query(name: str, message: str) -> Problem:
    return Problem((name,), message, part="query")


def _ordered(sums: list[_Sum], *, newest_first: bool) -> list[_Sum]:
    if newest_first:
        by_cost = sorted(sums, key=lambda row: (-row.nanos, row.key[1:]))
        return sorted(by_cost, key=lambda row: row.key[0], reverse=True)
    return sorted(sums, key=lambda row: (-row.nanos, row.key))


def _value(row: Any, dimension: str) -> str:
    if dimension.startswith(_METADATA):
        value = row["user_metadata"].get(dimension.removeprefix(_METADATA))
        return (metadata_text(value) or "") if value is not None else ""
    return row[_USAGE_COLUMNS[dimension]] or ""
