"""Spans that stay in memory, and what tests say of them."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loghouse.tracing.spans import Tracer

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = SAMPLED[:-1] + "0"
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C


class Spans:
    """A tracer whose spans are kept once they end."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = Tracer(self.provider)

    @property
    def finished(self):
        """The spans that have ended, in that order."""
        return list(self.exporter.get_finished_spans())

    def named(self, name):
        """The only span of a name that has ended."""
        [found] = [span for span in self.finished if span.name == name]
        return found

    def tree(self, trace_id=TRACE_ID):
        """A trace as name -> name of the parent; empty for a parent that is not here."""
        names = {span.context.span_id: span.name for span in self.finished}
        return {
            span.name: names.get(span.parent.span_id, "") if span.parent is not None else ""
            for span in self.finished
            if span.context.trace_id == trace_id
        }
