"""Spans, for those who ask for them: sent by OpenTelemetry's SDK, which is loaded only then.

Most spans of RGrid lie between two moments that different processes see, so they are written when they are
over, with the times and ids that are known by then. That needs no global tracer, and an execution's whole
context is one ``traceparent`` that is stored with it.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rgrid_server.domain.trace import TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

Attributes = Mapping[str, str | int | float | bool]

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
HOW_TO_INSTALL = "install it with: pip install 'rgrid[tracing]'"


class TracingUnavailable(Exception):
    """Traces were asked for, and OpenTelemetry is not installed."""


class Tracing(Protocol):
    """Takes in spans that are over."""

    is_on: bool

    def begin(self, parent: TraceContext | None) -> TraceContext | None:
        """The context of a new span; without a parent, of a new trace.

        Where no spans are written it is the parent's: who comes after continues what came before.
        """

    def record(
        self,
        name: str,
        parent: TraceContext | None,
        start_ns: int,
        end_ns: int,
        *,
        trace_id: str | None = None,
        span_id: str | None = None,
        kind: str = "internal",
        attributes: Attributes | None = None,
        is_error: bool = False,
    ) -> None:
        """Write a span; ``trace_id`` is for one without a parent, ``span_id`` for one that was begun before.

        Times are nanoseconds since the epoch. What its parent's trace does not record is not written.
        """

    def close(self) -> None:
        """Send what is left; takes some seconds where nobody receives it."""


class NoTracing:
    """Writes nothing."""

    is_on = False

    def begin(self, parent: TraceContext | None) -> TraceContext | None:
        """The parent itself."""
        return parent

    def record(
        self, name: str, parent: TraceContext | None, start_ns: int, end_ns: int, **_more: object
    ) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class OtlpTracing:
    """Sends spans by OTLP over HTTP, where the variables of OpenTelemetry say.

    Args:
        service: what sends them, as ``service.name``.
        ratio: which part of the traces that begin here are recorded, 0 to 1; others are as their caller says.

    Raises:
        TracingUnavailable: OpenTelemetry is not installed.
    """

    is_on = True

    def __init__(self, service: str, ratio: float = 1.0) -> None:
        self._ids = _ChosenIds()
        self._provider = _provider(service, self._ids)
        self._tracer = self._provider.get_tracer("rgrid")
        self._ratio = ratio

    def begin(self, parent: TraceContext | None) -> TraceContext | None:
        """A context of a fresh span."""
        if parent is not None:
            return parent.child(new_span_id())
        trace_id = secrets.token_hex(16)
        # as TraceIdRatioBased of OpenTelemetry: the trace's id decides, wherever it is asked
        is_sampled = int(trace_id[16:], 16) < self._ratio * 2**64
        return TraceContext(trace_id, new_span_id(), is_sampled)

    def record(
        self,
        name: str,
        parent: TraceContext | None,
        start_ns: int,
        end_ns: int,
        *,
        trace_id: str | None = None,
        span_id: str | None = None,
        kind: str = "internal",
        attributes: Attributes | None = None,
        is_error: bool = False,
    ) -> None:
        """Write a span."""
        from opentelemetry import trace

        if parent is not None and not parent.is_sampled:
            return
        context = None
        if parent is not None:
            sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            carried = trace.SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, sampled)
            context = trace.set_span_in_context(trace.NonRecordingSpan(carried))
        self._ids.trace_id = trace_id or secrets.token_hex(16)
        self._ids.span_id = span_id or new_span_id()
        span = self._tracer.start_span(
            name,
            context=context,
            kind=trace.SpanKind[kind.upper()],
            attributes=attributes,
            start_time=start_ns,
            set_status_on_exception=False,
        )
        if is_error:
            span.set_status(trace.StatusCode.ERROR)
        span.end(max(start_ns, end_ns))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class _ChosenIds:
    """An id generator of OpenTelemetry's kind, which hands out what it was told."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = ""

    def generate_span_id(self) -> int:
        return int(self.span_id, 16)

    def generate_trace_id(self) -> int:
        return int(self.trace_id, 16)

    def is_trace_id_random(self) -> bool:
        return True


def _provider(service: str, ids: _ChosenIds) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    except ImportError as error:
        raise TracingUnavailable(f"traces need OpenTelemetry ({error}); {HOW_TO_INSTALL}") from error
    resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", service)})
    provider = TracerProvider(
        resource=resource,
        sampler=ALWAYS_ON,
        id_generator=ids,  # type: ignore[arg-type]  # it has the methods; its base class would be loaded always
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def make_tracing(service: str, wanted: bool | None, ratio: float = 1.0) -> Tracing:
    """Traces as asked for: by a setting, or else by OpenTelemetry's own variables.

    Raises:
        TracingUnavailable: the setting asks for them, and OpenTelemetry is not installed.
    """
    is_named = any(os.environ.get(name) for name in ENDPOINT_VARIABLES)
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if wanted is False or (wanted is None and (is_disabled or not is_named)):
        return NoTracing()
    try:
        return OtlpTracing(service, ratio)
    except TracingUnavailable as error:
        if wanted:
            raise
        log.warning("%s is set, but %s", " or ".join(ENDPOINT_VARIABLES), error)
        return NoTracing()


@contextmanager
def spanning(
    tracing: Tracing,
    name: str,
    parent: TraceContext | None,
    kind: str = "internal",
    attributes: Callable[[], Attributes] | None = None,
) -> Iterator[TraceContext | None]:
    """A span over a ``with`` block, whose context it gives; ``attributes`` are asked for at the end."""
    context = tracing.begin(parent)
    if context is None or not tracing.is_on or not context.is_sampled:
        yield context
        return
    start_ns = time.time_ns()
    is_error = True
    try:
        yield context
        is_error = False
    finally:
        tracing.record(
            name,
            parent,
            start_ns,
            time.time_ns(),
            trace_id=context.trace_id,
            span_id=context.span_id,
            kind=kind,
            attributes=attributes() if attributes is not None else None,
            is_error=is_error,
        )


def new_span_id() -> str:
    """A fresh span's 16 hex digits."""
    return secrets.token_hex(8)
