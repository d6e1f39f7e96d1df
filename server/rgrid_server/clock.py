"""The edge to time and chance: the server's clock and its fresh names; the domain takes both as arguments."""

from __future__ import annotations

import secrets
import time
import uuid


def now_ms() -> int:
    """Milliseconds since the epoch, by this server's clock."""
    return time.time_ns() // 1_000_000


def new_id(prefix: str) -> str:
    """A fresh id: the prefix, an underscore and 32 hex digits."""
    return f"{prefix}_{uuid.uuid4().hex}"


def new_key() -> str:
    """A fresh API key: 256 random bits."""
    return f"sk_{secrets.token_urlsafe(32)}"
