"""A server dies while it cancels a batch: another one on the same PostgreSQL, or the next, ends the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from rgrid_server.scheduler.cancellations import PAGE
from tests.integration.conftest import Api
from tests.live import READY_SECONDS, LiveServer

if TYPE_CHECKING:
    from tests.postgres import PostgresCluster

SLEEPS = "import time\nprint('begun', flush=True)\ntime.sleep(600)"


@contextmanager
def servers(url: str, directory: Path, *slots: int) -> Iterator[list[LiveServer]]:
    """Servers on one database, with runners of so many slots."""
    options = ["--database-url", url, "--blob-url", (directory / "blobs").as_uri(), "--slots"]
    found = [
        LiveServer(directory / f"server-{number}", options=[*options, str(count)])
        for number, count in enumerate(slots)
    ]
    try:
        yield [server.start() for server in found]
    finally:
        for server in found:
            server.stop()


def batch_of(api: Api, count: int, script: str = "print(1)", **fields: Any) -> str:
    """A batch of so many; returns its id."""
    items = [{"args": [str(number)]} for number in range(count)]
    answer = api.post("/batches", {"template": {"script_content": script}, "items": items, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["batch_id"])


def killed_while_it_cancels(
    postgres: PostgresCluster, url: str, server: LiveServer, batch_id: str, *, before_index: int
) -> None:
    """Let a server cancel a batch until it comes to the page with an index, and kill it there."""

    def cancel() -> None:
        with suppress(requests.ConnectionError):
            Api(server.api, server.api_key).post(f"/batches/{batch_id}/cancel")

    asking = threading.Thread(target=cancel)
    with postgres.connect(url) as connection, connection.transaction():
        # whoever ends the page waits for this one
        held = "SELECT 1 FROM executions WHERE batch_id = %s AND batch_index = %s FOR UPDATE"
        assert connection.execute(held, [batch_id, before_index]).fetchone() is not None
        asking.start()
        with postgres.connect(url) as looking:
            deadline = time.monotonic() + READY_SECONDS
            waiting = (
                "SELECT 1 FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            while looking.execute(waiting).fetchone() is None:
                assert time.monotonic() < deadline, "the cancellation does not come to that page"
                time.sleep(0.01)
        server.kill()
    asking.join()


def ended(api: Api, batch_id: str) -> dict[str, Any]:
    """A batch when it has ended."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        found: dict[str, Any] = api.get(f"/batches/{batch_id}?wait=20").json()
        if found["completed_at"] is not None:
            return found
    raise AssertionError(f"it has not ended: {found}")


def ends_of(postgres: PostgresCluster, url: str, batch_id: str) -> list[int]:
    """How many executions of a batch have ended, and by how many events."""
    query = (
        "SELECT count(DISTINCT execution_id), count(*) FROM events "
        "WHERE batch_id = %s AND status IN ('completed', 'failed', 'canceled')"
    )
    with postgres.connect(url) as connection:
        found = connection.execute(query, [batch_id]).fetchone()
    assert found is not None
    return list(found)


def test_a_cancellation_whose_server_died_is_finished_by_another(
    postgres: PostgresCluster, tmp_path: Path
) -> None:
    url, count = postgres.create_database(), 2 * PAGE + 500
    with servers(url, tmp_path, 0, 0) as (first, second):
        other = Api(second.api, second.api_key)
        batch_id = batch_of(other, count)
        killed_while_it_cancels(postgres, url, first, batch_id, before_index=PAGE + 1)
        found = ended(other, batch_id)
        assert (found["status"], found["counts"]["canceled"]) == ("canceled", count)
        assert ends_of(postgres, url, batch_id) == [count, count]
        assert f"going on with the cancellation of the batch {batch_id} from {PAGE}" in second.log


def test_a_cancellation_whose_server_died_stops_what_the_runner_of_another_carries(
    postgres: PostgresCluster, tmp_path: Path
) -> None:
    url = postgres.create_database()
    with servers(url, tmp_path, 0, 2) as (first, second):
        other = Api(second.wait_for_runner().api, second.api_key)
        batch_id = batch_of(other, 6, SLEEPS, parallelism=2)
        while other.get(f"/batches/{batch_id}").json()["counts"]["running"] < 2:
            pass
        killed_while_it_cancels(postgres, url, first, batch_id, before_index=5)
        assert ended(other, batch_id)["counts"]["canceled"] == 6
        outputs = [
            other.get(f"/executions/{item['execution_id']}").json()["stdout"]
            for item in other.get(f"/batches/{batch_id}/executions").json()
        ]
        assert outputs == ["begun\n"] * 2 + [""] * 4


def test_a_cancellation_whose_only_server_died_is_finished_by_the_same_server_when_it_is_back(
    postgres: PostgresCluster, tmp_path: Path
) -> None:
    url = postgres.create_database()
    with servers(url, tmp_path, 0) as (server,):
        batch_id = batch_of(Api(server.api, server.api_key), PAGE + 500)
        killed_while_it_cancels(postgres, url, server, batch_id, before_index=PAGE)
        server.restart()
        found = ended(Api(server.api, server.api_key), batch_id)
        assert found["counts"]["canceled"] == PAGE + 500
        assert ends_of(postgres, url, batch_id) == [PAGE + 500] * 2
