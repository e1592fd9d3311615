"""Appends of binary sessions with a span each, of those that came with a trace."""

from __future__ import annotations

from typing import Any, cast

from loghouse.errors import OutcomeUnknownError
from loghouse.net.appending import Append, Appender, Appends
from loghouse.node.api import LogLike
from loghouse.protocol.client_messages import Produce
from loghouse.protocol.session import TraceReceived
from loghouse.replica.tracing import TracedCoalescer
from loghouse.tracing.spans import Attributes, Span, Tracer, end


class TracedAppender(Appender):
    """Proposes the batches of all binary sessions, with their spans."""

    coalescer_class = TracedCoalescer

    def __init__(self, *args: Any, tracer: Tracer, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self.tracer = tracer  # fixed


class TracedAppend(Append):
    """One batch of a session, and its span: None when it came without a trace."""

    __slots__ = ("span",)

    def __init__(self, appends: Appends, log: LogLike, stream: int, request: Produce, now: float) -> None:
        super().__init__(appends, log, stream, request, now)
        self.span = cast(TracedAppends, appends).span_of(log, stream, request)


class TracedAppends(Appends):
    """The unanswered appends of one session; each that came with a trace has a span until its answer."""

    append_class = TracedAppend
    _trace: TraceReceived | None = None  # the last one that came; gone with the next batch

    def trace(self, received: TraceReceived) -> None:
        """The next batch belongs to a trace, if it comes on that stream."""
        self._trace = received

    def span_of(self, log: LogLike, stream: int, request: Produce) -> Span | None:
        """Begin the span of a batch that came just now."""
        received, self._trace = self._trace, None
        if received is None or received.stream != stream:
            return None
        tracer = cast(TracedAppender, self.appender).tracer
        told: Attributes = {"loghouse.log": log.name, "loghouse.records": request.record_count}
        return tracer.received("serve append", received.trace.traceparent, received.trace.tracestate, told)

    def answer(self, append: Append, base_offset: int, timestamp: int) -> None:
        """See `Appends.answer`."""
        super().answer(append, base_offset, timestamp)
        span = cast(TracedAppend, append).span
        if span is not None:
            span.set_attribute("loghouse.offset", base_offset)
            end(span)

    def refuse(self, append: Append, error: BaseException) -> None:
        """See `Appends.refuse`."""
        super().refuse(append, error)
        span = cast(TracedAppend, append).span
        if span is not None:
            end(span, error)

    def forget(self, stream: int) -> None:
        """See `Appends.forget`."""
        append = self._open.get(stream)
        super().forget(stream)
        span = cast(TracedAppend, append).span if append is not None else None
        if span is not None:
            end(span, OutcomeUnknownError("the client does not wait any more"))
