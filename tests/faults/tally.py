"""What every program has done, for the summary at the end of a run."""

from __future__ import annotations

from collections import Counter, defaultdict

_TALLY: dict[str, Counter[str]] = defaultdict(Counter)


def count(program: str, **amounts: int) -> None:
    """Add to a program's line: rounds, executions, kills, violations and what else it counts."""
    _TALLY[program].update({"violations": 0} | amounts)


def lines() -> list[str]:
    """A line for each program."""
    return [
        f"{program}: {', '.join(f'{amount:,} {what}' for what, amount in sorted(amounts.items()))}"
        for program, amounts in sorted(_TALLY.items())
    ]
