"""A tenant's bill in the columns of FOCUS, the FinOps Open Cost and Usage Specification (focus.finops.org).

One row an attempt. What it is priced by is the hours of a machine of its size, so that quantity times unit
price is its list cost; what it consumed are the vCPU-hours that it held. Amounts are exact, to the nano-euro,
so rows sum to every statement of the same days.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from rgrid_server.domain.money import NANOS_PER_EURO, divide_half_even
from rgrid_server.domain.prices import MIB_PER_GIB, MS_PER_HOUR, Price

CURRENCY = "EUR"
_PROVIDER = "RGrid"

COLUMNS = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"),
    *("BillingPeriodStart", "BillingPeriodEnd", "ChargeCategory", "ChargeClass", "ChargeDescription"),
    *("ChargeFrequency", "ChargePeriodStart", "ChargePeriodEnd", "ConsumedQuantity", "ConsumedUnit"),
    *("ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceIssuerName", "ListCost"),
    *("ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName"),
    *("PublisherName", "RegionId", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory"),
    *("ServiceName", "SkuId", "SkuPriceId", "SubAccountId", "SubAccountName", "Tags"),
    *("x_RowId", "x_ChargeDay", "x_ExecutionId", "x_Attempt", "x_Outcome", "x_BatchId", "x_DagId"),
    *("x_RunId", "x_TaskId", "x_MapIndex", "x_Owner", "x_Runtime", "x_EnvironmentKey", "x_RunnerId"),
    *("x_CpuMilliseconds", "x_PeakMemoryMiB", "x_BytesIn", "x_BytesOut", "x_BytesStored"),
)
"""The specification's, in its order of the alphabet, then our own, which it wants to begin with ``x_``."""


def row(
    usage: Mapping[str, Any], price: Price | None, nanos: int, account_name: str
) -> dict[str, str | int | None]:
    """An attempt's row.

    Args:
        usage: its usage, by the names of the table ``usages``, and ``price_id``.
        price: what it was charged at; None where it was not.
        nanos: its charge in nano-euro.
        account_name: the tenant's name.

    Returns:
        A value for each of COLUMNS; None is FOCUS' null.
    """
    day = date.fromisoformat(usage["day"])
    month = day.replace(day=1)
    ended_at = _instant(usage["ended_at_ms"])
    duration_ms = usage["duration_ms"]
    cost = _euros(nanos)
    unit_price = None if price is None or not duration_ms else _euros(_hourly_nanos(usage, price))
    return {
        "BilledCost": cost,
        "BillingAccountId": usage["tenant_id"],
        "BillingAccountName": account_name,
        "BillingCurrency": CURRENCY,
        "BillingPeriodStart": _time(_midnight(month)),
        "BillingPeriodEnd": _time(_midnight((month + timedelta(days=32)).replace(day=1))),
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"Attempt {usage['attempt']} of {usage['execution_id']}: {usage['outcome']}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _time(ended_at - timedelta(milliseconds=duration_ms)),
        "ChargePeriodEnd": _time(ended_at),
        "ConsumedQuantity": _hours(usage["reserved_vcpu_ms"]),
        "ConsumedUnit": "vCPU-Hours",
        "ContractedCost": cost,
        "ContractedUnitPrice": unit_price,
        "EffectiveCost": cost,
        "InvoiceIssuerName": _PROVIDER,
        "ListCost": cost,
        "ListUnitPrice": unit_price,
        "PricingCategory": "Standard",
        "PricingQuantity": _hours(duration_ms),
        "PricingUnit": "Hours",
        "ProviderName": _PROVIDER,
        "PublisherName": _PROVIDER,
        "RegionId": None,
        "ResourceId": usage["execution_id"],
        "ResourceName": usage["task_id"] or usage["execution_id"],
        "ResourceType": "Execution",
        "ServiceCategory": "Compute",
        "ServiceName": "RGrid",
        "SkuId": f"{usage['engine']}:{usage['runtime']}",
        "SkuPriceId": usage["price_id"],
        "SubAccountId": None,
        "SubAccountName": None,
        "Tags": json.dumps(usage["user_metadata"], ensure_ascii=False, separators=(",", ":"), sort_keys=True),
        "x_RowId": f"{usage['execution_id']}:{usage['attempt']}",
        "x_ChargeDay": usage["day"],
        "x_ExecutionId": usage["execution_id"],
        "x_Attempt": usage["attempt"],
        "x_Outcome": usage["outcome"],
        "x_BatchId": usage["batch_id"],
        "x_DagId": usage["dag_id"],
        "x_RunId": usage["run_id"],
        "x_TaskId": usage["task_id"],
        "x_MapIndex": usage["map_index"],
        "x_Owner": usage["owner"],
        "x_Runtime": usage["runtime"],
        "x_EnvironmentKey": usage["environment"],
        "x_RunnerId": usage["runner_id"],
        "x_CpuMilliseconds": usage["cpu_ms"],
        "x_PeakMemoryMiB": usage["peak_memory_mib"],
        "x_BytesIn": usage["bytes_in"],
        "x_BytesOut": usage["bytes_out"],
        "x_BytesStored": usage["bytes_stored"],
    }


def _hourly_nanos(usage: Mapping[str, Any], price: Price) -> int:
    """What an hour of a machine of the attempt's size costs."""
    vcpu = usage["reserved_vcpu_ms"] * price.nanos_per_vcpu_hour * MIB_PER_GIB
    memory = usage["reserved_mib_ms"] * price.nanos_per_gib_hour
    return divide_half_even(vcpu + memory, usage["duration_ms"] * MIB_PER_GIB)


def _euros(nanos: int) -> str:
    """Exact, without an exponent.

    >>> _euros(1), _euros(-1_500_000_000), _euros(0)
    ('0.000000001', '-1.500000000', '0.000000000')
    """
    return format(Decimal(nanos) / NANOS_PER_EURO, ".9f")


def _hours(milliseconds: int) -> str:
    return format(Decimal(milliseconds) / MS_PER_HOUR, ".9f")


def _instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=at_ms)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _time(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"
