"""``rgrid version``."""

from __future__ import annotations

import click

from rgrid.cli import VERSION


@click.command(help="Print the version.")
def command() -> None:
    """Print it."""
    click.echo(VERSION)
