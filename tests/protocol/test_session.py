"""Tests of loghouse.protocol.session, greeting and streams: two ends of a connection in memory."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors, limits
from loghouse.errors import (
    IdentityError,
    MalformedMessageError,
    ProtocolError,
    ResourceExhaustedError,
    UnavailableError,
    VersionError,
)
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Cancel,
    Credit,
    Describe,
    DescribeReply,
    Failure,
    Fetch,
    FetchReply,
    Follow,
    FollowFrames,
    Produce,
    ProduceReply,
)
from loghouse.protocol.codec import OPTIONAL_KIND, encode
from loghouse.protocol.forward_messages import AdminOperation, ForwardAdmin, ForwardProduce
from loghouse.protocol.framing import pack_header
from loghouse.protocol.gossip_messages import SwimNack
from loghouse.protocol.greeting import Agreement, Certified, agree
from loghouse.protocol.link_messages import Goodbye, Hello, LinkError, LinkRole, Ping, Pong
from loghouse.protocol.message import NO_UUID
from loghouse.protocol.session import (
    Answered,
    CancelReceived,
    CreditReceived,
    GoodbyeReceived,
    LinkFailed,
    LinkState,
    LinkUp,
    MessageReceived,
    Refused,
    RequestReceived,
    Session,
    TraceReceived,
)
from loghouse.protocol.trace_messages import ForwardTrace, RequestTrace
from tests.fuzzing import EXAMPLES

UUID = b"u" * 16
OTHER = b"v" * 16
NODE_A = Hello(role=LinkRole.NODE, cluster_name="logs", cluster_uuid=UUID, node_name="a", disk_uuid=b"a" * 16)
NODE_B = Hello(role=LinkRole.NODE, cluster_name="logs", cluster_uuid=UUID, node_name="b", disk_uuid=b"b" * 16)
CLIENT = Hello(role=LinkRole.CLIENT)
CERTIFIED_A = Certified(subject="node:a", node="a", cluster="logs")
CERTIFIED_B = Certified(subject="node:b", node="b", cluster="logs")
CERTIFIED_ROOT = Certified(subject="root")


def wire(message, **fields):
    return b"".join(encode(message, **fields))


def move(source, target):
    """Carry what `source` has to send to `target`; return its events."""
    return target.receive(b"".join(source.bytes_to_send()))


def connect(dialler_hello, dialler_certified, acceptor_hello=NODE_B, **dialler_fields):
    """Return two sessions that have greeted each other."""
    dialler = Session(dialler_hello, is_dialler=True, certified=CERTIFIED_B, **dialler_fields)
    acceptor = Session(acceptor_hello, is_dialler=False, certified=dialler_certified)
    move(dialler, acceptor)
    move(acceptor, dialler)
    return dialler, acceptor


class AgreeTests(SynchronousTestCase):
    """`agree` lets only those pass that fit."""

    def agree(self, own, theirs, certified, **fields):
        return agree(own, theirs, **{"is_dialler": False, "certified": certified, **fields})

    def test_those_that_fit(self):
        """Nodes of one cluster, clients, and joiners, which are restricted."""
        rows = [
            ("node", NODE_B, NODE_A, CERTIFIED_A, False),
            ("node without TLS", NODE_B, NODE_A, None, False),
            ("client", NODE_B, CLIENT, CERTIFIED_ROOT, False),
            (
                "client with the cluster's uuid",
                NODE_B,
                replace(CLIENT, cluster_uuid=UUID),
                CERTIFIED_ROOT,
                False,
            ),
            ("client with a node's certificate", NODE_B, CLIENT, CERTIFIED_A, False),
            ("joiner comes", NODE_B, replace(NODE_A, cluster_uuid=NO_UUID), CERTIFIED_A, True),
            ("joiner is asked", replace(NODE_B, cluster_uuid=NO_UUID), NODE_A, CERTIFIED_A, True),
            (
                "two that belong to none",
                replace(NODE_B, cluster_uuid=NO_UUID),
                replace(NODE_A, cluster_uuid=NO_UUID),
                CERTIFIED_A,
                True,
            ),
        ]
        for name, own, theirs, certified, is_restricted in rows:
            self.assertEqual(
                self.agree(own, theirs, certified), Agreement(version=1, is_restricted=is_restricted), name
            )

    def test_strangers(self):
        """Whoever is not who it says, or of another cluster, is refused."""
        rows = [
            ("client's certificate", NODE_B, NODE_A, CERTIFIED_ROOT, {}),
            ("another node's certificate", NODE_B, NODE_A, CERTIFIED_B, {}),
            (
                "certificate of another cluster",
                NODE_B,
                NODE_A,
                Certified(subject="node:a", node="a", cluster="other"),
                {},
            ),
            (
                "another cluster, honestly",
                NODE_B,
                replace(NODE_A, cluster_name="other"),
                Certified(subject="node:a", node="a", cluster="other"),
                {},
            ),
            ("another uuid", NODE_B, replace(NODE_A, cluster_uuid=OTHER), CERTIFIED_A, {}),
            ("my own name", NODE_B, replace(NODE_B, disk_uuid=b"x" * 16), CERTIFIED_B, {}),
            (
                "another node answers",
                NODE_B,
                NODE_A,
                CERTIFIED_A,
                {"is_dialler": True, "expected_node": "c"},
            ),
            ("a client answers", NODE_B, CLIENT, CERTIFIED_ROOT, {"is_dialler": True}),
            ("client of another cluster", NODE_B, replace(CLIENT, cluster_uuid=OTHER), CERTIFIED_ROOT, {}),
            ("client of another name", NODE_B, replace(CLIENT, cluster_name="other"), CERTIFIED_ROOT, {}),
        ]
        for name, own, theirs, certified, fields in rows:
            with self.assertRaises(IdentityError, msg=name):
                self.agree(own, theirs, certified, **fields)

    def test_versions(self):
        """The highest common version counts; without one the link is refused."""
        newer = replace(NODE_A, version_min=1, version_max=9)
        self.assertEqual(self.agree(NODE_B, newer, CERTIFIED_A).version, 1)
        with self.assertRaises(VersionError):
            self.agree(NODE_B, replace(NODE_A, version_min=2, version_max=3), CERTIFIED_A)


class GreetingTests(SynchronousTestCase):
    """The way from GREETING to UP."""

    def test_both_up(self):
        """Both ends come up with the other's Hello, and the dialler speaks first."""
        dialler = Session(NODE_A, is_dialler=True, certified=CERTIFIED_B)
        acceptor = Session(NODE_B, is_dialler=False, certified=CERTIFIED_A)
        self.assertEqual(acceptor.bytes_to_send(), [])
        agreement = Agreement(version=1, is_restricted=False)
        self.assertEqual(move(dialler, acceptor), [LinkUp(hello=NODE_A, agreement=agreement)])
        self.assertEqual(move(acceptor, dialler), [LinkUp(hello=NODE_B, agreement=agreement)])
        self.assertEqual((dialler.state, acceptor.state), (LinkState.UP, LinkState.UP))

    def test_refused_dialler_learns_why(self):
        """The acceptor answers a false Hello with a LinkError and says nothing of itself."""
        dialler = Session(NODE_A, is_dialler=True, certified=CERTIFIED_B)
        acceptor = Session(NODE_B, is_dialler=False, certified=CERTIFIED_ROOT)
        with self.assertRaises(IdentityError):
            move(dialler, acceptor)
        self.assertEqual(acceptor.state, LinkState.CLOSED)
        [event] = move(acceptor, dialler)
        self.assertIsInstance(event, LinkFailed)
        self.assertIsInstance(event.error, IdentityError)
        self.assertEqual(dialler.state, LinkState.CLOSED)
        self.assertIs(dialler.peer, None)

    def test_admission(self):
        """`admit` can refuse a peer whose Hello fits, before this side says Hello."""

        def admit(hello):
            raise IdentityError(f"{hello.node_name} was removed")

        acceptor = Session(NODE_B, is_dialler=False, certified=CERTIFIED_A, admit=admit)
        with self.assertRaises(IdentityError):
            acceptor.receive(wire(NODE_A))
        [sent] = acceptor.bytes_to_send()
        self.assertEqual(sent[4:6], b"\x00\x04")

    def test_nothing_before_hello(self):
        """Any other frame before Hello is refused by its header, whatever its size."""
        for kind in (0x0002, 0x0301, 0x0103, 0x7FFF, 0x00FF):
            acceptor = Session(NODE_B, is_dialler=False, certified=CERTIFIED_ROOT)
            with self.assertRaises(ProtocolError):
                acceptor.receive(pack_header(0, kind))

    def test_hello_is_small(self):
        """A Hello of more than 4 KiB is refused by its header."""
        acceptor = Session(NODE_B, is_dialler=False, certified=CERTIFIED_ROOT)
        with self.assertRaises(errors.FrameTooLargeError):
            acceptor.receive(pack_header(limits.HELLO_SIZE_MAX + 1, Hello.KIND))

    def test_frames_behind_hello(self):
        """What a dialler sends right behind its Hello, in the same read, is judged by the state after it."""
        acceptor = Session(NODE_B, is_dialler=False, certified=CERTIFIED_ROOT)
        events = acceptor.receive(wire(CLIENT) + wire(Bounds(), group=1, stream=1))
        self.assertEqual(events[1:], [RequestReceived(request=Bounds(), group=1, stream=1)])

    def test_one_hello(self):
        """A second Hello closes the link."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        with self.assertRaises(ProtocolError):
            acceptor.receive(wire(CLIENT))


class RoleTests(SynchronousTestCase):
    """Who may send what."""

    def test_client_cannot_speak_as_a_node(self):
        """A client's gossip or Raft frame is refused, and so is an answer from whoever asks."""
        for message in (SwimNack(sequence=1), BoundsReply(lowest=0, next_offset=0)):
            _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
            with self.assertRaises(ProtocolError):
                acceptor.receive(wire(message, stream=1))

    def test_node_speaks(self):
        """A node's gossip arrives."""
        dialler, acceptor = connect(NODE_A, CERTIFIED_A)
        dialler.send(SwimNack(sequence=1), group=3)
        expected = MessageReceived(message=SwimNack(sequence=1), group=3, stream=0)
        self.assertEqual(move(dialler, acceptor), [expected])

    def test_joiner_may_only_describe(self):
        """On a restricted link a Describe passes, gossip and produce do not."""
        joiner = replace(NODE_A, cluster_uuid=NO_UUID)
        dialler, acceptor = connect(joiner, CERTIFIED_A)
        self.assertTrue(acceptor.agreement.is_restricted)
        stream = dialler.request(Describe())
        [event] = move(dialler, acceptor)
        self.assertEqual(event.request, Describe())
        acceptor.answer(stream, DescribeReply(cluster_uuid=UUID, cluster_name="logs", node_name="b"))
        [answered] = move(acceptor, dialler)
        self.assertEqual(answered.reply.cluster_uuid, UUID)
        for message in (SwimNack(sequence=1), Produce(batch=b"", record_count=1)):
            _, acceptor = connect(joiner, CERTIFIED_A)
            with self.assertRaises(ProtocolError):
                acceptor.receive(wire(message, stream=1))

    def test_forwarding(self):
        """What is forwarded comes from members only, and from the dialler only."""
        produce = ForwardProduce(request_id=1, subject="root", batch=b"x", record_count=1)
        admin = ForwardAdmin(request_id=2, operation=AdminOperation.REMOVE, name="c")
        for message in (produce, admin):
            dialler, acceptor = connect(NODE_A, CERTIFIED_A)
            dialler.send(message, group=1)
            expected = MessageReceived(message=message, group=1, stream=0)
            self.assertEqual(move(dialler, acceptor), [expected])
            with self.assertRaises(ProtocolError):
                dialler.receive(wire(message))
            for hello, certified in (
                (CLIENT, CERTIFIED_ROOT),
                (replace(NODE_A, cluster_uuid=NO_UUID), CERTIFIED_A),
            ):
                _, acceptor = connect(hello, certified)
                with self.assertRaises(ProtocolError):
                    acceptor.receive(wire(message))

    def test_acceptor_cannot_ask(self):
        """Requests and gossip run from the dialler to the acceptor only."""
        for message in (Bounds(), SwimNack(sequence=1)):
            dialler, _ = connect(NODE_A, CERTIFIED_A)
            with self.assertRaises(ProtocolError):
                dialler.receive(wire(message, stream=1))


class UnknownTests(SynchronousTestCase):
    """The written rule for what is not known."""

    def test_optional_kind_is_dropped(self):
        """A kind with the optional bit is dropped, and the next frame is read."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        self.assertEqual(acceptor.receive(pack_header(3, 0x00F0) + b"abc"), [])
        dialler.ping(1)
        move(dialler, acceptor)
        answer = b"".join(acceptor.bytes_to_send())
        self.assertEqual(answer, wire(Pong(token=1)))
        self.assertEqual(dialler.receive(answer), [])

    def test_unknown_request_is_answered(self):
        """A request of a later version is answered with NotSupportedError; the link goes on."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        dialler.asked.open[1] = Bounds
        dialler.asked._last = 1
        self.assertEqual(acceptor.receive(pack_header(2, 0x037F, stream=1) + b"ab"), [])
        [refused] = move(acceptor, dialler)
        self.assertIsInstance(refused.error, errors.NotSupportedError)
        self.assertEqual(acceptor.state, LinkState.UP)

    def test_other_unknown_kind_closes(self):
        """An unknown kind that is neither closes the link; a huge one is refused by its header."""
        for header in (pack_header(0, 0x0077), pack_header(limits.UNKNOWN_SIZE_MAX + 1, 0x00F0)):
            _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
            with self.assertRaises(ProtocolError):
                acceptor.receive(header)


class RequestTests(SynchronousTestCase):
    """Requests and answers, many at a time."""

    def setUp(self):
        self.dialler, self.acceptor = connect(CLIENT, CERTIFIED_ROOT)

    def test_answers_in_any_order(self):
        """Several requests are in flight; each answer finds its own."""
        streams = [self.dialler.request(Bounds()) for _ in range(3)]
        self.assertEqual([event.stream for event in move(self.dialler, self.acceptor)], streams)
        for stream in reversed(streams):
            self.acceptor.answer(stream, BoundsReply(lowest=0, next_offset=stream))
        answers = move(self.acceptor, self.dialler)
        self.assertEqual([answer.reply.next_offset for answer in answers], [3, 2, 1])
        self.assertTrue(self.dialler.is_idle and self.acceptor.is_idle)

    def test_refusal(self):
        """A refused request ends with the server's error; the connection goes on."""
        stream = self.dialler.request(Fetch(offset=9))
        move(self.dialler, self.acceptor)
        self.acceptor.refuse(stream, errors.OffsetOutOfRangeError(9, 0, 2))
        [refused] = move(self.acceptor, self.dialler)
        self.assertEqual((refused.stream, refused.error.next_offset), (stream, 2))
        self.assertTrue(self.dialler.is_idle and self.acceptor.is_idle)

    def test_too_many(self):
        """Past the bound of earlier nodes the dialler's own call fails."""
        for _ in range(limits.REQUESTS_PER_CONNECTION_MAX):
            self.dialler.request(Bounds())
        with self.assertRaises(ResourceExhaustedError):
            self.dialler.request(Bounds())

    def test_streams_only_grow(self):
        """A stream number used before, or zero, closes the link."""
        for stream in (0, 1, 2):
            _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
            acceptor.receive(wire(Bounds(), stream=2))
            with self.assertRaises(ProtocolError):
                acceptor.receive(wire(Bounds(), stream=stream))

    def test_cancel(self):
        """A cancelled request's late answer is dropped; a cancel that comes late is, too."""
        stream = self.dialler.request(Bounds())
        move(self.dialler, self.acceptor)
        self.acceptor.answer(stream, BoundsReply(lowest=0, next_offset=0))
        self.dialler.cancel(stream)
        self.assertEqual(move(self.dialler, self.acceptor), [])
        self.assertEqual(move(self.acceptor, self.dialler), [])
        stream = self.dialler.request(Bounds())
        self.dialler.cancel(stream)
        self.assertEqual(move(self.dialler, self.acceptor)[1:], [CancelReceived(stream=stream)])
        self.acceptor.answer(stream, BoundsReply(lowest=0, next_offset=0))
        self.assertEqual(self.acceptor.bytes_to_send(), [])

    def test_false_answers_close(self):
        """An answer to nothing, or of the wrong kind, closes the link."""
        for message, stream in (
            (BoundsReply(lowest=0, next_offset=0), 7),
            (ProduceReply(base_offset=0, record_count=1, timestamp=0), 1),
            (Failure.of(errors.UnavailableError("x")), 0),
        ):
            dialler, _ = connect(CLIENT, CERTIFIED_ROOT)
            dialler.request(Bounds())
            with self.assertRaises(ProtocolError):
                dialler.receive(wire(message, stream=stream))

    def test_credit(self):
        """A follow is sent as much as its credit allows, gets more, and ends with a failure."""
        stream = self.dialler.request(Follow(offset=0, credit=10))
        move(self.dialler, self.acceptor)
        self.acceptor.answer(stream, FollowFrames(next_offset=1, frames=b"x" * 25))
        self.assertEqual(self.acceptor.served.open[stream].credit, -15)
        [answer] = move(self.acceptor, self.dialler)
        self.assertEqual(answer.reply.next_offset, 1)
        self.dialler.add_credit(stream, 25)
        self.assertEqual(move(self.dialler, self.acceptor), [CreditReceived(stream=stream)])
        self.assertEqual(self.acceptor.served.open[stream].credit, 10)
        self.acceptor.refuse(stream, errors.OffsetOutOfRangeError(1, 5, 9))
        self.assertIsInstance(move(self.acceptor, self.dialler)[0], Refused)
        self.dialler.add_credit(stream, 1)
        self.assertEqual(self.dialler.bytes_to_send(), [])

    def test_trace(self):
        """The trace of the next request comes before it, on its stream, and is not counted as a request."""
        trace = RequestTrace(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
        self.dialler.request(Bounds())
        self.dialler.trace_next(trace)
        stream = self.dialler.request(Bounds())
        _, traced, request = move(self.dialler, self.acceptor)
        self.assertEqual(traced, TraceReceived(stream=stream, trace=trace))
        self.assertEqual(request.stream, stream)
        self.assertEqual(sorted(self.acceptor.served.open), [1, 2])
        self.assertEqual(sorted(self.dialler.asked.open), [1, 2])

    def test_trace_is_dropped_by_older_versions(self):
        """Kinds of traces have the bit by which whoever does not know a kind drops the frame."""
        for kind in (RequestTrace.KIND, ForwardTrace.KIND):
            self.assertTrue(kind & OPTIONAL_KIND)

    def test_trace_with_too_much_text(self):
        """Texts beyond their bounds, and such with line breaks, are malformed."""
        for fields in ({"tracestate": "x" * 513}, {"tracestate": "a\n"}, {"traceparent": "a\r"}):
            trace = RequestTrace(**{"traceparent": "", **fields})
            _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
            with self.assertRaises(MalformedMessageError):
                acceptor.receive(wire(trace, stream=1))
            with self.assertRaises(MalformedMessageError):
                ForwardTrace.decode(
                    b"".join(
                        ForwardTrace(
                            request_id=1, traceparent=trace.traceparent, tracestate=trace.tracestate
                        ).encode()
                    )
                )

    def test_credit_is_bounded(self):
        """Credit beyond its cap ends the stream, at once or when it adds up; the link goes on."""
        too_much = limits.FOLLOW_CREDIT_MAX + 1
        self.assertEqual(self.acceptor.receive(wire(Follow(offset=0, credit=too_much), stream=1)), [])
        self.acceptor.receive(wire(Follow(offset=0, credit=1), stream=2))
        events = self.acceptor.receive(wire(Credit(credit=too_much - 1), stream=2))
        self.assertEqual(events, [CancelReceived(stream=2)])
        self.assertEqual((self.acceptor.served.open, self.acceptor.state), ({}, LinkState.UP))

    def test_credit_for_something_else(self):
        """Credit for a request that is no follow, or for a stream that never was, closes the link."""
        for message in (Credit(credit=1), Cancel()):
            _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
            with self.assertRaises(ProtocolError):
                acceptor.receive(wire(message, stream=9))
        self.acceptor.receive(wire(Bounds(), stream=1))
        with self.assertRaises(ProtocolError):
            self.acceptor.receive(wire(Credit(credit=1), stream=1))

    def test_answers_carry_bulk_uncopied(self):
        """Frames that were read are passed to the driver as they are."""
        stream = self.dialler.request(Fetch(offset=0))
        move(self.dialler, self.acceptor)
        frames = memoryview(b"f" * 100)
        self.acceptor.answer(stream, FetchReply(next_offset=1, frames=frames))
        self.assertIs(self.acceptor.bytes_to_send()[-1], frames)


class EndTests(SynchronousTestCase):
    """Ways to end."""

    def test_goodbye_finishes_what_is_open(self):
        """After a goodbye the open request is answered, a new one refused, then both are closed."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        stream = dialler.request(Bounds())
        move(dialler, acceptor)
        acceptor.say_goodbye("restart")
        late = dialler.request(Bounds())
        self.assertEqual(move(acceptor, dialler), [GoodbyeReceived(reason="restart")])
        with self.assertRaises(UnavailableError):
            dialler.request(Bounds())
        move(dialler, acceptor)
        acceptor.answer(stream, BoundsReply(lowest=0, next_offset=0))
        self.assertEqual(acceptor.state, LinkState.CLOSED)
        first, second = move(acceptor, dialler)
        self.assertIsInstance(first, Refused)
        self.assertEqual((first.stream, type(first.error)), (late, UnavailableError))
        self.assertIsInstance(second, Answered)
        self.assertEqual(dialler.state, LinkState.CLOSED)

    def test_goodbye_when_idle(self):
        """With nothing open both are closed at once."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        dialler.say_goodbye()
        dialler.say_goodbye()
        self.assertEqual(dialler.state, LinkState.CLOSED)
        move(dialler, acceptor)
        self.assertEqual(acceptor.state, LinkState.CLOSED)

    def test_broken_rule(self):
        """A malformed body closes the link with an error that the peer can read."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        with self.assertRaises(errors.MalformedMessageError):
            acceptor.receive(pack_header(3, Ping.KIND) + b"abc")
        [event] = move(acceptor, dialler)
        self.assertIsInstance(event.error, errors.MalformedMessageError)
        self.assertEqual(acceptor.receive(wire(Ping(token=1))), [])

    def test_deadline(self):
        """The driver's deadline reaches the peer as a typed error."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        acceptor.fail(errors.PeerTimeoutError("no frame in 10 s"))
        acceptor.fail(errors.PeerTimeoutError("again"))
        [sent] = acceptor.bytes_to_send()
        self.assertEqual(sent[4:6], LinkError.KIND.to_bytes(2, "big"))

    def test_goodbye_while_greeting(self):
        """Stopping before the Hello just closes."""
        acceptor = Session(NODE_B, is_dialler=False)
        acceptor.say_goodbye()
        self.assertEqual((acceptor.state, acceptor.bytes_to_send()), (LinkState.CLOSED, []))

    def test_goodbye_reason_fits(self):
        """The reason survives."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        [event] = acceptor.receive(wire(Goodbye(reason="bye")))
        self.assertEqual(event.reason, "bye")


class FuzzTests(SynchronousTestCase):
    """Random frames after an honest Hello end in typed errors, and what is open stays bounded."""

    @settings(deadline=None, derandomize=True, max_examples=EXAMPLES)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([0x0002, 0x0005, 0x0301, 0x0303, 0x0305, 0x0307, 0x0308, 0x030B, 0x037F]),
                st.integers(0, 4),
                st.binary(max_size=40),
            ),
            max_size=10,
        )
    )
    def test_frames(self, frames):
        """Any sequence of frames either works or closes the link with a ProtocolError."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        for kind, stream, body in frames:
            try:
                acceptor.receive(pack_header(len(body), kind, stream=stream) + body)
            except ProtocolError:
                self.assertTrue(acceptor.is_closed)
                break
