"""What runs like this one are likely to take and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rgrid_server.domain.money import nanos_to_micros
from rgrid_server.domain.prices import Price, Usage, charge_nanos, reserve

DEFAULT_DURATION_MS = 60_000
HISTORY_DAYS = 30
HISTORY_RUNS = 100


@dataclass(frozen=True, slots=True)
class Estimate:
    executions: int
    duration_ms: int
    total_duration_ms: int
    cost_micros: int
    assumptions: tuple[str, ...]


def estimate(
    executions: int, runtime: str, durations_ms: Sequence[int], price: Price, cpus_milli: int, memory_mib: int
) -> Estimate:
    """The median of earlier runs of the runtime, or a minute each where there is none."""
    if durations_ms:
        duration_ms = round(median(durations_ms))
        basis = f"median of the last {len(durations_ms)} runs with {runtime} in {HISTORY_DAYS} days"
    else:
        duration_ms = DEFAULT_DURATION_MS
        basis = f"no earlier runs with {runtime}: {DEFAULT_DURATION_MS // 1000} seconds each are assumed"
    vcpu_ms, mib_ms = reserve(duration_ms, cpus_milli, memory_mib)
    each_nanos = charge_nanos(Usage(duration_ms, vcpu_ms, mib_ms), price)
    return Estimate(
        executions=executions,
        duration_ms=duration_ms,
        total_duration_ms=executions * duration_ms,
        cost_micros=nanos_to_micros(executions * each_nanos),
        assumptions=(
            basis,
            f"{cpus_milli / 1000:g} vCPU and {memory_mib} MiB for each execution",
            f"list price {price.price_id}",
        ),
    )
