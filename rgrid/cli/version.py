"""``rgrid version``."""

from __future__ import annotations

import click

from rgrid._version import __version__


@click.command(help="Print the version.")
def command() -> None:
    """Print it."""
    click.echo(f"rgrid {__version__}")
