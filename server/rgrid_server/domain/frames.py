"""A frame: one JSON header and any number of byte strings in a single HTTP body.

Small inputs, outputs and logs travel many at a time, so that nothing is paid per file that can be paid per
request. The layout is a 4-byte big-endian header length, the header as UTF-8 JSON, then the parts' bytes one
after another. The header's ``"blobs"`` lists the parts in order as ``{"sha256": …, "size_bytes": …}``; what
else stands in the header belongs to the call.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

CONTENT_TYPE = "application/x-rgrid-frame"
MAX_HEADER_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class FrameError(ValueError):
    """The bytes are not a whole frame, or a part is not what its hash says."""


def encode(header: Mapping[str, Any], parts: Sequence[bytes]) -> bytes:
    """Build a frame; ``"blobs"`` is added to the header from the parts themselves.

    >>> decode(encode({"reports": []}, [b"one", b""]))[1]
    [b'one', b'']
    """
    blobs = [{"sha256": hashlib.sha256(part).hexdigest(), "size_bytes": len(part)} for part in parts]
    head = json.dumps({**header, "blobs": blobs}, separators=(",", ":")).encode()
    return b"".join([_LENGTH.pack(len(head)), head, *parts])


def decode(body: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Read a frame back, with every part checked against its hash.

    Raises:
        FrameError: cut short, too long, not JSON, or a part with another hash.
    """
    if len(body) < _LENGTH.size:
        raise FrameError("the frame ends before its header's length")
    (head_length,) = _LENGTH.unpack_from(body)
    if head_length > MAX_HEADER_BYTES or len(body) < _LENGTH.size + head_length:
        raise FrameError("the frame ends inside its header")
    try:
        header = json.loads(body[_LENGTH.size : _LENGTH.size + head_length])
        listed = [(blob["sha256"], int(blob["size_bytes"])) for blob in header["blobs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise FrameError(f"the frame's header cannot be read: {error}") from error
    parts: list[bytes] = []
    offset = _LENGTH.size + head_length
    for sha256, size_bytes in listed:
        part = body[offset : offset + size_bytes]
        if size_bytes < 0 or len(part) != size_bytes:
            raise FrameError(f"the frame ends inside blob {sha256}")
        if hashlib.sha256(part).hexdigest() != sha256:
            raise FrameError(f"blob {sha256} has other bytes than its hash says")
        parts.append(part)
        offset += size_bytes
    if offset != len(body):
        raise FrameError(f"{len(body) - offset} bytes stand behind the last blob of the frame")
    return header, parts
