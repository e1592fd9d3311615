"""Forwarding with spans: one where an append is passed on, and one where the leader serves it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from loghouse.limits import FORWARD_TRACES_MAX
from loghouse.node.forwarding import Forwarder, Leading
from loghouse.protocol.cursor_messages import ForwardProduceWithCursor
from loghouse.protocol.forward_messages import ForwardProduce
from loghouse.protocol.message import Message
from loghouse.protocol.trace_messages import ForwardTrace
from loghouse.replica.api import Appended, Proposal
from loghouse.replica.tracing import TracedProposal, traced
from loghouse.tracing.spans import CLIENT, Span, Tracer, end, texts_of


class TracedForwarder(Forwarder):
    """Both ends of forwarding, with a ForwardTrace before each append that belongs to a trace."""

    def __init__(self, *args: Any, tracer: Tracer, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self._tracer = tracer  # fixed
        self._asking: Span | None = None  # of the proposal that `propose` is about, until it is sent
        # What came before its append, by who sent it and the request's id. The oldest ones go.
        self._traces: dict[tuple[str, int], ForwardTrace] = {}
        self._arrived: ForwardTrace | None = None  # that of the request that `message_received` is about

    def propose(self, leader_name: str, group: int, proposal: Proposal) -> Deferred[Appended]:
        """See `Forwarder.propose`."""
        if not isinstance(proposal, TracedProposal):
            return super().propose(leader_name, group, proposal)
        first, *others = proposal.spans
        told = {"loghouse.leader": leader_name}
        span = self._asking = self._tracer.begin(
            "forward append", first, kind=CLIENT, attributes=told, also=others
        )
        try:
            return super().propose(leader_name, group, proposal).addBoth(_ended, span)
        finally:
            self._asking = None

    def _ask(self, leader_name: str, group: int, request_id: int, *rest: Any) -> Deferred[Any]:
        span, self._asking = self._asking, None
        if span is not None and leader_name:
            traceparent, tracestate = texts_of(span)
            trace = ForwardTrace(request_id=request_id, traceparent=traceparent, tracestate=tracestate)
            self._send(leader_name, trace, group)
        return super()._ask(leader_name, group, request_id, *rest)

    def message_received(
        self, source_name: str, message: Message, group: int, leading: Leading | None
    ) -> None:
        """See `Forwarder.message_received`."""
        if isinstance(message, ForwardTrace):
            self._traces[source_name, message.request_id] = message
            if len(self._traces) > FORWARD_TRACES_MAX:
                del self._traces[next(iter(self._traces))]
            return
        if isinstance(message, ForwardProduce | ForwardProduceWithCursor):
            request = message if isinstance(message, ForwardProduce) else message.request
            self._arrived = self._traces.pop((source_name, request.request_id), None)
        try:
            super().message_received(source_name, message, group, leading)
        finally:
            self._arrived = None

    def _propose_here(self, leading: Leading, proposal: Proposal) -> Deferred[Appended]:
        trace, self._arrived = self._arrived, None
        span = None
        if trace is not None:
            told = {"loghouse.log": leading.name}
            span = self._tracer.received("serve forwarded append", trace.traceparent, trace.tracestate, told)
        if span is None:
            return super()._propose_here(leading, proposal)
        try:
            return super()._propose_here(leading, traced(proposal, (span,))).addBoth(_ended, span)
        except Exception as error:
            end(span, error)
            raise

    def link_lost(self, node_name: str) -> None:
        """See `Forwarder.link_lost`."""
        self._traces = {key: trace for key, trace in self._traces.items() if key[0] != node_name}
        super().link_lost(node_name)


def _ended(outcome: Any, span: Span) -> Any:
    end(span, outcome.value if isinstance(outcome, Failure) else None)
    return outcome
