"""What the wire contract has beyond the first RGrid's: blobs, run keys, waiting, canceling, logs, batches."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import threading
import time
import uuid
from decimal import Decimal

import pytest
import requests

from rgrid_server.domain import frames
from tests.integration.conftest import Api

SLEEPER = "import time\nprint('begun', flush=True)\ntime.sleep(60)"


def sha256(data: bytes) -> str:
    """The name of a blob."""
    return hashlib.sha256(data).hexdigest()


def test_a_blob_is_missing_until_it_is_put(tenant: Api) -> None:
    data = uuid.uuid4().bytes
    name = sha256(data)
    assert tenant.post("/blobs/missing", {"hashes": [name]}).json() == {"missing": [name]}
    assert tenant.call("PUT", f"/blobs/{name}", data=data).status_code == 201
    assert tenant.call("PUT", f"/blobs/{name}", data=data).status_code == 200
    assert tenant.post("/blobs/missing", {"hashes": [name]}).json() == {"missing": []}
    assert tenant.get(f"/blobs/{name}").content == data


def test_a_large_blob_comes_back_whole_and_in_ranges(tenant: Api) -> None:
    data = uuid.uuid4().bytes * 40_000
    name = sha256(data)
    assert tenant.call("PUT", f"/blobs/{name}", data=data).status_code == 201
    assert tenant.get(f"/blobs/{name}").content == data
    part = tenant.get(f"/blobs/{name}", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, data[10:20])


def test_bytes_under_a_wrong_hash_are_refused_and_not_kept(tenant: Api) -> None:
    name = sha256(uuid.uuid4().bytes)
    answer = tenant.call("PUT", f"/blobs/{name}", data=b"other bytes")
    assert answer.status_code == 400
    assert answer.json()["detail"]["error"] == "hash_mismatch"
    assert tenant.get(f"/blobs/{name}").status_code == 404


def test_many_small_blobs_travel_in_one_frame(tenant: Api) -> None:
    parts = [uuid.uuid4().bytes for _ in range(20)] + [b""]
    answer = tenant.call("POST", "/blobs", data=frames.encode({}, parts))
    assert answer.json() == {"stored": [sha256(part) for part in parts]}
    assert all(tenant.get(f"/blobs/{sha256(part)}").content == part for part in parts)


@pytest.mark.parametrize("body", [b"", b"\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x02{}", b"\0\0\0\x02[]x"])
def test_a_frame_that_is_none_is_refused(tenant: Api, body: bytes) -> None:
    assert tenant.call("POST", "/blobs", data=body).status_code == 400


def test_inputs_by_hash_need_no_upload(tenant: Api) -> None:
    data = uuid.uuid4().hex.encode()
    tenant.call("PUT", f"/blobs/{sha256(data)}", data=data)
    assert tenant.run("print(open('x').read())", inputs={"x": sha256(data)})["stdout"] == data.decode() + "\n"


def test_an_input_that_was_never_uploaded_is_named(tenant: Api) -> None:
    answer = tenant.post("/executions", {"script_content": "print(1)", "inputs": {"x": "a" * 64}})
    assert answer.status_code == 422
    assert "upload it" in answer.text


def test_a_run_key_makes_submitting_safe_to_repeat(tenant: Api) -> None:
    key = uuid.uuid4().hex
    first = tenant.submit(SLEEPER, run_key=key)
    again = tenant.submit(SLEEPER, run_key=key)
    assert first["attached"] is False
    assert again["attached"] is True
    assert again["execution_id"] == first["execution_id"]
    tenant.post(f"/executions/{first['execution_id']}/cancel")


def test_a_hundred_simultaneous_submits_of_one_key_make_one_execution(tenant: Api) -> None:
    key = uuid.uuid4().hex
    ids: list[str] = []

    def submit() -> None:
        ids.append(tenant.submit("print(1)", run_key=key)["execution_id"])

    threads = [threading.Thread(target=submit) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 100
    assert len(set(ids)) == 1


def test_a_key_that_other_work_holds_is_a_conflict_that_names_it(tenant: Api) -> None:
    key = uuid.uuid4().hex
    first = tenant.submit("print(1)", run_key=key)
    answer = tenant.post("/executions", {"script_content": "print(2)", "run_key": key})
    assert answer.status_code == 409
    assert answer.json()["detail"]["error"] == "run_key_conflict"
    assert answer.json()["detail"]["execution_id"] == first["execution_id"]


def test_acknowledging_frees_the_key(tenant: Api) -> None:
    key = uuid.uuid4().hex
    first = tenant.run("print(1)", run_key=key)
    for _ in range(2):
        acknowledged = tenant.post(f"/executions/{first['execution_id']}/acknowledge")
        assert acknowledged.status_code == 200
    assert tenant.submit("print(2)", run_key=key)["attached"] is False


def test_what_has_not_finished_cannot_be_acknowledged(tenant: Api) -> None:
    execution = tenant.submit(SLEEPER)
    answer = tenant.post(f"/executions/{execution['execution_id']}/acknowledge")
    assert answer.status_code == 409
    assert answer.json()["detail"]["error"] == "not_finished"
    tenant.post(f"/executions/{execution['execution_id']}/cancel")


def test_canceling_ends_a_running_execution_and_is_idempotent(tenant: Api) -> None:
    execution = tenant.submit(SLEEPER)
    path = f"/executions/{execution['execution_id']}"
    wait_until_printed(tenant, execution["execution_id"])
    assert tenant.post(f"{path}/cancel").json()["cancel_requested_at"]
    ended = tenant.wait(execution["execution_id"], seconds=20)
    assert ended["status"] == "canceled"
    assert tenant.post(f"{path}/cancel").json()["status"] == "canceled"


def test_a_queued_execution_is_canceled_at_once(tenant: Api) -> None:
    execution = tenant.submit("print(1)", input_files=["never.txt"])
    canceled = tenant.post(f"/executions/{execution['execution_id']}/cancel").json()
    assert canceled["status"] == "canceled"
    assert canceled["cost_micros"] == 0
    late = requests.put(execution["upload_urls"]["never.txt"], data=b"x", timeout=10)
    assert late.status_code == 409
    assert late.json()["detail"]["error"] == "upload_too_late"


def test_waiting_answers_when_the_execution_ends(tenant: Api) -> None:
    execution = tenant.submit("import time\ntime.sleep(1)")
    started = time.monotonic()
    ended = tenant.get(f"/executions/{execution['execution_id']}?wait=30").json()
    assert ended["status"] == "completed"
    assert time.monotonic() - started < 25


def test_waiting_answers_after_its_time_even_if_nothing_happened(tenant: Api) -> None:
    execution = tenant.submit("print(1)", input_files=["never.txt"])
    assert tenant.get(f"/executions/{execution['execution_id']}?wait=0.2").json()["status"] == "queued"


def test_a_lookup_answers_many_at_once(tenant: Api) -> None:
    one = tenant.submit()["execution_id"]
    found = tenant.post("/executions/lookup", {"ids": [one, "exec_unknown"]}).json()
    assert [item["execution_id"] for item in found["executions"]] == [one]
    assert found["unknown"] == ["exec_unknown"]


def test_a_lookup_answers_what_holds_a_run_key(tenant: Api) -> None:
    work = {"script_content": "print(1)"}
    batch = {"template": work, "items": [{}]}
    for path, body, of_id in (("executions", work, "execution_id"), ("batches", batch, "batch_id")):
        one, other = (
            tenant.post(f"/{path}", {**body, "run_key": key}).json()[of_id] for key in ("mine", "other's")
        )
        for asked, expected in (
            ({"ids": [], "run_keys": ["mine", "nobody's"]}, [one]),
            ({"ids": [other, one], "run_keys": ["mine"]}, [other, one]),
            ({"ids": [other], "run_keys": ["mine"]}, [other, one]),
        ):
            found = tenant.post(f"/{path}/lookup", asked).json()
            assert [item[of_id] for item in found[path]] == expected
            assert found["unknown"] == []
        tenant.get(f"/{path}/{one}?wait=60")
        tenant.post(f"/{path}/{one}/acknowledge")
        # the key is free again
        assert tenant.post(f"/{path}/lookup", {"ids": [], "run_keys": ["mine"]}).json()[path] == []


def test_a_lookup_answers_many_batches_at_once(tenant: Api) -> None:
    body = {"template": {"script_content": "print(1)"}, "items": [{}, {}]}
    one, other = (tenant.post("/batches", body).json()["batch_id"] for _ in range(2))
    for batch_id in (one, other):
        # nothing of them changes any more
        assert tenant.get(f"/batches/{batch_id}?wait=60").json()["counts"]["completed"] == 2
    found = tenant.post("/batches/lookup", {"ids": [other, "batch_unknown", one]}).json()
    assert found["unknown"] == ["batch_unknown"]
    assert [item["batch_id"] for item in found["batches"]] == [other, one]
    for item in found["batches"]:
        looked_at = tenant.get(f"/batches/{item['batch_id']}").json()
        assert item == looked_at | {"eta_seconds": None}


def test_a_lookup_tells_how_far_logs_have_come(tenant: Api) -> None:
    talks = tenant.run("print('a')\nprint('b')")["execution_id"]
    waits = tenant.submit("pass", input_files=["never.txt"])["execution_id"]
    stranger = "exec_" + "0" * 32
    found = tenant.post("/executions/lookup", {"ids": [talks, waits, stranger], "log_sequence": True}).json()
    page = tenant.get(f"/executions/{talks}/logs", headers={"Accept": "application/json"}).json()
    newest = page["entries"][-1]["sequence_number"]
    assert [item["log_sequence"] for item in found["executions"]] == [newest, 0]
    assert "log_sequence" not in tenant.post("/executions/lookup", {"ids": [talks]}).json()["executions"][0]


def test_logs_are_pages_of_json(tenant: Api) -> None:
    ended = tenant.run("import sys\nprint('a')\nsys.stderr.write('no newline')")
    path = f"/executions/{ended['execution_id']}/logs"
    page = tenant.get(path, headers={"Accept": "application/json"}).json()
    shown = [
        (item["sequence_number"], item["stream"], item["message"], item["newline"])
        for item in page["entries"]
    ]
    assert sorted(shown) == [(1, "stdout", "a", True), (2, "stderr", "no newline", False)]
    rest = tenant.get(f"{path}?after={page['next_after']}", headers={"Accept": "application/json"}).json()
    assert rest["entries"] == []
    assert rest["complete"] is True


def test_logs_follow_as_server_sent_events(tenant: Api) -> None:
    execution = tenant.submit(
        "import time\nfor n in range(3):\n    print(n, flush=True)\n    time.sleep(0.2)"
    )
    path = f"/executions/{execution['execution_id']}/logs?follow=true"
    answer = tenant.get(path, headers={"Accept": "text/event-stream"}, stream=True)
    events = [
        line.removeprefix("data: ") for line in answer.iter_lines(decode_unicode=True) if "data: " in line
    ]
    assert [json.loads(event)["message"] for event in events[:-1]] == ["0", "1", "2"]
    assert json.loads(events[-1]) == {"exit_code": 0, "status": "completed"}


def test_bytes_that_are_no_utf8_come_back_as_they_were(tenant: Api) -> None:
    ended = tenant.run("import sys\nsys.stdout.buffer.write(bytes(range(256)))")
    answer = tenant.get(f"/executions/{ended['execution_id']}/logs", headers={"Accept": "text/plain"})
    assert answer.content == bytes(range(256))


def test_a_batch_runs_its_items_with_their_own_arguments(tenant: Api) -> None:
    body = {
        "template": {"script_content": "import sys\nprint(sys.argv[1])", "user_metadata": {"a": 1}},
        "items": [
            {"args": [str(n)], "input_file": f"item {n}", "user_metadata": {"n": n}} for n in range(10)
        ],
        "parallelism": 3,
    }
    batch = tenant.post("/batches", body).json()
    assert batch["total"] == 10
    ended = wait_for_batch(tenant, batch["batch_id"])
    assert ended["status"] == "completed"
    assert ended["counts"] == {"queued": 0, "running": 0, "completed": 10, "failed": 0, "canceled": 0}
    members = tenant.get(f"/batches/{batch['batch_id']}/executions?limit=7")
    rest = tenant.get(f"/batches/{batch['batch_id']}/executions?cursor={members.headers['X-Next-Cursor']}")
    listed = members.json() + rest.json()
    assert [item["batch_metadata"]["input_file"] for item in listed] == [f"item {n}" for n in range(10)]
    outputs = [tenant.get(f"/executions/{item['execution_id']}").json()["stdout"] for item in listed]
    assert outputs == [f"{n}\n" for n in range(10)]


def test_a_batch_keeps_to_its_parallelism(tenant: Api) -> None:
    script = "import time\nprint(time.time())\ntime.sleep(0.2)\nprint(time.time())"
    batch = tenant.post(
        "/batches", {"template": {"script_content": script}, "items": [{}] * 5, "parallelism": 1}
    )
    ended = wait_for_batch(tenant, batch.json()["batch_id"])
    spans = []
    for item in tenant.get(f"/batches/{ended['batch_id']}/executions").json():
        begun, over = tenant.get(f"/executions/{item['execution_id']}").json()["stdout"].split()
        spans.append((float(begun), float(over)))
    spans.sort()
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))


def test_an_open_batch_takes_items_until_it_is_closed(tenant: Api) -> None:
    template = {"script_content": "import sys\nprint(sys.argv[1])"}
    batch = tenant.post(
        "/batches", {"template": template, "items": [{"args": ["1"]}], "closed": False}
    ).json()
    path = f"/batches/{batch['batch_id']}"
    assert tenant.post(f"{path}/items", {"items": [{"args": ["2"]}]}).json()["total"] == 2
    assert tenant.post(f"{path}/close").json()["closed"] is True
    assert tenant.post(f"{path}/items", {"items": [{"args": ["3"]}]}).status_code == 409
    assert wait_for_batch(tenant, batch["batch_id"])["status"] == "completed"


def test_a_batch_is_canceled_as_a_whole(tenant: Api) -> None:
    batch = tenant.post(
        "/batches", {"template": {"script_content": SLEEPER}, "items": [{}] * 20, "parallelism": 2}
    )
    path = f"/batches/{batch.json()['batch_id']}"
    tenant.post(f"{path}/cancel")
    ended = wait_for_batch(tenant, batch.json()["batch_id"])
    assert ended["status"] == "canceled"
    assert ended["counts"]["canceled"] == 20
    assert tenant.post(f"{path}/cancel").status_code == 200


def test_only_what_failed_of_a_batch_is_retried(tenant: Api) -> None:
    script = "import sys\nsys.exit(int(sys.argv[1]))"
    items = [{"args": [code]} for code in ("0", "1", "0", "2")]
    batch = tenant.post("/batches", {"template": {"script_content": script}, "items": items}).json()
    ended = wait_for_batch(tenant, batch["batch_id"])
    assert ended["status"] == "failed"
    again = tenant.post(f"/batches/{batch['batch_id']}/retry", {"failed_only": True}).json()
    assert again["total"] == 2
    assert again["batch_id"] != batch["batch_id"]
    wait_for_batch(tenant, again["batch_id"])


def test_a_run_key_holds_a_batch_too(tenant: Api) -> None:
    body = {"template": {"script_content": "print(1)"}, "items": [{}], "run_key": uuid.uuid4().hex}
    first = tenant.post("/batches", body).json()
    again = tenant.post("/batches", body).json()
    assert (again["batch_id"], again["attached"]) == (first["batch_id"], True)
    assert tenant.post("/batches", {**body, "items": [{}, {}]}).status_code == 409
    wait_for_batch(tenant, first["batch_id"])
    tenant.post(f"/batches/{first['batch_id']}/acknowledge")
    assert tenant.post("/batches", body).json()["attached"] is False


def test_breakdowns_sum_to_their_total_however_they_are_cut(tenant: Api) -> None:
    for dag, task in (("etl", "load"), ("etl", "clean"), ("ml", "fit")):
        tenant.run(
            "sum(range(10**6))", user_metadata={"dag_id": dag, "task_id": task, "owner": "ann", "team": "x"}
        )
    totals = set()
    for cut in ("day", "dag", "task", "run", "owner", "batch", "runtime", "metadata.team", "day,dag,task"):
        found = tenant.get(f"/cost/breakdown?group_by={cut}").json()
        assert sum(group["cost_micros"] for group in found["groups"]) == found["total_cost_micros"]
        assert sum(group["executions"] for group in found["groups"]) == found["total_executions"] == 3
        totals.add(found["total_cost_micros"])
    assert totals == {tenant.get("/cost").json()["total_cost_micros"]}
    narrowed = tenant.get("/cost/breakdown?group_by=task&filter[dag]=etl").json()
    assert {group["key"] for group in narrowed["groups"]} == {"load", "clean"}


def test_the_bill_in_focus_columns_sums_to_the_cost(tenant: Api) -> None:
    for dag in ("etl", "etl", "ml"):
        tenant.run("sum(range(10**6))", user_metadata={"dag_id": dag, "note": 'a "quoted",\nline'})
    tenant.run("raise SystemExit(1)")
    answer = tenant.get("/cost/export?format=focus&days=1")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["x_DagId"] for row in rows].count("etl") == 2
    assert {row["BillingAccountName"] for row in rows} == {tenant.get("/whoami").json()["tenant_name"]}
    assert {json.loads(row["Tags"]).get("note") for row in rows} == {'a "quoted",\nline', None}
    euros = sum(Decimal(row["BilledCost"]) for row in rows)
    assert round(euros * 10**6) == tenant.get("/cost?days=1").json()["total_cost_micros"]
    assert len(rows) == 4
    # nothing was spent then, and the head alone says so
    assert len(tenant.get("/cost/export?since=2020-01-01&until=2020-01-02").text.splitlines()) == 1


@pytest.mark.parametrize(
    "query", ["format=excel", "since=soon", "days=0", "since=2026-02-02&until=2026-01-01"]
)
def test_a_bill_that_cannot_be_made_is_refused(tenant: Api, query: str) -> None:
    assert tenant.get(f"/cost/export?{query}").status_code == 422


def test_fields_that_mean_nothing_are_named(tenant: Api) -> None:
    answer = tenant.post("/executions", {"script_content": "print(1)", "colour": "red"})
    assert answer.status_code == 200
    assert answer.headers["X-Ignored-Fields"] == "colour"


def test_only_the_outputs_that_were_asked_for_are_kept(tenant: Api) -> None:
    ended = tenant.run("for n in 'a.csv', 'b.txt': open(n, 'w').write(n)", outputs=["*.csv"])
    assert set(ended["download_urls"]) == {"a.csv"}


def wait_for_batch(tenant: Api, batch_id: str) -> dict[str, object]:
    """The batch once all of it has ended."""
    for _ in range(4):
        found: dict[str, object] = tenant.get(f"/batches/{batch_id}?wait=30").json()
        if found["status"] not in {"queued", "running"}:
            return found
    raise AssertionError(found)


def wait_until_printed(tenant: Api, execution_id: str) -> None:
    """Wait for the first line of a log."""
    page = tenant.get(
        f"/executions/{execution_id}/logs?wait=30", headers={"Accept": "application/json"}
    ).json()
    assert page["entries"]
