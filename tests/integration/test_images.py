"""Scripts in images, by a real Docker daemon and a real registry that wants a password."""

from __future__ import annotations

import io
import os
import re
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest

from rgrid_server.runner.sandbox.containers import BOXES_LABEL
from tests import registry as registries
from tests.images import MODULE, make_image
from tests.integration.conftest import Api, make_tenant
from tests.live import LiveServer

IMAGE = "rgrid-test-python:1"
WITHOUT_PYTHON = "rgrid-test-empty:1"
LOOKING = f"""
import json, os, sys, {MODULE}
with open("made.txt", "w") as made:
    made.write({MODULE}.NAME)
names = ("GREETING", "GIVEN", "RGRID_REGISTRY_AUTH")
print(json.dumps([{MODULE}.NAME, sys.executable, os.getuid(), [os.environ.get(name) for name in names]]))
"""


@pytest.fixture(scope="module")
def client(own_docker: str) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=own_docker)
    make_image(made, IMAGE)
    with io.BytesIO() as packed:
        tarfile.open(fileobj=packed, mode="w").close()
        made.api.import_image_from_data(packed.getvalue(), *WITHOUT_PYTHON.split(":"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(client: docker.DockerClient, own_docker: str) -> Iterator[LiveServer]:
    """A runner that runs images beside its own sandbox."""
    with LiveServer(options=["--slots", "2"], env={"DOCKER_HOST": own_docker}) as running:
        yield running.wait_for_runner()


@pytest.fixture
def api(server: LiveServer) -> Api:
    return Api(server.api, server.api_key)


@pytest.fixture(scope="module")
def private(client: docker.DockerClient, require: Callable[[bool, str], None]) -> Iterator[str]:
    """The name of an image that its registry gives for a password only; it is not here."""
    problem = registries.why_not()
    require(problem is None, f"a registry ({problem})")
    with registries.Registry() as registry:
        name = f"{registry.address}/private/python:1"
        # with a layer that no other image has, so that it has to be fetched
        base = client.containers.create(IMAGE, ["true"])
        base.put_archive("/tmp", packed_file("of its own"))
        base.commit(*name.rsplit(":", 1))
        base.remove()
        login = {"username": registries.USERNAME, "password": registries.PASSWORD}
        for line in client.images.push(name, auth_config=login, stream=True, decode=True):
            assert "error" not in line, line
        client.images.remove(name)
        yield name


def packed_file(name: str) -> bytes:
    """An archive with one empty file."""
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(name))
        return packed.getvalue()


def run(api: Api, script: str, image: str, **more: Any) -> dict[str, Any]:
    return api.run(script, runtime=f"docker:{image}", **more)


def told(api: Api, execution: dict[str, Any]) -> list[str]:
    """What an execution's log has of the grid's own."""
    return str(api.get(f"/executions/{execution['execution_id']}/logs?stream=system").text).splitlines()


def test_a_script_runs_in_an_image_warm_when_it_comes_again(api: Api) -> None:
    first = run(api, LOOKING, IMAGE, env_vars={"GIVEN": "x"})
    assert first["stdout"] == '["the image", "/opt/python/bin/python3", 1000, ["hello", "x", null]]\n', first
    assert first["execution_metadata"]["sandbox"] == "docker"
    assert "made.txt" in first["download_urls"]
    again = run(api, LOOKING, IMAGE)
    assert again["execution_metadata"]["start"] == "warm"
    assert again["execution_metadata"]["environment"] == first["execution_metadata"]["environment"]


def test_images_are_offered_and_other_scripts_go_their_own_way(api: Api) -> None:
    assert "docker:IMAGE" in [runtime["name"] for runtime in api.get("/runtimes").json()]
    ended = api.run("print(1)")
    assert ended["status"] == "completed", (ended["execution_error"], ended["stderr"])
    assert ended["execution_metadata"]["sandbox"] != "docker"


def test_an_image_without_a_python_is_said(api: Api) -> None:
    ended = run(api, "print(1)", WITHOUT_PYTHON)
    assert (ended["status"], ended["error_code"]) == ("failed", "runtime_unavailable")
    assert f"the image {WITHOUT_PYTHON} has no Python that starts" in str(ended["execution_error"])


def test_requirements_beside_an_image_are_refused(api: Api) -> None:
    body = {"script_content": "print(1)", "runtime": f"docker:{IMAGE}", "requirements_content": "pandas"}
    refused = api.post("/executions", body)
    assert refused.status_code == 422
    assert "install them when it is built" in refused.text


def test_a_private_image_is_for_those_who_have_its_password(
    server: LiveServer, api: Api, private: str
) -> None:
    owner, other = (make_tenant(api, server) for _ in range(2))
    refused = run(other, "print(1)", private)
    assert (refused["status"], refused["error_code"]) == ("failed", "image_unavailable")
    assert "RGRID_REGISTRY_AUTH" in str(refused["execution_error"])

    right = {"RGRID_REGISTRY_AUTH": f"{registries.USERNAME}:{registries.PASSWORD}"}
    script = f"{LOOKING}\nprint('it is', {registries.PASSWORD!r})"
    ended = run(owner, script, private, secrets=right)
    assert ended["status"] == "completed", (ended["execution_error"], ended["stderr"])
    assert '["hello", null, null]' in str(ended["stdout"])
    assert "it is ***" in str(ended["stdout"])
    first, layer, last = told(owner, ended)
    assert first == f"fetching the image {private}"
    assert re.fullmatch("layer [0-9a-f]{12} is here", layer)
    assert last.startswith("the image is here after ")
    # what is here already is not fetched
    assert told(owner, run(owner, "print(1)", private, secrets=right)) == []

    # it is here now, and still it is not everyone's
    assert run(other, "print(1)", private)["error_code"] == "image_unavailable"
    wrong = {"RGRID_REGISTRY_AUTH": f"{registries.USERNAME}:another"}
    assert run(other, "print(1)", private, secrets=wrong)["error_code"] == "image_unavailable"
    assert run(other, "print(1)", private, secrets=right)["status"] == "completed"


def test_nothing_runs_on_when_the_runner_was_killed(
    server: LiveServer, api: Api, client: docker.DockerClient
) -> None:
    script = "import time; print('on', flush=True); time.sleep(600)"
    made = api.submit(script, runtime=f"docker:{IMAGE}")
    while "on" not in api.get(f"/executions/{made['execution_id']}/logs?wait=10").text:
        pass
    held = {one.id for one in client.containers.list(sparse=True, filters={"label": BOXES_LABEL})}
    assert held
    runner = server.runner_pid()
    assert runner is not None
    os.kill(runner, signal.SIGKILL)
    while held & {
        one.id for one in client.containers.list(all=True, sparse=True, filters={"label": BOXES_LABEL})
    }:
        time.sleep(0.1)
    api.post(f"/executions/{made['execution_id']}/cancel")
    assert api.wait(made["execution_id"])["status"] == "canceled"
