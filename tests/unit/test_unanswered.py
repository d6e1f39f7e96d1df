"""Work whose submission was not answered is looked for: not for long, and never that of a later try."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rgrid.exceptions import ServerUnreachable
from rgrid.models import Execution
from rgrid_provider import unanswered
from rgrid_provider.unanswered import PAUSE_SECONDS, SEARCH_SECONDS, find_unanswered

MINE = {"run_started_at": "2026-01-01T06:00:00+00:00", "max_tries": 2, "try_number": 2}
OF_MINE = Execution("exec_mine", "queued", user_metadata=MINE)
OF_LATER = Execution("exec_later", "running", user_metadata={**MINE, "try_number": 3})
OF_EARLIER = Execution("exec_earlier", "running", user_metadata={**MINE, "try_number": 1})
ENDED = Execution("exec_ended", "failed", user_metadata={**MINE, "try_number": 1})


class Clock:
    """Stands still but while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        """The time."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """It passes."""
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of the search."""
    clock = Clock()
    monkeypatch.setattr(unanswered, "time", clock)
    return clock


def found(answers: list[Execution | Exception | None]) -> Any:
    """What is found where looks are answered so, one after the other, and the last answer stays."""
    looks: Iterator[Execution | Exception | None] = iter(answers)
    last = answers[-1]

    def ask() -> Execution | None:
        answer = next(looks, last)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return find_unanswered(ask, MINE)


@pytest.mark.parametrize("held", [OF_MINE, OF_EARLIER, Execution("exec_of_nobody", "queued")])
def test_what_runs_is_found_at_once(clock: Clock, held: Execution) -> None:
    assert found([held]) is held
    assert clock.seconds == 0


@pytest.mark.parametrize("before", [None, ENDED, ServerUnreachable("away", was_sent=False)])
def test_a_request_that_arrives_late_is_waited_for(
    clock: Clock, before: Execution | Exception | None
) -> None:
    assert found([before, before, OF_MINE]) is OF_MINE
    assert clock.seconds == pytest.approx(2 * PAUSE_SECONDS)


@pytest.mark.parametrize("answer", [None, ENDED, ServerUnreachable("away", was_sent=False)])
def test_the_search_has_an_end(clock: Clock, answer: Execution | Exception | None) -> None:
    assert found([answer]) is None
    assert SEARCH_SECONDS <= clock.seconds < SEARCH_SECONDS + 2 * PAUSE_SECONDS


def test_what_a_later_try_has_submitted_is_left_alone(clock: Clock) -> None:
    assert found([OF_LATER]) is None
    assert clock.seconds == 0
