"""Where a piece of work stands in a trace: W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

TRACEPARENT_HEADER = "traceparent"
TRACEPARENT_VARIABLE = "TRACEPARENT"
_SAMPLED = 0x01
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span of a trace, by 32 and 16 hex digits; ``is_sampled`` says that whoever began it records it."""

    trace_id: str
    span_id: str
    is_sampled: bool = True

    def __str__(self) -> str:
        """As the header ``traceparent`` has it."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"

    def child(self, span_id: str) -> TraceContext:
        """Another span of the same trace."""
        return replace(self, span_id=span_id)


def parse_trace_parent(header: str | None) -> TraceContext | None:
    """What a ``traceparent`` says; None where there is none, or none that is valid: then a trace begins anew.

    >>> str(parse_trace_parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    >>> parse_trace_parent("00-00000000000000000000000000000000-b7ad6b7169203331-01") is None
    True
    """
    match = _TRACEPARENT.fullmatch(header) if header else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # a later version may say more; this one says no more, and ff is none
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def attempt_span_id(execution_id: str, attempt: int) -> str:
    """The span of an attempt: the same for whoever asks, so that nobody has to keep it until its end."""
    return hashlib.sha256(f"{execution_id}/{attempt}".encode()).hexdigest()[:16]
