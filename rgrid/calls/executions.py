"""Calls about executions: submit, look, end, take."""

from __future__ import annotations

from rgrid import models
from rgrid._typing import TYPE_CHECKING
from rgrid.calls.base import Call, query_of, quoted, read_many, read_one
from rgrid.texts import check_texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


def submit_execution(body: Mapping[str, Any]) -> Call[models.Execution]:
    """Submit; safe to repeat where the body has a ``run_key``.

    Raises:
        rgrid.exceptions.ConfigurationError: a text in it is none that can be sent.
    """
    check_texts(body)
    return Call(
        "POST",
        "/executions",
        read_one(lambda: models.Execution),
        json=body,
        is_repeatable=bool(body.get("run_key")),
    )


def get_execution(execution_id: str, wait_seconds: float = 0) -> Call[models.Execution]:
    """Look, or wait for the end up to ``wait_seconds``."""
    return Call(
        "GET",
        f"/executions/{quoted(execution_id)}",
        read_one(lambda: models.Execution),
        query=query_of(wait=wait_seconds or None),
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
        query=[*query_of(limit=limit, status=status, cursor=cursor), *filters],
    )


def lookup_executions(
    ids: Sequence[str], *, log_sequence: bool = False, run_keys: Sequence[str] = ()
) -> Call[dict[str, models.Execution]]:
    """Those of at most 1000 ids that there are, by id, and what holds one of as many run keys.

    With ``log_sequence`` each says how far its log is.
    """
    return Call(
        "POST",
        "/executions/lookup",
        lambda answer: {
            item["execution_id"]: models.Execution.from_wire(item) for item in answer.json()["executions"]
        },
        json={
            "ids": list(ids),
            **({"log_sequence": True} if log_sequence else {}),
            **({"run_keys": list(run_keys)} if run_keys else {}),
        },
    )


def retry_execution(execution_id: str) -> Call[models.Execution]:
    """Run it again, as a new execution."""
    path = f"/executions/{quoted(execution_id)}/retry"
    return Call("POST", path, read_one(lambda: models.Execution), is_repeatable=False)


def cancel_execution(execution_id: str) -> Call[models.Execution]:
    """Stop it."""
    return Call("POST", f"/executions/{quoted(execution_id)}/cancel", read_one(lambda: models.Execution))


def acknowledge_execution(execution_id: str) -> Call[models.Execution]:
    """Say that its result was taken, which frees its run key."""
    return Call("POST", f"/executions/{quoted(execution_id)}/acknowledge", read_one(lambda: models.Execution))


def list_artifacts(execution_id: str) -> Call[list[models.Artifact]]:
    """An execution's files."""
    return Call("GET", f"/executions/{quoted(execution_id)}/artifacts", read_many(lambda: models.Artifact))
