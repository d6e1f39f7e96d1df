"""Which blobs there are, whose they are, and which files of executions point at them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, bindparam, delete, insert, null, select, update
from sqlalchemy.engine import Connection

from rgrid_server.blobs.base import Received
from rgrid_server.store.database import Row
from rgrid_server.store.prepared import Prepared, all_rows, first_row
from rgrid_server.store.tables import artifacts, blobs, executions, input_cache, tenant_blobs

MAX_VARIABLES = 500


_OWNED_SIZES = (
    select(blobs.c.sha256, blobs.c.size_bytes)
    .join_from(tenant_blobs, blobs, blobs.c.sha256 == tenant_blobs.c.sha256)
    .where(blobs.c.condemned_at_ms.is_(None))
)
_OWNED_SIZE = Prepared(
    _OWNED_SIZES.where(
        tenant_blobs.c.tenant_id == bindparam("tenant_id"), tenant_blobs.c.sha256 == bindparam("sha256")
    )
)
# locks out only who would condemn them, which asks for the row as a whole
_LOCKED_SIZES = _OWNED_SIZES.with_for_update(read=True, key_share=True, of=blobs)
_LOCKED_SIZE = Prepared(
    _LOCKED_SIZES.where(
        tenant_blobs.c.tenant_id == bindparam("tenant_id"), tenant_blobs.c.sha256 == bindparam("sha256")
    )
)
_BLOB = Prepared(
    select(blobs).where(blobs.c.sha256 == bindparam("sha256"), blobs.c.condemned_at_ms.is_(None))
)
_ANY_BLOB = Prepared(select(blobs.c.location).where(blobs.c.sha256 == bindparam("sha256")))
_LOCKED_BLOB = Prepared(
    select(blobs.c.condemned_at_ms)
    .where(blobs.c.sha256 == bindparam("sha256"))
    .with_for_update(read=True, key_share=True)
)
_REVIVE = Prepared(
    update(blobs).where(blobs.c.sha256 == bindparam("revived")).values(condemned_at_ms=null()), ["revived"]
)
_INSERT_BLOB = Prepared(
    lambda insert: insert(blobs).on_conflict_do_nothing(),
    ["sha256", "size_bytes", "content", "location", "created_at_ms"],
)
_OWNS = Prepared(
    select(tenant_blobs.c.keep_until_ms).where(
        tenant_blobs.c.tenant_id == bindparam("tenant_id"), tenant_blobs.c.sha256 == bindparam("sha256")
    )
)
_INSERT_OWNED = Prepared(
    lambda insert: insert(tenant_blobs).on_conflict_do_nothing(), ["tenant_id", "sha256", "keep_until_ms"]
)
_KEEP = Prepared(
    update(tenant_blobs).where(
        tenant_blobs.c.tenant_id == bindparam("of_tenant"), tenant_blobs.c.sha256 == bindparam("kept")
    ),
    ["of_tenant", "kept", "keep_until_ms"],
)
_INSERT_CACHED = Prepared(
    lambda insert: insert(input_cache).on_conflict_do_nothing(), [column.name for column in input_cache.c]
)
_INSERT_ARTIFACT = Prepared(insert(artifacts), [column.name for column in artifacts.c])
_ARTIFACTS = Prepared(
    select(artifacts, executions.c.completed_at_ms)
    .join_from(artifacts, executions, executions.c.execution_id == artifacts.c.execution_id)
    .where(artifacts.c.execution_id == bindparam("execution_id"))
    .order_by(artifacts.c.artifact_type, artifacts.c.filename)
)
_ARTIFACTS_OF_TYPE = Prepared(
    select(artifacts)
    .where(
        artifacts.c.execution_id == bindparam("execution_id"),
        artifacts.c.artifact_type == bindparam("artifact_type"),
    )
    .order_by(artifacts.c.filename)
)


def owned_sizes(connection: Connection, tenant_id: str, hashes: Sequence[str]) -> dict[str, int]:
    """The sizes of those blobs that a tenant has given or made; others are as if they were not there."""
    return _sizes(connection, tenant_id, hashes, _OWNED_SIZE, _OWNED_SIZES)


def lock_owned_sizes(connection: Connection, tenant_id: str, hashes: Sequence[str]) -> dict[str, int]:
    """As :func:`owned_sizes`, for who is about to point to them: none is condemned meanwhile."""
    return _sizes(connection, tenant_id, hashes, _LOCKED_SIZE, _LOCKED_SIZES)


def _sizes(
    connection: Connection, tenant_id: str, hashes: Sequence[str], one: Prepared, many: Select[Any]
) -> dict[str, int]:
    # in order, so that two who lock the same ones wait for each other and not in a ring
    wanted = sorted(set(hashes))
    found: dict[str, int] = {}
    for start in range(0, len(wanted), MAX_VARIABLES):
        part = wanted[start : start + MAX_VARIABLES]
        if len(part) == 1:
            rows = one.all(connection, tenant_id=tenant_id, sha256=part[0])
        else:
            query = many.where(tenant_blobs.c.tenant_id == tenant_id, tenant_blobs.c.sha256.in_(part))
            rows = all_rows(connection, query.order_by(tenant_blobs.c.sha256))
        found.update({row["sha256"]: row["size_bytes"] for row in rows})
    return found


def get_blob(connection: Connection, sha256: str) -> Row | None:
    """A blob's row; ``content`` is None where its bytes stand in the blob store."""
    return _BLOB.first(connection, sha256=sha256)


def location_in_use(connection: Connection, sha256: str) -> str | None:
    """Where a blob's row says that it is kept; None also where there is no such row."""
    row = _ANY_BLOB.first(connection, sha256=sha256)
    return None if row is None else row["location"]


def add_blob(
    connection: Connection,
    tenant_id: str,
    blob: Received,
    *,
    now_ms: int,
    keep_until_ms: int,
) -> bool:
    """Note a blob and that a tenant has it; returns whether it is new to the tenant.

    One that was condemned is revived. Where it is here already its own location stays, and whoever brought it
    again is to remove what the store keeps of the second one.
    """
    kept = _LOCKED_BLOB.first(connection, sha256=blob.sha256)
    while kept is None:
        values = {"size_bytes": blob.size_bytes, "content": blob.content, "location": blob.location}
        if _INSERT_BLOB.run(connection, sha256=blob.sha256, created_at_ms=now_ms, **values):
            break
        # another process has just noted it
        kept = _LOCKED_BLOB.first(connection, sha256=blob.sha256)
    if kept is not None and kept["condemned_at_ms"] is not None:
        _REVIVE.run(connection, revived=blob.sha256)
    owned = {"tenant_id": tenant_id, "sha256": blob.sha256}
    if _OWNS.first(connection, **owned) is None and _INSERT_OWNED.run(
        connection, **owned, keep_until_ms=keep_until_ms
    ):
        return True
    keep(connection, tenant_id, [blob.sha256], keep_until_ms)
    return False


def keep(connection: Connection, tenant_id: str, hashes: Iterable[str], until_ms: int) -> None:
    """Keep a tenant's blobs at least until a time, also while nothing points to them."""
    for sha256 in sorted(set(hashes)):
        owned = _OWNS.first(connection, tenant_id=tenant_id, sha256=sha256)
        if owned is not None and (owned["keep_until_ms"] or 0) < until_ms:
            _KEEP.run(connection, of_tenant=tenant_id, kept=sha256, keep_until_ms=until_ms)


def kept_until(connection: Connection, tenant_id: str, hashes: Sequence[str]) -> dict[str, int | None]:
    """Until when a tenant's blobs are kept at least; None for those that only artifacts keep."""
    wanted = sorted(set(hashes))
    found: dict[str, int | None] = {}
    for start in range(0, len(wanted), MAX_VARIABLES):
        query = (
            select(tenant_blobs.c.sha256, tenant_blobs.c.keep_until_ms)
            .join_from(tenant_blobs, blobs, blobs.c.sha256 == tenant_blobs.c.sha256)
            .where(
                tenant_blobs.c.tenant_id == tenant_id,
                tenant_blobs.c.sha256.in_(wanted[start : start + MAX_VARIABLES]),
                blobs.c.condemned_at_ms.is_(None),
            )
        )
        found.update({row["sha256"]: row["keep_until_ms"] for row in all_rows(connection, query)})
    return found


def insert_artifacts(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add files of an execution."""
    if rows:
        _INSERT_ARTIFACT.run_many(connection, rows)


def list_artifacts(
    connection: Connection, execution_id: str, artifact_type: str | None = None
) -> Sequence[Row]:
    """Files of an execution, inputs first, by name."""
    if artifact_type is not None:
        return _ARTIFACTS_OF_TYPE.all(connection, execution_id=execution_id, artifact_type=artifact_type)
    return _ARTIFACTS.all(connection, execution_id=execution_id)


def get_artifact(connection: Connection, artifact_id: str, tenant_id: str | None = None) -> Row | None:
    """A file by its id; None also when it is another tenant's."""
    query = select(artifacts).where(artifacts.c.artifact_id == artifact_id)
    if tenant_id is not None:
        query = query.where(artifacts.c.tenant_id == tenant_id)
    return first_row(connection, query)


def get_cached_inputs(connection: Connection, tenant_id: str, input_hash: str) -> Any | None:
    """The references that were stored for a hash of inputs."""
    return connection.execute(
        select(input_cache.c.file_references).where(
            input_cache.c.tenant_id == tenant_id, input_cache.c.input_hash == input_hash
        )
    ).scalar()


def put_cached_inputs(
    connection: Connection, tenant_id: str, input_hash: str, file_references: Any, now_ms: int
) -> bool:
    """Store references for a hash; returns False, and changes nothing, where there are some."""
    kept = _INSERT_CACHED.run(
        connection,
        tenant_id=tenant_id,
        input_hash=input_hash,
        file_references=file_references,
        created_at_ms=now_ms,
    )
    return kept > 0


def drop_cached_inputs(connection: Connection, tenant_id: str, input_hash: str) -> None:
    """Forget the references of a hash."""
    connection.execute(
        delete(input_cache).where(
            input_cache.c.tenant_id == tenant_id, input_cache.c.input_hash == input_hash
        )
    )
