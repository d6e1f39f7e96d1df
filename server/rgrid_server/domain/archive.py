"""A batch's outputs as one tar stream: what its members are called, and the bytes around their contents.

For each execution there is first ``<folder>.json``, what came of it with its position, and then
``<folder>/<name>`` for each file that it left. The folder is ``<index>-<input name>``, so it is unique, and a
stream that was cut is whole up to the last execution all of whose files have come.
"""

from __future__ import annotations

import re
import tarfile

CONTENT_TYPE = "application/x-tar"
BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
MAX_LABEL_BYTES = 200
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]+")


def folder_of(batch_index: int, input_name: str | None) -> str:
    """The folder of an execution's files; slashes and control characters of its input's name become ``_``.

    >>> folder_of(7, "data/a.csv"), folder_of(8, None)
    ('7-data_a.csv', '8')
    """
    label = (
        _UNSAFE.sub("_", input_name or "").encode(errors="replace")[:MAX_LABEL_BYTES].decode(errors="ignore")
    )
    return f"{batch_index}-{label}" if label else str(batch_index)


def member_head(name: str, *, size_bytes: int, mode: int, modified_at_ms: int) -> bytes:
    """What stands before a member's bytes: a POSIX pax header where its name or size needs one."""
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    info.mode = mode
    info.mtime = modified_at_ms // 1000
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size_bytes: int) -> bytes:
    """What stands behind a member's bytes."""
    return bytes(-size_bytes % BLOCK_BYTES)


def keep_alive() -> bytes:
    """A global header that means nothing: a comment, for connections on which nothing else moves."""
    return tarfile.TarInfo.create_pax_global_header({"comment": "waiting"})
