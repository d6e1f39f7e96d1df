"""Server and runner are killed with SIGKILL at random moments while executions flow."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.grid import Grid
from tests.faults.scale import EXECUTIONS, IS_SOAK, ROUNDS, seed_of

KILLS = 12 if IS_SOAK else 4


@pytest.mark.parametrize("round_", ROUNDS)
def test_nothing_is_lost_or_done_twice_under_random_kills(tmp_path: Path, round_: int) -> None:
    seed = seed_of(round_)
    chance = random.Random(f"kills {seed}")
    with Grid(tmp_path, "random kills", seed, slots=4) as grid:
        load = grid.load().start(EXECUTIONS, batched=EXECUTIONS // 5)
        # by progress, not by time: on a slow machine they come as often
        for moment in sorted(chance.sample(range(1, EXECUTIONS), KILLS)):
            load.wait_until_begun(moment)
            victim = chance.choice(["server", "runner", "both"])
            if victim != "server":
                grid.kill_runner()
            if victim != "runner":
                grid.kill_server()
        history, _ = grid.finish(load)
        assert history.disruptions
