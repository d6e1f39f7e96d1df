"""Secrets from end to end: they reach the script, and are found nowhere else."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import requests

from tests.integration.conftest import Api
from tests.live import ROOT, LiveServer

TELLING = """import os, sys
value = os.environ['TOKEN']
open('length.txt', 'w').write(str(len(value)))
print('it is', value, 'they say')
sys.stdout.write(value[:5]); sys.stdout.flush()
import time; time.sleep(0.5)
sys.stdout.write(value[5:] + '\\n')
print(os.environ, file=sys.stderr)
raise SystemExit('ends with ' + value)
"""


def fresh() -> str:
    return f"secret-{uuid.uuid4().hex}"


def test_a_secret_reaches_the_script_and_nobody_else(tenant: Api, server: LiveServer) -> None:
    value = fresh()
    ended = tenant.run(TELLING, secrets={"TOKEN": value})
    assert ended["secrets"] == ["TOKEN"]
    assert ended["stdout"] == "it is *** they say\n***\n"
    assert "'TOKEN': '***'" in ended["stderr"]
    assert ended["stderr"].endswith("ends with ***\n")
    execution_id = ended["execution_id"]
    said = [
        json.dumps(ended),
        tenant.get("/executions").text,
        tenant.get(f"/executions/{execution_id}/logs", headers={"Accept": "application/json"}).text,
        tenant.get("/events", headers={"Accept": "application/json"}).text,
        tenant.get(f"/executions/{execution_id}/artifacts").text,
    ]
    assert not any(value in text or value[9:] in text for text in said)
    assert requests.get(ended["download_urls"]["length.txt"], timeout=10).text == str(len(value))
    for path in server.data_dir.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert value.encode() not in path.read_bytes(), path


def test_one_that_is_kept_is_given_by_its_name(tenant: Api) -> None:
    first, second = fresh(), fresh()
    assert tenant.call("PUT", "/secrets/TOKEN", json={"value": first}).json()["success"] is True
    assert first not in tenant.get("/secrets").text
    assert [one["name"] for one in tenant.get("/secrets").json()] == ["TOKEN"]
    script = "import os; print(len(os.environ['TOKEN']), os.environ['TOKEN'] == open('expected').read())"
    for value in (first, second):
        tenant.call("PUT", "/secrets/TOKEN", json={"value": value})
        hashed = hashlib.sha256(value.encode()).hexdigest()
        tenant.call("PUT", f"/blobs/{hashed}", data=value.encode())
        ended = tenant.run(script, secrets={"TOKEN": None}, inputs={"expected": hashed})
        assert ended["stdout"] == f"{len(value)} True\n"
    assert tenant.call("DELETE", "/secrets/TOKEN").status_code == 200
    assert tenant.call("DELETE", "/secrets/TOKEN").status_code == 404
    answer = tenant.post("/executions", {"script_content": "print(1)", "secrets": {"TOKEN": None}})
    assert answer.status_code == 422
    assert "rgrid secret set TOKEN" in answer.text


def test_another_tenants_is_not_there(tenant: Api, api: Api) -> None:
    tenant.call("PUT", "/secrets/MINE", json={"value": fresh()})
    assert "MINE" not in api.get("/secrets").text
    answer = api.post("/executions", {"script_content": "print(1)", "secrets": {"MINE": None}})
    assert answer.status_code == 422


def test_one_that_was_removed_meanwhile_ends_what_needs_it(tenant: Api) -> None:
    tenant.call("PUT", "/secrets/GONE", json={"value": fresh()})
    body = {"script_content": "print(1)", "secrets": {"GONE": None}, "input_files": ["late.txt"]}
    waiting = tenant.post("/executions", body).json()
    tenant.call("DELETE", "/secrets/GONE")
    requests.put(waiting["upload_urls"]["late.txt"], data=b"x", timeout=10)
    ended = tenant.get(f"/executions/{waiting['execution_id']}?wait=30").json()
    assert (ended["status"], ended["error_code"], ended["cost_micros"]) == ("failed", "secret_unavailable", 0)
    assert "rgrid secret set GONE" in ended["execution_error"]


def test_batches_and_retries_have_them_too(tenant: Api) -> None:
    value = fresh()
    script = "import os; print(len(os.environ['TOKEN']), os.environ['TOKEN'])"
    template = {"script_content": script, "secrets": {"TOKEN": value}}
    batch = tenant.post("/batches", {"template": template, "items": [{}, {}], "closed": False}).json()
    tenant.post(f"/batches/{batch['batch_id']}/items", {"items": [{}]})
    tenant.post(f"/batches/{batch['batch_id']}/close", {})
    for _ in range(2):
        found = tenant.get(f"/batches/{batch['batch_id']}?wait=30").json()
    assert found["status"] == "completed"
    ids = [one["execution_id"] for one in tenant.get(f"/batches/{batch['batch_id']}/executions").json()]
    assert len(ids) == 3
    again = tenant.post(f"/executions/{ids[0]}/retry", {}).json()
    for execution_id in [*ids, again["execution_id"]]:
        ended = tenant.get(f"/executions/{execution_id}?wait=30").json()
        assert ended["stdout"] == f"{len(value)} ***\n"


def test_a_run_key_is_the_same_work_with_another_value(tenant: Api) -> None:
    body = {"script_content": "print(1)", "run_key": "once", "secrets": {"TOKEN": fresh()}}
    first = tenant.post("/executions", body).json()
    again = tenant.post("/executions", {**body, "secrets": {"TOKEN": fresh()}}).json()
    assert (again["execution_id"], again["attached"]) == (first["execution_id"], True)
    assert tenant.post("/executions", {**body, "secrets": {"OTHER": fresh()}}).status_code == 409


@pytest.mark.parametrize(
    "secrets",
    [
        {"TOKEN": "abc"},
        {"no name": "hunter22-hunter22"},
        {"TOKEN": 5555555},
        {"TOKEN": ["hunter22-hunter22"]},
        ["TOKEN"],
        {"TOKEN": "nul\0hunter22-hunter22"},
        {"PATH=x": "hunter22-hunter22"},
    ],
)
def test_what_cannot_be_a_secret_is_refused_without_being_shown(tenant: Api, secrets: object) -> None:
    answer = tenant.post("/executions", {"script_content": "print(1)", "secrets": secrets})
    assert answer.status_code == 422
    assert not any(value in answer.text for value in ("hunter22-hunter22", "5555555", '"abc"'))


def test_keys_rotate_and_a_lost_one_is_said(tmp_path: Path) -> None:
    value = fresh()
    body = {"script_content": "import os; print(len(os.environ['KEPT']) == len(os.environ['GIVEN']))"}
    body |= {"secrets": {"KEPT": None, "GIVEN": value}}  # type: ignore[dict-item]

    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rgrid_server", "secrets", *arguments, "--data-dir", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    with LiveServer(tmp_path, options=["--slots", "1"]) as server:
        server.wait_for_runner()
        api = Api(server.api, server.api_key)
        api.call("PUT", "/secrets/KEPT", json={"value": value})
        first = api.run(body["script_content"], secrets=body["secrets"])
        assert first["stdout"] == "True\n"
        assert "stop it first" in manage("rotate").stderr
        server.stop()
        before = (tmp_path / "secret.keys").read_text()
        told = manage("rotate")
        assert (told.returncode, told.stdout.split()[0]) == (0, "2"), told.stderr
        assert (tmp_path / "secret.keys").read_text().split() != before.split()
        assert (tmp_path / "secret.keys").stat().st_mode & 0o077 == 0
        api = Api(server.start().wait_for_runner().api, server.api_key)
        again = api.post(f"/executions/{first['execution_id']}/retry", {}).json()
        assert api.get(f"/executions/{again['execution_id']}?wait=30").json()["stdout"] == "True\n"
        server.stop()
        (tmp_path / "secret.keys").write_text(before)
        api = Api(server.start().wait_for_runner().api, server.api_key)
        lost = api.post(f"/executions/{first['execution_id']}/retry", {}).json()
        ended = api.get(f"/executions/{lost['execution_id']}?wait=30").json()
        assert ended["error_code"] == "secret_unavailable"
        assert "RGRID_SECRET_KEYS" in ended["execution_error"]


def test_a_backup_shows_none(tmp_path: Path) -> None:
    value = fresh()
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        api = Api(server.api, server.api_key)
        api.call("PUT", "/secrets/KEPT", json={"value": value})
        api.post("/executions", {"script_content": "print(1)", "secrets": {"GIVEN": value}})
        command = [sys.executable, "-m", "rgrid_server", "backup", str(tmp_path / "backup")]
        subprocess.run([*command, "--data-dir", str(tmp_path / "data")], check=True, cwd=ROOT)
        files = [path for path in (tmp_path / "backup").rglob("*") if path.is_file()]
        keys = (tmp_path / "data" / "secret.keys").read_bytes().split()
        assert files
        for path in files:
            content = path.read_bytes()
            assert value.encode() not in content
            assert not any(key in content for key in keys), path
