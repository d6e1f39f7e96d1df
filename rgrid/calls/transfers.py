"""Calls that carry files: blobs up, whole or in parts or many at once, and bytes down from an offset on."""

from __future__ import annotations

import json

from rgrid._typing import TYPE_CHECKING
from rgrid.calls.base import Call, read_body

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rgrid.calls.base import Answer

FRAME_TYPE = "application/x-rgrid-frame"
HASHED_BYTES_PER_SECOND = 50_000_000
"""So fast a server reads and verifies a large file at least."""


def missing_blobs(hashes: Sequence[str]) -> Call[list[str]]:
    """Those of the hashes that are to be uploaded."""
    return Call(
        "POST", "/blobs/missing", lambda answer: list(answer.json()["missing"]), json={"hashes": list(hashes)}
    )


def put_blobs(blobs: Mapping[str, bytes]) -> Call[list[str]]:
    """Upload many small blobs at once."""
    listed = [{"sha256": sha256, "size_bytes": len(data)} for sha256, data in blobs.items()]
    head = json.dumps({"blobs": listed}).encode()
    body = b"".join([len(head).to_bytes(4, "big"), head, *blobs.values()])
    return Call(
        "POST",
        "/blobs",
        lambda answer: list(answer.json()["stored"]),
        body=body,
        headers={"Content-Type": FRAME_TYPE},
    )


def put_blob(sha256: str, file: Path) -> Call[None]:
    """Upload a file as a blob."""
    headers = {"Content-Type": "application/octet-stream"}
    return Call("PUT", f"/blobs/{sha256}", lambda _answer: None, file=file, headers=headers)


def get_upload(sha256: str) -> Call[tuple[int, bool]]:
    """How many bytes of an upload in parts are there, and whether it is a blob already."""
    return Call("GET", f"/blobs/{sha256}/upload", _upload_state)


def append_part(
    sha256: str, file: Path, start: int, length: int, size_bytes: int, *, is_last: bool
) -> Call[tuple[int, bool]]:
    """Send a part of a file; as :func:`get_upload`. Before it is sent again, see what of it is there."""
    headers = {
        "Content-Type": "application/partial-upload",
        "Upload-Offset": str(start),
        "Upload-Length": str(size_bytes),
        "Upload-Complete": "?1" if is_last else "?0",
    }
    return Call(
        "PATCH",
        f"/blobs/{sha256}/upload",
        _upload_state,
        file=file,
        span=(start, length),
        headers=headers,
        is_repeatable=False,
        # with the last part the server reads all of it
        wait_seconds=size_bytes / HASHED_BYTES_PER_SECOND if is_last else 0.0,
    )


def upload(url: str, file: Path) -> Call[None]:
    """Send a file to a signed URL."""
    headers = {"Content-Type": "application/octet-stream"}
    return Call("PUT", url, lambda _answer: None, file=file, headers=headers)


def get_blob(sha256: str, start: int = 0) -> Call[bytes]:
    """A blob's bytes, from an offset on; to be streamed."""
    return Call("GET", f"/blobs/{sha256}", read_body, start=start, headers=_from(start, sha256))


def download_url(file_path: str) -> Call[str]:
    """A URL that fetches an artifact without a key."""
    return Call(
        "POST",
        "/artifacts/download-url",
        lambda answer: str(answer.json()["download_url"]),
        json={"s3_key": file_path},
    )


def fetch(url: str, start: int = 0, sha256: str = "") -> Call[bytes]:
    """The bytes behind a signed URL, from an offset on; those of another content from the beginning."""
    return Call("GET", url, read_body, start=start, headers=_from(start, sha256))


def _upload_state(answer: Answer) -> tuple[int, bool]:
    state = answer.json()
    return int(state["upload_offset"]), bool(state["complete"])


def _from(start: int, sha256: str) -> dict[str, str]:
    headers = {"Range": f"bytes={start}-"} if start else {}
    return headers | ({"If-Range": f'"{sha256}"'} if start and sha256 else {})
