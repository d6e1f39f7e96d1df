"""A task's lives, which its tries share and a clear ends; what a try makes of what an earlier one submitted.

A result that is taken frees nothing: were the run key freed then, a worker that dies between that and
Airflow's own word of success would have the work done twice. Instead each piece of work says in its metadata
of which life of its task it is, and a try decides by that. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

RUN_STARTED_AT = "run_started_at"
"""When the DAG run began; Airflow begins a run that was over anew when one of its tasks is cleared."""
MAX_TRIES = "max_tries"
"""How many tries the task is allowed; a clear raises it above those that there were, a retry does not."""
TRY_NUMBER = "try_number"

REMOVED = "removed"
"""The state of a task that its DAG has no more, and of one whose run was deleted."""
ENDED_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "restarting", REMOVED})
"""A task instance in one of these was ended by somebody while its work went on."""


class Step(Enum):
    """What a try does with the work that holds its run key."""

    ATTACH = "attach"
    """Wait for it, and take its result."""
    RENEW = "renew"
    """It has ended and its result is not this try's: free the run key, and submit anew."""
    REPLACE = "replace"
    """It runs, but for a life of the task that is over: cancel it first."""


def next_step(
    mine: Mapping[str, Any], held: Mapping[str, Any], *, is_terminal: bool, succeeded: bool
) -> Step:
    """What a try does with work that it finds.

    Args:
        mine: the attribution of the try.
        held: the metadata of the work.
        is_terminal: whether the work has ended.
        succeeded: whether it has ended well.
    """
    is_mine = is_same_life(mine, held)
    if not is_mine and _place(held) > _place(mine):
        # this worker is the one that is late, and Airflow is about to end it
        return Step.ATTACH
    if not is_terminal:
        return Step.ATTACH if is_mine else Step.REPLACE
    return Step.ATTACH if is_mine and succeeded else Step.RENEW


def may_end(mine: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    """Whether a try that is over may end the work that holds its run key: none of a try after it.

    Args:
        mine: the attribution of the try.
        held: the metadata of the work.
    """
    return _place(held) <= _place(mine)


def says_its_life(metadata: Mapping[str, Any]) -> bool:
    """Whether a clear could be told by it; else work is acknowledged as soon as its result is taken."""
    return RUN_STARTED_AT in metadata or MAX_TRIES in metadata


def is_same_life(mine: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    """Whether no clear lies between a try and some work; what does not say its life is taken as the try's."""
    if not says_its_life(held):
        return True
    return all(mine.get(name) == held.get(name) for name in (RUN_STARTED_AT, MAX_TRIES))


def is_wanted(state: str | None, *, is_same_life: bool = True, is_later_try: bool = False) -> bool:
    """Whether what a task has submitted is to go on although its process or its trigger ends.

    Args:
        state: the task instance's state just now; None of one that is to be scheduled anew.
        is_same_life: False where the task was cleared since, True where nobody knows.
        is_later_try: whether another try has begun, to which that state belongs.
    """
    if not is_same_life:
        # the next life would cancel it as well, but may come late or never
        return False
    # the next try attaches to it
    return is_later_try or state not in ENDED_STATES


def _place(metadata: Mapping[str, Any]) -> tuple[datetime, int]:
    """Where a try stands in a task's history."""
    try:
        started = datetime.fromisoformat(metadata[RUN_STARTED_AT])
        return started.astimezone(UTC), int(metadata[TRY_NUMBER])
    except (KeyError, TypeError, ValueError):
        return datetime.min.replace(tzinfo=UTC), 0
