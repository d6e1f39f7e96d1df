"""Ctrl-C that is neither lost nor too early: the first one ends the waiting, a second one means more.

A plain KeyboardInterrupt is lost where it is raised in a finaliser, such as that of the answer that
http.client has just read to its end, and one that comes while the first is being told of would end the
command in the middle of it. So Ctrl-C is counted, and the first is raised again until it is heard.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TypeVar

T = TypeVar("T")

REMIND_SECONDS = 0.1
LOOK_SECONDS = 0.05


class Interrupts:
    """Counts Ctrl-C for the length of a ``with`` block, in the main thread."""

    def __init__(self) -> None:
        self._count = 0
        self._is_working = False
        self._only_counts = False

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._pressed)
        self._alarm_before = signal.signal(signal.SIGALRM, self._remind)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)
        signal.signal(signal.SIGALRM, self._alarm_before)

    def during(self, work: Callable[[], T]) -> T:
        """Do something that Ctrl-C ends.

        Raises:
            KeyboardInterrupt: it was pressed; from now on it is only counted.
        """
        try:
            self._is_working = True
            try:
                return work()
            finally:
                self._rest()
        except KeyboardInterrupt:
            self._only_counts = True
            self._rest()
            raise

    def again_within(self, seconds: float) -> bool:
        """Whether Ctrl-C has been pressed twice, now or within some seconds."""
        deadline = time.monotonic() + seconds
        while self._count < 2 and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        return self._count >= 2

    def _pressed(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._only_counts:
            return
        if self._is_working:
            signal.setitimer(signal.ITIMER_REAL, REMIND_SECONDS, REMIND_SECONDS)
        raise KeyboardInterrupt

    def _remind(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_working:
            raise KeyboardInterrupt

    def _rest(self) -> None:
        self._is_working = False
        signal.setitimer(signal.ITIMER_REAL, 0)
