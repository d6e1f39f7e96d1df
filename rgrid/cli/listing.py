"""``rgrid list``."""

from __future__ import annotations

import gc
import sys
import time
from typing import TYPE_CHECKING

import click

from rgrid.cli.connect import connect, parse_pairs
from rgrid.cli.display import euros, print_json, print_table, seconds

if TYPE_CHECKING:
    from rgrid.client import Client
    from rgrid.models import Execution

WATCH_SECONDS = 2.0
STATUSES = ["queued", "running", "completed", "failed", "canceled"]


@click.command(help="List executions, newest first.")
@click.option("--status", "-s", type=click.Choice(STATUSES), help="Only these.")
@click.option("--metadata", "-m", multiple=True, metavar="K=V", help="Only those with this note.")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document a line.")
@click.option("--watch", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")
def command(status: str | None, metadata: tuple[str, ...], limit: int, as_json: bool, watch: bool) -> None:
    """List some."""
    gc.enable()
    wanted = parse_pairs(metadata, "--metadata")
    with connect() as client:
        _show(client, limit, status, wanted, as_json=as_json)
        while watch:
            time.sleep(WATCH_SECONDS)
            if sys.stdout.isatty():
                click.clear()
            _show(client, limit, status, wanted, as_json=as_json)


def _show(client: Client, limit: int, status: str | None, metadata: dict[str, str], *, as_json: bool) -> None:
    executions = client.list(limit, status, metadata)
    if as_json:
        for execution in executions:
            print_json(execution)
        return
    print_table(["EXECUTION", "STATUS", "CREATED", "DURATION", "COST"], [_row(item) for item in executions])


def _row(execution: Execution) -> list[str]:
    created = (execution.created_at or "").replace("T", " ")[:19]
    return [
        execution.execution_id,
        execution.status,
        created,
        seconds(execution.duration_seconds),
        euros(execution.cost_micros),
    ]
