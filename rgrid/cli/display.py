"""What the command line draws and writes beside a script's own output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from rgrid.models import BatchResult


def say(message: str, *, verbose: bool = False) -> None:
    """RGrid's own words: on a terminal's stderr, or wherever it goes when they are asked for."""
    if verbose or is_seen():
        click.echo(f"rgrid: {message}", err=True)


def is_seen() -> bool:
    """Whether stderr is a terminal, and there at all."""
    return sys.stderr is not None and sys.stderr.isatty()


def print_json(document: Any) -> None:
    """One JSON document on one line."""
    import json
    from dataclasses import asdict, is_dataclass

    if is_dataclass(document) and not isinstance(document, type):
        document = asdict(document)
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


class Outlet:
    """A stream of this process for a script's bytes; one that is closed swallows them, as Python's does."""

    def __init__(self, stream: TextIO | None) -> None:
        self.error: OSError | None = None
        self._stream = stream

    def write(self, data: bytes) -> None:
        """Write them now; after a failure nothing more is written.

        Raises:
            BrokenPipeError: whoever reads has left.
        """
        if self._stream is None or self.error is not None:
            return
        try:
            self._stream.buffer.write(data)
            self._stream.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self.error = error
            self._forget_the_rest(self._stream)

    @staticmethod
    def _forget_the_rest(stream: TextIO) -> None:
        # what is still in its buffer would fail again when the process ends
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


class Bar:
    """A progress bar for files: drawn on a terminal only; rich is loaded with the first one."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._progress: RichProgress | None = None
        self._task: TaskID | None = None

    def on_start(self, total_bytes: int) -> None:
        """Draw it, where there is something to move and someone to see it."""
        if total_bytes == 0 or not is_seen():
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
        self._lines = lines and not is_seen()
        self._progress: RichProgress | None = None
        self._task: TaskID | None = None
        self._ended = 0
        self._failed = 0
        self._cost_micros = 0

    def __enter__(self) -> BatchBar:
        if is_seen():
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
            click.echo(f"rgrid: {self._ended} of {self._total} ended, {told}", err=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)
