"""The only module that knows that there are two Airflow majors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from threading import Thread
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
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

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
    "beside_signal",
    "conf",
    "default_deferrable",
    "is_deferral_timed_out",
    "is_still_wanted",
    "log_at",
    "mask_secret",
    "needs_no_worker",
    "push_from_trigger",
    "success_event",
    "task_decorator_factory",
    "was_deferred_task_killed",
]

log = logging.getLogger(__name__)

HANDLER_SECONDS = 1.0
"""So long a signal's handler waits for what it has begun; Airflow 3 kills the task five seconds after."""


def base_url() -> str:
    """Where Airflow's own pages are, without a slash at the end."""
    section = "api" if AIRFLOW_V_3_0_PLUS else "webserver"
    return str(conf.get(section, "base_url", fallback="") or "").rstrip("/")


def default_deferrable() -> bool:
    """Whether operators defer where the DAG does not say."""
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


def beside_signal(work: Callable[[], None]) -> None:
    """Do work that asks Airflow, called from a signal's handler.

    The signal may have come while the task itself was asking, and held what only one can hold. So the work
    has a thread of its own. On 3.x the task goes on after the handler, for seconds until it is killed, and
    the work with it; on 2.11 the handler ends the task, and the work has to be done before.
    """
    thread = Thread(target=work, name="on-kill")
    thread.start()
    thread.join(HANDLER_SECONDS if AIRFLOW_V_3_0_PLUS else None)


def is_still_wanted(task_instance: Any) -> bool:
    """Whether Airflow still wants what a task has submitted: then a SIGTERM means that its worker stops.

    Where Airflow cannot be asked the answer is yes, since what is left running can be attached to or
    canceled, and what is canceled wrongly is lost.
    """
    try:
        if AIRFLOW_V_3_0_PLUS:
            return is_wanted(_task_state(task_instance))
        stored = _stored_task(task_instance)
    except Exception:
        log.warning(
            "Airflow does not tell the state of this task; its execution is left running", exc_info=True
        )
        return True
    if stored is None:
        return is_wanted(REMOVED)
    state, try_number, max_tries = stored
    return is_wanted(
        state,
        is_same_life=max_tries == getattr(task_instance, "max_tries", max_tries),
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


def needs_no_worker(operator: Any) -> bool:
    """Whether nothing of a deferred task that has succeeded has to be done in a worker.

    What a triggerer does not do: call the task's own hooks and callbacks where the DAG's code is, tell
    listeners such as OpenLineage's and the events of assets, and note how long a result is that others map.
    """
    if AIRFLOW_V_3_0_PLUS:
        from airflow.sdk.listener import get_listener_manager
    else:
        from airflow.listeners.listener import get_listener_manager

    is_mapped_over = operator.has_dag() and any(True for _ in operator.iter_mapped_dependants())
    return not (
        operator.outlets
        or is_mapped_over
        or not type(operator).execute_complete.__module__.startswith("rgrid_provider.")
        or operator.on_success_callback
        or operator._post_execute_hook is not None
        or type(operator).post_execute is not BaseOperator.post_execute
        or getattr(operator, "multiple_outputs", False)
        or getattr(operator, "returns_dag_result", False)
        or get_listener_manager().has_listeners
    )


async def push_from_trigger(trigger: Any, values: Mapping[str, Any]) -> None:
    """Push XComs of the task that a trigger waits for; those that it has are overwritten."""
    task_instance = trigger.task_instance
    for key, value in values.items():
        if AIRFLOW_V_3_0_PLUS:
            await XCom.aset(
                key=key,
                value=value,
                dag_id=task_instance.dag_id,
                task_id=task_instance.task_id,
                run_id=task_instance.run_id,
                map_index=task_instance.map_index,
            )
        else:
            await asyncio.to_thread(task_instance.xcom_push, key, value)


def success_event() -> TriggerEvent:
    """What a trigger fires to end its task well, without another worker.

    It carries no XComs: Airflow would write those after the task's success, where a kill can lose them.
    """
    return TaskSuccessEvent() if AIRFLOW_V_3_0_PLUS else _QuietSuccessEvent()


class _QuietSuccessEvent(TaskSuccessEvent):  # type: ignore[misc]
    """Success on 2.11, which would leave a request for callbacks that only some schedulers ever read."""

    def _submit_callback_if_necessary(self, **_where: Any) -> None:
        """There is nothing to call: such a task is ended by a worker."""


def log_at(log: Any, moment: datetime, text: str, *values: Any) -> None:
    """Write a line into a task's log as of a moment."""
    if AIRFLOW_V_3_0_PLUS:
        log.info(text, *values, timestamp=moment.isoformat())
        return
    if log.isEnabledFor(logging.INFO):
        record = log.makeRecord(log.name, logging.INFO, __file__, 0, text, values, None)
        record.created = moment.timestamp()
        record.msecs = moment.microsecond / 1000
        log.handle(record)


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


def _stored_task(task_instance: Any) -> tuple[str | None, int, int] | None:
    """A task's state, try and allowed tries as 2.11 has them stored just now; None where it has none."""
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
        return None
    state, try_number, max_tries = stored
    return _plain(state), try_number, max_tries


def _plain(state: Any) -> str | None:
    return None if state is None else str(getattr(state, "value", state))
