"""Scripts of JavaScript, with the machine's own Node.js, in each sandbox that is here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rgrid import Client
from rgrid.exceptions import RGridError
from tests.live import LiveServer

WAIT_SECONDS = 120.0
NODE = shutil.which("node")
SCRIPT = """\
const fs = require("fs");
const add = require("./add.js");
console.log(process.argv.slice(2).join(" "), add(1, 2), process.version, typeof process.env.VIRTUAL_ENV);
console.error("said aside");
fs.writeFileSync("out.json", JSON.stringify({ read: fs.readFileSync("in.txt", "utf8") }));
process.exitCode = 7;
"""

pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node on this machine")


@pytest.fixture(scope="module", params=["process", "bubblewrap"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with LiveServer(options=["--sandbox", request.param]) as server:
        client = Client(server.url, server.api_key)
        client.wait(client.submit("pass").execution_id, WAIT_SECONDS)
        yield client


def version() -> str:
    return subprocess.run(
        [NODE or "", "--version"], check=True, capture_output=True, text=True
    ).stdout.strip()


def runtime() -> str:
    return f"node:{version().removeprefix('v').partition('.')[0]}"


def test_a_script_has_its_arguments_its_inputs_and_its_outputs(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("as sent")
    (tmp_path / "add.js").write_text("module.exports = (a, b) => a + b;")
    ended = client.wait(
        client.submit(
            SCRIPT,
            args=["a", "b c"],
            runtime=runtime(),
            script_name="main.js",
            inputs=client.upload({"in.txt": tmp_path / "in.txt", "add.js": tmp_path / "add.js"}),
        ).execution_id,
        WAIT_SECONDS,
    )
    assert ended.stdout == f"a b c 3 {version()} undefined\n"
    assert (ended.stderr, ended.exit_code, ended.status) == ("said aside\n", 7, "failed")
    assert ended.execution_metadata["node"] == version().removeprefix("v")
    assert ended.execution_metadata["cold_reason"] == "it is no Python script"
    client.download(ended.execution_id, tmp_path / "out")
    assert (tmp_path / "out/out.json").read_text() == '{"read":"as sent"}'


def test_an_error_is_nodes_own(client: Client) -> None:
    submitted = client.submit("throw new RangeError('too far')", runtime=runtime(), script_name="main.js")
    ended = client.wait(submitted.execution_id, WAIT_SECONDS)
    assert "RangeError: too far" in ended.stderr
    assert ended.exit_code == 1


def test_a_python_is_the_default_all_the_same(client: Client) -> None:
    by_name = {item.name: item for item in client.runtimes()}
    assert not by_name[runtime()].default
    assert by_name[runtime()].version == version().removeprefix("v")
    assert any(item.default and item.name.startswith("python:") for item in by_name.values())


def test_a_node_that_is_not_here_is_refused_with_what_is(client: Client) -> None:
    with pytest.raises(RGridError, match=rf"no runner here offers 'node:9'; there is .*{runtime()}"):
        client.submit("0", runtime="node:9")
