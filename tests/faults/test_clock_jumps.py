"""The clock of the server, and that of the runner, are set a day forward and back while executions flow."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import requests

from tests.faults.clocks import DAY_SECONDS, LIBRARY, Clock
from tests.faults.grid import Grid
from tests.faults.history import Truth
from tests.faults.load import Load
from tests.faults.scale import DEADLINE_SECONDS, IS_SOAK, ROUNDS, seed_of
from tests.live import PYTHON

PROGRAM = "clock jumps"
EXECUTIONS = 200 if IS_SOAK else 16
PAUSES_MS = (200, 400)
"""Scripts that take so long between lines are running when the clock is set."""
JUMPS = (DAY_SECONDS, -DAY_SECONDS, 0)


@pytest.fixture(autouse=True)
def _library(require: Callable[[bool, str], None]) -> None:
    require(LIBRARY is not None, "libfaketime (on Debian: apt-get install libfaketime)")


def jump(load: Load, clock: Clock, is_noticed: Callable[[int, int], bool]) -> None:
    """Set the clock forward, back and right while some run, each time until that is noticed."""
    for number, seconds in enumerate(JUMPS, 1):
        load.wait_until_begun(number * EXECUTIONS // 5)
        clock.set(seconds)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not is_noticed(number, seconds):
            assert time.monotonic() < deadline, f"that the clock is {seconds} s off has no effect"
            time.sleep(0.05)


def assert_durations_are_sane(truth: Truth) -> None:
    """They are of the monotonic clock: some seconds, not days."""
    assert all(0 <= usage.duration_ms < DEADLINE_SECONDS * 1000 for usage in truth.usages)
    assert all(usage.due_nanos > 0 for usage in truth.usages)


def test_a_clock_that_is_set_is_off_for_those_who_look_at_it(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "a.clock")
    command = [str(PYTHON), "-c", "import time; print(time.time())"]
    for seconds in JUMPS:
        clock.set(seconds)
        told = subprocess.run(command, env=clock.environment, check=True, capture_output=True).stdout
        assert abs(float(told) - time.time() - seconds) < DAY_SECONDS / 2


def seconds_off(grid: Grid) -> float:
    """How far the server says that its clock is off."""
    told = requests.get(f"{grid.server.url}/health", timeout=60).json()["timestamp"]
    return datetime.fromisoformat(told).timestamp() - time.time()


@pytest.mark.parametrize("round_", ROUNDS)
def test_the_runners_clock_changes_nothing_at_all(tmp_path: Path, round_: int) -> None:
    with Grid(tmp_path, PROGRAM, seed_of(round_)) as grid:
        clock = Clock(tmp_path / "runner.clock")
        grid.add_runner(env=clock.environment)
        load = grid.load().start(EXECUTIONS, pauses_ms=PAUSES_MS)
        jump(load, clock, lambda number, _: load.ended >= number)
        # no disruption is in the history, so the check takes no attempt but the first
        _, truth = grid.finish(load)
        assert {item.status for item in truth.executions} == {"completed"}
        assert_durations_are_sane(truth)
        # not even when a line was printed: the server takes the runner's clock for what it is
        times_ms = [line.timestamp_ms for item in truth.executions for line in item.log]
        assert max(times_ms) - min(times_ms) < DAY_SECONDS * 1000 // 2


@pytest.mark.parametrize("round_", ROUNDS)
def test_the_servers_clock_ends_no_lease_and_holds_nothing_back(tmp_path: Path, round_: int) -> None:
    clock = Clock(tmp_path / "server.clock")
    with Grid(tmp_path, PROGRAM, seed_of(round_), env=clock.environment) as grid:
        grid.add_runner()
        load = grid.load().start(EXECUTIONS, batched=EXECUTIONS // 4, pauses_ms=PAUSES_MS)

        def is_noticed(number: int, seconds: int) -> bool:
            has_moved = grid.server.log.count("the clock was set by") >= number
            return has_moved and abs(seconds_off(grid) - seconds) < DAY_SECONDS / 2

        jump(load, clock, is_noticed)
        _, truth = grid.finish(load)
        assert {item.status for item in truth.executions} == {"completed"}
        assert_durations_are_sane(truth)


def test_what_was_submitted_before_the_clock_was_set_back_runs_under_the_next_server(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "server.clock")
    clock.set(DAY_SECONDS)
    with Grid(tmp_path, PROGRAM, 0, env=clock.environment) as grid:
        assert seconds_off(grid) > DAY_SECONDS / 2
        load = grid.load().start(4)
        load.wait_until_acknowledged(4)
        grid.recorder.is_disrupted("the server was killed")
        grid.server.kill()
        clock.set(0)
        grid.server.restart()
        grid.add_runner()
        _, truth = grid.finish(load)
        assert {item.status for item in truth.executions} == {"completed"}
