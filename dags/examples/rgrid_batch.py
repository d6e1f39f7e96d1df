"""One script over many inputs, as one task: the wettest month of each year.

Needs the connection `rgrid_default`. The data stand beside this file, with their source and licence.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, task

from rgrid_provider.operators.rgrid import RGridBatchOperator

DATA = Path(__file__).resolve().parent / "data"
SCRIPT = """
import collections, csv, json, sys

rain_mm = collections.Counter()
with open(sys.argv[1]) as file:
    for day in csv.DictReader(file):
        rain_mm[day["date"][:7]] += float(day["precipitation"])
month, most_mm = rain_mm.most_common(1)[0]
print(json.dumps({"month": month, "rain_mm": round(most_mm, 1)}))
"""

with DAG(
    dag_id="rgrid_batch",
    start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    schedule=None,
    # a retry runs only what has not completed
    default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=5)},
    tags=["rgrid", "example"],
    doc_md=__doc__,
) as dag:
    wettest_months = RGridBatchOperator(
        task_id="wettest_months",
        script=SCRIPT,
        inputs=f"{DATA}/seattle-weather-*.csv",
        parallelism=2,
        # the task fails once half of the years have
        fail_on=0.5,
        deferrable=True,
    )

    @task
    def wettest_of_all(months: list[dict[str, object] | None]) -> dict[str, object]:
        """The results are in the order of the inputs; one that failed is None."""
        return max((month for month in months if month), key=lambda month: month["rain_mm"])

    wettest_of_all(wettest_months.output)
