"""Giving out bytes: artifacts by their place, blobs by their hash, and what inputs were stored under."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from rgrid_server.blobs.base import BlobStore, location_of
from rgrid_server.clock import now_ms
from rgrid_server.domain.retention import KEEP_UNUSED_MS, RetentionTimes
from rgrid_server.domain.submission import is_sha256
from rgrid_server.errors import NotFound
from rgrid_server.store import blobs as store
from rgrid_server.store import executions as execution_store
from rgrid_server.store.database import Database, Row

ARTIFACT_PLACE = "artifacts"
BLOB_PLACE = "blobs"


class StoredBytes:
    """A blob's bytes: in ``content`` where they are few, else in the blob store."""

    def __init__(self, row: Row, blobs: BlobStore) -> None:
        self.sha256: str = row["sha256"]
        self.size_bytes: int = row["size_bytes"]
        self.content: bytes | None = row["content"]
        self._location = location_of(self.sha256, row["location"])
        self._blobs = blobs

    async def check(self) -> None:
        """Make sure that they are all there, before any are promised.

        Raises:
            OSError: they are not.
        """
        there = None if self.content is not None else await self._blobs.size_bytes(self._location)
        if self.content is None and there != self.size_bytes:
            raise OSError(f"the blob {self.sha256} has {there} bytes where {self.size_bytes} belong")

    async def read(self, start: int = 0) -> AsyncIterator[bytes]:
        """Those behind an offset, in chunks.

        Raises:
            FileNotFoundError: they are not there.
        """
        if self.content is not None:
            yield self.content[start:]
            return
        async for chunk in self._blobs.read(self._location, start):
            yield chunk


class Files:
    """Finds files that a tenant owns."""

    def __init__(self, database: Database, blobs: BlobStore, retention: RetentionTimes) -> None:
        self._database = database
        self._blobs = blobs
        self._retention = retention

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
        return await self._database.read(lambda c: _resolve(c, tenant_id, reference))

    async def open_blob(self, tenant_id: str, sha256: str) -> StoredBytes:
        """A blob's bytes.

        Raises:
            NotFound: the tenant has none such.
        """
        owned = await self._database.read(lambda c: store.owned_sizes(c, tenant_id, [sha256]))
        row = await self._database.read(lambda c: store.get_blob(c, sha256)) if owned else None
        if row is None:
            raise NotFound("Blob")
        return StoredBytes(row, self._blobs)

    async def read_blob(self, tenant_id: str, sha256: str, size_bytes: int) -> AsyncIterator[bytes]:
        """A blob's bytes in chunks, exactly as many as are promised.

        Raises:
            NotFound: the tenant has none such.
            OSError: its bytes are not all there.
        """
        stored = await self.open_blob(tenant_id, sha256)
        sent_bytes = 0
        async for chunk in stored.read():
            sent_bytes += len(chunk)
            yield chunk
        if sent_bytes != size_bytes:
            raise OSError(f"the blob {sha256} has {sent_bytes} bytes where {size_bytes} belong")

    async def cached_inputs(self, tenant_id: str, input_hash: str) -> Any | None:
        """The references that were stored for a hash of inputs; None where one names nothing any more."""

        def find(connection: Connection) -> Any | None:
            found = store.get_cached_inputs(connection, tenant_id, input_hash)
            return None if found is None or None in _named(connection, tenant_id, found) else found

        return await self._database.read(find)

    async def store_cached_inputs(self, tenant_id: str, input_hash: str, file_references: Any) -> bool:
        """Store references for a hash of inputs; returns False where there are some that still hold.

        What they name is kept for as long as they are.
        """

        def put(connection: Connection) -> bool:
            now = now_ms()
            old = store.get_cached_inputs(connection, tenant_id, input_hash)
            if old is not None and None in _named(connection, tenant_id, old):
                store.drop_cached_inputs(connection, tenant_id, input_hash)
            named = [sha256 for sha256 in _named(connection, tenant_id, file_references) if sha256]
            here = store.lock_owned_sizes(connection, tenant_id, named)
            is_new = store.put_cached_inputs(connection, tenant_id, input_hash, file_references, now)
            if is_new:
                store.keep(connection, tenant_id, here, now + self._retention.output_ms + KEEP_UNUSED_MS)
            return is_new

        return await self._database.write(put)


def _resolve(connection: Connection, tenant_id: str, reference: str) -> str | None:
    kind, _, rest = reference.strip("/").partition("/")
    if kind == ARTIFACT_PLACE:
        row = store.get_artifact(connection, rest.partition("/")[0], tenant_id)
        return None if row is None else str(row["sha256"])
    sha256 = rest if kind == BLOB_PLACE else kind
    if not is_sha256(sha256):
        return None
    return sha256 if sha256 in store.owned_sizes(connection, tenant_id, [sha256]) else None


def _named(connection: Connection, tenant_id: str, references: Any) -> list[str | None]:
    """What those of some references name that are written as this server writes them; None for nothing."""
    texts = references.values() if isinstance(references, dict) else ()
    return [
        _resolve(connection, tenant_id, text)
        for text in texts
        if isinstance(text, str) and _is_reference(text)
    ]


def _is_reference(text: str) -> bool:
    kind, _, rest = text.strip("/").partition("/")
    return kind in {ARTIFACT_PLACE, BLOB_PLACE} or (not rest and is_sha256(kind))


def place_of(artifact: Row) -> str:
    """What the wire calls an artifact's ``file_path``; opaque to clients."""
    return f"{ARTIFACT_PLACE}/{artifact['artifact_id']}/{artifact['filename']}"
