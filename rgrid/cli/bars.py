"""Progress on a terminal: rich is loaded with the first bar that is drawn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rgrid.cli.display import euros, tell

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from rgrid.models import BatchResult


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
