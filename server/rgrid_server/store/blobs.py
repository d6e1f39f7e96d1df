"""Which blobs there are, whose they are, and which files of executions point at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, insert, select
from sqlalchemy.engine import Connection

from rgrid_server.store.database import Row
from rgrid_server.store.prepared import Prepared, all_rows, first_row
from rgrid_server.store.tables import artifacts, blobs, input_cache, tenant_blobs

MAX_VARIABLES = 500


_OWNED_SIZES = select(blobs.c.sha256, blobs.c.size_bytes).join_from(
    tenant_blobs, blobs, blobs.c.sha256 == tenant_blobs.c.sha256
)
_OWNED_SIZE = Prepared(
    _OWNED_SIZES.where(
        tenant_blobs.c.tenant_id == bindparam("tenant_id"), tenant_blobs.c.sha256 == bindparam("sha256")
    )
)
_BLOB = Prepared(select(blobs).where(blobs.c.sha256 == bindparam("sha256")))
_INSERT_BLOB = Prepared(
    lambda insert: insert(blobs).on_conflict_do_nothing(), [column.name for column in blobs.c]
)
_INSERT_OWNED = Prepared(
    lambda insert: insert(tenant_blobs).on_conflict_do_nothing(), ["tenant_id", "sha256"]
)
_INSERT_CACHED = Prepared(
    lambda insert: insert(input_cache).on_conflict_do_nothing(), [column.name for column in input_cache.c]
)
_INSERT_ARTIFACT = Prepared(insert(artifacts), [column.name for column in artifacts.c])
_ARTIFACTS = Prepared(
    select(artifacts)
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
    wanted = sorted(set(hashes))
    found: dict[str, int] = {}
    for start in range(0, len(wanted), MAX_VARIABLES):
        part = wanted[start : start + MAX_VARIABLES]
        if len(part) == 1:
            rows = _OWNED_SIZE.all(connection, tenant_id=tenant_id, sha256=part[0])
        else:
            rows = all_rows(
                connection,
                _OWNED_SIZES.where(tenant_blobs.c.tenant_id == tenant_id, tenant_blobs.c.sha256.in_(part)),
            )
        found.update({row["sha256"]: row["size_bytes"] for row in rows})
    return found


def get_blob(connection: Connection, sha256: str) -> Row | None:
    """A blob's row; ``content`` is None where its bytes are a file."""
    return _BLOB.first(connection, sha256=sha256)


def add_blob(
    connection: Connection,
    tenant_id: str,
    sha256: str,
    *,
    size_bytes: int,
    content: bytes | None,
    now_ms: int,
) -> bool:
    """Note a blob and that a tenant has it; returns whether it is new to the tenant."""
    _INSERT_BLOB.run(
        connection,
        sha256=sha256,
        size_bytes=size_bytes,
        content=content,
        created_at_ms=now_ms,
        location=None,
        condemned_at_ms=None,
    )
    return _INSERT_OWNED.run(connection, tenant_id=tenant_id, sha256=sha256) > 0


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
