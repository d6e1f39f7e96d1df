"""The fault programs for a long time, as suites beside each other; the last line sums them up.

``RGRID_SOAK_ROUNDS`` (20) rounds of random kills on each database, a tenth of that of every other program,
and ``RGRID_SOAK_AIRFLOW_ROUNDS`` (10) times the whole table of Airflow faults on each major, each time in an
Airflow of its own. Arguments are handed on to pytest.
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


def suites() -> list[Suite]:
    """Everything of a soak."""
    rounds = {"RGRID_SOAK_ROUNDS": str(ROUNDS)}
    names = [path.name for path in sorted((ROOT / FAULTS).glob("test_*.py"))]
    rest = [f"{FAULTS}/{name}" for name in names if name not in (*LONG, "test_random_kills.py")]
    return [
        *(
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
        ),
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
    sys.exit(run_all(suites(), sys.argv[1:]))
