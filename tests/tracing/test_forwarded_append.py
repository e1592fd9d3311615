"""An append with a trace, from a client's frames at a follower to the disk of the leader, in whole nodes."""

from types import SimpleNamespace

from twisted.internet.defer import maybeDeferred

from loghouse.api.v1.log_pb2 import Record
from loghouse.errors import UnavailableError
from loghouse.net.traced_appends import TracedAppender, TracedAppends
from loghouse.node.forwarding import Forwarder
from loghouse.node.gate import Gate
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.client_messages import Produce
from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder, ProduceWithCursor
from loghouse.protocol.cursors import advance_with_records
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.session import Answered, Refused, RequestReceived, Session, TraceReceived
from loghouse.protocol.trace_messages import ForwardTrace, RequestTrace
from loghouse.tracing.spans import end, texts_of
from tests.driver.town import TownTestCase
from tests.tracing.spans import SAMPLED, TRACE_ID, UNSAMPLED, Spans

BATCH = encode_batch([Record(value=b"a"), Record(value=b"b")])
OF_LEADER = {"replicate": "serve forwarded append", "sync": "replicate", "commit": "replicate"}


class Door:
    """A client's connection to a resident, from the frames that come on it on."""

    def __init__(self, resident, tracer):
        town = resident.town
        gate = Gate(SimpleNamespace(name=resident.name, logs=resident.node.logs), None, clock=lambda: 0.0)
        node_hello = Hello(
            role=LinkRole.NODE, cluster_name="test", node_name=resident.name, disk_uuid=b"d" * 16
        )
        self.log = resident.log
        self.client = Session(Hello(role=LinkRole.CLIENT), is_dialler=True)
        self.session = Session(node_hello, is_dialler=False)
        self.move()
        self.appends = TracedAppends(
            TracedAppender(
                gate,
                soon=lambda work: town.clock.callLater(0, work),
                scheduler=town.clock,
                in_thread=maybeDeferred,
                tracer=tracer,
            ),
            SimpleNamespace(flush=lambda: None),
            self.session,
            "root",
        )
        self.answers = []

    def move(self):
        """Carry what either side sent; return what came to the node."""
        events = self.session.receive(b"".join(self.client.bytes_to_send()))
        told = self.client.receive(b"".join(self.session.bytes_to_send()))
        self.answers = [event for event in told if isinstance(event, Answered | Refused)]
        return events

    def produce(self, traceparent="", tracestate="", cursor=None, **fields):
        """Send a batch, with a trace if there is one, and an advance; return its stream."""
        if traceparent:
            self.client.trace_next(RequestTrace(traceparent=traceparent, tracestate=tracestate))
        request = Produce(batch=BATCH, record_count=2, **fields)
        if cursor is not None:
            request = ProduceWithCursor(
                cursor=cursor.name,
                epoch=cursor.epoch,
                position=cursor.position,
                produce=b"".join(request.encode()),
            )
        stream = self.client.request(request)
        for event in self.move():
            match event:
                case TraceReceived():
                    self.appends.trace(event)
                case RequestReceived():
                    taken = event.request
                    advance = taken.change if cursor is not None else None
                    self.appends.take(
                        self.log, event.stream, taken if advance is None else taken.request, advance
                    )
        return stream

    @property
    def is_answered(self):
        return not self.session.served.open


class TracedTownCase(TownTestCase):
    """Three nodes that trace."""

    def setUp(self):
        super().setUp()
        self.spans = Spans()
        self.town, self.leader, self.follower, _ = self.led(tracer=self.spans.tracer)

    def door(self, resident):
        made = Door(resident, self.spans.tracer)
        self.addCleanup(made.appends.close)
        return made

    def append(self, resident, *args, **fields):
        """Append through a resident; return its door once it answered."""
        door = self.door(resident)
        door.produce(*args, **fields)
        self.town.until(lambda: door.is_answered)
        door.move()
        # The answer may be there before the leader's own disk.
        self.town.advance(1.0)
        return door


class ForwardedAppendTests(TracedTownCase):
    """One trace, whoever does what."""

    def test_at_a_follower(self):
        """An append asked of a follower and done by the leader is one trace."""
        client = self.spans.tracer.begin_here("append")
        door = self.append(self.follower, *texts_of(client))
        end(client)
        self.assertEqual([answer.reply.base_offset for answer in door.answers], [0])
        self.assertEqual(
            self.spans.tree(client.get_span_context().trace_id),
            {
                "append": "",
                "serve append": "append",
                "forward append": "serve append",
                "serve forwarded append": "forward append",
                **OF_LEADER,
            },
        )
        self.assertEqual({span.status.is_ok for span in self.spans.finished}, {True})
        self.assertEqual(self.spans.named("forward append").attributes["loghouse.leader"], self.leader.name)
        self.assertEqual(self.spans.named("serve append").attributes["loghouse.offset"], 0)

    def test_at_the_leader(self):
        """Asked of the leader, it is the same without the way between the nodes."""
        self.append(self.leader, SAMPLED, "vendor=1")
        self.assertEqual(
            self.spans.tree(),
            {"serve append": "", **OF_LEADER, "replicate": "serve append"},
        )
        self.assertEqual(self.spans.named("sync").context.trace_state["vendor"], "1")

    def test_with_a_producer(self):
        """A batch in an entry of its own is traced, too, and so is its copy, which is written nowhere."""
        id_ = self.result(self.town, self.leader.log.register_producer("root"))
        for _ in range(2):
            self.append(self.follower, SAMPLED, producer_id=id_)
        names = [span.name for span in self.spans.finished]
        self.assertEqual((names.count("sync"), names.count("replicate"), names.count("commit")), (1, 2, 2))

    def test_with_a_cursor(self):
        """A batch that moves a cursor is traced all the way, and its trace is fetched by the leader."""
        for at, path in (
            (self.leader, {"replicate": "serve append"}),
            (self.follower, {"forward append": "serve append", "serve forwarded append": "forward append"}),
        ):
            self.spans.exporter.clear()
            order = CursorOrder(
                operation=CursorOperation.ACQUIRE,
                name="import",
                holder="one",
                subject="root",
                lease_milliseconds=5000,
            )
            (cursor,) = self.result(self.town, at.log.order_cursor(order)).cursors
            advance = advance_with_records("import", cursor.epoch, cursor.position + 2)
            door = self.append(at, SAMPLED, cursor=advance)
            self.assertEqual([answer.reply.record_count for answer in door.answers], [2])
            self.assertEqual(self.spans.tree(), {**OF_LEADER, "serve append": "", **path})
            self.assertEqual({span.status.is_ok for span in self.spans.finished}, {True})
        self.assertEqual(self.leader.node.forwarder._traces, {})

    def test_only_what_is_sampled(self):
        """A node begins no trace: not without texts, not with false ones, and not for what is not sampled."""
        for traceparent in ("", UNSAMPLED, "00-nonsense", SAMPLED[:40], "é"):
            self.append(self.follower, traceparent)
        self.assertEqual(self.spans.finished, [])

    def test_company(self):
        """Batches that share an entry share its spans, in the first one's trace; links lead there."""
        door = self.door(self.leader)
        other = SAMPLED.replace("0af7", "1af7")
        for texts in ((SAMPLED,), (), (other,)):
            door.produce(*texts)
        self.town.until(lambda: door.is_answered)
        self.town.advance(1.0)
        replicate = self.spans.named("replicate")
        self.assertEqual(
            (replicate.context.trace_id, replicate.attributes["loghouse.records"]), (TRACE_ID, 6)
        )
        [second] = [
            span
            for span in self.spans.finished
            if span.name == "serve append" and span.context.trace_id != TRACE_ID
        ]
        self.assertEqual([link.context.span_id for link in replicate.links], [second.context.span_id])
        self.assertEqual([link.context.span_id for link in second.links], [replicate.context.span_id])

    def test_trace_of_another_stream(self):
        """A trace counts for the stream in its header alone, and once."""
        door = self.door(self.leader)
        door.client.trace_next(RequestTrace(traceparent=SAMPLED))
        [received] = door.move()
        door.appends.trace(TraceReceived(stream=received.stream + 1, trace=received.trace))
        door.produce()
        door.produce()
        self.town.until(lambda: door.is_answered)
        self.assertEqual(self.spans.finished, [])

    def test_refused(self):
        """A refusal ends the spans with what was told."""
        door = self.append(self.follower, SAMPLED, expect_offset=7)
        self.assertEqual(type(door.answers[-1].error).__name__, "ExpectOffsetError")
        errors = {span.name: span.attributes["error.type"] for span in self.spans.finished}
        path = ["replicate", "serve forwarded append", "forward append", "serve append"]
        self.assertEqual(errors, dict.fromkeys(path, "ExpectOffsetError"))

    def test_leader_stops(self):
        """What a node had under way when it stopped ends there: nothing is left open."""
        self.town.cut(self.leader.name)
        self.leader.disk_queue.is_held = True
        door = self.door(self.leader)
        door.produce(SAMPLED)
        self.town.advance(0.1)
        self.leader.driver.stop()
        errors = {span.name: span.attributes["error.type"] for span in self.spans.finished}
        path = ["sync", "replicate", "serve append"]
        self.assertEqual(errors, dict.fromkeys(path, "OutcomeUnknownError"))

    def test_given_up(self):
        """A client that cancels, or goes, ends its span; the others go on."""
        door = self.door(self.follower)
        door.appends.forget(door.produce(SAMPLED))
        door.appends.forget(door.produce())
        serve = self.spans.named("serve append")
        self.assertEqual(serve.attributes["error.type"], "OutcomeUnknownError")


class TraceBetweenNodesTests(TracedTownCase):
    """What nodes send each other."""

    def test_lost_trace(self):
        """Without its ForwardTrace an append is done all the same; the trace ends where it was passed on."""
        forwarder = self.leader.node.forwarder
        self.patch(forwarder, "_traces", Forgetful())
        door = self.append(self.follower, SAMPLED)
        self.assertEqual([answer.reply.base_offset for answer in door.answers], [0])
        self.assertEqual(self.spans.tree(), {"serve append": "", "forward append": "serve append"})

    def test_untraced_leader(self):
        """A leader that traces nothing drops the trace, and does the append."""
        self.leader.node.forwarder.__class__ = Forwarder
        door = self.append(self.follower, SAMPLED)
        self.assertEqual([answer.reply.base_offset for answer in door.answers], [0])
        self.assertEqual(self.spans.tree(), {"serve append": "", "forward append": "serve append"})

    def test_link_lost(self):
        """What a node was told of traces goes with its link."""
        self.leader.node.forwarder.message_received(
            self.follower.name, ForwardTrace(request_id=1, traceparent=SAMPLED), 1, None
        )
        self.assertEqual(len(self.leader.node.forwarder._traces), 1)
        self.leader.node.forwarder.link_lost(self.follower.name)
        self.assertEqual(self.leader.node.forwarder._traces, {})

    def test_bounded(self):
        """Traces whose requests do not come are forgotten, the oldest first."""
        forwarder = self.leader.node.forwarder
        for number in range(1025):
            trace = ForwardTrace(request_id=number, traceparent=SAMPLED)
            forwarder.message_received(self.follower.name, trace, 1, None)
        self.assertEqual(len(forwarder._traces), 1024)
        self.assertNotIn((self.follower.name, 0), forwarder._traces)

    def test_no_leader(self):
        """An append that cannot be passed on ends its spans at once."""
        for resident in self.town.running:
            if resident is not self.follower:
                resident.crash()
        self.town.until(lambda: not self.follower.log.leader_name)
        self.append(self.follower, SAMPLED)
        self.assertEqual(
            {span.name: span.attributes["error.type"] for span in self.spans.finished},
            dict.fromkeys(("serve append", "forward append"), UnavailableError.__name__),
        )


class Forgetful(dict):
    """Keeps nothing."""

    def __setitem__(self, key, value):
        pass
