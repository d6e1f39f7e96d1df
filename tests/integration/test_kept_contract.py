"""The Kept part of the wire contract, to the letter, over HTTP."""

from __future__ import annotations

import datetime
import json
import re
import uuid
from typing import Any

import pytest
import requests
from websockets.sync.client import connect

from tests.integration.conftest import Api
from tests.live import LiveServer

EXECUTION_FIELDS = {
    *["execution_id", "script_content", "runtime", "args", "env_vars", "status", "exit_code", "stdout"],
    *["stderr", "output_truncated", "execution_error", "input_files", "upload_urls", "download_urls"],
    *["created_at", "started_at", "completed_at", "cost_micros", "finalized_cost_micros"],
    *["cost_finalized_at", "duration_seconds", "worker_hostname", "execution_metadata", "retry_count"],
    *["max_retries", "user_metadata"],
}


def test_the_root_names_the_api(server: LiveServer) -> None:
    answer = requests.get(f"{server.url}/", timeout=10)
    assert answer.json()["message"] == "RGrid API"
    assert answer.json()["version"]


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
def test_health_is_open_and_has_a_timestamp(server: LiveServer, path: str) -> None:
    answer = requests.get(f"{server.url}{path}", timeout=10)
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok (db: connected)"
    assert "T" in answer.json()["timestamp"]
    datetime.datetime.fromisoformat(answer.json()["timestamp"])


def test_a_submitted_execution_is_queued_and_has_every_field(tenant: Api) -> None:
    execution = tenant.submit("print(1)")
    assert execution.keys() >= EXECUTION_FIELDS
    assert execution["status"] == "queued"
    assert re.fullmatch(r"exec_[0-9a-f]{32}", execution["execution_id"])
    assert execution["runtime"] == "python:3.11"
    assert execution["args"] == []
    assert execution["env_vars"] == {}


def test_an_execution_runs_and_comes_back_with_output_and_cost(tenant: Api) -> None:
    ended = tenant.run(
        "import os, sys\nprint(sys.argv[1], os.environ['K'])\nprint('no', file=sys.stderr)",
        args=["a"],
        env_vars={"K": "v"},
        user_metadata={"team": "red"},
    )
    assert ended["status"] == "completed"
    assert ended["exit_code"] == 0
    assert ended["stdout"] == "a v\n"
    assert ended["stderr"] == "no\n"
    assert ended["output_truncated"] is False
    assert isinstance(ended["cost_micros"], int)
    assert ended["duration_seconds"] > 0
    assert ended["user_metadata"] == {"team": "red"}
    assert ended["worker_hostname"]
    assert ended["created_at"] <= ended["started_at"] <= ended["completed_at"]


def test_an_unknown_execution_is_not_found(tenant: Api) -> None:
    answer = tenant.get("/executions/exec_00000000000000000000000000000000")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "Execution not found"}


def test_the_list_is_newest_first_and_filters_by_status_and_metadata(tenant: Api) -> None:
    first = tenant.run("print(1)", user_metadata={"team": "red", "n": 1})
    second = tenant.run("raise SystemExit(1)", user_metadata={"team": "blue"})
    listed = tenant.get("/executions").json()
    assert [item["execution_id"] for item in listed] == [second["execution_id"], first["execution_id"]]
    assert listed[0].keys() >= {
        *["execution_id", "status", "created_at", "started_at", "completed_at", "duration_seconds"],
        *["exit_code", "cost_micros", "user_metadata"],
    }
    assert [item["status"] for item in tenant.get("/executions?status=failed").json()] == ["failed"]
    red = tenant.get("/executions", params={"metadata[team]": "red", "metadata[n]": "1"}).json()
    assert [item["execution_id"] for item in red] == [first["execution_id"]]
    assert tenant.get("/executions?limit=1").json() == listed[:1]


def test_lists_page_by_a_cursor_in_a_header(tenant: Api) -> None:
    ids = [tenant.submit()["execution_id"] for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        answer = tenant.get("/executions", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        seen += [item["execution_id"] for item in answer.json()]
        cursor = answer.headers.get("X-Next-Cursor")
        if cursor is None:
            break
    assert seen == ids[::-1]


def test_retry_makes_a_new_execution_of_the_same_inputs(tenant: Api) -> None:
    first = tenant.submit("print(open('in.txt').read())", input_files=["in.txt"], batch_id="b")
    requests.put(first["upload_urls"]["in.txt"], data=b"data", timeout=10).raise_for_status()
    assert tenant.wait(first["execution_id"])["stdout"] == "data\n"
    again = tenant.post(f"/executions/{first['execution_id']}/retry").json()
    assert again["execution_id"] != first["execution_id"]
    assert again["status"] == "queued"
    assert again["batch_id"] is None
    assert tenant.wait(again["execution_id"])["stdout"] == "data\n"


def test_artifacts_list_inputs_and_outputs_and_are_fetched_by_url(tenant: Api) -> None:
    submitted = tenant.submit("open('out.txt', 'w').write(open('in.txt').read() * 2)", input_files=["in.txt"])
    requests.put(submitted["upload_urls"]["in.txt"], data=b"ab", timeout=10).raise_for_status()
    ended = tenant.wait(submitted["execution_id"])
    listed = tenant.get(f"/executions/{ended['execution_id']}/artifacts").json()
    assert {(item["artifact_type"], item["filename"], item["size_bytes"]) for item in listed} == {
        ("input", "in.txt", 2),
        ("output", "out.txt", 4),
    }
    output = next(item for item in listed if item["artifact_type"] == "output")
    assert output.keys() >= {
        *["artifact_id", "execution_id", "artifact_type", "filename", "file_path", "size_bytes"],
        *["content_type", "created_at", "expires_at"],
    }
    url = tenant.post("/artifacts/download-url", {"s3_key": output["file_path"]}).json()["download_url"]
    assert requests.get(url, timeout=10).content == b"abab"
    assert requests.get(ended["download_urls"]["out.txt"], timeout=10).content == b"abab"


def test_a_download_url_needs_a_key_of_an_artifact(tenant: Api) -> None:
    assert tenant.post("/artifacts/download-url", {}).status_code == 400
    assert tenant.post("/artifacts/download-url", {"s3_key": "artifacts/art_x/y"}).status_code == 404


def test_a_batch_by_its_id_shows_statuses_and_executions(tenant: Api) -> None:
    batch_id = f"batch-{uuid.uuid4().hex}"
    for name in ("a.csv", "b.csv"):
        one = tenant.submit("print(1)", input_files=[name], batch_id=batch_id)
        requests.put(one["upload_urls"][name], data=b"x", timeout=10).raise_for_status()
        tenant.wait(one["execution_id"])
    status = tenant.get(f"/batches/{batch_id}/status").json()
    assert status["statuses"] == ["completed", "completed"]
    assert isinstance(status["total_cost_micros"], int)
    listed = tenant.get(f"/batches/{batch_id}/executions").json()
    assert [item["batch_metadata"]["input_file"] for item in listed] == ["a.csv", "b.csv"]
    assert all(item.keys() >= {"execution_id", "status", "created_at", "completed_at"} for item in listed)


@pytest.mark.parametrize(
    "path", ["/batches/nothing/status", "/batches/nothing/executions", "/batches/nothing"]
)
def test_an_unknown_batch_is_not_found(tenant: Api, path: str) -> None:
    answer = tenant.get(path)
    assert answer.status_code == 404
    assert answer.json() == {"detail": "Batch not found"}


def test_an_estimate_without_history_is_a_minute_each(tenant: Api) -> None:
    found = tenant.get("/estimate?runtime=python:3.11&files=3").json()
    assert found["estimated_executions"] == 3
    assert found["estimated_duration_seconds"] == 60
    assert found["estimated_total_duration_seconds"] == 180
    assert isinstance(found["estimated_cost_micros"], int)
    assert found["estimated_cost_display"].startswith("€")
    assert all(isinstance(item, str) for item in found["assumptions"])
    assert tenant.get("/estimate?batch_size=4").json()["estimated_executions"] == 4
    assert tenant.get("/estimate?files=0").json()["estimated_cost_micros"] == 0
    assert tenant.get("/estimate?files=-1").status_code == 422


def test_an_estimate_takes_the_median_of_runs_like_it(tenant: Api) -> None:
    tenant.run("import time\ntime.sleep(0.2)")
    found = tenant.get("/estimate?runtime=python:3.11&files=1").json()
    assert 0.2 <= found["estimated_duration_seconds"] < 60


def test_cost_is_by_day_newest_first_and_sums(tenant: Api) -> None:
    tenant.run("import time\ntime.sleep(0.1)")
    found = tenant.get("/cost").json()
    today = datetime.datetime.now(datetime.UTC).date()
    assert found["end_date"] == today.isoformat()
    assert found["start_date"] == (today - datetime.timedelta(days=6)).isoformat()
    assert found["total_executions"] == 1
    assert found["total_cost_micros"] == sum(day["cost_micros"] for day in found["by_date"])
    (day,) = found["by_date"]
    assert day["date"] == today.isoformat()
    assert day["executions"] == 1
    assert day["compute_time_seconds"] >= 0.1
    assert day["cost_display"].startswith("€")


def test_cost_without_runs_is_zero(tenant: Api) -> None:
    found = tenant.get("/cost?since=2026-01-01&until=2026-01-31").json()
    assert (found["start_date"], found["end_date"]) == ("2026-01-01", "2026-01-31")
    assert (found["total_cost_micros"], found["total_cost_display"]) == (0, "€0.00")
    assert found["by_date"] == []


@pytest.mark.parametrize(
    "query", ["since=yesterday", "since=2026-02-30", "since=2026-03-01&until=2026-02-01", "days=0"]
)
def test_a_period_that_is_none_is_refused(tenant: Api, query: str) -> None:
    assert tenant.get(f"/cost?{query}").status_code == 422


def test_the_limit_is_set_shown_enforced_and_removed(tenant: Api) -> None:
    none = tenant.get("/cost/limit").json()
    assert (none["has_limit"], none["status"], none["monthly_limit_micros"]) == (False, "unlimited", None)
    set_ = tenant.call("PUT", "/cost/limit", json={"monthly_limit_euros": 10}).json()
    assert set_["success"] is True
    assert set_["monthly_limit_micros"] == 10_000_000
    assert set_["monthly_limit_display"] == "€10.00/month"
    shown = tenant.get("/cost/limit").json()
    assert shown["has_limit"] is True
    assert shown["status"] == "ok"
    assert shown["alert_threshold_percent"] == 80
    tenant.submit()
    tenant.call("PUT", "/cost/limit", json={"monthly_limit_euros": 0})
    refused = tenant.post("/executions", {"script_content": "print(1)"})
    assert refused.status_code == 402
    detail = refused.json()["detail"]
    assert detail["error"] == "spending_limit_exceeded"
    assert detail.keys() >= {"message", "current_usage_micros", "monthly_limit_micros"}
    assert tenant.get("/cost/limit").json()["status"] == "blocked"
    removed = tenant.call("DELETE", "/cost/limit").json()
    assert removed["success"] is True
    assert removed["message"]
    tenant.submit()


@pytest.mark.parametrize("euros", [-1, "many", None, float("1e300")])
def test_a_limit_that_is_none_is_refused(tenant: Api, euros: object) -> None:
    assert tenant.call("PUT", "/cost/limit", json={"monthly_limit_euros": euros}).status_code == 422


def test_the_input_cache_keeps_the_first_references(tenant: Api) -> None:
    digest = uuid.uuid4().hex * 2
    assert tenant.get(f"/input-cache/{digest}").json() == {"cache_hit": False}
    body = {"input_hash": digest, "file_references": {"a.csv": "somewhere/a.csv"}}
    assert tenant.post("/input-cache", body).json() == {"stored": True, "existing": False}
    assert tenant.post("/input-cache", body).json() == {"stored": False, "existing": True}
    found = tenant.get(f"/input-cache/{digest}").json()
    assert found == {"cache_hit": True, "file_references": {"a.csv": "somewhere/a.csv"}}


@pytest.mark.parametrize("digest", ["xyz", "g" * 64, "a" * 63])
def test_an_input_hash_that_is_none_is_a_bad_request(tenant: Api, digest: str) -> None:
    assert tenant.get(f"/input-cache/{digest}").status_code == 400
    assert tenant.post("/input-cache", {"input_hash": digest, "file_references": {}}).status_code == 400


def test_cached_references_stand_in_for_uploads(tenant: Api) -> None:
    first = tenant.submit("print(open('in.txt').read())", input_files=["in.txt"])
    requests.put(first["upload_urls"]["in.txt"], data=b"kept", timeout=10).raise_for_status()
    tenant.wait(first["execution_id"])
    artifacts = tenant.get(f"/executions/{first['execution_id']}/artifacts").json()
    ended = tenant.run(
        "print(open('other.txt').read())", cached_input_refs={"other.txt": artifacts[0]["file_path"]}
    )
    assert ended["stdout"] == "kept\n"


def test_a_websocket_sends_the_log_and_then_that_it_is_complete(tenant: Api, server: LiveServer) -> None:
    execution = tenant.submit(
        "import sys, time\nprint('one', flush=True)\ntime.sleep(0.3)\n"
        "print('two', file=sys.stderr)\nsys.exit(4)"
    )
    messages = list(websocket(tenant, server, execution["execution_id"]))
    logs = [message for message in messages if message["type"] == "log"]
    assert [(item["stream"], item["message"]) for item in logs] == [("stdout", "one"), ("stderr", "two")]
    assert [item["sequence_number"] for item in logs] == [1, 2]
    assert "T" in logs[0]["timestamp"]
    assert messages[-1] == {"type": "complete", "exit_code": 4, "status": "failed"}


def test_a_websocket_resumes_after_its_cursor(tenant: Api, server: LiveServer) -> None:
    ended = tenant.run("for n in range(5): print(n)")
    messages = list(websocket(tenant, server, ended["execution_id"], "?cursor=3"))
    assert [message["message"] for message in messages[:-1]] == ["3", "4"]


def test_a_websocket_of_an_unknown_execution_says_so(tenant: Api, server: LiveServer) -> None:
    (message,) = list(websocket(tenant, server, "exec_nothing"))
    assert message["type"] == "error"


def websocket(tenant: Api, server: LiveServer, execution_id: str, query: str = "") -> list[dict[str, Any]]:
    """Every message until the server closes."""
    address = server.api.replace("http://", "ws://") + f"/ws/executions/{execution_id}/logs{query}"
    header = {"Authorization": str(tenant.session.headers["Authorization"])}
    with connect(address, additional_headers=header) as socket:
        return [json.loads(message) for message in socket]


def test_every_answer_carries_a_request_id(tenant: Api, anonymous: Api) -> None:
    for answer in (tenant.get("/executions"), anonymous.get("/executions"), anonymous.get("/nothing")):
        assert answer.headers["X-Request-Id"]
    assert tenant.get("/cost", headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"


def test_options_is_answered_without_a_key(anonymous: Api) -> None:
    assert anonymous.call("OPTIONS", "/executions").status_code in {200, 204, 405}


def test_the_upload_of_every_file_is_awaited(tenant: Api) -> None:
    execution = tenant.submit("print(open('a').read() + open('b/c').read())", input_files=["a", "b/c"])
    assert set(execution["upload_urls"]) == {"a", "b/c"}
    assert requests.put(execution["upload_urls"]["a"], data=b"1", timeout=10).status_code == 200
    waiting = tenant.get(f"/executions/{execution['execution_id']}?wait=0.5").json()
    assert waiting["status"] == "queued"
    assert set(waiting["upload_urls"]) == {"b/c"}
    assert requests.put(execution["upload_urls"]["b/c"], data=b"2", timeout=10).status_code == 200
    assert tenant.wait(execution["execution_id"])["stdout"] == "12\n"


def test_an_openapi_document_is_there_without_a_key(server: LiveServer) -> None:
    document = requests.get(f"{server.url}/openapi.json", timeout=10).json()
    assert document["openapi"].startswith("3.")
    assert "/api/v1/executions" in document["paths"]


def test_heads_of_outputs_are_cut_at_100_000_characters(tenant: Api) -> None:
    ended = tenant.run("print('é' * 150_000)")
    assert len(ended["stdout"]) == 100_000
    assert ended["output_truncated"] is True
    whole = tenant.get(f"/executions/{ended['execution_id']}/logs", headers={"Accept": "text/plain"})
    assert whole.content.decode() == "é" * 150_000 + "\n"
