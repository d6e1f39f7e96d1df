"""Waiting for what was started elsewhere: for money, for an execution, for a batch.

Needs the connection `rgrid_default`. Here the DAG itself starts what it waits for.
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import DAG

from rgrid_provider.operators.rgrid import RGridBatchOperator, RGridRunOperator
from rgrid_provider.sensors.rgrid import RGridBatchSensor, RGridBudgetSensor, RGridExecutionSensor

with DAG(
    dag_id="rgrid_sensors",
    start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    schedule=None,
    default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=5)},
    tags=["rgrid", "example"],
    doc_md=__doc__,
) as dag:
    # a tenth of a euro; with no limit on the month's budget it passes at once
    can_spend = RGridBudgetSensor(task_id="can_spend", least_micros=100_000, poke_interval=300)

    # these two return the id of what they have started, and do not wait
    one = RGridRunOperator(task_id="one", script="print(sum(range(10**7)))", wait_for_completion=False)
    many = RGridBatchOperator(
        task_id="many",
        script="import sys\nprint(int(sys.argv[1]) ** 2)",
        inputs=["1", "2", "3"],
        wait_for_completion=False,
    )

    one_is_there = RGridExecutionSensor(
        task_id="one_is_there", execution_id="{{ ti.xcom_pull('one') }}", deferrable=True
    )
    many_are_there = RGridBatchSensor(
        task_id="many_are_there", batch_id="{{ ti.xcom_pull('many') }}", deferrable=True, timeout=3600
    )

    can_spend >> one >> one_is_there
    can_spend >> many >> many_are_there
