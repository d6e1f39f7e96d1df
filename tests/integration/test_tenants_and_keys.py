"""Keys, scopes, and two tenants that never see each other."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.integration.conftest import Api
from tests.live import LiveServer

CALLS: list[tuple[str, str]] = [
    ("GET", "/executions"),
    ("POST", "/executions"),
    ("PUT", "/executions"),
    ("GET", "/executions/x"),
    ("POST", "/executions/x/retry"),
    ("POST", "/executions/x/cancel"),
    ("GET", "/executions/x/artifacts"),
    ("GET", "/executions/x/logs"),
    ("POST", "/artifacts/download-url"),
    ("GET", "/batches/x/status"),
    ("GET", "/batches/x/executions"),
    ("POST", "/batches"),
    ("GET", "/estimate?files=-1"),
    ("GET", "/cost?since=rubbish"),
    ("GET", "/cost/limit"),
    ("PUT", "/cost/limit"),
    ("DELETE", "/cost/limit"),
    ("GET", "/input-cache/xyz"),
    ("POST", "/input-cache"),
    ("POST", "/blobs/missing"),
    ("PUT", "/blobs/xyz"),
    ("GET", "/runtimes"),
    ("GET", "/limits"),
    ("GET", "/admin/keys"),
    ("POST", "/runner/claim"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_without_a_key_everything_is_401_before_anything_else(anonymous: Api, method: str, path: str) -> None:
    assert anonymous.call(method, path, data=b"not json").status_code == 401


@pytest.mark.parametrize(
    "key", ["sk_nobody", "nonsense", "sk_" + "x" * 5000, "sk_é".encode().decode("latin-1")]
)
def test_a_wrong_key_is_401(server: LiveServer, key: str) -> None:
    assert Api(server.api, key).get("/executions").status_code == 401


def test_an_unknown_path_is_404_without_a_key_too(anonymous: Api) -> None:
    assert anonymous.get("/nothing/here").status_code == 404


@pytest.mark.parametrize(
    ("scopes", "method", "path"),
    [
        (["read"], "POST", "/executions"),
        (["read"], "PUT", "/blobs/" + "a" * 64),
        (["submit"], "GET", "/executions"),
        (["submit", "read"], "GET", "/admin/keys"),
        (["admin"], "POST", "/runner/claim"),
        (["runner"], "GET", "/executions"),
    ],
)
def test_a_key_without_the_scope_is_403(
    api: Api, server: LiveServer, scopes: list[str], method: str, path: str
) -> None:
    key = api.post("/admin/keys", {"scopes": scopes}).json()["key"]
    answer = Api(server.api, key).call(method, path)
    assert answer.status_code == 403
    assert answer.json()["detail"]["error"] == "scope_missing"


def test_a_revoked_key_opens_nothing_at_once(api: Api, server: LiveServer) -> None:
    issued = api.post("/admin/keys", {"scopes": ["read"]}).json()
    mine = Api(server.api, issued["key"])
    assert mine.get("/whoami").status_code == 200
    api.call("DELETE", f"/admin/keys/{issued['key_id']}")
    assert mine.get("/whoami").status_code == 401


def test_a_rotated_key_overlaps_with_the_new_one(api: Api, server: LiveServer) -> None:
    issued = api.post("/admin/keys", {"scopes": ["read"]}).json()
    fresh = api.post(f"/admin/keys/{issued['key_id']}/rotate", {"overlap_seconds": 60}).json()
    for key in (issued["key"], fresh["key"]):
        assert Api(server.api, key).get("/whoami").status_code == 200
    ended = api.post(f"/admin/keys/{fresh['key_id']}/rotate", {"overlap_seconds": 0}).json()
    assert Api(server.api, fresh["key"]).get("/whoami").status_code == 401
    assert Api(server.api, ended["key"]).get("/whoami").status_code == 200


def test_keys_are_listed_by_prefix_and_never_whole(api: Api) -> None:
    issued = api.post("/admin/keys", {"scopes": ["read"], "name": "for a list"}).json()
    listed = api.get("/admin/keys").text
    assert issued["key_prefix"] in listed
    assert issued["key"] not in listed


def test_no_key_stands_in_the_database_in_clear(
    api: Api, server: LiveServer, database: str, request: pytest.FixtureRequest
) -> None:
    issued = api.post("/admin/keys", {"scopes": ["read"]}).json()
    if database == "sqlite":
        stored = b"".join(path.read_bytes() for path in server.data_dir.glob("rgrid.sqlite*"))
    else:
        cluster = request.getfixturevalue("postgres")
        stored = cluster.dump(server.options[-1])
    assert issued["key_id"].encode() in stored
    assert issued["key"].encode() not in stored
    assert server.api_key.encode() not in stored


@pytest.fixture
def other(api: Api, server: LiveServer) -> Callable[[], Api]:
    """Makes a second tenant."""

    def make() -> Api:
        tenant_id = api.post("/admin/tenants", {"name": uuid.uuid4().hex}).json()["tenant_id"]
        issued = api.post("/admin/keys", {"tenant_id": tenant_id, "scopes": ["submit", "read"]}).json()
        return Api(server.api, issued["key"])

    return make


def test_another_tenants_things_are_not_found_anywhere(
    tenant: Api, other: Callable[[], Api], server: LiveServer
) -> None:
    data = b"a secret of the first tenant"
    digest = hashlib.sha256(data).hexdigest()
    tenant.call("PUT", f"/blobs/{digest}", data=data)
    mine = tenant.run("open('o', 'w').write('x')", inputs={"i": digest}, batch_id="shared-name")
    execution_id = mine["execution_id"]
    artifacts = tenant.get(f"/executions/{execution_id}/artifacts").json()
    stranger = other()
    for method, path in (
        ("GET", f"/executions/{execution_id}"),
        ("POST", f"/executions/{execution_id}/retry"),
        ("POST", f"/executions/{execution_id}/cancel"),
        ("POST", f"/executions/{execution_id}/acknowledge"),
        ("GET", f"/executions/{execution_id}/artifacts"),
        ("GET", f"/executions/{execution_id}/logs"),
        ("GET", "/batches/shared-name"),
        ("GET", "/batches/shared-name/status"),
        ("GET", "/batches/shared-name/executions"),
        ("POST", "/batches/shared-name/cancel"),
        ("GET", f"/blobs/{digest}"),
    ):
        assert stranger.call(method, path).status_code == 404, path
    for artifact in artifacts:
        answer = stranger.post("/artifacts/download-url", {"s3_key": artifact["file_path"]})
        assert answer.status_code == 404
        body = {"script_content": "print(1)", "cached_input_refs": {"i": artifact["file_path"]}}
        assert stranger.post("/executions", body).status_code == 422
    assert stranger.get("/executions").json() == []
    assert stranger.post("/executions/lookup", {"ids": [execution_id]}).json()["unknown"] == [execution_id]
    assert stranger.post("/blobs/missing", {"hashes": [digest]}).json() == {"missing": [digest]}
    assert stranger.post("/executions", {"script_content": "1", "inputs": {"i": digest}}).status_code == 422
    assert stranger.get("/cost").json()["total_executions"] == 0
    (message,) = read_socket(stranger, server, execution_id)
    assert message["type"] == "error"
    assert "log" not in str(message)


def test_two_tenants_may_use_the_same_names(tenant: Api, other: Callable[[], Api]) -> None:
    stranger = other()
    keys = [one.submit("print(1)", run_key="same", batch_id="same") for one in (tenant, stranger)]
    assert keys[0]["execution_id"] != keys[1]["execution_id"]
    assert not keys[1]["attached"]


@pytest.mark.parametrize("key", [None, "sk_wrong"])
def test_a_websocket_without_a_good_key_is_refused_before_it_opens(
    server: LiveServer, key: str | None
) -> None:
    address = server.api.replace("http://", "ws://") + "/ws/executions/exec_x/logs"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with pytest.raises(InvalidStatus) as refused, connect(address, additional_headers=headers):
        pass
    assert refused.value.response.status_code == 401


def test_a_browser_passes_its_key_as_a_subprotocol(tenant: Api, server: LiveServer) -> None:
    ended = tenant.run("print('x')")
    key = str(tenant.session.headers["Authorization"]).removeprefix("Bearer ")
    address = server.api.replace("http://", "ws://") + f"/ws/executions/{ended['execution_id']}/logs"
    protocols: Any = [f"rgrid.key.{key}"]
    with connect(address, subprotocols=protocols) as socket:
        assert json.loads(socket.recv())["message"] == "x"


def test_a_signed_url_opens_nothing_else_and_cannot_be_changed(tenant: Api, anonymous: Api) -> None:
    import requests

    ended = tenant.run("open('a', 'w').write('A'); open('b', 'w').write('B')")
    url = ended["download_urls"]["a"]
    assert requests.get(url, timeout=10).text == "A"
    assert requests.get(url.replace("/a?", "/b?"), timeout=10).status_code == 403
    assert requests.put(url, data=b"x", timeout=10).status_code in {403, 405}
    assert requests.get(url.replace("signature=", "signature=0"), timeout=10).status_code == 403
    assert requests.get(url.split("?")[0], timeout=10).status_code == 403


def read_socket(tenant: Api, server: LiveServer, execution_id: str) -> list[dict[str, Any]]:
    """Every message until the server closes."""
    address = server.api.replace("http://", "ws://") + f"/ws/executions/{execution_id}/logs"
    header = {"Authorization": str(tenant.session.headers["Authorization"])}
    with connect(address, additional_headers=header) as socket:
        return [json.loads(message) for message in socket]


@pytest.fixture
def tenants_admin(api: Api, server: LiveServer) -> Api:
    """An administrator of a tenant of its own."""
    tenant_id = api.post("/admin/tenants", {"name": uuid.uuid4().hex}).json()["tenant_id"]
    return Api(
        server.api, api.post("/admin/keys", {"tenant_id": tenant_id, "scopes": ["admin"]}).json()["key"]
    )


def test_an_administrator_of_a_tenant_manages_its_keys(tenants_admin: Api, server: LiveServer) -> None:
    own = tenants_admin.get("/whoami").json()["tenant_id"]
    issued = tenants_admin.post("/admin/keys", {"scopes": ["read"]}).json()
    assert issued["tenant_id"] == own
    assert {key["tenant_id"] for key in tenants_admin.get("/admin/keys").json()} == {own}
    fresh = tenants_admin.post(f"/admin/keys/{issued['key_id']}/rotate", {"overlap_seconds": 0}).json()
    assert Api(server.api, fresh["key"]).get("/whoami").json()["tenant_id"] == own
    assert tenants_admin.call("DELETE", f"/admin/keys/{fresh['key_id']}").status_code == 200
    assert [tenant["tenant_id"] for tenant in tenants_admin.get("/admin/tenants").json()] == [own]


def test_to_an_administrator_of_a_tenant_the_others_are_not_there(api: Api, tenants_admin: Api) -> None:
    operators = api.get("/whoami").json()["tenant_id"]
    key = api.post("/admin/keys", {"scopes": ["read"]}).json()
    for method, path, body in (
        ("POST", "/admin/keys", {"tenant_id": operators, "scopes": ["read"]}),
        ("POST", "/admin/keys", {"tenant_id": "tenant_nothing", "scopes": ["read"]}),
        ("GET", f"/admin/keys?tenant_id={operators}", None),
        ("POST", f"/admin/keys/{key['key_id']}/rotate", {"overlap_seconds": 0}),
        ("DELETE", f"/admin/keys/{key['key_id']}", None),
    ):
        assert tenants_admin.call(method, path, json=body).status_code == 404, (method, path)
    (listed,) = [one for one in api.get("/admin/keys").json() if one["key_id"] == key["key_id"]]
    assert (listed["revoked_at"], listed["expires_at"]) == (None, None)


def test_only_the_operator_makes_and_limits_tenants_makes_runner_keys_and_sees_the_server(
    api: Api, tenants_admin: Api
) -> None:
    own = tenants_admin.get("/whoami").json()["tenant_id"]
    of_runner = api.post("/admin/keys", {"tenant_id": own, "scopes": ["runner"]}).json()
    for method, path, body in (
        ("POST", "/admin/tenants", {"name": uuid.uuid4().hex}),
        ("POST", "/admin/keys", {"scopes": ["runner"]}),
        ("POST", "/admin/keys", {"scopes": ["read", "runner"]}),
        ("POST", f"/admin/keys/{of_runner['key_id']}/rotate", {"overlap_seconds": 60}),
        ("PATCH", f"/admin/tenants/{own}", {"max_running": None}),
        ("GET", "/admin/runners", None),
        ("GET", "/admin/prices", None),
        ("GET", "/admin/drain", None),
        ("POST", "/admin/drain", {}),
        ("POST", "/admin/resume", {}),
        ("GET", "/metrics", None),
    ):
        answer = tenants_admin.call(method, path, json=body)
        assert answer.status_code == 403, (method, path)
        assert answer.json()["detail"]["error"] == "operator_only"
    assert api.get("/admin/runners").status_code == 200


def test_limits_say_what_the_runners_that_are_here_have(api: Api, tenant: Api) -> None:
    runners = api.get("/admin/runners").json()
    limits = tenant.get("/limits").json()
    assert limits["max_cpus"] == max(runner["slots"] for runner in runners)
    assert limits["max_memory_mib"] == max(runner["memory_mib"] for runner in runners)


def test_a_drained_server_gives_out_nothing_until_it_is_resumed(api: Api, tenant: Api) -> None:
    assert api.get("/admin/drain").json() == {"drained_at": None}
    try:
        drained = api.post("/admin/drain", {}).json()
        assert drained["drained_at"] is not None
        # it stays drained since when it was first
        assert api.post("/admin/drain", {}).json() == drained
        waiting = tenant.submit()
        assert tenant.get(f"/executions/{waiting['execution_id']}?wait=1").json()["status"] == "queued"
    finally:
        assert api.post("/admin/resume", {}).json() == {"drained_at": None}
    assert tenant.wait(waiting["execution_id"])["status"] == "completed"


def test_the_price_book_is_shown_to_the_operator(api: Api) -> None:
    book = api.get("/admin/prices").json()
    assert {"local", "ray"} <= {price["engine"] for price in book}
    assert all(price["nanos_per_vcpu_hour"] > 0 for price in book)
