"""A history of what submitters asked for and saw, and of what then stands in the database and on the disk.

These are values only. :class:`Recorder` takes them down; what must hold between them is in ``model.py``.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work as its submitter asked for it, and what it prints and leaves when it is carried whole.

    Attributes:
        name: its own name, which the script is given and prints.
        run_key: the key that it was submitted under; a batch's items share their batch's.
        lines: its standard output, line by line.
        outputs: the SHA-256 of every file that it leaves, by name.
    """

    name: str
    run_key: str
    lines: tuple[str, ...]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer about an execution, as one observer had it."""

    execution_id: str
    status: str
    attempt: int


@dataclass(frozen=True, slots=True)
class History:
    """All that submitters and observers know.

    Attributes:
        works: what was asked for, by name, from before the first request that asked.
        acknowledged: the id that the server answered with, by run key: an execution's or a batch's.
        seen: each observer's answers in the order in which it had them.
        disruptions: what was done to the grid, in order: at most so many attempts of one execution are lost.
    """

    works: Mapping[str, Work]
    acknowledged: Mapping[str, frozenset[str]]
    seen: Mapping[str, tuple[Seen, ...]]
    disruptions: tuple[str, ...]


class Recorder:
    """Takes a history down while it happens, from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: dict[str, Work] = {}
        self._acknowledged: dict[str, set[str]] = defaultdict(set)
        self._seen: dict[str, list[Seen]] = defaultdict(list)
        self._disruptions: list[str] = []

    def asks(self, *works: Work) -> None:
        """Something is about to be asked for."""
        with self._lock:
            self._works.update((work.name, work) for work in works)

    def is_acknowledged(self, run_key: str, submitted_id: str) -> None:
        """The server has answered with an id."""
        with self._lock:
            self._acknowledged[run_key].add(submitted_id)

    def sees(self, observer: str, execution_id: str, status: str, attempt: int) -> None:
        """An observer has an answer; each observer is one thread."""
        with self._lock:
            self._seen[observer].append(Seen(execution_id, status, attempt))

    def is_disrupted(self, what: str) -> None:
        """Something was killed, cut or lost."""
        with self._lock:
            self._disruptions.append(what)

    @property
    def acknowledged_count(self) -> int:
        """How many run keys have their answer."""
        with self._lock:
            return len(self._acknowledged)

    def history(self) -> History:
        """All of it until now."""
        with self._lock:
            return History(
                works=dict(self._works),
                acknowledged={key: frozenset(ids) for key, ids in self._acknowledged.items()},
                seen={observer: tuple(seen) for observer, seen in self._seen.items()},
                disruptions=tuple(self._disruptions),
            )


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log, as stored."""

    sequence: int
    attempt: int
    text: str
    timestamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class StoredExecution:
    """An execution as it stands in the database in the end; ``name`` is its work's."""

    execution_id: str
    name: str
    run_key: str | None
    batch_id: str | None
    status: str
    attempt: int
    retry_count: int
    max_retries: int
    error_code: str | None
    stdout: str
    outputs: Mapping[str, str]
    log: tuple[LogLine, ...]
    charge_nanos: int


@dataclass(frozen=True, slots=True)
class StoredAttempt:
    """An attempt; ``outcome`` is None while it is open."""

    execution_id: str
    attempt: int
    outcome: str | None


@dataclass(frozen=True, slots=True)
class StoredUsage:
    """An attempt's usage, and what it costs by the rules and the price book; one of an execution is final."""

    execution_id: str
    attempt: int
    is_final: bool
    duration_ms: int
    due_nanos: int


@dataclass(frozen=True, slots=True)
class StoredCharge:
    """An attempt's charge."""

    execution_id: str
    attempt: int
    nanos: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A transition, as the feed has it."""

    sequence: int
    execution_id: str
    status: str
    attempt: int


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch with the counts and the sum that are kept beside its executions."""

    batch_id: str
    run_key: str | None
    counts: Mapping[str, int]
    charge_nanos: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Sums:
    """The rollups of money over everything."""

    daily_nanos: int
    monthly_nanos: int
    daily_executions: int


@dataclass(frozen=True, slots=True)
class Ran:
    """What a script itself wrote outside of the grid: that it began, and whether it came to its end."""

    execution_id: str
    attempt: int
    name: str
    times_begun: int
    times_ended: int


@dataclass(frozen=True, slots=True)
class Left:
    """What should not be there when all work has ended and everything was stopped, each thing by its name."""

    processes: tuple[str, ...] = ()
    workspaces: tuple[str, ...] = ()
    uploads: tuple[str, ...] = ()
    unknown_blobs: tuple[str, ...] = ()
    lacking_blobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Truth:
    """What there is in the end."""

    executions: tuple[StoredExecution, ...] = ()
    attempts: tuple[StoredAttempt, ...] = ()
    usages: tuple[StoredUsage, ...] = ()
    charges: tuple[StoredCharge, ...] = ()
    events: tuple[StoredEvent, ...] = ()
    batches: tuple[StoredBatch, ...] = ()
    sums: Sums = field(default_factory=lambda: Sums(0, 0, 0))
    ran: tuple[Ran, ...] = ()
    left: Left = field(default_factory=Left)
