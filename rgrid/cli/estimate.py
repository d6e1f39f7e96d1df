"""``rgrid estimate``."""

from __future__ import annotations

from pathlib import Path

import click

from rgrid.cli.connect import connect
from rgrid.cli.display import seconds


@click.command(help="Say what runs are likely to take and cost, from runs like them.")
@click.option("--runtime", help="python:3.11 and the like.")
@click.option("--batch", "pattern", metavar="GLOB", help="As many runs as files match.")
@click.option("--files", type=click.IntRange(min=0), metavar="N", help="So many runs.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def command(runtime: str | None, pattern: str | None, files: int | None, as_json: bool) -> None:
    """Estimate."""
    if pattern is not None:
        if files is not None:
            raise click.UsageError("--batch and --files both say how many; give one")
        from rgrid.cli.run_batch import plan_items

        files = len(plan_items(pattern, [], Path()))
    with connect() as client:
        found = client.estimate(runtime, files)
    if as_json:
        from rgrid.cli.display import print_json

        print_json(found)
        return
    click.echo(f"executions:  {found.estimated_executions}")
    click.echo(f"each:        {seconds(found.estimated_duration_seconds)}")
    click.echo(f"together:    {seconds(found.estimated_total_duration_seconds)}")
    click.echo(f"cost:        {found.estimated_cost_display}")
    for assumption in found.assumptions:
        click.echo(f"  - {assumption}")
