"""Two runner processes say that they are the same runner, as after a disk was copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.grid import Grid, RunnerProcess
from tests.faults.scale import EXECUTIONS, ROUNDS, seed_of

PROGRAM = "two runners of one identity"


def copy_identity(of: RunnerProcess, to: Path) -> None:
    """Give another runner's directory the same id."""
    target = to / "runner" / "id"
    target.parent.mkdir(parents=True)
    target.write_text((of.home / "runner" / "id").read_text())


@pytest.mark.parametrize("round_", ROUNDS)
def test_whatever_one_takes_from_the_other_ends_once(tmp_path: Path, round_: int) -> None:
    with Grid(tmp_path, PROGRAM, seed_of(round_)) as grid:
        first = grid.add_runner(slots=2)
        load = grid.load().start(EXECUTIONS // 2, batched=EXECUTIONS // 10)
        load.wait_until_begun(EXECUTIONS // 10)
        copy_identity(first, tmp_path / "second")
        grid.recorder.is_disrupted("a second runner registered under the first one's id")
        grid.add_runner(home="second", slots=2)
        load.wait_until_begun(EXECUTIONS // 4)
        # the first one, which was told that it is superseded, comes back with another incarnation: now all
        # that the second carries is taken from it
        grid.recorder.is_disrupted("the first runner registered anew under the second one's id")
        first.kill()
        first.start()
        grid.finish(load)
