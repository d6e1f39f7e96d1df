"""Sensors: waiting for an execution or a batch that was started elsewhere, or for money to spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from rgrid_provider._compat import (
    AirflowException,
    BaseSensorOperator,
    default_deferrable,
    needs_no_worker,
)
from rgrid_provider.hooks.rgrid import RGridHook
from rgrid_provider.triggers.rgrid import RGridBatchTrigger, RGridBudgetTrigger, RGridExecutionTrigger


class _GridSensor(BaseSensorOperator):
    """What the sensors share."""

    def __init__(
        self,
        *,
        rgrid_conn_id: str = RGridHook.default_conn_name,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rgrid_conn_id = rgrid_conn_id
        self.deferrable = default_deferrable() if deferrable is None else deferrable

    @cached_property
    def hook(self) -> RGridHook:
        """The hook of this sensor's connection."""
        return RGridHook(self.rgrid_conn_id)

    def _defer(self, trigger: Any) -> None:
        from datetime import timedelta

        self.defer(trigger=trigger, method_name="execute_complete", timeout=timedelta(seconds=self.timeout))

    @staticmethod
    def _check(what: str, status: str, reason: str | None = None) -> bool:
        if status in {"failed", "canceled"}:
            raise AirflowException(f"{what} {status}" + (f": {reason}" if reason else ""))
        return status == "completed"


class RGridExecutionSensor(_GridSensor):
    """Waits until an execution completes; one that fails or is canceled fails the task.

    Args:
        execution_id: which.
        rgrid_conn_id: the connection.
        deferrable: wait in the triggerer; the configuration's default when None.
    """

    template_fields: Sequence[str] = ("execution_id",)

    def __init__(self, *, execution_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.execution_id = execution_id

    def execute(self, context: Any) -> Any:
        """Wait, here or in the triggerer."""
        if not self.deferrable:
            return super().execute(context)
        if not self.poke(context):
            self._defer(
                RGridExecutionTrigger(
                    rgrid_conn_id=self.rgrid_conn_id,
                    execution_id=self.execution_id,
                    follow_logs=False,
                    cancel_on_kill=False,
                    ends_task=needs_no_worker(self),
                )
            )
        return None

    def poke(self, context: Any) -> bool:
        """Look once."""
        execution = self.hook.client.get(self.execution_id)
        self.log.info("%s is %s", self.execution_id, execution.status)
        return self._check(self.execution_id, execution.status, execution.execution_error)

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> None:
        """The triggerer has waited."""
        self._check(self.execution_id, event.get("status", "failed"), event.get("error"))


class RGridBatchSensor(_GridSensor):
    """Waits until all of a batch completes; a failure in it fails the task.

    Args:
        batch_id: which.
        rgrid_conn_id: the connection.
        deferrable: wait in the triggerer; the configuration's default when None.
    """

    template_fields: Sequence[str] = ("batch_id",)

    def __init__(self, *, batch_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id

    def execute(self, context: Any) -> Any:
        """Wait, here or in the triggerer."""
        if not self.deferrable:
            return super().execute(context)
        if not self.poke(context):
            self._defer(
                RGridBatchTrigger(
                    rgrid_conn_id=self.rgrid_conn_id,
                    batch_id=self.batch_id,
                    cancel_on_kill=False,
                    ends_task=needs_no_worker(self),
                )
            )
        return None

    def poke(self, context: Any) -> bool:
        """Look once."""
        batch = self.hook.client.batch(self.batch_id)
        self.log.info("%s: %d of %d ended", self.batch_id, batch.counts.finished, batch.total)
        return self._check(self.batch_id, batch.status)

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> None:
        """The triggerer has waited."""
        self._check(self.batch_id, event.get("status", "failed"), event.get("error"))


class RGridBudgetSensor(_GridSensor):
    """Waits until this month's budget leaves so much to spend; passes at once where there is no limit.

    The limit is the tenant's own (``rgrid cost set-limit``), and a month ends at midnight UTC.

    Args:
        least_micros: how many millionths of a euro have to be left.
        rgrid_conn_id: the connection.
        deferrable: wait in the triggerer; the configuration's default when None.
    """

    template_fields: Sequence[str] = ("least_micros",)

    def __init__(self, *, least_micros: int | str = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.least_micros = least_micros

    def execute(self, context: Any) -> Any:
        """Wait, here or in the triggerer."""
        if not self.deferrable:
            return super().execute(context)
        if not self.poke(context):
            self._defer(
                RGridBudgetTrigger(
                    rgrid_conn_id=self.rgrid_conn_id,
                    least_micros=int(self.least_micros),
                    poll_interval=self.poke_interval,
                    ends_task=needs_no_worker(self),
                )
            )
        return None

    def poke(self, context: Any) -> bool:
        """Look once."""
        left_micros = self.hook.client.budget().left_micros
        told = "there is no limit" if left_micros is None else f"{left_micros} micro-euro are left"
        self.log.info("%s this month", told)
        return left_micros is None or left_micros >= int(self.least_micros)

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> None:
        """The triggerer has waited."""
        if event.get("error"):
            raise AirflowException(f"waiting for the budget failed: {event['error']}")
