"""The WebSocket of a log, when what is behind it fails."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from rgrid_server.api import logs
from rgrid_server.domain.apikeys import Scope
from rgrid_server.store.database import StorageUnavailable
from rgrid_server.store.tenants import Principal

PATH = "/ws/executions/exec_x/logs"
HEADERS = {"Authorization": "Bearer sk_of_a_reader"}


class Tenancy:
    """Knows everyone, unless the database is away."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def authenticate(self, key: str) -> Principal:
        if self.error is not None:
            raise self.error
        return Principal("tenant_1", "red", key[:6], (Scope.READ,))


class Logs:
    """Fails to read."""

    is_ending = False

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def page(self, *asked: object) -> None:
        del asked
        raise self.error


def client(tenancy: Tenancy, error: Exception) -> TestClient:
    app = FastAPI()
    app.state.services = SimpleNamespace(tenancy=tenancy, logs=Logs(error))
    app.include_router(logs.sockets)
    return TestClient(app)


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (ValueError("sk_secret of the server"), "its own log has the cause", logs.INTERNAL_ERROR),
        (StorageUnavailable("the database is away"), "the database is away", logs.SERVICE_RESTART),
    ],
)
def test_whatever_fails_is_told_before_the_socket_is_closed(error: Exception, said: str, code: int) -> None:
    with client(Tenancy(), error).websocket_connect(PATH, headers=HEADERS) as socket:
        message = socket.receive_json()
        assert message["type"] == "error"
        assert said in message["message"]
        assert "secret" not in message["message"]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == code


def test_a_key_in_the_address_opens_nothing() -> None:
    asked = client(Tenancy(), ValueError())
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        asked.websocket_connect(f"{PATH}?token=sk_of_a_reader"),
    ):
        pass
    assert refused.value.status_code == 401


def test_a_database_that_is_away_refuses_the_socket_with_503() -> None:
    asked = client(Tenancy(StorageUnavailable("the database is away")), ValueError())
    with pytest.raises(WebSocketDenialResponse) as refused, asked.websocket_connect(PATH, headers=HEADERS):
        pass
    assert refused.value.status_code == 503
