"""Running a script over many files."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import click

from rgrid.cli.bars import Bar, BatchBar
from rgrid.cli.display import euros, print_json, say, tell, tell_passed_over
from rgrid.cli.failures import FAILED
from rgrid.cli.interrupts import Interrupts
from rgrid.cli.run_one import Sending, leave
from rgrid.client import Client
from rgrid.exceptions import ConfigurationError
from rgrid.files import carried_name, plan_inputs
from rgrid.models import Batch, BatchExecution, BatchResult

PLACEHOLDER = "{}"


@dataclass(frozen=True, slots=True)
class BatchRun:
    """What to run over which files, and what to do with what comes of it."""

    template: Mapping[str, Any]
    script: Path
    args: tuple[str, ...]
    glob: str
    parallelism: int | None
    run_key: str
    output_dir: Path
    is_flat: bool
    is_remote_only: bool
    is_detached: bool
    is_json: bool
    is_watched: bool


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """One file's execution: what its folder is called, its arguments, and the files that it needs."""

    name: str
    args: tuple[str, ...]
    files: Mapping[str, Path]


def run_batch(client: Client, wanted: BatchRun) -> int:
    """Submit, watch, fetch; returns 0 when every file completed."""
    items = plan_items(wanted.glob, wanted.args, Path(), wanted.script)
    sending = Sending(wanted.run_key)
    with Interrupts() as interrupts:
        try:
            batch = interrupts.during(lambda: _submit(client, wanted, items, sending))
        except KeyboardInterrupt:
            return sending.leave()
    if wanted.is_detached:
        if wanted.is_json:
            print_json(batch)
        else:
            click.echo(batch.batch_id)
        return 0
    say(f"{batch.batch_id}: {batch.total} executions", verbose=wanted.is_watched)
    batch_id = batch.batch_id
    with Interrupts() as interrupts:
        try:
            batch = interrupts.during(lambda: _watch(client, batch, lines=wanted.is_watched))
        except KeyboardInterrupt:
            seen_by = f"see it with `rgrid status {batch_id}`"
            return leave(interrupts, batch_id, seen_by, lambda: client.cancel_batch(batch_id))
    executions = list(client.batch_executions(batch.batch_id))
    if not wanted.is_remote_only:
        fetch(client, batch.batch_id, wanted.output_dir, is_flat=wanted.is_flat)
    else:
        for result in client.batch_results(batch.batch_id):
            _tell_passed_over(result)
    client.acknowledge_batch(batch.batch_id)
    if wanted.is_json:
        for execution in executions:
            print_json(execution)
    return report(batch, executions, verbose=wanted.is_watched)


def _submit(client: Client, wanted: BatchRun, items: Sequence[PlannedItem], sending: Sending) -> Batch:
    # by its path: each execution has inputs of its own, and two of them may call theirs alike
    hashes = client.upload(
        {str(path): path for item in items for path in item.files.values()}, Bar("uploading")
    )
    return sending.send(
        lambda: client.submit_batch(
            wanted.template,
            [
                {
                    "args": list(item.args),
                    "inputs": {name: hashes[str(path)] for name, path in item.files.items()},
                    "input_file": item.name,
                }
                for item in items
            ],
            parallelism=wanted.parallelism,
            run_key=wanted.run_key,
            user_metadata=wanted.template.get("user_metadata"),
        )
    )


def plan_items(pattern: str, args: Sequence[str], cwd: Path, script: Path | None = None) -> list[PlannedItem]:
    """One item for every file that matches, each with a name of its own for its folder.

    Raises:
        rgrid.exceptions.ConfigurationError: nothing matches.
    """
    # pathlib's own glob takes no absolute patterns
    found = glob.glob(pattern, root_dir=cwd, recursive=True)  # noqa: PTH207
    matches = sorted(path for path in found if (cwd / path).is_file())
    if not matches:
        raise ConfigurationError(f"no file matches {pattern!r}; quote the pattern, and look where you are")
    items: list[PlannedItem] = []
    for path, name in zip(matches, name_folders(matches, cwd), strict=True):
        filled = [arg.replace(PLACEHOLDER, path) for arg in args]
        planned = plan_inputs(filled if filled != list(args) else [path, *args], cwd, script)
        items.append(PlannedItem(name, planned.args, planned.files))
    return items


def name_folders(paths: Sequence[str], cwd: Path) -> list[str]:
    """What the folder of each of some files is called: as shortly as tells them apart, and always alike.

    That is its base name, or else its path from here; of files that are not below here, which have none,
    the path from the directory that they have in common.
    """
    names = _told_apart([PurePosixPath(path).name for path in paths], [carried_name(path) for path in paths])
    twice = {name for name, count in Counter(names).items() if count > 1}
    if twice:
        whole = [os.path.normpath(cwd.absolute() / path) for path in paths]
        clashing = [Path(path).parent for path, name in zip(whole, names, strict=True) if name in twice]
        common = os.path.commonpath(clashing)
        names = _told_apart(names, [os.path.relpath(path, common) for path in whole])
    return names


def _told_apart(short: Sequence[str], long: Sequence[str]) -> list[str]:
    count = Counter(short)
    return [name if count[name] == 1 else other for name, other in zip(short, long, strict=True)]


def fetch(client: Client, batch_id: str, output_dir: Path, *, is_flat: bool) -> None:
    """Fetch every output of a batch, into a folder for each input or, flat, into one.

    Raises:
        rgrid.exceptions.ConfigurationError: flat, and two inputs made files of one name; nothing is fetched.
    """
    from rgrid.streams import folder_by_input, no_folder

    total_bytes = 0
    made: list[BatchResult] = []
    for result in client.batch_results(batch_id):
        total_bytes += sum(item.size_bytes for item in result.artifacts)
        _tell_passed_over(result)
        if is_flat:
            made.append(result)
    _check_clashes(made, output_dir)
    bar = Bar("downloading")
    bar.on_start(total_bytes)
    try:
        for _ in client.batch_outputs(
            batch_id, output_dir, folder_of=no_folder if is_flat else folder_by_input, progress=bar
        ):
            continue
    finally:
        bar.on_end()


def report(batch: Batch, executions: Sequence[BatchExecution], *, verbose: bool) -> int:
    """Say how it ended, each failure by name; returns the exit code."""
    failed = [execution for execution in executions if not execution.succeeded]
    for execution in failed:
        why = execution.execution_error or execution.status
        tell(f"{execution.input_file} ({execution.execution_id}): {why}")
    done = f"{batch.counts.completed} of {batch.total} completed, {euros(batch.total_cost_micros)}"
    if failed:
        again = f"; run the others again with `rgrid retry --batch {batch.batch_id} --failed-only`"
        tell(f"{batch.batch_id}: {done}{again}")
        return FAILED
    say(f"{batch.batch_id}: {done}", verbose=verbose)
    return 0


def _tell_passed_over(result: BatchResult) -> None:
    tell_passed_over(result.passed_over, of=f"{result.input_file} ({result.execution_id}): ")


def _watch(client: Client, batch: Batch, *, lines: bool) -> Batch:
    with BatchBar(batch.total, lines=lines) as bar:
        for result in client.batch_results(batch.batch_id, follow=True):
            bar.count(result)
    return client.batch(batch.batch_id)


def _check_clashes(results: Sequence[BatchResult], output_dir: Path) -> None:
    maker: dict[str, BatchResult] = {}
    # in the order of the inputs, so that the same clash is told alike whoever ended first
    for result in sorted(results, key=lambda one: one.batch_index):
        for item in result.artifacts:
            other = maker.setdefault(item.name, result)
            if other is not result:
                raise ConfigurationError(
                    f"{other.input_file} and {result.input_file} both made {item.name}; nothing was "
                    f"written to {output_dir}: leave out --flat, or name outputs by their inputs"
                )
