"""Which reports go together, and which at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rgrid_server.domain.attempts import LogChunk, Outcome, Report
from rgrid_server.runner import reporting
from rgrid_server.runner.outputs import Finished
from rgrid_server.runner.reporting import MAX_REPORTS_AT_ONCE, Reporter
from rgrid_server.runner.workspace import Workspace
from tests.unit.runner.assignments import assignment


@dataclass
class Server:
    """Takes reports, and keeps which came together."""

    groups: list[list[str]] = field(default_factory=list)

    async def send_reports(self, reports: list[Report], blobs: list[bytes]) -> list[str]:
        del blobs
        self.groups.append([report.execution_id for report in reports])
        return ["accepted"] * len(reports)


class Logs:
    """Has nothing left to send."""

    async def end(self, attempt: Any) -> LogChunk | None:
        del attempt


class Reports:
    """A reporter at work, and what it is told."""

    def __init__(self, *, more_work: bool) -> None:
        self.server = Server()
        self._reporter = Reporter(
            self.server,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            Logs(),  # type: ignore[arg-type]
            has_more_work=lambda: more_work,
        )

    async def report(self, execution_id: str, batch_id: str | None) -> None:
        """Report an execution's end, and wait until that is taken."""
        attempt: Any = SimpleNamespace(
            assignment=assignment(execution_id=execution_id, batch_id=batch_id),
            log=SimpleNamespace(last_sequence=0, has_more_than_heads=False),
        )
        finished = Finished(Report(execution_id, 1, "t", Outcome.EXITED, 0))
        await self._reporter.report(attempt, finished, Workspace(Path("/nowhere")))

    async def __aenter__(self) -> Reports:
        self._running = asyncio.create_task(self._reporter.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for others waits for ever."""
    monkeypatch.setattr(reporting, "TOGETHER_SECONDS", 36_000.0)
    monkeypatch.setattr(reporting, "LOOK_SECONDS", 3_600.0)


@pytest.mark.usefixtures("patient")
def test_reports_of_a_batch_wait_for_each_other_until_somebody_waits_for_one() -> None:
    async def end() -> None:
        async with Reports(more_work=True) as reports:
            waiting = []
            for execution_id in ("0", "1", "2"):
                waiting.append(asyncio.create_task(reports.report(execution_id, "b")))
                for _ in range(10):
                    await asyncio.sleep(0)
            assert reports.server.groups == []
            await reports.report("3", None)
            await asyncio.gather(*waiting)
            assert reports.server.groups == [["0", "1", "2", "3"]]

    asyncio.run(asyncio.wait_for(end(), 60))


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("batch_id", "more_work"), [("b", False), (None, True), (None, False)])
def test_where_slots_would_stay_free_or_somebody_waits_a_report_goes_at_once(
    batch_id: str | None, more_work: bool
) -> None:
    async def end() -> None:
        async with Reports(more_work=more_work) as reports:
            for execution_id in ("0", "1"):
                await reports.report(execution_id, batch_id)
            assert reports.server.groups == [["0"], ["1"]]

    asyncio.run(asyncio.wait_for(end(), 60))


@pytest.mark.usefixtures("patient")
def test_no_more_than_so_many_go_together_and_they_wait_no_longer() -> None:
    async def end() -> None:
        async with Reports(more_work=True) as reports:
            ids = [str(number) for number in range(2 * MAX_REPORTS_AT_ONCE)]
            await asyncio.gather(*(reports.report(one, "b") for one in ids))
            assert [len(group) for group in reports.server.groups] == [MAX_REPORTS_AT_ONCE] * 2

    asyncio.run(asyncio.wait_for(end(), 60))


def test_one_alone_of_a_batch_waits_for_a_moment_only() -> None:
    async def end() -> None:
        async with Reports(more_work=True) as reports:
            await reports.report("0", "b")
            assert reports.server.groups == [["0"]]

    asyncio.run(asyncio.wait_for(end(), 60))
