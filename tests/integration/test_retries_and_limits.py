"""Retry policies and limits over the API, with real scripts."""

from __future__ import annotations

import subprocess
import uuid
from typing import Any

import pytest

from rgrid.client import Client
from tests.integration.conftest import Api
from tests.live import PYTHON, LiveServer

FAILS_TWICE = """
import os, sys
attempt = int(os.environ["RGRID_ATTEMPT"])
print(f"attempt {attempt}", flush=True)
sys.exit(75 if attempt < 3 else 0)
"""
AT_ONCE = {"backoff_seconds": 0}


def test_a_script_that_fails_twice_completes_by_its_policy(tenant: Api) -> None:
    policy = {"max_retries": 3, "exit_codes": [75], **AT_ONCE}
    found = tenant.run(FAILS_TWICE, retry_policy=policy)
    assert (found["status"], found["attempt"], found["exit_code"]) == ("completed", 3, 0)
    assert (found["retry_count"], found["max_retries"]) == (2, 5)
    assert found["retry_policy"] == {
        "max_retries": 3,
        "on": ["exit_code", "signal", "timed_out", "out_of_memory"],
        "exit_codes": [75],
        "backoff_seconds": 0,
        "backoff_factor": 2,
        "max_backoff_seconds": 300,
    }
    log = tenant.get(f"/executions/{found['execution_id']}/logs", headers={"Accept": "application/json"})
    entries = log.json()["entries"]
    assert [entry["message"] for entry in entries] == ["attempt 1", "attempt 2", "attempt 3"]
    assert [entry["sequence_number"] for entry in entries] == [1, 2, 3]


def test_without_a_policy_a_failure_is_final(tenant: Api) -> None:
    found = tenant.run(FAILS_TWICE)
    assert (found["status"], found["attempt"], found["retry_policy"]) == ("failed", 1, None)


def test_a_batchs_template_carries_the_policy(tenant: Api) -> None:
    template = {"script_content": FAILS_TWICE, "retry_policy": {"max_retries": 2, **AT_ONCE}}
    batch = tenant.post("/batches", {"template": template, "items": [{}, {}]}).json()
    done: dict[str, Any] = {}
    while done.get("status") != "completed":
        done = tenant.get(f"/batches/{batch['batch_id']}?wait=30").json()
        assert done["counts"]["failed"] == 0
    assert done["counts"]["completed"] == 2


def test_the_client_passes_the_policy_on(live_server: LiveServer) -> None:
    with Client(live_server.url, api_key=live_server.api_key) as client:
        submitted = client.submit(FAILS_TWICE, retry_policy={"max_retries": 2, **AT_ONCE})
        found = client.wait(submitted.execution_id, timeout_seconds=120)
    assert (found.status, found.retry_count, found.max_retries) == ("completed", 2, 4)
    assert found.retry_policy is not None
    assert found.retry_policy["max_retries"] == 2


@pytest.mark.parametrize(
    ("policy", "location"),
    [
        ({"max_retries": 21}, "max_retries"),
        ({"max_retries": 1, "on": ["sigkill"]}, "on"),
        ({"max_retries": 1, "exit_codes": [0]}, "exit_codes"),
        ({"max_retries": 1, "backoff_factor": 0}, "backoff_factor"),
        ({"max_retrys": 1}, "max_retries"),
    ],
)
def test_a_policy_that_cannot_be_is_422_with_its_place(
    tenant: Api, policy: dict[str, Any], location: str
) -> None:
    answer = tenant.post("/executions", {"script_content": "pass", "retry_policy": policy})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "retry_policy", location]


def test_an_unknown_field_of_a_policy_is_named(tenant: Api) -> None:
    policy = {"max_retries": 1, "jitter": True}
    answer = tenant.post("/executions", {"script_content": "pass", "retry_policy": policy, "odd": 1})
    assert answer.headers["X-Ignored-Fields"] == "odd,retry_policy.jitter"


def test_a_tenants_limit_is_set_shown_and_kept(api: Api, live_server: LiveServer) -> None:
    tenant_id = api.post("/admin/tenants", {"name": f"limited-{uuid.uuid4().hex}"}).json()["tenant_id"]
    key = api.post("/admin/keys", {"tenant_id": tenant_id, "scopes": ["submit", "read"]}).json()["key"]
    mine = Api(live_server.api, key)
    assert mine.get("/limits").json()["max_running"] is None

    paused = api.call("PATCH", f"/admin/tenants/{tenant_id}", json={"max_running": 0})
    assert paused.json() == {"tenant_id": tenant_id, "max_running": 0}
    assert mine.get("/limits").json()["max_running"] == 0
    held = mine.submit("pass")["execution_id"]
    # somebody else's, submitted later, has come and gone before
    api.run("pass")
    assert mine.get(f"/executions/{held}").json()["status"] == "queued"

    assert api.call("PATCH", f"/admin/tenants/{tenant_id}", json={"max_running": None}).status_code == 200
    assert mine.wait(held)["status"] == "completed"
    shown = {row["tenant_id"]: row["max_running"] for row in api.get("/admin/tenants").json()}
    assert shown[tenant_id] is None


@pytest.mark.parametrize("body", [{}, {"max_running": -1}, {"max_running": "many"}])
def test_a_limit_that_cannot_be_is_422(api: Api, body: dict[str, Any]) -> None:
    assert api.call("PATCH", "/admin/tenants/tenant_x", json=body).status_code == 422


def test_a_limit_for_nobody_is_404(api: Api) -> None:
    assert api.call("PATCH", "/admin/tenants/tenant_x", json={"max_running": 1}).status_code == 404


def test_only_an_administrator_limits_a_tenant(tenant: Api) -> None:
    tenant_id = tenant.get("/whoami").json()["tenant_id"]
    answer = tenant.call("PATCH", f"/admin/tenants/{tenant_id}", json={"max_running": None})
    assert answer.status_code == 403


def test_the_command_line_lists_and_limits_tenants(api: Api, live_server: LiveServer) -> None:
    name = f"named-{uuid.uuid4().hex}"
    tenant_id = api.post("/admin/tenants", {"name": name}).json()["tenant_id"]

    def tenants(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(PYTHON), "-m", "rgrid_server", "tenants", *arguments]
        command += ["--data-dir", str(live_server.data_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert tenants("limit", name, "--max-running", "3").returncode == 0
    assert f"{tenant_id}  {name}  3 at once" in tenants().stdout
    assert tenants("limit", name, "--max-running", "none").returncode == 0
    assert f"{tenant_id}  {name}  no limit" in tenants().stdout
    assert "say how many at once" in tenants("limit", name).stderr
    assert "name a tenant to limit" in tenants("limit", "nobody", "--max-running", "3").stderr
    assert tenants("limit", name, "--max-running", "-1").returncode == 2
