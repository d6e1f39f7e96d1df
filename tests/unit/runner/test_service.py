"""When a runner ends by itself, and what it makes of an exit."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections import namedtuple
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from rgrid_server.domain.attempts import AttemptId, Outcome, OutputFile, Report, Specification
from rgrid_server.runner.attempt import Attempt
from rgrid_server.runner.carrier import describe
from rgrid_server.runner.connection import Dismissed, Lease, NoRoom, Work
from rgrid_server.runner.outputs import Finished
from rgrid_server.runner.sandbox.base import Ended, Exit
from rgrid_server.runner.service import FORSAKEN_SECONDS, RunnerService
from rgrid_server.runner.workspace import Workspace
from tests.unit.runner.assignments import assignment


@dataclass
class FakeConnection:
    """A server that fails as it is told to."""

    failure: Exception | None = None
    seconds_unanswered: float = 0.0
    claims: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def register(self, description: dict[str, Any]) -> Lease:
        del description
        return Lease(lease_ms=30_000, heartbeat_ms=10_000)

    async def claim(self, **offer: object) -> Work:
        del offer
        self.claims += 1
        self.asked.set()
        if self.failure is not None:
            raise self.failure
        await asyncio.Event().wait()
        raise AssertionError

    async def back_off(self, failures: int) -> None:
        del failures
        await asyncio.sleep(0)


def service(connection: FakeConnection, work_directory: Path) -> RunnerService:
    return RunnerService(connection, None, {}, 1, work_directory)  # type: ignore[arg-type]


async def still_runs(made: RunnerService, connection: FakeConnection) -> bool:
    """Whether it goes on after several failed claims; it is stopped afterwards."""
    running = asyncio.create_task(made.run())
    while connection.claims < 5 and not running.done():
        await asyncio.sleep(0)
    was_running = not running.done()
    made.stop()
    await running
    return was_running


def test_a_runner_waits_for_a_server_that_is_away(tmp_path: Path) -> None:
    connection = FakeConnection(httpx.ConnectError("away"), seconds_unanswered=FORSAKEN_SECONDS - 1)
    assert asyncio.run(still_runs(service(connection, tmp_path), connection))


def test_a_runner_whose_server_stays_away_ends(tmp_path: Path) -> None:
    connection = FakeConnection(httpx.ConnectError("away"), seconds_unanswered=FORSAKEN_SECONDS + 1)
    assert not asyncio.run(still_runs(service(connection, tmp_path), connection))


def test_a_runner_whose_directory_is_gone_ends(tmp_path: Path) -> None:
    connection = FakeConnection(httpx.ConnectError("away"))
    assert not asyncio.run(still_runs(service(connection, tmp_path / "gone"), connection))


def test_a_runner_that_is_not_wanted_says_so(tmp_path: Path) -> None:
    connection = FakeConnection(Dismissed("the key was revoked"))
    with pytest.raises(Dismissed):
        asyncio.run(service(connection, tmp_path).run())


def test_a_runner_is_stopped_while_it_waits_for_work(tmp_path: Path) -> None:
    async def stop() -> None:
        connection = FakeConnection()
        made = service(connection, tmp_path)
        running = asyncio.create_task(made.run())
        await connection.asked.wait()
        made.stop()
        await running

    asyncio.run(stop())


def exit_(ended: Ended, code: int, *, was_signaled: bool = False) -> Exit:
    return Exit(ended, code, was_signaled, duration_ms=1, cpu_ms=1, peak_memory_mib=1)


@pytest.mark.parametrize(
    ("ended", "outcome", "exit_code", "why"),
    [
        (exit_(Ended.EXITED, 0), Outcome.EXITED, 0, None),
        (exit_(Ended.EXITED, 255), Outcome.EXITED, 255, None),
        (exit_(Ended.SIGNALED, 11, was_signaled=True), Outcome.SIGNALED, 139, "SIGSEGV"),
        (exit_(Ended.SIGNALED, 40, was_signaled=True), Outcome.SIGNALED, 168, "40"),
        (exit_(Ended.TIMED_OUT, 0), Outcome.TIMED_OUT, 124, "1.5 seconds"),
        (exit_(Ended.OUT_OF_MEMORY, 9, was_signaled=True), Outcome.OUT_OF_MEMORY, 137, "64 MiB"),
        (exit_(Ended.CANCELED, 15, was_signaled=True), Outcome.CANCELED, 143, None),
        (exit_(Ended.CANCELED, signal.SIGKILL, was_signaled=True), Outcome.CANCELED, 137, None),
        (exit_(Ended.CANCELED, 3), Outcome.CANCELED, 143, None),
    ],
)
def test_an_exit_is_said_in_the_words_of_the_wire(
    ended: Exit, outcome: Outcome, exit_code: int, why: str | None
) -> None:
    found, code, message = describe(ended, assignment())
    assert (found, code) == (outcome, exit_code)
    assert message is None if why is None else why in (message or "")


@dataclass
class FullServer:
    """Gives one attempt, and has no room for its report before something was let go of."""

    work: Path
    takes: str
    seconds_unanswered: float = 0.0
    has_given: bool = False
    asked: list[str] = field(default_factory=list)
    taken: asyncio.Future[Report] | None = None
    clock: Any = field(default_factory=lambda: SimpleNamespace(now_ms=lambda: 0))

    async def register(self, description: dict[str, Any]) -> Lease:
        del description
        return Lease(lease_ms=30_000, heartbeat_ms=10_000)

    async def claim(self, **offer: object) -> Work:
        del offer
        if self.has_given:
            await asyncio.Event().wait()
        self.has_given = True
        return Work([(assignment(), Specification("", "script.py", "python:3.11", None))], [], drain=False)

    async def release(self, handed_back: list[AttemptId]) -> None:
        del handed_back

    async def send_reports(self, reports: list[Report], blobs: list[bytes]) -> list[str]:
        del blobs
        held = (
            "files" if (self.work / "exec_1-1").exists() else "outputs" if reports[0].artifacts else "nothing"
        )
        self.asked.append(held)
        if held != self.takes:
            raise NoRoom("make room on its disk")
        assert self.taken is not None
        self.taken.set_result(reports[0])
        return ["accepted"]


class OneOutput:
    """Carries an attempt that leaves one small file."""

    async def carry(self, attempt: Attempt, workspace: Workspace) -> Finished:
        workspace.create()
        attempt.free_slot()
        output = OutputFile("small.txt", "a" * 64, 1, "text/plain")
        report = Report("exec_1", 1, "t", Outcome.EXITED, 0, artifacts=[output])
        return Finished(report, [b"x"])

    def span(self, attempt: Attempt, name: str) -> AbstractContextManager[None]:
        del attempt, name
        return nullcontext()


async def reported(server: FullServer) -> Report:
    server.taken = asyncio.get_running_loop().create_future()
    made = RunnerService(server, OneOutput(), {}, 1, server.work)  # type: ignore[arg-type]
    running = asyncio.create_task(made.run())
    report = await server.taken
    made.stop()
    await running
    return report


def test_a_report_that_has_no_room_lets_go_of_the_workspace_first(tmp_path: Path) -> None:
    server = FullServer(tmp_path, takes="outputs")
    report = asyncio.run(reported(server))
    assert server.asked == ["files", "outputs"]
    assert (report.error_code, len(report.artifacts)) == (None, 1)


def test_a_report_that_still_has_no_room_lets_go_of_the_outputs(tmp_path: Path) -> None:
    server = FullServer(tmp_path, takes="nothing")
    report = asyncio.run(reported(server))
    assert server.asked == ["files", "outputs", "nothing"]
    assert (report.exit_code, report.error_code, report.artifacts) == (0, "storage_full", [])
    assert "'small.txt'" in (report.error_message or "")


def test_a_runner_whose_disk_is_nearly_full_asks_for_nothing(tmp_path: Path) -> None:
    async def offered(min_free_bytes: int) -> object:
        asked: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        connection = FakeConnection()

        async def claim(**offer: object) -> Work:
            if not asked.done():
                asked.set_result(offer)
            await asyncio.Event().wait()
            raise AssertionError

        connection.claim = claim  # type: ignore[method-assign, assignment]
        made = RunnerService(connection, None, {}, 3, tmp_path, min_free_bytes=min_free_bytes)  # type: ignore[arg-type]
        running = asyncio.create_task(made.run())
        offer = await asked
        made.stop()
        await running
        return offer["free_slots"]

    usage = namedtuple("usage", "total used free")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _path: usage(10_000, 9_501, 499))
        assert asyncio.run(offered(0)) == 3
        assert asyncio.run(offered(499)) == 3
        assert asyncio.run(offered(2**30)) == 0
