"""``rgrid cost``."""

from __future__ import annotations

import sys
from typing import Any

import click

from rgrid.cli import shown
from rgrid.cli.clicked import option, options
from rgrid.cli.connect import connect
from rgrid.cli.display import print_json
from rgrid.cli.quick import COST, DAYS, SINCE, UNTIL


@click.group(invoke_without_command=True, help=COST.help)
@options(COST)
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Show spend."""
    if ctx.invoked_subcommand is None:
        shown.cost(**given)


@command.command("export", help="Print the bill as CSV in FOCUS columns: a row an attempt, to the nano-euro.")
@option(SINCE)
@option(UNTIL)
@option(DAYS)
def export(since: str | None, until: str | None, days: int | None) -> None:
    """Print the bill."""
    with connect() as client:
        for chunk in client.cost_export(since=since, until=until, days=days):
            sys.stdout.buffer.write(chunk)


@command.command("set-limit", help="Refuse new work once a month has cost AMOUNT euros.")
@click.argument("amount")
def set_limit(amount: str) -> None:
    """Set the limit."""
    from decimal import Decimal, InvalidOperation

    try:
        euros_wanted = Decimal(amount.removeprefix("€"))
    except InvalidOperation:
        euros_wanted = Decimal(-1)
    if not euros_wanted.is_finite() or euros_wanted < 0:
        raise click.UsageError(f"AMOUNT is a number of euros from 0 up, such as 25.50, not {amount!r}")
    with connect() as client:
        click.echo(client.set_budget(euros_wanted))


@command.command("show-limit", help="Show the limit and this month's use of it.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def show_limit(as_json: bool) -> None:
    """Show the limit."""
    with connect() as client:
        budget = client.budget()
    if as_json:
        print_json(budget)
    else:
        click.echo(
            f"{budget.message} ({budget.current_usage_display} this month)"
            if not budget.has_limit
            else budget.message
        )


@command.command("remove-limit", help="Remove the limit.")
def remove_limit() -> None:
    """Remove the limit."""
    with connect() as client:
        click.echo(client.remove_budget())
