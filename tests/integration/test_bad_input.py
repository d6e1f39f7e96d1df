"""Rubbish: each has a clear error that names the thing, and nothing is left behind."""

from __future__ import annotations

import base64
import json
import socket
import uuid
from typing import Any

import pytest
import requests
from websockets.sync.client import connect

from tests.integration.conftest import Api
from tests.live import LiveServer

MEGABYTE = 1024 * 1024


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"script_content": "\\ud800"}', b'"x"']
)
def test_what_is_no_json_object_is_422(tenant: Api, body: bytes) -> None:
    answer = tenant.call("POST", "/executions", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], list)


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"script_content": ""}, 422, "script is empty"),
        ({"script_content": "  \n"}, 422, "script is empty"),
        ({}, 422, "script_content"),
        ({"script_content": 5}, 422, "script_content"),
        ({"script_content": "#" * 5 * MEGABYTE}, 413, "at most 1048576"),
        ({"script_content": "print(1)\0"}, 422, "NUL byte"),
        ({"timeout_seconds": 0}, 422, "timeout_seconds is 0"),
        ({"timeout_seconds": -1}, 422, "timeout_seconds is -1"),
        ({"timeout_seconds": 10**9}, 422, "3600"),
        ({"timeout_seconds": "soon"}, 422, "timeout_seconds"),
        ({"runtime": "cobol:85"}, 422, "cobol:85"),
        ({"runtime": "python:2.7"}, 422, "there is python:3"),
        ({"runtime": "../../etc"}, 422, "there is python:3"),
        ({"args": "not a list"}, 422, "args"),
        ({"args": ["a\0b"]}, 422, "NUL"),
        ({"env_vars": {"A=B": "c"}}, 422, "A=B"),
        ({"env_vars": {"A": 5}}, 422, "env_vars"),
        ({"input_files": ["../x"]}, 422, "'..'"),
        ({"input_files": ["/etc/passwd"]}, 422, "absolute"),
        ({"input_files": ["a\nb"]}, 422, "control character"),
        ({"input_files": ["x" * 300]}, 422, "300 bytes"),
        ({"input_files": [""]}, 422, "empty"),
        ({"input_files": ["a", "a"]}, 422, "more than once"),
        # looked at one by one: pair by pair they would hold the server up for minutes
        ({"input_files": [str(number) for number in range(100_000)]}, 422, "100000 input files"),
        ({"input_files": [str(number) for number in range(100_000)] * 2}, 422, "more than once"),
        ({"input_files": ["a", "a/b"]}, 422, "folder"),
        ({"input_files": ["script.py"]}, 422, "script's own"),
        ({"input_files": ["b", "a"], "inputs": {"a": "0" * 64}}, 422, "'a' stands in inputs and in"),
        ({"cpus": 0}, 422, "cpus"),
        ({"memory_mib": 1}, 422, "memory_mib"),
        ({"priority": 1000}, 422, "priority"),
        ({"inputs": {"a": "not a hash"}}, 422, "SHA-256"),
        ({"cached_input_refs": {"a": "nowhere"}}, 422, "names no file"),
        ({"user_metadata": {"a": "x" * 100_000}}, 422, "user_metadata"),
        ({"run_key": ""}, 422, "run_key"),
        ({"batch_id": "x" * 600}, 422, "batch_id"),
    ],
)
def test_a_bad_submission_is_refused_with_its_reason(
    tenant: Api, fields: dict[str, Any], status: int, said: str
) -> None:
    body = fields if fields == {} or "script_content" in fields else {"script_content": "print(1)", **fields}
    answer = tenant.post("/executions", body)
    assert answer.status_code == status, answer.text
    assert said in answer.text
    assert tenant.get("/executions").json() == []


@pytest.mark.parametrize("name", ["ünï cödé.txt", "数据.csv", "a b/c d.txt", "-rf", "x" * 255])
def test_unusual_names_of_files_are_kept(tenant: Api, name: str) -> None:
    script = f"import os\nd = open({name!r}).read()\nos.remove({name!r})\nopen({name!r} , 'w').write(d + d)"
    submitted = tenant.submit(script, input_files=[name])
    requests.put(submitted["upload_urls"][name], data=b"ab", timeout=10).raise_for_status()
    ended = tenant.wait(submitted["execution_id"])
    assert ended["status"] == "completed", ended["stderr"]
    assert requests.get(ended["download_urls"][name], timeout=10).content == b"abab"


def test_a_syntax_error_is_in_the_scripts_stderr(tenant: Api) -> None:
    ended = tenant.run("print('")
    assert (ended["status"], ended["exit_code"]) == ("failed", 1)
    assert "SyntaxError" in ended["stderr"]


def test_a_script_in_latin_1_with_a_coding_line_runs(tenant: Api) -> None:
    ended = tenant.run("# -*- coding: latin-1 -*-\nprint('caf\u00e9', len('caf\u00e9'))")
    assert ended["stdout"] == "café 4\n"


@pytest.mark.parametrize(
    ("requirements", "code", "said"),
    [
        ("no-such-package-of-rgrid==1", "requirements_unresolvable", "no-such-package-of-rgrid"),
        ("this is === no requirement", "requirements_invalid", "===="[:3]),
        ("packaging<20\npackaging>24", "requirements_unresolvable", "packaging"),
    ],
)
def test_requirements_that_cannot_be_had_are_named(
    tenant: Api, requirements: str, code: str, said: str
) -> None:
    ended = tenant.run("print(1)", requirements_content=requirements)
    assert ended["status"] == "failed"
    assert ended["error_code"] == code, ended["execution_error"]
    assert said in ended["execution_error"]
    assert ended["cost_micros"] == 0


def test_an_upload_to_a_name_that_is_not_awaited_is_refused(tenant: Api) -> None:
    execution = tenant.submit("print(1)", input_files=["a"])
    url = execution["upload_urls"]["a"]
    assert requests.put(url.replace("/a?", "/b?"), data=b"x", timeout=10).status_code == 403


def test_an_upload_that_is_cut_short_leaves_nothing(tenant: Api, server: LiveServer) -> None:
    execution = tenant.submit("print(len(open('a').read()))", input_files=["a"])
    url = execution["upload_urls"]["a"]
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        path = url.removeprefix(server.url)
        raw.sendall(
            f"PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n".encode() + b"x" * 9
        )
    still = tenant.get(f"/executions/{execution['execution_id']}").json()
    assert set(still["upload_urls"]) == {"a"}
    requests.put(url, data=b"whole", timeout=10).raise_for_status()
    assert tenant.wait(execution["execution_id"])["stdout"] == "5\n"
    assert list((server.data_dir / "blobs" / "incoming").iterdir()) == []


def test_an_upload_twice_is_taken_once(tenant: Api) -> None:
    execution = tenant.submit("print(open('a').read() + open('b').read())", input_files=["a", "b"])
    a, b = execution["upload_urls"]["a"], execution["upload_urls"]["b"]
    assert requests.put(a, data=b"first", timeout=10).status_code == 200
    assert requests.put(a, data=b"second", timeout=10).status_code == 200
    assert requests.put(b, data=b"!", timeout=10).status_code == 200
    assert requests.put(b, data=b"!", timeout=10).status_code == 200
    assert requests.put(b, data=b"other", timeout=10).status_code == 409
    assert tenant.wait(execution["execution_id"])["stdout"] == "second!\n"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/batches", {"template": {"script_content": ""}, "items": [{}]}),
        ("/batches", {"template": {"script_content": "1"}, "items": [{"args": ["\0"]}]}),
        ("/batches", {"template": {"script_content": "1"}, "items": [{}], "parallelism": 0}),
        ("/batches", {"items": []}),
        ("/executions/lookup", {"ids": ["x"] * 1001}),
        ("/batches/lookup", {"ids": ["x"] * 1001}),
        ("/executions/lookup", {"ids": [], "run_keys": ["x"] * 1001}),
        ("/batches/lookup", {"ids": [], "run_keys": "x"}),
        ("/blobs/missing", {"hashes": ["xyz"]}),
        ("/blobs/missing", {"hashes": "a" * 64}),
    ],
)
def test_other_bad_bodies_are_422(tenant: Api, path: str, body: object) -> None:
    assert tenant.post(path, body).status_code == 422


HUGE_CURSOR = base64.urlsafe_b64encode(b"9" * 30).decode()


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "status=done", "cursor=!!", f"cursor={HUGE_CURSOR}"]
)
def test_bad_queries_are_422(tenant: Api, query: str) -> None:
    assert tenant.get(f"/executions?{query}").status_code == 422


def test_a_body_that_is_too_large_is_413(tenant: Api) -> None:
    answer = tenant.post("/executions", {"script_content": "1", "user_metadata": {"a": "x" * 20 * MEGABYTE}})
    assert answer.status_code == 413
    assert answer.json()["detail"]["error"] == "body_too_large"


def test_too_many_items_of_a_batch_are_413(tenant: Api) -> None:
    body = {"template": {"script_content": "print(1)"}, "items": [{}] * 10_001}
    assert tenant.post("/batches", body).status_code == 413


def test_metadata_with_a_nul_character_comes_back_as_it_was(tenant: Api) -> None:
    metadata = {"a": "x\0y", "b\0c": "z", "dag_id": "d\0"}
    ended = tenant.run("print(1)", user_metadata=metadata)
    assert (ended["status"], ended["user_metadata"]) == ("completed", metadata)


@pytest.mark.parametrize("path", ["/executions/a%00b", "/batches/a%00b", "/executions/a%00b/artifacts"])
def test_a_nul_character_in_a_path_is_the_callers_fault(tenant: Api, path: str) -> None:
    assert tenant.get(path).status_code in {404, 422}


def test_a_nul_character_in_a_name_is_taken_or_refused(api: Api) -> None:
    answer = api.post("/admin/tenants", {"name": f"nul\0-{uuid.uuid4().hex}"})
    assert answer.status_code in {200, 201, 422}


HUGE = 2**63


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        (f"/executions/x/logs?after={HUGE}", "after"),
        ("/executions?cursor=!", "cursor"),
        (f"/executions?limit={HUGE}", "limit"),
        (f"/executions/x?wait={HUGE}", "wait"),
        (f"/batches/x/executions?limit={HUGE}", "limit"),
        (f"/batches/x/results?after={HUGE}", "after"),
        (f"/batches/x/outputs?after={HUGE}", "after"),
        (f"/events?after={HUGE}", "after"),
        (f"/events?after={HUGE - 1}", "after"),
        (f"/events?limit={HUGE}", "limit"),
        (f"/cost?days={HUGE}", "days"),
        ("/cost?days=0", "days"),
        ("/cost?since=zz", "since"),
        ("/cost?until=zz", "until"),
        ("/cost?since=2026-02-02&until=2026-02-01", "since"),
        ("/cost/breakdown?group_by=", "group_by"),
        ("/cost/breakdown?group_by=zz", "group_by"),
        (f"/estimate?files={HUGE}", "files"),
    ],
)
def test_a_bad_parameter_is_named_as_one_of_the_query(tenant: Api, path: str, parameter: str) -> None:
    answer = tenant.get(path, headers={"Accept": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"][0]["loc"] == ["query", parameter]


def test_a_bad_header_and_a_bad_path_are_named_as_such(tenant: Api) -> None:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(HUGE)}
    assert tenant.get("/events", headers=headers).json()["detail"][0]["loc"] == ["header", "Last-Event-ID"]
    assert tenant.get("/blobs/xyz").json()["detail"][0]["loc"] == ["path", "sha256"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/admin/keys", {"scopes": ["read"], "expires_in_seconds": HUGE}),
        ("POST", "/admin/keys/key_x/rotate", {"overlap_seconds": HUGE}),
        ("PATCH", "/admin/tenants/tenant_x", {"max_running": HUGE}),
        ("POST", "/batches", {"template": {"script_content": "1"}, "parallelism": HUGE}),
        ("POST", "/batches/x/items", {"items": [{}], "first_index": HUGE}),
        ("POST", "/executions", {"script_content": "1", "timeout_seconds": HUGE}),
        ("POST", "/executions", {"script_content": "1", "memory_mib": HUGE}),
        ("POST", "/executions", {"script_content": "1", "cpus": 1e300}),
        ("POST", "/executions", {"script_content": "1", "priority": -HUGE}),
        ("PUT", "/cost/limit", {"monthly_limit_euros": HUGE}),
        ("PUT", "/cost/limit", {"monthly_limit_euros": 1e-7}),
    ],
)
def test_a_number_that_cannot_be_kept_is_refused(
    api: Api, method: str, path: str, body: dict[str, Any]
) -> None:
    answer = api.call(method, path, json=body)
    assert answer.status_code == 422, answer.text


def test_a_limit_of_nothing_is_one(tenant: Api) -> None:
    assert tenant.call("PUT", "/cost/limit", json={"monthly_limit_euros": 0}).status_code == 200
    assert tenant.get("/cost/limit").json()["monthly_limit_micros"] == 0
    least = tenant.call("PUT", "/cost/limit", json={"monthly_limit_euros": "0.000001"})
    assert least.json()["monthly_limit_micros"] == 1


@pytest.mark.parametrize("cursor", ["zz", "-1", str(HUGE), "1" * 400])
def test_a_websocket_says_what_is_wrong_with_its_cursor(tenant: Api, server: LiveServer, cursor: str) -> None:
    address = server.api.replace("http://", "ws://") + f"/ws/executions/exec_x/logs?cursor={cursor}"
    header = {"Authorization": str(tenant.session.headers["Authorization"])}
    with connect(address, additional_headers=header) as socket:
        (message,) = [json.loads(one) for one in socket]
    assert message["type"] == "error"
    assert cursor[:40] in message["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/executions", "GET, POST"),
        ("POST", "/executions/x", "GET"),
        ("PATCH", "/cost/limit", "DELETE, GET, PUT"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/admin/keys", "GET, POST"),
    ],
)
def test_a_wrong_method_is_told_all_that_are_right(api: Api, method: str, path: str, allowed: str) -> None:
    answer = api.call(method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/", "/health", "/api/v1/health"])
def test_a_probe_may_ask_for_the_head_only(server: LiveServer, path: str) -> None:
    answer = requests.head(server.url + path, timeout=30)
    assert (answer.status_code, answer.content) == (200, b"")
