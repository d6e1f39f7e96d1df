"""What the server answers, as frozen values. Fields that a newer server adds are passed over.

Times are ISO 8601 texts in UTC, money is integers of micro-euro, sizes are bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

M = TypeVar("M", bound="Model")

TERMINAL = frozenset({"completed", "failed", "canceled"})


@dataclass(frozen=True, slots=True)
class Model:
    """A value that reads itself from the wire."""

    @classmethod
    def from_wire(cls: type[M], wire: Mapping[str, Any]) -> M:
        """Read one from an answer's JSON.

        Raises:
            TypeError: a field that it needs is missing.
        """
        return cls(**{f.name: wire[f.name] for f in fields(cls) if f.name in wire})


@dataclass(frozen=True, slots=True)
class Execution(Model):
    """One run of one script. In lists only what lists show is set."""

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
    run_key: str | None = None
    attached: bool = False
    acknowledged_at: str | None = None
    cancel_requested_at: str | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.status in TERMINAL

    @property
    def succeeded(self) -> bool:
        """Whether it completed."""
        return self.status == "completed"


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
class Artifact(Model):
    """A named file of an execution, in or out."""

    artifact_id: str
    execution_id: str
    artifact_type: Literal["input", "output"]
    filename: str
    file_path: str
    size_bytes: int
    content_type: str = "application/octet-stream"
    sha256: str = ""
    mode: int = 0o644
    created_at: str | None = None
    expires_at: str | None = None


@dataclass(frozen=True, slots=True)
class LogEntry(Model):
    """A line of a log, or a part of one; ``data`` is what was printed, byte for byte."""

    sequence_number: int
    stream: Literal["stdout", "stderr"]
    data: bytes
    timestamp: str | None = None

    @property
    def text(self) -> str:
        """What was printed, as text without its newline."""
        return self.data.decode(errors="replace").removesuffix("\n")

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> LogEntry:
        """Read one from an answer's JSON."""
        if "message_base64" in wire:
            data = base64.b64decode(wire["message_base64"])
        else:
            data = wire["message"].encode(errors="surrogateescape")
        if wire.get("newline", True):
            data += b"\n"
        return cls(wire["sequence_number"], wire["stream"], data, wire.get("timestamp"))


@dataclass(frozen=True, slots=True)
class LogPage:
    """Consecutive log entries; ``is_complete`` when there are none and none will come."""

    entries: list[LogEntry]
    next_after: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class CostDay(Model):
    """A day's spend."""

    date: str
    executions: int
    compute_time_seconds: float
    cost_micros: int
    cost_display: str = ""


@dataclass(frozen=True, slots=True)
class Cost(Model):
    """Spend by day, newest first."""

    start_date: str
    end_date: str
    total_cost_micros: int
    total_executions: int
    by_date: list[CostDay]
    total_cost_display: str = ""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Cost:
        """Read one from an answer's JSON."""
        known = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        return cls(**known | {"by_date": [CostDay.from_wire(day) for day in wire["by_date"]]})


@dataclass(frozen=True, slots=True)
class CostGroup(Model):
    """One part of a breakdown; ``key`` has one text for each dimension."""

    key: tuple[str, ...]
    executions: int
    cost_micros: int
    failed: int = 0
    compute_time_seconds: float = 0.0
    cost_display: str = ""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> CostGroup:
        """Read one from an answer's JSON."""
        key = wire["key"]
        known = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        return cls(**known | {"key": tuple(key) if isinstance(key, list) else (key,)})


@dataclass(frozen=True, slots=True)
class CostBreakdown(Model):
    """Spend in parts that sum to ``total_cost_micros``."""

    group_by: str
    start_date: str
    end_date: str
    total_cost_micros: int
    total_executions: int
    groups: list[CostGroup]
    total_cost_display: str = ""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> CostBreakdown:
        """Read one from an answer's JSON."""
        known = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        return cls(**known | {"groups": [CostGroup.from_wire(group) for group in wire["groups"]]})


@dataclass(frozen=True, slots=True)
class Budget(Model):
    """The monthly limit and this month's use of it."""

    has_limit: bool
    monthly_limit_micros: int | None
    current_usage_micros: int
    status: str
    usage_percent: float = 0.0
    monthly_limit_display: str | None = None
    current_usage_display: str = ""
    alert_threshold_percent: int = 80
    message: str = ""


@dataclass(frozen=True, slots=True)
class Estimate(Model):
    """What runs are likely to take and cost."""

    estimated_executions: int
    estimated_duration_seconds: float
    estimated_total_duration_seconds: float
    estimated_cost_micros: int
    estimated_cost_display: str = ""
    assumptions: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Runtime(Model):
    """What scripts can run with."""

    name: str
    version: str = ""
    default: bool = False


@dataclass(frozen=True, slots=True)
class Limits(Model):
    """The upper ends of what may be asked for."""

    max_timeout_seconds: int = 3600
    max_cpus: float = 0
    max_memory_mib: int = 0
    max_script_bytes: int = 0
    max_blob_bytes: int = 0
    max_batch_items: int = 10_000
    max_input_files: int = 0
    engine: str = ""
    sandboxes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Identity(Model):
    """Whose key this is."""

    tenant_id: str
    tenant_name: str
    key_prefix: str = ""
    scopes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Health(Model):
    """What a server says of itself."""

    status: str
    version: str
    timestamp: str = ""
