"""What every sandbox promises, on real processes: the whole tree ends, limits hold, nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent

import pytest

from rgrid_server.runner.interpreters import installation
from rgrid_server.runner.sandbox import bubblewrap
from rgrid_server.runner.sandbox.base import Command, Ended, Exit, Running, Sandbox, SandboxFailure, Warmth
from rgrid_server.runner.sandbox.bubblewrap import BubblewrapSandbox
from rgrid_server.runner.sandbox.containers import DockerSandbox
from rgrid_server.runner.sandbox.process import ProcessSandbox

SANDBOXES: dict[str, Callable[..., Sandbox]] = {
    "process": ProcessSandbox,
    "bubblewrap": BubblewrapSandbox,
    "docker": DockerSandbox,
}
STARTS = {"cold": Warmth(cold_reason="this test is about cold starts"), "warm": Warmth()}
PATIENCE_SECONDS = 60.0


@dataclass
class Bench:
    """Runs scripts in a sandbox, each with its two streams in files."""

    name: str
    directory: Path
    start: str = "cold"
    running: Running | None = None

    def make(self) -> Sandbox:
        return SANDBOXES[self.name](self.directory / "boxes")

    def command(self, script: str, *arguments: str, workspace: str = "workspace") -> Command:
        root = self.directory / workspace
        for part in ("work", "home", "tmp"):
            (root / part).mkdir(parents=True, exist_ok=True)
        (root / "work/script.py").write_text(dedent(script))
        environment = {"PATH": os.environ["PATH"], "MARK": str(self.directory)}
        return Command(
            argv=[sys.executable, "script.py", *arguments],
            workspace=root,
            environment=environment,
            timeout_ms=60_000,
            memory_mib=1024,
            grace_ms=500,
            read_only=(Path(sys.prefix), *installation(sys.executable)),
            warmth=replace(STARTS[self.start], variables=environment),
        )

    def run(self, script: str, *arguments: str, timeout_ms: int = 60_000, memory_mib: int = 1024) -> Exit:
        command = replace(self.command(script, *arguments), timeout_ms=timeout_ms, memory_mib=memory_mib)
        return asyncio.run(self.carry(command, lambda running: running.wait()))

    def run_each(self, scripts: Iterable[str]) -> list[Exit]:
        """Run scripts one after another in one sandbox, which may give them to the same holder."""

        async def run_them() -> list[Exit]:
            sandbox = self.make()
            try:
                with (self.directory / "out").open("wb") as out:
                    return [
                        await (await sandbox.start(self.command(script), out.fileno(), out.fileno())).wait()
                        for script in scripts
                    ]
            finally:
                await sandbox.close()

        return asyncio.run(run_them())

    async def carry(self, command: Command, wait: Callable[[Running], Awaitable[Exit]]) -> Exit:
        sandbox = self.make()
        try:
            with (self.directory / "out").open("wb") as out, (self.directory / "err").open("wb") as err:
                self.running = await sandbox.start(command, out.fileno(), err.fileno())
            return await wait(self.running)
        finally:
            await sandbox.close()

    def text(self, name: str) -> str:
        """What a script printed (``out``, ``err``), or wrote into a file."""
        places = [self.directory / name, self.directory / "workspace/work" / name]
        places += [box / "run/work" / name for box in self.directory.glob("boxes/*")]
        return next((place.read_text() for place in places if place.exists()), "")

    async def until(self, name: str) -> str:
        """Wait until a script has written something into a file."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (text := self.text(name)):
            assert time.monotonic() < deadline, f"{name} was never written"
            await asyncio.sleep(0.01)
        return text

    def survivors(self) -> list[int]:
        """Processes that the scripts of this bench started and that are still there."""
        mark = f"MARK={self.directory}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


def prepared(bench: Bench, request: pytest.FixtureRequest, require: Callable[[bool, str], None]) -> Bench:
    """A bench whose sandbox works here, or the test is skipped by name."""
    if bench.name == "bubblewrap":
        problem = bubblewrap.why_not()
        require(problem is None, f"bubblewrap ({problem})")
    if bench.name == "docker":
        request.getfixturevalue("docker_host")
    return bench


@pytest.fixture(params=[(name, start) for name in SANDBOXES for start in STARTS], ids="-".join)
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, require: Callable[[bool, str], None]
) -> Iterator[Bench]:
    name, start = request.param
    made = prepared(Bench(name, tmp_path, start), request, require)
    yield made
    assert made.survivors() == []


EXIT_CODES = [0, 1, 2, 77, 127, 128, 137, 255]
ENDING_SIGNALS = [
    number
    for number in signal.Signals
    if number.name not in {"SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH"}
    and number.name not in {"SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"}
]


def test_the_exit_code_is_the_scripts_own(bench: Bench) -> None:
    ended = bench.run_each(f"raise SystemExit({code})" for code in EXIT_CODES)
    assert [(one.ended, one.code) for one in ended] == [(Ended.EXITED, code) for code in EXIT_CODES]


def test_the_signal_that_ended_it_is_told(bench: Bench) -> None:
    ended = bench.run_each(
        f"""
        import os, signal
        if {number} not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal({number}, signal.SIG_DFL)
        os.kill(os.getpid(), {number})
        signal.pause()
        """
        for number in ENDING_SIGNALS
    )
    assert [(one.ended, one.code) for one in ended] == [(Ended.SIGNALED, one) for one in ENDING_SIGNALS]


def test_the_streams_arrive_apart(bench: Bench) -> None:
    bench.run("import sys; print('out'); print('err', file=sys.stderr)")
    assert (bench.text("out"), bench.text("err")) == ("out\n", "err\n")


def test_the_arguments_arrive_as_given(bench: Bench) -> None:
    bench.run("import sys; print(sys.argv[1:])", "a b", "", "ü", "--x=1")
    assert bench.text("out") == "['a b', '', 'ü', '--x=1']\n"


def test_the_environment_is_what_the_command_says_and_no_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RGRID_SECRET", "of the server")
    bench.run("import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))")
    assert bench.text("out") == "['HOME', 'MARK', 'PATH', 'TMPDIR']\n"


def test_standard_input_is_empty(bench: Bench) -> None:
    bench.run("import sys; print(repr(sys.stdin.read()))")
    assert bench.text("out") == "''\n"


def test_no_descriptor_but_the_three_is_open(bench: Bench) -> None:
    bench.run("import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:4])")
    # the fourth is the listing's own
    assert bench.text("out") == "[0, 1, 2, 3]\n"


def test_it_leads_a_session_and_a_process_group_of_its_own(bench: Bench) -> None:
    bench.run("import os; print(os.getsid(0) == os.getpgid(0) == os.getpid())")
    assert bench.text("out") == "True\n"


def test_it_leaves_no_core_file(bench: Bench) -> None:
    bench.run("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))")
    assert bench.text("out") == "(0, 0)\n"


def test_a_broken_pipe_ends_what_does_not_ignore_it(bench: Bench) -> None:
    bench.run("import subprocess; print(subprocess.run('yes | head -n 1', shell=True).returncode)")
    assert bench.text("out") == "y\n0\n"


def test_its_time_up_ends_it(bench: Bench) -> None:
    ended = bench.run("import signal; signal.pause()", timeout_ms=200)
    assert (ended.ended, ended.code, ended.was_signaled) == (Ended.TIMED_OUT, signal.SIGTERM, True)


def test_its_time_up_lets_it_tidy_up_first(bench: Bench) -> None:
    ended = bench.run(
        """
        import signal, sys
        def tidy(*_):
            print('tidied')
            sys.exit(3)
        signal.signal(signal.SIGTERM, tidy)
        print('ready', flush=True)
        while True:
            signal.pause()
        """,
        timeout_ms=1000,
    )
    assert (ended.ended, ended.code, bench.text("out")) == (Ended.TIMED_OUT, 3, "ready\ntidied\n")


def test_what_does_not_heed_the_end_of_its_time_is_killed(bench: Bench) -> None:
    ended = bench.run(
        """
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
        """,
        timeout_ms=500,
    )
    assert (ended.ended, ended.code, ended.was_signaled) == (Ended.TIMED_OUT, signal.SIGKILL, True)


DAEMON = """
import os, signal, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open('daemon', 'w') as file:
            file.write(str(os.getpid()))
        while True:
            signal.pause()
    os._exit(0)
os.wait()
while not os.path.exists('daemon') or not open('daemon').read():
    pass
"""


def test_a_daemon_does_not_outlive_it(bench: Bench) -> None:
    ended = bench.run(f"{DAEMON}\nprint('done')")
    assert (ended.ended, ended.code, bench.text("out")) == (Ended.EXITED, 0, "done\n")
    assert bench.text("daemon")
    assert bench.survivors() == []


def test_a_daemon_does_not_outlive_its_time(bench: Bench) -> None:
    ended = bench.run(f"{DAEMON}\nsignal.pause()", timeout_ms=2000)
    assert ended.ended is Ended.TIMED_OUT
    assert bench.text("daemon")
    assert bench.survivors() == []


def test_a_crowd_of_processes_ends_with_it(bench: Bench) -> None:
    ended = bench.run(
        """
        import os, signal
        for _ in range(6):
            os.fork()
        if os.getpid() != os.getsid(0):
            signal.pause()
        """
    )
    assert (ended.ended, ended.code) == (Ended.EXITED, 0)


def test_cancel_asks_it_to_end(bench: Bench) -> None:
    async def wait(running: Running) -> Exit:
        await bench.until("ready")
        running.cancel()
        return await running.wait()

    script = "import signal; open('ready', 'w').write('1'); signal.pause()"
    ended = asyncio.run(bench.carry(bench.command(script), wait))
    assert (ended.ended, ended.code, ended.was_signaled) == (Ended.CANCELED, signal.SIGTERM, True)


def test_cancel_kills_what_does_not_listen(bench: Bench) -> None:
    async def wait(running: Running) -> Exit:
        await bench.until("ready")
        running.cancel()
        return await running.wait()

    script = """
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open('ready', 'w').write('1')
        while True:
            signal.pause()
    """
    ended = asyncio.run(bench.carry(bench.command(script), wait))
    assert (ended.ended, ended.code) == (Ended.CANCELED, signal.SIGKILL)


def test_kill_grants_no_grace(bench: Bench) -> None:
    async def wait(running: Running) -> Exit:
        await bench.until("ready")
        running.kill()
        return await running.wait()

    script = "import signal; open('ready', 'w').write('1'); signal.pause()"
    ended = asyncio.run(bench.carry(bench.command(script), wait))
    assert (ended.ended, ended.code) == (Ended.CANCELED, signal.SIGKILL)


def test_cancel_after_the_end_changes_nothing(bench: Bench) -> None:
    async def wait(running: Running) -> Exit:
        ended = await running.wait()
        running.cancel()
        return ended

    assert asyncio.run(bench.carry(bench.command("pass"), wait)).ended is Ended.EXITED


def test_more_memory_than_allowed_ends_it(bench: Bench) -> None:
    ended = bench.run(
        """
        held = []
        while True:
            held.append(bytearray(b'x' * 2**20))
        """,
        memory_mib=64,
    )
    assert (ended.ended, ended.code) == (Ended.OUT_OF_MEMORY, signal.SIGKILL)


def test_the_memory_of_all_its_processes_counts(bench: Bench) -> None:
    ended = bench.run(
        """
        import os, signal
        for _ in range(3):
            if os.fork() == 0:
                held = bytearray(b'x' * (40 * 2**20))
                signal.pause()
        signal.pause()
        """,
        memory_mib=96,
    )
    assert ended.ended is Ended.OUT_OF_MEMORY


def test_memory_that_is_asked_for_all_at_once_is_refused_to_the_script(bench: Bench) -> None:
    ended = bench.run(
        """
        try:
            bytearray(2**40)
        except MemoryError:
            print('refused')
        """
    )
    assert (ended.code, bench.text("out")) == (0, "refused\n")


def test_what_it_used_is_measured(bench: Bench) -> None:
    ended = bench.run(
        """
        import time
        held = bytearray(b'x' * (100 * 2**20))
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        """
    )
    assert ended.cpu_ms >= 200
    assert ended.duration_ms >= 200
    assert ended.peak_memory_mib >= 100


def test_the_work_of_its_children_is_measured_too(bench: Bench) -> None:
    ended = bench.run(
        """
        import subprocess, sys
        work = 'import time\\nwhile time.process_time() < 0.3: pass'
        subprocess.run([sys.executable, '-c', work])
        """
    )
    assert ended.cpu_ms >= 300


def test_a_program_that_is_not_there_is_the_sandboxs_failure(bench: Bench) -> None:
    command = replace(bench.command("pass"), argv=["/nonexistent/python", "script.py"])
    with pytest.raises(SandboxFailure, match=r"(?i)/nonexistent/python.*no such file"):
        asyncio.run(bench.carry(command, lambda running: running.wait()))


def test_a_directory_that_is_not_there_is_the_sandboxs_failure(bench: Bench) -> None:
    command = replace(bench.command("pass"), workspace=bench.directory / "gone")
    with pytest.raises(SandboxFailure, match="No such file"):
        asyncio.run(bench.carry(command, lambda running: running.wait()))


def test_several_run_at_once(bench: Bench) -> None:
    script = """
        import os, time
        open('here', 'w').write('1')
        while not os.path.exists('go'):
            time.sleep(0.005)
    """

    async def meet() -> list[Exit]:
        sandbox = bench.make()
        commands = [bench.command(script, workspace=name) for name in ("a", "b")]
        await sandbox.prepare(commands[0], 2)
        try:
            with (bench.directory / "out").open("wb") as out:
                runs = [await sandbox.start(one, out.fileno(), out.fileno()) for one in commands]
            for one in runs:
                while not (one.place / "work/here").exists():
                    await asyncio.sleep(0.01)
            for one in runs:
                (one.place / "work/go").touch()
            return await asyncio.gather(*(one.wait() for one in runs))
        finally:
            await sandbox.close()

    assert [one.code for one in asyncio.run(meet())] == [0, 0]
    assert [(bench.directory / name / "work/here").exists() for name in ("a", "b")] == [True, True]


def test_one_after_another_reuses_what_is_there_and_carries_nothing_over(bench: Bench) -> None:
    async def repeat() -> list[Exit]:
        sandbox = bench.make()
        try:
            ended = []
            for code in range(20):
                with (bench.directory / "out").open("wb") as out:
                    command = bench.command(f"import os; os.umask(0); os.nice(1); raise SystemExit({code})")
                    running = await sandbox.start(command, out.fileno(), out.fileno())
                ended.append(await running.wait())
            return ended
        finally:
            await sandbox.close()

    assert [one.code for one in asyncio.run(repeat())] == list(range(20))


def test_closing_the_sandbox_ends_what_runs(bench: Bench) -> None:
    async def close() -> None:
        sandbox = bench.make()
        with (bench.directory / "out").open("wb") as out:
            await sandbox.start(bench.command(f"{DAEMON}\nsignal.pause()"), out.fileno(), out.fileno())
        await bench.until("daemon")
        await sandbox.close()

    asyncio.run(close())
    assert bench.survivors() == []


def test_a_wait_that_is_given_up_ends_the_command(bench: Bench) -> None:
    async def give_up() -> None:
        sandbox = bench.make()
        with (bench.directory / "out").open("wb") as out:
            running = await sandbox.start(
                bench.command("import signal; open('ready', 'w').write('1'); signal.pause()"),
                *(out.fileno(), out.fileno()),
            )
        waiting = asyncio.create_task(running.wait())
        await bench.until("ready")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await sandbox.close()

    asyncio.run(give_up())
    assert bench.survivors() == []


HOLDER = """
import asyncio, os, sys
from pathlib import Path
from tests.contract.test_sandboxes import Bench
from rgrid_server.runner.sandbox.inside.holder.processes import become_subreaper

async def hold(name, directory, start):
    become_subreaper()
    bench = Bench(name, Path(directory), start)
    sandbox = bench.make()
    with open(os.devnull, "wb") as null:
        command = bench.command(sys.argv[4])
        running = await sandbox.start(command, null.fileno(), null.fileno())
    Path(directory, "holders").write_text(" ".join(str(holder.pid) for holder in sandbox._all))
    try:
        print((await running.wait()).ended)
    except Exception as error:
        print(type(error).__name__)
    await sandbox.close()

asyncio.run(hold(*sys.argv[1:4]))
"""


async def _holder(bench: Bench) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *[
            sys.executable,
            "-c",
            HOLDER,
            bench.name,
            str(bench.directory),
            bench.start,
            f"{DAEMON}\nsignal.pause()",
        ],
        env={
            **{name: os.environ[name] for name in ("PATH", "DOCKER_HOST") if name in os.environ},
            "MARK": str(bench.directory),
        },
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )


async def _until_no_survivors(bench: Bench) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while bench.survivors():
        assert time.monotonic() < deadline, f"still there: {bench.survivors()}"
        await asyncio.sleep(0.01)


def test_what_it_runs_ends_when_its_holder_is_killed(bench: Bench) -> None:
    async def kill_holder() -> None:
        holder = await _holder(bench)
        await bench.until("daemon")
        holder.kill()
        await holder.wait()
        await _until_no_survivors(bench)

    asyncio.run(kill_holder())


def test_what_a_killed_holder_held_ends_and_is_reported_as_a_failure(bench: Bench) -> None:
    async def kill_holder() -> bytes:
        holder = await _holder(bench)
        await bench.until("daemon")
        for pid in (await bench.until("holders")).split():
            os.kill(int(pid), signal.SIGKILL)
        printed, _ = await holder.communicate()
        await _until_no_survivors(bench)
        return printed

    assert asyncio.run(kill_holder()) == b"SandboxFailure\n"
