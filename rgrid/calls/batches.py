"""Calls about batches: submit, add to, look, follow, end, take."""

from __future__ import annotations

from rgrid import models
from rgrid._typing import TYPE_CHECKING
from rgrid.calls.base import Call, query_of, quoted, read_body, read_one
from rgrid.texts import check_texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


def submit_batch(body: Mapping[str, Any]) -> Call[models.Batch]:
    """Submit a batch; safe to repeat where the body has a ``run_key``.

    Raises:
        rgrid.exceptions.ConfigurationError: a text in it is none that can be sent.
    """
    check_texts(body)
    return Call(
        "POST", "/batches", read_one(lambda: models.Batch), json=body, is_repeatable=bool(body.get("run_key"))
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
        f"/batches/{quoted(batch_id)}/items",
        read_one(lambda: models.Batch),
        json=body,
        is_repeatable=first_index is not None,
    )


def close_batch(batch_id: str) -> Call[models.Batch]:
    """Say that no more items come."""
    return Call("POST", f"/batches/{quoted(batch_id)}/close", read_one(lambda: models.Batch))


def get_batch(batch_id: str, wait_seconds: float = 0) -> Call[models.Batch]:
    """Look, or wait for the end up to ``wait_seconds``."""
    return Call(
        "GET",
        f"/batches/{quoted(batch_id)}",
        read_one(lambda: models.Batch),
        query=query_of(wait=wait_seconds or None),
        wait_seconds=wait_seconds,
    )


def lookup_batches(ids: Sequence[str], *, run_keys: Sequence[str] = ()) -> Call[dict[str, models.Batch]]:
    """Those of at most 1000 ids that there are, by id, and what holds one of as many run keys.

    None of them says ``eta_seconds``.
    """
    return Call(
        "POST",
        "/batches/lookup",
        lambda answer: {item["batch_id"]: models.Batch.from_wire(item) for item in answer.json()["batches"]},
        json={"ids": list(ids), **({"run_keys": list(run_keys)} if run_keys else {})},
    )


def batch_executions(
    batch_id: str, limit: int = 500, cursor: str | None = None, status: str | None = None
) -> Call[tuple[list[models.BatchExecution], str | None]]:
    """Executions of a batch in order of index, with the cursor of the next page."""
    return Call(
        "GET",
        f"/batches/{quoted(batch_id)}/executions",
        lambda answer: (
            [models.BatchExecution.from_wire(item) for item in answer.json()],
            answer.headers.get("x-next-cursor"),
        ),
        query=query_of(limit=limit, cursor=cursor, status=status),
    )


def batch_results(batch_id: str, after: int = 0, *, follow: bool = False) -> Call[bytes]:
    """Results behind a position as JSON lines, in order of completion; to be streamed."""
    return _batch_stream(batch_id, "results", after, follow=follow)


def batch_outputs(batch_id: str, after: int = 0, *, follow: bool = False) -> Call[bytes]:
    """Outputs behind a position as a tar stream, in order of completion; to be streamed."""
    return _batch_stream(batch_id, "outputs", after, follow=follow)


def cancel_batch(batch_id: str) -> Call[models.Batch]:
    """Stop all of it."""
    return Call("POST", f"/batches/{quoted(batch_id)}/cancel", read_one(lambda: models.Batch))


def acknowledge_batch(batch_id: str) -> Call[models.Batch]:
    """Say that its results were taken, which frees its run key."""
    return Call("POST", f"/batches/{quoted(batch_id)}/acknowledge", read_one(lambda: models.Batch))


def retry_batch(batch_id: str, *, failed_only: bool) -> Call[models.Batch]:
    """Run it again, or what of it did not complete, as a new batch."""
    return Call(
        "POST",
        f"/batches/{quoted(batch_id)}/retry",
        read_one(lambda: models.Batch),
        json={"failed_only": failed_only},
        is_repeatable=False,
    )


def _batch_stream(batch_id: str, what: str, after: int, *, follow: bool) -> Call[bytes]:
    return Call(
        "GET",
        f"/batches/{quoted(batch_id)}/{what}",
        read_body,
        query=query_of(after=after or None, follow="true" if follow else None),
    )
