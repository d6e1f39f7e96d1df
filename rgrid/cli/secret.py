"""``rgrid secret``."""

from __future__ import annotations

import sys

import click

from rgrid.cli.connect import connect
from rgrid.cli.display import print_json, print_table


@click.group(help="Keep secrets on the server: `rgrid run --secret NAME` gives them to a script.")
def command() -> None:
    """Look after what is kept."""


@command.command("set", help="Keep a secret; its value is asked for, or read from stdin.")
@click.argument("name")
def set_secret(name: str) -> None:
    """Keep one."""
    if sys.stdin.isatty():
        value = click.prompt(name, hide_input=True, err=True)
    else:
        value = sys.stdin.read()
        # `echo`, and most files, end with one that is not meant
        value = value.removesuffix("\n").removesuffix("\r")
    with connect() as client:
        click.echo(client.put_secret(name, value))


@command.command("list", help="Show the names of what is kept; values are never shown.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document a line.")
def list_secrets(as_json: bool) -> None:
    """Show names."""
    with connect() as client:
        found = client.secrets()
    if as_json:
        for one in found:
            print_json(one)
    else:
        print_table(["NAME", "UPDATED"], [[one.name, one.updated_at] for one in found])


@command.command("remove", help="Keep a secret no more.")
@click.argument("name")
def remove_secret(name: str) -> None:
    """Remove one."""
    with connect() as client:
        click.echo(client.remove_secret(name))
