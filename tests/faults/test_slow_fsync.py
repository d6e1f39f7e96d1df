"""A disk that is slow to make things durable: what is answered is durable, and who needs none is answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.disks import COMPILER, SlowDisk
from tests.faults.grid import Grid
from tests.faults.history import Work
from tests.faults.scale import EXECUTIONS, ROUNDS, seed_of
from tests.integration.conftest import Api

PROGRAM = "slow fsync"
SUBMITTERS = 16


@pytest.fixture(autouse=True)
def _compiler(require: Callable[[bool, str], None]) -> None:
    require(COMPILER is not None, "a C compiler (on Debian: apt-get install gcc libc6-dev)")


def test_nothing_is_answered_before_it_is_on_the_disk_and_who_needs_no_disk_is(tmp_path: Path) -> None:
    disk = SlowDisk(tmp_path)
    with Grid(tmp_path, PROGRAM, 0, env=disk.environment) as grid:
        api = Api(grid.server.api, grid.server.api_key)
        before = submit_before(grid, api)
        disk.hold()
        load = grid.load().start(SUBMITTERS, threads=SUBMITTERS, batched=SUBMITTERS // 4)
        disk.wait_until_held()
        for _ in range(20):
            assert api.get("/health").status_code == 200
            assert api.get(f"/executions/{before}").json()["status"] == "queued"
            assert len(api.get("/executions").json()) == 1
        assert grid.recorder.acknowledged_count == 1
        # what was not answered may be lost with the server: its submitters ask again
        grid.recorder.is_disrupted("the server was killed")
        grid.server.kill()
        disk.release()
        grid.server.restart()
        api = Api(grid.server.api, grid.server.api_key)
        assert api.post(f"/executions/{before}/cancel").json()["status"] == "canceled"
        grid.add_runner()
        grid.finish(load)


@pytest.mark.parametrize("round_", ROUNDS)
def test_on_a_slow_disk_operations_share_what_it_takes(tmp_path: Path, round_: int) -> None:
    disk = SlowDisk(tmp_path, delay_ms=100)
    with Grid(tmp_path, PROGRAM, seed_of(round_), env=disk.environment) as grid:
        before = disk.fsyncs
        # no files, so that every fsync is a commit's
        load = grid.load().start(EXECUTIONS, threads=SUBMITTERS, with_files=False)
        load.wait_until_acknowledged(EXECUTIONS)
        assert 0 < disk.fsyncs - before < EXECUTIONS
        grid.add_runner()
        assert Api(grid.server.api, grid.server.api_key).get("/health").status_code == 200
        grid.finish(load)


def submit_before(grid: Grid, api: Api) -> str:
    """One that is there before the disk becomes slow."""
    grid.recorder.asks(Work("before", "before", ("before",), {}))
    execution_id: str = api.submit("print('before')", args=["before"], run_key="before")["execution_id"]
    grid.recorder.is_acknowledged("before", execution_id)
    return execution_id
