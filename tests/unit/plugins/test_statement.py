"""The cost view's sums and its chart, without Airflow."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid.models import CostBreakdown, CostGroup
from rgrid_provider.plugins.chart import draw, round_up
from rgrid_provider.plugins.statement import Day, build_statement, find_period

TODAY = datetime.date(2026, 3, 31)

GROUPS = st.lists(
    st.builds(
        CostGroup,
        key=st.tuples(
            st.sampled_from(["2026-03-29", "2026-03-30", "2026-03-31"]),
            st.sampled_from(["", "etl", "ml", "secret"]),
            st.sampled_from(["load", "fit"]),
        ),
        executions=st.integers(0, 50),
        failed=st.integers(0, 5),
        cost_micros=st.integers(0, 10**9),
        compute_time_seconds=st.floats(0, 1000),
    ),
    max_size=30,
)


def breakdown(groups: list[CostGroup]) -> CostBreakdown:
    """A breakdown of three days."""
    return CostBreakdown(
        group_by="day,dag,task",
        start_date="2026-03-29",
        end_date="2026-03-31",
        total_cost_micros=sum(group.cost_micros for group in groups),
        total_executions=sum(group.executions for group in groups),
        groups=groups,
    )


@given(GROUPS)
def test_days_dags_and_tasks_each_sum_to_the_total(groups: list[CostGroup]) -> None:
    statement = build_statement(breakdown(groups), lambda _dag: True)
    assert statement.total_micros == sum(group.cost_micros for group in groups)
    assert sum(day.cost_micros for day in statement.days) == statement.total_micros
    assert sum(row.cost_micros for row in statement.dags) == statement.total_micros
    assert sum(row.cost_micros for row in statement.tasks) == statement.total_micros
    assert sum(row.executions for row in statement.dags) == statement.executions


@given(GROUPS)
def test_what_may_not_be_read_is_in_no_sum(groups: list[CostGroup]) -> None:
    statement = build_statement(breakdown(groups), lambda dag: dag != "secret")
    open_groups = [group for group in groups if group.key[1] != "secret"]
    assert (
        statement == build_statement(breakdown(open_groups), lambda _dag: True) or statement.hidden_dags == 1
    )
    assert statement.total_micros == sum(group.cost_micros for group in open_groups)
    assert "secret" not in {row.name for row in statement.dags} | {row.detail for row in statement.tasks}


def test_a_day_without_spend_has_a_place_in_the_chart() -> None:
    statement = build_statement(breakdown([]), lambda _dag: True)
    assert [day.date.day for day in statement.days] == [29, 30, 31]


@pytest.mark.parametrize(
    ("days", "since", "until", "first", "last", "has_problem"),
    [
        (None, None, None, "2026-03-02", "2026-03-31", False),
        ("7", None, None, "2026-03-25", "2026-03-31", False),
        (None, "2026-03-01", "2026-03-05", "2026-03-01", "2026-03-05", False),
        (None, "2026-03-05", "2026-03-01", "2026-03-02", "2026-03-31", True),
        (None, "yesterday", None, "2026-03-02", "2026-03-31", True),
        ("many", None, None, "2026-03-02", "2026-03-31", True),
        ("0", None, None, "2026-03-02", "2026-03-31", True),
        ("99999999999", None, None, "2026-03-02", "2026-03-31", True),
        (None, "2020-01-01", None, "2026-03-02", "2026-03-31", True),
    ],
)
def test_a_period_is_read_or_the_last_30_days_are_shown(
    days: str | None, since: str | None, until: str | None, first: str, last: str, has_problem: bool
) -> None:
    period = find_period(days, since, until, TODAY)
    assert (period.first_day.isoformat(), period.last_day.isoformat()) == (first, last)
    assert (period.problem is not None) == has_problem


@given(st.integers(0, 10**15))
def test_the_scale_reaches_over_the_highest_bar_and_its_quarters_are_whole(micros: int) -> None:
    top = round_up(micros)
    assert top >= micros
    assert top % 4 == 0


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=90))
def test_bars_stay_inside_the_chart(costs: list[int]) -> None:
    days = [Day(TODAY - datetime.timedelta(days=n), cost, 1) for n, cost in enumerate(costs)]
    chart = draw(days)
    assert len(chart.bars) == len(days)
    for bar in chart.bars:
        assert chart.left <= bar.x
        assert bar.x + bar.width <= chart.width + 0.02
        assert bar.y >= 0
        assert bar.y + bar.height <= chart.baseline + 0.02
