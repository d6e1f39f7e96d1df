"""The server as a process: starting, refusing to start, stopping, and its own commands."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sqlite3
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.conftest import Api
from tests.live import PYTHON, LiveServer


def serve(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the server's command line to its end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RGRID_")}
    return subprocess.run(
        [str(PYTHON), "-m", "rgrid_server", *options],
        env={**clean, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = serve("--port", port, "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert "--port 0" in done.stderr


def test_a_second_server_on_one_directory_is_refused(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "0"]):
        done = serve("--port", "0", "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 1
    assert "another server uses the data directory" in done.stderr


def test_data_of_a_newer_version_are_left_alone(tmp_path: Path) -> None:
    assert serve("migrate", "--data-dir", str(tmp_path)).returncode == 0
    with sqlite3.connect(tmp_path / "rgrid.sqlite") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    done = serve("--port", "0", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert "was written by a newer RGrid (schema 9999" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "99999"], "port"),
        (["--database-url", "mysql://x/y"], "--database-url begins with mysql://"),
        (["--engine", "ray"], "'ray' is not available"),
        (["--sandbox", "chroot"], "invalid choice: 'chroot'"),
        (["--host", "no.such.host.invalid"], "is not known"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path: Path, options: list[str], said: str) -> None:
    done = serve("--port", "0", "--data-dir", str(tmp_path), *options)
    assert done.returncode in {1, 2}
    assert said in done.stderr


def test_a_bootstrap_key_that_is_none_is_refused(tmp_path: Path) -> None:
    done = serve("--port", "0", "--data-dir", str(tmp_path), RGRID_BOOTSTRAP_API_KEY="hunter2")
    assert done.returncode == 2
    assert "does not begin with sk_" in done.stderr
    assert "hunter2" not in done.stderr


def test_the_first_key_is_shown_once_and_kept_private(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with LiveServer(data, options=["--slots", "0"], env={"RGRID_BOOTSTRAP_API_KEY": ""}) as server:
        key = (data / "admin.key").read_text().strip()
        assert key in server.log
        assert (data / "admin.key").stat().st_mode & 0o077 == 0
        assert Api(server.api, key).get("/whoami").status_code == 200


def test_status_stop_keys_prices_and_backup(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        execution = Api(server.api, server.api_key).submit()
        assert server.url in serve("status", "--data-dir", data).stdout
        key = serve("keys", "add", "--tenant", "red", "--data-dir", data).stdout.strip()
        assert Api(server.api, key).get("/whoami").json()["tenant_name"] == "red"
        assert key not in serve("keys", "--data-dir", data).stdout
        assert "0.002000000" in serve("prices", "--data-dir", data).stdout
        assert serve("backup", str(tmp_path / "copy"), "--data-dir", data).returncode == 0
        assert serve("stop", "--data-dir", data).returncode == 0
    assert serve("status", "--data-dir", data).returncode == 1
    with LiveServer(tmp_path / "copy", options=["--slots", "0"]) as copy:
        found = Api(copy.api, copy.api_key).get(f"/executions/{execution['execution_id']}")
        assert found.status_code == 200


PRICES = """
[[price]]
price_id = "next"
engine = "local"
effective_from = {at}
nanos_per_vcpu_hour = 3_000_000
nanos_per_gib_hour = 0
"""


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_prices_are_loaded_beside_a_running_server_and_stay_over_its_restart(
    tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    file, data = tmp_path / "prices.toml", tmp_path / "data"
    where = ["--data-dir", str(data)]
    if database == "postgres":
        where += ["--database-url", request.getfixturevalue("postgres").create_database()]
    hour_ahead = datetime.now(UTC) + timedelta(hours=1)
    file.write_text(PRICES.format(at=hour_ahead.isoformat()))
    with LiveServer(data, options=["--slots", "0", *where[2:]]) as server:
        api = Api(server.api, server.api_key)
        before = api.get("/admin/prices").json()
        loaded = serve("prices", "load", str(file), *where)
        assert loaded.returncode == 0, loaded.stderr
        assert loaded.stdout.startswith(f"1 of the 1 prices of {file} are new")
        assert "next                 local" in loaded.stdout
        book = api.get("/admin/prices").json()
        assert [*before, book[-1]] == book
        assert (book[-1]["price_id"], book[-1]["nanos_per_vcpu_hour"]) == ("next", 3_000_000)
        assert serve("prices", "load", str(file), *where).stdout.startswith("0 of the 1 prices")
        # what holds already stays as it is
        file.write_text(PRICES.format(at=hour_ahead.isoformat()).replace("next", "default-2025"))
        refused = serve("prices", "load", str(file), *where)
        assert refused.returncode == 1
        assert f"nothing of {file} was taken:\n  default-2025: this price holds from" in refused.stderr
        server.kill()
        server.restart()
        assert Api(server.api, server.api_key).get("/admin/prices").json() == book


def test_a_file_of_prices_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file, data = tmp_path / "prices.toml", str(tmp_path / "data")
    assert serve("migrate", "--data-dir", data).returncode == 0
    assert "name the file" in serve("prices", "load", "--data-dir", data).stderr
    missing = serve("prices", "load", str(file), "--data-dir", data)
    assert f"the prices {file} cannot be read: No such file" in missing.stderr
    file.write_text("[[price")
    assert f"the prices {file} are not TOML" in serve("prices", "load", str(file), "--data-dir", data).stderr


@pytest.mark.parametrize("seconds", ["0.001", "0.3", "0.6", "2"])
def test_an_idle_server_ends_itself_and_its_runner(tmp_path: Path, seconds: str) -> None:
    # at each of these moments its runner is at another point of its start
    data = tmp_path / "data"
    done = serve("--port", "0", "--slots", "1", "--idle-exit-seconds", seconds, "--data-dir", str(data))
    assert done.returncode == 0, done.stderr
    assert working_in(tmp_path) == []


def working_in(directory: Path) -> list[str]:
    """The processes that name something in a directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory) in command:
                found.append(f"{file.parent.name} {command}")
    return found


def test_a_full_disk_is_said_and_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        api = Api(server.api, server.api_key)
        kept = api.submit("print('kept')")
        # no file may grow beyond this: to the server it is a disk without room
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        refused = api.post("/executions", {"script_content": "print('lost')"})
        assert refused.status_code == 503
        assert refused.json()["detail"]["error"] == "storage_full"
        assert "make room" in refused.json()["detail"]["message"]
        blob = api.call("PUT", "/blobs/" + "a" * 64, data=b"x" * 500_000)
        assert blob.status_code == 503
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert api.get(f"/executions/{kept['execution_id']}").status_code == 200
        api.submit("print('room again')")
        assert len(api.get("/executions").json()) == 2
        assert list((server.data_dir / "blobs" / "incoming").iterdir()) == []


def test_inputs_that_never_come_fail_the_execution_and_are_named(
    tmp_path: Path,
) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        api = Api(server.api, server.api_key)
        execution = api.submit("print(1)", input_files=["a.csv", "b.csv"])
        server.kill()
        with sqlite3.connect(server.data_dir / "rgrid.sqlite") as database:
            database.execute("UPDATE executions SET inputs_due_at_ms = 1")
        server.restart()
        found = Api(server.api, server.api_key).wait(execution["execution_id"], seconds=30)
        assert found["status"] == "failed"
        assert found["error_code"] == "inputs_missing"
        assert "a.csv, b.csv" in found["execution_error"]


@pytest.mark.parametrize("command", [[], ["migrate"], ["keys"]])
@pytest.mark.parametrize("content", [b"garbage", b"SQLite format 3\0" + b"garbage" * 1000])
def test_a_file_that_is_no_database_is_named_with_the_way_out(
    tmp_path: Path, command: list[str], content: bytes
) -> None:
    (tmp_path / "rgrid.sqlite").write_bytes(content)
    options = [] if command else ["--port", "0"]
    done = serve(*command, *options, "--data-dir", str(tmp_path))
    assert done.returncode == 1, done.stderr
    assert str(tmp_path / "rgrid.sqlite") in done.stderr
    assert "rgrid server restore" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "rgrid.sqlite").read_bytes() == content


def test_a_new_data_directory_is_its_owners_only_and_one_that_is_there_is_left_as_it_is(
    tmp_path: Path,
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    given.chmod(0o755)
    for directory, mode in ((tmp_path / "new", 0o700), (given, 0o755)):
        assert serve("migrate", "--data-dir", str(directory)).returncode == 0
        assert stat.S_IMODE(directory.stat().st_mode) == mode
        assert stat.S_IMODE((directory / "rgrid.sqlite").stat().st_mode) == 0o600
    assert not [path for path in given.iterdir() if path.stat().st_mode & 0o077]
