"""A client with a span for each append, and for each batch of a producer. See `docs/tracing.md`.

Taken instead of what it derives from when a client is made with `tracing`; imported only then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from grpc import aio

from loghouse.api.v1 import log_pb2
from loghouse.client.batching import OutgoingBatch
from loghouse.client.calls import Calls
from loghouse.client.channels import AppendAnswer, Channel, LogId
from loghouse.client.connection import Asked, Connection
from loghouse.client.grpc_channel import GrpcAppends, GrpcChannel, message_of
from loghouse.client.sending import Sending
from loghouse.errors import InvalidRequestError
from loghouse.protocol.client_messages import Produce
from loghouse.protocol.cursor_messages import ProduceWithCursor
from loghouse.protocol.message import Message
from loghouse.protocol.trace_messages import RequestTrace
from loghouse.tracing.spans import (
    Attributes,
    Span,
    Tracer,
    TracerProvider,
    context_here,
    end,
    make_current,
    make_current_in_task,
    texts_here,
)


def tracer_of(tracing: Any) -> Tracer:
    """Return what begins the spans of a client.

    Args:
        tracing: True: to the provider of the program; or a provider.

    Raises:
        InvalidRequestError: It is neither.
    """
    if tracing is not True and not isinstance(tracing, TracerProvider):
        raise InvalidRequestError("tracing", f"is a {type(tracing).__name__}; give True or a TracerProvider")
    return Tracer(None if tracing is True else tracing)


class TracedCalls(Calls):
    """Calls of which each append has a span, however many attempts it takes."""

    def __init__(self, *args: Any, tracer: Tracer, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self.tracer: Tracer = tracer
        self._make = partial(TracedCalls, tracer=tracer)

    async def append(
        self,
        make: Callable[[Channel, float], Awaitable[AppendAnswer]],
        *,
        timeout_seconds: float,
        is_safe: bool = False,
    ) -> AppendAnswer:
        """See `Calls.append`."""
        span = self.tracer.begin_here("append", {"loghouse.log": self.log})
        try:
            with make_current(span):
                answer = await super().append(make, timeout_seconds=timeout_seconds, is_safe=is_safe)
        except BaseException as error:
            end(span, error)
            raise
        span.set_attribute("loghouse.offset", answer.base_offset)
        end(span)
        return answer


class TracedConnection(Connection):
    """A connection that sends the trace of an append before it: that of the current span, if there is one."""

    def begin(self, request: Message, group: int) -> Asked:
        """See `Connection.begin`."""
        if isinstance(request, Produce | ProduceWithCursor) and self.is_up:
            traceparent, tracestate = texts_here()
            if traceparent:
                self._session.trace_next(RequestTrace(traceparent=traceparent, tracestate=tracestate))
        return super().begin(request, group)


class TracedSending(Sending):
    """A producer's batches, each with a span from its first sending to its outcome.

    They are children of the span that was current when the producer was made: records cost nothing more.
    """

    def __init__(
        self, calls: Calls, *args: Any, settled: Callable[[OutgoingBatch], None], **fields: Any
    ) -> None:
        super().__init__(calls, *args, settled=self._end_batch, **fields)
        self._tracer: Tracer = calls.tracer  # fixed
        self._tell = settled  # is told of each batch with an outcome; fixed
        self._context = context_here()  # what all batches are a part of; fixed
        self._spans: dict[OutgoingBatch, Span] = {}  # of the batches that were sent and have no outcome

    def _request(self, batch: OutgoingBatch) -> Produce:
        span = self._spans.get(batch)
        if span is None:
            told: Attributes = {"loghouse.log": self._calls.log, "loghouse.records": batch.record_count}
            span = self._spans[batch] = self._tracer.begin_here("append", told, self._context)
        else:
            span.add_event("sent again")
        make_current_in_task(span)  # of the task that writes, one batch behind the other
        return super()._request(batch)

    def _end_batch(self, batch: OutgoingBatch) -> None:
        span = self._spans.pop(batch, None)
        if span is not None:
            if batch.error is None:
                span.set_attribute("loghouse.offset", batch.base_offset)
            end(span, batch.error)
        self._tell(batch)


class TracedGrpcAppends(GrpcAppends):
    """A stream of appends by gRPC whose batches each name their trace: a stream has one metadata for all."""

    def __init__(self, channel: GrpcChannel, log: LogId) -> None:
        super().__init__(channel, log)
        self._message_of = _traced_message_of


def _traced_message_of(request: Produce, log: LogId) -> log_pb2.ProduceBatchRequest:
    message = message_of(request, log)
    message.traceparent, message.tracestate = texts_here()
    return message


class TraceMetadata(aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no annotations
    """Gives a gRPC call the trace of the current span, in its metadata."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Add `traceparent`, and `tracestate` if there is one."""
        texts = zip(("traceparent", "tracestate"), texts_here(), strict=True)
        metadata = [*(client_call_details.metadata or ()), *((key, text) for key, text in texts if text)]
        return await continuation(client_call_details._replace(metadata=aio.Metadata(*metadata)), request)
