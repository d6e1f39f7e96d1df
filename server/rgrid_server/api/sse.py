"""What the streams of server-sent events share."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from rgrid_server.domain.submission import Problem
from rgrid_server.errors import Invalid
from rgrid_server.store.database import MAX_POSITION

KEEP_ALIVE_SECONDS = 15.0
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""No store keeps a stream, and no proxy gathers it."""

RETRY = b": the server is stopping\nretry: 1000\n\n"
"""The last words of a stream that is to be taken up again, with the next server."""


def last_event_id(connection: HTTPConnection) -> int | None:
    """Where a reader that was cut off wants to go on, None where it says nothing.

    Raises:
        Invalid: it is no number of ours.
    """
    given = connection.headers.get("last-event-id", "").strip()
    if not given:
        return None
    position = read_position(given)
    if position is None:
        message = f"{given[:80]!r} is not an id of this stream; give the last one that came, or none"
        raise Invalid([Problem(("Last-Event-ID",), message, code="position_unknown", part="header")])
    return position


def read_position(text: str) -> int | None:
    """A position in a log or a feed, None where the text is none."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    position = int(text)
    return position if position <= MAX_POSITION else None
