"""The wire contract, each call once: what to send, and how to read the answer.

A call is a value. Which library carries it, and whether it waits or awaits, is the transport's affair.
"""

from __future__ import annotations

import json

from rgrid import models
from rgrid._typing import TYPE_CHECKING, Generic, TypeVar
from rgrid.texts import check_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

T = TypeVar("T")

FRAME_TYPE = "application/x-rgrid-frame"
HASHED_BYTES_PER_SECOND = 50_000_000
"""So fast a server reads and verifies a large file at least."""


class Answer:
    """What the server sent back."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is not.
        """
        return json.loads(self.body)


class Call(Generic[T]):
    """One request and the way to read its answer; nothing changes it.

    A plain class, since loading what makes dataclasses takes as long as all that a short command does.

    Attributes:
        path: under ``/api/v1``, or a whole URL for signed ones, which are called without a key.
        is_repeatable: whether sending it twice does what sending it once does.
        wait_seconds: how long the server may take on purpose, on top of the usual timeout.
        file: a file whose bytes are the body.
        span: which of the file's bytes: from where on, and how many; None for all.
        start: from which byte on the answer's body is wanted.
    """

    __slots__ = (
        "body",
        "file",
        "headers",
        "is_repeatable",
        "json",
        "method",
        "path",
        "query",
        "read",
        "span",
        "start",
        "wait_seconds",
    )

    def __init__(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], T],
        *,
        query: Sequence[tuple[str, str]] = (),
        json: Any = None,
        body: bytes | None = None,
        file: Path | None = None,
        span: tuple[int, int] | None = None,
        start: int = 0,
        headers: Mapping[str, str] | None = None,
        is_repeatable: bool = True,
        wait_seconds: float = 0.0,
    ) -> None:
        self.method = method
        self.path = path
        self.read = read
        self.query = query
        self.json = json
        self.body = body
        self.file = file
        self.span = span
        self.start = start
        self.headers = headers or {}
        self.is_repeatable = is_repeatable
        self.wait_seconds = wait_seconds

    @property
    def target(self) -> str:
        """Path and query."""
        if not self.query:
            return self.path
        return f"{self.path}?{'&'.join(f'{_quoted(name)}={_quoted(value)}' for name, value in self.query)}"


def submit_execution(body: Mapping[str, Any]) -> Call[models.Execution]:
    """Submit; safe to repeat where the body has a ``run_key``.

    Raises:
        rgrid.exceptions.ConfigurationError: a text in it is none that can be sent.
    """
    check_texts(body)
    return Call(
        "POST",
        "/executions",
        _model(lambda: models.Execution),
        json=body,
        is_repeatable=bool(body.get("run_key")),
    )


def get_execution(execution_id: str, wait_seconds: float = 0) -> Call[models.Execution]:
    """Look, or wait for the end up to ``wait_seconds``."""
    return Call(
        "GET",
        f"/executions/{_quoted(execution_id)}",
        _model(lambda: models.Execution),
        query=_query(wait=wait_seconds or None),
        wait_seconds=wait_seconds,
    )


def list_executions(
    limit: int = 50,
    status: str | None = None,
    metadata: Mapping[str, str] | None = None,
    cursor: str | None = None,
) -> Call[tuple[list[models.Execution], str | None]]:
    """Newest first, with the cursor of the next page."""
    filters = [(f"metadata[{name}]", value) for name, value in (metadata or {}).items()]
    return Call(
        "GET",
        "/executions",
        lambda answer: (
            [models.Execution.from_wire(item) for item in answer.json()],
            answer.headers.get("x-next-cursor"),
        ),
        query=[*_query(limit=limit, status=status, cursor=cursor), *filters],
    )


def lookup_executions(ids: Sequence[str], *, log_sequence: bool = False) -> Call[dict[str, models.Execution]]:
    """Those of at most 1000 ids that there are, by id; with ``log_sequence`` each says how far its log is."""
    return Call(
        "POST",
        "/executions/lookup",
        lambda answer: {
            item["execution_id"]: models.Execution.from_wire(item) for item in answer.json()["executions"]
        },
        json={"ids": list(ids), **({"log_sequence": True} if log_sequence else {})},
    )


def retry_execution(execution_id: str) -> Call[models.Execution]:
    """Run it again, as a new execution."""
    path = f"/executions/{_quoted(execution_id)}/retry"
    return Call("POST", path, _model(lambda: models.Execution), is_repeatable=False)


def cancel_execution(execution_id: str) -> Call[models.Execution]:
    """Stop it."""
    return Call("POST", f"/executions/{_quoted(execution_id)}/cancel", _model(lambda: models.Execution))


def acknowledge_execution(execution_id: str) -> Call[models.Execution]:
    """Say that its result was taken, which frees its run key."""
    return Call("POST", f"/executions/{_quoted(execution_id)}/acknowledge", _model(lambda: models.Execution))


def list_artifacts(execution_id: str) -> Call[list[models.Artifact]]:
    """An execution's files."""
    return Call("GET", f"/executions/{_quoted(execution_id)}/artifacts", _models(lambda: models.Artifact))


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
    return Call("GET", url, _body, start=start, headers=_from(start, sha256))


def get_blob(sha256: str, start: int = 0) -> Call[bytes]:
    """A blob's bytes, from an offset on; to be streamed."""
    return Call("GET", f"/blobs/{sha256}", _body, start=start, headers=_from(start, sha256))


def upload(url: str, file: Path) -> Call[None]:
    """Send a file to a signed URL."""
    headers = {"Content-Type": "application/octet-stream"}
    return Call("PUT", url, lambda _answer: None, file=file, headers=headers)


def missing_blobs(hashes: Sequence[str]) -> Call[list[str]]:
    """Those of the hashes that are to be uploaded."""
    return Call(
        "POST", "/blobs/missing", lambda answer: list(answer.json()["missing"]), json={"hashes": list(hashes)}
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


def get_logs(execution_id: str, after: int = 0, wait_seconds: float = 0) -> Call[models.LogPage]:
    """A page of a log; waits up to ``wait_seconds`` for the first entry."""
    return Call(
        "GET",
        f"/executions/{_quoted(execution_id)}/logs",
        _log_page,
        query=_query(after=after, wait=wait_seconds or None),
        headers={"Accept": "application/json"},
        wait_seconds=wait_seconds,
    )


def get_events(
    after: int | None = None,
    *,
    limit: int = 500,
    wait_seconds: float = 0,
    batch_id: str | None = None,
) -> Call[models.EventPage]:
    """Transitions behind a position, or from now on; waits up to ``wait_seconds`` for the first."""
    return Call(
        "GET",
        "/events",
        lambda answer: models.EventPage.from_wire(
            {"events": answer.json(), "next_after": answer.headers["x-next-cursor"]}
        ),
        query=_query(after=after, limit=limit, wait=wait_seconds or None, batch_id=batch_id),
        headers={"Accept": "application/json"},
        wait_seconds=wait_seconds,
    )


def submit_batch(body: Mapping[str, Any]) -> Call[models.Batch]:
    """Submit a batch; safe to repeat where the body has a ``run_key``.

    Raises:
        rgrid.exceptions.ConfigurationError: a text in it is none that can be sent.
    """
    check_texts(body)
    return Call(
        "POST", "/batches", _model(lambda: models.Batch), json=body, is_repeatable=bool(body.get("run_key"))
    )


def add_batch_items(
    batch_id: str, items: Sequence[Mapping[str, Any]], first_index: int | None = None
) -> Call[models.Batch]:
    """Append to an open batch; safe to repeat with the index that the first item is to get."""
    body: dict[str, Any] = {"items": list(items)}
    if first_index is not None:
        body["first_index"] = first_index
    return Call(
        "POST",
        f"/batches/{_quoted(batch_id)}/items",
        _model(lambda: models.Batch),
        json=body,
        is_repeatable=first_index is not None,
    )


def batch_results(batch_id: str, after: int = 0, *, follow: bool = False) -> Call[bytes]:
    """Results behind a position as JSON lines, in order of completion; to be streamed."""
    return _batch_stream(batch_id, "results", after, follow=follow)


def batch_outputs(batch_id: str, after: int = 0, *, follow: bool = False) -> Call[bytes]:
    """Outputs behind a position as a tar stream, in order of completion; to be streamed."""
    return _batch_stream(batch_id, "outputs", after, follow=follow)


def _batch_stream(batch_id: str, what: str, after: int, *, follow: bool) -> Call[bytes]:
    return Call(
        "GET",
        f"/batches/{_quoted(batch_id)}/{what}",
        _body,
        query=_query(after=after or None, follow="true" if follow else None),
    )


def close_batch(batch_id: str) -> Call[models.Batch]:
    """Say that no more items come."""
    return Call("POST", f"/batches/{_quoted(batch_id)}/close", _model(lambda: models.Batch))


def get_batch(batch_id: str, wait_seconds: float = 0) -> Call[models.Batch]:
    """Look, or wait for the end up to ``wait_seconds``."""
    return Call(
        "GET",
        f"/batches/{_quoted(batch_id)}",
        _model(lambda: models.Batch),
        query=_query(wait=wait_seconds or None),
        wait_seconds=wait_seconds,
    )


def lookup_batches(ids: Sequence[str]) -> Call[dict[str, models.Batch]]:
    """Those of at most 1000 ids that there are, by id, without ``eta_seconds``."""
    return Call(
        "POST",
        "/batches/lookup",
        lambda answer: {item["batch_id"]: models.Batch.from_wire(item) for item in answer.json()["batches"]},
        json={"ids": list(ids)},
    )


def batch_executions(
    batch_id: str, limit: int = 500, cursor: str | None = None, status: str | None = None
) -> Call[tuple[list[models.BatchExecution], str | None]]:
    """Executions of a batch in order of index, with the cursor of the next page."""
    return Call(
        "GET",
        f"/batches/{_quoted(batch_id)}/executions",
        lambda answer: (
            [models.BatchExecution.from_wire(item) for item in answer.json()],
            answer.headers.get("x-next-cursor"),
        ),
        query=_query(limit=limit, cursor=cursor, status=status),
    )


def cancel_batch(batch_id: str) -> Call[models.Batch]:
    """Stop all of it."""
    return Call("POST", f"/batches/{_quoted(batch_id)}/cancel", _model(lambda: models.Batch))


def acknowledge_batch(batch_id: str) -> Call[models.Batch]:
    """Say that its results were taken, which frees its run key."""
    return Call("POST", f"/batches/{_quoted(batch_id)}/acknowledge", _model(lambda: models.Batch))


def retry_batch(batch_id: str, *, failed_only: bool) -> Call[models.Batch]:
    """Run it again, or what of it did not complete, as a new batch."""
    return Call(
        "POST",
        f"/batches/{_quoted(batch_id)}/retry",
        _model(lambda: models.Batch),
        json={"failed_only": failed_only},
        is_repeatable=False,
    )


def estimate(runtime: str | None = None, files: int | None = None) -> Call[models.Estimate]:
    """What runs are likely to take and cost."""
    return Call(
        "GET", "/estimate", _model(lambda: models.Estimate), query=_query(runtime=runtime, files=files)
    )


def cost(since: str | None = None, until: str | None = None, days: int | None = None) -> Call[models.Cost]:
    """Spend by day."""
    return Call(
        "GET", "/cost", _model(lambda: models.Cost), query=_query(since=since, until=until, days=days)
    )


def cost_breakdown(
    group_by: str,
    since: str | None = None,
    until: str | None = None,
    days: int | None = None,
    filters: Mapping[str, str] | None = None,
) -> Call[models.CostBreakdown]:
    """Spend in parts that sum to it."""
    narrowed = [(f"filter[{name}]", value) for name, value in (filters or {}).items()]
    return Call(
        "GET",
        "/cost/breakdown",
        _model(lambda: models.CostBreakdown),
        query=[*_query(group_by=group_by, since=since, until=until, days=days), *narrowed],
    )


def cost_export(since: str | None = None, until: str | None = None, days: int | None = None) -> Call[bytes]:
    """The bill, a row an attempt, as comma-separated values in FOCUS columns."""
    query = _query(format="focus", since=since, until=until, days=days)
    return Call("GET", "/cost/export", _body, query=query)


def get_budget() -> Call[models.Budget]:
    """The monthly limit and its use."""
    return Call("GET", "/cost/limit", _model(lambda: models.Budget))


def set_budget(monthly_limit_euros: str) -> Call[str]:
    """Set the monthly limit; returns what the server says of it."""
    # a number to the last digit: the text is JSON's own form of one
    body = f'{{"monthly_limit_euros": {monthly_limit_euros}}}'.encode()
    return Call("PUT", "/cost/limit", _message, body=body, headers={"Content-Type": "application/json"})


def remove_budget() -> Call[str]:
    """Remove the monthly limit; returns what the server says of it."""
    return Call("DELETE", "/cost/limit", _message)


def secrets() -> Call[list[models.KeptSecret]]:
    """What is kept, by name."""
    return Call("GET", "/secrets", _models(lambda: models.KeptSecret))


def put_secret(name: str, value: str) -> Call[str]:
    """Keep a secret; returns what the server says of it."""
    return Call("PUT", f"/secrets/{_quoted(name)}", _message, json={"value": value})


def remove_secret(name: str) -> Call[str]:
    """Keep a secret no more; returns what the server says of it."""
    return Call("DELETE", f"/secrets/{_quoted(name)}", _message)


def runtimes() -> Call[list[models.Runtime]]:
    """What scripts can run with."""
    return Call("GET", "/runtimes", _models(lambda: models.Runtime))


def limits() -> Call[models.Limits]:
    """What may be asked for."""
    return Call("GET", "/limits", _model(lambda: models.Limits))


def whoami() -> Call[models.Identity]:
    """Whose key this is."""
    return Call("GET", "/whoami", _model(lambda: models.Identity))


def health() -> Call[models.Health]:
    """Whether the server is well."""
    return Call("GET", "/health", _model(lambda: models.Health))


def as_sent(call: Call[Any]) -> Call[Any]:
    """The same question, answered with the JSON that the server sent, which loads no model."""
    return Call(
        call.method,
        call.path,
        Answer.json,
        query=call.query,
        headers=call.headers,
        is_repeatable=call.is_repeatable,
        wait_seconds=call.wait_seconds,
    )


def _model(model: Callable[[], type[models.M]]) -> Callable[[Answer], models.M]:
    """Reads one; the model is named by a function, so that it is loaded only when an answer is read."""
    return lambda answer: model().from_wire(answer.json())


def _models(model: Callable[[], type[models.M]]) -> Callable[[Answer], list[models.M]]:
    return lambda answer: [model().from_wire(item) for item in answer.json()]


def _log_page(answer: Answer) -> models.LogPage:
    page = answer.json()
    return models.LogPage(
        entries=[models.LogEntry.from_wire(entry) for entry in page["entries"]],
        next_after=page["next_after"],
        is_complete=page["complete"],
    )


def _from(start: int, sha256: str) -> dict[str, str]:
    headers = {"Range": f"bytes={start}-"} if start else {}
    return headers | ({"If-Range": f'"{sha256}"'} if start and sha256 else {})


def _upload_state(answer: Answer) -> tuple[int, bool]:
    state = answer.json()
    return int(state["upload_offset"]), bool(state["complete"])


def _body(answer: Answer) -> bytes:
    return answer.body


def _message(answer: Answer) -> str:
    return str(answer.json()["message"])


def _query(**parameters: str | float | None) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in parameters.items() if value is not None]


def _quoted(text: object) -> str:
    word = str(text)
    if word.isascii() and word.replace("_", "").replace("-", "").replace(".", "").isalnum():
        return word
    # loaded only where something is to be quoted: it takes 2 ms, as long as all other work of `rgrid status`
    from urllib.parse import quote

    return quote(word, safe="")
