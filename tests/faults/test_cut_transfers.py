"""Large files whose transfer is cut again and again, or whose server is killed, go on where they were.

A proxy cuts every exchange that moves more than 3 MiB, and the files have 8: what began from nothing each
time would never end. What has passed through the proxy is counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rgrid import calls
from rgrid.aio import AsyncClient
from rgrid.client import Client
from rgrid.exceptions import TransportError
from rgrid.parts import PART_VARIABLE
from rgrid.streams import no_folder
from rgrid.transport.base import Server
from rgrid.transport.requests import RequestsTransport
from tests.faults.grid import SANDBOX, RunnerProcess
from tests.faults.proxy import Fault, Kind, Proxy, no_faults
from tests.live import LiveServer

MIB = 1024 * 1024
SIZE_BYTES = 8 * MIB
CUT_AFTER_BYTES = 3 * MIB
BESIDE_BYTES = MIB
"""More than the requests and answers without a file take in all."""
CUT_SECONDS = 120

WRITER = f"""
import random
with open("large", "wb") as file:
    file.write(random.Random(5).randbytes({SIZE_BYTES}))
"""
CONTENT = random.Random(5).randbytes(SIZE_BYTES)

Bring = Callable[[str, str, Mapping[str, Path]], None]


def cuts(kind: Kind) -> Callable[[], Fault]:
    """A plan that cuts every exchange that moves a large file."""
    return partial(Fault, kind, after_bytes=CUT_AFTER_BYTES)


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    """A server with a runner of its own."""
    with LiveServer(options=["--slots", "1", *SANDBOX]) as server:
        yield server.wait_for_runner()


@pytest.fixture
def large(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that no other test has."""
    path = tmp_path / "large"
    path.write_bytes(random.Random(request.node.name).randbytes(SIZE_BYTES))
    return path


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of more than 4 MiB go in parts of that, so a part is more than a connection lets through."""
    monkeypatch.setenv(PART_VARIABLE, str(4 * MIB))


def through(server: LiveServer, plan: Callable[[], Fault] = no_faults) -> Proxy:
    """A proxy before a server, wherever that is."""

    def target() -> tuple[str, int]:
        parts = urlsplit(server.url)
        return parts.hostname or "", parts.port or 0

    return Proxy(target, plan)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(server: LiveServer) -> list[str]:
    """What is there of uploads that are not finished."""
    return [path.name for path in (server.data_dir / "blobs" / "partial").glob("*/*")]


def stored(server: LiveServer, path: Path) -> bool:
    """Whether the server has a file's bytes, and gives them back."""
    with Client(server.url, server.api_key) as client:
        found = b"".join(client.transport.stream(calls.get_blob(sha256(path))))
    return found == path.read_bytes()


def bring_by_stdlib(url: str, key: str, files: Mapping[str, Path]) -> None:
    with Client(url, key) as client:
        client.upload(files)


def bring_by_requests(url: str, key: str, files: Mapping[str, Path]) -> None:
    with Client(transport=RequestsTransport(Server(url, key))) as client:
        client.upload(files)


def bring_by_httpx(url: str, key: str, files: Mapping[str, Path]) -> None:
    async def bring() -> None:
        async with AsyncClient(url, key) as client:
            await client.upload(files)

    asyncio.run(bring())


def fetch_by_stdlib(url: str, key: str, execution_id: str, directory: Path) -> None:
    with Client(url, key) as client:
        client.download(execution_id, directory)


def fetch_by_requests(url: str, key: str, execution_id: str, directory: Path) -> None:
    with Client(transport=RequestsTransport(Server(url, key))) as client:
        client.download(execution_id, directory)


def fetch_by_httpx(url: str, key: str, execution_id: str, directory: Path) -> None:
    async def fetch() -> None:
        async with AsyncClient(url, key) as client:
            await client.download(execution_id, directory)

    asyncio.run(fetch())


@pytest.mark.parametrize("bring", [bring_by_stdlib, bring_by_requests, bring_by_httpx])
def test_an_upload_that_is_cut_again_and_again_arrives(live: LiveServer, large: Path, bring: Bring) -> None:
    with through(live, cuts(Kind.CUT_UPLOAD)) as proxy:
        bring(proxy.url, live.api_key, {"large": large})
        assert proxy.dealt[Kind.CUT_UPLOAD] > 2
        # of each connection that was cut little was on its way that had not arrived
        assert SIZE_BYTES < proxy.asked_bytes < 2 * SIZE_BYTES
    assert stored(live, large)
    assert leftovers(live) == []


@pytest.fixture(scope="module")
def made(live: LiveServer) -> str:
    """An execution that has left a large file."""
    with Client(live.url, live.api_key) as client:
        execution = client.wait(client.submit(WRITER).execution_id)
    assert execution.status == "completed", execution.execution_error
    return execution.execution_id


@pytest.mark.parametrize("fetch", [fetch_by_stdlib, fetch_by_requests, fetch_by_httpx])
def test_a_download_that_is_cut_again_and_again_arrives(
    live: LiveServer, made: str, tmp_path: Path, fetch: Callable[[str, str, str, Path], None]
) -> None:
    with through(live, cuts(Kind.CUT_ANSWER)) as proxy:
        fetch(proxy.url, live.api_key, made, tmp_path)
        assert SIZE_BYTES < proxy.answered_bytes < SIZE_BYTES + BESIDE_BYTES
    assert (tmp_path / "large").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


class Stopped(KeyboardInterrupt):
    """Someone has had enough."""


class StopsAfter:
    """Progress that ends its caller once so much has moved."""

    def __init__(self, size_bytes: int, stop: Callable[[], None]) -> None:
        self._left_bytes = size_bytes
        self._stop = stop

    def on_start(self, total_bytes: int) -> None:
        """Nothing."""

    def on_advance(self, moved_bytes: int) -> None:
        """Count."""
        if self._left_bytes > 0 >= self._left_bytes - moved_bytes:
            self._left_bytes = 0
            self._stop()
        self._left_bytes -= moved_bytes

    def on_end(self) -> None:
        """Nothing."""


def stop() -> None:
    raise Stopped


class Counts(StopsAfter):
    """Progress that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(0, stop)
        self.moved: list[int] = []

    def on_advance(self, moved_bytes: int) -> None:
        """Keep it."""
        self.moved.append(moved_bytes)


def test_a_download_that_was_broken_off_is_gone_on_with_by_the_next_call(
    live: LiveServer, made: str, tmp_path: Path
) -> None:
    with Client(live.url, live.api_key) as client, pytest.raises(Stopped):
        client.download(made, tmp_path, progress=StopsAfter(5 * MIB, stop))
    (part,) = tmp_path.iterdir()
    assert part.name.startswith(".large.")
    here_bytes = part.stat().st_size
    assert here_bytes >= 5 * MIB
    progress = Counts()
    with through(live) as proxy, Client(proxy.url, live.api_key) as client:
        client.download(made, tmp_path, progress=progress)
        assert proxy.answered_bytes < SIZE_BYTES - here_bytes + BESIDE_BYTES
    assert progress.moved[0] == here_bytes, "the bar begins where it was"
    assert sum(progress.moved) == SIZE_BYTES
    assert [path.name for path in tmp_path.iterdir()] == ["large"]
    assert (tmp_path / "large").read_bytes() == CONTENT


def test_a_part_with_other_bytes_is_found_out_and_fetched_again(
    live: LiveServer, made: str, tmp_path: Path
) -> None:
    with Client(live.url, live.api_key) as client:
        with pytest.raises(Stopped):
            client.download(made, tmp_path, progress=StopsAfter(5 * MIB, stop))
        (part,) = tmp_path.iterdir()
        with part.open("r+b") as file:
            file.write(b"something else")
        client.download(made, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["large"]
    assert (tmp_path / "large").read_bytes() == CONTENT


def test_a_download_whose_server_stays_away_is_told_and_gone_on_with_later(
    live: LiveServer, made: str, tmp_path: Path
) -> None:
    # cut, so that no more can be on its way to the client than a part when the server goes
    with through(live, cuts(Kind.CUT_ANSWER)) as proxy, Client(proxy.url, live.api_key) as client:
        with pytest.raises(TransportError):
            client.download(made, tmp_path, progress=StopsAfter(2 * MIB, proxy.isolate))
        before_bytes = proxy.answered_bytes
        proxy.join()
        client.download(made, tmp_path)
        assert proxy.answered_bytes - before_bytes < SIZE_BYTES - MIB
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_a_batchs_large_output_that_is_cut_is_fetched_by_itself(live: LiveServer, tmp_path: Path) -> None:
    with Client(live.url, live.api_key) as client:
        batch = client.submit_batch({"script_content": WRITER}, [{"args": ["1"]}])
        client.wait_batch(batch.batch_id)
    progress = Counts()
    with through(live, cuts(Kind.CUT_ANSWER)) as proxy, Client(proxy.url, live.api_key) as client:
        results = client.batch_outputs(
            batch.batch_id, tmp_path, follow=True, folder_of=no_folder, progress=progress
        )
        assert [result.status for result in results] == ["completed"]
        assert SIZE_BYTES < proxy.answered_bytes < SIZE_BYTES + BESIDE_BYTES
    assert SIZE_BYTES < sum(progress.moved) < SIZE_BYTES + BESIDE_BYTES
    assert (tmp_path / "large").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_a_runners_input_that_is_cut_again_and_again_arrives(tmp_path: Path, large: Path) -> None:
    script = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
    with (
        LiveServer(tmp_path / "server", options=["--slots", "0"]) as server,
        through(server, cuts(Kind.CUT_ANSWER)) as proxy,
        Client(server.url, server.api_key) as client,
    ):
        key = (server.data_dir / "runner.key").read_text().strip()
        runner = RunnerProcess(tmp_path / "runner", proxy.url, key, slots=1).start()
        try:
            inputs = client.upload({"large": large})
            execution = client.submit(script, args=["large"], inputs=inputs)
            ended = client.wait(execution.execution_id, CUT_SECONDS)
        finally:
            runner.stop()
        assert ended.stdout == f"{sha256(large)}\n", ended.execution_error
        assert SIZE_BYTES < proxy.answered_bytes < SIZE_BYTES + BESIDE_BYTES


def test_a_runners_output_that_is_cut_again_and_again_arrives(tmp_path: Path) -> None:
    with (
        LiveServer(tmp_path / "server", options=["--slots", "0"]) as server,
        through(server, cuts(Kind.CUT_UPLOAD)) as proxy,
        Client(server.url, server.api_key) as client,
    ):
        key = (server.data_dir / "runner.key").read_text().strip()
        runner = RunnerProcess(tmp_path / "runner", proxy.url, key, slots=1).start()
        try:
            ended = client.wait(client.submit(WRITER).execution_id, CUT_SECONDS)
        finally:
            runner.stop()
        assert ended.status == "completed", ended.execution_error
        assert SIZE_BYTES < proxy.asked_bytes < 2 * SIZE_BYTES
        assert ended.attempt == 1
        client.download(ended.execution_id, tmp_path / "out")
        assert leftovers(server) == []
    assert (tmp_path / "out" / "large").read_bytes() == CONTENT


def test_an_output_that_is_not_taken_in_parts_is_sent_whole(tmp_path: Path) -> None:
    options = ["--slots", "1", *SANDBOX]
    with (
        LiveServer(
            tmp_path / "server", options=options, env={"RGRID_MAX_UNFINISHED_BYTES": "1000"}
        ) as server,
        Client(server.url, server.api_key) as client,
    ):
        ended = client.wait(client.submit(WRITER).execution_id, CUT_SECONDS)
        assert ended.status == "completed", ended.execution_error
        client.download(ended.execution_id, tmp_path / "out")
        assert leftovers(server) == []
    assert (tmp_path / "out" / "large").read_bytes() == CONTENT


def test_an_upload_goes_on_where_it_was_after_the_server_was_killed_between_parts(
    tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PART_VARIABLE, str(MIB))
    with LiveServer(tmp_path / "server", options=["--slots", "0"]) as server, through(server) as proxy:

        def kill() -> None:
            server.kill()
            server.restart()

        with Client(proxy.url, server.api_key) as client:
            client.upload({"large": large}, StopsAfter(5 * MIB, kill))
        assert proxy.asked_bytes < SIZE_BYTES + BESIDE_BYTES, "nothing that was answered was sent again"
        assert stored(server, large)
        assert leftovers(server) == []


def test_an_upload_that_its_client_broke_off_is_gone_on_with_by_the_next_one(
    live: LiveServer, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PART_VARIABLE, str(MIB))
    with Client(live.url, live.api_key) as client, pytest.raises(Stopped):
        client.upload({"large": large}, StopsAfter(5 * MIB, stop))
    assert leftovers(live) == [sha256(large)]
    progress = Counts()
    with through(live) as proxy, Client(proxy.url, live.api_key) as client:
        client.upload({"large": large}, progress)
        assert proxy.asked_bytes < 3 * MIB + BESIDE_BYTES
    assert progress.moved[0] == 5 * MIB
    assert sum(progress.moved) == SIZE_BYTES
    assert stored(live, large)
    assert leftovers(live) == []


def test_two_clients_that_bring_the_same_file_at_once_do_not_disturb_each_other(
    live: LiveServer, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PART_VARIABLE, str(MIB))
    begin, failures = threading.Barrier(2), []

    def bring() -> None:
        begin.wait()
        try:
            bring_by_stdlib(live.url, live.api_key, {"large": large})
        except BaseException as failure:
            failures.append(failure)
            raise

    threads = [threading.Thread(target=bring) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert stored(live, large)
    assert leftovers(live) == []
