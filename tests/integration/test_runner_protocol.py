"""The runner, a real process, against a server that is told how to behave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from rgrid_server.domain.attempts import OUTPUT_HEAD_CHARS, Outcome, Report, Stream
from rgrid_server.runner.sandbox import bubblewrap
from rgrid_server.runner.sandbox.inside.holder.processes import children_of
from tests.integration.fake_server import PATIENCE_SECONDS, RUNNER_KEY, FakeServer, Id, server_now_ms

RUNTIME = f"python:{sys.version_info[0]}.{sys.version_info[1]}"


def command(url: str, data_dir: Path, *options: str) -> list[str]:
    """A runner's command line."""
    given = ["--url", url, "--data-dir", str(data_dir), *options]
    return [sys.executable, "-m", "rgrid_server.runner", *given]


class RunnerProcess:
    """``python -m rgrid_server.runner`` in a directory of its own."""

    def __init__(self, server: FakeServer, data_dir: Path, *options: str, slots: int = 4) -> None:
        data_dir.mkdir(exist_ok=True)
        self.data_dir = data_dir
        self.log = data_dir / "runner.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command(server.url, data_dir, "--slots", str(slots), *options),
                env={**os.environ, "RGRID_RUNNER_KEY": RUNNER_KEY, "RGRID_SECRET": "of the server"},
                stdout=output,
                stderr=output,
            )

    def end(self) -> int:
        """Ask it to end; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    @property
    def workspaces(self) -> list[str]:
        at_rest = [path.name for path in (self.data_dir / "runner/work").iterdir()]
        return at_rest + [str(path) for path in (self.data_dir / "runner").glob("boxes/*/run")]


Submit = Callable[..., Id]


class Grid:
    """A server and its runner."""

    def __init__(self, server: FakeServer, runner: RunnerProcess, sandbox: str = "process") -> None:
        self.server = server
        self.runner = runner
        self.sandbox = sandbox

    def submit(self, script: str, **changes: Any) -> Id:
        return self.server.submit(dedent(script), **{"runtime": RUNTIME, **changes})

    def run(self, script: str, **changes: Any) -> Report:
        return self.server.report_of(self.submit(script, **changes))

    def log(self, report: Report, stream: Stream | None = None) -> bytes:
        return self.server.printed((report.execution_id, report.attempt), stream)

    def outputs(self, report: Report) -> dict[str, bytes]:
        return {item.name: self.server.blobs[item.sha256] for item in report.artifacts}

    def until_printed(self, identity: Id, text: bytes) -> None:
        self.server.until(lambda: text in self.server.printed(identity), f"{text!r} in the log")


@pytest.fixture(scope="module", params=["process", "bubblewrap"])
def shared(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    require: Callable[[bool, str], None],
) -> Iterator[Grid]:
    sandbox = request.param
    require(sandbox == "process" or bubblewrap.why_not() is None, f"{sandbox} ({bubblewrap.why_not()})")
    server = FakeServer()
    runner = RunnerProcess(server, tmp_path_factory.mktemp("shared"), "--sandbox", sandbox)
    yield Grid(server, runner, sandbox)
    assert runner.end() == 0
    server.hang_up()


@pytest.fixture
def grid(shared: Grid) -> Iterator[Grid]:
    """A grid that many tests use; nothing of a test is left in it."""
    yield shared
    with shared.server.lock:
        shared.server.failures.clear()
        shared.server.full_for.clear()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while shared.runner.workspaces:
        assert time.monotonic() < deadline, f"left behind: {shared.runner.workspaces}"
        time.sleep(0.01)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Grid]:
    """A grid for one test, which may break it."""
    server = FakeServer()
    grid = Grid(server, RunnerProcess(server, tmp_path / "data", slots=2))
    yield grid
    # whichever runner the test left it with
    with contextlib.suppress(ProcessLookupError):
        grid.runner.process.kill()
    grid.runner.wait()
    server.hang_up()


def survivors(mark: str) -> list[int]:
    """The processes whose environment has a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"MARK={mark}".encode() in (entry / "environ").read_bytes().split(
                b"\0"
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def until_gone(mark: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while survivors(mark):
        assert time.monotonic() < deadline, f"still there: {survivors(mark)}"
        time.sleep(0.01)


# --- what a runner says of itself


def test_it_registers_with_what_it_can_do(grid: Grid) -> None:
    grid.run("pass")
    registered = grid.server.registrations[0]
    assert registered["slots"] == 4
    assert registered["sandbox"] == grid.sandbox
    assert RUNTIME in [item["name"] for item in registered["runtimes"]]
    written = json.loads((grid.runner.data_dir / "runner.lock").read_text())
    assert written == {
        "pid": grid.runner.process.pid,
        "incarnation": registered["incarnation"],
        "url": grid.server.url,
    }


def test_a_second_runner_in_the_same_directory_ends_by_itself(grid: Grid) -> None:
    second = RunnerProcess(grid.server, grid.runner.data_dir)
    assert second.wait() == 75


def test_a_sandbox_that_is_not_there_is_named(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    asked = RunnerProcess(grid.server, tmp_path / "data", "--sandbox", "docker")
    assert asked.wait() == 2
    assert "--sandbox docker: the Docker daemon: " in asked.log.read_text()


def test_it_carries_several_at_a_time(grid: Grid) -> None:
    ids = [grid.submit("import signal; print('here'); signal.pause()") for _ in range(4)]
    for one in ids:
        grid.until_printed(one, b"here")
    grid.server.cancel.extend(ids)
    assert {grid.server.report_of(one).outcome for one in ids} == {Outcome.CANCELED}


def test_it_keeps_its_leases(grid: Grid) -> None:
    identity = grid.submit("import signal; print('ready'); signal.pause()")
    grid.server.until(lambda: any(identity in beat for beat in grid.server.heartbeats), "a heartbeat")
    grid.server.cancel.append(identity)
    grid.server.report_of(identity)


def test_it_says_with_each_claim_what_of_its_memory_is_free(own: Grid) -> None:
    identity = own.submit("import signal; print('ready', flush=True); signal.pause()", memory_mib=3000)
    own.until_printed(identity, b"ready")
    server = own.server
    (whole,) = {item["memory_mib"] for item in server.registrations}
    server.until(lambda: server.claims[-1]["free_memory_mib"] == whole - 3000, "a claim with what is left")
    assert server.claims[0]["free_memory_mib"] == whole
    assert {item["incarnation"] for item in server.claims} == {server.registrations[0]["incarnation"]}
    server.cancel.append(identity)
    server.report_of(identity)


def test_a_runner_by_whose_name_another_has_registered_ends_its_scripts_and_itself(own: Grid) -> None:
    identity = own.submit(
        "import signal; print('ready', flush=True); signal.pause()", env_vars={"MARK": "of-superseded"}
    )
    own.until_printed(identity, b"ready")
    with own.server.lock:
        own.server.failures["heartbeat"].append(403)
    assert own.runner.wait() == 77
    until_gone("of-superseded")


# --- what a script sees


def test_arguments_directory_and_name_are_as_on_ones_own_machine(grid: Grid) -> None:
    report = grid.run(
        """
        import os, sys
        print(sys.argv)
        print(os.path.dirname(os.path.abspath(__file__)) == os.getcwd() == sys.path[0])
        print(sorted(os.listdir()))
        """,
        args=["a b", "--x"],
        script_name="train.py",
        inputs={"data.csv": b"1"},
    )
    assert report.stdout == "['train.py', 'a b', '--x']\nTrue\n['data.csv', 'train.py']\n"


def test_a_module_beside_the_script_can_be_imported(grid: Grid) -> None:
    report = grid.run("import beside; print(beside.X)", inputs={"beside.py": b"X = 42"})
    assert (report.stdout, report.artifacts) == ("42\n", [])


def test_the_environment_is_clean(grid: Grid) -> None:
    report = grid.run(
        "import json, os; print(json.dumps(dict(os.environ)))", env_vars={"MINE": "1", "LANG": "C"}
    )
    seen = json.loads(report.stdout)
    assert (seen.pop("MINE"), seen.pop("LANG")) == ("1", "C")
    assert (seen["RGRID_EXECUTION_ID"], seen["RGRID_ATTEMPT"]) == (report.execution_id, "1")
    assert seen.keys() - {"LC_CTYPE"} == {
        *("PATH", "HOME", "TMPDIR", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV"),
        *("RGRID_EXECUTION_ID", "RGRID_ATTEMPT"),
    }


def test_home_and_temporary_directory_are_its_own_and_no_outputs(grid: Grid) -> None:
    report = grid.run(
        """
        import os, tempfile
        open(os.path.expanduser('~/cache'), 'w').close()
        print(tempfile.mkstemp()[1].startswith(os.environ['TMPDIR']))
        """
    )
    assert (report.stdout, report.artifacts) == ("True\n", [])


# --- files


def test_inputs_are_laid_out_and_outputs_taken(grid: Grid) -> None:
    report = grid.run(
        """
        import os
        os.makedirs('out')
        open('out/copy.bin', 'wb').write(open('data/in.bin', 'rb').read() * 2)
        """,
        inputs={"data/in.bin": bytes(range(256))},
    )
    assert grid.outputs(report) == {"out/copy.bin": bytes(range(256)) * 2}
    assert (report.bytes_in, report.bytes_out) == (256, 512)


def test_large_outputs_go_before_the_report(grid: Grid) -> None:
    report = grid.run("open('large', 'wb').write(b'x' * 300_000); open('small', 'w').write('y')")
    assert grid.outputs(report) == {"large": b"x" * 300_000, "small": b"y"}
    assert grid.server.uploaded[-1] == hashlib.sha256(b"x" * 300_000).hexdigest()


def test_outputs_that_the_server_lost_are_sent_again(grid: Grid) -> None:
    grid.server.forget_uploads = 1
    report = grid.run("open('large', 'wb').write(b'lost' * 100_000)")
    assert grid.server.refused_reports == 1
    assert grid.outputs(report) == {"large": b"lost" * 100_000}


def test_only_the_outputs_that_were_asked_for_are_taken(grid: Grid) -> None:
    report = grid.run("open('a.csv', 'w'); open('b.txt', 'w')", outputs=["*.csv"])
    assert list(grid.outputs(report)) == ["a.csv"]


def test_what_cannot_be_taken_is_noted(grid: Grid) -> None:
    report = grid.run("import os; os.symlink('/etc/passwd', 'link'); os.mkfifo('fifo')")
    assert (report.outcome, report.artifacts) == (Outcome.EXITED, [])
    assert sorted(line.split()[0] for line in report.metadata["passed_over"]) == ["fifo", "link"]


def test_ten_thousand_files_are_taken(grid: Grid) -> None:
    report = grid.run("for n in range(10_000): open(f'{n:05}.txt', 'w').write(str(n))")
    assert grid.outputs(report) == {f"{n:05}.txt": str(n).encode() for n in range(10_000)}


def test_a_sparse_file_of_2_gib_is_refused(grid: Grid) -> None:
    report = grid.run("open('sparse', 'wb').truncate(2 * 2**30)")
    assert (report.error_code, report.artifacts) == ("output_limit", [])
    assert report.error_message is not None
    assert "more than 1073741824 bytes in files (at sparse)" in report.error_message


REPLACED = {
    "removed": "os.rmdir(work)",
    "a file": "os.rmdir(work); open(work, 'w').close()",
    "a link": "os.rmdir(work); os.symlink('/etc', work)",
    "with all around it": "shutil.rmtree(os.path.dirname(work))",
}


@pytest.mark.parametrize("way", REPLACED)
@pytest.mark.parametrize("code", [0, 3])
def test_a_script_that_removes_its_working_directory_has_run_and_leaves_nothing(
    grid: Grid, way: str, code: int
) -> None:
    report = grid.run(
        f"import os, shutil; work = os.getcwd(); os.unlink('script.py'); {REPLACED[way]}; exit({code})"
    )
    assert (report.outcome, report.exit_code, report.error_code) == (Outcome.EXITED, code, None)
    assert report.artifacts == []
    assert "working directory" in report.metadata["passed_over"][0]


@pytest.mark.parametrize(("code", "error_code"), [(0, "outputs_lost"), (3, None)])
def test_outputs_that_cannot_be_collected_are_told_and_the_script_is_not_run_again(
    grid: Grid, code: int, error_code: str | None
) -> None:
    grid.server.failures["put"] = [400]
    report = grid.run(f"open('large', 'wb').write(b'r' * 300_000); raise SystemExit({code})")
    assert (report.outcome, report.exit_code, report.error_code) == (Outcome.EXITED, code, error_code)
    assert report.artifacts == []
    assert "could not be collected" in report.metadata["passed_over"][0]


def test_outputs_that_the_servers_disk_has_no_room_for_are_given_up_by_name(grid: Grid) -> None:
    grid.server.full_for = {"put"}
    report = grid.run("open('large', 'wb').write(b'f' * 300_000)")
    assert (report.outcome, report.exit_code, report.error_code) == (Outcome.EXITED, 0, "storage_full")
    assert report.artifacts == []
    assert report.error_message is not None
    assert "'large'" in report.error_message
    assert "make room" in report.error_message


def test_a_script_in_a_folder_runs_as_such_and_imports_its_neighbours(grid: Grid) -> None:
    report = grid.run(
        "import sys, near; print(sys.argv[0], __file__.endswith('sub/s.py'), near.N)",
        script_name="sub/s.py",
        inputs={"sub/near.py": b"N = 7"},
    )
    assert (report.exit_code, report.stdout) == (0, "sub/s.py True 7\n")
    assert report.artifacts == []


# --- how it ends


@pytest.mark.parametrize("code", [0, 1, 3, 127, 128, 255])
def test_its_exit_code_is_reported(grid: Grid, code: int) -> None:
    report = grid.run(f"raise SystemExit({code})")
    assert (report.outcome, report.exit_code) == (Outcome.EXITED, code)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT, signal.SIGRTMIN]
)
def test_the_signal_that_ended_it_is_reported(grid: Grid, number: signal.Signals) -> None:
    report = grid.run(f"import os; os.kill(os.getpid(), {int(number)})")
    assert (report.outcome, report.exit_code) == (Outcome.SIGNALED, 128 + number)


def test_a_syntax_error_is_told_as_python_tells_it(grid: Grid) -> None:
    report = grid.run("def f(:\n")
    assert (report.outcome, report.exit_code) == (Outcome.EXITED, 1)
    assert 'script.py", line 1' in report.stderr
    assert "SyntaxError: invalid syntax" in report.stderr


def test_a_latin_1_script_runs_as_it_was_written(grid: Grid) -> None:
    report = grid.run(
        "# -*- coding: latin-1 -*-\nprint(ascii('ü'), open(__file__, 'rb').read().count(b'\\xfc'))"
    )
    assert report.stdout == "'\\xfc' 1\n"


def test_its_time_up_is_reported(grid: Grid) -> None:
    report = grid.run("import signal; signal.pause()", timeout_ms=300)
    assert (report.outcome, report.exit_code) == (Outcome.TIMED_OUT, 124)
    assert report.error_message == "the script ran longer than its timeout of 0.3 seconds"


def test_a_full_memory_is_reported(grid: Grid) -> None:
    report = grid.run("held = []\nwhile True: held.append(bytearray(b'x' * 2**20))", memory_mib=64)
    assert (report.outcome, report.exit_code) == (Outcome.OUT_OF_MEMORY, 137)
    assert report.error_message is not None
    assert "64 MiB" in report.error_message


def test_a_daemon_ends_with_it(grid: Grid) -> None:
    report = grid.run(
        """
        import os, signal
        read, write = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.write(write, b'x')
                while True:
                    signal.pause()
            os._exit(0)
        os.read(read, 1)
        print('the daemon holds my output open')
        """,
        env_vars={"MARK": "daemon"},
    )
    assert (report.outcome, report.stdout) == (Outcome.EXITED, "the daemon holds my output open\n")
    assert survivors("daemon") == []


def test_a_script_may_close_its_streams(grid: Grid) -> None:
    report = grid.run("import os; os.close(1); os.close(2); open('out', 'w').write('x')")
    assert (report.exit_code, grid.outputs(report)) == (0, {"out": b"x"})


def test_an_input_that_is_a_file_and_a_folder_is_rejected(grid: Grid) -> None:
    report = grid.run("pass", inputs={"a": b"1", "a/b": b"2"})
    assert (report.outcome, report.error_code) == (Outcome.REJECTED, "inputs_conflict")


def test_an_output_past_its_limit_does_not_hide_why_the_script_failed(grid: Grid) -> None:
    report = grid.run("open('large', 'wb').write(b'x' * 100); raise SystemExit(3)", output_limit_bytes=10)
    assert (report.exit_code, report.error_code) == (3, None)
    assert "more than 10 bytes" in report.metadata["passed_over"][0]


def test_a_runtime_that_is_not_there_is_rejected(grid: Grid) -> None:
    report = grid.run("pass", runtime="python:2.7")
    assert (report.outcome, report.error_code) == (Outcome.REJECTED, "runtime_unavailable")
    assert report.error_message is not None
    assert RUNTIME in report.error_message


def test_requirements_that_do_not_parse_are_rejected(grid: Grid) -> None:
    report = grid.run("pass", requirements="not a requirement")
    assert (report.outcome, report.error_code) == (Outcome.REJECTED, "requirements_invalid")


def test_a_canceled_script_ends_and_is_reported(grid: Grid) -> None:
    identity = grid.submit("import signal; print('ready'); signal.pause()")
    grid.until_printed(identity, b"ready")
    with grid.server.lock:
        grid.server.cancel.append(identity)
        grid.server.lock.notify_all()
    report = grid.server.report_of(identity)
    assert (report.outcome, report.exit_code, report.stdout) == (Outcome.CANCELED, 143, "ready\n")


def test_a_lost_attempt_is_killed_and_not_reported(grid: Grid) -> None:
    identity = grid.submit("import signal; print('ready'); signal.pause()", env_vars={"MARK": "lost"})
    grid.until_printed(identity, b"ready")
    grid.server.lost.add(identity)
    until_gone("lost")
    grid.run("pass")
    assert identity not in grid.server.reports


def test_what_it_used_is_reported(grid: Grid) -> None:
    report = grid.run(
        "import time\nheld = bytearray(b'x' * 50 * 2**20)\nwhile time.process_time() < 0.2: pass"
    )
    assert report.cpu_ms >= 200
    assert report.duration_ms >= 200
    assert report.peak_memory_mib >= 50


# --- what it prints


def test_the_times_in_a_log_are_the_servers_whatever_the_runners_clock_says(grid: Grid) -> None:
    before_ms = server_now_ms()
    report = grid.run("print('now')")
    after_ms = server_now_ms()
    entries = grid.server.entries[(report.execution_id, report.attempt)]
    # the server's clock is heard to within half of what a call takes
    slack_ms = 1000
    assert [
        before_ms - slack_ms <= entry.timestamp_ms <= after_ms + slack_ms for entry in entries.values()
    ] == [True]


def test_nothing_that_a_runner_reports_is_a_time_of_its_clock(grid: Grid) -> None:
    report = grid.run("print('now')").to_wire()
    assert [name for name in report if name.endswith("_at_ms")] == []


def test_both_streams_are_logged(grid: Grid) -> None:
    report = grid.run("import sys; print('out'); print('err', file=sys.stderr); print('half', end='')")
    assert (report.stdout, report.stderr, report.output_truncated) == ("out\nhalf", "err\n", False)
    assert (grid.log(report, Stream.STDOUT), grid.log(report, Stream.STDERR)) == (b"out\nhalf", b"err\n")


def test_what_is_printed_without_a_newline_shows_while_it_runs(grid: Grid) -> None:
    identity = grid.submit(
        "import signal, sys; sys.stdout.write('working'); sys.stdout.flush(); signal.pause()"
    )
    grid.until_printed(identity, b"working")
    assert identity not in grid.server.reports
    grid.server.cancel.append(identity)
    grid.server.report_of(identity)


def test_a_line_shows_while_it_runs_without_being_flushed(grid: Grid) -> None:
    identity = grid.submit("import signal; print('at once'); signal.pause()")
    grid.until_printed(identity, b"at once\n")
    grid.server.cancel.append(identity)
    grid.server.report_of(identity)


def test_tens_of_megabytes_are_logged_whole_and_in_order(grid: Grid) -> None:
    report = grid.run(
        "for n in range(400_000): print(f'{n:06} {\"x\" * 60}')", env_vars={"PYTHONUNBUFFERED": ""}
    )
    printed = b"".join(b"%06d %s\n" % (n, b"x" * 60) for n in range(400_000))
    assert hashlib.sha256(grid.log(report)).digest() == hashlib.sha256(printed).digest()
    assert report.stdout == printed.decode()[:OUTPUT_HEAD_CHARS]
    assert report.output_truncated


def test_a_log_past_its_limit_ends_with_a_line_that_says_so(grid: Grid) -> None:
    report = grid.run("print('x' * 5000)", log_limit_bytes=1000)
    assert grid.log(report, Stream.STDOUT) == b"x" * 1000
    assert b"the log is longer than 1000 bytes" in grid.log(report, Stream.STDERR)
    assert report.output_truncated


def test_bytes_that_are_no_text_are_logged_as_they_are(grid: Grid) -> None:
    report = grid.run("import os; os.write(1, b'\\xff\\x00\\xfe\\n')")
    assert grid.log(report) == b"\xff\x00\xfe\n"


def test_a_later_attempts_entries_are_numbered_on(grid: Grid) -> None:
    report = grid.run("print('again')", attempt=2, first_sequence=17)
    assert (report.attempt, report.last_sequence) == (2, 17)
    assert list(grid.server.entries[report.execution_id, 2]) == [17]


# --- when the server or the runner fails


@pytest.mark.parametrize("status", [0, 429, 500, 503])
@pytest.mark.parametrize("call", ["report", "logs", "claim", "get", "put", "missing"])
def test_a_call_that_fails_for_now_is_made_again(grid: Grid, call: str, status: int) -> None:
    content = f"{call} {status}".encode()
    with grid.server.lock:
        grid.server.failures[call] = [status, status]
    report = grid.run(
        """
        import time
        print('one')
        time.sleep(0.3)
        open('big', 'wb').write(open('in', 'rb').read() * 50_000)
        """,
        inputs={"in": content},
    )
    assert (report.outcome, grid.outputs(report)) == (Outcome.EXITED, {"big": content * 50_000})
    assert grid.log(report) == b"one\n"


def test_a_report_that_was_taken_without_an_answer_is_not_lost_and_not_doubled(grid: Grid) -> None:
    taken = grid.server.answer
    answers: list[Any] = []

    def answer_late(call: str, body: bytes) -> Any:
        answered = taken(call, body)
        if call == "report":
            answers.append(answered["results"])
            if len(answers) == 1:
                raise ConnectionError("hung up before the answer")
        return answered

    grid.server.answer = answer_late  # type: ignore[method-assign]
    try:
        grid.run("print('once')")
        grid.server.until(lambda: len(answers) == 2, "a second report")
    finally:
        grid.server.answer = taken  # type: ignore[method-assign]
    assert answers == [["accepted"], ["duplicate"]]


def test_a_report_that_is_refused_ends_as_the_grids_fault(grid: Grid) -> None:
    with grid.server.lock:
        grid.server.failures["report"] = [422]
    report = grid.run("print('x')")
    assert (report.outcome, report.error_code) == (Outcome.GRID_FAULT, "grid_fault")


def test_it_finds_a_server_that_came_back_at_another_address(own: Grid) -> None:
    identity = own.submit(
        """
        import os, time
        print('before')
        while not os.path.exists('signal'):
            time.sleep(0.01)
        print('after')
        """
    )
    own.until_printed(identity, b"before")
    own.server.hang_up()
    (Path(own.runner.workspaces[0]) / "work/signal").touch()
    own.server.listen()
    (own.runner.data_dir / "address").write_text(own.server.url + "\n")
    report = own.server.report_of(identity)
    assert (report.outcome, own.log(report)) == (Outcome.EXITED, b"before\nafter\n")


@pytest.mark.parametrize("status", [401, 403])
def test_a_runner_whose_key_opens_nothing_ends(own: Grid, status: int) -> None:
    own.run("pass")
    with own.server.lock:
        own.server.failures["claim"] = [status] * 10
        own.server.failures["heartbeat"] = [status] * 10
        own.server.lock.notify_all()
    own.server.submit("pass", runtime=RUNTIME)
    assert own.runner.wait() == 77


def test_a_runner_without_a_key_says_so(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RGRID_RUNNER_KEY"}
    ended = subprocess.run(
        command("http://127.0.0.1:9", tmp_path),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "no key: set RGRID_RUNNER_KEY, or write it to" in ended.stderr


def test_a_key_in_the_directory_is_taken(own: Grid, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/runner.key").write_text(f"{RUNNER_KEY}\n")
    environment = {name: value for name, value in os.environ.items() if name != "RGRID_RUNNER_KEY"}
    second = subprocess.Popen(
        command(own.server.url, tmp_path / "other", "--slots", "1"),
        env=environment,
    )
    own.server.until(
        lambda: [item for item in own.server.registrations if item["slots"] == 1], "it registered"
    )
    second.terminate()
    assert second.wait(PATIENCE_SECONDS) == 0


def test_a_runner_that_is_asked_to_end_hands_its_work_back(own: Grid) -> None:
    identity = own.submit("import signal; print('ready'); signal.pause()", env_vars={"MARK": "handed"})
    own.until_printed(identity, b"ready")
    assert own.runner.end() == 0
    assert own.server.released == [identity]
    assert survivors("handed") == []
    assert own.runner.workspaces == []


def test_a_runner_ends_also_while_its_server_is_away(own: Grid) -> None:
    identity = own.submit("import signal; print('ready'); signal.pause()", env_vars={"MARK": "away"})
    own.until_printed(identity, b"ready")
    own.server.hang_up()
    assert own.runner.end() == 0
    assert survivors("away") == []


def test_what_is_handed_over_twice_is_carried_once(own: Grid) -> None:
    identity = own.submit("import signal; print('ready'); signal.pause()")
    own.until_printed(identity, b"ready")
    with own.server.lock:
        own.server.ready.append(own.server.given[identity])
        own.server.lock.notify_all()
    other = own.submit("print('after it')")
    own.server.report_of(other)
    assert own.server.printed(identity) == b"ready\n"
    assert [identity] in own.server.known


STUBBORN = """
    import os, signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        print('daemon')
    while True:
        signal.pause()
"""


def test_what_a_killed_runner_carried_ends_with_it(own: Grid) -> None:
    identity = own.submit(STUBBORN, env_vars={"MARK": "killed"})
    own.until_printed(identity, b"daemon")
    own.runner.process.kill()
    own.runner.wait()
    until_gone("killed")


def test_what_was_left_is_swept_by_the_next_runner(own: Grid) -> None:
    identity = own.submit(STUBBORN, env_vars={"MARK": "swept"})
    own.until_printed(identity, b"daemon")
    # the holders first stopped, then killed: none of them can tidy up
    pids = children_of(own.runner.process.pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    own.runner.process.kill()
    own.runner.wait()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert own.runner.workspaces != []
    own.runner = RunnerProcess(own.server, own.runner.data_dir)
    own.server.until(lambda: len(own.server.registrations) == 2, "the next runner")
    own.run("pass")
    assert survivors("swept") == []
    assert identity not in own.server.reports
    assert own.runner.end() == 0
    assert own.runner.workspaces == []


def test_two_incarnations_have_different_names(own: Grid) -> None:
    own.run("pass")
    own.runner.end()
    own.runner = RunnerProcess(own.server, own.runner.data_dir)
    own.server.until(lambda: len(own.server.registrations) == 2, "the next runner")
    own.run("pass")
    first, second = own.server.registrations[0], own.server.registrations[-1]
    assert first["runner_id"] == second["runner_id"]
    assert first["incarnation"] != second["incarnation"]
