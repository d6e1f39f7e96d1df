"""What every blob store offers. Small blobs stand in the database, in the transaction of what names them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

INLINE_MAX_BYTES = 64 * 1024
"""A blob up to this size is kept in the database: one commit then carries many."""


class BlobError(Exception):
    """A blob was refused; nothing of it was kept."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Upload(Protocol):
    """A blob on its way in."""

    size_bytes: int

    async def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            BlobError: ``blob_too_large``, or ``storage_full``.
        """

    async def finish(self, expected_sha256: str | None) -> tuple[str, bytes | None]:
        """Make it durable; returns its hash, and its bytes where it is small enough for the database.

        Raises:
            BlobError: ``hash_mismatch``.
        """

    async def abandon(self) -> None:
        """Leave nothing behind."""


class BlobStore(Protocol):
    """Keeps the blobs that are too large for the database."""

    def begin(self, max_bytes: int) -> Upload:
        """Begin to take in a blob."""

    def path(self, sha256: str) -> Path | None:
        """Where its bytes are a local file; None where they are not."""

    def read(self, sha256: str) -> AsyncIterator[bytes]:
        """Its bytes in chunks.

        Raises:
            FileNotFoundError: it is not here.
        """

    async def delete(self, sha256: str) -> None:
        """Remove it; one that is not here is no error."""
