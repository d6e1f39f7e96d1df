"""How long the programs run: a short round in ``make test``, many long ones in ``make soak``.

``RGRID_SOAK_ROUNDS`` is the number of long rounds of random kills, a tenth of it that of every other program;
``RGRID_FAULTS_SEED`` is the number that every round's chance is drawn from; a failure names the round's seed.
"""

from __future__ import annotations

import os

SOAK_ROUNDS = int(os.environ.get("RGRID_SOAK_ROUNDS", "0"))
IS_SOAK = SOAK_ROUNDS > 0
KILL_ROUNDS = range(SOAK_ROUNDS or 1)
ROUNDS = range(max(1, SOAK_ROUNDS // 10))
EXECUTIONS = 500 if IS_SOAK else 60
WAITING_CLIENTS = 10_000 if IS_SOAK else 1_000

DEADLINE_SECONDS = 1800.0 if IS_SOAK else 600.0
"""After so long a program gives up: a bound against hanging, not an expectation."""


def seed_of(round_: int) -> int:
    """What a round's chance is drawn from."""
    return int(os.environ.get("RGRID_FAULTS_SEED", "0")) * 1000 + round_
