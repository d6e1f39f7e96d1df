"""Reading and following an execution's log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from rgrid_server.clock import now_ms
from rgrid_server.domain.attempts import LogEntry
from rgrid_server.domain.execution import Status
from rgrid_server.domain.retention import DAY_MS, RetentionTimes
from rgrid_server.errors import Gone, NotFound
from rgrid_server.scheduler.wakeups import Wakeups, log_topic
from rgrid_server.store import executions as store
from rgrid_server.store import logs
from rgrid_server.store.database import Database, Row

MAX_ENTRIES_A_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class LogPage:
    """Consecutive entries with their numbers; ``is_complete`` when there are none and none will come."""

    entries: list[tuple[int, LogEntry]]
    is_complete: bool
    status: Status
    exit_code: int | None


class Logs:
    """What executions print, from any place in it on."""

    def __init__(self, database: Database, wakeups: Wakeups, retention: RetentionTimes) -> None:
        self._database = database
        self._wakeups = wakeups
        self._retention = retention

    @property
    def is_ending(self) -> bool:
        """Whether the server is about to stop, so that streams have to end."""
        return self._wakeups.is_ending

    async def page(
        self,
        tenant_id: str,
        execution_id: str,
        after: int,
        wait_seconds: float = 0,
        max_entries: int = MAX_ENTRIES_A_PAGE,
    ) -> LogPage:
        """Entries behind ``after``; waits up to ``wait_seconds`` for the first one or for the end.

        Raises:
            NotFound: the tenant has no such execution.
            Gone: ``logs_expired``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        with self._wakeups.watch(log_topic(execution_id)) as watch:
            while True:
                page = await self._page(tenant_id, execution_id, after, max_entries)
                if page.entries or page.is_complete or not await watch.wait(deadline - loop.time()):
                    return page

    async def newest(self, execution_ids: Sequence[str]) -> dict[str, int]:
        """The number of the newest entry of each execution's log; those without a log are missing."""
        return await self._database.read(lambda c: logs.last_sequence(c, execution_ids))

    async def _page(self, tenant_id: str, execution_id: str, after: int, max_entries: int) -> LogPage:
        # the status first: once it is terminal no more entries come, so none is missed between the two
        row = await self._database.read(lambda c: store.get_status(c, tenant_id, execution_id))
        if row is None:
            raise NotFound("Execution")
        entries = await self._database.read(lambda c: logs.read_log(c, execution_id, after, max_entries))
        status = Status(row["status"])
        if status.is_terminal and not entries:
            await self._check_kept(execution_id, row)
        return LogPage(
            entries=entries,
            is_complete=status.is_terminal and not entries,
            status=status,
            exit_code=row["exit_code"],
        )

    async def _check_kept(self, execution_id: str, row: Row) -> None:
        """Tell a log that is not kept any more from one that was empty, or that was read to its end."""
        expires_at_ms = self._retention.log_expires_at_ms(row["completed_at_ms"])
        if not row["last_sequence"] or expires_at_ms is None or now_ms() < expires_at_ms:
            return
        if not await self._database.read(lambda c: logs.has_log(c, execution_id)):
            days = self._retention.log_ms / DAY_MS
            raise Gone(
                "logs_expired",
                f"the log of {execution_id} is not kept any more: it was deleted {days:g} days after the "
                "end; run it again for a new one",
            )
