"""Executions in a database, for tests of what is seen of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rgrid_server.domain.submission import Limits, Submission
from rgrid_server.scheduler.executions import Executions
from rgrid_server.scheduler.wakeups import Wakeups
from rgrid_server.store.database import Row
from rgrid_server.store.sqlite import SqliteDatabase

LIMITS = Limits()


def submit_all(data: Path, submissions: Sequence[Submission]) -> list[Row]:
    """Submit them for one tenant; returns their rows."""

    async def submit() -> list[Row]:
        database = SqliteDatabase(data)
        try:
            executions = Executions(database, Wakeups(), LIMITS)
            return [(await executions.submit("tenant_a", item)).row for item in submissions]
        finally:
            await database.close()

    return asyncio.run(submit())
