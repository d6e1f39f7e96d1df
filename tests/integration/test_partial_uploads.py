"""Ranges of blobs, and blobs that come in parts, as any HTTP client sees them."""

from __future__ import annotations

import hashlib
import random
import socket
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.integration.conftest import Api, make_tenant
from tests.live import LiveServer

SMALL, LARGE = 1000, 300_000
"""Bytes of a blob that stands in the database, and of one that does not."""


def some_bytes(size_bytes: int) -> bytes:
    """Bytes that no other test has."""
    return random.Random(uuid.uuid4().int).randbytes(size_bytes)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(api: Api, data: bytes) -> str:
    """Upload a blob; returns its path."""
    path = f"/blobs/{sha256(data)}"
    assert api.call("PUT", path, data=data).status_code == 201
    return path


def patch(
    api: Api, data: bytes, start: int, end: int | None = None, *, last: bool = False
) -> requests.Response:
    """Send a part of a blob."""
    return api.call(
        "PATCH",
        f"/blobs/{sha256(data)}/upload",
        data=data[start:end],
        headers={"Upload-Offset": str(start), "Upload-Complete": "?1" if last else "?0"},
    )


def how_far(api: Api, data: bytes) -> tuple[int, bool]:
    """How many bytes of an upload are there, and whether it is complete."""
    answer = api.get(f"/blobs/{sha256(data)}/upload")
    assert answer.status_code == 200
    told = answer.json()
    assert answer.headers["Upload-Offset"] == str(told["upload_offset"])
    assert answer.headers["Upload-Complete"] == ("?1" if told["complete"] else "?0")
    return told["upload_offset"], told["complete"]


@pytest.mark.parametrize("size_bytes", [SMALL, LARGE])
def test_a_blob_is_answered_in_ranges(tenant: Api, size_bytes: int) -> None:
    data = some_bytes(size_bytes)
    path = put(tenant, data)
    for asked, start, end in (
        ("10-19", 10, 20),
        (f"{size_bytes - 5}-", size_bytes - 5, size_bytes),
        ("-7", -7, None),
    ):
        part = tenant.get(path, headers={"Range": f"bytes={asked}"})
        assert (part.status_code, part.content) == (206, data[start:end])
        first, last = range(size_bytes)[start], range(size_bytes)[start:end][-1]
        assert part.headers["Content-Range"] == f"bytes {first}-{last}/{size_bytes}"
        assert part.headers["ETag"] == f'"{sha256(data)}"'


@pytest.mark.parametrize("size_bytes", [0, SMALL, LARGE])
def test_what_lies_beyond_the_end_is_416_and_says_where_that_is(tenant: Api, size_bytes: int) -> None:
    path = put(tenant, data := some_bytes(size_bytes))
    answer = tenant.get(path, headers={"Range": f"bytes={size_bytes}-"})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{size_bytes}"
    assert answer.json()["detail"]["error"] == "range_not_satisfiable"
    assert tenant.get(path).content == data


@pytest.mark.parametrize("size_bytes", [SMALL, LARGE])
def test_head_says_what_get_would_without_a_byte(tenant: Api, size_bytes: int) -> None:
    path = put(tenant, some_bytes(size_bytes))
    whole = tenant.call("HEAD", path)
    assert (whole.status_code, whole.content) == (200, b"")
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert whole.headers["Content-Length"] == str(size_bytes)
    part = tenant.call("HEAD", path, headers={"Range": "bytes=1-2"})
    assert (part.status_code, part.headers["Content-Length"]) == (206, "2")
    assert tenant.call("HEAD", f"/blobs/{'0' * 64}").status_code == 404


@pytest.mark.parametrize("size_bytes", [SMALL, LARGE])
def test_a_part_of_other_bytes_is_not_mistaken(tenant: Api, size_bytes: int) -> None:
    path = put(tenant, data := some_bytes(size_bytes))
    same = {"Range": "bytes=5-", "If-Range": f'"{sha256(data)}"'}
    assert tenant.get(path, headers=same).content == data[5:]
    other = {"Range": "bytes=5-", "If-Range": f'"{sha256(b"")}"'}
    answer = tenant.get(path, headers=other)
    assert (answer.status_code, answer.content) == (200, data)


def test_a_signed_url_is_answered_in_ranges(tenant: Api) -> None:
    done = tenant.run(
        "open('small', 'w').write('0123456789'); open('large', 'w').write('0123456789' * 30_000)"
    )
    for name, size_bytes in (("small", 10), ("large", 300_000)):
        url = done["download_urls"][name]
        part = requests.get(url, headers={"Range": "bytes=3-5"}, timeout=30)
        assert (part.status_code, part.content) == (206, b"345")
        head = requests.head(url, timeout=30)
        assert (head.headers["Accept-Ranges"], head.headers["Content-Length"]) == ("bytes", str(size_bytes))
        beyond = requests.get(url, headers={"Range": f"bytes={size_bytes}-"}, timeout=30)
        assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size_bytes}")


def test_a_blob_comes_in_parts(tenant: Api) -> None:
    data = some_bytes(LARGE)
    assert how_far(tenant, data) == (0, False)
    first = patch(tenant, data, 0, 100_000)
    assert (first.status_code, first.headers["Upload-Offset"]) == (200, "100000")
    assert how_far(tenant, data) == (100_000, False)
    assert tenant.get(f"/blobs/{sha256(data)}").status_code == 404
    assert tenant.post("/blobs/missing", {"hashes": [sha256(data)]}).json() == {"missing": [sha256(data)]}
    last = patch(tenant, data, 100_000, last=True)
    assert (last.status_code, last.headers["Upload-Complete"]) == (201, "?1")
    assert how_far(tenant, data) == (LARGE, True)
    assert tenant.get(f"/blobs/{sha256(data)}").content == data
    assert tenant.post("/blobs/missing", {"hashes": [sha256(data)]}).json() == {"missing": []}


@pytest.mark.parametrize("size_bytes", [0, SMALL])
def test_a_small_blob_may_come_in_parts_too(tenant: Api, size_bytes: int) -> None:
    data = some_bytes(size_bytes)
    assert patch(tenant, data, 0, last=True).status_code == 201
    assert tenant.get(f"/blobs/{sha256(data)}").content == data


def test_a_part_that_comes_again_changes_nothing(tenant: Api) -> None:
    data = some_bytes(LARGE)
    for start, end in ((0, 100_000), (0, 100_000), (50_000, 150_000)):
        assert patch(tenant, data, start, end).status_code == 200
    assert how_far(tenant, data) == (150_000, False)
    assert patch(tenant, data, 150_000, last=True).status_code == 201
    again = patch(tenant, data, 150_000, last=True)
    assert (again.status_code, again.headers["Upload-Complete"]) == (200, "?1")
    assert tenant.get(f"/blobs/{sha256(data)}").content == data


def test_a_part_behind_the_end_is_409_and_says_where_to_go_on(tenant: Api) -> None:
    data = some_bytes(LARGE)
    patch(tenant, data, 0, 1000)
    answer = patch(tenant, data, 2000)
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (409, "1000")
    detail = answer.json()["detail"]
    assert (detail["error"], detail["upload_offset"]) == ("upload_offset_mismatch", 1000)


def test_parts_of_other_bytes_are_refused_at_the_end_and_forgotten(tenant: Api) -> None:
    data = some_bytes(LARGE)
    path = f"/blobs/{sha256(data)}/upload"
    headers = {"Upload-Offset": "0", "Upload-Complete": "?1"}
    answer = tenant.call("PATCH", path, data=data[1:], headers=headers)
    assert (answer.status_code, answer.json()["detail"]["error"]) == (400, "hash_mismatch")
    assert how_far(tenant, data) == (0, False)
    assert patch(tenant, data, 0, last=True).status_code == 201


def test_a_whole_put_ends_an_upload_in_parts(tenant: Api, server: LiveServer) -> None:
    data = some_bytes(LARGE)
    patch(tenant, data, 0, 1000)
    put(tenant, data)
    assert how_far(tenant, data) == (LARGE, True)
    assert list((server.data_dir / "blobs" / "partial").glob(f"*/{sha256(data)}")) == []


def test_a_tenant_sees_and_extends_its_own_parts_only(tenant: Api, api: Api, server: LiveServer) -> None:
    data = some_bytes(LARGE)
    other = make_tenant(api, server)
    patch(tenant, data, 0, 1000)
    assert how_far(other, data) == (0, False)
    assert patch(other, data, 1000).status_code == 409
    assert other.call("DELETE", f"/blobs/{sha256(data)}/upload").status_code == 204
    assert patch(tenant, data, 1000, last=True).status_code == 201
    # what one has whole does not tell the other that it is there
    assert how_far(other, data) == (0, False)
    assert other.get(f"/blobs/{sha256(data)}").status_code == 404
    assert patch(other, data, 0, last=True).status_code == 201, "each proves that it has the bytes"
    assert other.get(f"/blobs/{sha256(data)}").content == data


def test_an_upload_in_parts_can_be_forgotten(tenant: Api) -> None:
    data = some_bytes(LARGE)
    patch(tenant, data, 0, 1000)
    assert tenant.call("DELETE", f"/blobs/{sha256(data)}/upload").status_code == 204
    assert how_far(tenant, data) == (0, False)


@pytest.mark.parametrize(
    ("headers", "status", "place"),
    [
        ({}, 422, "upload-offset"),
        ({"Upload-Offset": "-1"}, 422, "Upload-Offset"),
        ({"Upload-Offset": "x"}, 422, "Upload-Offset"),
        ({"Upload-Offset": "0", "Upload-Complete": "yes"}, 422, "Upload-Complete"),
        ({"Upload-Offset": "0", "Upload-Length": "1e9"}, 422, "Upload-Length"),
    ],
)
def test_a_part_without_sane_headers_is_refused(
    tenant: Api, headers: dict[str, str], status: int, place: str
) -> None:
    answer = tenant.call("PATCH", f"/blobs/{'0' * 64}/upload", data=b"x", headers=headers)
    assert answer.status_code == status
    assert answer.json()["detail"][0]["loc"] == ["header", place]


def test_what_is_announced_as_too_large_is_refused_at_once(tenant: Api) -> None:
    headers = {"Upload-Offset": "0", "Upload-Length": str(2**50)}
    answer = tenant.call("PATCH", f"/blobs/{'0' * 64}/upload", data=b"x", headers=headers)
    assert (answer.status_code, answer.json()["detail"]["error"]) == (413, "blob_too_large")


def test_parts_want_a_key_that_may_submit(anonymous: Api) -> None:
    for method in ("GET", "HEAD", "PATCH", "DELETE"):
        assert anonymous.call(method, f"/blobs/{'0' * 64}/upload").status_code == 401


def test_what_has_come_of_a_part_that_breaks_off_stays(tenant: Api) -> None:
    data = some_bytes(3_000_000)
    place = urlsplit(tenant.base)
    head = (
        f"PATCH {place.path}/blobs/{sha256(data)}/upload HTTP/1.1\r\nHost: {place.netloc}\r\n"
        f"Authorization: {tenant.session.headers['Authorization']}\r\n"
        f"Upload-Offset: 0\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=30) as connection:
        connection.sendall(head.encode() + data[:2_000_000])
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            continue
    here_bytes, is_complete = how_far(tenant, data)
    # all but what was still on its way in the server when the connection broke off
    assert (1_000_000 < here_bytes <= 2_000_000, is_complete) == (True, False)
    assert patch(tenant, data, here_bytes, last=True).status_code == 201


def test_a_tenant_has_so_much_unfinished_and_no_more(tmp_path: Path) -> None:
    options = ["--slots", "0"]
    with LiveServer(tmp_path, options=options, env={"RGRID_MAX_UNFINISHED_BYTES": "1000"}) as server:
        api = Api(server.api, server.api_key)
        one, other = some_bytes(LARGE), some_bytes(LARGE)
        assert patch(api, one, 0, 700).status_code == 200
        refused = patch(api, other, 0, 400)
        assert (refused.status_code, refused.json()["detail"]["error"]) == (413, "partial_limit")
        assert how_far(api, other) == (0, False)
        assert api.call("DELETE", f"/blobs/{sha256(one)}/upload").status_code == 204
        assert patch(api, other, 0, 400).status_code == 200
        # parts that were answered are there after a crash, and whole files are not counted
        server.kill()
        server.restart()
        api = Api(server.api, server.api_key)
        assert how_far(api, other) == (400, False)
        assert api.call("PUT", f"/blobs/{sha256(other)}", data=other).status_code == 201
