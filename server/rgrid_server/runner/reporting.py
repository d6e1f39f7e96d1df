"""An attempt's report, until the server has taken it: queued, sent with others, and tried with less."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from rgrid_server.clock import is_set_within
from rgrid_server.domain.attempts import Outcome, Report
from rgrid_server.runner.attempt import Attempt
from rgrid_server.runner.carrier import Carrier
from rgrid_server.runner.connection import Connection, NoRoom, Refused
from rgrid_server.runner.logshipping import LogShipper
from rgrid_server.runner.outputs import Finished, no_room_for
from rgrid_server.runner.workspace import Workspace

log = logging.getLogger(__name__)

MAX_REPORTS_AT_ONCE = 50
MAX_BLOBS_AT_ONCE_BYTES = 16 * 1024 * 1024
MAX_REPORT_TRIES = 5
TOGETHER_SECONDS = 0.05
"""So long reports of batches wait for each other, while there is more to begin with.

A batch that is to run few at a time gets its next only when one has been reported, so it is no longer.
"""
LOOK_SECONDS = 0.01


class _Waiting(NamedTuple):
    """What is to be reported, and who waits for the server's verdict on it."""

    finished: Finished
    verdict: asyncio.Future[str]
    is_of_batch: bool

    @property
    def size_bytes(self) -> int:
        return sum(len(blob) for blob in self.finished.blobs)


class Reporter:
    """Reports attempts.

    Args:
        logs: what sends their logs, whose rest goes with the report.
        has_more_work: whether the runner has something to begin with.
    """

    def __init__(
        self,
        connection: Connection,
        carrier: Carrier,
        logs: LogShipper,
        has_more_work: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._carrier = carrier
        self._logs = logs
        self._has_more_work = has_more_work
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._alone = 0
        self._is_urgent = asyncio.Event()

    async def report(self, attempt: Attempt, finished: Finished, workspace: Workspace) -> None:
        """Send the rest of the log and the report, until the server has taken both."""
        rest = await self._logs.end(attempt)
        report = replace(
            finished.report.with_log(rest),
            last_sequence=attempt.log.last_sequence,
            output_truncated=attempt.log.has_more_than_heads,
        )
        verdict = await self._settle(attempt, replace(finished, report=report), workspace)
        if verdict not in {"accepted", "duplicate"}:
            log.warning("the report of %s was answered %s", attempt.assignment.execution_id, verdict)

    async def run(self) -> None:
        """Send what is reported, until canceled."""
        while True:
            waiting = [await self._queue.get()]
            await self._wait_for_more()
            size_bytes = waiting[0].size_bytes
            while (
                len(waiting) < MAX_REPORTS_AT_ONCE
                and size_bytes < MAX_BLOBS_AT_ONCE_BYTES
                and not self._queue.empty()
            ):
                waiting.append(self._queue.get_nowait())
                size_bytes += waiting[-1].size_bytes
            self._alone -= sum(not item.is_of_batch for item in waiting)
            await self._send(waiting)

    async def _wait_for_more(self) -> None:
        """Let reports gather: what is reported together costs less, and of a batch nobody waits for one.

        Not for long, and not at all where somebody waits for one, or where slots would stay free meanwhile.
        """
        self._note_urgency()
        for _ in range(round(TOGETHER_SECONDS / LOOK_SECONDS)):
            if self._is_urgent.is_set() or not self._has_more_work():
                return
            await is_set_within(self._is_urgent, LOOK_SECONDS)

    def _note_urgency(self) -> None:
        # with the one that has been taken already
        if self._alone or self._queue.qsize() + 1 >= MAX_REPORTS_AT_ONCE:
            self._is_urgent.set()
        else:
            self._is_urgent.clear()

    async def _settle(self, attempt: Attempt, finished: Finished, workspace: Workspace) -> str:
        """Have a report answered; where there is no room, first the workspace goes, then the outputs."""
        names = [item.name for item in finished.report.artifacts]
        verdict, times_full = "", 0
        for _ in range(MAX_REPORT_TRIES):
            while True:
                try:
                    if verdict == "blobs_missing":
                        await self._carrier.upload_again(attempt, finished)
                    verdict = await self._ask_for_verdict(attempt, finished)
                    break
                except (NoRoom, FileNotFoundError) as error:
                    # the report is tried until it is taken: what holds it up has been let go of by then
                    times_full += 1
                    await asyncio.to_thread(workspace.remove)
                    if times_full > 1 or isinstance(error, FileNotFoundError):
                        finished = finished.without_outputs("storage_full", no_room_for(names, error))
                        verdict = ""
            if verdict != "blobs_missing":
                break
        return verdict

    async def _ask_for_verdict(self, attempt: Attempt, finished: Finished) -> str:
        is_of_batch = attempt.assignment.batch_id is not None
        waiting = _Waiting(finished, asyncio.get_running_loop().create_future(), is_of_batch)
        self._alone += not is_of_batch
        await self._queue.put(waiting)
        self._note_urgency()
        try:
            return await waiting.verdict
        except Refused as refused:
            log.exception("a report was refused")
            fault = _fault_in_place_of(finished.report, refused)
            return (await self._connection.send_reports([fault], []))[0]

    async def _send(self, waiting: Sequence[_Waiting]) -> None:
        blobs = {hashlib.sha256(blob).digest(): blob for item in waiting for blob in item.finished.blobs}
        try:
            verdicts = await self._connection.send_reports(
                [item.finished.report for item in waiting], list(blobs.values())
            )
        except (NoRoom, Refused) as error:
            if isinstance(error, Refused) and len(waiting) > 1:
                # one of them is at fault; the others are not to suffer for it
                for item in waiting:
                    await self._send([item])
                return
            for item in waiting:
                if not item.verdict.done():
                    item.verdict.set_exception(error)
            return
        for item, verdict in zip(waiting, verdicts, strict=True):
            if not item.verdict.done():
                item.verdict.set_result(verdict)


def _fault_in_place_of(report: Report, refused: Refused) -> Report:
    """What is said of an attempt whose own report is refused: nothing that may be the reason for it."""
    return replace(
        report,
        outcome=Outcome.GRID_FAULT,
        error_code="grid_fault",
        error_message=str(refused),
        stdout="",
        stderr="",
        log=None,
        artifacts=[],
        metadata={},
    )
