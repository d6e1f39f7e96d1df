"""Kills at random moments, which come by progress, while executions flow."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping

from tests.faults.grid import Grid
from tests.faults.load import Load
from tests.faults.scale import EXECUTIONS, IS_SOAK
from tests.postgres import PostgresCluster

KILLS = 12 if IS_SOAK else 4


def disturb(
    grid: Grid, load: Load, seed: int, victims: Mapping[str, Callable[[], None]], kills: int = KILLS
) -> None:
    """Kill one or two of the victims at each of some random moments, and check everything at the end."""
    chance = random.Random(f"kills {seed}")
    # by progress, not by time: on a slow machine they come as often
    for number, moment in enumerate(sorted(chance.sample(range(1, EXECUTIONS), kills))):
        load.wait_until_begun(moment)
        # each of them has its turn, alone or with another one
        names = sorted(victims)
        for name in {names[number % len(names)], chance.choice(names)}:
            victims[name]()
    history, _ = grid.finish(load)
    assert len(history.disruptions) >= kills // 2


def of_database(grid: Grid, cluster: PostgresCluster, seed: int) -> dict[str, Callable[[], None]]:
    """PostgreSQL and one of its sessions, as victims."""

    def kill_database() -> None:
        grid.disrupt("PostgreSQL was killed", cluster.kill)
        cluster.start()

    def kill_session() -> None:
        grid.disrupt("a session of PostgreSQL was killed", lambda: kill_a_session(cluster, seed))

    return {"database": kill_database, "session": kill_session}


def kill_a_session(cluster: PostgresCluster, seed: int) -> None:
    """kill -9 a backend that serves RGrid: PostgreSQL then ends every other one, and recovers."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'rgrid' ORDER BY pid"
    with cluster.connect() as connection:
        pids = [row[0] for row in connection.execute(query).fetchall()]
    if pids:
        os.kill(random.Random(seed).choice(pids), signal.SIGKILL)
    cluster.wait_until_it_answers()
