"""Every night, yesterday's bill into PostgreSQL, and from there the dearest tasks.

Needs the connections `rgrid_default` and `postgres_default`.
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from rgrid_provider.transfers.rgrid_to_postgres import RGridCostToPostgresOperator

with DAG(
    dag_id="rgrid_cost_to_postgres",
    start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    schedule="@daily",
    catchup=False,
    default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=5)},
    tags=["rgrid", "example"],
    doc_md=__doc__,
) as dag:
    # the day of the run, whose rows are replaced: it may run again at any time
    copy_bill = RGridCostToPostgresOperator(task_id="copy_bill", first_day="{{ ds }}", table="rgrid_cost")

    dearest = SQLExecuteQueryOperator(
        task_id="dearest",
        conn_id="postgres_default",
        sql="""
            SELECT "x_DagId", "x_TaskId", sum("BilledCost")::text, count(*)
            FROM rgrid_cost
            WHERE "x_ChargeDay" = '{{ ds }}'
            GROUP BY 1, 2
            ORDER BY sum("BilledCost") DESC
            LIMIT 10
        """,
    )

    copy_bill >> dearest
