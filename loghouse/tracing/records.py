"""A trace in the headers of a record: whoever reads the record may go on with it."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from loghouse.tracing.spans import texts_here

KEYS = ("traceparent", "tracestate")


def trace_headers() -> tuple[tuple[str, bytes], ...]:
    """Return the headers that carry the current span; none when there is no span.

    await log.append(b"moved", headers=[*trace_headers(), ("unit", b"mm")])
    """
    return tuple((key, text.encode()) for key, text in zip(KEYS, texts_here(), strict=True) if text)


def trace_context(headers: Iterable[tuple[str, bytes]]) -> Context:
    """Return the context that a record's headers carry, an empty one when they carry none.

    with tracer.start_as_current_span("handle", context=trace_context(record.headers)):
        ...
    """
    texts = {key: value.decode("ascii", "replace") for key, value in headers if key in KEYS}
    return TraceContextTextMapPropagator().extract(texts, Context())
