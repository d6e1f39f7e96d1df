"""``rgrid logs``."""

from __future__ import annotations

import gc

import click

from rgrid.cli.connect import connect
from rgrid.cli.failures import INTERRUPTED


@click.command(
    help="Print an execution's log, each stream where it was printed, and on stderr what the grid said."
)
@click.argument("execution_id", metavar="ID")
@click.option("--follow", "-f", "follow_on", is_flag=True, help="Go on until it ends.")
@click.option("--stdout-only", is_flag=True)
@click.option("--stderr-only", is_flag=True)
def command(execution_id: str, follow_on: bool, stdout_only: bool, stderr_only: bool) -> int:
    """Print one."""
    gc.enable()
    if stdout_only and stderr_only:
        raise click.UsageError("--stdout-only and --stderr-only leave nothing")
    stream = "stdout" if stdout_only else "stderr" if stderr_only else None
    from rgrid.cli.interrupts import Interrupts
    from rgrid.cli.run_one import Streams, follow

    streams = Streams(shows_system=True)
    with connect() as client, Interrupts() as interrupts:
        try:
            interrupts.during(
                lambda: follow(client, execution_id, streams, stream=stream, follow_on=follow_on)
            )
        except KeyboardInterrupt:
            return INTERRUPTED
    return streams.exit_code()
