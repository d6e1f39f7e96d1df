"""What blobs as files have in common: names that last, and what went wrong."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rgrid_server.blobs.base import BlobError


def fsync_directory(path: Path) -> None:
    """Make the names in a directory last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def full(error: OSError) -> Exception:
    """The error of a disk that has no room; another one stays as it is."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return BlobError("storage_full", f"no room for the file on the server's disk ({error.strerror})")
    return error


def hash_mismatch(size_bytes: int, sha256: str, expected_sha256: str) -> BlobError:
    """The error of bytes that are not those that were told."""
    return BlobError(
        "hash_mismatch",
        f"the {size_bytes} bytes that arrived have the SHA-256 {sha256}, not {expected_sha256}; "
        "send the file again",
    )
