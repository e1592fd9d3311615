"""What the house needs of OpenTelemetry: begin a span, end it, and hand its context on as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace import Span as Span
from opentelemetry.trace import TracerProvider as TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from loghouse import __version__

INTERNAL: Final = SpanKind.INTERNAL
CLIENT: Final = SpanKind.CLIENT
_SERVER: Final = SpanKind.SERVER
_TEXTS: Final = TraceContextTextMapPropagator()
_NOTHING: Final = Context()  # never the context of whoever runs by chance

Attributes = Mapping[str, str | int]


class Tracer:
    """Begins spans.

    Args:
        provider: Where they go; None: to that of the program, which may be set later.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("loghouse", __version__, provider)

    def received(
        self, name: str, traceparent: str, tracestate: str, attributes: Attributes | None = None
    ) -> Span | None:
        """Begin the span of a request that came with the texts of the W3C's Trace Context.

        Returns:
            None when they are none, or say that the trace is not sampled: a node begins no trace of its own.
        """
        texts = {"traceparent": traceparent, "tracestate": tracestate}
        parent = _TEXTS.extract({key: text for key, text in texts.items() if text}, _NOTHING)
        told = trace.get_current_span(parent).get_span_context()
        if not (told.is_valid and told.trace_flags.sampled):
            return None
        span = self._tracer.start_span(name, parent, _SERVER, attributes)
        return span if span.is_recording() else None

    def begin(
        self,
        name: str,
        parent: Span,
        *,
        kind: SpanKind = INTERNAL,
        attributes: Attributes | None = None,
        also: Iterable[Span] = (),
    ) -> Span:
        """Begin a child of a span.

        Args:
            also: Spans that it works for, too. Each of them and the child get links to each other.
        """
        others = tuple(also)
        links = [Link(other.get_span_context()) for other in others]
        span = self._tracer.start_span(
            name, trace.set_span_in_context(parent, _NOTHING), kind, attributes, links
        )
        for other in others:
            other.add_link(span.get_span_context())
        return span

    def begin_here(
        self, name: str, attributes: Attributes | None = None, within: Context | None = None
    ) -> Span:
        """Begin the span of a call that this program makes.

        Args:
            within: The context that it is a part of; None: the one that is current here.
        """
        return self._tracer.start_span(name, within, CLIENT, attributes)


def end(span: Span, error: BaseException | None = None) -> None:
    """End a span; with an error, it says which."""
    if error is not None:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR, str(error)))
    span.end()


def texts_of(span: Span) -> tuple[str, str]:
    """Return a span's `traceparent` and `tracestate`; both empty when it is none."""
    return _texts_in(trace.set_span_in_context(span, _NOTHING))


def texts_here() -> tuple[str, str]:
    """Return the texts of the span that is current here; both empty when there is none."""
    return _texts_in(context.get_current())


def _texts_in(within: Context) -> tuple[str, str]:
    texts: dict[str, str] = {}
    _TEXTS.inject(texts, within)
    return texts.get("traceparent", ""), texts.get("tracestate", "")


def context_here() -> Context:
    """Return the context that is current here."""
    return context.get_current()


def make_current(span: Span) -> AbstractContextManager[Span]:
    """Make a span the current one within a block; the block does not end it."""
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


def make_current_in_task(span: Span) -> None:
    """Make a span the current one of this task, until another one is."""
    context.attach(trace.set_span_in_context(span))
