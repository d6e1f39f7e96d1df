"""Tenants and their keys: who may do what."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from rgrid_server.clock import new_id, new_key, now_ms
from rgrid_server.domain.apikeys import KEY_PREFIX, MIN_KEY_CHARS, Scope, hash_key, shown_prefix
from rgrid_server.domain.confinement import why_not_shared
from rgrid_server.errors import Conflict, NotFound
from rgrid_server.store import runners
from rgrid_server.store import tenants as store
from rgrid_server.store.database import Database, Row
from rgrid_server.store.tenants import Principal

DEFAULT_TENANT = "default"
PRESENT_MS = 60_000
"""A runner that was heard of within so long may be carrying attempts."""
KNOWN_SECONDS = 1.0
"""So long a key is taken to be what it was; a change made in this process counts at once."""
MAX_KNOWN_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key as it is shown, once."""

    key_id: str
    key: str
    tenant_id: str
    prefix: str
    scopes: tuple[Scope, ...]


class Tenancy:
    """Finds who asks, and makes and ends tenants' keys."""

    def __init__(self, database: Database, *, allow_process_sandbox: bool = False) -> None:
        self._database = database
        self._allow_process_sandbox = allow_process_sandbox
        self._known: dict[str, tuple[Principal, float]] = {}

    async def authenticate(self, key: str) -> Principal | None:
        """The owner of a key, None for one that opens nothing."""
        if not key.startswith(KEY_PREFIX):
            return None
        key_hash = hash_key(key)
        known = self._known.get(key_hash)
        if known is not None and known[1] > monotonic():
            return known[0]
        principal = await self._database.read(lambda c: store.find_principal(c, key_hash, now_ms()))
        if principal is not None:
            if len(self._known) >= MAX_KNOWN_KEYS:
                self._known.clear()
            self._known[key_hash] = (principal, monotonic() + KNOWN_SECONDS)
        return principal

    def forget_keys(self) -> None:
        """Look every key up again: one of them has changed."""
        self._known.clear()

    async def add_tenant(self, name: str) -> str:
        """Make a tenant; returns its id.

        Raises:
            Conflict: the name is taken, or ``sandbox_too_weak``: a runner does not keep tenants apart.
        """
        tenant_id = new_id("tenant")

        def insert(connection: Connection) -> None:
            tenants = len(store.list_tenants(connection)) + 1
            for runner in runners.list_runners(connection, now_ms() - PRESENT_MS):
                problem = why_not_shared(runner["sandbox"], tenants, is_allowed=self._allow_process_sandbox)
                if problem is not None:
                    raise Conflict("sandbox_too_weak", problem)
            store.insert_tenant(connection, tenant_id, name, now_ms())

        try:
            await self._database.write(insert)
        except IntegrityError:
            raise Conflict("conflict", f"there is a tenant {name!r} already") from None
        return tenant_id

    async def list_tenants(self) -> list[Row]:
        """All tenants."""
        return list(await self._database.read(store.list_tenants))

    async def max_running(self, tenant_id: str) -> int | None:
        """How much a tenant may run at once; None without a limit."""
        row = await self._database.read(lambda c: store.get_tenant(c, tenant_id))
        return None if row is None else row["max_running"]

    async def set_max_running(self, tenant_id: str, max_running: int | None) -> None:
        """Set how much a tenant may run at once, 0 for nothing for now, or remove the limit with None.

        What runs already goes on.

        Raises:
            NotFound: there is no such tenant.
        """
        if not await self._database.write(lambda c: store.set_max_running(c, tenant_id, max_running)):
            raise NotFound("Tenant")

    async def issue_key(
        self,
        tenant_id: str,
        scopes: tuple[Scope, ...],
        name: str = "",
        expires_at_ms: int | None = None,
        key: str | None = None,
    ) -> IssuedKey:
        """Make a key of a tenant; ``key`` is given where someone else has chosen it.

        Raises:
            NotFound: there is no such tenant.
        """
        issued = _fresh_key(tenant_id, scopes, key)

        def add(connection: Connection) -> None:
            if store.get_tenant(connection, tenant_id) is None:
                raise NotFound("Tenant")
            _insert_key(connection, issued, name, expires_at_ms)

        await self._database.write(add)
        return issued

    async def provide_key(self, tenant_id: str, scopes: tuple[Scope, ...], name: str, key: str) -> None:
        """Make a key that someone has chosen, unless it was made before."""
        issued = _fresh_key(tenant_id, scopes, key)

        def provide(connection: Connection) -> None:
            if not store.has_key_hash(connection, hash_key(key)):
                _insert_key(connection, issued, name, None)

        await self._database.write(provide)

    async def has_admin_key(self) -> bool:
        """Whether an administrator's key was ever made."""
        return await self._database.read(_has_admin_key)

    async def provide_first_key(self, tenant_id: str, key: str) -> bool:
        """Make an administrator's key where there is none; of servers that start at once, one does."""
        issued = _fresh_key(tenant_id, (Scope.ADMIN,), key)

        def provide(connection: Connection) -> bool:
            store.hold_tenant(connection, tenant_id)
            if _has_admin_key(connection):
                return False
            _insert_key(connection, issued, "first", None)
            return True

        return await self._database.write(provide)

    async def list_keys(self, tenant_id: str | None = None) -> list[Row]:
        """Keys by prefix, of one tenant or of all."""
        return list(await self._database.read(lambda c: store.list_keys(c, tenant_id)))

    async def revoke_key(self, key_id: str, tenant_id: str | None = None) -> None:
        """End a key at once, of one tenant or of any.

        Raises:
            NotFound: there is no such key.
        """
        revoked = await self._database.write(
            lambda c: store.update_key(c, key_id, tenant_id, revoked_at_ms=now_ms())
        )
        self.forget_keys()
        if revoked is None:
            raise NotFound("Key")

    async def rotate_key(self, key_id: str, overlap_seconds: int, tenant_id: str | None = None) -> IssuedKey:
        """Make a key like another one, of one tenant or of any, which ends ``overlap_seconds`` later.

        Raises:
            NotFound: there is no such key.
        """
        ends_at_ms = now_ms() + overlap_seconds * 1000
        old = await self._database.write(
            lambda c: store.update_key(c, key_id, tenant_id, expires_at_ms=ends_at_ms)
        )
        self.forget_keys()
        if old is None:
            raise NotFound("Key")
        scopes = tuple(Scope(word) for word in old["scopes"].split(","))
        return await self.issue_key(old["tenant_id"], scopes, old["name"])

    async def has_key(self, key: str) -> bool:
        """Whether a key was ever issued here."""
        key_hash = hash_key(key)
        return await self._database.read(lambda c: store.has_key_hash(c, key_hash))

    async def ping(self) -> None:
        """Make sure that the database answers."""
        await self._database.read(lambda c: store.get_setting(c, "ping"))

    async def default_tenant(self) -> str:
        """The tenant that is there from the first start on; returns its id."""
        fresh = new_id("tenant")

        def provide(connection: Connection) -> str:
            found = store.find_tenant_by_name(connection, DEFAULT_TENANT)
            if found is not None:
                return str(found["tenant_id"])
            store.insert_tenant(connection, fresh, DEFAULT_TENANT, now_ms())
            return fresh

        return await self._database.write(provide)

    async def secret(self, name: str, fresh: str) -> str:
        """A secret of the server's own, made at its first use."""

        def keep(connection: Connection) -> str:
            kept = store.get_setting(connection, name)
            if kept is None:
                store.put_setting(connection, name, fresh)
                return fresh
            return kept

        return await self._database.write(keep)


def is_operator(principal: Principal) -> bool:
    """Whether a key's tenant is the operator's, which sees to the server and to all tenants."""
    return principal.tenant_name == DEFAULT_TENANT


def _has_admin_key(connection: Connection) -> bool:
    return any(Scope.ADMIN.value in row["scopes"] for row in store.list_keys(connection))


def _fresh_key(tenant_id: str, scopes: tuple[Scope, ...], key: str | None) -> IssuedKey:
    chosen = key or new_key()
    return IssuedKey(new_id("key"), chosen, tenant_id, shown_prefix(chosen), scopes)


def _insert_key(connection: Connection, issued: IssuedKey, name: str, expires_at_ms: int | None) -> None:
    store.insert_key(
        connection,
        {
            "key_hash": hash_key(issued.key),
            "key_id": issued.key_id,
            "tenant_id": issued.tenant_id,
            "prefix": issued.prefix,
            "name": name,
            "scopes": ",".join(scope.value for scope in issued.scopes),
            "created_at_ms": now_ms(),
            "expires_at_ms": expires_at_ms,
        },
    )


def why_not_a_key(key: str) -> str | None:
    """What is wrong with a key that someone has chosen."""
    if not key.startswith(KEY_PREFIX):
        return f"it does not begin with {KEY_PREFIX}"
    if len(key) < MIN_KEY_CHARS:
        return f"it is shorter than {MIN_KEY_CHARS} characters"
    if not key.isascii() or any(char.isspace() for char in key):
        return "it has characters other than plain ASCII without spaces"
    return None
