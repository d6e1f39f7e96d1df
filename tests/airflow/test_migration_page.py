"""The migration page: what it shows as the way after is code that Airflow takes."""

from __future__ import annotations

import datetime
import re

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator, task

from rgrid_provider.operators.rgrid import RGridRunOperator
from tests.live import ROOT

PAGE = (ROOT / "docs" / "how-to" / "airflow-migration.md").read_text()
AFTER = re.findall(r"^```python\n(# after\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_each_way_has_code_before_and_after() -> None:
    assert len(AFTER) == PAGE.count("# before\n") == 3


@pytest.mark.parametrize("code", AFTER)
def test_the_code_after_makes_a_task(code: str) -> None:
    with DAG("moved", start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), schedule=None) as dag:
        names = {"task": task, "RGridRunOperator": RGridRunOperator, "token": "t"}
        exec(compile(code, "airflow-migration.md", "exec"), names)
        if "rows" in names:
            names["rows"]("2026-01-01")
    (made,) = dag.tasks
    assert isinstance(made, BaseOperator)
    assert isinstance(made, RGridRunOperator)


@pytest.mark.parametrize(
    "name",
    sorted(
        {
            found
            for row in re.findall(r"^\| [^|]+ \| ([^|]+) \|", PAGE, re.MULTILINE)
            for found in re.findall(r"`(\w+)`", row)
        }
        - {"return_value", "serializer"}
    ),
)
def test_the_tables_name_arguments_that_there_are(name: str) -> None:
    RGridRunOperator(**{"task_id": "named", "script": "print(1)", name: None if name != "script" else "1"})
