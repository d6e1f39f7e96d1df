"""Names of the operator's for a runtime with requirements, on a real server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rgrid import Client
from rgrid.exceptions import RGridError
from rgrid_server.domain.runtimes import PresetInvalid
from rgrid_server.presets import load_presets
from tests.live import LiveServer
from tests.package_index import make_index

WAIT_SECONDS = 120.0
RUNTIME = f"python:{sys.version_info[0]}.{sys.version_info[1]}"
SCRIPT = "import demo, extra; print(demo.VERSION, extra.VERSION)"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    root = tmp_path_factory.mktemp("presets")
    presets = root / "presets.toml"
    presets.write_text(f'["python:data"]\nruntime = "{RUNTIME}"\nrequirements = ["demo==1.0"]\n')
    with pytest.MonkeyPatch.context() as patch:
        index = make_index(root, patch)
        for name in ("demo", "extra"):
            index.add(name, "1.0")
            index.add(name, "2.0")
        with LiveServer(env={"RGRID_PRESETS_FILE": str(presets)}) as server:
            yield Client(server.url, server.api_key)


def test_a_script_runs_with_what_the_preset_requires_and_what_it_requires_itself(client: Client) -> None:
    submitted = client.submit(SCRIPT, runtime="python:data", requirements="extra<2")
    ended = client.wait(submitted.execution_id, WAIT_SECONDS)
    assert (ended.stdout, ended.status) == ("1.0 1.0\n", "completed")
    assert ended.runtime == RUNTIME


def test_a_retry_runs_with_what_the_preset_stood_for(client: Client) -> None:
    first = client.submit(SCRIPT, runtime="python:data", requirements="extra<2")
    again = client.retry(first.execution_id)
    assert client.wait(again.execution_id, WAIT_SECONDS).stdout == "1.0 1.0\n"


def test_the_presets_are_among_the_runtimes_and_none_is_the_default(client: Client) -> None:
    client.wait(client.submit("pass").execution_id, WAIT_SECONDS)
    by_name = {item.name: item for item in client.runtimes()}
    assert by_name["python:data"].version == by_name[RUNTIME].version
    assert not by_name["python:data"].default


def test_a_preset_that_nobody_has_written_is_refused_with_those_that_there_are(client: Client) -> None:
    client.wait(client.submit("pass").execution_id, WAIT_SECONDS)
    with pytest.raises(RGridError, match=r"no runner here offers 'python:date'; there is .*python:data"):
        client.submit("pass", runtime="python:date")


def test_an_estimate_for_a_preset_looks_at_the_runs_of_its_runtime(client: Client) -> None:
    client.wait(client.submit("pass").execution_id, WAIT_SECONDS)
    assert RUNTIME in "".join(client.estimate("python:data").assumptions)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (None, "cannot be read: No such file"),
        ("data = ", "are not TOML"),
        ("[Data]\n", "the preset 'Data'"),
        ("[data]\nruntime = 'python:3.11'\nrequirements = 1\n", "requirements are no list of texts"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, written: str | None, why: str
) -> None:
    path = tmp_path / "presets.toml"
    if written is not None:
        path.write_text(written)
    with pytest.raises(PresetInvalid, match=why) as refused:
        load_presets(path)
    assert str(path) in str(refused.value)
