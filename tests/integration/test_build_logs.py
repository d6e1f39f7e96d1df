"""What is said while an environment is built is in the execution's log, and in no stream of the script's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rgrid import Client
from rgrid.models import LogEntry
from tests.integration.conftest import Api
from tests.live import PYTHON, LiveServer
from tests.package_index import Index, make_index

WAIT_SECONDS = 120.0
SCRIPT = "import sys; print('of the script'); print('of stderr', file=sys.stderr)"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, Index]]:
    """A server whose runner knows nothing but an index of the test's own."""
    root = tmp_path_factory.mktemp("builds")
    with pytest.MonkeyPatch.context() as patch:
        index = make_index(root, patch)
        with LiveServer(options=["--sandbox", "process"]) as server:
            yield server.wait_for_runner(), index


@pytest.fixture
def client(built: tuple[LiveServer, Index]) -> Client:
    return Client(built[0].url, built[0].api_key)


def said(entries: list[LogEntry], stream: str) -> list[str]:
    return [entry.text for entry in entries if entry.stream == stream]


def test_it_comes_before_what_the_script_prints_and_not_into_it(
    built: tuple[LiveServer, Index], client: Client
) -> None:
    server, index = built
    index.add("demo", "1.0")
    ended = client.wait(client.submit(SCRIPT, requirements="demo").execution_id, WAIT_SECONDS)
    assert (ended.stdout, ended.stderr) == ("of the script\n", "of stderr\n"), ended.execution_error
    entries = list(client.logs(ended.execution_id))
    assert " + demo==1.0" in said(entries, "system")
    assert said(entries, "stdout") == ["of the script"]
    assert said(entries, "stderr") == ["of stderr"]
    streams = [entry.stream for entry in entries]
    assert streams.index("stdout") > streams.index("system")
    path = f"/executions/{ended.execution_id}/logs"
    api = Api(server.api, server.api_key)
    printed = {stream: api.get(f"{path}?stream={stream}").text for stream in ("stdout", "stderr", "system")}
    assert printed["stdout"] == "of the script\n"
    assert printed["stderr"] == "of stderr\n"
    assert " + demo==1.0\n" in printed["system"]
    assert "demo" not in api.get(path).text, "the bytes as printed are the script's"


def test_a_secret_is_masked_in_it(built: tuple[LiveServer, Index], client: Client) -> None:
    built[1].add("hunter22", "1.0")
    submitted = client.submit(SCRIPT, requirements="hunter22", secrets={"TOKEN": "hunter22"})
    ended = client.wait(submitted.execution_id, WAIT_SECONDS)
    entries = list(client.logs(ended.execution_id))
    assert " + ***==1.0" in said(entries, "system")
    assert not any("hunter22" in entry.text for entry in entries)


def test_of_a_build_that_fails_the_log_has_all_and_the_error_the_end(client: Client) -> None:
    ended = client.wait(client.submit(SCRIPT, requirements="nowhere==7").execution_id, WAIT_SECONDS)
    assert (ended.status, ended.error_code) == ("failed", "requirements_unresolvable")
    lines = said(list(client.logs(ended.execution_id)), "system")
    assert any("No solution found" in line for line in lines)
    assert lines[-1].strip() in str(ended.execution_error)
    assert (ended.stdout, ended.stderr) == ("", "")


def test_what_asks_for_nothing_has_a_log_of_its_own_alone(client: Client) -> None:
    ended = client.wait(client.submit(SCRIPT).execution_id, WAIT_SECONDS)
    assert {entry.stream for entry in client.logs(ended.execution_id)} == {"stdout", "stderr"}


def test_the_command_line_keeps_it_apart(built: tuple[LiveServer, Index], tmp_path: Path) -> None:
    server, index = built
    index.add("apart", "1.0")
    script = tmp_path / "s.py"
    script.write_text(SCRIPT)
    (tmp_path / "requirements.txt").write_text("apart\n")

    def rgrid(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PYTHON.with_name("rgrid")), *arguments],
            env={"RGRID_API_URL": server.url, "RGRID_API_KEY": server.api_key, "PATH": ""},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )

    ran = rgrid("run", "s.py")
    assert (ran.stdout, ran.stderr) == ("of the script\n", "of stderr\n")
    execution_id = rgrid("list", "--limit", "1", "--json").stdout.split('"execution_id": "')[1].split('"')[0]
    shown = rgrid("logs", execution_id)
    assert shown.stdout == "of the script\n"
    assert " + apart==1.0\n" in shown.stderr
    assert rgrid("logs", execution_id, "--stderr-only").stderr == "of stderr\n"
