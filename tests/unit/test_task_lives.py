"""What a try of an Airflow task makes of what an earlier one submitted: the rule, without Airflow."""

from __future__ import annotations

from typing import Any

import pytest

from rgrid_provider.lives import Step, is_wanted, may_end, next_step

MORNING, EVENING = "2026-01-01T06:00:00+00:00", "2026-01-01T18:00:00.000001+00:00"


def attributed(started: str = MORNING, max_tries: int = 2, try_number: int = 1) -> dict[str, Any]:
    return {"run_started_at": started, "max_tries": max_tries, "try_number": try_number}


SAME = attributed()
RETRY = attributed(try_number=2)
CLEARED = attributed(max_tries=3, try_number=2)
CLEARED_RUN = attributed(EVENING, try_number=2)
MADE_ANEW = attributed(EVENING)


@pytest.mark.parametrize(
    ("mine", "held", "running", "succeeded", "failed"),
    [
        (SAME, SAME, Step.ATTACH, Step.ATTACH, Step.RENEW),
        (RETRY, SAME, Step.ATTACH, Step.ATTACH, Step.RENEW),
        (CLEARED, SAME, Step.REPLACE, Step.RENEW, Step.RENEW),
        (CLEARED_RUN, SAME, Step.REPLACE, Step.RENEW, Step.RENEW),
        (MADE_ANEW, RETRY, Step.REPLACE, Step.RENEW, Step.RENEW),
        # fewer retries in the DAG than before, and then cleared
        (attributed(max_tries=1, try_number=2), SAME, Step.REPLACE, Step.RENEW, Step.RENEW),
        # a worker that was cut off comes back when the next life has begun
        (SAME, CLEARED, Step.ATTACH, Step.ATTACH, Step.ATTACH),
        (RETRY, CLEARED_RUN, Step.ATTACH, Step.ATTACH, Step.ATTACH),
        # it does not say
        (RETRY, {}, Step.ATTACH, Step.ATTACH, Step.RENEW),
        (RETRY, {"run_started_at": "?", "max_tries": None}, Step.REPLACE, Step.RENEW, Step.RENEW),
    ],
)
def test_a_retry_takes_the_work_of_its_life_and_a_clear_begins_another(
    mine: dict[str, Any], held: dict[str, Any], running: Step, succeeded: Step, failed: Step
) -> None:
    assert next_step(mine, held, is_terminal=False, succeeded=False) is running
    assert next_step(mine, held, is_terminal=True, succeeded=True) is succeeded
    assert next_step(mine, held, is_terminal=True, succeeded=False) is failed


@pytest.mark.parametrize(
    ("mine", "held", "may"),
    [
        (SAME, SAME, True),
        (RETRY, SAME, True),
        (CLEARED_RUN, RETRY, True),
        (SAME, {}, True),
        (SAME, RETRY, False),
        (SAME, CLEARED, False),
        (RETRY, MADE_ANEW, False),
    ],
)
def test_a_try_that_is_over_ends_nothing_of_a_later_one(
    mine: dict[str, Any], held: dict[str, Any], may: bool
) -> None:
    assert may_end(mine, held) is may


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        ("running", True),
        ("deferred", True),
        ("queued", True),
        ("scheduled", True),
        # the scheduler gave up the worker, and this is its late end
        ("up_for_retry", True),
        # a scheduler that began anew took the task for lost
        (None, True),
        ("restarting", False),
        ("success", False),
        ("failed", False),
        ("skipped", False),
        ("removed", False),
    ],
)
def test_work_ends_with_its_task_only_where_somebody_ended_that(state: str | None, wanted: bool) -> None:
    assert is_wanted(state) is wanted
    assert is_wanted(state, is_later_try=True) is True
    assert is_wanted(state, is_same_life=False, is_later_try=True) is False
