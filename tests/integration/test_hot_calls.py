"""The hot calls are answered past the framework, and nobody can tell."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import requests

from rgrid_server.api.lane import answered_here
from tests.integration.conftest import Api
from tests.live import LiveServer

VARIANTS: dict[tuple[str, str], list[str]] = {
    ("GET", "/api/v1/executions"): ["", "?limit=2", "?limit=0", "?limit=x", "?status=completed", "?limit="],
    ("POST", "/api/v1/executions"): [""],
    ("GET", "/api/v1/cost"): ["", "?days=7", "?days=-1", "?days=x", "?days=3&days=4"],
    ("GET", "/api/v1/estimate"): ["", "?runtime=python:3.11", "?files=12", "?files=none", "?runtime=cobol:1"],
    ("GET", "/api/v1/executions/{execution_id}"): ["", "?wait=0", "?wait=1000", "?wait=-1", "?unknown=1"],
    ("GET", "/health"): [""],
}
"""How each is asked, in the ways that are served and in those that are refused."""
BODIES: list[Any] = [
    {"script_content": "print(1)", "run_key": "hot-or-not"},
    {"script_content": ""},
    {"script_content": "print(1)", "timeout_seconds": 0},
    [],
]
USUAL = {"Origin": "null"}
"""What sends a request the usual way, and changes no answer."""
OWN = {"date", "x-request-id", "server-timing", "access-control-allow-origin", "vary"}
"""Headers that are each answer's own, or say something of the origin."""


def test_every_hot_call_is_compared() -> None:
    assert sorted(VARIANTS) == sorted(answered_here())


@pytest.fixture(scope="module")
def mine(api: Api, server: LiveServer) -> Api:
    """A tenant whose executions nothing changes while they are compared."""
    tenant_id = api.post("/admin/tenants", {"name": f"hot-{uuid.uuid4().hex}"}).json()["tenant_id"]
    key = api.post("/admin/keys", {"tenant_id": tenant_id, "scopes": ["submit", "read"]}).json()["key"]
    return Api(server.api, key)


@pytest.fixture(scope="module")
def ended(mine: Api) -> str:
    """An execution that has ended."""
    return str(mine.run("print('hot')")["execution_id"])


@pytest.mark.parametrize(
    ("method", "path", "variant", "body"),
    [
        (method, path, variant, body)
        for (method, path), variants in VARIANTS.items()
        for variant in variants
        for body in (BODIES if method == "POST" else [None])
    ],
)
def test_a_hot_call_is_answered_as_its_route_answers_it(
    mine: Api, ended: str, method: str, path: str, variant: str, body: Any
) -> None:
    url = mine.base.removesuffix("/api/v1") + path.format(execution_id=ended) + variant

    def ask(headers: dict[str, str]) -> requests.Response:
        return mine.session.request(method, url, json=body, headers=headers, timeout=90)

    if body is not None and "run_key" in body:
        # the first one submits, both of those that are compared attach to it once it has ended
        mine.wait(ask({}).json()["execution_id"])
    hot, usual = ask({}), ask(USUAL)
    assert (hot.status_code, told(hot)) == (usual.status_code, told(usual))
    assert facts(hot) == facts(usual)


def told(answer: requests.Response) -> Any:
    """What an answer says, but for the id of the request."""
    said = answer.json()
    if isinstance(said, dict):
        said.pop("request_id", None)
        if isinstance(error := said.get("error"), dict):
            error.pop("request_id", None)
        # when health was asked
        said.pop("timestamp", None)
    return said


def facts(answer: requests.Response) -> dict[str, str]:
    """An answer's headers, but for those that differ by nature."""
    return {name.lower(): value for name, value in answer.headers.items() if name.lower() not in OWN}
