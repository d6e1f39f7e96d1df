"""Claiming, as a runner that loses answers: what was handed over and never arrived comes again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Api
from tests.live import LiveServer


class Runner:
    """The calls of a runner, without one."""

    def __init__(self, server: LiveServer, name: str = "runner", *runtimes: str) -> None:
        self.api = Api(server.api, (server.data_dir / "runner.key").read_text().strip())
        self.name = name
        self.runtimes = [{"name": one, "version": one.partition(":")[2]} for one in runtimes]
        self.register()

    def register(self, incarnation: str = "first") -> None:
        """Introduce it."""
        said = {"hostname": "here", "slots": 8, "sandbox": "bubblewrap", "version": "1"}
        named = {"runner_id": self.name, "incarnation": incarnation, "runtimes": self.runtimes}
        answer = self.api.post("/runner/register", {**named, **said})
        assert answer.status_code == 200, answer.text

    def claim(
        self, known: Sequence[dict[str, Any]] | None, slots: int = 8, incarnation: str = ""
    ) -> list[dict[str, Any]]:
        """Ask for work, knowing some already."""
        asked: dict[str, Any] = {
            "runner_id": self.name,
            "free_cpus_milli": 8000,
            "free_slots": slots,
            "wait_ms": 0,
            "incarnation": incarnation,
        }
        if known is not None:
            asked["known"] = [
                {"execution_id": one["execution_id"], "attempt": one["attempt"]} for one in known
            ]
        answer = self.api.post("/runner/claim", asked)
        assert answer.status_code == 200, answer.text
        claimed: list[dict[str, Any]] = answer.json()["attempts"]
        return claimed


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """A server without a runner."""
    with LiveServer(tmp_path / "data", options=["--slots", "0"]) as started:
        yield started


def test_what_a_lost_answer_handed_over_comes_again_under_the_same_number(server: LiveServer) -> None:
    runner = Runner(server)
    submitted = Api(server.api, server.api_key).submit("print(1)")["execution_id"]
    (lost,) = runner.claim(known=[])
    (again,) = runner.claim(known=[])
    assert (lost["execution_id"], lost["attempt"]) == (submitted, 1)
    assert again == lost


def test_what_a_runner_knows_is_not_handed_over_again(server: LiveServer) -> None:
    runner = Runner(server)
    Api(server.api, server.api_key).submit("print(1)")
    arrived = runner.claim(known=[])
    assert runner.claim(known=arrived) == []


def test_a_runner_that_does_not_say_what_it_knows_is_given_new_work_only(server: LiveServer) -> None:
    runner = Runner(server)
    Api(server.api, server.api_key).submit("print(1)")
    assert len(runner.claim(known=None)) == 1
    assert runner.claim(known=None) == []


def test_what_comes_again_takes_its_place_among_the_slots(server: LiveServer) -> None:
    runner = Runner(server)
    api = Api(server.api, server.api_key)
    ids = [api.submit("print(1)")["execution_id"] for _ in range(4)]
    runner.claim(known=[], slots=2)
    claimed = runner.claim(known=[], slots=3)
    assert {one["execution_id"] for one in claimed} == set(ids[:3])


def test_a_claim_lost_with_a_killed_server_comes_again_from_the_next(server: LiveServer) -> None:
    runner = Runner(server)
    Api(server.api, server.api_key).submit("print(1)")
    lost = runner.claim(known=[])
    server.kill()
    server.restart()
    runner.api.base = server.api
    assert runner.claim(known=[]) == lost


def test_a_new_incarnation_begins_a_new_attempt(server: LiveServer) -> None:
    runner = Runner(server)
    api = Api(server.api, server.api_key)
    submitted = api.submit("print(1)")["execution_id"]
    runner.claim(known=[])
    runner.register("second")
    found = api.get(f"/executions/{submitted}").json()
    assert (found["status"], found["retry_count"]) == ("queued", 1)


def test_a_runner_whose_name_another_has_taken_is_told_so_and_given_nothing(server: LiveServer) -> None:
    runner = Runner(server)
    Api(server.api, server.api_key).submit("print(1)")
    runner.register("second")
    asked = {"runner_id": "runner", "free_cpus_milli": 8000, "free_slots": 1, "wait_ms": 0, "known": []}
    refused = runner.api.post("/runner/claim", {**asked, "incarnation": "first"})
    assert (refused.status_code, refused.json()["detail"]["error"]) == (403, "superseded")
    assert len(runner.claim(known=[], incarnation="second")) == 1


def test_of_two_runners_under_one_name_only_the_later_one_is_given_anything(server: LiveServer) -> None:
    runner = Runner(server)
    api = Api(server.api, server.api_key)
    ids = [api.submit("print(1)")["execution_id"] for _ in range(2)]
    (carried,) = runner.claim(known=[], slots=1)
    runner.register("second")
    for call in ("claim", "heartbeat"):
        asked = {"runner_id": "runner", "incarnation": "first", "attempts": [], "wait_ms": 0}
        answer = runner.api.post(f"/runner/{call}", {**asked, "free_cpus_milli": 1000, "free_slots": 1})
        assert answer.status_code == 403
        assert answer.json()["detail"]["error"] == "superseded"
    # what the first one carried is taken back; the other one is free for whoever is it now
    given = runner.claim(known=[], incarnation="second")
    assert next(one for one in ids if one != carried["execution_id"]) in [
        one["execution_id"] for one in given
    ]


def test_a_runner_that_asks_in_vain_is_known_to_be_here(server: LiveServer) -> None:
    runner = Runner(server)
    with sqlite3.connect(server.data_dir / "rgrid.sqlite", timeout=30) as database:
        database.execute("UPDATE runners SET seen_at_ms = seen_at_ms - 3600000")
    assert runner.claim(known=[]) == []
    (listed,) = Api(server.api, server.api_key).get("/admin/runners").json()
    assert listed["seen_at"] >= listed["registered_at"]


def test_of_two_runners_each_is_given_what_it_can_run(server: LiveServer) -> None:
    plain, other = Runner(server, "plain", "python:3.11"), Runner(server, "other", "python:3.11", "node:20")
    api = Api(server.api, server.api_key)
    ids = [api.submit("1", runtime=one)["execution_id"] for one in ["node:20"] * 10 + ["python:3.11"]]
    carried = plain.claim(known=[])
    assert [one["execution_id"] for one in carried] == ids[-1:]
    # the other one is to be given nothing more, so that nobody is left who could run them
    drained = api.post("/admin/runners/other/drain", {})
    assert drained.status_code == 200, drained.text
    assert [one["execution_id"] for one in plain.claim(known=carried, slots=2)] == ids[:2]
    assert other.claim(known=[]) == []
