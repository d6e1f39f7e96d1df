"""``rgrid retry``."""

from __future__ import annotations

import click

from rgrid.cli.connect import connect, is_batch_id


@click.command(help="Run an execution or a batch again, as a new one; prints its id.")
@click.argument("identifier", metavar="ID")
@click.option("--batch", "-b", is_flag=True, help="ID is a batch.")
@click.option("--failed-only", is_flag=True, help="Of a batch, only what did not complete.")
@click.option("--force", "-f", is_flag=True, help="Also an execution that completed.")
def command(identifier: str, batch: bool, failed_only: bool, force: bool) -> int:
    """Run one again."""
    with connect() as client:
        if batch or is_batch_id(identifier):
            click.echo(client.retry_batch(identifier, failed_only=failed_only).batch_id)
            return 0
        if failed_only:
            raise click.UsageError("--failed-only is for a batch")
        if client.get(identifier).succeeded and not force:
            raise click.UsageError(f"{identifier} completed; run it again all the same with --force")
        click.echo(client.retry(identifier).execution_id)
    return 0
