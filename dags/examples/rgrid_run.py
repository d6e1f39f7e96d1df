"""One script, one file: the wettest day of a year, and what the answer cost.

Needs the connection `rgrid_default`. The data stand beside this file, with their source and licence.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, task

from rgrid_provider.operators.rgrid import RGridRunOperator

DATA = Path(__file__).resolve().parent / "data"
SCRIPT = """
import csv, json, sys

with open("weather.csv") as file:
    wettest = max(csv.DictReader(file), key=lambda day: float(day["precipitation"]))
print(f"looked for the wettest day of {sys.argv[1]}")
print(json.dumps({"date": wettest["date"], "rain_mm": float(wettest["precipitation"])}))
"""

with DAG(
    dag_id="rgrid_run",
    start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    schedule=None,
    params={"year": 2015},
    default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=5)},
    tags=["rgrid", "example"],
    doc_md=__doc__,
) as dag:
    wettest_day = RGridRunOperator(
        task_id="wettest_day",
        script=SCRIPT,
        args=["{{ params.year }}"],
        input_files={"weather.csv": f"{DATA}/seattle-weather-{{{{ params.year }}}}.csv"},
        runtime="python:3.11",
        timeout_seconds=300,
        memory_mib=256,
        deferrable=True,
    )

    @task
    def tell(day: dict[str, object], cost_micros: int) -> str:
        """What came of it: the last line that the script printed, parsed."""
        return f"{day['rain_mm']} mm on {day['date']}, found for {cost_micros} micro-euro"

    tell(wettest_day.output, wettest_day.output["cost_micros"])
