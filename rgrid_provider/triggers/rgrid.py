"""Triggers: waiting for an execution or a batch without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from rgrid import calls
from rgrid.aio import AsyncClient
from rgrid.exceptions import RGridError
from rgrid_provider._compat import (
    BaseTrigger,
    TriggerEvent,
    push_from_trigger,
    success_event,
    was_deferred_task_killed,
)
from rgrid_provider.done import files_in_xcom, outputs_of, tell_end
from rgrid_provider.feed import Feed, shared_feed
from rgrid_provider.hooks.rgrid import RGridAsyncHook
from rgrid_provider.tasklog import DatedLines, TaskLog, last_line_value


class _GridTrigger(BaseTrigger):
    """What the triggers share: the feed of their connection, and the end that a user brings.

    With ``ends_task`` one that has waited for something that went well ends its task; all else is for a
    worker, which can fail the task with its reason and have it tried again.
    """

    def __init__(
        self,
        rgrid_conn_id: str,
        poll_interval: float = 30.0,
        *,
        cancel_on_kill: bool = True,
        ends_task: bool = False,
    ) -> None:
        super().__init__()
        self.rgrid_conn_id = rgrid_conn_id
        self.poll_interval = poll_interval
        self.cancel_on_kill = cancel_on_kill
        self.ends_task = ends_task

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the end, and say so once."""
        async with self._feed() as feed:
            try:
                event = await self._wait(feed)
                is_over = self.ends_task and await self._is_finished(feed, event)
            except RGridError as error:
                event, is_over = self._told(error=str(error)), False
            except asyncio.CancelledError:
                if self.cancel_on_kill and await was_deferred_task_killed(self):
                    await self._cancel(feed.client)
                raise
        yield success_event() if is_over else TriggerEvent(event)

    async def on_kill(self) -> None:
        """A user ended the deferred task: end its work (called by Airflow 3.3 and later).

        A sensor's task only watches: what it waits for is somebody else's, and goes on.
        """
        if not self.cancel_on_kill:
            return
        async with self._feed() as feed:
            await self._cancel(feed.client)

    def _feed(self) -> AbstractAsyncContextManager[Feed]:
        return shared_feed(self.rgrid_conn_id, RGridAsyncHook(self.rgrid_conn_id).get_async_client)

    async def _wait(self, feed: Feed) -> dict[str, Any]:
        raise TypeError("a trigger says what it waits for")

    async def _is_finished(self, feed: Feed, event: dict[str, Any]) -> bool:
        try:
            return await self._finish(feed, event)
        except Exception:
            self.log.warning("the task cannot be ended here; a worker does it", exc_info=True)
            return False

    async def _finish(self, feed: Feed, event: dict[str, Any]) -> bool:
        """Do what a worker would do with what went well; False where it did not."""
        return event.get("status") == "completed"

    async def _cancel(self, client: AsyncClient) -> None:
        raise TypeError("a trigger says what it ends")

    def _told(self, **facts: Any) -> dict[str, Any]:
        raise TypeError("a trigger says what its event is about")


class RGridExecutionTrigger(_GridTrigger):
    """Waits for an execution; its lines appear in the task's log as they are printed.

    Where it ends its task it pushes those of ``cost_micros``, ``artifacts`` and ``return_value`` that are in
    ``xcoms``.
    """

    def __init__(
        self,
        rgrid_conn_id: str,
        execution_id: str,
        poll_interval: float = 30.0,
        follow_logs: bool = True,
        *,
        cancel_on_kill: bool = True,
        ends_task: bool = False,
        xcoms: Sequence[str] = (),
    ) -> None:
        super().__init__(rgrid_conn_id, poll_interval, cancel_on_kill=cancel_on_kill, ends_task=ends_task)
        self.execution_id = execution_id
        self.follow_logs = follow_logs
        self.xcoms = tuple(xcoms)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How a triggerer makes it anew."""
        return (
            "rgrid_provider.triggers.rgrid.RGridExecutionTrigger",
            {
                "rgrid_conn_id": self.rgrid_conn_id,
                "execution_id": self.execution_id,
                "poll_interval": self.poll_interval,
                "follow_logs": self.follow_logs,
                "cancel_on_kill": self.cancel_on_kill,
                "ends_task": self.ends_task,
                "xcoms": list(self.xcoms),
            },
        )

    async def _wait(self, feed: Feed) -> dict[str, Any]:
        if self.follow_logs:
            await self._follow(feed)
        return self._told(status=await feed.ended(self.execution_id))

    async def _follow(self, feed: Feed) -> None:
        lines = DatedLines(self.log)
        task_log = TaskLog(lines.write)
        try:
            async for entry in feed.log(self.execution_id):
                task_log.add(lines.see(entry))
        except RGridError as error:
            # the result is what the task waits for
            self.log.warning("the log of %s cannot be followed: %s", self.execution_id, error)
        task_log.end()

    async def _finish(self, feed: Feed, event: dict[str, Any]) -> bool:
        if event["status"] != "completed":
            return False
        if not self.xcoms:
            return True
        execution = await feed.ask(calls.get_execution(self.execution_id))
        if execution.output_truncated and "return_value" in self.xcoms:
            # a worker takes the last line from the log
            return False
        outputs = outputs_of(await feed.ask(calls.list_artifacts(self.execution_id)))
        values = {
            "cost_micros": execution.cost_micros,
            "artifacts": files_in_xcom(outputs),
            "return_value": last_line_value(execution.stdout),
        }
        # as in a worker, a result of None is none
        await push_from_trigger(self, {key: values[key] for key in self.xcoms if values[key] is not None})
        tell_end(self.log, execution)
        return True

    async def _cancel(self, client: AsyncClient) -> None:
        await client.cancel(self.execution_id)

    def _told(self, **facts: Any) -> dict[str, Any]:
        return {"execution_id": self.execution_id, **facts}


class RGridBatchTrigger(_GridTrigger):
    """Waits for a batch."""

    def __init__(
        self,
        rgrid_conn_id: str,
        batch_id: str,
        poll_interval: float = 30.0,
        *,
        cancel_on_kill: bool = True,
        ends_task: bool = False,
    ) -> None:
        super().__init__(rgrid_conn_id, poll_interval, cancel_on_kill=cancel_on_kill, ends_task=ends_task)
        self.batch_id = batch_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How a triggerer makes it anew."""
        return (
            "rgrid_provider.triggers.rgrid.RGridBatchTrigger",
            {
                "rgrid_conn_id": self.rgrid_conn_id,
                "batch_id": self.batch_id,
                "poll_interval": self.poll_interval,
                "cancel_on_kill": self.cancel_on_kill,
                "ends_task": self.ends_task,
            },
        )

    async def _wait(self, feed: Feed) -> dict[str, Any]:
        return self._told(status=await feed.batch_ended(self.batch_id, self.poll_interval))

    async def _cancel(self, client: AsyncClient) -> None:
        await client.send(calls.cancel_batch(self.batch_id))

    def _told(self, **facts: Any) -> dict[str, Any]:
        return {"batch_id": self.batch_id, **facts}


class RGridBudgetTrigger(_GridTrigger):
    """Waits until this month's budget leaves something to spend."""

    def __init__(
        self, rgrid_conn_id: str, least_micros: int, poll_interval: float = 30.0, *, ends_task: bool = False
    ) -> None:
        # there is nothing that a kill could end
        super().__init__(rgrid_conn_id, poll_interval, cancel_on_kill=False, ends_task=ends_task)
        self.least_micros = least_micros

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How a triggerer makes it anew."""
        return (
            "rgrid_provider.triggers.rgrid.RGridBudgetTrigger",
            {
                "rgrid_conn_id": self.rgrid_conn_id,
                "least_micros": self.least_micros,
                "poll_interval": self.poll_interval,
                "ends_task": self.ends_task,
            },
        )

    async def _wait(self, feed: Feed) -> dict[str, Any]:
        return self._told(left_micros=await feed.budget_left(self.least_micros, self.poll_interval))

    async def _finish(self, feed: Feed, event: dict[str, Any]) -> bool:
        return True

    def _told(self, **facts: Any) -> dict[str, Any]:
        return facts
