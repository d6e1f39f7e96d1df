"""Four years of weather, each summarised on the grid with pandas, then combined there into a picture.

Needs the connection `rgrid_default`. The data stand beside this file, with their source and licence.
"""

from __future__ import annotations

import datetime
import os
import tempfile
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, task

from rgrid_provider.operators.rgrid import RGridBatchOperator, RGridRunOperator

HERE = Path(__file__).resolve().parent
OUTPUT_DIR = Path(os.environ.get("RGRID_EXAMPLE_OUTPUT_DIR", Path(tempfile.gettempdir()) / "rgrid-example"))

with DAG(
    dag_id="seattle_weather",
    description="Yearly summaries of Seattle's weather, and a picture of them",
    start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    schedule=None,
    catchup=False,
    # A retry attaches to the work that its first try began, so it costs nothing. Airflow itself may ask for
    # one: it fails a deferred task whose trigger fires before the scheduler has noticed that the worker
    # has ended (apache/airflow issues 67287 and 72716).
    default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=5)},
    tags=["rgrid", "example"],
    doc_md=__doc__,
) as dag:
    summarise = RGridBatchOperator(
        task_id="summarise",
        script=str(HERE / "scripts" / "summarise_year.py"),
        requirements=str(HERE / "scripts" / "requirements.txt"),
        inputs=str(HERE / "data" / "seattle-weather-*.csv"),
        parallelism=2,
        output_dir=str(OUTPUT_DIR / "summaries"),
        deferrable=True,
    )

    combine = RGridRunOperator(
        task_id="combine",
        script=str(HERE / "scripts" / "combine_years.py"),
        args=["{{ ti.xcom_pull(task_ids='summarise') | tojson }}"],
        output_dir=str(OUTPUT_DIR),
    )

    @task
    def tell_cost(batch_micros: int, run_micros: int) -> int:
        """What the whole cost, in micro-euro."""
        total = batch_micros + run_micros
        print(f"the summaries cost {batch_micros} and the picture {run_micros} micro-euro: {total} together")
        return total

    summarise >> combine >> tell_cost(summarise.output["cost_micros"], combine.output["cost_micros"])
