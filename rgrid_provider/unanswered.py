"""Work whose submission was not answered: whether it came about is asked of the server, by its run key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rgrid.exceptions import RGridError
from rgrid.models import Batch, Execution
from rgrid_provider.lives import may_end

SEARCH_SECONDS = 3.0
"""So long it is looked for, since the request may still be on its way.

Airflow 3 kills a task five seconds after SIGTERM.
"""
PAUSE_SECONDS = 0.2
ANSWER_SECONDS = 2.0
"""So long one look may take."""


def find_unanswered(
    ask: Callable[[], Execution | Batch | None], mine: Mapping[str, Any]
) -> Execution | Batch | None:
    """What came of a submission and has not ended, as soon as it is there; None where nothing is to be ended.

    Args:
        ask: what holds the run key just now.
        mine: the attribution of the try that submitted.
    """
    deadline = time.monotonic() + SEARCH_SECONDS
    while True:
        try:
            held = ask()
        except RGridError:
            # whatever kept the answer back may keep this one back too
            held = None
        if held is not None:
            if not may_end(mine, held.user_metadata):
                return None
            if not held.is_terminal:
                return held
        if time.monotonic() >= deadline:
            return None
        time.sleep(PAUSE_SECONDS)
