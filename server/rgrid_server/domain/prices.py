"""Prices and what a usage costs at them; amounts are nano-euro (docs: billing)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rgrid_server.domain.money import divide_half_even

MS_PER_HOUR = 3_600_000
MIB_PER_GIB = 1024


@dataclass(frozen=True, slots=True)
class Price:
    """One entry of the price book; it holds from ``effective_from_ms`` until a later one of its engine."""

    price_id: str
    engine: str
    effective_from_ms: int
    nanos_per_vcpu_hour: int
    nanos_per_gib_hour: int


DEFAULT_PRICES = (
    # A machine of 2 vCPU and 4 GiB then costs 2 x 2,000,000 + 4 x 500,000 nano-euro: 0.006 EUR an hour,
    # what small European cloud servers are let for.
    Price("default-2025", "local", 0, nanos_per_vcpu_hour=2_000_000, nanos_per_gib_hour=500_000),
    Price("default-2025-ray", "ray", 0, nanos_per_vcpu_hour=2_000_000, nanos_per_gib_hour=500_000),
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt consumed, in integers; the time base is the runner's monotonic clock."""

    duration_ms: int
    reserved_vcpu_ms: int
    reserved_mib_ms: int
    cpu_ms: int = 0
    peak_memory_mib: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    bytes_stored: int = 0


def reserve(duration_ms: int, cpus_milli: int, memory_mib: int) -> tuple[int, int]:
    """vCPU-milliseconds and MiB-milliseconds that were held for ``duration_ms``."""
    held_ms = max(0, duration_ms)
    return divide_half_even(cpus_milli * held_ms, 1000), memory_mib * held_ms


def charge_nanos(usage: Usage, price: Price) -> int:
    """What a usage costs, rounded once to the nano-euro.

    >>> price = DEFAULT_PRICES[0]
    >>> charge_nanos(Usage(3_600_000, 2 * 3_600_000, 4096 * 3_600_000), price)
    6000000
    """
    vcpu = usage.reserved_vcpu_ms * price.nanos_per_vcpu_hour * MIB_PER_GIB
    memory = usage.reserved_mib_ms * price.nanos_per_gib_hour
    return divide_half_even(vcpu + memory, MS_PER_HOUR * MIB_PER_GIB)


def price_at(prices: Sequence[Price], engine: str, at_ms: int) -> Price:
    """The price of an engine that was in force at a time.

    Raises:
        LookupError: the book has none for that engine so early.
    """
    in_force = [p for p in prices if p.engine == engine and p.effective_from_ms <= at_ms]
    if not in_force:
        raise LookupError(f"the price book has no price for engine {engine!r} at {at_ms}")
    return max(in_force, key=lambda p: p.effective_from_ms)
