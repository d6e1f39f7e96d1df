"""Which execution's result stands for which parts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.engine import Connection

from rgrid_server.store.database import Row
from rgrid_server.store.prepared import Prepared, all_rows, replacing
from rgrid_server.store.tables import result_cache

_COLUMNS = [column.name for column in result_cache.c]
_PUT = Prepared(replacing(result_cache, ["tenant_id", "cache_key"], _COLUMNS), _COLUMNS)


def find_result(connection: Connection, tenant_id: str, cache_key: str, now_ms: int) -> Row | None:
    """The result under a key, if it still counts."""
    query = select(result_cache).where(
        result_cache.c.tenant_id == tenant_id,
        result_cache.c.cache_key == cache_key,
        result_cache.c.expires_at_ms > now_ms,
    )
    return next(iter(all_rows(connection, query)), None)


def latest_of_script(connection: Connection, tenant_id: str, script_name: str) -> Row | None:
    """The newest result of a script of this name."""
    query = (
        select(result_cache)
        .where(result_cache.c.tenant_id == tenant_id, result_cache.c.script_name == script_name)
        .order_by(result_cache.c.created_at_ms.desc())
        .limit(1)
    )
    return next(iter(all_rows(connection, query)), None)


def put_result(connection: Connection, values: dict[str, Any]) -> None:
    """Let an execution's result stand for its parts, in place of an earlier one's."""
    _PUT.run(connection, **values)


def forget_expired(connection: Connection, now_ms: int, limit: int) -> int:
    """Remove some of those that count no more; returns how many."""
    old = (
        select(result_cache.c.tenant_id, result_cache.c.cache_key)
        .where(result_cache.c.expires_at_ms <= now_ms)
        .limit(limit)
    )
    rows = all_rows(connection, old)
    for row in rows:
        connection.execute(
            delete(result_cache).where(
                result_cache.c.tenant_id == row["tenant_id"],
                result_cache.c.cache_key == row["cache_key"],
                result_cache.c.expires_at_ms <= now_ms,
            )
        )
    return len(rows)
