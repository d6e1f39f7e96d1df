"""Airflow 3 with the provider, the cost view and a server with a month of example spend, until Ctrl-C."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

from live_process import ROOT, AirflowHome, LiveServer

from rgrid.client import Client

DAGS = {"etl": ("load", "clean", "publish"), "forecast": ("fit", "predict"), "reports": ("render",)}
DAY_MS = 86_400_000


def main() -> None:
    """Start everything, say where it is, and wait."""
    with tempfile.TemporaryDirectory(prefix="rgrid-airflow-") as name:
        home = Path(name)
        with LiveServer(home / "server") as server:
            server.wait_for_runner()
            print("spending a month's money …", flush=True)
            spend(server)
            with AirflowHome(3, home / "airflow", server) as airflow:
                shutil.copytree(ROOT / "dags" / "examples", airflow.dags, dirs_exist_ok=True)
                airflow.migrate().start("web", "scheduler", "dag-processor", "triggerer")
                print(f"\nAirflow: {airflow.url}  (login admin, password admin)")
                print(f"cost:    {airflow.url}/rgrid/  or Browse, RGrid cost")
                print(f"RGrid:   {server.url}  key {server.api_key}\n\nCtrl-C stops all.", flush=True)
                try:
                    threading.Event().wait()
                except KeyboardInterrupt:
                    print("\nstopping …")


def spend(server: LiveServer) -> None:
    """Run short scripts for three DAGs, and lay their spend over the last thirty days."""
    chance = random.Random(7)  # the same month every time
    with Client(server.url, server.api_key) as client:
        for dag, tasks in DAGS.items():
            items = [
                {"user_metadata": {"dag_id": dag, "task_id": task, "owner": "ann", "run_id": f"day-{day}"}}
                for day in range(30)
                for task in tasks
                if chance.random() < 0.9
            ]
            batch = client.submit_batch({"script_content": "print('example')", "memory_mib": 512}, items)
            client.wait_batch(batch.batch_id)
    server.stop()
    with sqlite3.connect(server.data_dir / "rgrid.sqlite") as database:
        lay_over_a_month(database, chance)
    server.start().wait_for_runner()


def lay_over_a_month(database: sqlite3.Connection, chance: random.Random) -> None:
    """Date each example charge to its day, scale it to what such a task would cost, and sum the days anew."""
    rows = database.execute("SELECT execution_id, attempt, run_id, tenant_id FROM usages").fetchall()
    for execution_id, attempt, run_id, _tenant in rows:
        at_ms = int(time.time() * 1000) - int(run_id.removeprefix("day-")) * DAY_MS
        day = time.strftime("%Y-%m-%d", time.gmtime(at_ms / 1000))
        nanos = chance.randrange(2_000_000, 90_000_000)
        key = (execution_id, attempt)
        database.execute(
            "UPDATE usages SET day = ?, ended_at_ms = ?, duration_ms = ? "
            "WHERE execution_id = ? AND attempt = ?",
            (day, at_ms, nanos // 700, *key),
        )
        database.execute("DELETE FROM charges WHERE execution_id = ? AND attempt = ?", key)
        database.execute(
            "INSERT INTO charges SELECT execution_id, attempt, tenant_id, 'default-2025', ?, ? FROM usages "
            "WHERE execution_id = ? AND attempt = ?",
            (nanos, at_ms, *key),
        )
        database.execute(
            "UPDATE executions SET charge_nanos = ? WHERE execution_id = ?", (nanos, execution_id)
        )
    database.execute("DELETE FROM spend_daily")
    database.execute("DELETE FROM spend_monthly")
    database.execute(
        "INSERT INTO spend_daily SELECT u.tenant_id, u.day, COALESCE(u.dag_id, ''), COALESCE(u.task_id, ''), "
        "COALESCE(u.owner, ''), u.runtime, SUM(u.is_final), SUM(u.is_failed), SUM(u.duration_ms), "
        "SUM(c.nanos) "
        "FROM usages u JOIN charges c USING (execution_id, attempt) GROUP BY 1, 2, 3, 4, 5, 6"
    )
    database.execute(
        "INSERT INTO spend_monthly SELECT tenant_id, substr(day, 1, 7), SUM(nanos) "
        "FROM spend_daily GROUP BY 1, 2"
    )


def _stop(_number: int, _frame: object) -> None:
    # as Ctrl-C does: everything that was started is stopped on the way out
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    main()
