"""Batches by the thousand: results and outputs as they come, chunks sent again, an end to all at once."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rgrid import AsyncClient, Client
from rgrid.models import BatchResult
from rgrid.streams import no_folder
from rgrid.transport.base import Server
from rgrid.transport.httpx import HttpxTransport
from rgrid.transport.stdlib import StdlibTransport
from tests.integration.conftest import Api
from tests.live import LiveServer
from tests.streams import StalledReader

MIB = 1024 * 1024
WRITES = """
import os, sys
print('first')
print('last of', sys.argv[1])
os.makedirs('deep/er', exist_ok=True)
open('deep/er/' + sys.argv[1], 'w').write(sys.argv[1] * 3)
open('empty', 'w').close()
os.chmod('empty', 0o755)
sys.exit(3 if sys.argv[1] == '2' else 0)
"""


def begin(tenant: Api, script: str = WRITES, count: int = 5, **fields: Any) -> dict[str, Any]:
    """A batch that is taken."""
    items = [{"args": [str(n)], "input_file": f"in put/{n}.csv"} for n in range(count)]
    answer = tenant.post("/batches", {"template": {"script_content": script}, "items": items, **fields})
    assert answer.status_code == 200, answer.text
    taken: dict[str, Any] = answer.json()
    return taken


def results(tenant: Api, batch_id: str, query: str = "follow=true") -> list[dict[str, Any]]:
    """Its results."""
    answer = tenant.get(f"/batches/{batch_id}/results?{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines() if line]


def archive(tenant: Api, batch_id: str, query: str = "follow=true") -> tarfile.TarFile:
    """Its outputs."""
    answer = tenant.get(f"/batches/{batch_id}/outputs?{query}")
    assert answer.status_code == 200, answer.text
    return tarfile.open(fileobj=io.BytesIO(answer.content))


def key_of(tenant: Api) -> str:
    """The key that a client of the API has."""
    return str(tenant.session.headers["Authorization"]).removeprefix("Bearer ")


@pytest.fixture
def client(tenant: Api, server: LiveServer) -> Iterator[Client]:
    """The library's client of the same tenant."""
    with Client(transport=StdlibTransport(Server(server.url, key_of(tenant)))) as client:
        yield client


@pytest.fixture
def quiet_server(tmp_path: Path) -> Iterator[LiveServer]:
    """A server of this test's own, without a runner."""
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        yield server


def test_results_come_in_order_of_completion_with_all_that_is_to_be_known(tenant: Api) -> None:
    batch_id = begin(tenant)["batch_id"]
    found = results(tenant, batch_id)
    assert sorted(item["batch_index"] for item in found) == [0, 1, 2, 3, 4]
    positions = [item["position"] for item in found]
    assert positions == sorted(set(positions))
    ended_at = [item["completed_at"] for item in found]
    assert ended_at == sorted(ended_at)
    by_index = {item["batch_index"]: item for item in found}
    good = by_index[1]
    assert (good["status"], good["exit_code"], good["error"]) == ("completed", 0, None)
    assert good["input_file"] == "in put/1.csv"
    assert (good["last_line"], good["last_line_omitted"]) == ("last of 1", False)
    assert good["duration_ms"] >= 0
    assert {item["name"]: item["size_bytes"] for item in good["artifacts"]} == {"deep/er/1": 3, "empty": 0}
    assert good["artifacts"][0]["sha256"] == hashlib.sha256(b"111").hexdigest()
    bad = by_index[2]
    assert (bad["status"], bad["exit_code"], bad["error_code"]) == ("failed", 3, "exit_code")
    total = tenant.get(f"/batches/{batch_id}").json()["total_cost_micros"]
    assert abs(sum(item["cost_micros"] for item in found) - total) <= len(found)


def test_a_last_line_that_is_long_or_not_shown_is_omitted(tenant: Api) -> None:
    script = (
        "import sys\nbefore, line, after = map(int, sys.argv[1:])\n"
        "print('x' * before); print('y' * line + '\\n' * after)"
    )
    lengths = {
        (0, 998, 0): True,
        (0, 1000, 0): False,
        (0, 10, 2000): False,
        (200_000, 3, 0): False,
        (0, 0, 0): True,
    }
    items = [{"args": [str(length) for length in one]} for one in lengths]
    batch = tenant.post("/batches", {"template": {"script_content": script}, "items": items}).json()
    found = {item["batch_index"]: item for item in results(tenant, batch["batch_id"])}
    for index, ((_, line, _), is_shown) in enumerate(lengths.items()):
        assert found[index]["last_line_omitted"] is not is_shown
        assert found[index]["last_line"] == ("y" * line if is_shown else None)


def test_results_resume_behind_any_of_them(tenant: Api) -> None:
    batch_id = begin(tenant)["batch_id"]
    found = results(tenant, batch_id)
    for at, item in enumerate(found):
        assert results(tenant, batch_id, f"after={item['position']}") == found[at + 1 :]


def test_without_follow_results_are_those_that_are_there(tenant: Api) -> None:
    script = "import sys, time\nif sys.argv[1] == '1': time.sleep(600)"
    batch_id = begin(tenant, script, count=2)["batch_id"]
    answer = tenant.get(f"/batches/{batch_id}/results?follow=true", stream=True)
    first = json.loads(next(answer.iter_lines(chunk_size=1)))
    assert first["batch_index"] == 0
    assert results(tenant, batch_id, "follow=false") == [first]
    tenant.post(f"/batches/{batch_id}/cancel")
    assert [item["status"] for item in results(tenant, batch_id)] == ["completed", "canceled"]


def test_following_an_open_batch_goes_on_until_it_is_closed(tenant: Api) -> None:
    batch_id = begin(tenant, count=1, closed=False)["batch_id"]
    answer = tenant.get(f"/batches/{batch_id}/results?follow=true", stream=True)
    lines = (line for line in answer.iter_lines(chunk_size=1) if line)
    assert json.loads(next(lines))["batch_index"] == 0
    tenant.post(f"/batches/{batch_id}/items", {"items": [{"args": ["9"]}]})
    assert json.loads(next(lines))["batch_index"] == 1
    tenant.post(f"/batches/{batch_id}/close")
    assert list(lines) == []


def test_an_empty_batch_has_no_results_and_an_archive_of_nothing(tenant: Api) -> None:
    batch_id = begin(tenant, count=0)["batch_id"]
    assert results(tenant, batch_id) == []
    assert archive(tenant, batch_id).getnames() == []


@pytest.mark.parametrize("what", ["results", "outputs"])
def test_streams_of_a_batch_are_its_tenants_alone(tenant: Api, api: Api, what: str) -> None:
    batch_id = begin(tenant, count=1)["batch_id"]
    assert api.get(f"/batches/{batch_id}/{what}").status_code == 404
    assert tenant.get(f"/batches/batch_unknown/{what}").status_code == 404
    assert tenant.get(f"/batches/{batch_id}/{what}?after={2**62}").status_code == 422
    assert tenant.get(f"/batches/{batch_id}/{what}?after=x").status_code == 422


def test_outputs_come_as_one_archive_with_a_folder_for_each_execution(tenant: Api) -> None:
    batch_id = begin(tenant)["batch_id"]
    made = archive(tenant, batch_id)
    assert set(made.getnames()) == {
        name
        for n in range(5)
        for name in (
            f"{n}-in put_{n}.csv.json",
            f"{n}-in put_{n}.csv/deep/er/{n}",
            f"{n}-in put_{n}.csv/empty",
        )
    }
    for n in range(5):
        content = made.extractfile(f"{n}-in put_{n}.csv/deep/er/{n}")
        assert content is not None
        assert content.read() == f"{n}{n}{n}".encode()
        assert made.getmember(f"{n}-in put_{n}.csv/empty").mode == 0o755
    told = [made.extractfile(name) for name in made.getnames() if name.endswith(".json")]
    assert [json.load(one) for one in told if one is not None] == results(tenant, batch_id)


def test_an_archive_resumes_behind_the_last_whole_execution(tenant: Api) -> None:
    batch_id = begin(tenant)["batch_id"]
    found = results(tenant, batch_id)
    rest = archive(tenant, batch_id, f"after={found[2]['position']}")
    names = [name for name in rest.getnames() if name.endswith(".json")]
    assert [int(name.partition("-")[0]) for name in names] == [item["batch_index"] for item in found[3:]]


def test_names_that_no_plain_header_holds_arrive_as_they_are(tenant: Api) -> None:
    name = "ünïcödé/" + "long" * 50 + "/file"
    script = f"import os\nname = {name!r}\nos.makedirs(os.path.dirname(name))\nopen(name, 'w').write('x')"
    batch_id = begin(tenant, script, count=1)["batch_id"]
    assert f"0-in put_0.csv/{name}" in archive(tenant, batch_id).getnames()


def test_a_large_output_does_not_pass_through_memory_and_a_stalled_reader_holds_a_part(
    tmp_path: Path,
) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "2"]) as server:
        api = Api(server.wait_for_runner().api, server.api_key)
        script = "import sys\nfor _ in range(60): sys.stdout.flush(); open('big', 'ab').write(b'x' * 2**20)"
        batch_id = begin(api, script, count=2)["batch_id"]
        found = results(api, batch_id)
        assert [item["status"] for item in found] == ["completed"] * 2
        process = psutil.Process(server.pid)
        before_bytes = process.memory_info().rss
        url = f"{server.api}/batches/{batch_id}/outputs"
        stalled = [StalledReader(url, server.headers) for _ in range(10)]
        try:
            with api.get(f"/batches/{batch_id}/outputs", stream=True) as answer:
                received = sum(len(chunk) for chunk in answer.iter_content(MIB))
            assert received > 120 * MIB
            grown_bytes = process.memory_info().rss - before_bytes
            assert grown_bytes < 80 * MIB, f"{grown_bytes / MIB:.0f} MiB"
            with tarfile.open(fileobj=io.BytesIO(stalled[0].take_rest())) as whole:
                sizes = [member.size for member in whole if member.name.endswith("/big")]
            assert sizes == [60 * MIB] * 2
        finally:
            for reader in stalled:
                reader.close()


def test_the_client_writes_outputs_where_they_belong_as_they_come(
    tenant: Api, client: Client, tmp_path: Path
) -> None:
    batch_id = begin(tenant)["batch_id"]
    seen: list[BatchResult] = []
    for result in client.batch_outputs(batch_id, tmp_path, follow=True):
        n = result.batch_index
        assert (tmp_path / f"in put/{n}.csv/deep/er/{n}").read_text() == f"{n}{n}{n}"
        seen.append(result)
    assert seen == list(client.batch_results(batch_id))
    assert (tmp_path / "in put/0.csv/empty").stat().st_mode & 0o777 == 0o755
    flat = tmp_path / "flat"
    list(client.batch_outputs(batch_id, flat, folder_of=no_folder))
    assert sorted(path.name for path in (flat / "deep/er").iterdir()) == ["0", "1", "2", "3", "4"]


def test_other_calls_go_beside_an_open_stream(tenant: Api, client: Client) -> None:
    batch_id = begin(tenant)["batch_id"]
    ids = [
        client.get(result.execution_id).execution_id for result in client.batch_results(batch_id, follow=True)
    ]
    assert len(set(ids)) == 5


def test_the_asynchronous_client_reads_the_same_streams(
    tenant: Api, server: LiveServer, tmp_path: Path
) -> None:
    batch_id = begin(tenant)["batch_id"]

    async def read() -> None:
        async with AsyncClient(transport=HttpxTransport(Server(server.url, key_of(tenant)))) as client:
            written = [one async for one in client.batch_outputs(batch_id, tmp_path, follow=True)]
            assert written == [one async for one in client.batch_results(batch_id)]
            first = await anext(client.events(after=0))
            assert first.status == "queued"

    asyncio.run(read())
    assert (tmp_path / "in put/4.csv/deep/er/4").read_text() == "444"


def test_following_results_goes_on_through_a_killed_server(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "2"]) as server:
        port = int(server.url.rpartition(":")[2])
    with LiveServer(tmp_path / "data", port=port, options=["--slots", "2"]) as server:
        api = Api(server.wait_for_runner().api, server.api_key)
        batch_id = begin(api, count=8, parallelism=1)["batch_id"]
        with Client(transport=StdlibTransport(Server(server.url, server.api_key))) as client:
            found = client.batch_results(batch_id, follow=True)
            seen = [next(found).batch_index for _ in range(2)]
            server.kill()
            server.restart()
            seen.extend(result.batch_index for result in found)
        assert sorted(seen) == list(range(8))


def test_a_chunk_whose_answer_was_lost_is_sent_again_without_doubling_its_items(tenant: Api) -> None:
    batch_id = begin(tenant, count=2, closed=False)["batch_id"]
    chunk = {
        "items": [{"args": [str(n)], "user_metadata": {"n": n}, "env_vars": {"A": "b"}} for n in range(100)],
        "first_index": 2,
    }
    first = tenant.post(f"/batches/{batch_id}/items", chunk).json()
    assert (first["total"], first["attached"]) == (102, False)
    again = tenant.post(f"/batches/{batch_id}/items", chunk).json()
    assert (again["total"], again["attached"]) == (102, True)
    tenant.post(f"/batches/{batch_id}/close")
    assert tenant.post(f"/batches/{batch_id}/items", chunk).json()["attached"] is True
    tenant.post(f"/batches/{batch_id}/cancel")


@pytest.mark.parametrize(
    ("first_index", "args"), [(3, "x"), (0, "x"), (1, "1"), (7, "0")], ids=["gap", "other", "over", "far"]
)
def test_a_chunk_that_does_not_belong_where_it_says_is_refused_with_the_index_that_does(
    tenant: Api, first_index: int, args: str
) -> None:
    batch_id = begin(tenant, count=2, closed=False)["batch_id"]
    body = {"items": [{"args": [args]}, {"args": [args]}], "first_index": first_index}
    answer = tenant.post(f"/batches/{batch_id}/items", body)
    assert answer.status_code == 409
    assert answer.json()["detail"]["error"] == "index_conflict"
    assert answer.json()["detail"]["expected_index"] == 2
    tenant.post(f"/batches/{batch_id}/cancel")


def test_the_same_chunk_sent_at_once_by_many_is_taken_once(tenant: Api) -> None:
    batch_id = begin(tenant, count=0, closed=False)["batch_id"]
    body = {"items": [{"args": [str(n)]} for n in range(200)], "first_index": 0}
    key = key_of(tenant)
    attached: list[bool] = []

    def send() -> None:
        answer = Api(tenant.base, key).post(f"/batches/{batch_id}/items", body)
        attached.append(answer.json()["attached"])

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(attached) == [False] + [True] * 7
    assert tenant.get(f"/batches/{batch_id}").json()["total"] == 200
    tenant.post(f"/batches/{batch_id}/cancel")


def test_thirty_thousand_items_go_in_by_chunks_and_end_at_once(quiet_server: LiveServer) -> None:
    api = Api(quiet_server.api, quiet_server.api_key)
    batch_id = begin(api, count=0, closed=False)["batch_id"]
    for first in range(0, 30_000, 10_000):
        items = [{"args": [str(n)], "user_metadata": {"n": n}} for n in range(first, first + 10_000)]
        answer = api.post(f"/batches/{batch_id}/items", {"items": items, "first_index": first})
        assert answer.json()["total"] == first + 10_000
    assert api.post(f"/batches/{batch_id}/close").json()["counts"]["queued"] == 30_000
    listed = api.get("/executions?metadata[n]=29999").json()
    assert [item["user_metadata"] for item in listed] == [{"n": 29999}]
    # others are served while it is ended
    waited: list[int] = []
    over = threading.Event()

    def ask() -> None:
        beside = Api(quiet_server.api, quiet_server.api_key)
        while not over.is_set():
            waited.append(beside.post("/executions", {"script_content": "print(1)"}).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    ended = api.post(f"/batches/{batch_id}/cancel").json()
    over.set()
    asking.join()
    assert set(waited) == {200}
    assert ended["status"] == "canceled"
    assert ended["counts"]["canceled"] == ended["total"] == 30_000
    assert len(api.get(f"/batches/{batch_id}/results").text.splitlines()) == 30_000


def test_a_cancellation_that_a_killed_server_began_is_finished_by_the_next(tmp_path: Path) -> None:
    import sqlite3

    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        api = Api(server.api, server.api_key)
        batch_id = begin(api, count=2500)["batch_id"]
        server.kill()
        # what the server writes first, before it ends the executions page by page
        with sqlite3.connect(server.data_dir / "rgrid.sqlite") as database:
            database.execute("UPDATE batches SET cancel_requested_at_ms = 1")
        server.restart()
        ended = Api(server.api, server.api_key).get(f"/batches/{batch_id}").json()
        assert ended["status"] == "canceled"
        assert ended["counts"]["canceled"] == 2500


def test_more_than_a_request_holds_is_retried_as_one_batch(quiet_server: LiveServer) -> None:
    api = Api(quiet_server.api, quiet_server.api_key)
    batch_id = begin(api, count=10_000, closed=False, parallelism=7)["batch_id"]
    extra = [{"args": [f"extra {n}"], "env_vars": {"N": str(n)}, "input_file": f"e{n}"} for n in range(50)]
    api.post(f"/batches/{batch_id}/items", {"items": extra, "first_index": 10_000})
    api.post(f"/batches/{batch_id}/cancel")
    again = api.post(f"/batches/{batch_id}/retry", {"failed_only": True}).json()
    assert (again["total"], again["parallelism"], again["closed"]) == (10_050, 7, True)
    last = api.get(f"/batches/{again['batch_id']}/executions").json()[-1]
    assert (last["batch_index"], last["batch_metadata"]) == (10_049, {"input_file": "e49"})
    found = api.get(f"/executions/{last['execution_id']}").json()
    assert (found["args"], found["env_vars"], found["script_content"]) == (["extra 49"], {"N": "49"}, WRITES)


@pytest.mark.parametrize(
    ("item", "where"),
    [
        ({"args": ["a\0b"]}, "args"),
        ({"args": "no list"}, "args"),
        ({"env_vars": {"1": "x"}}, "env_vars"),
        ({"inputs": {"../x": "a" * 64}}, "input_files"),
        ({"inputs": {"x": "no hash"}}, "inputs"),
        ({"inputs": {"x": "a" * 64}}, "inputs"),
        ({"user_metadata": {"x": "y" * 40_000}}, "user_metadata"),
    ],
)
def test_what_is_wrong_with_one_of_many_items_is_told_by_its_place_and_nothing_is_kept(
    tenant: Api, item: dict[str, Any], where: str
) -> None:
    key = uuid.uuid4().hex
    items: list[dict[str, Any]] = [{"args": [str(n)]} for n in range(300)]
    items[217] = item
    body = {"template": {"script_content": "print(1)"}, "items": items, "run_key": key}
    answer = tenant.post("/batches", body)
    assert answer.status_code == 422, answer.text
    problem = answer.json()["detail"][0]
    assert where in problem["loc"]
    if problem["type"] != "blob_missing":
        assert str(217) in map(str, problem["loc"])
    assert tenant.get("/executions").json() == []


def test_items_keep_what_they_have_of_their_own_over_what_the_template_says(tenant: Api) -> None:
    body = {
        "template": {
            "script_content": "print(1)",
            "args": ["t"],
            "env_vars": {"A": "t", "B": "t"},
            "user_metadata": {"a": 1},
        },
        "items": [{}, {"args": [], "env_vars": {"B": "i"}, "user_metadata": {"b": 2}}, {}],
        "closed": False,
    }
    batch_id = tenant.post("/batches", body).json()["batch_id"]
    listed = tenant.get(f"/batches/{batch_id}/executions").json()
    shown = [tenant.get(f"/executions/{item['execution_id']}").json() for item in listed]
    assert [item["args"] for item in shown] == [["t"], [], ["t"]]
    assert [item["env_vars"] for item in shown] == [
        {"A": "t", "B": "t"},
        {"A": "t", "B": "i"},
        {"A": "t", "B": "t"},
    ]
    assert [item["user_metadata"] for item in shown] == [{"a": 1}, {"a": 1, "b": 2}, {"a": 1}]
