"""Servers, their runners and their submitters, to be disturbed; at the end all is gathered and checked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from sqlalchemy import make_url

from rgrid_server.clock import now_ms
from rgrid_server.config import Settings
from rgrid_server.domain.retention import DAY_MS
from rgrid_server.scheduler.retention import Retention
from rgrid_server.storage import DATABASE_FILE, open_blobs, open_database
from rgrid_server.store.postgres import postgres_engine
from rgrid_server.store.sqlite import sqlite_engine
from tests.faults import tally
from tests.faults.history import History, Recorder, Truth
from tests.faults.load import Load
from tests.faults.model import EXHAUSTED, check
from tests.faults.scale import DEADLINE_SECONDS
from tests.faults.truth import gather
from tests.live import PYTHON, LiveServer

SANDBOX = ("--sandbox", "process")
"""The load's scripts note what they do outside of the grid, which they would not reach in any other."""


class RunnerProcess:
    """A runner of the test's own, with a data directory of its own.

    Args:
        home: its data directory.
        url: the server's address, or a proxy's.
        key: the key that opens the runner's calls.
        slots: how many scripts it runs at once.
        env: more environment variables.
    """

    def __init__(
        self, home: Path, url: str, key: str, *, slots: int = 4, env: Mapping[str, str] | None = None
    ) -> None:
        self.home = home
        self._command = [str(PYTHON), "-m", "rgrid_server.runner", "--url", url, "--data-dir", str(home)]
        self._command += ["--slots", str(slots), *SANDBOX]
        self._env = {"RGRID_RUNNER_KEY": key, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> RunnerProcess:
        """Start it."""
        self.home.mkdir(parents=True, exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RGRID_")}
        with (self.home / "runner.log").open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=clean | self._env,
                start_new_session=True,
            )
        return self

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it with SIGTERM."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(120)
            finally:
                self.kill()


class Grid:
    """A server on a data directory, runners, and what is known of them.

    Args:
        directory: for all of it.
        program: whose line in the summary it counts for.
        seed: what the round's chance is drawn from.
        slots: of the server's own runner; with 0 the test starts its own.
        options: more of the server's command line.
        env: more of the server's environment.
        data_dir: the server's data directory, where it is to stand elsewhere.
        database_url: a PostgreSQL; SQLite in the data directory when None.
        servers: how many there are, on one PostgreSQL and one directory of blobs; the first is ``server``.
    """

    def __init__(
        self,
        directory: Path,
        program: str,
        seed: int,
        *,
        slots: int = 0,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        data_dir: Path | None = None,
        database_url: str | None = None,
        servers: int = 1,
    ) -> None:
        self.directory = directory
        self.recorder = Recorder()
        where = ["--database-url", database_url] if database_url is not None else []
        first = data_dir or directory / "data"
        if servers > 1:
            where += ["--blob-url", (first / "blobs").as_uri()]
        self.servers = [
            LiveServer(place, options=["--slots", str(slots), *SANDBOX, *where, *options], env=env)
            for place in (first, *(directory / f"data-{number}" for number in range(2, servers + 1)))
        ]
        self.server = self.servers[0]
        self._database_url = database_url
        self.runners: list[RunnerProcess] = []
        self._program = program
        self._seed = seed
        self._has_own_runner = slots > 0
        self._kills = 0
        self._loads: list[Load] = []

    def __enter__(self) -> Grid:
        for server in self.servers:
            server.start()
        if self._has_own_runner:
            self.server.wait_for_runner()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for load in self._loads:
            load.abandon()
        self.stop()

    @property
    def target(self) -> tuple[str, int] | None:
        """Host and port of where the server is now."""
        parts = urlsplit(self.server.url)
        return (parts.hostname, parts.port) if parts.hostname and parts.port else None

    def load(self, address: str | None = None) -> Load:
        """Submitters that go to the server wherever it is, or to an address."""
        load = Load(
            lambda: [address] if address else [server.url for server in self.servers],
            self.server.api_key,
            self.directory,
            self.recorder,
            self._seed,
        )
        self._loads.append(load)
        return load

    def add_runner(
        self,
        url: str | None = None,
        *,
        home: Path | str = "runner",
        env: Mapping[str, str] | None = None,
        slots: int = 4,
    ) -> RunnerProcess:
        """Start a runner that goes to the server, or to a proxy before it; its home is in the directory."""
        key = (self.server.data_dir / "runner.key").read_text().strip()
        place = self.directory / home
        runner = RunnerProcess(place, url or self.server.url, key, slots=slots, env=env)
        self.runners.append(runner.start())
        self.server.wait_for_runner()
        return runner

    def kill_server(self) -> None:
        """kill -9 the server, and start it again."""
        self.disrupt("the server was killed", self.server.kill)
        self.server.restart()

    def disrupt(self, what: str, kill: Callable[[], None]) -> None:
        """Kill something else, and write it into the history."""
        self.recorder.is_disrupted(what)
        self._kills += 1
        kill()

    def kill_servers(self, servers: Sequence[LiveServer]) -> None:
        """kill -9 some of several servers at once, and start them again."""
        for server in servers:
            self.disrupt("one of several servers was killed", server.kill)
        for server in servers:
            server.restart()

    def kill_runner(self, server: LiveServer | None = None) -> None:
        """kill -9 a server's own runner; the server starts another."""
        pid = (server or self.server).runner_pid()
        if pid is None:
            # it is just being started anew
            return
        self.disrupt("the runner was killed", lambda: os.kill(pid, signal.SIGKILL))

    def stop(self) -> None:
        """Stop runners and server."""
        for runner in self.runners:
            runner.stop()
        for server in self.servers:
            server.stop()

    def finish(self, load: Load) -> tuple[History, Truth]:
        """Wait for every result, stop everything, and check all of it."""
        load.join()
        self._wait_for_empty_workspaces()
        self.stop()
        asyncio.run(self._remove_orphans())
        engine = (
            sqlite_engine(self.server.data_dir / DATABASE_FILE)
            if self._database_url is None
            else postgres_engine(make_url(self._database_url))
        )
        truth = gather(engine, self.server.data_dir, load.journal, self._homes)
        engine.dispose()
        history = self.recorder.history()
        violations = check(history, truth)
        tally.count(
            self._program,
            rounds=1,
            executions=len(truth.executions),
            attempts=len(truth.ran),
            kills=self._kills,
            given_up=sum(item.error_code == EXHAUSTED for item in truth.executions),
            violations=len(violations),
        )
        told = "\n".join(str(violation) for violation in violations)
        assert not violations, f"seed {self._seed}, in {self.directory}:\n{told}"
        return history, truth

    async def _remove_orphans(self) -> None:
        """What a server does a day later with files of uploads that were whole when it was killed."""
        settings = Settings(data_dir=self.server.data_dir, database_url=self._database_url)
        database = open_database(settings)
        try:
            later = Retention(database, open_blobs(settings), settings.retention, lambda: now_ms() + DAY_MS)
            await later.remove_orphans()
        finally:
            await database.close()

    @property
    def _homes(self) -> list[Path]:
        """Where runners keep what they carry."""
        return [*(runner.home for runner in self.runners), *(server.data_dir for server in self.servers)]

    def _wait_for_empty_workspaces(self) -> None:
        """A runner removes a workspace after its report is taken."""
        deadline = time.monotonic() + min(120.0, DEADLINE_SECONDS)
        while time.monotonic() < deadline:
            if not any(any((home / "runner" / "work").glob("*")) for home in self._homes):
                return
            time.sleep(0.05)
