"""Executions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rgrid.models.base import TERMINAL, Model


@dataclass(frozen=True, slots=True)
class Execution(Model):
    """One run of one script. In lists only what lists show is set; ``received`` names those fields."""

    execution_id: str
    status: str
    created_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    duration_seconds: float | None = None
    exit_code: int | None = None
    cost_micros: int | None = None
    user_metadata: dict[str, Any] = field(default_factory=dict)
    batch_id: str | None = None
    batch_index: int | None = None
    script_content: str = ""
    script_name: str = "script.py"
    runtime: str = ""
    args: list[str] = field(default_factory=list)
    env_vars: dict[str, str] = field(default_factory=dict)
    stdout: str = ""
    stderr: str = ""
    output_truncated: bool = False
    execution_error: str | None = None
    error_code: str | None = None
    input_files: list[str] = field(default_factory=list)
    upload_urls: dict[str, str] = field(default_factory=dict)
    download_urls: dict[str, str] = field(default_factory=dict)
    finalized_cost_micros: int | None = None
    cost_finalized_at: str | None = None
    worker_hostname: str | None = None
    execution_metadata: dict[str, Any] = field(default_factory=dict)
    attempt: int = 0
    retry_count: int = 0
    max_retries: int = 0
    retry_policy: dict[str, Any] | None = None
    run_key: str | None = None
    attached: bool = False
    acknowledged_at: str | None = None
    cancel_requested_at: str | None = None
    log_sequence: int | None = None
    received: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Execution:
        """Read one from an answer's JSON."""
        known = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        return cls(**known | {"received": tuple(known)})

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.status in TERMINAL

    @property
    def passed_over(self) -> list[str]:
        """The files that were not taken for outputs, each with why, such as a name that cannot be carried."""
        return list(self.execution_metadata.get("passed_over", ()))

    @property
    def succeeded(self) -> bool:
        """Whether it completed."""
        return self.status == "completed"
