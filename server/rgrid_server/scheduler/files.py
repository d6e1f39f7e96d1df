"""Giving out bytes: artifacts by their place, blobs by their hash, and what inputs were stored under."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from rgrid_server.blobs.base import BlobStore
from rgrid_server.clock import now_ms
from rgrid_server.domain.submission import is_sha256
from rgrid_server.errors import NotFound
from rgrid_server.store import blobs as store
from rgrid_server.store import executions as execution_store
from rgrid_server.store.database import Database, Row

ARTIFACT_PLACE = "artifacts"
BLOB_PLACE = "blobs"


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """Where bytes are: in ``content``, or else in a file, or else only in ``chunks``."""

    sha256: str
    size_bytes: int
    content: bytes | None
    path: Path | None
    chunks: AsyncIterator[bytes]


class Files:
    """Finds files that a tenant owns."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    async def artifacts(
        self, tenant_id: str, execution_id: str, artifact_type: str | None = None
    ) -> Sequence[Row]:
        """Files of an execution.

        Raises:
            NotFound: the tenant has no such execution.
        """

        def find(connection: Connection) -> Sequence[Row] | None:
            if execution_store.get_status(connection, tenant_id, execution_id) is None:
                return None
            return store.list_artifacts(connection, execution_id, artifact_type)

        found = await self._database.read(find)
        if found is None:
            raise NotFound("Execution")
        return found

    async def outputs(self, execution_id: str) -> Sequence[Row]:
        """What an execution left, for one whose owner was checked already."""
        return await self._database.read(lambda c: store.list_artifacts(c, execution_id, "output"))

    async def artifact(self, artifact_id: str, tenant_id: str | None = None) -> Row:
        """A file by its id.

        Raises:
            NotFound: there is none such, or it is another tenant's.
        """
        row = await self._database.read(lambda c: store.get_artifact(c, artifact_id, tenant_id))
        if row is None:
            raise NotFound("Artifact")
        return row

    async def resolve(self, tenant_id: str, reference: str) -> str | None:
        """The hash of what a reference names (an artifact's place, a blob's, a hash itself), else None."""
        kind, _, rest = reference.strip("/").partition("/")
        if kind == ARTIFACT_PLACE:
            artifact_id = rest.partition("/")[0]
            row = await self._database.read(lambda c: store.get_artifact(c, artifact_id, tenant_id))
            return None if row is None else str(row["sha256"])
        sha256 = rest if kind == BLOB_PLACE else kind
        if not is_sha256(sha256):
            return None
        owned = await self._database.read(lambda c: store.owned_sizes(c, tenant_id, [sha256]))
        return sha256 if sha256 in owned else None

    async def open_blob(self, tenant_id: str, sha256: str) -> StoredBytes:
        """A blob's bytes.

        Raises:
            NotFound: the tenant has none such.
        """
        owned = await self._database.read(lambda c: store.owned_sizes(c, tenant_id, [sha256]))
        row = await self._database.read(lambda c: store.get_blob(c, sha256)) if owned else None
        if row is None:
            raise NotFound("Blob")
        return StoredBytes(
            sha256=sha256,
            size_bytes=row["size_bytes"],
            content=row["content"],
            path=self._blobs.path(sha256) if row["content"] is None else None,
            chunks=self._blobs.read(sha256),
        )

    async def read_blob(self, tenant_id: str, sha256: str, size_bytes: int) -> AsyncIterator[bytes]:
        """A blob's bytes in chunks, exactly as many as are promised.

        Raises:
            NotFound: the tenant has none such.
            OSError: its bytes are not all there.
        """
        stored = await self.open_blob(tenant_id, sha256)
        if stored.content is not None:
            yield stored.content
            return
        sent_bytes = 0
        async for chunk in stored.chunks:
            sent_bytes += len(chunk)
            yield chunk
        if sent_bytes != size_bytes:
            raise OSError(f"the blob {sha256} has {sent_bytes} bytes where {size_bytes} belong")

    async def cached_inputs(self, tenant_id: str, input_hash: str) -> Any | None:
        """The references that were stored for a hash of inputs, None for no such hash."""
        return await self._database.read(lambda c: store.get_cached_inputs(c, tenant_id, input_hash))

    async def store_cached_inputs(self, tenant_id: str, input_hash: str, file_references: Any) -> bool:
        """Store references for a hash of inputs; returns False where there are some already."""
        return await self._database.write(
            lambda c: store.put_cached_inputs(c, tenant_id, input_hash, file_references, now_ms())
        )


def place_of(artifact: Row) -> str:
    """What the wire calls an artifact's ``file_path``; opaque to clients."""
    return f"{ARTIFACT_PLACE}/{artifact['artifact_id']}/{artifact['filename']}"
