"""When a script that has failed is run again: by its submitter's policy, and not otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

CAUSES = ("exit_code", "signal", "timed_out", "out_of_memory")
"""The failures that are the script's own, by the ``error_code`` that each has."""
MAX_RETRIES = 20
MAX_BACKOFF_SECONDS = 86_400.0
MAX_BACKOFF_FACTOR = 100.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, after what and how much later a failed script is run again.

    Attributes:
        max_retries: so many times at most, beside what the grid's own faults are retried.
        on: which of :data:`CAUSES` are tried again.
        exit_codes: where given, only these are, of those that ended by an exit code.
        backoff_seconds: the pause before the first retry.
        backoff_factor: by how much each pause is longer than the one before.
        max_backoff_seconds: no pause is longer.
    """

    max_retries: int
    on: tuple[str, ...] = CAUSES
    exit_codes: tuple[int, ...] | None = None
    backoff_seconds: float = 1.0
    backoff_factor: float = 2.0
    max_backoff_seconds: float = 300.0

    def covers(self, cause: str, exit_code: int | None) -> bool:
        """Whether a failure is one that is tried again."""
        if cause not in self.on:
            return False
        return cause != "exit_code" or self.exit_codes is None or exit_code in self.exit_codes

    def backoff_ms(self, retry: int) -> int:
        """The pause before a retry (1, 2, …)."""
        # a power that is past the longest pause is not computed: it may be past every float as well
        seconds = self.backoff_seconds
        for _ in range(retry - 1):
            if seconds >= self.max_backoff_seconds:
                break
            seconds *= self.backoff_factor
        return round(min(seconds, self.max_backoff_seconds) * 1000)

    def to_wire(self) -> dict[str, Any]:
        """Everything by name, as requests have it."""
        return {
            "max_retries": self.max_retries,
            "on": list(self.on),
            "exit_codes": None if self.exit_codes is None else list(self.exit_codes),
            "backoff_seconds": self.backoff_seconds,
            "backoff_factor": self.backoff_factor,
            "max_backoff_seconds": self.max_backoff_seconds,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any] | None) -> RetryPolicy | None:
        """Read what :meth:`to_wire` wrote; nothing where there is no policy."""
        if wire is None:
            return None
        exit_codes = wire["exit_codes"]
        return cls(
            max_retries=wire["max_retries"],
            on=tuple(wire["on"]),
            exit_codes=None if exit_codes is None else tuple(exit_codes),
            backoff_seconds=wire["backoff_seconds"],
            backoff_factor=wire["backoff_factor"],
            max_backoff_seconds=wire["max_backoff_seconds"],
        )


def find_policy_problems(policy: RetryPolicy) -> list[tuple[str, str]]:
    """What is wrong with a policy: the field, and a sentence."""
    problems: list[tuple[str, str]] = []
    if not 0 <= policy.max_retries <= MAX_RETRIES:
        problems.append(
            ("max_retries", f"max_retries is {policy.max_retries}; it must be from 0 to {MAX_RETRIES}")
        )
    unknown = [cause for cause in policy.on if cause not in CAUSES]
    if unknown:
        named = ", ".join(repr(cause[:80]) for cause in unknown[:5])
        problems.append(("on", f"{named} is no failure to retry on; there are {', '.join(CAUSES)}"))
    elif not policy.on:
        problems.append(("on", f"on is empty; name some of {', '.join(CAUSES)}, or leave it out for all"))
    for code in policy.exit_codes or ():
        if not 1 <= code <= 255:
            problems.append(("exit_codes", f"{code} is no exit code of a failure; they are from 1 to 255"))
            break
    if policy.exit_codes is not None and not policy.exit_codes:
        problems.append(("exit_codes", "exit_codes is empty; name some, or leave it out for all"))
    elif policy.exit_codes is not None and "exit_code" not in policy.on:
        problems.append(("exit_codes", "exit_codes are given, and on does not name exit_code; add it to on"))
    for name, value, least, most in (
        ("backoff_seconds", policy.backoff_seconds, 0.0, MAX_BACKOFF_SECONDS),
        ("backoff_factor", policy.backoff_factor, 1.0, MAX_BACKOFF_FACTOR),
        ("max_backoff_seconds", policy.max_backoff_seconds, 0.0, MAX_BACKOFF_SECONDS),
    ):
        if not (isfinite(value) and least <= value <= most):
            problems.append((name, f"{name} is {value}; it must be from {least:g} to {most:g}"))
    return problems
