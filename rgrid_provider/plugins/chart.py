"""The chart of spend by day, as numbers for an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rgrid_provider.plugins.statement import Day

WIDTH = 960
HEIGHT = 240
LEFT = 84
BOTTOM = 28
TOP = 12
MAX_LABELS = 10


@dataclass(frozen=True, slots=True)
class Bar:
    """A day's bar, in the chart's units."""

    x: float
    y: float
    width: float
    height: float
    day: Day
    label: str


@dataclass(frozen=True, slots=True)
class Gridline:
    """A horizontal line at an amount."""

    y: float
    micros: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars and lines."""

    width: int
    height: int
    left: int
    baseline: float
    bars: list[Bar]
    lines: list[Gridline]


def draw(days: Sequence[Day]) -> Chart:
    """Lay out a bar a day under a scale with round steps."""
    baseline = HEIGHT - BOTTOM
    top_micros = round_up(max((day.cost_micros for day in days), default=0))
    slot = (WIDTH - LEFT) / max(1, len(days))
    step = -(-len(days) // MAX_LABELS)
    bars = []
    for index, day in enumerate(days):
        height = (baseline - TOP) * day.cost_micros / top_micros
        bars.append(
            Bar(
                x=round(LEFT + index * slot + slot * 0.1, 2),
                y=round(baseline - height, 2),
                width=round(slot * 0.8, 2),
                height=round(height, 2),
                day=day,
                label=f"{day.date:%d %b}" if index % step == 0 else "",
            )
        )
    lines = [
        Gridline(round(baseline - (baseline - TOP) * quarter / 4, 2), top_micros * quarter // 4)
        for quarter in range(5)
    ]
    return Chart(WIDTH, HEIGHT, LEFT, baseline, bars, lines)


def round_up(micros: int) -> int:
    """The next amount of which the quarters are round: 4, 8, 20, 40, 80, 200 …

    >>> [round_up(n) for n in (0, 3, 5, 9, 21, 100)]
    [4, 4, 8, 20, 40, 200]
    """
    unit = 1
    while True:
        for factor in (4, 8, 20):
            if micros <= factor * unit:
                return factor * unit
        unit *= 10
