"""Clients with spans, and the doors of a node that they come by: the binary protocol and gRPC."""

import subprocess
import sys
from unittest import mock

from grpc import aio
from opentelemetry import trace
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.client import Advance, AsyncClient, connect_blocking, tracing
from loghouse.errors import InvalidRequestError, NotLeaderError, OutcomeUnknownError, PermissionDeniedError
from loghouse.tracing.records import trace_context, trace_headers
from tests.client.fake import FakeCase, over_grpc
from tests.fakes.node import LOST
from tests.fakes.served import ServedNode
from tests.fakes.tasks import asynchronous
from tests.processes import in_children
from tests.tracing.spans import SAMPLED, TRACE_ID, Spans


class TracedCase(FakeCase):
    """Fake nodes that trace, and clients that do."""

    def setUp(self):
        super().setUp()
        self.spans = Spans()
        self.patch(ServedNode, "tracer", self.spans.tracer)
        self.user = self.spans.provider.get_tracer("user")

    async def traced(self, count=1):
        return await self.connected(count, tracing=self.spans.provider)

    def trace_of(self, span):
        return self.spans.tree(span.get_span_context().trace_id)


class AppendTests(TracedCase):
    """An append, by either protocol."""

    @asynchronous
    async def test_append(self):
        """The program's span, the client's and the node's are one trace; the client's has the offset."""
        _, log = await self.traced()
        await log.append(b"before")
        self.spans.exporter.clear()
        with self.user.start_as_current_span("work") as work:
            self.assertEqual(await log.append(b"a"), 1)
        self.assertEqual(self.trace_of(work), {"work": "", "append": "work", "serve append": "append"})
        self.assertEqual(self.spans.named("append").attributes["loghouse.offset"], 1)

    @asynchronous
    async def test_with_a_cursor(self):
        """An append that moves a cursor is traced as any other; what is asked of cursors alone is not."""
        _, log = await self.traced()
        cursors = log.cursors()
        mine = await cursors.acquire("import")
        self.spans.exporter.clear()
        with self.user.start_as_current_span("work") as work:
            await log.append_batch([b"a", b"b"], cursor=Advance("import", mine.epoch, 2))
        self.assertEqual(self.trace_of(work), {"work": "", "append": "work", "serve append": "append"})
        self.assertEqual(self.spans.named("append").attributes["loghouse.offset"], 0)
        self.spans.exporter.clear()
        await cursors.release("import", mine.epoch)
        await cursors.delete("import")
        self.assertEqual(self.spans.finished, [])

    @asynchronous
    async def test_with_a_cursor_sent_again(self):
        """Such an append, which is tried again after a lost answer, stays one span."""
        cluster, log = await self.traced()
        mine = await log.cursors().acquire("import")
        self.spans.exporter.clear()
        cluster.nodes[0].faults["ProduceBatch"] = [LOST]
        await log.append_batch([b"a"], cursor=Advance("import", mine.epoch, 1))
        span = self.spans.named("append")
        self.assertNotIn("error.type", span.attributes)
        parents = {one.parent.span_id for one in self.spans.finished if one.name == "serve append"}
        self.assertEqual(parents, {span.context.span_id})

    @asynchronous
    async def test_another_log(self):
        """The logs that a client names are traced, too."""
        _, log = await self.traced()
        for name in ("", "orders"):
            self.assertIs(log.log(name).calls.tracer, log.calls.tracer)
        await log.log("").append(b"a")
        self.assertEqual(self.spans.named("serve append").attributes["loghouse.log"], "default")

    @asynchronous
    async def test_refused(self):
        """A refusal is on both spans."""
        cluster, log = await self.traced()
        cluster.nodes[0].failure = PermissionDeniedError("root", "produce", "default")
        await self.raises(PermissionDeniedError, log.append(b"a"))
        for name in ("append", "serve append"):
            self.assertEqual(self.spans.named(name).attributes["error.type"], "PermissionDeniedError")

    @asynchronous
    async def test_lost(self):
        """An append whose answer is lost is one whose outcome nobody knows; both spans end."""
        cluster, log = await self.traced()
        await log.bounds()
        cluster.nodes[0].faults["ProduceBatch"] = [LOST]
        await self.raises(OutcomeUnknownError, log.append(b"a"))
        self.assertEqual(self.spans.named("append").attributes["error.type"], "OutcomeUnknownError")

    @asynchronous
    async def test_unsampled(self):
        """What the program does not sample the node does not either."""
        _, log = await self.traced()
        parent = trace.NonRecordingSpan(
            trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(0))
        )
        with trace.use_span(parent):
            await log.append(b"a")
        self.assertEqual(self.spans.finished, [])

    @asynchronous
    async def test_untraced_client(self):
        """A client without tracing sends nothing of the program's spans, and makes none."""
        _, log = await self.connected(1)
        with self.user.start_as_current_span("work"):
            await log.append(b"a")
        self.assertEqual([span.name for span in self.spans.finished], ["work"])

    @asynchronous
    async def test_untraced_node(self):
        """A node that traces nothing serves a client that does."""
        self.patch(ServedNode, "tracer", None)
        _, log = await self.traced()
        await log.append(b"a")
        self.assertEqual([span.name for span in self.spans.finished], ["append"])


AppendGrpcTests = over_grpc(AppendTests)


class ProducerTests(TracedCase):
    """Batches of producers."""

    @asynchronous
    async def test_batches(self):
        """Each batch is a child of the span in which its producer was made, and has its own at the node."""
        _, log = await self.traced()
        with self.user.start_as_current_span("work") as work:
            producer = log.producer(linger_ms=0)
        async with producer:
            for value in (b"a", b"b"):
                await (await producer.append(value))
        self.assertEqual(self.trace_of(work), {"work": "", "append": "work", "serve append": "append"})
        offsets = [
            span.attributes["loghouse.offset"] for span in self.spans.finished if span.name == "append"
        ]
        self.assertEqual(offsets, [0, 1])
        parents = [span.parent.span_id for span in self.spans.finished if span.name == "serve append"]
        self.assertEqual(
            parents, [span.context.span_id for span in self.spans.finished if span.name == "append"]
        )

    @asynchronous
    async def test_sent_again(self):
        """A batch that is sent again stays one span, which says so."""
        cluster, log = await self.traced()
        cluster.nodes[0].faults["ProduceBatchStream"] = [NotLeaderError("")]
        async with log.producer(linger_ms=0) as producer:
            await (await producer.append(b"a"))
        span = self.spans.named("append")
        self.assertEqual([event.name for event in span.events], ["sent again"])
        self.assertNotIn("error.type", span.attributes)


ProducerGrpcTests = over_grpc(ProducerTests)


class StreamTests(TracedCase):
    """Streams of clients that are not ours."""

    @asynchronous
    async def test_whose_trace(self):
        """A message's own trace counts before that of the stream's metadata; what is too long is no trace."""
        cluster, _ = await self.traced()
        own, other = SAMPLED.replace("0af7", "1af7"), f"{TRACE_ID:032x}"
        async with aio.insecure_channel(cluster.nodes[0].address) as channel:
            stub = log_pb2_grpc.LogStub(channel)
            for name, kind, fields in (
                ("ProduceBatchStream", log_pb2.ProduceBatchRequest, {"batch": b"\n\0", "record_count": 1}),
                ("ProduceStream", log_pb2.ProduceRequest, {"record": log_pb2.Record(value=b"a")}),
            ):
                self.spans.exporter.clear()
                traces = ({}, {"traceparent": own}, {"traceparent": "no"}, {"traceparent": own * 100})
                requests = [kind(**fields, **trace) for trace in traces]
                call = getattr(stub, name)(iter(requests), metadata=[("traceparent", SAMPLED)])
                self.assertEqual(len([answer async for answer in call]), 4)
                found = [f"{span.context.trace_id:032x}" for span in self.spans.finished]
                self.assertEqual(found, [other, own.split("-")[1]], name)


class RecordTests(TracedCase):
    """A trace in a record's headers."""

    @asynchronous
    async def test_headers(self):
        """Whoever reads a record goes on with the trace of whoever appended it."""
        _, log = await self.traced()
        with self.user.start_as_current_span("work") as work:
            await log.append(b"a", headers=[("unit", b"mm"), *trace_headers()])
        [record] = [record async for record in log.read()]
        with self.user.start_as_current_span("handle", context=trace_context(record.headers)) as handle:
            pass
        self.assertEqual(handle.parent.span_id, work.get_span_context().span_id)
        self.assertEqual(self.trace_of(work)["handle"], "work")

    def test_none(self):
        """Without a span there are no headers, and without headers there is no span."""
        self.assertEqual(trace_headers(), ())
        for headers in ((), [("traceparent", b"\xff")], [("unit", b"mm")]):
            self.assertIs(trace.get_current_span(trace_context(headers)), trace.INVALID_SPAN)


class OptionTests(SynchronousTestCase):
    """What `tracing` may be."""

    def test_what_it_may_be(self):
        """True, False or a TracerProvider."""
        error = self.assertRaises(InvalidRequestError, AsyncClient, "a.example", tracing="yes")
        self.assertEqual(str(error), "tracing: is a str; give True or a TracerProvider")
        AsyncClient("a.example", tracing=True)
        connect_blocking("a.example", tracing=Spans().provider).close()

    def test_not_installed(self):
        """Without OpenTelemetry it says what to install."""
        with mock.patch.dict(sys.modules, {"loghouse.client.traced": None}):
            error = self.assertRaises(InvalidRequestError, tracing.calls_class, True)
        self.assertIn("pip install 'loghouse[otel]'", str(error))


@in_children
class ImportTests(SynchronousTestCase):
    """What is off costs nothing."""

    def test_nothing_imported(self):
        """Neither client nor node imports OpenTelemetry, nor any module of ours that needs it."""
        code = (
            "import sys, loghouse.client, loghouse.tap, loghouse.service.node_service, loghouse.cli.main\n"
            "loghouse.client.connect('a.example'); loghouse.client.connect_blocking('a.example').close()\n"
            "print([name for name in sys.modules if 'opentelemetry' in name or 'loghouse.tracing' in name"
            " or '.traced' in name or name == 'loghouse.replica.tracing'])"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        self.assertEqual((ran.stdout, ran.stderr), ("[]\n", ""))
