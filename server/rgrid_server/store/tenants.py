"""Tenants, their API keys, and the server's own settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.engine import Connection

from rgrid_server.domain.apikeys import Scope, parse_scopes
from rgrid_server.store.database import Row
from rgrid_server.store.prepared import Prepared, all_rows, first_row
from rgrid_server.store.tables import api_keys, settings, tenants


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as their key says."""

    tenant_id: str
    tenant_name: str
    key_prefix: str
    scopes: tuple[Scope, ...]


_PRINCIPAL = Prepared(
    select(
        tenants.c.tenant_id,
        tenants.c.name.label("tenant_name"),
        api_keys.c.prefix,
        api_keys.c.scopes,
        api_keys.c.expires_at_ms,
        api_keys.c.revoked_at_ms,
    )
    .join_from(api_keys, tenants, api_keys.c.tenant_id == tenants.c.tenant_id)
    .where(api_keys.c.key_hash == bindparam("key_hash"))
)
_TENANT = Prepared(select(tenants).where(tenants.c.tenant_id == bindparam("tenant_id")))
_SETTING = Prepared(select(settings.c.value).where(settings.c.name == bindparam("name")))


def find_principal(connection: Connection, key_hash: str, now_ms: int) -> Principal | None:
    """The owner of a key that is neither revoked nor expired."""
    row = _PRINCIPAL.first(connection, key_hash=key_hash)
    if row is None or row["revoked_at_ms"] is not None:
        return None
    if row["expires_at_ms"] is not None and row["expires_at_ms"] <= now_ms:
        return None
    return Principal(row["tenant_id"], row["tenant_name"], row["prefix"], parse_scopes(row["scopes"]))


def insert_tenant(connection: Connection, tenant_id: str, name: str, now_ms: int) -> None:
    """Add a tenant.

    Raises:
        sqlalchemy.exc.IntegrityError: the name is taken.
    """
    connection.execute(insert(tenants).values(tenant_id=tenant_id, name=name, created_at_ms=now_ms))


def get_tenant(connection: Connection, tenant_id: str) -> Row | None:
    """A tenant's row."""
    return _TENANT.first(connection, tenant_id=tenant_id)


def find_tenant_by_name(connection: Connection, name: str) -> Row | None:
    """A tenant's row by its name."""
    return first_row(connection, select(tenants).where(tenants.c.name == name))


def hold_tenant(connection: Connection, tenant_id: str) -> None:
    """Let nobody else hold a tenant until the transaction ends."""
    connection.execute(select(tenants.c.tenant_id).where(tenants.c.tenant_id == tenant_id).with_for_update())


def list_tenants(connection: Connection) -> Sequence[Row]:
    """All tenants, oldest first."""
    return all_rows(connection, select(tenants).order_by(tenants.c.created_at_ms))


def set_monthly_limit(connection: Connection, tenant_id: str, limit_micros: int | None) -> None:
    """Set a tenant's limit, or remove it with None."""
    connection.execute(
        update(tenants).where(tenants.c.tenant_id == tenant_id).values(monthly_limit_micros=limit_micros)
    )


_LIMITED = Prepared(
    select(tenants.c.max_running)
    .where(tenants.c.tenant_id == bindparam("tenant_id"), tenants.c.max_running.is_not(None))
    .with_for_update()
)


def hold_limited(connection: Connection, tenant_ids: Sequence[str]) -> None:
    """Hold those of some tenants that have a limit on what they run, until the transaction ends.

    All at once and in one order, so that two claims do not wait for each other.
    """
    if connection.dialect.name != "sqlite":
        query = select(tenants.c.tenant_id).where(
            tenants.c.tenant_id.in_(tenant_ids), tenants.c.max_running.is_not(None)
        )
        all_rows(connection, query.order_by(tenants.c.tenant_id).with_for_update())


def lock_running_limit(connection: Connection, tenant_id: str) -> int | None:
    """How much a tenant may run at once, None where it has no limit; a limited one is held."""
    found: int | None = _LIMITED.scalar(connection, tenant_id=tenant_id)
    return found


def set_max_running(connection: Connection, tenant_id: str, max_running: int | None) -> bool:
    """Set how much a tenant may run at once, or remove the limit; returns whether there is such a tenant."""
    changed = connection.execute(
        update(tenants).where(tenants.c.tenant_id == tenant_id).values(max_running=max_running)
    )
    return changed.rowcount > 0


def insert_key(connection: Connection, values: dict[str, Any]) -> None:
    """Add a key by its hash."""
    connection.execute(insert(api_keys).values(values))


def list_keys(connection: Connection, tenant_id: str | None = None) -> Sequence[Row]:
    """Keys with their tenants' names, of one tenant or of all; the keys themselves are not kept."""
    query = select(
        api_keys.c.key_id,
        api_keys.c.tenant_id,
        tenants.c.name.label("tenant_name"),
        api_keys.c.prefix,
        api_keys.c.name,
        api_keys.c.scopes,
        api_keys.c.created_at_ms,
        api_keys.c.expires_at_ms,
        api_keys.c.revoked_at_ms,
    ).join_from(api_keys, tenants, api_keys.c.tenant_id == tenants.c.tenant_id)
    if tenant_id is not None:
        query = query.where(api_keys.c.tenant_id == tenant_id)
    return all_rows(connection, query.order_by(api_keys.c.created_at_ms, api_keys.c.key_id))


def update_key(
    connection: Connection, key_id: str, tenant_id: str | None = None, **values: int | None
) -> Row | None:
    """Set ``revoked_at_ms`` or ``expires_at_ms`` of a key; None when there is none such (of the tenant)."""
    key = update(api_keys).where(api_keys.c.key_id == key_id)
    if tenant_id is not None:
        key = key.where(api_keys.c.tenant_id == tenant_id)
    changed = connection.execute(key.values(values))
    if changed.rowcount == 0:
        return None
    return first_row(connection, select(api_keys).where(api_keys.c.key_id == key_id))


def has_key_hash(connection: Connection, key_hash: str) -> bool:
    """Whether a key of this hash was ever added."""
    found = connection.execute(select(api_keys.c.key_id).where(api_keys.c.key_hash == key_hash)).first()
    return found is not None


def get_setting(connection: Connection, name: str) -> str | None:
    """A setting that the server keeps for itself."""
    found: str | None = _SETTING.scalar(connection, name=name)
    return found


def put_setting(connection: Connection, name: str, value: str) -> None:
    """Keep a setting under a name that is free."""
    connection.execute(insert(settings).values(name=name, value=value))


def replace_setting(connection: Connection, name: str, value: str) -> None:
    """Keep a setting in place of what its name had before, if anything.

    Raises:
        sqlalchemy.exc.IntegrityError: another process was the first to keep it, just now.
    """
    changed = connection.execute(update(settings).where(settings.c.name == name).values(value=value))
    if not changed.rowcount:
        put_setting(connection, name, value)
