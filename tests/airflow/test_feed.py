"""The shared feed against a real server: one reader for all who wait."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rgrid import calls
from rgrid.aio import AsyncClient
from rgrid.exceptions import NotFound, RGridError, ServerError, Unauthorized
from rgrid_provider import feed as feeds
from rgrid_provider.feed import Feed, shared_feed
from rgrid_provider.hooks.rgrid import RGridAsyncHook, RGridHook
from tests.airflow_home import free_port
from tests.live import LiveServer

HELD = calls.submit_execution({"script_content": "pass", "input_files": ["never.txt"]})
"""An execution that waits for an upload until it is canceled."""


class Counting:
    """A transport that notes what goes through it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.sent: list[str] = []
        self.held = self.most_held = 0
        self.is_closed = False

    async def send(self, call: calls.Call[Any]) -> Any:
        """Send and note."""
        self.sent.append(f"{call.method} {call.path}")
        held = call.wait_seconds > 0
        self.held += held
        self.most_held = max(self.most_held, self.held)
        try:
            return await self._inner.send(call)
        finally:
            self.held -= held

    async def close(self) -> None:
        """Close and note."""
        self.is_closed = True
        await self._inner.close()


async def counting_client() -> AsyncClient:
    """A client of the tests' connection whose calls are noted."""
    client = await RGridAsyncHook().get_async_client()
    client.transport = Counting(client.transport)  # type: ignore[assignment]
    return client


@asynccontextmanager
async def counted() -> AsyncIterator[tuple[Feed, Counting]]:
    """A shared feed, and what goes through its transport."""
    async with shared_feed("counted", counting_client) as feed:
        yield feed, feed.client.transport  # type: ignore[misc]


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it within a minute."""
    asyncio.run(asyncio.wait_for(work(), 60))


@pytest.fixture
def client(server: LiveServer) -> Any:
    """A client of the same connection that blocks."""
    return RGridHook().client


def test_many_wait_on_one_held_request(client: Any) -> None:
    ids = [client.submit("pass").execution_id for _ in range(30)]

    async def wait() -> None:
        async with counted() as (feed, transport):
            statuses = await asyncio.gather(*[feed.ended(one) for one in ids])
            assert statuses == ["completed"] * 30
            assert transport.most_held == 1
            assert not [call for call in transport.sent if call.startswith("GET") and "/events" not in call]

    run(wait)


def test_what_ended_before_anyone_waited_is_not_missed(client: Any) -> None:
    failed = client.submit("raise SystemExit(2)").execution_id
    client.wait(failed)

    async def wait() -> None:
        async with counted() as (feed, _):
            assert await feed.ended(failed) == "failed"

    run(wait)


def test_the_reader_ends_with_the_last_who_waits_and_begins_with_the_next(client: Any) -> None:
    ended = client.submit("pass").execution_id

    async def wait() -> None:
        async with counted() as (feed, first):
            async with counted() as (same, _):
                assert same is feed
            assert not first.is_closed
            await feed.ended(ended)
        assert first.is_closed
        async with counted() as (another, second):
            assert another is not feed
            await another.ended(ended)
        assert second.is_closed

    run(wait)


def test_one_who_gives_up_leaves_nothing_behind(client: Any) -> None:
    held = client.send(HELD).execution_id

    async def wait() -> None:
        async with counted() as (feed, _):
            for waiting in (feed.ended(held), feed.log(held).__anext__()):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(waiting, 0.2)
            assert not feed._waiting
            assert not feed._grown

    run(wait)
    client.cancel(held)


def test_an_execution_that_is_not_there_is_told(server: LiveServer) -> None:
    async def wait() -> None:
        async with counted() as (feed, _):
            with pytest.raises(NotFound):
                await feed.ended("exec_" + "0" * 32)
            with pytest.raises(NotFound):
                await feed.log("exec_" + "0" * 32).__anext__()

    run(wait)


def test_a_key_that_is_refused_is_told_to_each(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from rgrid.transport.base import Server
    from rgrid.transport.httpx import HttpxTransport

    async def connect() -> AsyncClient:
        return AsyncClient(transport=HttpxTransport(Server(server.url, "sk_" + "x" * 40, 30)))

    async def wait() -> None:
        async with shared_feed("refused", connect) as feed:
            refused = await asyncio.gather(
                feed.ended("exec_" + "0" * 32),
                feed.batch_ended("batch_" + "0" * 32, 30),
                feed.log("exec_" + "0" * 32).__anext__(),
                return_exceptions=True,
            )
        assert [type(one) for one in refused] == [Unauthorized] * 3

    run(wait)


def test_a_log_comes_whole_in_order_and_once(client: Any) -> None:
    script = "import time\nfor n in range(200):\n    print(n, flush=True)\n    time.sleep(0.01)"
    followed = client.submit(script).execution_id

    async def follow() -> None:
        async with counted() as (feed, transport):
            twice = await asyncio.gather(*[lines_of(feed, followed) for _ in range(2)])
            assert twice == [[f"{n}\n" for n in range(200)]] * 2
            assert transport.most_held == 1

    run(follow)


async def lines_of(feed: Feed, execution_id: str) -> list[str]:
    """A log's lines, once it is complete."""
    return [entry.data.decode() async for entry in feed.log(execution_id)]


def test_logs_that_do_not_grow_are_not_read(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "SCOUT_SECONDS", 0.05)
    silent = [client.send(HELD).execution_id for _ in range(5)]

    async def follow() -> None:
        async with counted() as (feed, transport):
            following = [asyncio.create_task(lines_of(feed, one)) for one in silent]
            while transport.sent.count("POST /executions/lookup") < 5:
                await asyncio.sleep(0.01)
            assert not [call for call in transport.sent if call.endswith("/logs")]
            for one in silent:
                await asyncio.to_thread(client.cancel, one)
            assert await asyncio.gather(*following) == [[]] * 5

    run(follow)


def test_a_batch_ends_with_its_last_and_when_an_open_one_is_closed(client: Any) -> None:
    template = {"script_content": "pass"}
    body = {"template": template, "items": [{}, {}], "closed": False}
    opened = client.send(calls.submit_batch(body)).batch_id
    closed = client.send(calls.submit_batch({"template": template, "items": [{}, {}, {}]})).batch_id

    async def wait() -> None:
        async with counted() as (feed, _):
            waiting = asyncio.create_task(feed.batch_ended(opened, look_seconds=0.2))
            assert await feed.batch_ended(closed, look_seconds=600) == "completed"
            assert not waiting.done()
            await asyncio.to_thread(client.send, calls.close_batch(opened))
            assert await waiting == "completed"

    run(wait)


def test_a_server_that_was_away_is_waited_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    from rgrid.client import Client
    from rgrid.transport.base import Server
    from rgrid.transport.httpx import HttpxTransport

    # it has to come back under the same address
    server = LiveServer(tmp_path_factory.mktemp("away"), port=free_port())
    server.start()
    try:
        server.wait_for_runner()
        client = Client(server.url, server.api_key)
        ids = [client.submit("import time\ntime.sleep(1)\nprint('over')").execution_id for _ in range(3)]

        async def connect() -> AsyncClient:
            return AsyncClient(transport=HttpxTransport(Server(server.url, server.api_key, 30)))

        async def wait() -> None:
            async with shared_feed("away", connect) as feed:
                waiting = [asyncio.create_task(feed.ended(one)) for one in ids]
                following = asyncio.create_task(lines_of(feed, ids[0]))
                await asyncio.wait_for(feed._has_position.wait(), 30)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                assert await asyncio.gather(*waiting) == ["completed"] * 3
                assert await following == ["over\n"]

        run(wait)
    finally:
        server.stop()


def test_what_the_server_fails_at_again_and_again_holds_nobody_else_up(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [client.submit("print('unheard')").execution_id for _ in range(feeds.READERS + 1)]
    talks = client.submit("print('heard')").execution_id
    real = calls.get_logs

    def get_logs(execution_id: str, after: int = 0, wait_seconds: float = 0) -> calls.Call[Any]:
        call = real(execution_id, after, wait_seconds)
        if execution_id in broken:
            call = copy.copy(call)
            call.read = fails
        return call

    def fails(_answer: Any) -> Any:
        raise ServerError("it fails", status=500)

    async def follow() -> None:
        monkeypatch.setattr(calls, "get_logs", get_logs)
        async with counted() as (feed, transport):
            following = [asyncio.create_task(lines_of(feed, one)) for one in broken]
            while sum(call.endswith("/logs") for call in transport.sent) <= feeds.READERS:
                assert not any(one.done() for one in following)
                await asyncio.sleep(0.01)
            assert await lines_of(feed, talks) == ["heard\n"]
            for one in following:
                one.cancel()
            await asyncio.gather(*following, return_exceptions=True)

    run(follow)


def test_an_error_that_nobody_foresaw_is_told_and_the_next_are_served(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "FAILED_PAUSE_SECONDS", 0.1)
    held = client.send(HELD).execution_id
    real = calls.get_events

    def broken(*_: Any, **_options: Any) -> calls.Call[Any]:
        monkeypatch.setattr(calls, "get_events", real)
        raise ValueError("cannot be read")

    async def wait() -> None:
        async with counted() as (feed, _):
            monkeypatch.setattr(calls, "get_events", broken)
            with pytest.raises(RGridError, match="ValueError: cannot be read"):
                await feed.ended(held)
            waiting = asyncio.create_task(feed.ended(held))
            await asyncio.to_thread(client.cancel, held)
            assert await waiting == "canceled"

    run(wait)


def test_a_position_that_is_lost_is_found_again(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = client.send(HELD).execution_id
    real, far = calls.get_events, []

    def get_events(after: int | None = None, **options: Any) -> calls.Call[Any]:
        if after is not None and not far:
            # as after a restore: a position that this server has never reached
            far.append(after)
            return real(2**62, **options)
        return real(after, **options)

    async def wait() -> None:
        monkeypatch.setattr(calls, "get_events", get_events)
        async with counted() as (feed, _):
            waiting = asyncio.create_task(feed.ended(held))
            while not far:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(client.cancel, held)
            assert await waiting == "canceled"

    run(wait)
    assert far
