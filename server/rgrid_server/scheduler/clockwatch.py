"""Finds out when the server's clock was set, and keeps that from ending anything.

Leases, backoffs and the time that inputs have are written as times of the clock, for they outlive the
process. A clock that is set a day forward would end all of them at once; one that is set back would keep what
was submitted before from running for a day. So the clock is compared with the monotonic one, which nobody
sets, and after a step every deadline begins anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rgrid_server.clock import now_ms
from rgrid_server.scheduler.claims import LEASE_MS
from rgrid_server.scheduler.intake import INPUTS_DUE_MS
from rgrid_server.scheduler.wakeups import WORK, Wakeups
from rgrid_server.store import deadlines
from rgrid_server.store.database import Database

log = logging.getLogger(__name__)

STEP_MS = 5_000
"""A smaller difference is the clock being slewed, or a look that came late; leases are longer."""


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class ClockWatch:
    """Compares the clock with the monotonic one at each look.

    Args:
        database: whose deadlines it keeps.
        wakeups: to wake runners for what became ready.
        wall_ms: the clock, in milliseconds since the epoch.
        monotonic_ms: milliseconds since some time, by a clock that is never set.
    """

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        *,
        wall_ms: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = _monotonic_ms,
    ) -> None:
        self._database = database
        self._wakeups = wakeups
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._ahead_ms = wall_ms() - monotonic_ms()

    async def begin(self) -> None:
        """Look whether the clock was set back while no server ran."""
        latest = await self._database.read(deadlines.latest_event_at_ms)
        now = self._wall_ms()
        if latest is not None and latest - now > STEP_MS:
            await self._begin_anew(now, now - latest)

    async def look(self) -> int:
        """The time now, after every deadline was moved if the clock was set since the last look."""
        now = self._wall_ms()
        ahead_ms = now - self._monotonic_ms()
        step_ms = ahead_ms - self._ahead_ms
        if abs(step_ms) > STEP_MS:
            await self._begin_anew(now, step_ms)
        # only now: a step whose deadlines could not be moved is found again at the next look
        self._ahead_ms = ahead_ms
        return now

    async def _begin_anew(self, now: int, step_ms: int) -> None:
        log.warning("the clock was set by %+.1f s; every lease and backoff begins anew", step_ms / 1000)
        await self._database.write(
            lambda c: deadlines.begin_anew(c, now, lease_ms=LEASE_MS, inputs_due_ms=INPUTS_DUE_MS),
            is_long=True,
        )
        self._wakeups.wake([WORK])
