"""An assignment of which a test says only what it is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rgrid_server.domain.attempts import Assignment

_ANY = Assignment(
    execution_id="exec_1",
    attempt=1,
    token="t",
    specification="s",
    tenant_id="t",
    batch_id=None,
    args=[],
    env_vars={},
    inputs=[],
    outputs=None,
    timeout_ms=1500,
    cpus_milli=1000,
    memory_mib=64,
    first_sequence=1,
    log_limit_bytes=1,
    output_limit_bytes=1,
    output_limit_files=1,
)


def assignment(**changes: Any) -> Assignment:
    """An assignment with these values."""
    return replace(_ANY, **changes)
