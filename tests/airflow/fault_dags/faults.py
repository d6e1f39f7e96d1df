"""The DAGs of the fault table: a task whose script ends when the test says so."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from rgrid_provider.operators.rgrid import RGridRunOperator

PLACE = os.environ["RGRID_FAULTS_PLACE"]
SCRIPT = """
import json, os, pathlib, sys, time

place = pathlib.Path(os.environ["PLACE"])


def note(what):
    with (place / what).open("a") as opened:
        opened.write(os.environ["RGRID_EXECUTION_ID"] + "\\n")


for number in range(3):
    print("line", number, flush=True)
note("began")
while not (place / "go").exists():
    time.sleep(0.1)
print("line 3", flush=True)
if (place / "fail").exists():
    (place / "fail").unlink()
    sys.exit("no luck this time")
pathlib.Path("out.txt").write_text("five!")
note("ended")
print(json.dumps({"lines": 4}))
"""


def hold(context: Any, _result: Any = None) -> None:
    """Between the result and Airflow's word of success: stay there while the test wants it."""
    place = Path(PLACE, context["run_id"])
    if (place / "hold").exists():
        (place / "taken").touch()
        while (place / "hold").exists():
            time.sleep(0.1)


for name, options in {
    "waits": {},
    "defers": {"deferrable": True},
    "waits_far": {"rgrid_conn_id": "rgrid_far"},
    "defers_far": {"rgrid_conn_id": "rgrid_far", "deferrable": True},
    "waits_held": {"post_execute": hold},
    "defers_held": {"post_execute": hold, "deferrable": True},
}.items():
    with DAG(
        name,
        start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
        schedule=None,
        max_active_runs=100,
        is_paused_upon_creation=False,
    ):
        RGridRunOperator(
            task_id="work",
            script=SCRIPT,
            env_vars={"PLACE": PLACE + "/{{ run_id }}"},
            cpus=0.1,
            memory_mib=64,
            retries=3,
            retry_delay=datetime.timedelta(seconds=1),
            **{"deferrable": False, **options},
        )
