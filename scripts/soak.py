"""The fault programs for a long time, as suites beside each other; a line at the end of each part sums it up.

First ``RGRID_SOAK_AIRFLOW_ROUNDS`` (10) times the table of Airflow faults on each major, each time in an
Airflow of its own: by themselves, for an Airflow without a processor gives tasks up that are well. Then
``RGRID_SOAK_ROUNDS`` (20) rounds of random kills on each database, and a tenth of that of all others.
Arguments are handed on to pytest.
"""

from __future__ import annotations

import os
import sys

from run_tests import ROOT, Suite, run_all

ROUNDS = int(os.environ.get("RGRID_SOAK_ROUNDS", "20"))
AIRFLOW_ROUNDS = int(os.environ.get("RGRID_SOAK_AIRFLOW_ROUNDS", "10"))
FAULTS = "tests/faults"
KILLS = f"{FAULTS}/test_random_kills.py"
LONG = ("test_several_servers.py", "test_full_disk.py", "test_two_tenants.py")
"""Programs that are suites of their own."""


def airflow_suites() -> list[Suite]:
    """Airflow's table, the majors beside each other."""
    return [
        Suite(
            f"airflow{major}-{round_ + 1}",
            f".venv-airflow{major}",
            ["tests/airflow/test_faults.py"],
            250,
            turn=f"airflow{major}",
            # a round is a process of its own; any number stands for the whole table
            variables={"RGRID_SOAK_ROUNDS": "1"},
        )
        for round_ in range(AIRFLOW_ROUNDS)
        for major in (2, 3)
    ]


def grid_suites() -> list[Suite]:
    """The programs that need no Airflow."""
    rounds = {"RGRID_SOAK_ROUNDS": str(ROUNDS)}
    names = [path.name for path in sorted((ROOT / FAULTS).glob("test_*.py"))]
    rest = [f"{FAULTS}/{name}" for name in names if name not in (*LONG, "test_random_kills.py")]
    return [
        *(
            Suite(f"kills-{database}", ".venv", [f"{KILLS}::{test}"], 90 * ROUNDS, variables=rounds)
            for database, test in (
                ("sqlite", "test_nothing_is_lost_or_done_twice_under_random_kills"),
                ("postgresql", "test_nothing_is_lost_or_done_twice_when_postgresql_is_killed_too"),
            )
        ),
        *(
            Suite(name.removesuffix(".py"), ".venv", [f"{FAULTS}/{name}"], 600, variables=rounds)
            for name in LONG
        ),
        Suite("rest", ".venv", rest, 1500, variables=rounds),
    ]


if __name__ == "__main__":
    parts = [part for part in (airflow_suites(), grid_suites()) if part]
    sys.exit(max([run_all(part, sys.argv[1:]) for part in parts]))
