"""Large blobs that come in parts: how far each is, what is added to it, and when it has become a blob."""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass

from rgrid_server.blobs.base import BehindPartial, BlobStore, Partial
from rgrid_server.errors import Conflict
from rgrid_server.scheduler.uploads import Uploads

APPEND_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class UploadState:
    """How far a tenant's upload is.

    Attributes:
        offset: so many bytes of it are here, durably.
        is_complete: whether it is a blob of the tenant's already.
        is_new: whether the tenant had it not until now.
    """

    offset: int
    is_complete: bool = False
    is_new: bool = False


class PartialUploads:
    """Takes in blobs in parts, each tenant's apart from every other's.

    Args:
        uploads: notes what has become a blob.
        blobs: keeps the parts.
        max_blob_bytes: how large a blob may be.
        max_unfinished_bytes: how much a tenant may have of what is not finished.
    """

    def __init__(
        self, uploads: Uploads, blobs: BlobStore, max_blob_bytes: int, max_unfinished_bytes: int
    ) -> None:
        self._uploads = uploads
        self._blobs = blobs
        self._max_blob_bytes = max_blob_bytes
        self._max_unfinished_bytes = max_unfinished_bytes

    async def state(self, tenant_id: str, sha256: str) -> UploadState:
        """How far an upload is; at 0 also where none was begun."""
        size_bytes = await self._uploads.owned_bytes(tenant_id, sha256)
        if size_bytes is not None:
            await self._partial(tenant_id, sha256).discard()
            return UploadState(size_bytes, is_complete=True)
        return UploadState(await self._partial(tenant_id, sha256).size_bytes())

    async def append(
        self, tenant_id: str, sha256: str, offset: int, chunks: AsyncIterable[bytes], *, is_last: bool
    ) -> UploadState:
        """Add bytes, those that are not there yet; what came of a part that broke off stays.

        Args:
            tenant_id: whose it is.
            sha256: of the whole blob.
            offset: where in the blob these bytes belong.
            chunks: the bytes.
            is_last: whether the blob ends with them.

        Raises:
            Conflict: ``upload_offset_mismatch``, the bytes before them are not here.
            BlobError: too large, no room, too much unfinished, or the whole has another hash.
        """
        partial = self._partial(tenant_id, sha256)
        try:
            await _take(partial, offset, chunks)
        except BehindPartial as error:
            here = await self.state(tenant_id, sha256)
            if not here.is_complete:
                raise Conflict(
                    "upload_offset_mismatch",
                    f"{error.size_bytes} bytes of this upload are here; go on from there",
                    upload_offset=error.size_bytes,
                ) from None
            return here
        if is_last:
            return await self._finish(tenant_id, sha256, partial)
        return await self.state(tenant_id, sha256)

    async def discard(self, tenant_id: str, sha256: str) -> None:
        """Forget what is here of an upload."""
        await self._partial(tenant_id, sha256).discard()

    async def _finish(self, tenant_id: str, sha256: str, partial: Partial) -> UploadState:
        try:
            received = await partial.finish()
        except FileNotFoundError:
            here = await self.state(tenant_id, sha256)
            if not here.is_complete:
                raise Conflict(
                    "upload_offset_mismatch",
                    "this upload was ended meanwhile; begin it again",
                    upload_offset=0,
                ) from None
            # another one who brings the same was sooner
            return here
        self._uploads.note_received(received.size_bytes)
        (is_new,) = await self._uploads.add(tenant_id, [received])
        await partial.discard()
        return UploadState(received.size_bytes, is_complete=True, is_new=is_new)

    def _partial(self, tenant_id: str, sha256: str) -> Partial:
        return self._blobs.partial(tenant_id, sha256, self._max_blob_bytes, self._max_unfinished_bytes)


async def _take(partial: Partial, offset: int, chunks: AsyncIterable[bytes]) -> None:
    """Add bytes as they come, and make durable what has come, also when they break off."""
    held = bytearray()
    cut: Exception | None = None
    coming = aiter(chunks)
    while True:
        try:
            chunk = await anext(coming)
        except StopAsyncIteration:
            break
        except Exception as error:
            cut = error
            break
        held += chunk
        if len(held) >= APPEND_BYTES:
            await partial.append(offset, bytes(held))
            offset += len(held)
            held.clear()
    await partial.append(offset, bytes(held))
    await partial.settle()
    if cut is not None:
        raise cut
