"""Calls that wait for what comes: a page of a log, transitions out of the feed of events."""

from __future__ import annotations

from rgrid import models
from rgrid._typing import TYPE_CHECKING
from rgrid.calls.base import Call, query_of, quoted

if TYPE_CHECKING:
    from rgrid.calls.base import Answer


def get_logs(execution_id: str, after: int = 0, wait_seconds: float = 0) -> Call[models.LogPage]:
    """A page of a log; waits up to ``wait_seconds`` for the first entry."""
    return Call(
        "GET",
        f"/executions/{quoted(execution_id)}/logs",
        _log_page,
        query=query_of(after=after, wait=wait_seconds or None),
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
        query=query_of(after=after, limit=limit, wait=wait_seconds or None, batch_id=batch_id),
        headers={"Accept": "application/json"},
        wait_seconds=wait_seconds,
    )


def _log_page(answer: Answer) -> models.LogPage:
    page = answer.json()
    return models.LogPage(
        entries=[models.LogEntry.from_wire(entry) for entry in page["entries"]],
        next_after=page["next_after"],
        is_complete=page["complete"],
    )
