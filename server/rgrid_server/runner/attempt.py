"""An attempt as a runner carries it: its turn, its end, and what ends it from outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rgrid_server.domain.attempts import Assignment, Specification
from rgrid_server.domain.trace import parse_trace_parent
from rgrid_server.runner.logstream import AttemptLog
from rgrid_server.runner.sandbox.base import Running

T = TypeVar("T")


class Attempt:
    """An attempt that this runner carries; it can be canceled, or dropped without a word."""

    def __init__(
        self,
        assignment: Assignment,
        specification: Specification,
        log_: AttemptLog,
        on_slot_free: Callable[[], None] = lambda: None,
    ) -> None:
        self.assignment = assignment
        self.specification = specification
        self.log = log_
        self.trace_context = parse_trace_parent(assignment.trace_parent)
        self.is_canceled = False
        self.is_dropped = False
        self.is_reporting = False
        self.turn = asyncio.Event()
        self.claimed_at = time.monotonic()
        self.turned_at = 0.0
        self.has_ended = False
        self.task: asyncio.Task[None] | None = None
        self._on_slot_free = on_slot_free
        self._running: Running | None = None
        self._preparing: asyncio.Task[Any] | None = None

    @property
    def has_started(self) -> bool:
        """Whether its script runs, or has ended already."""
        return self._running is not None or self.has_ended

    def cancel(self) -> None:
        """End it: its script if it runs, else its preparation. One whose script has ended is reported so."""
        self.is_canceled = True
        if self._running is not None:
            self._running.cancel()
        elif self._preparing is not None:
            self._preparing.cancel()

    def drop(self) -> None:
        """End it now, and tell nobody: it is another's."""
        self.is_canceled = self.is_dropped = True
        if self._running is not None:
            self._running.kill()
        elif self._preparing is not None:
            self._preparing.cancel()
        elif self.task is not None and self.has_ended:
            self.task.cancel()

    async def prepare(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a part of the preparation, which a cancellation ends."""
        if self.is_canceled:
            work.close()
            raise asyncio.CancelledError
        preparing = asyncio.create_task(work)
        self._preparing = preparing
        try:
            return await preparing
        finally:
            self._preparing = None

    def runs(self, running: Running) -> None:
        """Its script has started."""
        self._running = running
        if self.is_dropped:
            running.kill()
        elif self.is_canceled:
            running.cancel()

    @property
    def holds_slot(self) -> bool:
        """Whether it is its turn, from then on until its script has ended."""
        return self.turn.is_set() and not self.has_ended

    @property
    def is_waiting(self) -> bool:
        """Whether it was claimed ahead of its turn."""
        return not self.turn.is_set() and not self.has_ended

    def take_slot(self) -> None:
        """It is its turn."""
        self.turned_at = time.monotonic()
        self.turn.set()

    def free_slot(self) -> None:
        """Its script has ended, or will not start."""
        self._running = None
        if not self.has_ended:
            self.has_ended = True
            self._on_slot_free()
