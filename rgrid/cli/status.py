"""``rgrid status``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rgrid.cli.connect import connect, is_batch_id
from rgrid.cli.display import euros, print_json, seconds

if TYPE_CHECKING:
    from rgrid.models import Batch, Execution


@click.command(help="Show an execution, or a batch by its counts.")
@click.argument("identifier", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def command(identifier: str, as_json: bool) -> None:
    """Show one."""
    with connect() as client:
        if is_batch_id(identifier):
            batch = client.batch(identifier)
            (print_json if as_json else _print_batch)(batch)
        else:
            execution = client.get(identifier)
            (print_json if as_json else _print_execution)(execution)


def _print_execution(execution: Execution) -> None:
    rows = [
        ("execution", execution.execution_id),
        ("status", execution.status),
        ("runtime", execution.runtime),
        ("created", execution.created_at),
        ("started", execution.started_at),
        ("completed", execution.completed_at),
        ("duration", seconds(execution.duration_seconds)),
        ("exit code", execution.exit_code),
        ("cost", euros(execution.cost_micros)),
        ("error", execution.execution_error),
        ("outputs", ", ".join(sorted(execution.download_urls)) or None),
        ("batch", execution.batch_id),
        ("run key", execution.run_key),
        ("metadata", ", ".join(f"{k}={v}" for k, v in execution.user_metadata.items()) or None),
    ]
    _print_rows([(name, str(value)) for name, value in rows if value is not None])


def _print_batch(batch: Batch) -> None:
    counts = batch.counts
    rows = [
        ("batch", batch.batch_id),
        ("status", batch.status),
        ("executions", str(batch.total)),
        ("queued", str(counts.queued)),
        ("running", str(counts.running)),
        ("completed", str(counts.completed)),
        ("failed", str(counts.failed)),
        ("canceled", str(counts.canceled)),
        ("cost", euros(batch.total_cost_micros)),
    ]
    if batch.eta_seconds:
        rows.append(("ready in", f"{batch.eta_seconds} s"))
    _print_rows(rows)


def _print_rows(rows: list[tuple[str, str]]) -> None:
    for name, value in rows:
        click.echo(f"{name + ':':<12}{value}")
