"""What the command line draws and writes beside a script's own output."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from rgrid.models import BatchResult


def tell(message: str) -> None:
    """RGrid's own words that are always said, on stderr; one that cannot be written ends nothing."""
    with suppress(OSError):
        click.echo(f"rgrid: {message}", err=True)


def say(message: str, *, verbose: bool = False) -> None:
    """RGrid's own words: on a terminal's stderr, or wherever it goes when they are asked for."""
    if verbose or sys.stderr.isatty():
        tell(message)


def tell_passed_over(notes: Sequence[str], *, of: str = "") -> None:
    """Name every file that the script left and that was not taken for an output, and why.

    Args:
        notes: the file's name and why, each.
        of: what to begin with where there are several scripts that left files.
    """
    for note in notes:
        tell(f"{of}not taken: {note}")


def print_json(document: Any) -> None:
    """One JSON document on one line."""
    import json
    from dataclasses import asdict, is_dataclass

    if is_dataclass(document) and not isinstance(document, type):
        document = asdict(document)
        # a list carries less than an execution has: what was not received is not made up
        if received := document.pop("received", ()):
            document = {name: document[name] for name in received}
    click.echo(json.dumps(document, ensure_ascii=False, default=_as_json))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need to be."""
    lines = [list(heads), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def euros(micros: int | None) -> str:
    """An amount: two decimals, or all six where two would not show it."""
    if micros is None:
        return "-"
    whole, fraction = divmod(abs(micros), 1_000_000)
    digits = f"{fraction:06d}"
    sign = "-" if micros < 0 else ""
    return f"{sign}€{whole}.{digits[:2] if digits.endswith('0000') else digits}"


def seconds(value: float | None) -> str:
    """A duration."""
    return "-" if value is None else f"{value:.1f} s"


class Bar:
    """A progress bar for files: drawn on a terminal only; rich is loaded with the first one."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._progress: RichProgress | None = None
        self._task: TaskID | None = None

    def on_start(self, total_bytes: int) -> None:
        """Draw it, where there is something to move and someone to see it."""
        if total_bytes == 0 or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(self._title, total=total_bytes)
        self._progress.start()

    def on_advance(self, moved_bytes: int) -> None:
        """Move it."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, moved_bytes)

    def on_end(self) -> None:
        """Remove it."""
        if self._progress is not None:
            self._progress.stop()


class BatchBar:
    """How far a batch is: a bar on a terminal, a line a change elsewhere when it is asked for."""

    def __init__(self, total: int, *, lines: bool) -> None:
        self._total = total
        self._lines = lines and not sys.stderr.isatty()
        self._progress: RichProgress | None = None
        self._task: TaskID | None = None
        self._ended = 0
        self._failed = 0
        self._cost_micros = 0

    def __enter__(self) -> BatchBar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._progress.add_task("running", total=self._total)
            self._progress.start()
        return self

    def count(self, result: BatchResult) -> None:
        """Draw that one more has ended."""
        self._ended += 1
        self._failed += not result.succeeded
        self._cost_micros += result.cost_micros or 0
        told = f"{self._failed} failed, {euros(self._cost_micros)}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._ended, description=told)
        elif self._lines:
            tell(f"{self._ended} of {self._total} ended, {told}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)
