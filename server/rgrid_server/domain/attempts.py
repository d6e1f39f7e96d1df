"""What server and runner say to each other about an attempt (docs/reference/runner-protocol.md)."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from enum import IntFlag, StrEnum
from typing import Any, NamedTuple

OUTPUT_HEAD_CHARS = 100_000
"""So many characters of each stream stand in the execution itself; the log has the rest."""


class Outcome(StrEnum):
    """How an attempt ended, as its runner saw it."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELED = "canceled"
    REJECTED = "rejected"
    GRID_FAULT = "grid_fault"


class Stream(StrEnum):
    """The two streams of a script, and what the grid says beside them; ``number`` is what the wire says."""

    STDOUT = "stdout"
    STDERR = "stderr"
    SYSTEM = "system"

    @property
    def number(self) -> int:
        return _NUMBERS[self]

    @classmethod
    def from_number(cls, number: int) -> Stream:
        return _STREAMS.get(number, cls.STDERR)


_NUMBERS = {Stream.STDOUT: 1, Stream.STDERR: 2, Stream.SYSTEM: 3}
_STREAMS = {number: stream for stream, number in _NUMBERS.items()}


class LogFlags(IntFlag):
    """What is to be known of a log entry beside its text."""

    NONE = 0
    NEWLINE = 1
    BASE64 = 2


class LogEntry(NamedTuple):
    """One line, or the part of one that a script has printed so far."""

    stream: int
    timestamp_ms: int
    text: str
    flags: int


@dataclass(frozen=True, slots=True)
class AttemptId:
    """Which attempt; its number fences out every older one."""

    execution_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that stands in the workspace before the script starts."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that the script left new or changed."""

    name: str
    sha256: str
    size_bytes: int
    content_type: str
    mode: int = 0o644


class Specification(NamedTuple):
    """What attempts of the same work share."""

    script_content: str
    script_name: str
    runtime: str
    requirements_content: str | None

    def wire(self) -> dict[str, str | None]:
        """Everything by name."""
        return self._asdict()


@dataclass(frozen=True, slots=True)
class Assignment:
    """An attempt as its runner receives it."""

    execution_id: str
    attempt: int
    token: str
    specification: str
    tenant_id: str
    batch_id: str | None
    args: list[str]
    env_vars: dict[str, str]
    inputs: list[InputFile]
    outputs: list[str] | None
    timeout_ms: int
    cpus_milli: int
    memory_mib: int
    first_sequence: int
    log_limit_bytes: int
    output_limit_bytes: int
    output_limit_files: int
    trace_parent: str | None = None
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    """Environment variables that are masked in the log."""
    secrets_problem: str | None = None
    """Why a secret cannot be given to it; then it is not to run."""

    @property
    def id(self) -> AttemptId:
        return AttemptId(self.execution_id, self.attempt)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Assignment:
        """Read one from JSON; fields that a newer server adds are passed over; optional ones may lack."""
        known = {
            f.name: wire[f.name]
            for f in fields(cls)
            if f.name in wire or (f.default is MISSING and f.default_factory is MISSING)
        }
        known["inputs"] = [InputFile(**item) for item in known["inputs"]]
        return cls(**known)


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Consecutive log entries; ``first_sequence`` names the chunk for its repetition."""

    first_sequence: int
    entries: list[LogEntry] = field(default_factory=list)

    def within(self, earliest_ms: int, latest_ms: int) -> LogChunk:
        """The same with times from one to another: the clock that they came from may be wrong."""
        if all(earliest_ms <= entry.timestamp_ms <= latest_ms for entry in self.entries):
            return self
        return LogChunk(
            self.first_sequence,
            [
                entry._replace(timestamp_ms=max(earliest_ms, min(entry.timestamp_ms, latest_ms)))
                for entry in self.entries
            ],
        )


@dataclass(frozen=True, slots=True)
class Report:
    """The end of an attempt, sent once and safe to repeat under its attempt number."""

    execution_id: str
    attempt: int
    token: str
    outcome: Outcome
    exit_code: int | None
    error_code: str | None = None
    error_message: str | None = None
    duration_ms: int = 0
    cpu_ms: int = 0
    peak_memory_mib: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    stdout: str = ""
    stderr: str = ""
    output_truncated: bool = False
    last_sequence: int = 0
    log: LogChunk | None = None
    artifacts: list[OutputFile] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    def with_log(self, log: LogChunk | None) -> Report:
        """The same report with the last of the log."""
        return replace(self, log=log)

    def to_wire(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Report:
        """Read one from JSON.

        Raises:
            KeyError, TypeError, ValueError: a field is missing or of another type.
        """
        known = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        known["outcome"] = Outcome(known["outcome"])
        known["artifacts"] = [OutputFile(**item) for item in known.get("artifacts", [])]
        log = known.get("log")
        known["log"] = (
            LogChunk(int(log["first_sequence"]), [LogEntry(*entry) for entry in log["entries"]])
            if log
            else None
        )
        return cls(**known)
