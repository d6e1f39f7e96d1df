"""What every blob store offers. Small blobs stand in the database, in the transaction of what names them.

Each upload is kept under a location of its own, also where its bytes are kept already. So whoever lets a blob
go can never hit a newer upload of the same bytes, and which location counts is decided by one row.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

INLINE_MAX_BYTES = 64 * 1024
"""A blob up to this size is kept in the database: one commit then carries many."""


class BlobError(Exception):
    """A blob was refused; nothing of it was kept."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes that have arrived: in ``content`` where they are few, else kept under ``location``."""

    sha256: str
    size_bytes: int
    content: bytes | None = None
    location: str | None = None


class Upload(Protocol):
    """A blob on its way in."""

    size_bytes: int

    async def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            BlobError: ``blob_too_large``, or ``storage_full``.
        """

    async def finish(self, expected_sha256: str | None) -> Received:
        """Make it durable, under a location that no other upload has.

        Raises:
            BlobError: ``hash_mismatch``, or ``storage_full``.
        """

    async def abandon(self) -> None:
        """Leave nothing behind of what is not finished."""


class BlobStore(Protocol):
    """Keeps the blobs that are too large for the database, by their locations."""

    def begin(self, max_bytes: int) -> Upload:
        """Begin to take in a blob."""

    def path(self, location: str) -> Path | None:
        """Where its bytes are a local file; None where they are not."""

    def read(self, location: str) -> AsyncIterator[bytes]:
        """Its bytes in chunks.

        Raises:
            FileNotFoundError: it is not here.
        """

    async def size_bytes(self, location: str) -> int | None:
        """How large it is; None where it is not here."""

    async def delete(self, location: str) -> None:
        """Remove it; one that is not here is no error."""

    def written_before(self, before_ms: int) -> AsyncIterator[list[str]]:
        """The locations of what was written before a time (milliseconds since the epoch), in groups."""

    async def problem(self) -> str | None:
        """Why a blob could not be taken in just now, and the way out; None when it could."""


def fresh_location(sha256: str) -> str:
    """A location for an upload of these bytes that no other upload has."""
    return f"{sha256[:2]}/{sha256}-{secrets.token_hex(4)}"


def location_of(sha256: str, location: str | None) -> str:
    """Where a blob is kept; rows of the first schema do not say, their blobs stand under their hash."""
    return location if location is not None else f"{sha256[:2]}/{sha256[2:]}"


def sha256_at(location: str) -> str:
    """The hash of what is kept under a location."""
    folder, _, name = location.partition("/")
    hashed = name.partition("-")[0]
    return hashed if len(hashed) == 64 else folder + hashed
