"""What is answered while a server starts and while it stops."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from rgrid_server.api.gate import Gate
from rgrid_server.api.json import Json


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers everything."""
    await Json({"path": scope["path"]})(scope, receive, send)


def ask(gate: Gate, path: str, method: str = "GET") -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://grid") as client:
            return await client.request(method, path)

    return asyncio.run(send())


@pytest.mark.parametrize("path", ["/health", "/ready", "/api/v1/executions", "/no/such/path"])
def test_while_it_starts_everything_is_to_be_asked_again(path: str) -> None:
    answer = ask(Gate(), path)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["x-request-id"]
    assert answer.json()["detail"]["error"] == "starting"
    assert answer.json()["detail"]["reasons"][0]["code"] == "starting"


def test_once_it_is_open_requests_go_through() -> None:
    gate = Gate()
    gate.open(behind)
    assert ask(gate, "/api/v1/executions", "POST").json() == {"path": "/api/v1/executions"}


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/v1/executions"), ("GET", "/api/v1/events")])
def test_while_it_stops_work_is_to_be_brought_to_another(method: str, path: str) -> None:
    gate = Gate()
    gate.open(behind)
    gate.close()
    answer = ask(gate, path, method)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["connection"] == "close"
    assert answer.json()["detail"]["error"] == "draining"


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/api/v1/ready", "/metrics", "/api/v1/runner/report", "/api/v1/runner/logs"]
)
def test_while_it_stops_it_is_still_seen_and_runners_report(path: str) -> None:
    gate = Gate()
    gate.open(behind)
    gate.close()
    assert ask(gate, path).status_code == 200
