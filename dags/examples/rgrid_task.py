"""Functions on the grid, one call a year: `@task.rgrid`, mapped, with a package of its own.

Needs the connection `rgrid_default`. The data stand beside this file, with their source and licence.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, task

DATA = Path(__file__).resolve().parent / "data"

with DAG(
    dag_id="rgrid_task",
    start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    schedule=None,
    default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=5)},
    tags=["rgrid", "example"],
    doc_md=__doc__,
) as dag:

    @task.rgrid(
        requirements=["pandas>=2.2,<4"],
        input_files={"weather.csv": f"{DATA}/seattle-weather-{{{{ task.op_kwargs['year'] }}}}.csv"},
        map_index_template="{{ task.op_kwargs['year'] }}",
        deferrable=True,
    )
    def days_of(year: int) -> dict[str, int]:
        """How many days of a year had which weather."""
        import pandas

        days = pandas.read_csv("weather.csv")
        print(f"{len(days)} days in {year}")
        return {str(name): int(count) for name, count in days["weather"].value_counts().items()}

    @task.rgrid
    def total(years: list[dict[str, int]], run_id: str | None = None) -> dict[str, int]:
        """The same of all years together; Airflow fills in `run_id`, which nobody gives."""
        from airflow.exceptions import AirflowSkipException

        if not years:
            raise AirflowSkipException(f"nothing was counted in {run_id}")
        return {name: sum(year.get(name, 0) for year in years) for name in sorted(set().union(*years))}

    total(days_of.expand(year=[2012, 2013, 2014, 2015]))
