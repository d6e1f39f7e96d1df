"""Logs that are written faster than they are read: none of it is lost or doubled, and none is hoarded."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import websockets

from tests.integration.conftest import Api
from tests.live import LiveServer
from tests.streams import StalledReader, sent_events

MIB = 1024 * 1024
LINES = 60_000
PRINTS = f"""
for n in range({LINES}):
    print(n, 'x' * 1000)
"""
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """A server of this test's own, whose memory nobody else uses."""
    with LiveServer(tmp_path / "data", options=["--slots", "1"]) as server:
        yield server.wait_for_runner()


def assert_whole(told: list[dict[str, Any]]) -> None:
    """Make sure that entries are all that was printed, in order; a line may have come in two of them."""
    assert [item["sequence_number"] for item in told] == list(range(1, len(told) + 1))
    printed = "".join(item["message"] + "\n" * item.get("newline", True) for item in told)
    assert [int(line.split()[0]) for line in printed.splitlines()] == list(range(LINES))


def test_readers_that_stall_hold_a_page_of_a_log_and_lose_none_of_it(server: LiveServer) -> None:
    api = Api(server.api, server.api_key)
    execution_id = api.submit(PRINTS)["execution_id"]
    url = f"{server.api}/executions/{execution_id}/logs?follow=true"
    process = psutil.Process(server.pid)
    before_bytes = process.memory_info().rss
    kinds = [STREAM, {"Accept": "text/plain"}]
    stalled = [StalledReader(url, {**server.headers, **kinds[n % 2]}) for n in range(10)]
    try:
        # the execution prints, and ends, while nobody of them reads
        assert api.wait(execution_id)["status"] == "completed"
        assert len(_printed(api, execution_id)) == LINES
        grown_bytes = process.memory_info().rss - before_bytes
        assert grown_bytes < 200 * MIB, f"{grown_bytes / MIB:.0f} MiB of a log of 60 MiB with 10 readers"
        events = stalled[0].take_rest().decode().split("\n\n")
        told = [
            json.loads(event.partition("data: ")[2]) for event in events if event.startswith("event: log")
        ]
        assert_whole(told)
        assert '"exit_code":0' in events[-2]
        assert [int(line.split()[0]) for line in stalled[1].take_rest().splitlines()] == list(range(LINES))
    finally:
        for reader in stalled:
            reader.close()


def test_sockets_that_stall_hold_a_page_of_a_log_and_lose_none_of_it(server: LiveServer) -> None:
    api = Api(server.api, server.api_key)
    execution_id = api.run(PRINTS)["execution_id"]
    process = psutil.Process(server.pid)
    before_bytes = process.memory_info().rss
    place = f"{server.api.replace('http', 'ws', 1)}/ws/executions/{execution_id}/logs"

    async def follow() -> None:
        # a queue of one message: what is not taken is not read from the socket
        sockets = [
            await websockets.connect(
                place, max_queue=1, ping_interval=None, additional_headers=server.headers
            )
            for _ in range(10)
        ]
        first = [json.loads(await socket.recv()) for socket in sockets]
        whole = await asyncio.to_thread(_printed, api, execution_id)
        grown_bytes = process.memory_info().rss - before_bytes
        assert grown_bytes < 200 * MIB, f"{grown_bytes / MIB:.0f} MiB of a log of 60 MiB with 10 sockets"
        told = [first[0]]
        socket = sockets[0]
        while told[-1]["type"] == "log":
            try:
                told.append(json.loads(await socket.recv()))
            except websockets.ConnectionClosed:
                # it stalled for longer than the server waits for an answer to its pings
                socket = await websockets.connect(f"{place}&cursor={told[-1]['sequence_number']}")
        assert told.pop() == {"type": "complete", "exit_code": 0, "status": "completed"}
        assert [item["sequence_number"] for item in told] == list(range(1, len(told) + 1))
        # messages say nothing of newlines, so a line in two parts is compared without them
        assert "".join(item["message"] for item in told) == "".join(whole)
        for socket in sockets[1:]:
            socket.transport.abort()

    asyncio.run(follow())


def test_a_log_that_is_cut_anywhere_goes_on_behind_its_last_entry(server: LiveServer) -> None:
    api = Api(server.api, server.api_key)
    execution_id = api.submit(
        "import time\nfor n in range(300):\n    print(n, flush=True)\n    time.sleep(0.01)"
    )["execution_id"]
    path = f"/executions/{execution_id}/logs?follow=true"
    seen: list[int] = []
    last_id = "0"
    for count in itertools.cycle((1, 7, 50)):
        with api.get(path, headers={**STREAM, "Last-Event-ID": last_id}, stream=True) as answer:
            for event in itertools.islice(sent_events(answer), count):
                if event.name == "complete":
                    assert seen == list(range(300))
                    return
                seen.append(int(event.data["message"]))
                last_id = event.id


def test_a_follower_hears_attempts_that_follow_each_other_as_one_log(server: LiveServer) -> None:
    api = Api(server.api, server.api_key)
    script = "import time\nprint('begun', flush=True)\ntime.sleep(600)"
    execution_id = api.submit(script)["execution_id"]
    with api.get(f"/executions/{execution_id}/logs?follow=true", headers=STREAM, stream=True) as answer:
        events = sent_events(answer)
        first = next(events)
        pid = server.runner_pid()
        assert pid is not None
        psutil.Process(pid).kill()
        second = next(events)
        assert (first.data["message"], second.data["message"]) == ("begun", "begun")
        assert int(second.id) == int(first.id) + 1
        api.post(f"/executions/{execution_id}/cancel")
        assert [event.name for event in events] == ["complete"]


def test_what_is_no_entry_of_a_log_is_refused(server: LiveServer) -> None:
    api = Api(server.api, server.api_key)
    execution_id = api.run("print(1)")["execution_id"]
    answer = api.get(f"/executions/{execution_id}/logs", headers={**STREAM, "Last-Event-ID": "x"})
    assert answer.status_code == 422


def _printed(api: Api, execution_id: str) -> list[str]:
    return api.get(f"/executions/{execution_id}/logs", headers={"Accept": "text/plain"}).text.splitlines()


def test_a_draining_server_ends_followers_with_a_hint_when_to_come_again(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "other", options=["--slots", "0"]) as server:
        api = Api(server.api, server.api_key)
        execution_id = api.submit()["execution_id"]
        path = f"/executions/{execution_id}/logs?follow=true"
        place = f"{server.api.replace('http', 'ws', 1)}/ws{path.removesuffix('?follow=true')}"

        async def follow() -> int | None:
            async with websockets.connect(place, additional_headers=server.headers) as socket:
                answer = await asyncio.to_thread(api.get, path, headers=STREAM, stream=True)
                assert await asyncio.to_thread(server.stop) == 0
                assert "retry: 1000" in answer.text
                await socket.wait_closed()
                return socket.close_code

        assert asyncio.run(follow()) == 1012
