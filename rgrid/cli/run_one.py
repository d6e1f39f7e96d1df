"""Running one script: its streams here, its files here, its exit code ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from rgrid import calls
from rgrid.cli.bars import Bar
from rgrid.cli.display import euros, is_told, print_json, say, seconds, tell, tell_passed_over
from rgrid.cli.failures import FAILED, INTERRUPTED
from rgrid.cli.interrupts import Interrupts
from rgrid.client import Client
from rgrid.files import plan_inputs
from rgrid.models import Execution, LogEntry

T = TypeVar("T")

SECOND_INTERRUPT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class SingleRun:
    """What to run and what to do with what comes of it."""

    body: Mapping[str, Any]
    script: Path
    args: tuple[str, ...]
    output_dir: Path
    is_remote_only: bool
    is_detached: bool
    is_json: bool
    is_verbose: bool
    explains_cache: bool


def run_one(client: Client, wanted: SingleRun) -> int:
    """Submit, follow, fetch; returns the exit code."""
    with Interrupts() as interrupts:
        return _run_one(client, wanted, interrupts)


def _run_one(client: Client, wanted: SingleRun, interrupts: Interrupts) -> int:
    planned = plan_inputs(wanted.args, Path(), wanted.script)
    sending = Sending(str(wanted.body["run_key"]))

    def submit() -> Execution:
        inputs = client.upload(planned.files, Bar("uploading"))
        body = {**wanted.body, "args": list(planned.args), "inputs": inputs}
        return sending.send(lambda: client.send(calls.submit_execution(body)))

    try:
        execution = interrupts.during(submit)
    except KeyboardInterrupt:
        return sending.leave()
    if wanted.is_detached:
        if wanted.is_json:
            print_json(execution)
        else:
            click.echo(execution.execution_id)
        return 0
    attached = " (attached to the one that holds the key)" if execution.attached else ""
    say(f"{execution.execution_id}{attached}", verbose=wanted.is_verbose)

    streams = Streams(shows_system=is_told(verbose=wanted.is_verbose))

    def finish() -> Execution:
        if not wanted.is_json:
            follow(client, execution.execution_id, streams)
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
    tell_of_cache(execution, verbose=wanted.is_verbose, explains=wanted.explains_cache)
    # said in any case, also where the script has failed itself
    unwritable = streams.exit_code()
    return exit_code_of(execution) or unwritable


class Sending:
    """Knows, when Ctrl-C ends a submission, whether the server may have got it."""

    def __init__(self, run_key: str) -> None:
        self._run_key = run_key
        self._may_be_there = False

    def send(self, submit: Callable[[], T]) -> T:
        """Submit: from here on the server may have it."""
        self._may_be_there = True
        return submit()

    def leave(self) -> int:
        """Say what became of it."""
        if not self._may_be_there:
            tell("interrupted; nothing was submitted")
        else:
            tell(
                "interrupted while it was submitted: it may run. `rgrid list` shows it, `rgrid cancel ID` "
                f"ends it; the same command with --key {self._run_key} follows it and runs nothing twice"
            )
        return INTERRUPTED


class Streams:
    """Our stdout and stderr, for a script's bytes; one that cannot be written loses them, no more.

    Args:
        shows_system: write what the grid itself says, such as while it builds an environment, on stderr too.
    """

    def __init__(self, *, shows_system: bool) -> None:
        self._of = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
        if shows_system:
            self._of["system"] = sys.stderr.buffer
        self._failures: dict[str, OSError] = {}

    def write(self, entry: LogEntry) -> None:
        """Write an entry's bytes on the stream that they were printed on.

        Raises:
            BrokenPipeError: whoever read that has left.
        """
        if entry.stream in self._failures or entry.stream not in self._of:
            return
        target = self._of[entry.stream]
        try:
            target.write(entry.data)
            target.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self._failures[entry.stream] = error

    def exit_code(self) -> int:
        """Say what could not be written; the exit code that follows from it."""
        for name, error in self._failures.items():
            tell(f"{name} cannot be written: {error.strerror}")
        return FAILED if self._failures else 0


def follow(
    client: Client,
    execution_id: str,
    streams: Streams,
    *,
    stream: str | None = None,
    follow_on: bool = True,
) -> None:
    """Print a log's bytes."""
    for entry in client.logs(execution_id, follow=follow_on, stream=stream):
        streams.write(entry)


def leave(interrupts: Interrupts, work_id: str, how_to_see: str, cancel: Callable[[], object]) -> int:
    """The first Ctrl-C leaves an execution or a batch alone; a second one soon after cancels it."""
    # what the terminal shows of Ctrl-C ends no line
    with suppress(OSError):
        click.echo(err=True)
    tell(f"left {work_id} running; {how_to_see}; Ctrl-C again cancels it")
    if interrupts.again_within(SECOND_INTERRUPT_SECONDS):
        cancel()
        tell(f"canceled {work_id}")
    return INTERRUPTED


def report(execution: Execution, *, verbose: bool) -> None:
    """Say how it ended: always where the script itself could not, else to who looks."""
    tell_passed_over(execution.passed_over)
    told = f"{execution.status} in {seconds(execution.duration_seconds)}, {euros(execution.cost_micros)}"
    if execution.status != "completed" and execution.error_code not in {"exit_code", "signal"}:
        tell(str(execution.execution_error))
    say(f"{execution.execution_id} {told}", verbose=verbose)


def tell_of_cache(execution: Execution, *, verbose: bool, explains: bool) -> None:
    """Say what an earlier result has saved, or, where that was asked, why there was none."""
    told = execution.execution_metadata.get("cache")
    if not told:
        return
    if told["hit"]:
        saved = f"{seconds(told['saved_seconds'])} and {euros(told['saved_micros'])}"
        text = f"the result is that of {told['execution_id']}, which saved {saved}"
    else:
        text = f"no earlier result stands for it: {', '.join(told['because'])}"
    if explains:
        tell(text)
    elif told["hit"]:
        say(text, verbose=verbose)


def exit_code_of(execution: Execution) -> int:
    """The script's own code; 1 where it ended without one, or completed what the grid then refused."""
    if execution.succeeded:
        return 0
    return execution.exit_code or FAILED
