"""The API as any HTTP client sees it: requests, and what docs say."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
import requests

from tests.live import LiveServer


class Api:
    """Calls under /api/v1 with a key, or with none."""

    def __init__(self, base: str, key: str | None) -> None:
        self.base = base
        self.session = requests.Session()
        if key is not None:
            self.session.headers["Authorization"] = f"Bearer {key}"

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send one."""
        return self.session.request(method, f"{self.base}{path}", timeout=90, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET."""
        return self.call("GET", path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> requests.Response:
        """POST."""
        return self.call("POST", path, json=json, **options)

    def submit(self, script: str = "print('hello')", **fields: Any) -> dict[str, Any]:
        """Submit an execution that is taken."""
        answer = self.post("/executions", {"script_content": script, **fields})
        assert answer.status_code == 200, answer.text
        taken: dict[str, Any] = answer.json()
        return taken

    def wait(self, execution_id: str, seconds: float = 90) -> dict[str, Any]:
        """The execution once it has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.get(f"/executions/{execution_id}?wait=30").json()
            if found["status"] not in {"queued", "running"}:
                return found
        raise AssertionError(f"{execution_id} has not ended: {found}")

    def run(self, script: str, **fields: Any) -> dict[str, Any]:
        """Submit and wait."""
        return self.wait(self.submit(script, **fields)["execution_id"])


ON_BOTH_DATABASES = {
    "test_kept_contract",
    "test_new_contract",
    "test_partial_uploads",
    "test_bad_input",
    "test_tenants_and_keys",
    "test_events",
    "test_batch_streams",
    "test_secrets",
    "test_result_cache",
}
"""Modules that hold the API to its contract: each of their tests runs on SQLite and on PostgreSQL."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the contract's tests on every database."""
    if "database" in metafunc.fixturenames and metafunc.module.__name__.split(".")[-1] in ON_BOTH_DATABASES:
        metafunc.parametrize("database", ["sqlite", "postgres"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def database(request: pytest.FixtureRequest) -> str:
    """Which database the server of a test uses."""
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture(scope="session")
def server(database: str, request: pytest.FixtureRequest) -> LiveServer:
    """A server with a runner, on the database of the test."""
    found: LiveServer = request.getfixturevalue("live_server" if database == "sqlite" else "postgres_server")
    return found


@pytest.fixture(scope="session")
def api(server: LiveServer) -> Api:
    """The administrator of the default tenant."""
    return Api(server.api, server.api_key)


@pytest.fixture(scope="session")
def anonymous(server: LiveServer) -> Api:
    """Nobody."""
    return Api(server.api, None)


def make_tenant(api: Api, server: LiveServer) -> Api:
    """A tenant of its own, by its administrator, with a key that may submit and read."""
    tenant_id = api.post("/admin/tenants", {"name": f"tenant-{uuid.uuid4().hex}"}).json()["tenant_id"]
    key = api.post("/admin/keys", {"tenant_id": tenant_id, "scopes": ["submit", "read"]}).json()["key"]
    return Api(server.api, key)


@pytest.fixture
def tenant(api: Api, server: LiveServer) -> Api:
    """A tenant of this test's own."""
    return make_tenant(api, server)
