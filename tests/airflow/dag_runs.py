"""All DAGs of the examples and of the tests, run side by side in one real Airflow."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import airflow

from rgrid.client import Client
from tests.airflow_home import AirflowHome
from tests.airflow_records import ENDED, AirflowRecords, TaskRecord
from tests.live import ROOT, LiveServer
from tests.postgres import PostgresCluster, airflow_connection
from tests.webhook import Post, Webhook

MAJOR = int(airflow.__version__.split(".")[0])
EXAMPLES = ROOT / "dags" / "examples"
OF_THE_TESTS = ROOT / "tests" / "airflow" / "dags"
RUN_ID = "the-run"
STARTED_BY_OTHERS = {"takes_an_asset": "makes_an_asset"}
"""DAGs that no one starts but what another one has made."""
DONE_SECONDS = 600
DAG_ID = re.compile(r"""^with DAG\(\s*(?:dag_id=)?"(\w+)\"""", re.MULTILINE)
POSTS = 2
"""Of a task and of a run; callbacks come after the end of what they tell of."""
DATE_OPTION = "--logical-date" if MAJOR == 3 else "--exec-date"


@dataclass(frozen=True, slots=True)
class DagRuns:
    """What came of them; Airflow itself runs no more.

    Attributes:
        dag_ids: every DAG that there is.
        home: Airflow's home, with its logs.
        outputs: where the examples' outputs are.
        lineage: what OpenLineage was told, a line an event.
        posts: what the webhook ``chat`` has got.
        warehouse: the database of ``postgres_default``.
        server: the grid's.
    """

    dag_ids: frozenset[str]
    home: AirflowHome
    records: AirflowRecords
    outputs: Path
    lineage: Path
    posts: list[Post]
    warehouse: str
    server: LiveServer

    def states(self, dag_id: str) -> dict[str, list[str | None]]:
        """The states of each task, those of a mapped one in order."""
        found: dict[str, list[str | None]] = {}
        for record in self.records.tasks(dag_id):
            found.setdefault(record.task_id, []).append(record.state)
        return found

    def task(self, dag_id: str, task_id: str) -> list[TaskRecord]:
        """The instances of a task."""
        return [record for record in self.records.tasks(dag_id) if record.task_id == task_id]

    def result(self, dag_id: str, task_id: str) -> Any:
        """What a task that is not mapped has returned."""
        (value,) = self.records.xcoms(dag_id, task_id)
        return value


@contextmanager
def ended_dag_runs(server: LiveServer, postgres: PostgresCluster, directory: Path) -> Iterator[DagRuns]:
    """Start an Airflow, run everything to its end, and stop it."""
    warehouse, lineage = postgres.create_database(), directory / "lineage.jsonl"
    with AirflowHome(MAJOR, directory / "airflow", server) as home, Webhook() as webhook:
        home.env |= {
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(lineage), "append": True}
            ),
            "AIRFLOW__CORE__PARALLELISM": "4",
            # so that an error is one, however busy the machine is
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",
            "AIRFLOW__CORE__DAG_FILE_PROCESSOR_TIMEOUT": "300",
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "300",
            "AIRFLOW_CONN_POSTGRES_DEFAULT": airflow_connection(warehouse),
            "AIRFLOW_CONN_CHAT": webhook.connection("T0/secret"),
        }
        if MAJOR == 2:
            # where the database is SQLite it runs one task at a time, each in an interpreter of its own
            url = postgres.create_database().replace("postgresql:", "postgresql+psycopg2:")
            home.env |= {
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
                "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            }
        for source in (EXAMPLES, OF_THE_TESTS):
            shutil.copytree(
                source, home.dags, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        home.migrate()
        if MAJOR == 3:
            home.start("web", "scheduler", "dag-processor", "triggerer")
        else:
            home.start("scheduler", "triggerer")
        records = AirflowRecords(home.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
        with Client(server.url, server.api_key) as client:
            # so that there is a bill
            client.wait(
                client.submit("print(sum(range(10**6)))", user_metadata={"dag_id": "before"}).execution_id
            )
        dag_ids = all_dag_ids()
        wait_for(home, lambda: dag_ids <= records.dag_ids(), records)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        home.several(
            ["pools", "set", "narrow", "1", "one at a time"],
            *[["dags", "unpause", dag_id] for dag_id in sorted(dag_ids)],
            *[
                ["dags", "trigger", dag_id, "--run-id", RUN_ID, DATE_OPTION, now]
                for dag_id in sorted(dag_ids - STARTED_BY_OTHERS.keys())
            ],
        )
        wait_for(home, lambda: have_all_ended(dag_ids, records) and len(webhook.posts) >= POSTS, records)
        home.stop()
        yield DagRuns(
            dag_ids, home, records, home.home / "outputs", lineage, webhook.posts, warehouse, server
        )


def all_dag_ids() -> frozenset[str]:
    """The DAGs of the examples and of the tests, as their files say."""
    return frozenset(
        dag_id
        for directory in (EXAMPLES, OF_THE_TESTS)
        for ids in dag_ids_of(directory).values()
        for dag_id in ids
    )


def dag_ids_of(directory: Path) -> dict[str, list[str]]:
    """The DAGs of each file of a directory."""
    return {path.name: DAG_ID.findall(path.read_text()) for path in sorted(directory.glob("*.py"))}


def have_all_ended(dag_ids: frozenset[str], records: AirflowRecords) -> bool:
    """Whether each DAG has a run, and no run is still under way."""
    runs = records.runs()
    return {dag_id for dag_id, _ in runs} == dag_ids and all(state in ENDED for _, state in runs.values())


def wait_for(home: AirflowHome, condition: Callable[[], bool], records: AirflowRecords) -> None:
    """Ask until it is so; what Airflow wrote is in the error if it never is."""
    deadline = time.monotonic() + DONE_SECONDS
    while time.monotonic() < deadline and not records.import_errors():
        if condition():
            return
        time.sleep(0.5)
    told = {name: home.log_of(name)[-2500:] for name in ("web", "scheduler", "triggerer", "dag-processor")}
    under_way = {
        dag_id: [task for task in records.tasks(dag_id) if task.state != "success"]
        for (dag_id, _), (_, state) in records.runs().items()
        if state not in ENDED
    }
    told["tasks"] = home.task_logs()[-4000:]
    raise AssertionError(f"not within {DONE_SECONDS} s: {under_way}\n{records.import_errors()}\n{told}")
