"""Kinds 0x0381 and 0x01D0: the trace that a request belongs to, sent just before the request.

A body of a message never changes, so a trace is a frame of its own. Both kinds have the bit that lets older
versions drop them, and a receiver that traces nothing drops them, too. The texts are those of the W3C's Trace
Context; nobody but the tracer looks into them. See `docs/wire_format.md`.
"""

from __future__ import annotations

from typing import Final

from loghouse.protocol.fields import U64, LongText, ShortText, message
from loghouse.protocol.message import Message, check_text

TRACEPARENT_SIZE_MAX: Final = 255
TRACESTATE_SIZE_MAX: Final = 512


def _check_texts(traceparent: str, tracestate: str) -> None:
    check_text("traceparent", traceparent, TRACEPARENT_SIZE_MAX)
    check_text("tracestate", tracestate, TRACESTATE_SIZE_MAX)


@message(0x0381)
class RequestTrace(Message):
    """The trace of the next request on the connection; the frame's header has the stream of that."""

    traceparent: ShortText
    tracestate: LongText = ""

    def check(self) -> None:
        """Raise ValueError when a text is beyond what it may be."""
        _check_texts(self.traceparent, self.tracestate)


@message(0x01D0)
class ForwardTrace(Message):
    """The trace of the ForwardProduce of this id, which its sender is about to send."""

    request_id: U64
    traceparent: ShortText
    tracestate: LongText = ""

    def check(self) -> None:
        """Raise ValueError when a text is beyond what it may be."""
        _check_texts(self.traceparent, self.tracestate)
