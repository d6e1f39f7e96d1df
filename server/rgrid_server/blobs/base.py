"""What every blob store offers. Small blobs stand in the database, in the transaction of what names them.

Each upload is kept under a location of its own, also where its bytes are kept already. So whoever lets a blob
go can never hit a newer upload of the same bytes, and which location counts is decided by one row.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
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


class BehindPartial(Exception):
    """Bytes were to be added behind the end of what is there of an upload."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"{size_bytes} bytes are there")
        self.size_bytes = size_bytes


class Partial(Protocol):
    """A large blob of one owner that comes in parts, over any number of requests, processes and restarts.

    Several may bring it at once: they say the same bytes, and the hash of the whole tells.
    """

    async def size_bytes(self) -> int:
        """So much of it is there; 0 also where nothing is."""

    async def append(self, offset: int, data: bytes) -> int:
        """Add what of these bytes is not there yet; returns how many of the blob are there now.

        Raises:
            BehindPartial: the bytes before ``offset`` are not there.
            BlobError: ``blob_too_large``, ``partial_limit`` or ``storage_full``.
        """

    async def settle(self) -> None:
        """Make durable what is there."""

    async def finish(self) -> Received:
        """Verify it, and make it a blob under a location that no other upload has.

        It stays here too until it is discarded, so that nothing is lost where the blob is not taken up.

        Raises:
            BlobError: ``hash_mismatch``, and nothing of it is kept; or ``storage_full``.
        """

    async def discard(self) -> None:
        """Forget it; nothing there is no error."""


class BlobStore(Protocol):
    """Keeps the blobs that are too large for the database, by their locations."""

    def begin(self, max_bytes: int) -> Upload:
        """Begin to take in a blob."""

    def partial(self, owner: str, sha256: str, max_bytes: int, max_owner_bytes: int) -> Partial:
        """An owner's upload in parts of what has this hash, apart from everyone else's.

        Args:
            owner: whose it is; fit for a file's name.
            sha256: of the whole.
            max_bytes: how large it may become.
            max_owner_bytes: how much all that this owner has not finished may take.
        """

    async def drop_partials(self, before_ms: int) -> int:
        """Forget uploads in parts to which nothing was added since a time; returns how many."""

    def read(self, location: str, start: int = 0) -> AsyncIterator[bytes]:
        """Its bytes behind an offset, in chunks.

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
