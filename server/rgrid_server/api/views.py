"""How rows look on the wire."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from rgrid_server.billing.costs import Statement
from rgrid_server.domain.attempts import LogEntry, LogFlags, Stream
from rgrid_server.domain.batch import Counts, batch_status
from rgrid_server.domain.execution import TERMINAL, Status
from rgrid_server.domain.money import display_euros, nanos_to_micros
from rgrid_server.scheduler.files import place_of
from rgrid_server.store.database import Row
from rgrid_server.store.results import TAIL_BYTES


def iso(at_ms: int | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    if at_ms is None:
        return None
    second, ms = divmod(at_ms, 1000)
    return f"{_iso_second(second)}.{ms:03d}Z"


@lru_cache(maxsize=1024)
def _iso_second(second: int) -> str:
    # lists show many times of the same second
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat()


def execution(
    row: Row,
    *,
    upload_urls: dict[str, str],
    download_urls: dict[str, str],
    attached: bool = False,
) -> dict[str, Any]:
    """An execution in full."""
    return {
        "execution_id": row["execution_id"],
        "script_content": row["script_content"],
        "script_name": row["script_name"],
        "runtime": row["runtime"],
        "requirements_content": row["requirements_content"],
        "args": row["args"],
        "env_vars": row["env_vars"],
        "secrets": sorted(row["secrets"]) if row["secrets"] else [],
        "cache": row["cache"] or "off",
        "timeout_seconds": row["timeout_seconds"],
        "cpus": row["cpus_milli"] / 1000,
        "memory_mib": row["memory_mib"],
        "priority": row["priority"],
        "status": row["status"],
        "attempt": row["attempt"],
        "exit_code": row["exit_code"],
        "stdout": _text(row["stdout"]),
        "stderr": _text(row["stderr"]),
        "output_truncated": bool(row["output_truncated"]),
        "execution_error": row["error_message"],
        "error_code": row["error_code"],
        "input_files": list(row["inputs"]),
        "upload_urls": upload_urls,
        "download_urls": download_urls,
        "created_at": iso(row["created_at_ms"]),
        "started_at": iso(row["started_at_ms"]),
        "completed_at": iso(row["completed_at_ms"]),
        "cancel_requested_at": iso(row["cancel_requested_at_ms"]),
        "acknowledged_at": iso(row["acknowledged_at_ms"]),
        "cost_micros": _cost_micros(row),
        "finalized_cost_micros": None,
        "cost_finalized_at": None,
        "duration_seconds": _seconds(row["duration_ms"]),
        "worker_hostname": row["worker_hostname"],
        "execution_metadata": row["execution_metadata"] or {},
        "retry_count": row["retry_count"] + row["script_retry_count"],
        "max_retries": row["max_retries"] + _policy_retries(row),
        "retry_policy": row["retry_policy"],
        "user_metadata": row["user_metadata"],
        "batch_id": row["batch_id"],
        "batch_index": row["batch_index"],
        "run_key": row["run_key"],
        "attached": attached,
    }


def listed_execution(row: Row) -> dict[str, Any]:
    """An execution as lists show it."""
    return {
        "execution_id": row["execution_id"],
        "status": row["status"],
        "created_at": iso(row["created_at_ms"]),
        "started_at": iso(row["started_at_ms"]),
        "completed_at": iso(row["completed_at_ms"]),
        "duration_seconds": _seconds(row["duration_ms"]),
        "exit_code": row["exit_code"],
        "cost_micros": _cost_micros(row),
        "user_metadata": row["user_metadata"],
        "batch_id": row["batch_id"],
    }


def batch_member(row: Row) -> dict[str, Any]:
    """An execution as its batch shows it."""
    return {
        "execution_id": row["execution_id"],
        "status": row["status"],
        "batch_metadata": {"input_file": row["batch_input"]},
        "batch_index": row["batch_index"],
        "created_at": iso(row["created_at_ms"]),
        "completed_at": iso(row["completed_at_ms"]),
        "exit_code": row["exit_code"],
        "cost_micros": _cost_micros(row),
        "duration_seconds": _seconds(row["duration_ms"]),
        "execution_error": row["error_message"],
    }


def batch(row: Row, *, attached: bool = False) -> dict[str, Any]:
    """A batch by its counts."""
    counts = Counts(*(row[status.value] for status in Status))
    ended_at_ms = row["completed_at_ms"]
    return {
        "batch_id": row["batch_id"],
        "status": batch_status(counts, closed=row["closed"]).value,
        "total": counts.total,
        "counts": {status.value: row[status.value] for status in Status},
        "parallelism": row["parallelism"],
        "closed": bool(row["closed"]),
        "total_cost_micros": nanos_to_micros(row["charge_nanos"]),
        "created_at": iso(row["created_at_ms"]),
        "completed_at": iso(ended_at_ms),
        "cancel_requested_at": iso(row["cancel_requested_at_ms"]),
        "acknowledged_at": iso(row["acknowledged_at_ms"]),
        "eta_seconds": row["eta_seconds"],
        "user_metadata": row["user_metadata"],
        "run_key": row["run_key"],
        "attached": attached,
    }


def looked_up(what: str, found: Mapping[str, Any], ids: Sequence[str]) -> dict[str, Any]:
    """An answer to a look at many: those that there are, in the order asked, and the ids that are unknown."""
    asked = set(ids)
    return {
        what: [
            *(found[one] for one in ids if one in found),
            *(found[one] for one in found if one not in asked),
        ],
        "unknown": [one for one in ids if one not in found],
    }


def transition(event: Row, labels: Row | None, max_metadata_bytes: int) -> dict[str, Any]:
    """A transition as the feed shows it; metadata that is too long for it is None."""
    metadata = labels["user_metadata"] if labels is not None else None
    return {
        "sequence": event["sequence"],
        "execution_id": event["execution_id"],
        "batch_id": event["batch_id"],
        "batch_index": labels["batch_index"] if labels is not None else None,
        "status": event["status"],
        "attempt": event["attempt"],
        "at": iso(event["at_ms"]),
        "user_metadata": metadata if len(orjson.dumps(metadata)) <= max_metadata_bytes else None,
    }


def finished(position: int, row: Row, outputs: Sequence[Row]) -> dict[str, Any]:
    """An execution that has ended, as its batch's results show it."""
    return {
        "position": position,
        "execution_id": row["execution_id"],
        "batch_index": row["batch_index"],
        "input_file": row["batch_input"],
        "status": row["status"],
        "attempt": row["attempt"],
        "exit_code": row["exit_code"],
        "error": row["error_message"],
        "error_code": row["error_code"],
        "started_at": iso(row["started_at_ms"]),
        "completed_at": iso(row["completed_at_ms"]),
        "duration_ms": row["duration_ms"],
        "cost_micros": _cost_micros(row),
        "user_metadata": row["user_metadata"],
        **_last_line(row["stdout_tail"], is_cut=row["output_truncated"]),
        "artifacts": [
            {
                "name": item["filename"],
                "size_bytes": item["size_bytes"],
                "sha256": item["sha256"],
                "mode": item["mode"],
                "content_type": item["content_type"],
            }
            for item in outputs
        ],
        "passed_over": (row["execution_metadata"] or {}).get("passed_over", []),
    }


def artifact(row: Row, expires_at_ms: int | None) -> dict[str, Any]:
    """A file of an execution, and until when it is kept; not said while the execution has not ended."""
    return {
        "artifact_id": row["artifact_id"],
        "execution_id": row["execution_id"],
        "artifact_type": row["artifact_type"],
        "filename": row["filename"],
        "file_path": place_of(row),
        "size_bytes": row["size_bytes"],
        "sha256": row["sha256"],
        "content_type": row["content_type"],
        "mode": row["mode"],
        "created_at": iso(row["created_at_ms"]),
        "expires_at": iso(expires_at_ms),
    }


def log_entry(sequence: int, entry: LogEntry) -> dict[str, Any]:
    """A log entry for programs: ``message_base64`` stands beside bytes that are not UTF-8."""
    shown: dict[str, Any] = {
        "sequence_number": sequence,
        "stream": Stream.from_number(entry.stream).value,
        "message": entry.text,
        "newline": bool(entry.flags & LogFlags.NEWLINE),
        "timestamp": iso(entry.timestamp_ms),
    }
    if entry.flags & LogFlags.BASE64:
        shown["message"] = base64.b64decode(entry.text).decode(errors="replace")
        shown["message_base64"] = entry.text
    return shown


def log_bytes(entry: LogEntry) -> bytes:
    """A log entry as it was printed."""
    if entry.flags & LogFlags.BASE64:
        printed = base64.b64decode(entry.text)
    else:
        printed = entry.text.encode(errors="surrogateescape")
    return printed + b"\n" if entry.flags & LogFlags.NEWLINE else printed


def cost(statement: Statement) -> dict[str, Any]:
    """A statement by day, as the kept call has it."""
    return {
        "start_date": statement.first_day.isoformat(),
        "end_date": statement.last_day.isoformat(),
        "total_cost_micros": statement.total_micros,
        "total_cost_display": display_euros(statement.total_micros),
        "by_date": [
            {
                "date": group.key[0],
                "executions": group.executions,
                "compute_time_seconds": group.compute_ms / 1000,
                "cost_micros": group.cost_micros,
                "cost_display": display_euros(group.cost_micros),
            }
            for group in statement.groups
        ],
        "total_executions": statement.executions,
    }


def breakdown(group_by: str, dimensions: Sequence[str], statement: Statement) -> dict[str, Any]:
    """A statement in parts that sum to it."""
    return {
        "group_by": group_by,
        "start_date": statement.first_day.isoformat(),
        "end_date": statement.last_day.isoformat(),
        "total_cost_micros": statement.total_micros,
        "total_cost_display": display_euros(statement.total_micros),
        "total_executions": statement.executions,
        "groups": [
            {
                "key": list(group.key) if len(dimensions) > 1 else group.key[0],
                "executions": group.executions,
                "failed": group.failed,
                "compute_time_seconds": group.compute_ms / 1000,
                "cost_micros": group.cost_micros,
                "cost_display": display_euros(group.cost_micros),
            }
            for group in statement.groups
        ],
    }


def key(row: Row) -> dict[str, Any]:
    """A key as lists show it: by its prefix."""
    return {
        "key_id": row["key_id"],
        "tenant_id": row["tenant_id"],
        "tenant_name": row["tenant_name"],
        "key_prefix": row["prefix"],
        "name": row["name"],
        "scopes": row["scopes"].split(","),
        "created_at": iso(row["created_at_ms"]),
        "expires_at": iso(row["expires_at_ms"]),
        "revoked_at": iso(row["revoked_at_ms"]),
    }


def missing_inputs(row: Row) -> Iterable[str]:
    """Names of files that an execution still waits for."""
    if not row["inputs"] or row["status"] in TERMINAL:
        return ()
    return [name for name, sha256 in row["inputs"].items() if sha256 is None]


def _last_line(tail: bytes | None, *, is_cut: bool) -> dict[str, str | bool | None]:
    """The last line of stdout, or that there is one which is not whole in the tail of what is kept of it."""
    _, newline, line = (tail or b"").rstrip(b"\r\n").rpartition(b"\n")
    is_omitted = bool(is_cut) or (not newline and len(tail or b"") >= TAIL_BYTES)
    return {
        "last_line": None if is_omitted or not tail else line.decode(errors="replace"),
        "last_line_omitted": is_omitted,
    }


def _cost_micros(row: Row) -> int | None:
    if row["status"] not in TERMINAL:
        return None
    return nanos_to_micros(row["charge_nanos"])


def _policy_retries(row: Row) -> int:
    return int(row["retry_policy"]["max_retries"]) if row["retry_policy"] else 0


def _seconds(duration_ms: int | None) -> float | None:
    return None if duration_ms is None else duration_ms / 1000


def _text(data: bytes | None) -> str:
    return "" if data is None else data.decode(errors="replace")
