"""The span of a request that submits: it continues its caller's trace, and what is submitted continues it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from starlette.requests import HTTPConnection

from rgrid_server.api.middleware import header_of
from rgrid_server.api.services import services
from rgrid_server.domain.trace import TRACEPARENT_HEADER, TraceContext, parse_trace_parent
from rgrid_server.observability.tracing import Attributes, Tracing, spanning

_TRACEPARENT = TRACEPARENT_HEADER.encode()
_UNTRACED: AbstractContextManager[None] = nullcontext()


def submitting(request: HTTPConnection, route: str) -> AbstractContextManager[str | None]:
    """Trace a request that submits; gives the ``traceparent`` to store with what it makes, None for none."""
    given = header_of(request.scope, _TRACEPARENT)
    tracing = services(request).tracing
    if given is None and not tracing.is_on:
        return _UNTRACED
    parent = None if given is None else parse_trace_parent(given.decode("latin-1"))
    return _traced(tracing, request, route, parent)


@contextmanager
def _traced(
    tracing: Tracing, request: HTTPConnection, route: str, parent: TraceContext | None
) -> Iterator[str | None]:
    state = request.scope["state"]

    def attributes() -> Attributes:
        principal = state.get("principal")
        return {
            "http.request.method": "POST",
            "http.route": route,
            "rgrid.request_id": state.get("request_id", ""),
            "rgrid.tenant_id": principal.tenant_id if principal is not None else "",
        }

    with spanning(tracing, f"POST {route}", parent, kind="server", attributes=attributes) as context:
        yield None if context is None else str(context)
