"""Running one script: its streams here, its files here, its exit code ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rgrid import calls
from rgrid.cli.display import Bar, Outlet, euros, print_json, say, seconds
from rgrid.cli.failures import FAILED, INTERRUPTED
from rgrid.cli.interrupts import Interrupts
from rgrid.client import Client
from rgrid.files import plan_inputs
from rgrid.models import Execution

SECOND_INTERRUPT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class SingleRun:
    """What to run and what to do with what comes of it."""

    script: Path
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
    planned = plan_inputs(wanted.args, Path(), wanted.script)

    def submit() -> Execution:
        inputs = client.upload(planned.files, Bar("uploading"))
        body = {**wanted.body, "args": list(planned.args), "inputs": inputs}
        return client.send(calls.submit_execution(body))

    try:
        execution = interrupts.during(submit)
    except KeyboardInterrupt:
        return leave_unanswered(str(wanted.body["run_key"]))
    if wanted.is_detached:
        if wanted.is_json:
            print_json(execution)
        else:
            click.echo(execution.execution_id)
        return 0
    attached = " (attached to the one that holds the key)" if execution.attached else ""
    say(f"{execution.execution_id}{attached}", verbose=wanted.is_verbose)

    unwritten: list[OSError] = []

    def finish() -> Execution:
        if not wanted.is_json:
            unwritten.extend(follow(client, execution.execution_id))
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
    for error in unwritten:
        click.echo(f"rgrid: what the script printed could not be written here: {error.strerror}", err=True)
    return exit_code_of(execution) or (FAILED if unwritten else 0)


def follow(
    client: Client, execution_id: str, *, stream: str | None = None, follow_on: bool = True
) -> list[OSError]:
    """Print a log's bytes on the stream that each was printed on; returns what cannot be written to, and why.

    Raises:
        BrokenPipeError: whoever reads has left.
    """
    outlets = {"stdout": Outlet(sys.stdout), "stderr": Outlet(sys.stderr)}
    for entry in client.logs(execution_id, follow=follow_on, stream=stream):
        outlets[entry.stream].write(entry.data)
    return [outlet.error for outlet in outlets.values() if outlet.error is not None]


def leave_unanswered(run_key: str) -> int:
    """Ctrl-C before the server has answered: what was sent may or may not have arrived."""
    click.echo(
        "\nrgrid: interrupted before the server had answered; if it was submitted, `rgrid list` shows it, "
        f"and the same command with --key {run_key} attaches to it",
        err=True,
    )
    return INTERRUPTED


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
    for passed_over in execution.execution_metadata.get("passed_over", []):
        click.echo(f"rgrid: not taken: {passed_over}", err=True)
    say(f"{execution.execution_id} {told}", verbose=verbose)


def exit_code_of(execution: Execution) -> int:
    """The script's own code; 1 where it ended without one, or completed what the grid then refused."""
    if execution.succeeded:
        return 0
    return execution.exit_code or FAILED
