"""``rgrid cancel``."""

from __future__ import annotations

import click

from rgrid.cli.connect import connect, is_batch_id


@click.command(help="Stop an execution or a batch: SIGTERM, then SIGKILL after a grace.")
@click.argument("identifier", metavar="ID")
def command(identifier: str) -> None:
    """Stop one."""
    with connect() as client:
        if is_batch_id(identifier):
            click.echo(f"{identifier} {client.cancel_batch(identifier).status}")
            return
        execution = client.cancel(identifier)
        state = execution.status if execution.is_terminal else "is being canceled"
        click.echo(f"{identifier} {state}")
