"""The clock's own events: leases that expire, inputs that never came."""

from __future__ import annotations

import asyncio
import logging

from rgrid_server.scheduler.clockwatch import ClockWatch
from rgrid_server.scheduler.executions import Executions
from rgrid_server.scheduler.leases import Leases
from rgrid_server.store.database import StorageError

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0


async def sweep(
    clock: ClockWatch, executions: Executions, leases: Leases, every_seconds: float = SWEEP_SECONDS
) -> None:
    """Look again and again, until canceled; an error is logged and the next look tries anew."""
    while True:
        try:
            # by one time, which was looked at: a clock that is set meanwhile ends nothing
            now = await clock.look()
            await leases.expire(now)
            await leases.make_ready()
            await executions.expire_inputs(now)
        except StorageError as error:
            log.warning("the sweep could not write: %s", error)
        except Exception:
            log.exception("the sweep failed; it is tried again")
        await asyncio.sleep(every_seconds)
