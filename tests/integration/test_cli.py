"""The command line as its users type it, against a real server."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rgrid.client import Client
from tests.integration.conftest import Api
from tests.live import ROOT, LiveServer

RGRID = ROOT / ".venv" / "bin" / "rgrid"

Type = Callable[..., "subprocess.CompletedProcess[bytes]"]


def environment(server: LiveServer | None, home: Path) -> dict[str, str]:
    """Variables of someone whose home is empty."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RGRID_")}
    named = {"RGRID_API_URL": server.url, "RGRID_API_KEY": server.api_key} if server is not None else {}
    return {**clean, **named, "HOME": str(home), "NO_COLOR": "1"}


@pytest.fixture
def type_(live_server: LiveServer, tmp_path: Path) -> Type:
    """Types `rgrid …` in an empty directory."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()

    def run(*arguments: str | bytes, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(RGRID), *arguments],
            cwd=tmp_path / "work",
            env=environment(live_server, tmp_path / "home") | env,
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def work(tmp_path: Path, type_: Type) -> Path:
    """The directory that commands are typed in."""
    return tmp_path / "work"


def write(work: Path, name: str, text: str) -> None:
    """Write a file."""
    (work / name).parent.mkdir(parents=True, exist_ok=True)
    (work / name).write_text(text)


def test_streams_files_and_code_are_what_python_would_leave(type_: Type, work: Path) -> None:
    script = (
        "import sys\n"
        "sys.stdout.buffer.write(b'\\x00\\xff no newline ' + open(sys.argv[1], 'rb').read())\n"
        "sys.stdout.flush()\n"
        "print('to err', *sys.argv[1:], file=sys.stderr)\n"
        "open('made.txt', 'w').write('made')\n"
        "sys.exit(7)\n"
    )
    write(work, "s.py", script)
    write(work, "data/in.bin", "caf\u00e9\r\n")
    here = subprocess.run(
        [sys.executable, "s.py", "data/in.bin", "b"], cwd=work, capture_output=True, check=False
    )
    (work / "made.txt").unlink()
    there = type_("run", "s.py", "data/in.bin", "b")
    assert there.stdout == here.stdout
    assert there.stderr == here.stderr
    assert there.returncode == here.returncode == 7
    assert (work / "made.txt").read_text() == "made"


@pytest.mark.parametrize("code", [0, 1, 2, 69, 77, 130, 255])
def test_the_scripts_exit_code_is_ours(type_: Type, work: Path, code: int) -> None:
    write(work, "s.py", f"raise SystemExit({code})")
    assert type_("run", "s.py").returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_is_128_and_its_number(type_: Type, work: Path, number: signal.Signals) -> None:
    write(work, "s.py", f"import os\nos.kill(os.getpid(), {number.value})")
    assert type_("run", "s.py").returncode == 128 + number


def test_a_timeout_is_124(type_: Type, work: Path) -> None:
    write(work, "s.py", "import time\ntime.sleep(60)")
    done = type_("run", "--timeout", "1", "s.py")
    assert done.returncode == 124
    assert b"timeout of 1 seconds" in done.stderr


def test_a_batch_puts_outputs_beside_each_other_by_input(type_: Type, work: Path) -> None:
    write(work, "s.py", "import sys\nopen('copy.txt', 'w').write(open(sys.argv[1]).read() + sys.argv[2])")
    for name in ("a", "b"):
        write(work, f"data/{name}.txt", name)
    done = type_("run", "s.py", "--batch", "data/*.txt", "--parallel", "2", "X")
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert (work / "outputs/a.txt/copy.txt").read_text() == "aX"
    assert (work / "outputs/b.txt/copy.txt").read_text() == "bX"


def test_flat_outputs_that_clash_are_an_error_that_names_both(type_: Type, work: Path) -> None:
    write(work, "s.py", "open('same.txt', 'w').write('x')")
    for name in ("a", "b"):
        write(work, f"{name}.in", name)
    done = type_("run", "s.py", "--batch", "*.in", "--flat", "--output-dir", "out")
    assert done.returncode == 2
    assert b"a.in and b.in both made same.txt" in done.stderr
    assert not (work / "out").exists()


def test_a_batch_with_a_failure_says_which_and_is_retried(type_: Type, work: Path) -> None:
    write(work, "s.py", "import sys\nsys.exit('b' in sys.argv[1])")
    for name in ("a", "b"):
        write(work, f"{name}.in", name)
    done = type_("run", "s.py", "--batch", "*.in")
    assert done.returncode == 1
    assert b"rgrid: b.in (exec_" in done.stderr
    batch_id = done.stderr.decode().split("--batch ")[1].split()[0]
    again = type_("retry", "--batch", batch_id, "--failed-only")
    assert again.stdout.startswith(b"batch_")


def test_detach_status_logs_download_and_list(type_: Type, work: Path, tmp_path: Path) -> None:
    write(
        work, "s.py", "import sys\nprint('out')\nprint('err', file=sys.stderr)\nopen('o.txt', 'w').write('o')"
    )
    mark = uuid.uuid4().hex
    execution_id = type_("run", "-d", "-m", f"mark={mark}", "s.py").stdout.decode().strip()
    followed = type_("logs", "-f", execution_id)
    assert (followed.stdout, followed.stderr) == (b"out\n", b"err\n")
    assert type_("logs", "--stderr-only", execution_id).stdout == b""
    assert b"completed" in type_("status", execution_id).stdout
    assert json.loads(type_("status", "--json", execution_id).stdout)["execution_id"] == execution_id
    listed = type_("list", "-m", f"mark={mark}", "--json").stdout.decode().splitlines()
    assert [json.loads(line)["execution_id"] for line in listed] == [execution_id]
    assert b"o.txt" in type_("download", "--list", execution_id).stdout
    assert type_("download", execution_id, "--output-dir", "d").returncode == 0
    assert (work / "d/o.txt").read_text() == "o"
    missing = type_("download", execution_id, "--file", "nothing.txt")
    assert missing.returncode == 1
    assert b"there is o.txt" in missing.stderr


def test_what_lists_do_not_carry_is_not_made_up(type_: Type, work: Path) -> None:
    write(work, "s.py", "print(1)")
    mark = uuid.uuid4().hex
    type_("run", "-m", f"mark={mark}", "s.py", "an argument")
    listed = json.loads(type_("list", "-m", f"mark={mark}", "--json").stdout)
    whole = json.loads(type_("status", "--json", listed["execution_id"]).stdout)
    assert {"args", "script_content", "stdout", "received"}.isdisjoint(listed)
    assert whole["args"] == ["an argument"]
    assert "received" not in whole
    assert listed.items() <= whole.items()


LEAVES_BAD_NAMES = (
    "import os\n"
    "for name in (b'new\\nline', b'back\\\\slash', b'tab\\t', b'\\xff'):\n"
    "    open(os.path.join(b'.', name), 'w').close()\n"
    "open('good', 'w').close()\n"
)


def test_outputs_that_cannot_be_carried_are_named_and_the_others_are_fetched(type_: Type, work: Path) -> None:
    write(work, "s.py", LEAVES_BAD_NAMES)
    done = type_("run", "s.py")
    assert done.returncode == 0
    assert (work / "good").exists()
    assert len(done.stderr.splitlines()) == 4
    for name, why in (
        (b"'new\\nline'", b"control character"),
        (b"'back\\\\slash'", b"backslash"),
        (b"'tab\\t'", b"control character"),
        (b"'\\udcff'", b"not valid Unicode"),
    ):
        assert any(
            line.startswith(b"rgrid: not taken: " + name) and why in line for line in done.stderr.splitlines()
        ), done.stderr
    execution_id = json.loads(type_("list", "-n", "1", "--json").stdout)["execution_id"]
    fetched = type_("download", execution_id, "--output-dir", "d")
    assert fetched.stdout == b"d/good\n"
    assert fetched.stderr == done.stderr


@pytest.mark.parametrize("option", [(), ("--remote-only",)])
def test_a_batch_names_outputs_that_cannot_be_carried(
    type_: Type, work: Path, option: tuple[str, ...]
) -> None:
    write(work, "s.py", "open('back\\\\slash', 'w').close()")
    write(work, "a.in", "a")
    done = type_("run", "s.py", "--batch", "*.in", *option)
    assert done.returncode == 0
    assert done.stderr.startswith(b"rgrid: a.in (exec_")
    assert b"not taken: 'back\\\\slash' has a backslash" in done.stderr


def test_a_batch_takes_files_of_one_name_from_elsewhere(type_: Type, work: Path) -> None:
    write(work, "s.py", "import sys\nopen('copy', 'w').write(open(sys.argv[1]).read())")
    for name in ("dir1", "dir2"):
        write(work.parent, f"{name}/f.csv", name)
    done = type_("run", "s.py", "--batch", str(work.parent / "dir?" / "f.csv"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert [(work / f"outputs/dir{n}/f.csv/copy").read_text() for n in (1, 2)] == ["dir1", "dir2"]


def test_a_script_may_be_given_itself(type_: Type, work: Path) -> None:
    write(work, "c.py", "import sys\nprint(open(sys.argv[1]).read() == open(__file__).read())")
    done = type_("run", "c.py", "c.py")
    assert (done.returncode, done.stdout) == (0, b"True\n"), done.stderr


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 7, b"err\n"),
        ("2>&-", 7, b""),
        (">&- 2>&- <&-", 7, b""),
        ("2>/dev/full", 7, b""),
        (">/dev/full", 7, b"err\nrgrid: stdout cannot be written: No space left on device\n"),
    ],
)
def test_a_stream_that_takes_nothing_costs_neither_outputs_nor_the_scripts_code(
    live_server: LiveServer, work: Path, redirection: str, code: int, said: bytes
) -> None:
    write(
        work,
        "s.py",
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\nopen('o', 'w').write('o')\nsys.exit(7)",
    )
    done = typed_in_a_shell(live_server, work, f"run s.py {redirection}")
    assert (done.returncode, done.stderr) == (code, said if "2>" not in redirection else b"")
    assert (work / "o").read_text() == "o"


@pytest.mark.parametrize("words", ["run ok.py", "list --json", "status {}"])
def test_a_stdout_that_is_full_is_said_in_one_line_and_no_success(
    type_: Type, live_server: LiveServer, work: Path, words: str
) -> None:
    write(work, "ok.py", "print(1)")
    execution_id = type_("run", "-d", "ok.py").stdout.decode().strip()
    done = typed_in_a_shell(live_server, work, f"{words.format(execution_id)} >/dev/full")
    assert done.returncode == 1
    assert done.stderr == b"rgrid: stdout cannot be written: No space left on device\n"


def test_a_run_key_runs_once(type_: Type, work: Path) -> None:
    write(work, "s.py", "import time\ntime.sleep(1)\nprint('x')")
    key = uuid.uuid4().hex
    first, second = (type_("run", "-d", "--key", key, "s.py").stdout for _ in range(2))
    assert first == second


def test_cancel_ends_what_was_detached(type_: Type, work: Path, api: Api) -> None:
    write(work, "s.py", "import time\ntime.sleep(60)")
    execution_id = type_("run", "-d", "s.py").stdout.decode().strip()
    assert execution_id.encode() in type_("cancel", execution_id).stdout
    assert api.wait(execution_id, seconds=30)["status"] == "canceled"


def test_secrets_are_kept_given_and_masked(type_: Type, tmp_path: Path) -> None:
    script = tmp_path / "tell.py"
    script.write_text("import os; print(os.environ['A'], len(os.environ['B']))")
    assert type_("secret", "set", "B", stdin=b"kept-hunter22\n").stdout == b"The secret B is kept\n"
    assert b"B" in type_("secret", "list").stdout
    ran = type_("run", str(script), "--secret", "A=given-hunter22", "--secret", "B")
    assert (ran.returncode, ran.stdout) == (0, b"*** 13\n")
    assert type_("secret", "remove", "B").returncode == 0
    refused = type_("run", str(script), "--secret", "B")
    assert (refused.returncode, b"rgrid secret set B" in refused.stderr) == (2, True)


def test_an_earlier_result_is_reused_and_a_miss_explained(type_: Type, work: Path) -> None:
    (work / "draw.py").write_text("import random; open('out.txt', 'w').write('x'); print(random.random())")
    first = type_("run", "draw.py", "a", "--explain-cache")
    assert b"no earlier result stands for it: no earlier result of a script" in first.stderr
    (work / "out.txt").unlink()
    again = type_("run", "draw.py", "a", "--cache", "read", "-v")
    assert again.stdout == first.stdout
    assert b"which saved" in again.stderr
    assert (work / "out.txt").read_text() == "x"
    other = type_("run", "draw.py", "b", "--explain-cache")
    assert b"no earlier result stands for it: arguments" in other.stderr
    assert other.stdout != first.stdout
    assert type_("run", "draw.py", "--cache", "off", "--explain-cache").returncode == 2


def test_cost_estimate_and_limits_are_shown(type_: Type) -> None:
    assert b"total" in type_("cost", "--days", "7").stdout
    document = json.loads(type_("cost", "--by", "dag", "--json").stdout)
    assert sum(group["cost_micros"] for group in document["groups"]) == document["total_cost_micros"]
    assert type_("cost", "--csv").stdout.startswith(
        b"day,executions,failed,compute_time_seconds,cost_micros\n"
    )
    assert b"executions:  3" in type_("estimate", "--files", "3").stdout
    assert type_("cost", "export", "--days", "1").stdout.startswith(b"BilledCost,BillingAccountId,")
    assert b"No monthly limit" in type_("cost", "show-limit").stdout
    assert type_("cost", "set-limit", "much").returncode == 2


def test_doctor_says_what_is_in_force(type_: Type) -> None:
    told = type_("doctor").stdout.decode()
    for word in ("tenant default", "python:3.11", "3600 s"):
        assert word in told
    assert re.search(r"sandbox (bubblewrap|process)", told)
    assert re.search(r"sandbox: +\S", told), "and why it is this one"


def test_init_writes_a_private_file_that_commands_find(
    type_: Type, work: Path, live_server: LiveServer
) -> None:
    done = type_("init", "--api-url", f"{live_server.url}/api/v1", "--api-key", live_server.api_key)
    assert done.returncode == 0, done.stderr
    assert (work / ".rgrid/config").stat().st_mode & 0o077 == 0
    assert type_("list", RGRID_API_URL="", RGRID_API_KEY="").returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(type_: Type, shell: str) -> None:
    assert b"_RGRID_COMPLETE" in type_("completion", shell).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nothing.py"], b"there is no script nothing.py"),
        (["run", "."], b"is a directory"),
        (["run", "empty.py"], b"is empty"),
        (["run", "nul.py"], b"NUL byte"),
        (["run", "latin.py"], b"cannot be read as Python source"),
        (["run", "ok.py", "--env", "novalue"], b"--env wants NAME=VALUE"),
        (["run", "ok.py", "--memory", "lots"], b"--memory wants a size"),
        (["run", "ok.py", "--flat"], b"belong to --batch"),
        (["run", "ok.py", "--batch", "*.nothing"], b"no file matches"),
        (["run", "ok.py", "--secret", "A=b"], b"fewer than 4 characters"),
        (["run", "ok.py", "--requirements", "none.txt"], b"none.txt cannot be read"),
        (["logs", "--stdout-only", "--stderr-only", "x"], b"leave nothing"),
        (["nonsense"], b"No such command"),
        (["run", "ok.py", "--cpus", "nan"], b"cpus is nan"),
        (["run", "ok.py", "--timeout", "-1"], b"timeout"),
        (["run", "ok.py", "--runtime", "cobol:60"], b"cobol"),
        (["cost", "--since", "yesterday"], b"yesterday"),
        (["cost", "--by", "colour"], b"colour"),
        (["run", "ok.py", b"\xff.csv"], b"args[0]: '\\udcff.csv' is not UTF-8"),
        (["run", "ok.py", "-e", b"A=\xff"], b"env_vars.A: '\\udcff' is not UTF-8"),
        (["status", b"exec_\xff"], b"is not UTF-8"),
        (["init", "--api-url", "http://127.0.0.1:9"], b"set RGRID_API_KEY"),
        (["init", "--api-key", "sk_x"], b"give --api-url"),
    ],
)
def test_wrong_usage_is_2_and_says_why(
    type_: Type, work: Path, arguments: list[str | bytes], said: bytes
) -> None:
    write(work, "ok.py", "print(1)")
    write(work, "empty.py", "\n")
    write(work, "nul.py", "print(1)\0")
    (work / "latin.py").write_bytes("print('caf\u00e9')".encode("latin-1"))
    unkeyed = {"RGRID_API_KEY": ""} if arguments[0] == "init" else {}
    done = type_(*arguments, **unkeyed)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_server_that_is_not_there_is_69(type_: Type, work: Path) -> None:
    write(work, "s.py", "print(1)")
    done = type_("run", "s.py", RGRID_API_URL="http://127.0.0.1:9")
    assert done.returncode == 69
    assert b"http://127.0.0.1:9" in done.stderr


def test_a_wrong_key_is_77(type_: Type) -> None:
    done = type_("list", RGRID_API_KEY="sk_nobody")
    assert done.returncode == 77
    assert b"not known" in done.stderr


def test_no_server_at_all_is_2_and_says_what_to_do(type_: Type) -> None:
    done = type_("list", RGRID_API_URL="", RGRID_API_KEY="")
    assert done.returncode == 2
    assert b"RGRID_API_URL" in done.stderr


def test_the_first_ctrl_c_detaches_and_the_second_cancels(
    live_server: LiveServer, tmp_path: Path, work: Path, api: Api
) -> None:
    write(work, "s.py", "import time\nprint('begun', flush=True)\ntime.sleep(60)")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(RGRID), "run", "s.py"],
        cwd=work,
        env=environment(live_server, tmp_path / "home"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = read_until(ours, b"begun")
    process.send_signal(signal.SIGINT)
    shown += read_until(ours, b"again cancels it")
    process.send_signal(signal.SIGINT)
    shown += read_until(ours, b"canceled exec_")
    assert process.wait(timeout=30) == 130
    os.close(ours)
    execution_id = "exec_" + shown.split(b"exec_")[1][:32].decode()
    assert api.wait(execution_id, seconds=30)["status"] == "canceled"


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("/blobs/missing", b"interrupted; nothing was submitted"),
        ("/executions", b"interrupted while it was submitted: it may run"),
        ("/batches", b"interrupted while it was submitted: it may run"),
    ],
)
def test_ctrl_c_before_the_answer_says_what_became_of_it(
    tmp_path: Path, work: Path, stage: str, said: bytes
) -> None:
    write(work, "s.py", "print(1)")
    write(work, "in.csv", "1")
    arguments = ["--batch", "*.csv"] if stage == "/batches" else ["in.csv"]
    with StuckServer(stage) as server:
        process = subprocess.Popen(
            [str(RGRID), "run", "s.py", "--key", "mine", *arguments],
            cwd=work,
            env=environment(None, tmp_path / "home") | {"RGRID_API_URL": server.url, "RGRID_API_KEY": "sk_x"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert server.is_stuck.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b""
    assert said in err
    assert len(err.splitlines()) == 1
    assert (b"--key mine" in err) == (stage != "/blobs/missing")


def test_a_home_that_cannot_be_written_is_2_and_names_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, "s.py", "print(1)")
    done = subprocess.run(
        [str(RGRID), "run", "s.py"],
        cwd=tmp_path,
        env=environment(None, Path("/dev/null")),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert b"/dev/null/.rgrid" in done.stderr
    assert b"RGRID_API_URL" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_server_run_starts_one_of_its_own_and_uses_it_again(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    write(work, "s.py", "print('mine')")
    env = environment(None, home)
    try:
        commands = [
            subprocess.Popen([str(RGRID), "run", "s.py"], cwd=work, env=env, stdout=-1, stderr=-1)
            for _ in range(2)
        ]
        outputs = [command.communicate(timeout=120) for command in commands]
        assert outputs == [(b"mine\n", b"")] * 2
        local = home / ".rgrid" / "local"
        pid = (local / "server.pid").read_text()
        again = subprocess.run(
            [str(RGRID), "list", "--json"], cwd=work, env=env, capture_output=True, check=True
        )
        assert len(again.stdout.splitlines()) == 2
        assert (local / "server.pid").read_text() == pid
    finally:
        server = LiveServer(home / ".rgrid" / "local")
        stop = [str(RGRID), "server", "stop", "--data-dir", str(home / ".rgrid" / "local")]
        subprocess.run(stop, env=env, capture_output=True, check=False, timeout=60)
        server.end_runner()


def test_the_library_runs_a_script_and_fetches_its_files(
    live_server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    import rgrid

    monkeypatch.setenv("RGRID_API_URL", live_server.api)
    monkeypatch.setenv("RGRID_API_KEY", live_server.api_key)
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "s.py", "import sys\nopen('out.txt', 'w').write(open(sys.argv[1]).read() * 2)")
    write(tmp_path, "in.txt", "ab")
    assert rgrid.run("s.py", "in.txt").status == "completed"
    assert (tmp_path / "out.txt").read_text() == "abab"
    assert asyncio.run(rgrid.arun("s.py", "in.txt", output_dir=None)).succeeded
    with pytest.raises(rgrid.ExecutionFailed, match="exit code 5"):
        rgrid.run("import sys\nsys.exit(5)\n")
    assert rgrid.run("import sys\nsys.exit(5)\n", check=False).exit_code == 5


def test_a_log_is_followed_through_a_restart_of_the_server(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "1"]) as server:
        server.wait_for_runner()
        port = int(server.url.rpartition(":")[2])
        script = "import time\nfor n in range(20):\n    print(n, flush=True)\n    time.sleep(0.1)"
        with Client(server.url, server.api_key) as client:
            entries = client.logs(client.submit(script).execution_id, follow=True)
            seen = [next(entries).text]
            server.kill()
            server._port = port
            server.restart()
            seen += [entry.text for entry in entries]
        assert seen == [str(n) for n in range(20)]


def typed_in_a_shell(server: LiveServer, work: Path, words: str) -> subprocess.CompletedProcess[bytes]:
    """Have a shell run `rgrid …` with what it says of streams."""
    return subprocess.run(
        ["sh", "-c", f'exec "{RGRID}" {words}'],
        cwd=work,
        env=environment(server, work.parent / "home"),
        capture_output=True,
        timeout=120,
        check=False,
    )


class StuckServer:
    """Has no file yet, and answers nothing to one path until it is left."""

    def __init__(self, stuck_path: str) -> None:
        self.is_stuck = threading.Event()
        self._is_left = threading.Event()
        stuck = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                if self.path == f"/api/v1{stuck_path}":
                    stuck.is_stuck.set()
                    stuck._is_left.wait(60)
                    return
                body = json.dumps({"missing": []} if asked else {}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> StuckServer:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_left.set()
        self._http.shutdown()
        self._http.server_close()


def read_until(descriptor: int, wanted: bytes, seconds: float = 60) -> bytes:
    """What a terminal shows, up to something."""
    shown = b""
    deadline = time.monotonic() + seconds
    while wanted not in shown and time.monotonic() < deadline:
        try:
            shown += os.read(descriptor, 4096)
        except OSError:
            # Linux's way to say that no process has the terminal open any more
            break
    assert wanted in shown
    return shown


def shell(work: Path, type_env: dict[str, str], line: str) -> subprocess.CompletedProcess[bytes]:
    """Types a line to a shell, for what only a shell can do to streams."""
    return subprocess.run(
        ["/bin/sh", "-c", line], cwd=work, env=type_env, capture_output=True, timeout=120, check=False
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_takes_nothing_and_spoils_nothing(
    live_server: LiveServer, work: Path, closed: str
) -> None:
    write(work, "s.py", "import sys\nprint('out')\nopen('made', 'w').write('x')\nsys.exit(3)\n")
    env = environment(live_server, work.parent / "home")
    done = shell(work, env, f"{RGRID} run s.py {closed}")
    assert (done.returncode, (work / "made").read_text()) == (3, "x")
    assert b"Traceback" not in done.stderr


def test_a_stream_that_cannot_be_written_is_told_of_and_the_files_come_all_the_same(
    live_server: LiveServer, work: Path
) -> None:
    write(work, "s.py", "print('out')\nopen('made', 'w').write('x')\n")
    done = shell(work, environment(live_server, work.parent / "home"), f"{RGRID} run s.py >/dev/full")
    assert (done.returncode, (work / "made").read_text()) == (1, "x")
    assert done.stderr == b"rgrid: stdout cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    "refused",
    [["--timeout", "0"], ["--runtime", "nope:1"], ["--cpus", "0"], ["--cpus", "nan"], ["--priority", "1000"]],
)
def test_what_cannot_be_asked_for_is_a_usage_error(type_: Type, work: Path, refused: list[str]) -> None:
    write(work, "s.py", "print(1)")
    done = type_("run", "s.py", *refused)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"rgrid: ")


def test_an_argument_that_is_no_text_is_named(live_server: LiveServer, work: Path) -> None:
    write(work, "s.py", "print(1)")
    env = environment(live_server, work.parent / "home")
    done = subprocess.run(
        [os.fsencode(RGRID), b"run", b"s.py", b"\xff"], cwd=work, env=env, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"is not UTF-8" in done.stderr


def test_a_script_may_be_given_its_own_name(type_: Type, work: Path) -> None:
    write(work, "s.py", "import sys\nprint(sys.argv[1], len(open(sys.argv[1]).read()))\n")
    done = type_("run", "s.py", "s.py")
    assert done.stdout == b"s.py %d\n" % len((work / "s.py").read_text())


def test_a_list_as_json_says_only_what_lists_carry(type_: Type, work: Path) -> None:
    write(work, "s.py", "print(1)")
    type_("run", "s.py")
    (line,) = type_("list", "--limit", "1", "--json").stdout.splitlines()
    listed = json.loads(line)
    assert {"execution_id", "status", "cost_micros", "user_metadata"} <= set(listed)
    assert not {"runtime", "script_content", "max_retries"} & set(listed)


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("print(1)")
    done = subprocess.run(
        [str(RGRID), "run", "s.py"],
        cwd=tmp_path,
        env=environment(None, Path("/proc/nowhere")),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"/proc/nowhere/.rgrid/local" in done.stderr
    assert b"Traceback" not in done.stderr


def test_init_without_a_terminal_says_how_to_give_the_key(type_: Type) -> None:
    done = type_("init", "--api-url", "http://127.0.0.1:9", RGRID_API_KEY="")
    assert done.returncode == 2
    assert b"RGRID_API_KEY" in done.stderr


def test_outputs_that_cannot_travel_are_named(type_: Type, work: Path) -> None:
    write(work, "s.py", "open('two\\nlines', 'w').write('x')\nopen('fine', 'w').write('y')\n")
    done = type_("run", "s.py")
    assert (done.returncode, (work / "fine").read_text()) == (0, "y")
    assert done.stderr.startswith(b"rgrid: not taken: ")
    assert b"two" in done.stderr


def test_whoever_took_the_port_of_ones_own_server_is_not_taken_for_it(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    keys: list[str | None] = []

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        do_POST = do_GET

    stranger = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    Thread(target=stranger.serve_forever, daemon=True).start()
    local = tmp_path / ".rgrid" / "local"
    local.mkdir(parents=True)
    (local / "address").write_text(f"http://127.0.0.1:{stranger.server_port}\n")
    (local / "admin.key").write_text("sk_secret\n")
    (tmp_path / "s.py").write_text("print('mine')")
    try:
        done = subprocess.run(
            [str(RGRID), "run", "s.py"],
            cwd=tmp_path,
            env=environment(None, tmp_path),
            capture_output=True,
            timeout=120,
            check=False,
        )
    finally:
        stranger.shutdown()
        stranger.server_close()
        stop = [sys.executable, "-m", "rgrid_server", "stop", "--data-dir", str(local)]
        subprocess.run(stop, capture_output=True, timeout=60, check=False)
    assert not any(keys)
    assert done.stdout == b"mine\n", done.stderr
