"""Which trace this process belongs to, for the header ``traceparent`` of its calls (W3C Trace Context).

``TRACEPARENT`` in the environment is continued, as whoever started this process has set it; else
``RGRID_TRACE=1`` begins a trace, the same for all calls of the process. The client itself writes no spans.
"""

from __future__ import annotations

import os

PARENT_VARIABLE = "TRACEPARENT"
BEGIN_VARIABLE = "RGRID_TRACE"
HEADER = "traceparent"
_LENGTHS = [2, 32, 16, 2]
_DIGITS = frozenset("0123456789abcdef")
_begun: dict[int, str] = {}


def is_wanted() -> bool:
    """Whether the environment says anything of a trace; asked at every call, so it is cheap."""
    return PARENT_VARIABLE in os.environ or BEGIN_VARIABLE in os.environ


def trace_parent() -> str | None:
    """What the header says; None where there is no trace."""
    given = os.environ.get(PARENT_VARIABLE, "").strip()
    if _is_valid(given):
        # a later version's first four parts are what this one has
        return "-".join(["00", *given.split("-")[1:4]])
    if os.environ.get(BEGIN_VARIABLE, "0") in {"", "0"}:
        return None
    # a forked process goes its own way
    process = os.getpid()
    if process not in _begun:
        _begun[process] = f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"
    return _begun[process]


def trace_id() -> str | None:
    """The trace's 32 hex digits, to look it up by; None where there is no trace."""
    header = trace_parent()
    return None if header is None else header.split("-")[1]


def _is_valid(header: str) -> bool:
    parts = header.split("-")
    return (
        [len(part) for part in parts[:4]] == _LENGTHS
        and all(_DIGITS.issuperset(part) for part in parts[:4])
        and parts[0] != "ff"
        and (parts[0] != "00" or len(parts) == 4)
        and parts[1].strip("0") != ""
        and parts[2].strip("0") != ""
    )
