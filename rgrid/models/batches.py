"""Batches and their executions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rgrid.models.base import TERMINAL, Model


@dataclass(frozen=True, slots=True)
class BatchCounts(Model):
    """How many executions of a batch stand in each status."""

    queued: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0

    @property
    def finished(self) -> int:
        """How many have ended."""
        return self.completed + self.failed + self.canceled


@dataclass(frozen=True, slots=True)
class Batch(Model):
    """Executions submitted together."""

    batch_id: str
    status: str
    total: int
    counts: BatchCounts
    parallelism: int | None = None
    closed: bool = True
    total_cost_micros: int = 0
    created_at: str | None = None
    completed_at: str | None = None
    acknowledged_at: str | None = None
    eta_seconds: int | None = None
    user_metadata: dict[str, Any] = field(default_factory=dict)
    run_key: str | None = None
    attached: bool = False

    @property
    def is_terminal(self) -> bool:
        """Whether all of it has ended."""
        return self.status in TERMINAL

    @property
    def succeeded(self) -> bool:
        """Whether all of it completed."""
        return self.status == "completed"

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Batch:
        """Read one from an answer's JSON."""
        known = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        return cls(**known | {"counts": BatchCounts.from_wire(wire["counts"])})


@dataclass(frozen=True, slots=True)
class BatchExecution(Model):
    """An execution as its batch lists it; ``input_file`` is the name that the batch calls it by."""

    execution_id: str
    status: str
    input_file: str | None = None
    batch_index: int = 0
    created_at: str | None = None
    completed_at: str | None = None
    exit_code: int | None = None
    cost_micros: int | None = None
    duration_seconds: float | None = None
    execution_error: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it completed."""
        return self.status == "completed"

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> BatchExecution:
        """Read one from an answer's JSON."""
        known = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        return cls(**known | {"input_file": (wire.get("batch_metadata") or {}).get("input_file")})


@dataclass(frozen=True, slots=True)
class ResultFile(Model):
    """A file that an execution of a batch left."""

    name: str
    size_bytes: int
    sha256: str
    mode: int = 0o644
    content_type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class BatchResult(Model):
    """What came of one execution of a batch; ``position`` is where to resume behind it.

    ``last_line`` is the last line of its stdout, None where it has none; a long one is omitted, and then
    ``last_line_omitted`` is true. ``passed_over`` says which files were not taken for outputs, and why.
    """

    position: int
    execution_id: str
    status: str
    batch_index: int = 0
    input_file: str | None = None
    attempt: int = 0
    exit_code: int | None = None
    error: str | None = None
    error_code: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    duration_ms: int | None = None
    cost_micros: int | None = None
    user_metadata: dict[str, Any] = field(default_factory=dict)
    last_line: str | None = None
    last_line_omitted: bool = False
    artifacts: list[ResultFile] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """Whether it completed."""
        return self.status == "completed"

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> BatchResult:
        """Read one from a line's JSON."""
        known = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        return cls(**known | {"artifacts": [ResultFile.from_wire(item) for item in wire["artifacts"]]})
