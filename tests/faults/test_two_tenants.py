"""Two tenants hammer one host: neither sees anything of the other's, and each is billed for its own.

Their scripts leave marks and processes wherever they can, and look for marks everywhere. Their
clients ask for each other's work by its ids. A short round takes seconds, ``make soak`` ten minutes.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

from rgrid import Client
from rgrid.exceptions import NotFound
from rgrid_server.runner.sandbox import bubblewrap
from tests.faults import tally
from tests.faults.scale import DEADLINE_SECONDS, IS_SOAK, seed_of
from tests.integration.conftest import Api, make_tenant
from tests.live import LiveServer

PROGRAM = "two tenants"
SECONDS = 600.0 if IS_SOAK else 8.0
SUBMITTERS = 3
AT_ONCE = 4
SCRIPT = (Path(__file__).parent / "prying.py").read_text()


class Tenant:
    """A tenant's clients, and what is known of their work.

    Args:
        name: eight hexadecimal digits, in each of its marks.
        client: opens the server with its key.
    """

    def __init__(self, name: str, client: Client) -> None:
        self.name = name
        self.client = client
        self.ids: list[str] = []
        self.complaints: list[str] = []

    def hammer(self, until: float, other: Tenant, chance: random.Random) -> None:
        """Submit, wait and look until it is time; what is wrong is noted."""
        while time.monotonic() < until and not self.complaints:
            try:
                self._one_round(other, chance)
            except Exception as error:
                self.complaints.append(repr(error))

    def _one_round(self, other: Tenant, chance: random.Random) -> None:
        marks = [f"mark-of-{self.name}-{uuid.uuid4().hex[:12]}" for _ in range(AT_ONCE)]
        begun = [
            self.client.submit(SCRIPT, args=[mark, str(chance.uniform(0, 0.05))], secrets={"SECRET": mark})
            for mark in marks
        ]
        for execution, mark in zip(begun, marks, strict=True):
            self.ids.append(execution.execution_id)
            ended = self.client.wait(execution.execution_id, DEADLINE_SECONDS)
            # its own mark is a secret, which the log hides
            if ended.status != "completed" or ended.stdout.splitlines() != ["***", "{}"]:
                self.complaints.append(f"{mark}: {ended.status}, {ended.stdout!r}, {ended.stderr!r}")
        if other.ids:
            self._pry(chance.choice(other.ids))

    def _pry(self, execution_id: str) -> None:
        for ask in (self.client.get, self.client.cancel, self.client.artifacts, self.client.retry):
            try:
                answer = ask(execution_id)
            except NotFound:
                continue
            self.complaints.append(f"{execution_id} of another tenant: {answer}")


def test_neither_sees_anything_of_the_other(tmp_path: Path, require: Callable[[bool, str], None]) -> None:
    problem = bubblewrap.why_not()
    require(problem is None, f"bubblewrap ({problem})")
    with LiveServer(tmp_path / "data", options=["--sandbox", "bubblewrap", "--slots", "4"]) as server:
        server.wait_for_runner()
        admin = Api(server.api, server.api_key)
        keys = [str(make_tenant(admin, server).session.headers["Authorization"])[7:] for _ in range(2)]
        one, two = (Tenant(uuid.uuid4().hex[:8], Client(server.url, key)) for key in keys)
        until = time.monotonic() + SECONDS
        threads = [
            threading.Thread(target=tenant.hammer, args=(until, other, random.Random(seed_of(number))))
            for number in range(SUBMITTERS)
            for tenant, other in ((one, two), (two, one))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.complaints + two.complaints == []
        for tenant in (one, two):
            listed = tenant.client.list(limit=len(one.ids) + len(two.ids))
            assert {execution.execution_id for execution in listed} == set(tenant.ids)
            assert tenant.client.cost().total_executions == len(tenant.ids) >= SUBMITTERS * AT_ONCE
        tally.count(PROGRAM, executions=len(one.ids) + len(two.ids), rounds=1, violations=0)
    left = [process.pid for process in psutil.process_iter() if _carries_a_mark(process)]
    assert left == []
    assert [path for path in (tmp_path / "data").rglob("mark-of-*") if "blobs" not in path.parts] == []


def _carries_a_mark(process: psutil.Process) -> bool:
    try:
        return any("mark-of-" in part for part in process.cmdline())
    except psutil.Error:
        return False
