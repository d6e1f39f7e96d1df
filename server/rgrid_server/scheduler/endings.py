"""The end of an attempt with all that it leaves, in one transaction: for reports, and for cached results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from rgrid_server.billing.charging import EndedAttempt, charge_attempt
from rgrid_server.billing.pricebook import PriceBook
from rgrid_server.clock import new_id
from rgrid_server.domain import execution as rules
from rgrid_server.domain.attempts import OutputFile, Report
from rgrid_server.domain.execution import Ending
from rgrid_server.domain.text import without_nul
from rgrid_server.scheduler.transitions import apply_event
from rgrid_server.store import blobs as blob_rows
from rgrid_server.store import executions as store
from rgrid_server.store import queue
from rgrid_server.store.database import Row
from rgrid_server.store.executions import Transition


@dataclass(frozen=True, slots=True)
class Left:
    """What a report leaves behind: its files, and the sizes of their blobs, which are here and held."""

    files: Sequence[OutputFile]
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that has ended, and what it cost."""

    done: Transition
    attempt: Row
    nanos: int


def ending_of(report: Report) -> Ending:
    """A report in the words of the rules."""
    return Ending(
        outcome=report.outcome,
        exit_code=report.exit_code,
        duration_ms=max(0, report.duration_ms),
        error_code=report.error_code,
        error_message=without_nul(report.error_message) if report.error_message else None,
    )


def end_attempt(
    connection: Connection,
    book: PriceBook,
    engine: str,
    execution: Row,
    report: Report,
    left: Left,
    host_of: Mapping[str, str],
    now: int,
) -> Ended:
    """End an attempt whose lease is open, and write state, usage, charge, result and files.

    Args:
        connection: in a transaction that holds the execution.
        book, engine: what it is charged by.
        execution: its row as it is before.
        report: what ended it; its log is written already.
        left: its files.
        host_of: the host names of runners, for showing where it ran.
        now: the time, in milliseconds since the epoch.
    """
    ending, execution_id = ending_of(report), report.execution_id
    done = apply_event(
        connection, execution_id, lambda state: rules.end(state, report.attempt, ending, now), now
    )
    attempt = queue.close_attempt(connection, execution_id, report.attempt, report.outcome.value, now)
    if done is None or attempt is None:
        raise RuntimeError(f"attempt {report.attempt} of {execution_id} has no open lease")
    nanos = charge_attempt(
        connection, book, engine, EndedAttempt(execution, attempt, report.outcome, done.after, now, report)
    )
    store.set_result(
        connection,
        execution_id,
        {
            "stdout": report.stdout.encode(errors="replace"),
            "stderr": report.stderr.encode(errors="replace"),
            "output_truncated": report.output_truncated,
            "last_sequence": report.last_sequence,
            "worker_hostname": host_of.get(attempt["runner_id"]),
            "execution_metadata": {
                **report.metadata,
                "cpu_ms": report.cpu_ms,
                "peak_memory_mib": report.peak_memory_mib,
                "bytes_in": report.bytes_in,
                "bytes_out": report.bytes_out,
            },
            "charge_nanos": execution["charge_nanos"] + nanos,
        },
    )
    if done.after.status.is_terminal:
        blob_rows.insert_artifacts(
            connection,
            [
                {
                    "artifact_id": new_id("art"),
                    "execution_id": execution_id,
                    "tenant_id": execution["tenant_id"],
                    "artifact_type": "output",
                    "filename": item.name,
                    "sha256": item.sha256,
                    "size_bytes": left.sizes[item.sha256],
                    "content_type": item.content_type,
                    "mode": item.mode & 0o777,
                    "created_at_ms": now,
                }
                for item in left.files
            ],
        )
    if execution["batch_id"] is not None and nanos:
        store.charge_batch(connection, execution["tenant_id"], execution["batch_id"], nanos)
    return Ended(done, attempt, nanos)
