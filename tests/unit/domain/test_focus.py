"""A row of the bill: every column, exact amounts, quantities that explain the cost."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgrid_server.domain import focus
from rgrid_server.domain.prices import DEFAULT_PRICES, Price, Usage, charge_nanos, reserve

PRICE = DEFAULT_PRICES[0]


def usage(**changes: Any) -> dict[str, Any]:
    """An attempt's usage as the store has it: an hour of two vCPUs and 4 GiB."""
    duration_ms = changes.pop("duration_ms", 3_600_000)
    vcpu_ms, mib_ms = reserve(duration_ms, changes.pop("cpus_milli", 2000), changes.pop("memory_mib", 4096))
    return {
        "execution_id": "exec_1",
        "attempt": 2,
        "tenant_id": "tenant_1",
        "day": "2026-02-28",
        "engine": "local",
        "runner_id": "runner_1",
        "environment": "e1",
        "runtime": "python:3.11",
        "outcome": "exited",
        "ended_at_ms": 1_772_323_199_999,
        "duration_ms": duration_ms,
        "reserved_vcpu_ms": vcpu_ms,
        "reserved_mib_ms": mib_ms,
        "cpu_ms": 5,
        "peak_memory_mib": 6,
        "bytes_in": 7,
        "bytes_out": 8,
        "bytes_stored": 9,
        "batch_id": None,
        "dag_id": "etl",
        "run_id": "r1",
        "task_id": "load",
        "map_index": "3",
        "owner": "ann",
        "user_metadata": {"team": "é", "dag_id": "etl"},
        "price_id": PRICE.price_id,
        **changes,
    }


def billed(found: dict[str, Any], price: Price | None = PRICE) -> dict[str, Any]:
    """The row of a usage at a price."""
    charged = Usage(found["duration_ms"], found["reserved_vcpu_ms"], found["reserved_mib_ms"])
    return focus.row(found, price, 0 if price is None else charge_nanos(charged, price), "ann's")


def test_a_row_has_every_column_and_no_other() -> None:
    assert tuple(billed(usage())) == focus.COLUMNS
    assert len(set(focus.COLUMNS)) == len(focus.COLUMNS)


def test_an_hour_of_a_small_machine() -> None:
    row = billed(usage())
    assert {
        name: row[name] for name in ("BilledCost", "ListUnitPrice", "PricingQuantity", "PricingUnit")
    } == {
        "BilledCost": "0.006000000",
        "ListUnitPrice": "0.006000000",
        "PricingQuantity": "1.000000000",
        "PricingUnit": "Hours",
    }
    assert (row["ConsumedQuantity"], row["ConsumedUnit"]) == ("2.000000000", "vCPU-Hours")
    assert (row["ChargePeriodStart"], row["ChargePeriodEnd"]) == (
        "2026-02-28T22:59:59.999Z",
        "2026-02-28T23:59:59.999Z",
    )
    assert json.loads(row["Tags"]) == {"team": "é", "dag_id": "etl"}
    assert row["x_RowId"] == "exec_1:2"


@pytest.mark.parametrize(
    ("day", "start", "end"),
    [
        ("2026-02-28", "2026-02-01T00:00:00.000Z", "2026-03-01T00:00:00.000Z"),
        ("2026-12-31", "2026-12-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z"),
        ("2024-01-31", "2024-01-01T00:00:00.000Z", "2024-02-01T00:00:00.000Z"),
    ],
)
def test_the_billing_period_is_the_days_month(day: str, start: str, end: str) -> None:
    row = billed(usage(day=day))
    assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == (start, end)


def test_what_is_not_charged_costs_nothing_and_has_no_price() -> None:
    row = billed(usage(price_id=None, duration_ms=0), None)
    assert (row["BilledCost"], row["ListUnitPrice"], row["SkuPriceId"]) == ("0.000000000", None, None)


@given(
    duration_ms=st.integers(1, 10**9),
    cpus_milli=st.integers(1, 10**6),
    memory_mib=st.integers(1, 10**7),
    vcpu=st.integers(0, 10**10),
    gib=st.integers(0, 10**10),
)
def test_quantity_times_unit_price_is_the_cost(
    duration_ms: int, cpus_milli: int, memory_mib: int, vcpu: int, gib: int
) -> None:
    price = Price("p", "local", 0, vcpu, gib)
    row = billed(usage(duration_ms=duration_ms, cpus_milli=cpus_milli, memory_mib=memory_mib), price)
    cost = Decimal(row["PricingQuantity"]) * Decimal(row["ListUnitPrice"])
    # each factor is rounded to nine digits
    slack = (Decimal(row["PricingQuantity"]) + Decimal(row["ListUnitPrice"]) + 1) * Decimal("1e-9")
    assert abs(cost - Decimal(row["ListCost"])) <= slack
    assert row["BilledCost"] == row["EffectiveCost"] == row["ContractedCost"] == row["ListCost"]
