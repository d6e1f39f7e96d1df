"""The only module that knows that there are two Airflow majors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    Asset,
    BaseHook,
    BaseNotifier,
    BaseOperator,
    BaseOperatorLink,
    BaseSensorOperator,
    DecoratedOperator,
    XCom,
    conf,
    mask_secret,
    task_decorator_factory,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS
from airflow.triggers.base import BaseTrigger, TriggerEvent

from rgrid_provider.lives import REMOVED, is_wanted

__all__ = [
    "AIRFLOW_V_3_0_PLUS",
    "AirflowException",
    "AirflowFailException",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "Asset",
    "BaseHook",
    "BaseNotifier",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "BaseTrigger",
    "DecoratedOperator",
    "TriggerEvent",
    "XCom",
    "base_url",
    "conf",
    "default_deferrable",
    "is_deferral_timed_out",
    "is_still_wanted",
    "mask_secret",
    "task_decorator_factory",
    "was_deferred_task_killed",
]

log = logging.getLogger(__name__)


def base_url() -> str:
    """Where Airflow's own pages are, without a slash at the end."""
    section = "api" if AIRFLOW_V_3_0_PLUS else "webserver"
    return str(conf.get(section, "base_url", fallback="") or "").rstrip("/")


def default_deferrable() -> bool:
    """Whether operators defer where the DAG does not say."""
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


def is_still_wanted(task_instance: Any) -> bool:
    """Whether Airflow still wants what a task has submitted: then a SIGTERM means that its worker stops.

    Where Airflow cannot be asked the answer is yes, since what is left running can be attached to or
    canceled, and what is canceled wrongly is lost.
    """
    try:
        if AIRFLOW_V_3_0_PLUS:
            return is_wanted(_task_state(task_instance))
        state, try_number, max_tries = _stored_task(task_instance)
    except Exception:
        log.warning(
            "Airflow does not tell the state of this task; its execution is left running", exc_info=True
        )
        return True
    return is_wanted(
        state,
        is_same_life=max_tries == task_instance.max_tries,
        is_later_try=try_number > task_instance.try_number,
    )


async def was_deferred_task_killed(trigger: Any) -> bool:
    """Whether a trigger was canceled because its task was ended, on the major without on_kill."""
    if AIRFLOW_V_3_0_PLUS:
        # 3.3 calls on_kill by itself; before it nobody can tell
        return False
    task_instance = getattr(trigger, "task_instance", None)
    if task_instance is None:
        return False
    return not await asyncio.to_thread(is_still_wanted, task_instance)


def is_deferral_timed_out(next_method: str, next_kwargs: Mapping[str, Any] | None) -> bool:
    """Whether a deferred task is resumed only to fail, because its time is over.

    2.11 never asks: there the task's own timeout fails it before its operator is called.
    """
    return next_method == "__fail__" and (next_kwargs or {}).get("error") == "Trigger timeout"


def _task_state(task_instance: Any) -> str | None:
    states = task_instance.get_task_states(
        dag_id=task_instance.dag_id,
        task_ids=[task_instance.task_id],
        run_ids=[task_instance.run_id],
        map_index=task_instance.map_index,
    )
    found = [state for of_run in states.values() for state in of_run.values()]
    return _plain(found[0]) if found else REMOVED


def _stored_task(task_instance: Any) -> tuple[str | None, int, int]:
    """A task's state, try and allowed tries as 2.11 has them stored just now."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session() as session:
        stored = (
            session.query(TaskInstance.state, TaskInstance.try_number, TaskInstance.max_tries)
            .filter(
                TaskInstance.dag_id == task_instance.dag_id,
                TaskInstance.task_id == task_instance.task_id,
                TaskInstance.run_id == task_instance.run_id,
                TaskInstance.map_index == task_instance.map_index,
            )
            .one_or_none()
        )
    if stored is None:
        return REMOVED, task_instance.try_number, task_instance.max_tries
    state, try_number, max_tries = stored
    return _plain(state), try_number, max_tries


def _plain(state: Any) -> str | None:
    return None if state is None else str(getattr(state, "value", state))
