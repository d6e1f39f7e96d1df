"""``rgrid cost``."""

from __future__ import annotations

import sys

import click

from rgrid.cli.connect import connect
from rgrid.cli.display import euros, print_json, print_table, seconds

_since = click.option("--since", metavar="YYYY-MM-DD", help="The first day.")
_until = click.option("--until", metavar="YYYY-MM-DD", help="The last day.")
_days = click.option("--days", type=click.IntRange(min=1), metavar="N", help="So many days; 7 by default.")


@click.group(invoke_without_command=True, help="Show what was spent: by day, or cut as --by says.")
@_since
@_until
@_days
@click.option("--by", "group_by", metavar="day|dag|task|owner|batch|metadata.K", help="How to cut it.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@click.pass_context
def command(
    ctx: click.Context,
    since: str | None,
    until: str | None,
    days: int | None,
    group_by: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show spend."""
    if ctx.invoked_subcommand is not None:
        return
    with connect() as client:
        found = client.cost_breakdown(group_by or "day", since=since, until=until, days=days)
    dimensions = found.group_by.split(",")
    if as_json:
        print_json(found)
    elif as_csv:
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([*dimensions, "executions", "failed", "compute_time_seconds", "cost_micros"])
        for group in found.groups:
            writer.writerow(
                [*group.key, group.executions, group.failed, group.compute_time_seconds, group.cost_micros]
            )
    else:
        rows = [
            [
                *[part or "-" for part in group.key],
                str(group.executions),
                seconds(group.compute_time_seconds),
                euros(group.cost_micros),
            ]
            for group in found.groups
        ]
        total = [
            "total",
            *[""] * (len(dimensions) - 1),
            str(found.total_executions),
            "",
            euros(found.total_cost_micros),
        ]
        heads = [*[name.upper() for name in dimensions], "EXECUTIONS", "TIME", "COST"]
        click.echo(f"{found.start_date} to {found.end_date}")
        print_table(heads, [*rows, total])


@command.command("export", help="Print the bill as CSV in FOCUS columns: a row an attempt, to the nano-euro.")
@_since
@_until
@_days
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
