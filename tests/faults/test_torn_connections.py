"""Connections are cut, delayed and swallowed, and answers lost after the commit, on both sides."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults import tally
from tests.faults.grid import Grid
from tests.faults.proxy import Fault, Kind, Plan, Proxy, no_faults, seeded
from tests.faults.scale import DEADLINE_SECONDS, EXECUTIONS, IS_SOAK, ROUNDS, seed_of
from tests.integration.conftest import Api

PROGRAM = "torn connections"
SHARE = 0.15

OF_CLIENTS = dict.fromkeys((kind for kind in Kind if kind is not Kind.NONE), 1)
OF_RUNNERS = {
    Kind.CUT_BEFORE: 4,
    Kind.CUT_REQUEST: 4,
    Kind.CUT_UPLOAD: 6,
    Kind.DELAY: 4,
    Kind.BLACKHOLE: 4,
    # a claim whose answer is lost may cost an attempt
    Kind.LOSE_ANSWER: 2,
    Kind.CUT_ANSWER: 1,
}


def told(plan: Plan, grid: Grid, side: str) -> Plan:
    """A plan whose faults are written into the history."""

    def tell() -> Fault:
        fault = plan()
        if fault.kind is not Kind.NONE:
            grid.recorder.is_disrupted(f"{side}: {fault.kind}")
        return fault

    return tell


@pytest.mark.parametrize("round_", ROUNDS)
def test_nothing_is_lost_or_done_twice_over_torn_connections(tmp_path: Path, round_: int) -> None:
    seed = seed_of(round_)
    with (
        Grid(tmp_path, PROGRAM, seed) as grid,
        Proxy(lambda: grid.target, told(seeded(seed, SHARE, OF_CLIENTS), grid, "client")) as clients,
        Proxy(lambda: grid.target, told(seeded(seed + 500, SHARE, OF_RUNNERS), grid, "runner")) as runners,
    ):
        grid.add_runner(runners.url)
        load = grid.load(clients.url).start(EXECUTIONS, batched=EXECUTIONS // 5)
        load.join()
        # the end is not what is tested here: what is left is to be cleared away undisturbed
        runners.plan(no_faults)
        grid.finish(load)
        for proxy, kinds in ((clients, OF_CLIENTS), (runners, OF_RUNNERS)):
            tally.count(PROGRAM, faults=sum(proxy.dealt.values()) - proxy.dealt[Kind.NONE])
            assert set(proxy.dealt) > {Kind.NONE}, "no connection was torn"
            assert set(proxy.dealt) <= {Kind.NONE, *kinds}


def test_a_runner_that_is_cut_off_for_a_while_goes_on_and_reports_when_it_is_back(tmp_path: Path) -> None:
    with Grid(tmp_path, PROGRAM, 0) as grid, Proxy(lambda: grid.target) as proxy:
        grid.add_runner(proxy.url)
        load = grid.load().start(8)
        load.wait_until_begun(2)
        grid.recorder.is_disrupted("the runner was cut off")
        proxy.isolate()
        # what it carries ends while nobody hears of it
        load.wait_until_ended(load.begun)
        wait_until_refused(proxy)
        if IS_SOAK:
            # so long that its reports come too late, for others have what it carried
            wait_until_nothing_runs(grid)
        proxy.join()
        _, truth = grid.finish(load)
        assert {item.status for item in truth.executions} == {"completed"}


def wait_until_refused(proxy: Proxy) -> None:
    """Wait until the runner has tried in vain."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while proxy.refused < 3:
        assert time.monotonic() < deadline, "the runner does not try"
        time.sleep(0.01)


def wait_until_nothing_runs(grid: Grid) -> None:
    """Wait until the leases of all that ran have expired."""
    api = Api(grid.server.api, grid.server.api_key)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while api.get("/executions?status=running").json():
        assert time.monotonic() < deadline, "no lease expires"
        time.sleep(0.1)
