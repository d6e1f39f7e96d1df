"""What a hostile script gets at in the sandboxes that keep tenants apart: nothing but its own."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rgrid_server.runner.sandbox import cgroups
from rgrid_server.runner.sandbox.base import Exit
from tests.contract.test_sandboxes import SANDBOXES, STARTS, Bench, prepared

SHUT_IN = ("bubblewrap", "docker")


@pytest.fixture(params=[(name, start) for name in SHUT_IN for start in STARTS], ids="-".join)
def bench(request: pytest.FixtureRequest, tmp_path: Path, require: Callable[[bool, str], None]) -> Bench:
    name, start = request.param
    return prepared(Bench(name, tmp_path, start), request, require)


@pytest.mark.parametrize("what", ["/etc/shadow", "/root", "/home/someone", "/proc/1/environ", "/sys/kernel"])
def test_it_does_not_see_the_machine(bench: Bench, what: str) -> None:
    bench.run(
        f"""
        import os
        try:
            print(os.listdir({what!r}) if os.path.isdir({what!r}) else open({what!r}).read())
        except OSError as error:
            print(type(error).__name__)
        """
    )
    # a directory on the way to its interpreter is there, with nothing else in it
    assert bench.text("out") in {"FileNotFoundError\n", "PermissionError\n", "['.pyenv']\n", "[]\n"}


def test_it_does_not_see_what_stands_beside_its_workspace(bench: Bench) -> None:
    (bench.directory / "runner.key").write_text("of the server")
    bench.run(
        f"import os; print(os.path.exists({str(bench.directory / 'runner.key')!r}), os.listdir('/rgrid'))"
    )
    assert bench.text("out") == "False ['run']\n"


@pytest.mark.parametrize(
    "path", ["/usr/x", "/etc/x", "/x", "/rgrid-holder/x", "/dev/x", str(Path(sys.prefix) / "x")]
)
def test_it_writes_nowhere_but_into_its_own(bench: Bench, path: str) -> None:
    bench.run(f"try:\n    open({path!r}, 'w')\nexcept OSError as error:\n    print(type(error).__name__)")
    assert bench.text("out") in {"OSError\n", "PermissionError\n"}


def test_it_connects_to_no_abstract_socket_but_its_own(bench: Bench) -> None:
    name = f"\0of-the-machine-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        bench.run(
            f"""
            import socket
            try:
                socket.socket(socket.AF_UNIX).connect({name!r})
            except OSError as error:
                print(type(error).__name__)
            own = socket.socket(socket.AF_UNIX)
            own.bind('\\0of-the-script')
            own.listen()
            socket.socket(socket.AF_UNIX).connect('\\0of-the-script')
            print('its own')
            """
        )
    # with a network of its own it does not even find it
    assert bench.text("out") in {"PermissionError\nits own\n", "ConnectionRefusedError\nits own\n"}


def test_it_has_no_capability_and_gains_none(bench: Bench) -> None:
    bench.run(
        """
        status = dict(line.split(':', 1) for line in open('/proc/self/status'))
        print([int(status[name], 16) for name in ('CapEff', 'CapPrm', 'CapInh', 'CapBnd', 'CapAmb')])
        print(status['NoNewPrivs'].strip(), status['Seccomp'].strip())
        """
    )
    assert bench.text("out") == "[0, 0, 0, 0, 0]\n1 2\n"


@pytest.mark.parametrize("call", [165, 101, 272, 308, 250, 321, 298, 246, 169, 323, 425])
def test_calls_that_reach_beyond_it_are_refused(bench: Bench, call: int) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("these are numbers of x86-64")
    bench.run(
        f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.syscall({call}, 0, 0, 0, 0), ctypes.get_errno())
        """
    )
    assert bench.text("out") == "-1 1\n"


def test_it_sees_and_signals_only_its_own_processes(bench: Bench) -> None:
    bench.run(
        """
        import os, signal
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGSTOP):
            os.kill(1, number)
        print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()) == [1, os.getpid()])
        """
    )
    assert bench.text("out") == "True\n"


def test_it_cannot_write_into_its_holder(bench: Bench) -> None:
    bench.run(
        "try:\n    open('/proc/1/mem', 'r+b')\nexcept OSError as error:\n    print(type(error).__name__)"
    )
    assert bench.text("out") == "PermissionError\n"


def test_nothing_that_it_leaves_reaches_the_next(bench: Bench) -> None:
    leaving = """
        import os, subprocess
        for folder in ('/dev/shm', '/tmp', '/rgrid', '/rgrid/run', os.environ['HOME'], os.environ['TMPDIR']):
            open(folder + '/left', 'w').write('x')
        os.symlink('/etc', '/rgrid/link')
        os.makedirs('/rgrid/deep/er')
        subprocess.Popen(['sleep', '1000'], start_new_session=True)
    """
    looking = """
        import os
        folders = ('/dev/shm', '/tmp', '/rgrid', '/rgrid/run')
        print([folder for folder in folders if os.path.exists(folder + '/left')])
        print(os.listdir('/rgrid'), os.listdir(os.environ['HOME']), os.listdir(os.environ['TMPDIR']))
        print(len([name for name in os.listdir('/proc') if name.isdigit()]))
    """

    async def one_after_another() -> list[Exit]:
        sandbox = bench.make()
        ended = []
        try:
            for name, script in (("first", leaving), ("second", looking)):
                with (bench.directory / "out").open("wb") as out:
                    command = bench.command(script, workspace=name)
                    ended.append(await (await sandbox.start(command, out.fileno(), out.fileno())).wait())
        finally:
            await sandbox.close()
        return ended

    assert [one.code for one in asyncio.run(one_after_another())] == [0, 0]
    assert bench.text("out") == "[]\n['run'] [] []\n2\n"


def test_a_directory_that_it_replaced_by_a_link_is_not_followed(bench: Bench) -> None:
    secret = bench.directory / "secret"
    secret.mkdir()
    (secret / "key").write_text("of the server")
    bench.run(f"import os; os.rename('/rgrid/run', '/rgrid/was'); os.symlink({str(secret)!r}, '/rgrid/run')")
    assert not (bench.directory / "workspace").is_symlink()
    assert list((bench.directory / "workspace").iterdir()) == []
    assert (secret / "key").read_text() == "of the server"


def test_a_crowd_beyond_the_limit_of_processes_is_refused(bench: Bench) -> None:
    groups = cgroups.find()
    if bench.name == "bubblewrap" and "pids" not in groups.parents:
        pytest.skip(f"no limit here: {groups.said}")
    ended = bench.run(
        """
        import os, signal
        try:
            for _ in range(10000):
                if os.fork() == 0:
                    signal.pause()
        except BlockingIOError:
            print('refused')
        """,
        memory_mib=64 * 1024,
    )
    assert (ended.code, bench.text("out")) == (0, "refused\n")


def test_without_a_network_it_reaches_nobody_but_itself(bench: Bench) -> None:
    async def carry() -> Exit:
        sandbox = SANDBOXES[bench.name](bench.directory / "boxes", network=False)
        server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        script = f"""
            import socket
            try:
                socket.create_connection(('127.0.0.1', {port}), 5)
            except OSError as error:
                print(type(error).__name__)
            own = socket.create_server(('127.0.0.1', 0))
            socket.create_connection(own.getsockname())
            print('itself')
        """
        try:
            with (bench.directory / "out").open("wb") as out:
                return await (await sandbox.start(bench.command(script), out.fileno(), out.fileno())).wait()
        finally:
            server.close()
            await sandbox.close()

    assert asyncio.run(carry()).code == 0
    assert bench.text("out") == "ConnectionRefusedError\nitself\n"
