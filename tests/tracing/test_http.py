"""Appends by the JSON API that belong to a trace: the headers of the W3C's Trace Context."""

import json

from tests.http.case import HttpCase
from tests.tracing.spans import SAMPLED, UNSAMPLED, Spans

RECORDS = "/api/v1/logs/default/records"


class TracedHttpTests(HttpCase):
    """A server of a node that traces."""

    def setUp(self):
        super().setUp()
        self.spans = Spans()

    async def append(self, *headers, body=b"a", path=RECORDS):
        """Append a value; return the status and the answer."""
        client = await self.connect()
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            f"Content-Length: {len(body)}",
            "Content-Type: application/octet-stream",
            *headers,
            "",
            "",
        ]
        client.send("\r\n".join(lines).encode("latin-1") + body)
        status, _, answer = await client.answer()
        return status, json.loads(answer)

    async def test_append(self):
        """What a request's headers say is what its span is a child of; a state may be in several headers."""
        self.serve(tracer=self.spans.tracer)
        status, _ = await self.append(
            f"Traceparent: {SAMPLED}", "tracestate: vendor=1", "tracestate: other=2"
        )
        self.assertEqual((status, self.spans.tree()), (201, {"serve append": ""}))
        span = self.spans.named("serve append")
        self.assertEqual(f"{span.parent.span_id:016x}", SAMPLED.split("-")[2])
        self.assertEqual(dict(span.context.trace_state), {"vendor": "1", "other": "2"})
        self.assertEqual(dict(span.attributes), {"loghouse.log": "default", "loghouse.records": 1})

    async def test_refused(self):
        """A refusal ends the span with what was told."""
        self.serve(tracer=self.spans.tracer)
        status, problem = await self.append(f"traceparent: {SAMPLED}", path=f"{RECORDS}?expect_offset=7")
        self.assertEqual((status, problem["reason"]), (412, "EXPECT_OFFSET"))
        span = self.spans.named("serve append")
        self.assertEqual(span.attributes["error.type"], "ExpectOffsetError")

    async def test_texts_that_are_none(self):
        """Headers that mean nothing are ignored, whatever is in them, and so is what is not sampled."""
        self.serve(tracer=self.spans.tracer)
        for headers in (
            (),
            (f"traceparent: {UNSAMPLED}",),
            ("traceparent: \xff\xfe",),
            ("traceparent: 00-nonsense",),
            (f"traceparent: {SAMPLED}", f"traceparent: {SAMPLED}"),
            (f"traceparent: {SAMPLED}", f"tracestate: {'a=1,' * 200}"),
            ("tracestate: vendor=1",),
        ):
            status, _ = await self.append(*headers)
            self.assertEqual(status, 201, headers)
        self.assertEqual(self.spans.finished, [])

    async def test_untraced_node(self):
        """A node that traces nothing does not look at the headers."""
        self.serve()
        status, _ = await self.append(f"traceparent: {SAMPLED}")
        self.assertEqual((status, self.spans.finished), (201, []))
