"""Airflow's own API, of both majors in the same words: what tests ask of an Airflow that runs."""

from __future__ import annotations

import json
from typing import Any

import requests

from tests.airflow_home import AirflowHome

USER = "admin"
"""The name, and the password, of who asks."""


class AirflowApi:
    """The API of a home whose web server is up."""

    def __init__(self, home: AirflowHome) -> None:
        self._home = home
        self._major = home.major
        self._base = f"{home.url}/api/v{2 if home.major == 3 else 1}"
        self._headers = {}
        self._auth = None if home.major == 3 else (USER, USER)
        if home.major == 3:
            told = requests.post(
                f"{home.url}/auth/token", json={"username": USER, "password": USER}, timeout=60
            )
            told.raise_for_status()
            self._headers = {"Authorization": f"Bearer {told.json()['access_token']}"}

    def has_dag(self, dag_id: str) -> bool:
        """Whether a DAG has been read."""
        return self._ask("GET", f"/dags/{dag_id}").status_code == 200

    def begin(self, dag_id: str, run_id: str) -> None:
        """Begin a run."""
        body: dict[str, Any] = {"dag_run_id": run_id}
        if self._major == 3:
            body["logical_date"] = None
        self._told("POST", f"/dags/{dag_id}/dagRuns", json=body)

    def tasks(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """A hundred task instances at most, by DAG, run and task: ``state``, ``try_number``, ``pid`` …"""
        told = self._told("GET", "/dags/~/dagRuns/~/taskInstances?limit=100").json()["task_instances"]
        return {(one["dag_id"], one["dag_run_id"], one["task_id"]): one for one in told}

    def run_state(self, dag_id: str, run_id: str) -> str:
        """The state of a run."""
        return str(self._told("GET", f"/dags/{dag_id}/dagRuns/{run_id}").json()["state"])

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Give a task a state, as a user does."""
        body: dict[str, Any] = {"new_state": state}
        if self._major == 2:
            body["dry_run"] = False
        self._told("PATCH", _task(dag_id, run_id, task_id), json=body)

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Have a task run again, as a user does."""
        task = self.tasks()[dag_id, run_id, task_id]
        if self._major == 2 and task["state"] == "running":
            # 2.11's API answers that it was cleared and does not store it
            when = task["execution_date"]
            self._home.airflow("tasks", "clear", dag_id, "-y", "-t", f"^{task_id}$", "-s", when, "-e", when)
            return
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [task_id],
            "only_failed": False,
            "only_running": False,
            "reset_dag_runs": True,
        }
        self._told("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def xcoms(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """What a task has pushed."""
        path = f"{_task(dag_id, run_id, task_id)}/xcomEntries"
        keys = [entry["key"] for entry in self._told("GET", path).json()["xcom_entries"]]
        return {key: _value(self._told("GET", f"{path}/{key}?stringify=false").json()) for key in keys}

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> list[str]:
        """The lines of a try's log as its page shows them."""
        path = f"{_task(dag_id, run_id, task_id)}/logs/{try_number}?full_content=true"
        if self._major == 2:
            return self._told("GET", path, headers={"Accept": "text/plain"}).text.splitlines()
        told = self._told("GET", path, headers={"Accept": "application/json"}).json()
        return [str(entry.get("event", entry)) for entry in told["content"]]

    def _told(self, method: str, path: str, **options: Any) -> requests.Response:
        return _checked(self._ask(method, path, **options))

    def _ask(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {**self._headers, **options.pop("headers", {})}
        return requests.request(
            method, self._base + path, headers=headers, auth=self._auth, timeout=120, **options
        )


def _task(dag_id: str, run_id: str, task_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"


def _checked(told: requests.Response) -> requests.Response:
    if not told.ok:
        raise RuntimeError(f"{told.request.method} {told.request.url}: {told.status_code} {told.text[:2000]}")
    return told


def _value(entry: dict[str, Any]) -> Any:
    value = entry["value"]
    if isinstance(value, str):
        try:
            # some versions answer values as JSON inside of JSON
            return json.loads(value)
        except ValueError:
            pass
    return value
