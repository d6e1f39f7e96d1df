"""``@task.rgrid`` beside ``@task.virtualenv`` and ``@task.docker``: one function with three packages.

Each is executed as a worker does it, in this process, by the operator that its decorator makes: virtualenv
uncached and with its cache, docker in an image that has the packages already, on a daemon of this program's
own, without a network. A real server runs the grid's side, sandboxed. Run it with the Python of an Airflow
environment, as root where Docker is to be measured; medians of several runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="rgrid-tasks-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

from tests import docker_daemon
from tests.images import make_image
from tests.live import ROOT, LiveServer

REQUIREMENTS = ["pandas==2.3.3", "requests==2.32.5", "pyyaml==6.0.3"]
TARGET = 10
IMAGE = "rgrid-bench:packages"


def work(rows: int) -> dict[str, Any]:
    """What a small task does with its packages."""
    import pandas
    import requests
    import yaml

    frame = pandas.DataFrame({"a": range(rows)})
    return {"sum": int(frame["a"].sum()), "yaml": yaml.safe_dump({"a": 1}), "requests": requests.__version__}


class TaskInstance(SimpleNamespace):
    """As much of one as operators use."""

    def xcom_push(self, key: str, value: Any) -> None:
        """Nobody reads it."""


def context_of(operator: Any, run: int) -> dict[str, Any]:
    """The context of a first try."""
    task_instance = TaskInstance(
        dag_id="bench",
        run_id=f"run-{run}",
        task_id=operator.task_id,
        map_index=-1,
        try_number=1,
        task=operator,
    )
    return {"ti": task_instance, "task": operator, "task_instance": task_instance}


def timed(make: Callable[[], Any], runs: int) -> list[float]:
    """How long each execution takes, in seconds."""
    taken = []
    for run in range(runs):
        operator = make()
        began = time.perf_counter()
        result = operator.execute(context_of(operator, time.monotonic_ns() + run))
        taken.append(time.perf_counter() - began)
        if result["sum"] != 499_500:
            raise SystemExit(f"wrong: {result}")
    return taken


def in_docker(runs: int) -> list[float]:
    """How long each execution of ``@task.docker`` takes, in seconds; the image is there before."""
    import docker
    from airflow.providers.docker.decorators.docker import _DockerDecoratedOperator

    from rgrid_server.runner.pipconfig import index_settings

    with docker_daemon.DockerDaemon() as daemon, tempfile.TemporaryDirectory() as packages:
        uv = [
            ROOT / ".venv/bin/uv",
            "pip",
            "install",
            "--quiet",
            "--compile-bytecode",
            "--python",
            sys.executable,
        ]
        subprocess.run(
            [*uv, "--target", packages, *REQUIREMENTS],
            env={**os.environ, **index_settings(os.environ)},
            check=True,
        )
        client = docker.DockerClient(daemon.host)
        make_image(client, IMAGE, Path(packages))
        client.close()

        def make() -> Any:
            return _DockerDecoratedOperator(
                task_id="docker",
                python_callable=work,
                op_args=[1000],
                image=IMAGE,
                docker_url=daemon.host,
                network_mode="none",
                expect_airflow=False,
                auto_remove="success",
            )

        timed(make, 1)
        return timed(make, runs)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    logging.disable(logging.WARNING)
    from airflow.providers.common.compat.sdk import DAG
    from airflow.providers.standard.operators.python import PythonVirtualenvOperator

    from rgrid_provider.decorators.rgrid import RGridDecoratedOperator

    with LiveServer(options=["--slots", "2"]) as server, tempfile.TemporaryDirectory() as cache:
        server.wait_for_runner()
        os.environ["AIRFLOW_CONN_RGRID_DEFAULT"] = json.dumps(
            {"conn_type": "rgrid", "host": server.url, "password": server.api_key}
        )

        def on_grid() -> Any:
            return RGridDecoratedOperator(
                task_id="grid",
                python_callable=work,
                op_args=[1000],
                requirements=REQUIREMENTS,
                deferrable=False,
            )

        def in_virtualenv(cached: bool) -> Any:
            return PythonVirtualenvOperator(
                dag=DAG("bench", schedule=None),
                task_id="venv",
                python_callable=work,
                op_args=[1000],
                requirements=REQUIREMENTS,
                system_site_packages=False,
                venv_cache_path=cache if cached else None,
            )

        first = timed(on_grid, 1)[0]
        warm = statistics.median(timed(on_grid, 2 * runs)[runs:])
        uncached = statistics.median(timed(lambda: in_virtualenv(False), runs))
        timed(lambda: in_virtualenv(True), 1)
        cached = statistics.median(timed(lambda: in_virtualenv(True), runs))
    problem = docker_daemon.why_not()
    containers = None if problem else statistics.median(in_docker(runs))
    print("| what | seconds | of @task.rgrid, warm | target |\n|---|---:|---:|---:|")
    print(f"| `@task.rgrid`, warm | {warm:.3f} | 1 | |")
    print(f"| `@task.rgrid`, its first, the environment built | {first:.2f} | {first / warm:.1f} | |")
    print(f"| `@task.virtualenv`, uncached | {uncached:.2f} | {uncached / warm:.1f} | {TARGET} |")
    print(f"| `@task.virtualenv`, with its cache | {cached:.2f} | {cached / warm:.1f} | |")
    told = f"– ({problem}) | " if containers is None else f"{containers:.2f} | {containers / warm:.1f}"
    print(f"| `@task.docker`, the image there | {told} | |")


if __name__ == "__main__":
    main()
