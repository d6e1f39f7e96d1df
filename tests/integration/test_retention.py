"""What the API says of things whose time is over, and what is never let go. The clock is the test's own."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from rgrid_server.app import ServerState, make_app, open_server
from rgrid_server.blobs.base import INLINE_MAX_BYTES
from rgrid_server.config import Settings
from rgrid_server.domain.attempts import Assignment, LogChunk, LogEntry, Outcome, OutputFile, Report
from rgrid_server.domain.retention import DAY_MS, DELETE_AFTER_MS
from rgrid_server.scheduler import retention as letting_go
from rgrid_server.scheduler.offers import ClaimRequest
from rgrid_server.scheduler.reports import SentChunk
from tests.live import API_KEY

LARGE = bytes(INLINE_MAX_BYTES + 1)
SMALL = b"small"


class Clock:
    """In the place of ``time`` in rgrid_server.clock: it stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def time_ns(self) -> int:
        return self.now_ms * 1_000_000

    def pass_days(self, days: float) -> None:
        """Move it on."""
        self.now_ms += round(days * DAY_MS)


class Server:
    """A server in this process, asked over HTTP; its runner is played."""

    def __init__(self, state: ServerState, clock: Clock) -> None:
        self.state = state
        self.clock = clock
        self.services = state.services
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(make_app(state)),
            base_url="http://rgrid/api/v1",
            headers={"Authorization": f"Bearer {API_KEY}"},
        )

    async def register(self) -> None:
        await self.services.leases.register(
            {
                "runner_id": "runner_1",
                "incarnation": "1",
                "hostname": "host",
                "slots": 1,
                "runtimes": [{"name": "python:3.11", "version": "3.11.7"}],
                "sandbox": "bubblewrap",
                "version": "1",
            }
        )

    async def put(self, content: bytes) -> str:
        """Upload; returns its hash."""
        sha256 = hashlib.sha256(content).hexdigest()
        (await self.http.put(f"/blobs/{sha256}", content=content)).raise_for_status()
        return sha256

    async def submit(self, **fields: Any) -> str:
        answer = await self.http.post("/executions", json={"script_content": "print(1)", **fields})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["execution_id"])

    async def get(self, path: str, **options: Any) -> Any:
        answer = await self.http.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def claim(self) -> Assignment:
        claimed = await self.services.leases.claim(
            ClaimRequest("runner_1", free_cpus_milli=8000, free_slots=1, wait_ms=0), is_here
        )
        (attempt,) = claimed.attempts
        return attempt

    async def end(
        self, attempt: Assignment, outputs: dict[str, bytes] | None = None, *, lines: int = 1
    ) -> None:
        received = [
            await self.services.uploads.receive(chunks(one), None) for one in (outputs or {}).values()
        ]
        entries = [LogEntry(1, self.clock.now_ms, f"line {number}", 1) for number in range(lines)]
        report = Report(
            execution_id=attempt.execution_id,
            attempt=attempt.attempt,
            token=attempt.token,
            outcome=Outcome.EXITED,
            exit_code=0,
            duration_ms=3_600_000,
            stdout="line 0\n",
            last_sequence=lines,
            log=LogChunk(1, entries),
            artifacts=[
                OutputFile(name, item.sha256, item.size_bytes, "text/plain")
                for name, item in zip(outputs or {}, received, strict=True)
            ],
        )
        async with self.services.uploads.taking(received):
            by_hash = {item.sha256: item for item in received}
            verdicts = await self.services.reports.end_attempts([report], by_hash, {})
        assert [verdict.value for verdict in verdicts] == ["accepted"]

    async def run(self, outputs: dict[str, bytes] | None = None, **fields: Any) -> str:
        """Submit, and carry it; returns its id."""
        execution_id = await self.submit(**fields)
        await self.end(await self.claim(), outputs)
        return execution_id

    async def let_go_after(self, days: float) -> None:
        """Let days pass, and then the grace of what they condemned."""
        self.clock.pass_days(days)
        await self.state.retention.let_go()
        self.clock.now_ms += DELETE_AFTER_MS
        await self.state.retention.let_go()

    def files(self) -> list[str]:
        """What stands in the blob store."""
        blobs = self.state.settings.data_dir / "blobs"
        return [path.name for path in blobs.rglob("*") if path.is_file()]


async def chunks(content: bytes) -> Any:
    yield content


async def is_here() -> bool:
    return False


Scenario = Callable[[Server], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a scenario on a fresh server."""
    clock = Clock()
    monkeypatch.setattr("rgrid_server.clock.time", clock)

    def run(scenario: Scenario, **settings: Any) -> None:
        async def open_() -> None:
            found = Settings(data_dir=tmp_path / "data", bootstrap_api_key=API_KEY, **settings)
            async with open_server(found) as state:
                server = Server(state, clock)
                await server.register()
                async with server.http:
                    await scenario(server)

        asyncio.run(open_())

    return run


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["detail"]["error"]


def test_a_log_is_there_for_seven_days_and_then_says_that_it_is_gone(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        one = await server.run()
        await server.let_go_after(6.9)
        assert len((await server.get(f"/executions/{one}/logs", headers=JSON))["entries"]) == 1
        await server.let_go_after(0.2)
        for accept in ("application/json", "text/event-stream", "text/plain"):
            answer = await server.http.get(f"/executions/{one}/logs", headers={"Accept": accept})
            assert error_of(answer) == (410, "logs_expired")
            assert "7 days" in answer.text
        assert (await server.get(f"/executions/{one}"))["stdout"] == "line 0\n"

    play(scenario)


def test_a_log_that_was_empty_is_not_said_to_be_gone(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        one = await server.submit()
        await server.end(await server.claim(), lines=0)
        await server.let_go_after(8)
        found = await server.get(f"/executions/{one}/logs", headers=JSON)
        assert (found["entries"], found["complete"]) == ([], True)

    play(scenario)


def test_the_log_of_what_still_runs_stays(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        one = await server.submit()
        attempt = await server.claim()
        chunk = LogChunk(1, [LogEntry(1, server.clock.now_ms, "early", 1)])
        await server.services.reports.append_logs([SentChunk(one, attempt.attempt, attempt.token, chunk)])
        await server.let_go_after(100)
        assert len((await server.get(f"/executions/{one}/logs", headers=JSON))["entries"]) == 1

    play(scenario)


def test_a_lost_attempts_log_is_said_to_be_gone_too(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        one = await server.submit()
        attempt = await server.claim()
        chunk = LogChunk(1, [LogEntry(1, server.clock.now_ms, "early", 1)])
        await server.services.reports.append_logs([SentChunk(one, attempt.attempt, attempt.token, chunk)])
        await server.http.post(f"/executions/{one}/cancel")
        server.clock.pass_days(1)
        await server.services.leases.expire(server.clock.now_ms)
        assert (await server.get(f"/executions/{one}"))["status"] == "canceled"
        await server.let_go_after(8)
        answer = await server.http.get(f"/executions/{one}/logs", headers=JSON)
        assert error_of(answer) == (410, "logs_expired")

    play(scenario)


def test_files_are_there_for_thirty_days_and_say_until_when(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        one = await server.submit(inputs={"in": await server.put(SMALL)})
        (waiting,) = await server.get(f"/executions/{one}/artifacts")
        assert waiting["expires_at"] is None
        await server.end(await server.claim(), {"out": LARGE})
        files = await server.get(f"/executions/{one}/artifacts")
        assert {item["expires_at"] for item in files} == {"2027-02-14T08:00:00.000Z"}
        await server.let_go_after(29.9)
        (url,) = (await server.get(f"/executions/{one}"))["download_urls"].values()
        assert (await server.http.get(url)).content == LARGE
        await server.let_go_after(0.2)
        assert (await server.http.get(url)).status_code == 404
        assert await server.get(f"/executions/{one}/artifacts") == []
        answer = await server.http.post("/artifacts/download-url", json={"s3_key": files[0]["file_path"]})
        assert answer.status_code == 404
        assert server.files() == []

    play(scenario)


def test_what_was_paid_stays_when_the_data_go(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        one = await server.run({"out": LARGE}, user_metadata={"owner": "ada"})
        before = await server.get(f"/executions/{one}")
        query = "/cost/breakdown?group_by=owner&since=2027-01-01&until=2027-12-31"
        cost = await server.get(query)
        assert cost["total_cost_micros"] > 0
        await server.let_go_after(365)
        after = await server.get(f"/executions/{one}")
        assert after == before | {"stdout": "", "stderr": "", "download_urls": {}}
        assert await server.get(query) == cost

    play(scenario)


def test_running_it_again_without_its_inputs_is_a_conflict_with_the_way_out(
    play: Callable[..., None],
) -> None:
    async def scenario(server: Server) -> None:
        one = await server.run(inputs={"in.csv": await server.put(SMALL)})
        body = {
            "template": {"script_content": "print(2)"},
            "items": [{"inputs": {"a.csv": await server.put(LARGE)}}],
        }
        batch = (await server.http.post("/batches", json=body)).json()["batch_id"]
        await server.end(await server.claim())
        await server.let_go_after(31)
        answer = await server.http.post(f"/executions/{one}/retry")
        assert error_of(answer) == (409, "inputs_expired")
        assert "in.csv" in answer.text
        answer = await server.http.post(f"/batches/{batch}/retry", json={"failed_only": False})
        assert error_of(answer) == (409, "inputs_expired")
        assert "a.csv" in answer.text
        await server.put(SMALL)
        assert (await server.http.post(f"/executions/{one}/retry")).status_code == 200

    play(scenario)


def test_an_input_shared_with_something_unfinished_stays(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        sha256 = await server.put(LARGE)
        await server.run(inputs={"in": sha256})
        later = await server.submit(inputs={"in": sha256})
        await server.let_go_after(60)
        assert (await server.http.get(f"/blobs/{sha256}")).content == LARGE
        attempt = await server.claim()
        assert attempt.execution_id == later
        await server.end(attempt)
        assert (await server.http.post(f"/executions/{later}/retry")).status_code == 200

    play(scenario)


def test_an_upload_that_nobody_uses_is_gone_after_a_day(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        sha256 = await server.put(LARGE)
        await server.let_go_after(0.9)
        assert (await server.http.get(f"/blobs/{sha256}")).status_code == 200
        await server.let_go_after(0.2)
        assert (await server.http.get(f"/blobs/{sha256}")).status_code == 404
        assert server.files() == []

    play(scenario)


def test_whoever_is_told_that_a_blob_is_here_may_rely_on_it(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        sha256 = await server.put(LARGE)
        server.clock.pass_days(0.99)
        missing = await server.http.post("/blobs/missing", json={"hashes": [sha256]})
        assert missing.json() == {"missing": []}
        await server.let_go_after(0.4)
        await server.submit(inputs={"in": sha256})

    play(scenario)


def test_a_condemned_blob_counts_as_absent_and_giving_it_again_revives_it(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        sha256 = await server.put(LARGE)
        (first,) = server.files()
        server.clock.pass_days(1.1)
        await server.state.retention.let_go()
        assert server.files() == [first]
        missing = await server.http.post("/blobs/missing", json={"hashes": [sha256]})
        assert missing.json() == {"missing": [sha256]}
        answer = await server.http.post(
            "/executions", json={"script_content": "print(1)", "inputs": {"in": sha256}}
        )
        assert answer.status_code == 422
        await server.put(LARGE)
        await server.let_go_after(0.5)
        assert (await server.http.get(f"/blobs/{sha256}")).content == LARGE
        assert server.files() == [first]

    play(scenario)


def test_the_second_upload_of_the_same_bytes_leaves_no_second_file(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        await asyncio.gather(*(server.put(LARGE) for _ in range(5)))
        assert len(server.files()) == 1

    play(scenario)


def test_events_go_with_the_data_and_the_feed_goes_on(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        await server.run()
        await server.let_go_after(31)
        with closing(sqlite3.connect(server.state.settings.data_dir / "rgrid.sqlite")) as database:
            (last,) = database.execute("SELECT max(sequence) FROM events").fetchone()
            assert database.execute("SELECT count(*) FROM events").fetchone() == (1,)
            await server.run()
            (lowest,) = database.execute(
                "SELECT min(sequence) FROM events WHERE sequence > ?", (last,)
            ).fetchone()
            assert lowest == last + 1
        answer = await server.http.get("/events?after=0", headers=JSON)
        assert error_of(answer) == (410, "position_expired")
        start = answer.json()["detail"]["oldest_position"]
        assert start == last - 1
        page = await server.get(f"/events?after={start}", headers=JSON)
        assert [item["status"] for item in page] == [
            "completed",
            "queued",
            "running",
            "completed",
        ]

    play(scenario)


def test_a_batch_says_when_its_results_are_kept_no_more(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        body = {"template": {"script_content": "print(2)"}, "items": [{"args": ["1"]}, {"args": ["2"]}]}
        batch = (await server.http.post("/batches", json=body)).json()["batch_id"]
        for _ in range(2):
            await server.end(await server.claim())
        assert len((await server.http.get(f"/batches/{batch}/results")).text.splitlines()) == 2
        await server.let_go_after(31)
        await server.run()
        await server.let_go_after(1)
        answer = await server.http.get(f"/batches/{batch}/results")
        assert error_of(answer) == (410, "results_expired")
        assert (await server.get(f"/batches/{batch}"))["counts"]["completed"] == 2

    play(scenario)


def test_logs_that_are_kept_longer_than_files_hold_up_neither(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        one = await server.run({"out": LARGE})
        await server.let_go_after(2)
        assert await server.get(f"/executions/{one}/artifacts") == []
        assert len((await server.get(f"/executions/{one}/logs", headers=JSON))["entries"]) == 1
        await server.let_go_after(9)
        assert (await server.http.get(f"/executions/{one}/logs", headers=JSON)).status_code == 410

    play(scenario, log_retention_days=10, output_retention_days=1)


def test_a_log_of_many_chunks_goes_in_parts_that_hold_nobody_up(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letting_go, "CHUNKS_A_STEP", 3)

    async def scenario(server: Server) -> None:
        ids = []
        for _ in range(3):
            ids.append(await server.submit())
            attempt = await server.claim()
            for number in range(7):
                chunk = LogChunk(number * 2 + 1, [LogEntry(1, server.clock.now_ms, "x", 1)] * 2)
                sent = SentChunk(attempt.execution_id, attempt.attempt, attempt.token, chunk)
                await server.services.reports.append_logs([sent])
            await server.end(attempt, lines=0)
        deleted: list[int] = []
        delete_log = letting_go.store.delete_log

        def count(*arguments: Any) -> int:
            deleted.append(delete_log(*arguments))
            return deleted[-1]

        monkeypatch.setattr(letting_go.store, "delete_log", count)
        await server.let_go_after(8)
        assert sum(deleted) == 21
        assert max(deleted) == 3
        for one in ids:
            assert (await server.http.get(f"/executions/{one}/logs", headers=JSON)).status_code == 410

    play(scenario)


def test_the_database_does_not_grow_by_logs_that_come_and_go(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        path = server.state.settings.data_dir / "rgrid.sqlite"

        async def a_week() -> int:
            for _ in range(4):
                await server.submit()
                attempt = await server.claim()
                for number in range(4):
                    entries = [LogEntry(1, server.clock.now_ms, "y" * 60_000, 1)] * 8
                    sent = SentChunk(
                        attempt.execution_id,
                        attempt.attempt,
                        attempt.token,
                        LogChunk(number * 8 + 1, entries),
                    )
                    await server.services.reports.append_logs([sent])
                await server.end(attempt, lines=0)
            with closing(sqlite3.connect(path)) as database:
                (pages,) = database.execute("PRAGMA page_count").fetchone()
            await server.let_go_after(8)
            return int(pages)

        weeks = [await a_week() for _ in range(4)]
        assert max(weeks[1:]) < weeks[0] * 1.05

    play(scenario)


def test_files_that_a_crash_left_without_a_row_are_swept(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        kept = await server.put(LARGE)
        received = await server.services.uploads.receive(chunks(LARGE * 2), None)
        assert received.location is not None
        assert len(server.files()) == 2
        # the files have the machine's times, which the test's clock is far ahead of
        assert await server.state.retention.remove_orphans() == 1
        assert [name.partition("-")[0] for name in server.files()] == [kept]

    play(scenario)


def test_nothing_is_let_go_by_a_clock_that_was_just_set(play: Callable[..., None]) -> None:
    async def scenario(server: Server) -> None:
        sha256 = await server.put(LARGE)
        keeping = asyncio.create_task(server.state.retention.keep_up(every_seconds=0))
        for _ in range(20):
            await asyncio.sleep(0)
        server.clock.pass_days(400)
        for _ in range(200):
            await asyncio.sleep(0)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        server.clock.pass_days(-400)
        assert (await server.http.get(f"/blobs/{sha256}")).content == LARGE

    play(scenario)


JSON = {"Accept": "application/json"}
