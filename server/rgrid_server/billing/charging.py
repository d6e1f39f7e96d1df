"""From an attempt's end to its usage, its charge and the day's sums, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from rgrid_server.billing.budgets import day_of
from rgrid_server.billing.pricebook import PriceBook
from rgrid_server.domain.attempts import Outcome, Report
from rgrid_server.domain.execution import State, Status, is_charged
from rgrid_server.domain.prices import Usage, charge_nanos, price_at, reserve
from rgrid_server.domain.text import without_nul
from rgrid_server.store import spend
from rgrid_server.store.database import Row


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """What charging needs to know of an attempt that has ended."""

    execution: Row
    attempt: Row
    outcome: Outcome
    after: State
    ended_at_ms: int
    report: Report | None


def charge_attempt(connection: Connection, book: PriceBook, engine: str, ended: EndedAttempt) -> int:
    """Write usage, charge and sums of an attempt; returns the charge in nano-euro.

    The database has one usage and one charge an attempt at most, so a second call for it is refused.
    """
    execution, report = ended.execution, ended.report
    duration_ms = max(0, report.duration_ms) if report is not None else 0
    vcpu_ms, mib_ms = reserve(duration_ms, execution["cpus_milli"], execution["memory_mib"])
    usage = Usage(
        duration_ms=duration_ms,
        reserved_vcpu_ms=vcpu_ms,
        reserved_mib_ms=mib_ms,
        cpu_ms=report.cpu_ms if report is not None else 0,
        peak_memory_mib=report.peak_memory_mib if report is not None else 0,
        bytes_in=report.bytes_in if report is not None else 0,
        bytes_out=report.bytes_out if report is not None else 0,
        bytes_stored=sum(item.size_bytes for item in report.artifacts) if report is not None else 0,
    )
    price = price_at(book.prices(connection), engine, ended.attempt["claimed_at_ms"])
    nanos = charge_nanos(usage, price) if is_charged(ended.outcome) else 0
    is_final = ended.after.status.is_terminal
    is_failed = ended.after.status is Status.FAILED
    day = day_of(ended.ended_at_ms)
    attribution = attribution_of(execution["user_metadata"])
    identity = {
        "execution_id": execution["execution_id"],
        "attempt": ended.attempt["attempt"],
        "tenant_id": execution["tenant_id"],
    }
    spend.insert_usage(
        connection,
        identity
        | attribution
        | {
            "day": day,
            "engine": engine,
            "runner_id": ended.attempt["runner_id"],
            "environment": _text(report.metadata.get("environment")) if report is not None else None,
            "runtime": execution["runtime"],
            "outcome": ended.outcome.value,
            "is_final": is_final,
            "is_failed": is_failed,
            "ended_at_ms": ended.ended_at_ms,
            "duration_ms": usage.duration_ms,
            "reserved_vcpu_ms": usage.reserved_vcpu_ms,
            "reserved_mib_ms": usage.reserved_mib_ms,
            "cpu_ms": usage.cpu_ms,
            "peak_memory_mib": usage.peak_memory_mib,
            "bytes_in": usage.bytes_in,
            "bytes_out": usage.bytes_out,
            "bytes_stored": usage.bytes_stored,
            "batch_id": execution["batch_id"],
            "user_metadata": execution["user_metadata"],
        },
    )
    if nanos:
        spend.insert_charge(
            connection,
            identity | {"price_id": price.price_id, "nanos": nanos, "charged_at_ms": ended.ended_at_ms},
        )
    spend.add_to_rollups(
        connection,
        {
            "tenant_id": execution["tenant_id"],
            "day": day,
            "dag_id": attribution["dag_id"] or "",
            "task_id": attribution["task_id"] or "",
            "owner": attribution["owner"] or "",
            "runtime": execution["runtime"],
        },
        executions=int(is_final),
        failed=int(is_failed),
        compute_ms=usage.duration_ms,
        nanos=nanos,
    )
    return nanos


def attribution_of(user_metadata: Mapping[str, object]) -> dict[str, str | None]:
    """Whom a charge belongs to, from the metadata that the provider's operators set."""
    return {
        name: _text(user_metadata.get(name)) for name in ("dag_id", "run_id", "task_id", "map_index", "owner")
    }


def _text(value: object) -> str | None:
    return None if value is None or isinstance(value, dict | list) else without_nul(str(value)[:512])
