"""The runners: what each says of itself, when it was heard of, and whether it is to be given work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.engine import Connection

from rgrid_server.store.database import Row
from rgrid_server.store.prepared import Prepared, replacing
from rgrid_server.store.tables import runners
from rgrid_server.store.tenants import get_setting, replace_setting

DRAINED_SETTING = "drained_at_ms"
"""Under it stands since when no runner at all is to be given work; nothing, or nothing in it, otherwise."""

SEEN_WITHIN_MS = 60_000
"""A runner that was heard of within this time is there: it counts, and may be waited for."""

# whether it is drained is not the runner's to say
_SAID = [column.name for column in runners.c if column.name != "drained_at_ms"]


_PUT = Prepared(replacing(runners, ["runner_id"], _SAID), _SAID)
_TOUCH = Prepared(
    update(runners).where(runners.c.runner_id == bindparam("touched_id")), ["touched_id", "seen_at_ms"]
)
_RUNNER = Prepared(select(runners).where(runners.c.runner_id == bindparam("runner_id")))
_RUNNERS = Prepared(
    select(runners).where(runners.c.seen_at_ms >= bindparam("seen_since_ms")).order_by(runners.c.runner_id)
)


def put_runner(connection: Connection, values: dict[str, Any]) -> None:
    """Write what a runner says of itself, in place of what it said before; a drained one stays so."""
    _PUT.run(connection, **{"memory_mib": None, "sandbox_reason": None, **values})


def touch_runner(connection: Connection, runner_id: str, now_ms: int) -> Row | None:
    """Note that a runner was heard of; None when it never registered."""
    _TOUCH.run(connection, touched_id=runner_id, seen_at_ms=now_ms)
    return _RUNNER.first(connection, runner_id=runner_id)


def get_runner(connection: Connection, runner_id: str) -> Row | None:
    """What a runner said of itself; None when it never registered."""
    return _RUNNER.first(connection, runner_id=runner_id)


def list_runners(connection: Connection, seen_since_ms: int = 0) -> Sequence[Row]:
    """Runners that were heard of since a time."""
    return _RUNNERS.all(connection, seen_since_ms=seen_since_ms)


def set_drained(connection: Connection, runner_id: str, drained_at_ms: int | None) -> bool:
    """Note since when a runner is to be given no work; returns whether there is such a runner."""
    changed = connection.execute(
        update(runners).where(runners.c.runner_id == runner_id).values(drained_at_ms=drained_at_ms)
    )
    return changed.rowcount > 0


def all_drained_at_ms(connection: Connection) -> int | None:
    """Since when no runner is to be given work, whichever it is; None where they are."""
    kept = get_setting(connection, DRAINED_SETTING)
    return int(kept) if kept else None


def set_all_drained(connection: Connection, drained_at_ms: int | None) -> None:
    """Give no runner work any more, those that are still to come included; or give it again, with None."""
    if all_drained_at_ms(connection) is None or drained_at_ms is None:
        replace_setting(connection, DRAINED_SETTING, "" if drained_at_ms is None else str(drained_at_ms))
