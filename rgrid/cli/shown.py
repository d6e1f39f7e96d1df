"""What ``rgrid status`` and ``rgrid cost`` do: ask one thing, and print it.

They print what the server sent, and load no model to do it: making an execution's dataclass takes as long as
the question and its answer.
"""

from __future__ import annotations

import sys

from rgrid import calls
from rgrid._typing import TYPE_CHECKING
from rgrid.cli.connect import is_batch_id, transport
from rgrid.cli.display import euros, print_json, print_line, print_table, seconds

if TYPE_CHECKING:
    from typing import Any


def status(identifier: str, as_json: bool) -> None:
    """Show an execution, or a batch."""
    if is_batch_id(identifier):
        shown = _ask(calls.get_batch(identifier))
        (print_json if as_json else _print_batch)(shown)
    else:
        shown = _ask(calls.get_execution(identifier))
        (print_json if as_json else _print_execution)(shown)


def cost(
    since: str | None,
    until: str | None,
    days: int | None,
    group_by: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show what was spent, cut as ``group_by`` says."""
    found = _ask(calls.cost_breakdown(group_by or "day", since=since, until=until, days=days))
    if as_json:
        print_json(found)
        return
    dimensions = found["group_by"].split(",")
    groups = [(_parts(group["key"]), group) for group in found["groups"]]
    if as_csv:
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        counted = ["executions", "failed", "compute_time_seconds", "cost_micros"]
        writer.writerow([*dimensions, *counted])
        writer.writerows([*key, *(group[name] for name in counted)] for key, group in groups)
        return
    rows = [
        [
            *[part or "-" for part in key],
            str(group["executions"]),
            seconds(group["compute_time_seconds"]),
            euros(group["cost_micros"]),
        ]
        for key, group in groups
    ]
    total = ["total", *[""] * (len(dimensions) - 1), str(found["total_executions"]), ""]
    total.append(euros(found["total_cost_micros"]))
    print_line(f"{found['start_date']} to {found['end_date']}")
    heads = [*[name.upper() for name in dimensions], "EXECUTIONS", "TIME", "COST"]
    print_table(heads, [*rows, total])


def _ask(call: calls.Call[Any]) -> dict[str, Any]:
    carrier = transport()
    try:
        found: dict[str, Any] = carrier.send(calls.as_sent(call))
    finally:
        carrier.close()
    return found


def _parts(key: Any) -> list[str]:
    return key if isinstance(key, list) else [key]


def _print_execution(execution: dict[str, Any]) -> None:
    metadata = execution.get("user_metadata") or {}
    rows = [
        ("execution", execution["execution_id"]),
        ("status", execution["status"]),
        ("runtime", execution.get("runtime")),
        ("created", execution.get("created_at")),
        ("started", execution.get("started_at")),
        ("completed", execution.get("completed_at")),
        ("duration", seconds(execution.get("duration_seconds"))),
        ("exit code", execution.get("exit_code")),
        ("cost", euros(execution.get("cost_micros"))),
        ("error", execution.get("execution_error")),
        ("outputs", ", ".join(sorted(execution.get("download_urls") or {})) or None),
        ("batch", execution.get("batch_id")),
        ("run key", execution.get("run_key")),
        ("metadata", ", ".join(f"{k}={v}" for k, v in metadata.items()) or None),
    ]
    _print_rows([(name, str(value)) for name, value in rows if value is not None])


def _print_batch(batch: dict[str, Any]) -> None:
    counts = batch["counts"]
    rows = [
        ("batch", batch["batch_id"]),
        ("status", batch["status"]),
        ("executions", str(batch["total"])),
        *[(name, str(counts[name])) for name in ("queued", "running", "completed", "failed", "canceled")],
        ("cost", euros(batch.get("total_cost_micros"))),
    ]
    if batch.get("eta_seconds"):
        rows.append(("ready in", f"{batch['eta_seconds']} s"))
    _print_rows(rows)


def _print_rows(rows: list[tuple[str, str]]) -> None:
    for name, value in rows:
        print_line(f"{name + ':':<12}{value}")
