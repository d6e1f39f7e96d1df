"""What is noted of every request: how long it took, and a line in the log where that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from rgrid_server.observability.metrics import Metrics
from rgrid_server.observability.tallies import Tally

log = logging.getLogger("rgrid_server.access")

UNMATCHED = "(unmatched)"
WAITS = "?wait"
CLIENT_LEFT = 499
"""nginx's number for a request whose caller left before it was answered."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class RequestNotes:
    """Counts requests by route, method and status.

    Args:
        metrics: where they are counted.
        is_logged: whether each leaves a line, at level info.
    """

    def __init__(self, metrics: Metrics, *, is_logged: bool) -> None:
        self._requests = metrics.requests
        self._is_logged = is_logged
        self._known: dict[tuple[str, str, int], Tally] = {}

    def finished(self, scope: Mapping[str, Any], route: str, status: int, began: float) -> None:
        """Note a request that has been answered; ``began`` is by :func:`time.perf_counter`."""
        seconds = perf_counter() - began
        method, query = scope["method"], scope["query_string"]
        if query and b"wait=" in query:
            route += WAITS
        known = self._known.get((route, method, status))
        if known is None:
            # anyone may make up a method; a label may not be made up
            named = method if method in _METHODS else "OTHER"
            known = self._requests.of(named, route, status)
            if named == method:
                self._known[route, method, status] = known
        known.add(seconds)
        if self._is_logged:
            facts = {
                "method": method,
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 2),
            }
            log.info("%s %s %d", method, route, status, extra=facts)
