"""``rgrid completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(help='Print a completion script; use it with eval "$(rgrid completion bash)".')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print one."""
    from rgrid.cli.commands import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(kind(cli, {}, "rgrid", "_RGRID_COMPLETE").source())
