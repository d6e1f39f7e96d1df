"""The feed of transitions: in order, each once, from any position on, however slowly others read."""

from __future__ import annotations

import asyncio
import json
import resource
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rgrid import Client
from rgrid.transport.base import Server
from rgrid.transport.stdlib import StdlibTransport
from tests.integration.conftest import Api
from tests.live import LiveServer
from tests.streams import SentEvent, StalledReader, sent_events

STREAM = {"Accept": "text/event-stream"}
JSON = {"Accept": "application/json"}
MIB = 1024 * 1024
NEVER = {"script_content": "print(1)", "input_files": ["never.txt"]}


def transitions(tenant: Api, query: str = "after=0", at_least: int = 0) -> list[dict[str, Any]]:
    """All there is behind a position, page by page.

    What was committed may be hidden a moment behind somebody else's open transaction, so ``at_least`` so many
    are waited for.
    """
    found: list[dict[str, Any]] = []
    while True:
        wait_seconds = 30 if len(found) < at_least else 0
        answer = tenant.get(f"/events?{query}&wait={wait_seconds}", headers=JSON)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found.extend(page)
        if not page:
            return found
        position = answer.headers["X-Next-Cursor"]
        query = "&".join([f"after={position}", *[part for part in query.split("&") if "after" not in part]])


def bulk(tenant: Api, count: int, **fields: Any) -> str:
    """A batch whose executions end when it is canceled, for no runner takes them; returns its id."""
    body = {"template": {"script_content": "print(1)", **fields}, "items": [{}] * count}
    answer = tenant.post("/batches", body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["batch_id"])


@pytest.fixture
def quiet_server(tmp_path: Path) -> Iterator[LiveServer]:
    """A server of this test's own without a runner: nothing happens that the test does not do."""
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        yield server


def test_the_feed_tells_every_transition_in_order(tenant: Api) -> None:
    ended = tenant.run("print(1)", user_metadata={"team": "x"})
    found = transitions(tenant, at_least=3)
    assert {event["execution_id"] for event in found} == {ended["execution_id"]}
    assert [event["status"] for event in found] == ["queued", "running", "completed"]
    assert [event["attempt"] for event in found] == [0, 1, 1]
    assert [event["user_metadata"] for event in found] == [{"team": "x"}] * 3
    positions = [event["sequence"] for event in found]
    assert positions == sorted(set(positions))


def test_a_stream_begins_with_its_position_and_follows_from_there(tenant: Api) -> None:
    tenant.submit(**NEVER)
    with tenant.get("/events", headers=STREAM, stream=True) as answer:
        events = sent_events(answer)
        begun = next(events)
        assert begun.name == "position"
        assert begun.id == str(begun.data["position"])
        execution = tenant.submit(**NEVER)
        first = next(events)
        assert (first.name, first.data["execution_id"]) == ("execution", execution["execution_id"])
        assert first.id == str(first.data["sequence"])


def test_a_stream_that_is_cut_anywhere_goes_on_behind_its_last_event(tenant: Api) -> None:
    bulk(tenant, 450)
    whole = [event["sequence"] for event in transitions(tenant, at_least=450)]
    seen: list[int] = []
    last_id = "0"
    for count in (1, 199, 1, 120, 129):
        headers = {**STREAM, "Last-Event-ID": last_id}
        with tenant.get("/events", headers=headers, stream=True) as answer:
            events = (event for event in sent_events(answer) if event.name == "execution")
            for _ in range(count):
                event = next(events)
                seen.append(event.data["sequence"])
                last_id = event.id
    assert seen == whole[:450]


def test_a_tenant_sees_its_own_transitions_only(tenant: Api, api: Api) -> None:
    mine = tenant.submit(**NEVER)["execution_id"]
    api.submit(**NEVER)
    assert {event["execution_id"] for event in transitions(tenant, at_least=1)} == {mine}


def test_the_feed_is_narrowed_to_a_batch(tenant: Api) -> None:
    tenant.submit(**NEVER)
    batch_id = bulk(tenant, 3)
    tenant.submit(**NEVER)
    found = transitions(tenant, f"after=0&batch_id={batch_id}", at_least=3)
    assert {event["batch_id"] for event in found} == {batch_id}
    assert sorted({event["batch_index"] for event in found}) == [0, 1, 2]


def test_a_page_is_waited_for_and_names_the_next_one(tenant: Api) -> None:
    position = tenant.get("/events", headers=JSON).headers["X-Next-Cursor"]
    answers: list[Any] = []
    waiting = threading.Thread(
        target=lambda: answers.append(tenant.get(f"/events?after={position}&wait=60", headers=JSON))
    )
    waiting.start()
    execution = Api(tenant.base, str(tenant.session.headers["Authorization"])[7:]).submit(**NEVER)
    waiting.join(timeout=60)
    (answer,) = answers
    assert [event["execution_id"] for event in answer.json()] == [execution["execution_id"]]
    rest = tenant.get(f"/events?after={answer.headers['X-Next-Cursor']}", headers=JSON)
    assert rest.json() == []
    assert rest.headers["X-Next-Cursor"] == answer.headers["X-Next-Cursor"]


def test_a_page_holds_no_more_than_was_asked_for(tenant: Api) -> None:
    bulk(tenant, 10)
    assert len(transitions(tenant, at_least=10)) >= 10
    assert len(tenant.get("/events?after=0&limit=4", headers=JSON).json()) == 4
    assert len(transitions(tenant, "after=0&limit=4")) >= 10


@pytest.mark.parametrize("after", ["tomorrow", "-1", "1.5", str(2**64)])
def test_what_is_no_position_is_refused(tenant: Api, after: str) -> None:
    assert tenant.get(f"/events?after={after}", headers=JSON).status_code == 422


@pytest.mark.parametrize("last_id", ["tomorrow", "-1", "9" * 30])
def test_what_is_no_event_id_is_refused(tenant: Api, last_id: str) -> None:
    answer = tenant.get("/events", headers={**STREAM, "Last-Event-ID": last_id})
    assert answer.status_code == 422
    assert "position_unknown" in answer.text


def test_a_position_in_the_future_is_refused_with_the_way_out(tenant: Api) -> None:
    answer = tenant.get(f"/events?after={2**62}", headers=STREAM)
    assert answer.status_code == 422
    assert "leave 'after' out" in answer.text


def test_the_feed_wants_a_key_that_may_read(tenant: Api, anonymous: Api) -> None:
    assert anonymous.get("/events").status_code == 401


def test_a_thousand_wait_and_each_hears_of_it(quiet_server: LiveServer) -> None:
    waiting = 1000
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
    api = Api(quiet_server.api, quiet_server.api_key)
    heard = asyncio.run(_all_hear(quiet_server, api, waiting))
    assert len(heard) == waiting
    assert len(set(heard)) == 1


async def _all_hear(server: LiveServer, api: Api, waiting: int) -> list[str]:
    host, port = server.url.removeprefix("http://").split(":")
    request = (
        f"GET /api/v1/events HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {server.api_key}\r\n\r\n"
    ).encode()
    begun = asyncio.Semaphore(50)

    async def begin() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with begun:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            await reader.readuntil(b"event: position\n")
            await reader.readuntil(b"\n\n")
            return reader, writer

    connections = await asyncio.gather(*(begin() for _ in range(waiting)))
    execution = await asyncio.to_thread(lambda: api.submit(**NEVER))
    ids: list[str] = []
    for reader, writer in connections:
        data = b""
        while b"data: " not in data:
            # a comment may come before, where this takes long
            data = await asyncio.wait_for(reader.readuntil(b"\n\n"), 60)
        event = json.loads(data.split(b"data: ")[1])
        ids.append(event["execution_id"])
        writer.close()
    assert set(ids) == {execution["execution_id"]}
    return ids


def test_readers_that_stall_cost_the_server_a_page_each_and_the_others_nothing(
    quiet_server: LiveServer,
) -> None:
    api = Api(quiet_server.api, quiet_server.api_key)
    # twenty thousand transitions of a few hundred bytes: 50 readers would have 500 MiB waiting for them
    long_name = "x" * 400
    batch_id = bulk(api, 10_000, user_metadata={"long": long_name})
    process = psutil.Process(quiet_server.pid)
    before_bytes = process.memory_info().rss
    url = f"{quiet_server.api}/events?after=0"
    stalled = [StalledReader(url, {**quiet_server.headers, **STREAM}) for _ in range(50)]
    try:
        assert api.post(f"/batches/{batch_id}/cancel").json()["status"] == "canceled"
        assert len(transitions(api)) == 20_000
        grown_bytes = process.memory_info().rss - before_bytes
        assert grown_bytes < 150 * MIB, f"{grown_bytes / MIB:.0f} MiB"
        # the server drains: whoever stalled takes what was sent to it, and goes on elsewhere
        stopping = threading.Thread(target=quiet_server.stop)
        rest = _read_to_the_end(stalled[0], stopping)
    finally:
        for reader in stalled:
            reader.close()
    stopping.join()
    assert rest == sorted(set(rest))


def _read_to_the_end(reader: StalledReader, stopping: threading.Thread) -> list[int]:
    stopping.start()
    events = reader.take_rest().split(b"\n\n")
    return [
        int(one.split(b"id: ")[1].split(b"\n")[0]) for one in events if one.startswith(b"event: execution")
    ]


def test_a_draining_server_ends_streams_with_a_hint_when_to_come_again(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        api = Api(server.api, server.api_key)
        answer = api.get("/events", headers=STREAM, stream=True)
        lines = answer.iter_lines(chunk_size=1, decode_unicode=True)
        assert next(lines) == "event: position"
        assert server.stop() == 0
        assert "retry: 1000" in list(lines)


def test_a_position_older_than_what_is_kept_is_gone_with_the_way_out(tmp_path: Path) -> None:
    import sqlite3

    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        api = Api(server.api, server.api_key)
        batch_id = bulk(api, 10)
        api.post(f"/batches/{batch_id}/cancel")
        server.stop()
        # as retention does it
        with sqlite3.connect(server.data_dir / "rgrid.sqlite") as database:
            database.execute("DELETE FROM events WHERE sequence <= 15")
            database.execute("INSERT INTO settings VALUES ('events_forgotten_to', '15')")
        server.restart()
        api = Api(server.api, server.api_key)
        for accept in (STREAM, JSON):
            answer = api.get("/events?after=14", headers=accept)
            assert answer.status_code == 410
            assert answer.json()["detail"]["error"] == "position_expired"
            assert answer.json()["detail"]["oldest_position"] == 15
            assert "/executions/lookup" in answer.json()["detail"]["message"]
        assert [event["sequence"] for event in transitions(api, "after=15")] == [16, 17, 18, 19, 20]
        gone = api.get(f"/batches/{batch_id}/results")
        assert gone.status_code == 410
        assert gone.json()["detail"]["error"] == "results_expired"
        assert len(api.get(f"/batches/{batch_id}/results?after=15").text.splitlines()) == 5


def test_the_client_follows_events_through_a_killed_server(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as server:
        port = int(server.url.rpartition(":")[2])
    with LiveServer(tmp_path / "data", port=port, options=["--slots", "0"]) as server:
        api = Api(server.api, server.api_key)
        ids = [api.submit(**NEVER)["execution_id"] for _ in range(3)]
        with Client(transport=StdlibTransport(Server(server.url, server.api_key))) as client:
            events = client.events(after=0)
            seen = [next(events).execution_id for _ in range(2)]
            server.kill()
            server.restart()
            seen.append(next(events).execution_id)
            ids.append(Api(server.api, server.api_key).submit(**NEVER)["execution_id"])
            seen.append(next(events).execution_id)
        assert seen == ids


def test_the_client_begins_now_where_no_position_is_given(tenant: Api, server: LiveServer) -> None:
    key = str(tenant.session.headers["Authorization"]).removeprefix("Bearer ")
    earlier = tenant.submit(**NEVER)["execution_id"]
    assert len(transitions(tenant, at_least=1)) == 1
    with Client(transport=StdlibTransport(Server(server.url, key))) as client:
        events = client.events()
        found: list[str] = []
        hearing = threading.Thread(target=lambda: found.append(next(events).execution_id))
        hearing.start()
        # whenever it began: of what comes from now on it must hear
        while hearing.is_alive():
            tenant.submit(**NEVER)
            hearing.join(timeout=0.2)
    assert found
    assert found != [earlier]


def test_metadata_too_long_for_the_feed_is_left_out(tenant: Api) -> None:
    tenant.submit(**NEVER, user_metadata={"long": "x" * 2000, "id": uuid.uuid4().hex})
    assert transitions(tenant, at_least=1)[-1]["user_metadata"] is None


def test_sent_events_are_read_as_the_standard_says() -> None:
    class Lines:
        def iter_lines(self, **_options: object) -> list[str]:
            return [": a comment", "id: 1", "", "event: x", "id: 2", "data: 3", ""]

    assert list(sent_events(Lines())) == [SentEvent("x", "2", 3)]  # type: ignore[arg-type]
