"""Tests that run inside each of the two Airflow environments; Airflow's home is set before it is imported."""

from __future__ import annotations

import atexit
import datetime
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if "AIRFLOW_HOME" not in os.environ:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="rgrid-airflow-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"

from tests.live import LiveServer

if TYPE_CHECKING:
    from tests.airflow.dag_runs import DagRuns
    from tests.postgres import PostgresCluster


@pytest.fixture(scope="session")
def server() -> Iterator[LiveServer]:
    """A real server, which the connection ``rgrid_default`` names."""
    # some scripts count their own runs in a directory of the machine, which other sandboxes do not show them
    with LiveServer(options=["--slots", "4", "--sandbox", "process"]) as server:
        server.wait_for_runner()
        os.environ["AIRFLOW_CONN_RGRID_DEFAULT"] = json.dumps(
            {"conn_type": "rgrid", "host": server.url, "password": server.api_key}
        )
        yield server


@pytest.fixture(scope="session")
def dag_runs(
    server: LiveServer, postgres: PostgresCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DagRuns]:
    """All DAGs of the examples and of the tests, run to their end under a real scheduler and triggerer."""
    from tests.airflow.dag_runs import ended_dag_runs

    with ended_dag_runs(server, postgres, tmp_path_factory.mktemp("dag_runs")) as runs:
        yield runs


class FakeTaskInstance(SimpleNamespace):
    """As much of a task instance as operators use; what they push stands in ``xcoms``."""

    def xcom_push(self, key: str, value: Any) -> None:
        """Keep a value."""
        self.xcoms[key] = value


@pytest.fixture
def context_of(server: LiveServer, request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """Makes the context of a try of an operator's task; each test has a run of its own.

    ``clears`` says how often the task was cleared before; tries of one life share it.
    """

    def make(operator: Any, try_number: int = 1, clears: int = 0) -> dict[str, Any]:
        task_instance = FakeTaskInstance(
            dag_id="tests",
            run_id=request.node.nodeid,
            task_id=operator.task_id,
            map_index=-1,
            try_number=try_number,
            max_tries=2 + clears,
            task=operator,
            xcoms={},
        )
        dag_run = SimpleNamespace(start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
        return {"ti": task_instance, "task": operator, "dag_run": dag_run}

    return make
