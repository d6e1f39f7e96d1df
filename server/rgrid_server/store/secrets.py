"""Secrets that are kept on the server, sealed, and the sealed ones that executions hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import JSON, delete, select, update
from sqlalchemy.engine import Connection

from rgrid_server.domain.sealing import is_kept
from rgrid_server.store.database import Row
from rgrid_server.store.prepared import Prepared, all_rows, replacing
from rgrid_server.store.tables import batches, executions, secrets

RESEALED_AT_ONCE = 500

_COLUMNS = [column.name for column in secrets.c]
_PUT = Prepared(replacing(secrets, ["tenant_id", "name"], _COLUMNS), _COLUMNS)


def put_secret(connection: Connection, tenant_id: str, name: str, sealed: str, now_ms: int) -> None:
    """Keep a secret in place of what was kept under its name."""
    _PUT.run(connection, tenant_id=tenant_id, name=name, sealed=sealed, updated_at_ms=now_ms)


def get_sealed(connection: Connection, tenant_id: str, names: Sequence[str]) -> dict[str, str]:
    """Those of some secrets that are kept, sealed, by name."""
    query = select(secrets.c.name, secrets.c.sealed).where(
        secrets.c.tenant_id == tenant_id, secrets.c.name.in_(names)
    )
    return {row["name"]: row["sealed"] for row in all_rows(connection, query)}


def list_secrets(connection: Connection, tenant_id: str) -> Sequence[Row]:
    """Names and times, never more."""
    query = select(secrets.c.name, secrets.c.updated_at_ms).where(secrets.c.tenant_id == tenant_id)
    return all_rows(connection, query.order_by(secrets.c.name))


def remove_secret(connection: Connection, tenant_id: str, name: str) -> bool:
    """Whether there was one."""
    query = delete(secrets).where(secrets.c.tenant_id == tenant_id, secrets.c.name == name)
    return bool(connection.execute(query).rowcount)


def reseal(connection: Connection, seal_anew: Callable[[str], str]) -> int:
    """Put every sealed value through ``seal_anew``; returns how many there were."""
    count = 0
    for row in all_rows(connection, select(secrets.c.tenant_id, secrets.c.name, secrets.c.sealed)):
        mine = (secrets.c.tenant_id == row["tenant_id"]) & (secrets.c.name == row["name"])
        connection.execute(update(secrets).where(mine).values(sealed=seal_anew(row["sealed"])))
        count += 1
    last = -1
    while rows := all_rows(
        connection,
        select(executions.c.sequence, executions.c.secrets)
        .where(
            executions.c.secrets.is_not(None),
            # a JSON column that was given nothing holds JSON's own null
            executions.c.secrets != JSON.NULL,
            executions.c.sequence > last,
        )
        .order_by(executions.c.sequence)
        .limit(RESEALED_AT_ONCE),
    ):
        last = rows[-1]["sequence"]
        for row in rows:
            new, sealed = _anew(row["secrets"] or {}, seal_anew)
            query = update(executions).where(executions.c.sequence == row["sequence"])
            connection.execute(query.values(secrets=new))
            count += sealed
    for row in all_rows(connection, select(batches.c.tenant_id, batches.c.batch_id, batches.c.template)):
        held = (row["template"] or {}).get("secrets")
        if held:
            new, sealed = _anew(held, seal_anew)
            mine = (batches.c.tenant_id == row["tenant_id"]) & (batches.c.batch_id == row["batch_id"])
            connection.execute(
                update(batches).where(mine).values(template={**row["template"], "secrets": new})
            )
            count += sealed
    return count


def _anew(held: Mapping[str, str], seal_anew: Callable[[str], str]) -> tuple[dict[str, str], int]:
    """An execution's references, and how many of them were sealed."""
    sealed = {name: seal_anew(text) for name, text in held.items() if not is_kept(text)}
    return {**held, **sealed}, len(sealed)
