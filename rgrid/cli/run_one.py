"""Running one script: its streams here, its files here, its exit code ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rgrid import calls
from rgrid.cli.display import Bar, euros, print_json, say, seconds
from rgrid.cli.failures import FAILED, INTERRUPTED
from rgrid.cli.interrupts import Interrupts
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
    with Interrupts() as interrupts:
        return _run_one(client, wanted, interrupts)


def _run_one(client: Client, wanted: SingleRun, interrupts: Interrupts) -> int:
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

    def finish() -> Execution:
        if not wanted.is_json:
            follow(client, execution.execution_id)
        ended = client.wait(execution.execution_id)
        if not wanted.is_remote_only:
            client.download(ended.execution_id, wanted.output_dir, progress=Bar("downloading"))
        return ended

    try:
        execution = interrupts.during(finish)
    except KeyboardInterrupt:
        return leave(
            interrupts,
            execution.execution_id,
            f"follow it with `rgrid logs -f {execution.execution_id}`",
            lambda: client.cancel(execution.execution_id),
        )
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


def leave(interrupts: Interrupts, work_id: str, how_to_see: str, cancel: Callable[[], object]) -> int:
    """The first Ctrl-C leaves an execution or a batch alone; a second one soon after cancels it."""
    click.echo(f"\nrgrid: left {work_id} running; {how_to_see}; Ctrl-C again cancels it", err=True)
    if interrupts.again_within(SECOND_INTERRUPT_SECONDS):
        cancel()
        click.echo(f"rgrid: canceled {work_id}", err=True)
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
