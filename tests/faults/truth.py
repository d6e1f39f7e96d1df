"""Gathers what there is in the end: rows, files, processes, and what the scripts themselves wrote down."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Table, func, select
from sqlalchemy.engine import Connection, Engine

from rgrid_server.domain.attempts import LogEntry, LogFlags, Outcome
from rgrid_server.domain.execution import Status, is_charged
from rgrid_server.domain.prices import Usage, charge_nanos, price_at
from rgrid_server.store import spend, tables
from tests.faults.history import (
    Left,
    LogLine,
    Ran,
    StoredAttempt,
    StoredBatch,
    StoredCharge,
    StoredEvent,
    StoredExecution,
    StoredUsage,
    Sums,
    Truth,
)

Row = Mapping[str, Any]


def gather(engine: Engine, data_dir: Path, journal: Path, runners: Iterable[Path]) -> Truth:
    """All of it, once everything has ended and was stopped.

    Args:
        engine: the server's database.
        data_dir: the server's data directory.
        journal: where the scripts noted that they began and ended.
        runners: the data directories of all runners.
    """
    with engine.connect() as connection:
        logs = _logs(connection)
        outputs: dict[str, dict[str, str]] = defaultdict(dict)
        for row in _rows(connection, tables.artifacts):
            if row["artifact_type"] == "output":
                outputs[row["execution_id"]][row["filename"]] = row["sha256"]
        return Truth(
            executions=tuple(
                _execution(row, logs.get(row["execution_id"], ()), outputs[row["execution_id"]])
                for row in _rows(connection, tables.executions)
            ),
            attempts=tuple(
                StoredAttempt(row["execution_id"], row["attempt"], row["outcome"])
                for row in _rows(connection, tables.attempts)
            ),
            usages=_usages(connection),
            charges=tuple(
                StoredCharge(row["execution_id"], row["attempt"], row["nanos"])
                for row in _rows(connection, tables.charges)
            ),
            events=tuple(
                StoredEvent(row["sequence"], row["execution_id"], row["status"], row["attempt"])
                for row in _rows(connection, tables.events)
            ),
            batches=tuple(
                StoredBatch(
                    batch_id=row["batch_id"],
                    run_key=row["run_key"],
                    counts={status.value: row[status.value] for status in Status},
                    charge_nanos=row["charge_nanos"],
                    is_complete=row["completed_at_ms"] is not None,
                )
                for row in _rows(connection, tables.batches)
            ),
            sums=Sums(
                daily_nanos=_sum(connection, tables.spend_daily, "nanos"),
                monthly_nanos=_sum(connection, tables.spend_monthly, "nanos"),
                daily_executions=_sum(connection, tables.spend_daily, "executions"),
            ),
            ran=read_journal(journal),
            left=_left(connection, data_dir, list(runners)),
        )


def read_journal(journal: Path) -> tuple[Ran, ...]:
    """Which attempts began, and which came to their end, by the scripts' own words."""
    notes: Counter[tuple[str, str, int, str]] = Counter()
    for line in journal.read_text().splitlines() if journal.exists() else ():
        what, execution_id, attempt, name = line.split(" ", 3)
        notes[what, execution_id, int(attempt), name] += 1
    runs = sorted({(execution_id, attempt, name) for _, execution_id, attempt, name in notes})
    return tuple(
        Ran(
            execution_id,
            attempt,
            name,
            times_begun=notes["began", execution_id, attempt, name],
            times_ended=notes["ended", execution_id, attempt, name],
        )
        for execution_id, attempt, name in runs
    )


def processes_of(directory: Path) -> tuple[str, ...]:
    """Processes whose command, environment or directory names a directory; this one and its parents apart."""
    ours = _lineage(os.getpid())
    mark = str(directory.resolve()).encode()
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in ours:
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
            place = os.fsencode((entry / "cwd").readlink())
        except OSError:
            # gone, or a zombie that its parent has still to look at
            continue
        if any(_names(part, mark) for part in (command, environment, place)):
            found.append(f"{command.replace(bytes(1), b' ').decode(errors='replace')[:200]}({entry.name})")
    return tuple(found)


def _lineage(pid: int) -> set[int]:
    found: set[int] = set()
    while pid > 0:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


def _names(text: bytes, directory: bytes) -> bool:
    """Whether a directory, or something in it, is named; not one whose name only begins so."""
    at = text.find(directory)
    while at >= 0:
        behind = text[at + len(directory) : at + len(directory) + 1]
        if behind in {b"", b"/", b"\0", b" ", b":"}:
            return True
        at = text.find(directory, at + 1)
    return False


def _rows(connection: Connection, table: Table) -> Sequence[Row]:
    return connection.execute(select(table).order_by(*table.primary_key.columns)).mappings().all()


def _sum(connection: Connection, table: Table, column: str) -> int:
    return int(connection.execute(select(func.coalesce(func.sum(table.c[column]), 0))).scalar_one())


def _execution(row: Row, log: tuple[LogLine, ...], outputs: Mapping[str, str]) -> StoredExecution:
    return StoredExecution(
        execution_id=row["execution_id"],
        name=row["args"][0] if row["args"] else "",
        run_key=row["run_key"],
        batch_id=row["batch_id"],
        status=row["status"],
        attempt=row["attempt"],
        retry_count=row["retry_count"],
        max_retries=row["max_retries"],
        error_code=row["error_code"],
        stdout=bytes(row["stdout"] or b"").decode(),
        outputs=outputs,
        log=log,
        charge_nanos=row["charge_nanos"],
    )


def _logs(connection: Connection) -> dict[str, tuple[LogLine, ...]]:
    """Every log, entry by entry: the scripts of these programs print each line at once."""
    lines: dict[str, list[LogLine]] = defaultdict(list)
    for row in _rows(connection, tables.log_chunks):
        entries = [LogEntry(*entry) for entry in orjson.loads(row["entries"])]
        for sequence, entry in enumerate(entries, row["first_sequence"]):
            text = base64.b64decode(entry.text).decode() if entry.flags & LogFlags.BASE64 else entry.text
            lines[row["execution_id"]].append(LogLine(sequence, row["attempt"], text, entry.timestamp_ms))
    return {execution_id: tuple(found) for execution_id, found in lines.items()}


def _usages(connection: Connection) -> tuple[StoredUsage, ...]:
    book = spend.load_prices(connection)
    claimed = {
        (row["execution_id"], row["attempt"]): row["claimed_at_ms"]
        for row in _rows(connection, tables.attempts)
    }
    found: list[StoredUsage] = []
    for row in _rows(connection, tables.usages):
        usage = Usage(row["duration_ms"], row["reserved_vcpu_ms"], row["reserved_mib_ms"])
        price = price_at(book, row["engine"], claimed[row["execution_id"], row["attempt"]])
        due = charge_nanos(usage, price) if is_charged(Outcome(row["outcome"])) else 0
        found.append(
            StoredUsage(
                row["execution_id"],
                row["attempt"],
                is_final=row["is_final"],
                duration_ms=row["duration_ms"],
                due_nanos=due,
            )
        )
    return tuple(found)


def _left(connection: Connection, data_dir: Path, runners: Sequence[Path]) -> Left:
    blobs = data_dir / "blobs"
    files = [path for path in blobs.rglob("*") if path.is_file()]
    uploads = [path for path in files if "incoming" in path.relative_to(blobs).parts]
    kept = Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path not in uploads)
    named = set(connection.execute(select(tables.artifacts.c.sha256)).scalars())
    rows = {row["sha256"]: row["content"] for row in _rows(connection, tables.blobs)}
    in_files = {sha256 for sha256, content in rows.items() if content is None}
    damaged = {
        sha256
        for sha256, content in rows.items()
        if content is not None and hashlib.sha256(content).hexdigest() != sha256
    }
    return Left(
        processes=tuple(one for place in {data_dir, *runners} for one in processes_of(place)),
        workspaces=tuple(
            str(workspace) for place in runners for workspace in (place / "runner" / "work").glob("*")
        ),
        uploads=tuple(str(path) for path in uploads),
        unknown_blobs=tuple((kept - Counter(in_files)).elements()),
        lacking_blobs=tuple(sorted((named - rows.keys()) | (in_files - kept.keys()) | damaged)),
    )
