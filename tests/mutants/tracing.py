"""Known bugs of tracing: which appends have spans, whose children they are, and that each of them ends.

Each names the test that must catch it. `tests/tracing/test_mutants.py` tries them.
"""

from tests.mutants.named import bug

FORWARDING = "loghouse.node.traced_forwarding:"
APPENDS = "loghouse.net.traced_appends:TracedAppends."
SERVICE = "loghouse.api.traced_log_service:"
FORWARDED = "tracing.test_forwarded_append:ForwardedAppendTests."
CLIENTS = "tracing.test_client:"

TRACING = (
    bug(
        "a-trace-ends-at-the-follower",
        "W3C Trace Context 2.2: propagating",
        "A follower passes an append on without its trace.",
        (FORWARDING + "TracedForwarder._ask", "if span is not None and leader_name:", "if False:"),
        by=FORWARDED + "test_at_a_follower",
    ),
    bug(
        "a-trace-ends-where-a-cursor-moves",
        "W3C Trace Context 2.2: propagating",
        "A leader does not look for the trace of a batch that comes with an advance.",
        (
            FORWARDING + "TracedForwarder.message_received",
            "ForwardProduce | ForwardProduceWithCursor",
            "ForwardProduce",
        ),
        by=FORWARDED + "test_with_a_cursor",
    ),
    bug(
        "an-advance-is-no-append",
        "docs/tracing.md: in a client",
        "A client sends no trace before a batch that moves a cursor.",
        (
            "loghouse.client.traced:TracedConnection.begin",
            "Produce | ProduceWithCursor",
            "Produce",
        ),
        by=CLIENTS + "AppendTests.test_with_a_cursor",
    ),
    bug(
        "traces-that-nobody-fetches",
        "limits.py (FORWARD_TRACES_MAX)",
        "Traces whose requests do not come are kept, however many there are.",
        (
            FORWARDING + "TracedForwarder.message_received",
            "len(self._traces) > FORWARD_TRACES_MAX",
            "False",
        ),
        by="tracing.test_forwarded_append:TraceBetweenNodesTests.test_bounded",
    ),
    bug(
        "a-forwarded-failure-has-no-end",
        "OpenTelemetry: a span that is started must be ended",
        "The span of an append that the leader refused stays open.",
        (
            FORWARDING + "_ended",
            "end(span, outcome.value if isinstance(outcome, Failure) else None)",
            "isinstance(outcome, Failure) or end(span)",
        ),
        by=FORWARDED + "test_refused",
    ),
    bug(
        "a-refusal-has-no-end",
        "OpenTelemetry: a span that is started must be ended",
        "The span of an append that was refused stays open.",
        (APPENDS + "refuse", "end(span, error)", "pass"),
        by=FORWARDED + "test_refused",
    ),
    bug(
        "a-trace-counts-for-ever",
        "wire_format 4 (RequestTrace): the request that comes next",
        "A trace is kept for a later request on the stream that it names.",
        (APPENDS + "span_of", "received, self._trace = self._trace, None", "received = self._trace"),
        by=FORWARDED + "test_trace_of_another_stream",
    ),
    bug(
        "sampled-or-not",
        "W3C Trace Context 3.2.2.5: the sampled flag",
        "Every append that has a trace gets spans, whether its client samples it or not.",
        (
            "loghouse.tracing.spans:Tracer.received",
            '"traceparent": traceparent,',
            '"traceparent": traceparent[:-1] + "1",',
        ),
        by=FORWARDED + "test_only_what_is_sampled",
    ),
    bug(
        "a-node-begins-traces",
        "ADR 40, 4",
        "An append without a trace begins one.",
        (
            "loghouse.tracing.spans:Tracer.received",
            "if not (told.is_valid and told.trace_flags.sampled):",
            "if False:",
        ),
        by=FORWARDED + "test_only_what_is_sampled",
    ),
    bug(
        "a-bad-traceparent-breaks-the-append",
        "W3C Trace Context 3.2.2: vendors MUST ignore an invalid traceparent",
        "An append over HTTP fails when its traceparent is no text.",
        (
            "loghouse.http.rest:trace_of",
            'b",".join(parent).decode("utf-8", "replace")',
            'b",".join(parent).decode()',
        ),
        by="tracing.test_http:TracedHttpTests.test_texts_that_are_none",
    ),
    bug(
        "a-trace-of-any-size",
        "W3C Trace Context 3.3.1.1: a limit of 512 characters",
        "A trace's texts are taken, however long they are.",
        (SERVICE + "_texts_of", "if all(fits)", "if True"),
        by="tracing.test_http:TracedHttpTests.test_texts_that_are_none",
    ),
    bug(
        "one-trace-for-a-stream",
        "ADR 40 (later): a stream has one metadata for all its messages",
        "The trace that a message on a gRPC stream names is not looked at.",
        (SERVICE + "_texts_of", "if request.traceparent else", "if False else"),
        by=CLIENTS + "StreamTests.test_whose_trace",
    ),
    bug(
        "a-batch-without-its-trace",
        "W3C Trace Context 2.2: propagating",
        "A producer over gRPC keeps its batches' traces to itself.",
        (
            "loghouse.client.traced:_traced_message_of",
            "message.traceparent, message.tracestate = texts_here()",
            "pass",
        ),
        by=CLIENTS + "ProducerGrpcTests.test_batches",
    ),
    bug(
        "a-client-s-failure-has-no-end",
        "OpenTelemetry: a span that is started must be ended",
        "The client's span of an append that fails stays open.",
        ("loghouse.client.traced:TracedCalls.append", "end(span, error)", "pass"),
        by=CLIENTS + "AppendTests.test_refused",
    ),
    bug(
        "tracing-ends-with-a-reload",
        "Change while it runs: what needs a restart stays as it is",
        "A node that read its settings again makes no spans of logs that come later.",
        (
            "loghouse.service.node_service:NodeService._take",
            "_node_options(config, self._metrics, self._tracer)",
            "_node_options(config, self._metrics, None)",
        ),
        by="tracing.test_exporting:ServiceTests.test_reload",
    ),
)
