"""Secrets: taken in sealed, kept under names, and opened for the one attempt that is given them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.engine import Connection

from rgrid_server.clock import now_ms
from rgrid_server.domain.sealing import (
    Sealer,
    Unreadable,
    find_problems,
    is_kept,
    reference,
    why_not_a_name,
    why_not_a_value,
)
from rgrid_server.domain.submission import Problem
from rgrid_server.errors import Invalid, NotFound
from rgrid_server.store import secrets as store
from rgrid_server.store.database import Database, Row


class Secrets:
    """A tenant's secrets."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def references(self, tenant_id: str, secrets: Mapping[str, str | None]) -> dict[str, str]:
        """What an execution holds of its secrets; None stands for one that is kept here under that name.

        Raises:
            Invalid: a name or a value cannot be one, or none is kept under a name.
        """
        if not secrets:
            return {}
        problems = find_problems(secrets)
        kept = [name for name, value in secrets.items() if value is None]
        if kept and not problems:
            found = await self._database.read(lambda c: store.get_sealed(c, tenant_id, kept))
            problems = [Problem(("secrets", name), _missing(name)) for name in kept if name not in found]
        if problems:
            raise Invalid(problems)
        return {name: reference(self._sealer, tenant_id, name, value) for name, value in secrets.items()}

    async def put(self, tenant_id: str, name: str, value: str) -> None:
        """Keep a secret, in place of what was kept under its name.

        Raises:
            Invalid: the name or the value cannot be one.
        """
        problems = []
        if (why := why_not_a_name(name)) is not None:
            problems.append(Problem(("name",), why, part="path"))
        if (why := why_not_a_value(value)) is not None:
            problems.append(Problem(("value",), f"the secret {why}"))
        if problems:
            raise Invalid(problems)
        sealed = self._sealer.seal(tenant_id, name, value)
        now = now_ms()
        await self._database.write(lambda c: store.put_secret(c, tenant_id, name, sealed, now), takes_in=True)

    async def list(self, tenant_id: str) -> Sequence[Row]:
        """Names and times of what is kept."""
        return await self._database.read(lambda c: store.list_secrets(c, tenant_id))

    async def remove(self, tenant_id: str, name: str) -> None:
        """Keep a secret no more; what has yet to run with it fails, and says so.

        Raises:
            NotFound: none is kept under that name.
        """
        if not await self._database.write(lambda c: store.remove_secret(c, tenant_id, name)):
            raise NotFound("Secret")


def open_secrets(
    connection: Connection, sealer: Sealer, tenant_id: str, references: Mapping[str, str]
) -> tuple[dict[str, str], str | None]:
    """The values of an execution's secrets, or why they cannot be had."""
    wanted = [name for name, held in references.items() if is_kept(held)]
    kept = store.get_sealed(connection, tenant_id, wanted) if wanted else {}
    values: dict[str, str] = {}
    for name, held in references.items():
        sealed = kept.get(name) if is_kept(held) else held
        if sealed is None:
            return {}, _missing(name)
        try:
            values[name] = sealer.open(tenant_id, name, sealed)
        except Unreadable as error:
            return {}, (
                f"{error}; give the server the key that it was sealed with (RGRID_SECRET_KEYS, or the file "
                "secret.keys in its data directory), or submit it again"
            )
    return values, None


def _missing(name: str) -> str:
    return (
        f"no secret {name} is kept on the server; keep one with `rgrid secret set {name}`, or give its value"
    )
