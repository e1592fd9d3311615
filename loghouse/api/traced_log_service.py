"""The service `Log` with a span for each append, of calls whose metadata has a trace."""

from __future__ import annotations

import asyncio
from typing import Any

from loghouse.api.gated_call import GatedCall
from loghouse.api.log_service import Answer, BatchShare, LogService
from loghouse.errors import OutcomeUnknownError
from loghouse.metrics import DoorTally
from loghouse.node.api import LogLike
from loghouse.node.gate import Gate
from loghouse.protocol.trace_messages import TRACESTATE_SIZE_MAX
from loghouse.replica.tracing import TracedCoalescer
from loghouse.tracing.spans import Attributes, Span, Tracer, end


class TracedShare(BatchShare):
    """A batch on its way into the log, and its span: None when its call has no trace."""

    __slots__ = ("span",)

    span: Span | None


class TracedLogService(LogService):
    """Answers the calls of `log.v1.Log`; what is appended has spans."""

    coalescer_class = TracedCoalescer

    def __init__(self, gate: Gate, tally: DoorTally | None = None, *, tracer: Tracer) -> None:
        super().__init__(gate, tally)
        self._tracer = tracer  # fixed
        self._span: Span | None = None  # of the batch that `_append` is about
        self._make_share = self._make_traced

    def _make_traced(
        self, payload: bytes, payload_crc: int | None, record_count: int, answer: Answer
    ) -> TracedShare:
        share = TracedShare(payload, payload_crc, record_count, answer)
        share.span = self._span
        return share

    def _append(
        self,
        log: LogLike,
        call: GatedCall,
        request: Any,
        payload: bytes,
        record_count: int,
        *rest: Any,
        **fields: Any,
    ) -> asyncio.Future[bytes]:
        traceparent, tracestate = _texts_of(call, request)
        told: Attributes = {"loghouse.log": log.name, "loghouse.records": record_count}
        span = self._span = self._tracer.received("serve append", traceparent, tracestate, told)
        try:
            done = super()._append(log, call, request, payload, record_count, *rest, **fields)
        finally:
            self._span = None
        if span is not None:
            done.add_done_callback(lambda done: _end(span, done))
        return done


def _texts_of(call: GatedCall, request: Any) -> tuple[str, str]:
    """Return the texts of a trace: of the request, else of the whole call.

    They are empty when there is none, and when one of them is no text, or too long.
    """
    texts = (request.traceparent, request.tracestate) if request.traceparent else call.trace_texts()
    fits = (isinstance(text, str) and len(text) <= TRACESTATE_SIZE_MAX for text in texts)
    return texts if all(fits) else ("", "")


def _end(span: Span, done: asyncio.Future[bytes]) -> None:
    if done.cancelled():
        end(span, OutcomeUnknownError("the client does not wait any more"))
    else:
        end(span, done.exception())
