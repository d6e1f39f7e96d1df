"""What attempts print, on its way to the server: what is there at a time goes together, in one call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from rgrid_server.domain.attempts import LogChunk
from rgrid_server.runner.attempt import Attempt
from rgrid_server.runner.connection import Connection, NoRoom, Refused, SentChunk

log = logging.getLogger(__name__)

LOG_INTERVAL_SECONDS = 0.1
MAX_CHUNK_BYTES = 1024 * 1024
MAX_LOG_WITH_REPORT_BYTES = 256 * 1024


class LogShipper:
    """Sends the logs of what a runner carries.

    Args:
        carried: what it carries; looked at anew each time.
    """

    def __init__(self, connection: Connection, carried: Collection[Attempt]) -> None:
        self._connection = connection
        self._carried = carried
        self._has_entries = asyncio.Event()
        self._sending = asyncio.Lock()

    def notify(self) -> None:
        """There are entries to send."""
        self._has_entries.set()

    async def run(self) -> None:
        """Send what comes, until canceled."""
        while True:
            await self._has_entries.wait()
            if all(item.log.pending_bytes < MAX_CHUNK_BYTES for item in self._carried):
                # together with what comes in the meantime; a script that ends soon needs its report only
                await asyncio.sleep(LOG_INTERVAL_SECONDS)
            self._has_entries.clear()
            await self._send(list(self._carried))

    async def end(self, attempt: Attempt) -> LogChunk | None:
        """Send nothing more of an attempt's log; returns the rest of it, which goes with its report."""
        while attempt.log.pending_bytes > MAX_LOG_WITH_REPORT_BYTES and not attempt.is_dropped:
            await self._send([attempt])
        attempt.is_reporting = True
        async with self._sending:
            # what is on its way arrives first: after its report an attempt's log is closed
            return attempt.log.take(2 * MAX_LOG_WITH_REPORT_BYTES)

    async def _send(self, attempts: list[Attempt]) -> None:
        async with self._sending:
            sent = [
                (attempt, SentChunk(attempt.assignment, chunk))
                for attempt in attempts
                if not attempt.is_reporting and (chunk := attempt.log.take(MAX_CHUNK_BYTES)) is not None
            ]
            if not sent:
                return
            try:
                verdicts = await self._connection.send_logs([chunk for _, chunk in sent])
            except Refused:
                log.exception("log chunks were refused; they are lost")
                return
            except NoRoom as error:
                log.warning("%s; the logs of what prints are not kept", error)
                for attempt, _ in sent:
                    attempt.log.give_up("there is no room for it on the server's disk")
                return
        for (attempt, _), verdict in zip(sent, verdicts, strict=True):
            if verdict == "stale":
                attempt.drop()
            if attempt.log.pending_bytes:
                self.notify()
