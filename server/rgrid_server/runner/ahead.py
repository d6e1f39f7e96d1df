"""How many attempts to claim beyond the free slots: as many short scripts as end within a moment.

Asking for each script by itself costs more than a short script does. What is claimed ahead waits here with
its inputs laid out; where it waits for longer than a moment after all, it is handed back for others to run.
"""

from __future__ import annotations

AHEAD_SECONDS = 0.25
"""So much work is held for each slot."""
MAX_AHEAD_PER_SLOT = 32
WAIT_SECONDS = 1.0
"""What has waited for so long is handed back."""
_WEIGHT = 0.1


class Pace:
    """How long scripts have held a slot lately; pure, told the time by whoever calls.

    >>> pace = Pace()
    >>> pace.ahead(2, longest_running_seconds=0.0)
    0
    >>> pace.ended(0.01)
    >>> pace.ahead(2, longest_running_seconds=0.0)
    50
    >>> pace.ahead(2, longest_running_seconds=5.0)
    0
    """

    def __init__(self) -> None:
        self._mean_seconds: float | None = None

    def ended(self, held_seconds: float) -> None:
        """A script has held a slot for so long."""
        if self._mean_seconds is None:
            self._mean_seconds = held_seconds
        else:
            self._mean_seconds += _WEIGHT * (held_seconds - self._mean_seconds)

    def ahead(self, slots: int, *, longest_running_seconds: float) -> int:
        """How many to hold beyond those that run, given for how long one of these has run already."""
        if self._mean_seconds is None or longest_running_seconds > AHEAD_SECONDS:
            return 0
        per_slot = min(MAX_AHEAD_PER_SLOT, AHEAD_SECONDS / max(self._mean_seconds, 0.001))
        return int(slots * per_slot)
