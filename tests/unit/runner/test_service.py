"""When a runner ends by itself, and what it makes of an exit."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from rgrid_server.domain.attempts import Assignment, Outcome
from rgrid_server.runner.carrier import describe
from rgrid_server.runner.connection import Dismissed, Lease, Work
from rgrid_server.runner.sandbox.base import Ended, Exit
from rgrid_server.runner.service import FORSAKEN_SECONDS, RunnerService


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


ASSIGNMENT = Assignment(
    execution_id="exec_1",
    attempt=1,
    token="t",
    specification="s",
    tenant_id="t",
    batch_id=None,
    args=[],
    env_vars={},
    inputs=[],
    outputs=None,
    timeout_ms=1500,
    cpus_milli=1000,
    memory_mib=64,
    first_sequence=1,
    log_limit_bytes=1,
    output_limit_bytes=1,
    output_limit_files=1,
)


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
    found, code, message = describe(ended, ASSIGNMENT)
    assert (found, code) == (outcome, exit_code)
    assert message is None if why is None else why in (message or "")
