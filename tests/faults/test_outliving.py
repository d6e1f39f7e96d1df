"""Runners outlive their servers, scripts do not outlive their runners, and neither leaves anything behind."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.gate import Gate
from tests.integration.conftest import Api
from tests.live import LiveServer

AWAY_SECONDS = 65.0 if os.environ.get("RGRID_SOAK_ROUNDS") else 0.0
"""A long round waits twice a lease; a short one sets the leases back instead."""
DEADLINE_SECONDS = 180.0

COUNTING = """
import sys, time
for n in range(int(sys.argv[1])):
    print("line", n, flush=True)
    time.sleep(0.05)
"""
UNTIL_TOLD = """
import socket, sys
told = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
told.settimeout(0.05)
n = 0
while True:
    print("line", n, flush=True)
    n += 1
    try:
        told.recv(1)
        break
    except TimeoutError:
        pass
print("ended after", n)
"""
PRINTING = """
with open("progress", "w") as progress:
    for n in range(400_000):
        print(f"{n:0100d}")
        if n % 1000 == 0:
            progress.seek(0)
            progress.write(str(n))
            progress.flush()
    progress.seek(0)
    progress.write("ended ")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """A server with a runner of three slots."""
    with LiveServer(tmp_path / "data", options=["--slots", "3"]) as found:
        yield found.wait_for_runner()


def api_of(server: LiveServer) -> Api:
    return Api(server.api, server.api_key)


def until(look: Callable[[], Any], what: str) -> Any:
    """What a look finds, as soon as it finds something."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {DEADLINE_SECONDS} s: {what}")


def prints(server: LiveServer, execution_id: str, entries: int = 1) -> bool:
    """Whether so much of its log has arrived."""
    answer = api_of(server).get(f"/executions/{execution_id}/logs", headers={"Accept": "application/json"})
    return len(answer.json()["entries"]) >= entries


def runs(server: LiveServer, execution_id: str, attempt: int) -> bool:
    shown = api_of(server).get(f"/executions/{execution_id}").json()
    return (shown["status"], shown["attempt"]) == ("running", attempt)


def be_away(server: LiveServer) -> None:
    """Let every lease run out while no server is there to extend it."""
    time.sleep(AWAY_SECONDS)
    with closing(sqlite3.connect(server.data_dir / "rgrid.sqlite")) as database, database:
        database.execute("UPDATE attempts SET lease_expires_at_ms = lease_expires_at_ms - 600000")


def charges(server: LiveServer) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(server.data_dir / "rgrid.sqlite")) as database:
        return database.execute("SELECT execution_id, attempt FROM charges ORDER BY 1, 2").fetchall()


def log_of(server: LiveServer, execution_id: str) -> str:
    return api_of(server).get(f"/executions/{execution_id}/logs", headers={"Accept": "text/plain"}).text


def test_scripts_go_on_while_their_server_is_away_beyond_their_leases(server: LiveServer) -> None:
    lines = 200 if not AWAY_SECONDS else 1600
    ids = [api_of(server).submit(COUNTING, args=[str(lines)])["execution_id"] for _ in range(3)]
    for one in ids:
        until(lambda one=one: prints(server, one, 5), f"{one} prints")
    first_url = server.url
    server.kill()
    be_away(server)
    server.restart()
    assert server.url != first_url
    for one in ids:
        found = api_of(server).wait(one, seconds=DEADLINE_SECONDS)
        assert (found["status"], found["attempt"], found["retry_count"]) == ("completed", 1, 0)
        assert log_of(server, one) == "".join(f"line {n}\n" for n in range(lines))
    assert charges(server) == sorted((one, 1) for one in ids)


def test_upgrades_of_the_server_are_not_noticed_by_scripts(server: LiveServer) -> None:
    with Gate() as end:
        one = api_of(server).submit(UNTIL_TOLD, args=[end.argument])["execution_id"]
        for _ in range(3):
            before = len(log_of(server, one).splitlines())
            until(lambda before=before: prints(server, one, before + 5), "the script prints on")
            stop_only(server)
            server.restart()
        end.open()
        until(lambda: "ended after" in log_of(server, one), "the script is told to end")
    found = api_of(server).wait(one, seconds=DEADLINE_SECONDS)
    assert (found["status"], found["attempt"]) == ("completed", 1)
    lines = log_of(server, one).splitlines()
    assert lines == [*(f"line {n}" for n in range(len(lines) - 1)), f"ended after {len(lines) - 1}"]
    assert charges(server) == [(one, 1)]


def test_a_script_that_prints_much_is_held_back_while_nobody_listens(server: LiveServer) -> None:
    one = api_of(server).submit(PRINTING, env_vars={"PYTHONUNBUFFERED": ""})
    (progress,) = until(lambda: left_by_scripts(server, "progress"), "the script prints")
    until(progress.read_text, "the script says how far it is")
    server.kill()
    until(lambda: stands_still(progress), "the script is held back")
    assert "ended" not in progress.read_text()
    pid = server.runner_pid()
    assert pid is not None
    assert resident_bytes(pid) < 300 * 1024 * 1024
    server.restart()
    found = api_of(server).wait(one["execution_id"], seconds=DEADLINE_SECONDS)
    assert (found["status"], found["attempt"], found["output_truncated"]) == ("completed", 1, True)
    expected = hashlib.sha256()
    for n in range(400_000):
        expected.update(f"{n:0100d}\n".encode())
    printed = log_of(server, one["execution_id"]).encode()
    assert hashlib.sha256(printed).hexdigest() == expected.hexdigest()


def test_a_runner_that_is_to_end_finishes_what_it_can_and_hands_back_the_rest(server: LiveServer) -> None:
    api = api_of(server)
    short = api.submit(COUNTING, args=["60"])["execution_id"]
    long = api.submit("import time; print('begun', flush=True); time.sleep(1000)")["execution_id"]
    for one in (short, long):
        until(lambda one=one: prints(server, one), f"{one} prints")
    pid = server.runner_pid()
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    found = api.wait(short, seconds=DEADLINE_SECONDS)
    assert (found["status"], found["attempt"], found["stdout"].count("\n")) == ("completed", 1, 60)
    until(lambda: runs(server, long, 2), "another runner carries it")
    again = api.get(f"/executions/{long}").json()
    assert (again["retry_count"], server.runner_pid() == pid) == (0, False)
    assert charges(server) == [(short, 1)]


def test_a_runner_that_is_asked_twice_ends_at_once(server: LiveServer) -> None:
    api = api_of(server)
    long = api.submit("import time; print('begun', flush=True); time.sleep(1000)")["execution_id"]
    until(lambda: prints(server, long), "it prints")
    pid = server.runner_pid()
    assert pid is not None
    log = server.data_dir / "runner.log"
    os.kill(pid, signal.SIGTERM)
    until(lambda: is_draining(log), "the runner has heard")
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    until(lambda: runs(server, long, 2), "another runner carries it")
    assert time.monotonic() - began < DEADLINE_SECONDS


def test_nothing_of_a_machine_that_went_down_is_left_when_it_is_up_again(server: LiveServer) -> None:
    api = api_of(server)
    one = api.submit("open('mark', 'w'); print('begun', flush=True); import time; time.sleep(1000)")
    until(lambda: prints(server, one["execution_id"]), "it prints")
    pid = server.runner_pid()
    assert pid is not None
    victims = [pid, *descendants(pid)]
    assert len(victims) >= 3
    for victim in victims:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    until(lambda: runs(server, one["execution_id"], 2), "the next runner carries it")
    until(lambda: len(left_by_scripts(server, "mark")) == 1, "it has begun anew, where nothing else is left")
    at_rest = [path.name for path in (server.data_dir / "runner" / "work").iterdir()]
    assert at_rest == []
    assert not [victim for victim in victims if is_alive(victim)]


def test_a_drained_runner_is_given_nothing_until_it_is_resumed(server: LiveServer) -> None:
    api = api_of(server)
    running = api.submit(COUNTING, args=["60"])["execution_id"]
    until(lambda: prints(server, running), "it prints")
    (runner,) = api.get("/admin/runners").json()
    path = f"/admin/runners/{runner['runner_id']}"
    assert api.post(f"{path}/drain").json() == {"runner_id": runner["runner_id"], "drained": True}
    waiting = api.submit("print('late')")["execution_id"]
    assert api.wait(running)["status"] == "completed"
    # its successor by the same name is drained too
    pid = server.runner_pid()
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    until(lambda: server.runner_pid() not in {None, pid}, "the next runner is there")
    until(
        lambda: api.get("/admin/runners").json()[0]["registered_at"] != runner["registered_at"],
        "it registers",
    )
    assert api.get("/admin/runners").json()[0]["drained_at"] is not None
    assert api.get(f"/executions/{waiting}?wait=1").json()["status"] == "queued"
    assert api.post(f"{path}/resume").json()["drained"] is False
    assert api.wait(waiting)["stdout"] == "late\n"
    assert api.post("/admin/runners/nobody/drain").status_code == 404


def stop_only(server: LiveServer) -> None:
    """SIGTERM for the server alone."""
    process = server._process
    assert process is not None
    process.terminate()
    assert process.wait(timeout=60) == 0
    server._process = None


def left_by_scripts(server: LiveServer, name: str) -> list[Path]:
    """The files of a name in the workspaces of scripts that run."""
    return list((server.data_dir / "runner" / "boxes").glob(f"*/run/work/{name}"))


def stands_still(progress: Path) -> bool:
    """Whether a script has written no progress for two seconds."""
    before = progress.read_text()
    for _ in range(20):
        time.sleep(0.1)
        if progress.read_text() != before:
            return False
    return True


def is_draining(log: Path) -> bool:
    return "this runner is to end" in log.read_text(errors="replace")


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Every process below one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found
