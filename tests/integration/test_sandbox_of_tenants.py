"""A server with several tenants takes no runner whose sandbox does not keep them apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Api
from tests.live import LiveServer

REFUSING = {"RGRID_ALLOW_PROCESS_SANDBOX": "0"}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def shared(data_dir: Path) -> Iterator[LiveServer]:
    with LiveServer(data_dir, options=["--sandbox", "process", "--slots", "1"], env=REFUSING) as server:
        yield server


def add_tenant(server: LiveServer, name: str) -> tuple[int, str]:
    answer = Api(server.api, server.api_key).post("/admin/tenants", {"name": name})
    return answer.status_code, answer.text


def test_a_second_tenant_is_refused_while_a_runner_does_not_keep_them_apart(shared: LiveServer) -> None:
    shared.wait_for_runner()
    status, text = add_tenant(shared, "second")
    assert status == 409
    assert "sandbox_too_weak" in text
    assert "--allow-process-sandbox" in text


def test_such_a_runner_is_refused_where_there_are_several_tenants(data_dir: Path) -> None:
    with LiveServer(data_dir, options=["--slots", "0"], env=REFUSING) as server:
        assert add_tenant(server, "second")[0] == 200
        admin = Api(server.api, server.api_key)
        tenant_id = admin.get("/whoami").json()["tenant_id"]
        key = admin.post("/admin/keys", {"tenant_id": tenant_id, "scopes": ["runner"]}).json()["key"]
        registered = Api(server.api, key).post(
            "/runner/register",
            {
                "runner_id": "runner_1",
                "hostname": "here",
                "slots": 1,
                "runtimes": [],
                "sandbox": "process",
                "version": "1",
            },
        )
    assert registered.status_code == 409
    assert "sandbox_too_weak" in registered.text
