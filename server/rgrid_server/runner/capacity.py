"""What a runner has room for: whose turn it is, and what to offer when it asks for more."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from rgrid_server.runner.ahead import Pace
from rgrid_server.runner.attempt import Attempt
from rgrid_server.runner.machine import DiskFloor

MAX_ENDED_PER_SLOT = 3
"""An attempt whose script has ended holds no slot; so many at most wait for their outputs and reports."""


class Capacity:
    """Slots, processors and memory of a runner, as far as what it carries leaves them.

    Args:
        carried: what it carries; looked at anew each time.
        slots: how many scripts may run at once.
        memory_mib: what they may have together; None where that is not counted.
        floor: how full its disk may be.
    """

    def __init__(
        self, carried: Collection[Attempt], slots: int, memory_mib: int | None, floor: DiskFloor
    ) -> None:
        self._carried = carried
        self._slots = slots
        self._memory_mib = memory_mib
        self._floor = floor
        self._pace = Pace()

    def give_turns(self) -> None:
        """Let those begin, in the order of their claims, for which there is room."""
        for attempt in self.waiting():
            holding = self._holding()
            cpus_milli, memory_mib = _asked([*holding, attempt])
            has_memory = self._memory_mib is None or memory_mib <= self._memory_mib
            if not holding or (
                len(holding) < self._slots and cpus_milli <= self._slots * 1000 and has_memory
            ):
                attempt.take_slot()
            else:
                return

    def slot_freed(self, attempt: Attempt) -> None:
        """An attempt's script has ended, or will not start."""
        if attempt.turn.is_set():
            self._pace.ended(time.monotonic() - attempt.turned_at)
        self.give_turns()

    def waiting(self) -> list[Attempt]:
        """What was claimed ahead of its turn."""
        return [one for one in self._carried if one.is_waiting]

    def free_slots(self) -> int:
        """How many attempts may come."""
        if self._floor.is_reached:
            return 0
        not_ended = len(self._not_ended())
        if len(self._carried) - not_ended >= MAX_ENDED_PER_SLOT * self._room():
            return 0
        free = self._room() - not_ended
        # half of what is ahead is asked for at once, rather than each by itself
        return free if free >= (self._room() - self._slots) // 2 else 0

    def free_cpus_milli(self) -> int:
        """How many thousandths of a vCPU they may ask for."""
        used, _ = _asked(self._not_ended())
        return max(0, self._room() * 1000 - used)

    def free_memory_mib(self) -> int | None:
        """How much memory they may ask for; None where that is not counted."""
        if self._memory_mib is None:
            return None
        _, used = _asked(self._not_ended())
        return max(0, self._memory_mib * self._room() // self._slots - used)

    def _room(self) -> int:
        """How many attempts may be here that have not ended: in the slots, and ahead of their turn."""
        now = time.monotonic()
        longest_seconds = max((now - one.turned_at for one in self._holding()), default=0.0)
        return self._slots + self._pace.ahead(self._slots, longest_running_seconds=longest_seconds)

    def _holding(self) -> list[Attempt]:
        return [one for one in self._carried if one.holds_slot]

    def _not_ended(self) -> list[Attempt]:
        return [one for one in self._carried if not one.has_ended]


def _asked(attempts: Iterable[Attempt]) -> tuple[int, int]:
    """Processors and memory that attempts ask for together: thousandths of a vCPU, MiB."""
    assignments = [one.assignment for one in attempts]
    return sum(one.cpus_milli for one in assignments), sum(one.memory_mib for one in assignments)
