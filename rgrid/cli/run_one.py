"""Running one script: its streams here, its files here, its exit code ours."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rgrid import calls
from rgrid.cli.display import Bar, euros, print_json, say, seconds
from rgrid.cli.failures import FAILED, INTERRUPTED
from rgrid.client import Client
from rgrid.files import plan_inputs
from rgrid.models import Execution

SECOND_INTERRUPT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class SingleRun:
    """What to run and what to do with what comes of it."""

    body: Mapping[str, Any]
    args: tuple[str, ...]
    output_dir: Path
    is_remote_only: bool
    is_detached: bool
    is_json: bool
    is_verbose: bool


def run_one(client: Client, wanted: SingleRun) -> int:
    """Submit, follow, fetch; returns the exit code."""
    planned = plan_inputs(wanted.args, Path())
    inputs = client.upload(planned.files, Bar("uploading"))
    body = {**wanted.body, "args": list(planned.args), "inputs": inputs}
    execution = client.send(calls.submit_execution(body))
    if wanted.is_detached:
        if wanted.is_json:
            print_json(execution)
        else:
            click.echo(execution.execution_id)
        return 0
    attached = " (attached to the one that holds the key)" if execution.attached else ""
    say(f"{execution.execution_id}{attached}", verbose=wanted.is_verbose)
    try:
        if not wanted.is_json:
            follow(client, execution.execution_id)
        execution = client.wait(execution.execution_id)
        if not wanted.is_remote_only:
            client.download(execution.execution_id, wanted.output_dir, progress=Bar("downloading"))
    except KeyboardInterrupt:
        return interrupted(client, execution.execution_id)
    client.acknowledge(execution.execution_id)
    if wanted.is_json:
        print_json(execution)
    report(execution, verbose=wanted.is_verbose)
    return exit_code_of(execution)


def follow(client: Client, execution_id: str, *, stream: str | None = None, follow_on: bool = True) -> None:
    """Print a log's bytes on the stream that each was printed on."""
    out, err = sys.stdout.buffer, sys.stderr.buffer
    for entry in client.logs(execution_id, follow=follow_on, stream=stream):
        target = out if entry.stream == "stdout" else err
        target.write(entry.data)
        target.flush()


def interrupted(client: Client, execution_id: str) -> int:
    """The first Ctrl-C leaves the execution alone; a second one soon after cancels it."""
    click.echo(
        f"\nrgrid: left {execution_id} running; follow it with `rgrid logs -f {execution_id}`; "
        "Ctrl-C again cancels it",
        err=True,
    )
    try:
        time.sleep(SECOND_INTERRUPT_SECONDS)
    except KeyboardInterrupt:
        client.cancel(execution_id)
        click.echo(f"rgrid: canceled {execution_id}", err=True)
    return INTERRUPTED


def report(execution: Execution, *, verbose: bool) -> None:
    """Say how it ended: always where the script itself could not, else to who looks."""
    told = f"{execution.status} in {seconds(execution.duration_seconds)}, {euros(execution.cost_micros)}"
    if execution.status != "completed" and execution.error_code not in {"exit_code", "signal"}:
        click.echo(f"rgrid: {execution.execution_error}", err=True)
    say(f"{execution.execution_id} {told}", verbose=verbose)


def exit_code_of(execution: Execution) -> int:
    """The script's own code; 1 where it ended without one, or completed what the grid then refused."""
    if execution.succeeded:
        return 0
    return execution.exit_code or FAILED
