"""The fault table: what dies under a real Airflow, and that each life of a task is done once all the same.

One Airflow (scheduler with LocalExecutor, triggerer, DAG processor, web server, on PostgreSQL) and one grid
for the whole table. Faults of one task befall their runs side by side; faults of what all share come after.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import airflow
import pytest

from rgrid.client import Client
from rgrid.models import Execution
from tests.airflow_api import USER, AirflowApi
from tests.airflow_home import AirflowHome, free_port
from tests.faults.proxy import Proxy
from tests.faults.scale import IS_SOAK
from tests.live import ROOT, LiveServer

if TYPE_CHECKING:
    from tests.postgres import PostgresCluster

MAJOR = int(airflow.__version__.split(".")[0])
DONE_SECONDS = 300
TASK = "work"
RESULT = {"lines": 4}
COMPONENTS = ("web", "scheduler", "dag-processor", "triggerer")
MODES = ("waits", "defers")

QUICK_TO_NOTICE = {
    "CORE__PARALLELISM": "24",
    "CORE__MAX_ACTIVE_TASKS_PER_DAG": "100",
    # 3.3 stands still for 30 s and answers 500 when as many ask at once as it has connections (15)
    "DATABASE__SQL_ALCHEMY_POOL_SIZE": "30",
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "45",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "30",
    # 3.x
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "40",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "WORKERS__MIN_HEARTBEAT_INTERVAL": "5",
    # 2.11
    "SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "40",
    "SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "3",
    "SCHEDULER__LOCAL_TASK_JOB_HEARTBEAT_SEC": "5",
    "SCHEDULER__STANDALONE_DAG_PROCESSOR": "True",
    "API__AUTH_BACKENDS": "airflow.providers.fab.auth_manager.api.auth.backend.basic_auth",
}
"""Airflow takes minutes to give up what has died; here it takes seconds.

More, though, than a busy scheduler needs to come to its own heartbeat: one that seems dead to itself gives up
all that runs.
"""


@dataclass
class World:
    """An Airflow and a grid."""

    home: AirflowHome
    api: AirflowApi
    server: LiveServer
    client: Client
    proxy: Proxy
    place: Path
    _asking: Lock = field(default_factory=Lock)
    _tasks: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    _asked_at: float = 0.0

    def task(self, dag_id: str, run_id: str, since: float = 0.0) -> dict[str, Any]:
        """A task instance as it was a second ago or less, and not before a time; {} before there is one.

        One question a second for all rows: they are many, and Airflow has the same processor.
        """
        with self._asking:
            if time.monotonic() > self._asked_at + 1 or self._asked_at < since:
                self._asked_at = time.monotonic()
                self._tasks = self.api.tasks()
            return self._tasks.get((dag_id, run_id, TASK), {})

    def begin(self, dag_id: str, name: str) -> Run:
        """Begin a run, and wait until its script runs and its task waits as it is to."""
        run = Run(self, dag_id, f"{name}_{dag_id}")
        (self.place / run.run_id).mkdir()
        self.api.begin(dag_id, run.run_id)
        return run.wait_until_it_waits()

    def until(self, is_so: Callable[[], object], what: str) -> None:
        """Ask until it is so."""
        deadline = time.monotonic() + DONE_SECONDS
        while time.monotonic() < deadline:
            if is_so():
                return
            time.sleep(0.3)
        told = {name: self.home.log_of(name)[-3000:] for name in COMPONENTS}
        raise AssertionError(f"not within {DONE_SECONDS} s: {what}\n{json.dumps(told, indent=1)}")


@dataclass
class Run:
    """A run of one of the DAGs."""

    world: World
    dag_id: str
    run_id: str

    @property
    def place(self) -> Path:
        """Where its script and this test tell each other how far they are."""
        return self.world.place / self.run_id

    @property
    def defers(self) -> bool:
        """Whether its task waits in the triggerer."""
        return self.dag_id.startswith("defers")

    def noted(self, what: str) -> list[str]:
        """The executions whose script came to a point, in that order."""
        file = self.place / what
        return file.read_text().split() if file.exists() else []

    def say(self, what: str) -> None:
        """Tell its script, or its worker, something: ``go``, ``fail``, ``hold``."""
        (self.place / what).touch()

    def task(self, since: float = 0.0) -> dict[str, Any]:
        """Its task instance, as it was not before a time."""
        return self.world.task(self.dag_id, self.run_id, since)

    def log(self, try_number: int) -> list[str]:
        """The lines of a try's log."""
        return self.world.api.log(self.dag_id, self.run_id, TASK, try_number)

    def executions(self) -> list[Execution]:
        """All that the grid has of it, the oldest first."""
        return self.world.client.list(metadata={"run_id": self.run_id})[::-1]

    def until(self, is_so: Callable[[], object], what: str) -> None:
        """Ask until it is so."""
        try:
            self.world.until(is_so, what)
        except AssertionError as error:
            task = self.task()
            log = "\n".join(self.log(task.get("try_number", 1)))
            grid = [(one.execution_id, one.status) for one in self.executions()]
            raise AssertionError(f"{self.run_id}: {what}\n{task}\n{grid}\n{log}\n{error}") from None

    def wait_until_it_waits(self) -> Run:
        """Wait until its script runs, and its task in a worker or in the triggerer."""
        state = "deferred" if self.defers else "running"

        def waits() -> bool:
            found = self.task()
            assert found.get("state") != "failed", "it failed"
            return found.get("state") == state and self.is_followed(found["try_number"])

        self.until(waits, f"its script runs and its task is {state}")
        return self

    def is_followed(self, try_number: int) -> bool:
        """Whether a worker or a trigger is at it: what the script printed before it waits is in the log."""
        kept = self.world.home.home / "logs" / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        return any(b"line 2" in file.read_bytes() for file in kept.rglob(f"attempt={try_number}.log*"))

    def worker(self) -> tuple[int, int]:
        """The process of its task, and the one above that watches over it."""
        found: list[int] = []

        def is_known() -> bool:
            task = self.task()
            # what is told may be a second old, and of the worker before
            found[:] = [int(task["pid"])] if task["state"] == "running" and task["pid"] else []
            return bool(found) and Path(f"/proc/{found[0]}").exists()

        self.until(is_known, "its process is known")
        (pid,) = found
        return pid, int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    def given_up(self) -> int:
        """How often a scheduler gave its task up: without a processor for long it takes itself for dead.

        And one that hears late that a worker has deferred a task, when that is queued again already, takes it
        for failed.
        """
        count, are_given_up = 0, False
        for line in self.world.home.log_of("scheduler").splitlines():
            if "but the task instance's state attribute is queued" in line:
                count += f"{self.dag_id}.{TASK} {self.run_id} " in line
            elif line.lstrip().startswith("<TaskInstance"):
                count += are_given_up and f"{self.dag_id}.{TASK} {self.run_id} " in line
            else:
                are_given_up = "Reset the following" in line
        return count

    def kill_worker(self) -> None:
        """End its worker as a machine's end would."""
        for pid in reversed(self.worker()):
            os.kill(pid, signal.SIGKILL)

    def check(
        self,
        *,
        state: str = "success",
        executions: Mapping[str, int] | None = None,
        ended: int = 1,
        tries: int | None = 1,
        attempts: int = 1,
    ) -> None:
        """Wait for the end, and look at everything that there is to see.

        Args:
            state: the task's.
            executions: how many the grid has in each status.
            ended: how often the script came to its end.
            tries: how many Airflow made beside those that a starved scheduler gave up; None: it may choose.
            attempts: how many the grid made of the last execution; the log has what all of them printed.
        """
        # not as it was before it was cleared: on a quick machine it is done again within a second
        now = time.monotonic()
        self.until(lambda: self.task(now)["state"] == state, f"its task is in {state}")
        self.until(lambda: all(one.is_terminal for one in self.executions()), "its executions have ended")
        found = self.executions()
        assert Counter(one.status for one in found) == (executions or {"completed": 1}), self.run_id
        assert len(self.noted("ended")) == ended
        assert [one.run_key for one in found] == [found[0].run_key] * len(found)
        try_number = self.task()["try_number"]
        assert tries is None or tries <= try_number <= tries + self.given_up()
        if state != "success" or not ended:
            return
        last = found[-1]
        xcoms = self.world.api.xcoms(self.dag_id, self.run_id, TASK)
        # 3.x keeps the links of a task's page there, too
        xcoms = {key: value for key, value in xcoms.items() if not key.startswith("_link_")}
        (artifact,) = xcoms.pop("artifacts")
        assert (artifact["filename"], artifact["size_bytes"]) == ("out.txt", 5)
        assert xcoms == {
            "execution_id": last.execution_id,
            "cost_micros": last.cost_micros,
            "return_value": RESULT,
        }
        log = self.log(try_number)
        told = [line.partition("[stdout] ")[2] for line in log if "[stdout] " in line]
        begun = [f"line {number}" for number in range(3)] * attempts
        assert told == [*begun, "line 3", json.dumps(RESULT)], "\n".join(log)


# faults of one task


def nothing(world: World, mode: str) -> None:
    """The table's zeroth row."""
    run = world.begin(mode, "nothing")
    run.say("go")
    run.check()


def worker_killed_while_the_script_runs(world: World) -> None:
    run = world.begin("waits", "killed")
    run.kill_worker()
    run.until(lambda: run.task()["try_number"] == 2, "a second try")
    run.wait_until_it_waits().say("go")
    run.check(tries=2)


def worker_killed_after_it_took_the_result(world: World, mode: str) -> None:
    run = world.begin(f"{mode}_held", "taken")
    run.say("hold")
    run.say("go")
    run.until((run.place / "taken").exists, "the result is taken")
    run.kill_worker()
    (run.place / "hold").unlink()
    run.check(tries=2)


def worker_shut_down(world: World) -> None:
    run = world.begin("waits", "shut_down")
    task, supervisor = run.worker()
    os.kill(supervisor, signal.SIGTERM)
    run.until(lambda: "goes on, and the next try" in "\n".join(run.log(1)), "it lets its execution be")
    if MAJOR == 3:
        # 3.x lets the task run until the machine's patience is over
        os.kill(supervisor, signal.SIGKILL)
        os.kill(task, signal.SIGKILL)
    run.until(lambda: run.task()["try_number"] == 2, "a second try")
    run.wait_until_it_waits().say("go")
    run.check(tries=2)


def marked_failed(world: World, mode: str) -> None:
    run = world.begin(mode, "marked_failed")
    world.api.mark(run.dag_id, run.run_id, TASK, "failed")
    run.check(state="failed", executions={"canceled": 1}, ended=0)


def marked_success(world: World, mode: str) -> None:
    run = world.begin(mode, "marked_success")
    world.api.mark(run.dag_id, run.run_id, TASK, "success")
    run.check(state="success", executions={"canceled": 1}, ended=0)


def cleared_while_it_runs(world: World, mode: str) -> None:
    run = world.begin(mode, "cleared_early")
    world.api.clear(run.dag_id, run.run_id, TASK)
    run.until(lambda: len(set(run.noted("began"))) == 2, "it begins again")
    run.say("go")
    # 3.x may take the end of the cleared try for one of the next: a third try, which attaches
    run.check(executions={"canceled": 1, "completed": 1}, tries=None)


def cleared_when_it_is_done(world: World, mode: str) -> None:
    run = world.begin(mode, "cleared_late")
    run.say("go")
    run.check()
    # a task that is cleared while the scheduler is ending its run stays as it is, in a run that is over
    run.until(lambda: world.api.run_state(run.dag_id, run.run_id) == "success", "its run is over")
    world.api.clear(run.dag_id, run.run_id, TASK)
    run.until(lambda: len(run.noted("ended")) == 2, "it ends again")
    run.check(executions={"completed": 2}, ended=2, tries=2)


def script_fails(world: World, mode: str) -> None:
    run = world.begin(mode, "fails")
    run.say("fail")
    run.say("go")
    run.check(executions={"failed": 1, "completed": 1}, tries=2)
    # a try that a scheduler gave up has no page
    if not run.given_up():
        assert "no luck this time" in "\n".join(run.log(1))


def network_gone(world: World) -> None:
    runs = [world.begin(f"{mode}_far", "network") for mode in MODES]
    world.proxy.isolate()
    refused = world.proxy.refused
    world.until(lambda: world.proxy.refused > refused + 5, "the network is missed")
    for run in runs:
        run.say("go")
    for run in runs:
        run.until(lambda run=run: run.noted("ended"), "the script has ended")
    world.proxy.join()
    finish(runs)


ROWS: dict[str, Callable[[World], None]] = {
    "worker killed while the script runs": worker_killed_while_the_script_runs,
    "worker shut down": worker_shut_down,
    "network gone": network_gone,
} | {
    f"{name}, {mode}": partial(row, mode=mode)
    for name, row in {
        "nothing": nothing,
        "worker killed after it took the result": worker_killed_after_it_took_the_result,
        "marked failed": marked_failed,
        "marked success": marked_success,
        "cleared while it runs": cleared_while_it_runs,
        "cleared when it is done": cleared_when_it_is_done,
        "script fails": script_fails,
    }.items()
    for mode in MODES
}


# faults of what all share: one after the other, when those are over


def server_restarted(world: World, runs: Sequence[Run]) -> None:
    world.server.kill()
    world.server.restart()
    finish(runs)


def runner_killed(world: World, runs: Sequence[Run]) -> None:
    """A fault of the grid, which tries again by itself."""
    pid = world.server.runner_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    for run in runs:
        run.until(lambda run=run: len(run.noted("began")) == 2, "it begins again")
    finish(runs, attempts=2)


def triggerer_killed(world: World, runs: Sequence[Run]) -> None:
    world.home.kill("triggerer")
    world.home.start("triggerer")
    finish(runs)


def scheduler_killed(world: World, runs: Sequence[Run]) -> None:
    """Its workers live on, and are taken for lost by the scheduler that follows."""
    world.home.kill("scheduler")
    world.home.start("scheduler")
    (waits,) = (run for run in runs if not run.defers)
    waits.until(lambda: waits.task()["try_number"] == 2, "a second try")
    waits.wait_until_it_waits()
    finish(runs, tries=None)


def finish(runs: Sequence[Run], **expected: Any) -> None:
    """Let runs come to their end, and look at them."""
    for run in runs:
        run.say("go")
    for run in runs:
        run.check(**expected)


SHARED: dict[str, Callable[[World, Sequence[Run]], None]] = {
    "server restarted": server_restarted,
    "runner killed": runner_killed,
    "triggerer killed": triggerer_killed,
    "scheduler killed": scheduler_killed,
}


IN_SHORT = {
    "worker killed while the script runs",
    "worker killed after it took the result, defers",
    "marked failed, waits",
    "marked failed, defers",
    "cleared while it runs, waits",
    "cleared while it runs, defers",
    "triggerer killed",
}
"""What is tried in a short round; ``make soak`` tries everything."""
if not IS_SOAK:
    ROWS = {name: row for name, row in ROWS.items() if name in IN_SHORT}
    SHARED = {name: row for name, row in SHARED.items() if name in IN_SHORT}


@pytest.fixture(scope="module")
def world(postgres: PostgresCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything, once for the module."""
    place = tmp_path_factory.mktemp("place")
    options = ["--slots", "40", "--sandbox", "process"]
    with LiveServer(port=free_port(), options=options) as server:
        there = urlsplit(server.url)
        server.wait_for_runner()
        url = postgres.create_database().replace("postgresql://", "postgresql+psycopg2://")
        with (
            Proxy(lambda: (str(there.hostname), int(there.port or 0))) as proxy,
            AirflowHome(MAJOR, tmp_path_factory.mktemp("airflow"), server) as home,
            Client(server.url, server.api_key) as client,
        ):
            home.env |= {f"AIRFLOW__{name}": value for name, value in QUICK_TO_NOTICE.items()}
            # many at a time, on both majors
            home.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url
            home.env["AIRFLOW__CORE__EXECUTOR"] = "LocalExecutor"
            home.env["RGRID_FAULTS_PLACE"] = str(place)
            home.env["AIRFLOW_CONN_RGRID_FAR"] = json.dumps(
                {"conn_type": "rgrid", "host": proxy.url, "password": server.api_key}
            )
            shutil.copy(ROOT / "tests" / "airflow" / "fault_dags" / "faults.py", home.dags)
            home.migrate()
            if MAJOR == 2:
                home.add_user(USER, "Admin")
            home.start(*COMPONENTS)
            world = World(home, AirflowApi(home), server, client, proxy, place)
            world.until(lambda: world.api.has_dag("defers_held"), "the DAGs are read")
            yield world


@pytest.fixture(scope="module")
def happened(world: World) -> Iterator[Mapping[str, Future[None]]]:
    """Every row of the table, by its name: to come, under way or over."""
    with ThreadPoolExecutor(len(ROWS)) as side_by_side, ThreadPoolExecutor(1) as one_by_one:
        rows = {name: side_by_side.submit(row, world) for name, row in ROWS.items()}
        alone = list(rows.values())

        def befall(name: str) -> None:
            wait(alone)
            runs = [world.begin(mode, name.replace(" ", "_")) for mode in MODES]
            SHARED[name](world, runs)

        yield rows | {name: one_by_one.submit(befall, name) for name in SHARED}


@pytest.mark.parametrize("row", [*ROWS, *SHARED])
def test_each_life_of_a_task_is_done_once_whatever_dies(
    happened: Mapping[str, Future[None]], row: str
) -> None:
    happened[row].result()
