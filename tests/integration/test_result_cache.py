"""Results that stand for others: the same streams, files and code, at once and for nothing."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest
import requests

from tests.integration.conftest import Api

NOTING = """import random, sys
print('drawn', random.random())
print('to err', file=sys.stderr)
open('drawn.txt', 'w').write(str(random.random()))
"""


def content(ended: dict[str, Any], name: str = "drawn.txt") -> str:
    return requests.get(ended["download_urls"][name], timeout=10).text


def log_of(api: Api, ended: dict[str, Any]) -> list[tuple[str, str]]:
    page = api.get(f"/executions/{ended['execution_id']}/logs", headers={"Accept": "application/json"})
    return [(entry["stream"], entry["message"]) for entry in page.json()["entries"]]


def told(ended: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = ended["execution_metadata"]["cache"]
    return found


def test_an_equal_run_is_answered_with_the_earlier_result(tenant: Api) -> None:
    first = tenant.run(NOTING, cache="read_write", args=["x"])
    assert told(first) == {"hit": False, "because": ["no earlier result of a script of this name"]}
    again = tenant.run(NOTING, cache="read", args=["x"])
    assert again["execution_id"] != first["execution_id"]
    assert told(again)["hit"] is True
    assert told(again)["execution_id"] == first["execution_id"]
    assert told(again)["saved_seconds"] == first["duration_seconds"] > 0
    for name in ("status", "exit_code", "stdout", "stderr", "cache"):
        assert again[name] == (first[name] if name != "cache" else "read")
    assert (again["cost_micros"], again["duration_seconds"], again["worker_hostname"]) == (0, 0.0, None)
    assert content(again) == content(first)
    assert log_of(tenant, again) == log_of(tenant, first)
    statement = tenant.get("/cost").json()
    assert statement["total_executions"] == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"args": ["y"]}, ["arguments"]),
        ({"env_vars": {"A": "b"}}, ["variable A (new)"]),
        ({"script_content": NOTING + "\n"}, ["script"]),
        ({"outputs": ["*.txt"]}, ["outputs"]),
    ],
)
def test_what_differs_runs_and_says_what_has_changed(
    tenant: Api, change: dict[str, Any], why: list[str]
) -> None:
    first = tenant.run(NOTING, cache="read_write", args=["x"])
    change = dict(change)
    script = change.pop("script_content", NOTING)
    other = tenant.run(script, **{"cache": "read_write", "args": ["x"], **change})
    assert told(other) == {"hit": False, "because": why}
    assert other["stdout"] != first["stdout"]


def test_inputs_count_by_their_content_also_those_that_come_late(tenant: Api) -> None:
    script = "import random; print(open('a.txt').read(), random.random())"
    data = uuid.uuid4().bytes.hex().encode()
    name = hashlib.sha256(data).hexdigest()
    tenant.call("PUT", f"/blobs/{name}", data=data)
    first = tenant.run(script, cache="read_write", inputs={"a.txt": name})
    late = tenant.post(
        "/executions", {"script_content": script, "cache": "read", "input_files": ["a.txt"]}
    ).json()
    requests.put(late["upload_urls"]["a.txt"], data=data, timeout=10)
    ended = tenant.wait(late["execution_id"])
    assert (told(ended)["hit"], ended["stdout"]) == (True, first["stdout"])


def test_a_batch_is_answered_item_by_item(tenant: Api) -> None:
    template = {"script_content": NOTING, "cache": "read_write"}
    outs = []
    for items in ([{"args": ["1"]}, {"args": ["2"]}], [{"args": ["1"]}, {"args": ["2"]}, {"args": ["3"]}]):
        batch = tenant.post("/batches", {"template": template, "items": items}).json()
        done = tenant.get(f"/batches/{batch['batch_id']}?wait=30").json()
        assert (done["status"], done["counts"]["completed"]) == ("completed", len(items))
        rows = tenant.get(f"/batches/{batch['batch_id']}/executions").json()
        outs.append([tenant.wait(row["execution_id"]) for row in rows])
    hits = [told(one)["hit"] for one in outs[1]]
    assert sorted(hits) == [False, True, True]
    assert {one["stdout"] for one in outs[0]} < {one["stdout"] for one in outs[1]}


def test_what_failed_and_what_was_only_read_stands_for_nothing(tenant: Api) -> None:
    failing = "import random; print(random.random()); raise SystemExit(1)"
    for script, mode in ((failing, "read_write"), (NOTING, "read"), (NOTING + "#", "off")):
        one, other = (tenant.run(script, cache=mode) for _ in range(2))
        assert one["stdout"] != other["stdout"]
    assert "cache" not in other["execution_metadata"]


def test_tenants_do_not_share_results(tenant: Api, api: Api) -> None:
    script = NOTING + f"# {uuid.uuid4()}"
    tenant.run(script, cache="read_write")
    assert told(api.run(script, cache="read_write"))["hit"] is False


@pytest.mark.parametrize(
    "fields", [{"cache": "sometimes"}, {"cache": 1}, {"cache": "read", "secrets": {"A": "hunter22"}}]
)
def test_what_cannot_be_asked_is_refused(tenant: Api, fields: dict[str, Any]) -> None:
    answer = tenant.post("/executions", {"script_content": "print(1)", **fields})
    assert answer.status_code == 422
    assert "cache" in answer.text


def test_a_spent_budget_lets_nothing_new_in(tenant: Api) -> None:
    tenant.run(NOTING, cache="read_write")
    tenant.call("PUT", "/cost/limit", json={"monthly_limit_euros": 0})
    answer = tenant.post("/executions", {"script_content": NOTING, "cache": "read"})
    assert answer.status_code == 402
