"""Who a piece of work belongs to, and the name under which it is done once: from a task's context."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rgrid_provider.lives import MAX_TRIES, RUN_STARTED_AT, TRY_NUMBER

MAX_RUN_KEY_CHARS = 400


def run_key(task_instance: Any) -> str:
    """The same for every try of a task, so that a new try finds what an earlier one submitted."""
    parts = (
        task_instance.dag_id,
        task_instance.run_id,
        task_instance.task_id,
        str(getattr(task_instance, "map_index", -1)),
    )
    key = "airflow/" + "/".join(part.replace("/", "%2F") for part in parts)
    if len(key) > MAX_RUN_KEY_CHARS or not key.isprintable():
        digest = hashlib.sha256(key.encode()).hexdigest()
        key = f"airflow/{digest}"
    return key


def attribution(context: Mapping[str, Any]) -> dict[str, Any]:
    """DAG, run, task, try, life, map index, owner and tags; the operators set them, not the user."""
    task_instance = context["ti"]
    task = context.get("task") or task_instance.task
    dag = context.get("dag")
    tags = sorted(getattr(dag, "tags", None) or ())
    return {
        "dag_id": task_instance.dag_id,
        "run_id": task_instance.run_id,
        "task_id": task_instance.task_id,
        TRY_NUMBER: task_instance.try_number,
        **_life(context),
        "map_index": getattr(task_instance, "map_index", -1),
        "owner": task.owner,
        "dag_tags": ",".join(str(tag) for tag in tags),
    }


def _life(context: Mapping[str, Any]) -> dict[str, Any]:
    """What tells the lives of a task apart, as far as the context has it."""
    max_tries = getattr(context["ti"], "max_tries", None)
    started = getattr(context.get("dag_run"), "start_date", None)
    life: dict[str, Any] = {}
    if isinstance(max_tries, int):
        life[MAX_TRIES] = max_tries
    if isinstance(started, datetime):
        life[RUN_STARTED_AT] = started.astimezone(UTC).isoformat()
    return life
