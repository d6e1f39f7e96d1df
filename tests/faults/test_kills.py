"""Killing parts of the system while they work: nothing is lost, run twice or billed twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scale import ROUNDS
from tests.gate import Gate
from tests.integration.conftest import Api
from tests.live import LiveServer

SCRIPT = f"""
import sys, time
for n in range(6):
    print(sys.argv[1], n, flush=True)
    time.sleep(0.05)
    if n == 2:
        {Gate.WAIT}
open('mark', 'w').write(sys.argv[1])
"""
"""Prints half of its lines, and the others when a gate is opened: so it certainly runs at the bad moment."""


def client(server: LiveServer) -> Api:
    """A client of where the server is now."""
    return Api(server.api, server.api_key)


def ended(server: LiveServer, ids: list[str]) -> list[dict[str, Any]]:
    """All of them, once they have ended."""
    return [client(server).wait(one, seconds=120) for one in ids]


def expected(name: int) -> str:
    """What the script prints."""
    return "".join(f"{name} {n}\n" for n in range(6))


def charges_per_attempt(server: LiveServer) -> Counter[tuple[str, int]]:
    """How many charges each attempt has."""
    with sqlite3.connect(server.data_dir / "rgrid.sqlite") as database:
        return Counter(database.execute("SELECT execution_id, attempt FROM charges").fetchall())


@pytest.mark.parametrize("round_", ROUNDS)
def test_fifty_running_executions_survive_a_killed_server(tmp_path: Path, round_: int) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "50"]) as server, Gate() as gate:
        server.wait_for_runner()
        ids = [
            client(server).submit(SCRIPT, args=[str(n), gate.argument], cpus=0.1)["execution_id"]
            for n in range(50)
        ]
        wait_until_running(server, 50)
        server.kill()
        gate.open()
        server.restart()
        found = ended(server, ids)
        assert [item["status"] for item in found] == ["completed"] * 50
        assert [item["stdout"] for item in found] == [expected(n) for n in range(50)]
        assert [item["attempt"] for item in found] == [1] * 50
        for n, item in enumerate(found):
            assert set(item["download_urls"]) == {"mark"}
            log = client(server).get(f"/executions/{ids[n]}/logs", headers={"Accept": "text/plain"})
            assert log.text == expected(n)
        assert max(charges_per_attempt(server).values()) == 1


@pytest.mark.parametrize("round_", ROUNDS)
def test_executions_of_a_killed_runner_run_again_once(tmp_path: Path, round_: int) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "4"]) as server, Gate() as gate:
        server.wait_for_runner()
        ids = [client(server).submit(SCRIPT, args=[str(n), gate.argument])["execution_id"] for n in range(4)]
        wait_until_running(server, 4)
        pid = server.runner_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        gate.open()
        found = ended(server, ids)
        assert [item["status"] for item in found] == ["completed"] * 4
        assert [item["stdout"] for item in found] == [expected(n) for n in range(4)]
        assert {item["attempt"] for item in found} == {2}
        assert max(charges_per_attempt(server).values()) == 1


def test_what_was_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        ids: list[str] = []
        stop = threading.Event()

        def submit() -> None:
            api = client(server)
            while not stop.is_set():
                try:
                    ids.append(api.submit("print(1)")["execution_id"])
                except Exception:
                    # the kill: what was not answered may or may not be there
                    return

        threads = [threading.Thread(target=submit) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(ids) < 200:
            time.sleep(0.01)
        server.kill()
        stop.set()
        for thread in threads:
            thread.join()
        server.restart()
        there = set()
        cursor: str | None = None
        while True:
            query = {"limit": 500, **({"cursor": cursor} if cursor else {})}
            answer = client(server).get("/executions", params=query)
            there |= {item["execution_id"] for item in answer.json()}
            cursor = answer.headers.get("X-Next-Cursor")
            if cursor is None:
                break
        assert set(ids) <= there


def test_sigterm_drains_and_running_work_goes_on_under_the_next_server(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "2"]) as server, Gate() as gate:
        server.wait_for_runner()
        one = client(server).submit(SCRIPT, args=["1", gate.argument])["execution_id"]
        wait_until_running(server, 1)
        assert terminate_only(server) == 0
        gate.open()
        server.restart()
        (found,) = ended(server, [one])
        assert (found["status"], found["stdout"], found["attempt"]) == ("completed", expected(1), 1)


def test_two_hundred_submissions_by_fifty_threads_all_end_right(live_server: LiveServer) -> None:
    ids: dict[int, str] = {}

    def submit(first: int) -> None:
        api = client(live_server)
        for n in range(first, 200, 50):
            ids[n] = api.submit(f"print({n} * 2)")["execution_id"]

    threads = [threading.Thread(target=submit, args=(first,)) for first in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {n: client(live_server).wait(one)["stdout"] for n, one in ids.items()}
    assert found == {n: f"{n * 2}\n" for n in range(200)}


def wait_until_running(server: LiveServer, count: int) -> None:
    """Wait until so many have printed their first line."""
    api = client(server)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        running = api.get("/executions?status=running&limit=500").json()
        if len(running) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{len(running)} of {count} run")


def terminate_only(server: LiveServer) -> int:
    """SIGTERM for the server alone; returns its exit code."""
    process = server._process
    assert process is not None
    process.terminate()
    code = process.wait(timeout=60)
    server._process = None
    return code


KILLS_ITS_RUNNER = """
import os, signal

def parent_of(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])

# as far up as the runner, and not as far as the server
pid = os.getpid()
while b"rgrid_server.runner\\0--url" not in open(f"/proc/{pid}/cmdline", "rb").read():
    pid = parent_of(pid)
os.kill(pid, signal.SIGKILL)
signal.pause()
"""


def test_a_script_that_kills_its_runner_each_time_is_given_up_with_a_reason(tmp_path: Path) -> None:
    # in any other sandbox it does not find its runner
    options = ["--slots", "2", "--sandbox", "process"]
    with LiveServer(tmp_path / "data", options=options) as server:
        server.wait_for_runner()
        poison = client(server).submit(KILLS_ITS_RUNNER, retry_policy={"max_retries": 20})["execution_id"]
        found = client(server).wait(poison, seconds=180)
        assert (found["status"], found["error_code"], found["attempt"]) == ("failed", "attempts_exhausted", 3)
        assert "given up after 3 attempts: the runner that carried it was lost" in found["execution_error"]
        assert found["cost_micros"] == 0
        # whoever comes after it is served
        assert client(server).run("print('well')")["stdout"] == "well\n"
