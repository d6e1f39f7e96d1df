"""Airflow's own machinery around tasks on the grid, a DAG for each part of it; the tests run them all."""

from __future__ import annotations

import datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Asset, task, task_group

from rgrid_provider.operators.rgrid import RGridBatchOperator, RGridRunOperator

START = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
SUM = "import sys\nprint(sum(range(int(sys.argv[1]))))"
SQUARE = "import sys\nprint(int(sys.argv[1]) ** 2)"
SUMS = Asset("file:///of-the-tests/sums")

with DAG("mapped", start_date=START, schedule=None):
    limits = RGridRunOperator(task_id="limits", script="print([10, 100, 1000])")

    RGridRunOperator.partial(
        task_id="sums",
        script=SUM,
        map_index_template="below {{ task.args[0] }}",
        deferrable=True,
        # Airflow itself may ask for another try of a deferred task; it attaches to the same execution
        retries=2,
        retry_delay=datetime.timedelta(seconds=1),
    ).expand(args=limits.output.map(lambda limit: [limit]))

    RGridBatchOperator.partial(
        task_id="batches", script=SQUARE, map_index_template="{{ task.user_metadata['size'] }}"
    ).expand_kwargs(
        [
            {"inputs": ["1", "2"], "user_metadata": {"size": "few"}},
            {"inputs": ["3", "4", "5"], "parallelism": 1, "user_metadata": {"size": "more"}},
        ]
    )

    @task.rgrid(map_index_template="{{ task.op_kwargs['limit'] }} by {{ task.op_kwargs['scale'] }}")
    def scaled(limit: int, scale: int) -> int:
        """Mapped over what another task returns."""
        return limit * scale

    @task.rgrid
    def together(values: list[int], day: str | None = None) -> int:
        """Takes the results of mapped tasks."""
        return sum(values)

    together(scaled.partial(scale=3).expand(limit=limits.output))

with DAG("grouped", start_date=START, schedule=None):

    @task_group
    def steps(number: int) -> Any:
        """Two tasks in a row."""

        @task.rgrid
        def add_one(value: int) -> int:
            return value + 1

        squared = RGridRunOperator(task_id="squared", script=SQUARE, args=[add_one(number)])
        return squared.output

    @task.rgrid
    def put_together(values: list[int]) -> int:
        """Takes what came of each of the groups."""
        return sum(values)

    put_together(steps.expand(number=[1, 2, 3]))

with DAG("guarded", start_date=START, schedule=None):
    opened = RGridRunOperator(task_id="opened", script="print('open')").as_setup()
    works = RGridRunOperator(task_id="works", script="raise SystemExit(3)")
    closed = RGridRunOperator(task_id="closed", script="print('closed')").as_teardown(setups=opened)
    opened >> works >> closed

    mends = RGridRunOperator(task_id="mends", script="print('mended')", trigger_rule="one_failed")
    never = RGridRunOperator(task_id="never", script="print('never')")
    ended = RGridRunOperator(task_id="ended", script="print('ended')", trigger_rule="all_done")
    works >> [mends, never] >> ended

with DAG("limited", start_date=START, schedule=None):
    RGridRunOperator.partial(task_id="one_at_a_time", script=SUM, pool="narrow").expand(
        args=[["1"], ["2"], ["3"]]
    )

    RGridRunOperator(
        task_id="second_time_lucky",
        script="import sys\nprint(sys.argv[1])\nsys.exit(sys.argv[1] == '1')",
        args=["{{ ti.try_number }}"],
        retries=1,
        retry_delay=datetime.timedelta(seconds=1),
    )

with DAG("too_slow", start_date=START, schedule=None):
    for is_deferrable in (False, True):
        RGridRunOperator(
            task_id="deferred" if is_deferrable else "followed",
            script="import time\ntime.sleep(600)",
            deferrable=is_deferrable,
            execution_timeout=datetime.timedelta(seconds=10),
        )

with DAG("makes_an_asset", start_date=START, schedule=None):
    RGridRunOperator(task_id="makes", script="print(1)", outlets=[SUMS])

with DAG("takes_an_asset", start_date=START, schedule=[SUMS]):
    RGridRunOperator(task_id="takes", script="import sys\nprint(sys.argv[1])", args=["{{ run_id }}"])

with DAG("frames", start_date=START, schedule=None):

    @task.rgrid(serializer="arrow", requirements=["pandas>=2.2,<4"])
    def made() -> Any:
        """Airflow's XCom carries the frame."""
        import pandas

        return pandas.DataFrame({"a": [1, 2, 3]})

    @task.rgrid(serializer="arrow", requirements=["pandas>=2.2,<4"])
    def as_table(frame: Any) -> Any:
        """It does not carry a table, so this one stays on the grid."""
        import pyarrow

        return pyarrow.Table.from_pandas(frame)

    @task.rgrid(serializer="arrow")
    def summed(table: Any) -> int:
        """Is given the table itself."""
        return sum(table["a"].to_pylist())

    summed(as_table(made()))

with DAG("outputs", start_date=START, schedule=None):

    @task.rgrid(multiple_outputs=True, max_result_bytes=1000)
    def parts() -> Any:
        """One of its outputs is too large for XCom."""
        return {"many": "x" * 5000, "count": 2}

    @task.rgrid
    def told(many: str, count: int) -> list[int]:
        """Is given the outputs themselves."""
        return [len(many), count]

    @task.rgrid(max_result_bytes=100)
    def counted() -> dict[str, int]:
        """Has outputs because its annotation says dict, and too many large ones of them."""
        return {str(number): number for number in range(1000)}

    @task.rgrid
    def put_in_sum(values: dict[str, int]) -> int:
        """Is given the dict itself."""
        return sum(values.values())

    both = parts()
    told(both["many"], both["count"])
    put_in_sum(counted())
