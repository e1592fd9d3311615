"""A session's rules, each with its words: what may come when, how it ends, what is refused unread."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse import limits
from loghouse.errors import (
    IdentityError,
    InvalidRequestError,
    NotSupportedError,
    ProtocolError,
    UnavailableError,
)
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Cancel,
    Credit,
    Failure,
    Fetch,
    Follow,
    FollowFrames,
    LeaderHint,
    Produce,
    ProduceReply,
)
from loghouse.protocol.codec import decode, encode_envelope
from loghouse.protocol.framing import FrameBuffer, pack_header
from loghouse.protocol.gossip_messages import SwimNack
from loghouse.protocol.link_messages import Goodbye, LinkError, Ping, Pong
from loghouse.protocol.message import NO_UUID
from loghouse.protocol.raft_messages import Envelope, TimeoutNow
from loghouse.protocol.session import (
    Answered,
    CancelReceived,
    GoodbyeReceived,
    LeaderNamed,
    LinkFailed,
    LinkState,
    MessageReceived,
    RaftFrameReceived,
    Refused,
    RequestReceived,
    Session,
)
from tests.protocol.test_session import (
    CERTIFIED_A,
    CERTIFIED_ROOT,
    CLIENT,
    NODE_A,
    NODE_B,
    connect,
    move,
    wire,
)

REPLY = BoundsReply(lowest=0, next_offset=1)
RAFT = Envelope(3, 1, 2, TimeoutNow(term=5))
JOINER = replace(NODE_A, cluster_uuid=NO_UUID)


def sent_by(session):
    """What a session has to send, as (message, stream)."""
    data = b"".join(session.bytes_to_send())
    return [(decode(frame), frame.stream) for frame in FrameBuffer(lambda kind: 1 << 30).feed(data)]


class RulesTestCase(SynchronousTestCase):
    """What the tests share."""

    def broken(self, session, data, text, error=ProtocolError):
        """Check that this breaks a rule, and that the other side is told which."""
        with self.assertRaises(error) as caught:
            session.receive(data)
        self.assertEqual(str(caught.exception), text)
        self.assertEqual(sent_by(session)[-1], (LinkError.of(caught.exception), 0))
        self.assertTrue(session.is_closed)


class KindTests(RulesTestCase):
    """Which kinds may come."""

    def test_before_hello(self):
        """Nothing but a Hello, or to who dialled, why there is none."""
        for kind in (Ping.KIND, Produce.KIND, 0x0101, 0x7FFF):
            for is_dialler in (False, True):
                session = Session(NODE_B, is_dialler=is_dialler)
                self.broken(session, pack_header(0, kind), f"frame kind {kind:#06x} before Hello")
        error = LinkError.of(IdentityError("no"))
        self.broken(Session(NODE_B, is_dialler=False), wire(error), "frame kind 0x0004 before Hello")
        session = Session(NODE_B, is_dialler=True)
        [failed] = session.receive(wire(error))
        self.assertEqual((type(failed), str(failed.error)), (LinkFailed, "no"))
        self.assertTrue(session.is_closed)

    def test_second_hello(self):
        """A Hello comes once."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        self.broken(acceptor, wire(CLIENT), "a second Hello")

    def test_kinds_of_others(self):
        """A kind that this peer may not send is refused by its header."""
        for hello, certified, kinds in [
            (CLIENT, CERTIFIED_ROOT, (SwimNack.KIND, 0x0101, BoundsReply.KIND, 0x0120)),
            (NODE_A, CERTIFIED_A, (Produce.KIND, Bounds.KIND, BoundsReply.KIND)),
            (JOINER, CERTIFIED_A, (SwimNack.KIND, 0x0101, Produce.KIND)),
        ]:
            for kind in kinds:
                _, acceptor = connect(hello, certified)
                text = f"frame kind {kind:#06x} may not come on this connection"
                self.broken(acceptor, pack_header(1, kind), text)
        for hello, certified, kinds in [
            (CLIENT, CERTIFIED_ROOT, (Bounds.KIND, SwimNack.KIND)),
            (NODE_A, CERTIFIED_A, (BoundsReply.KIND, LeaderHint.KIND, SwimNack.KIND)),
        ]:
            for kind in kinds:
                dialler, _ = connect(hello, certified)
                text = f"frame kind {kind:#06x} may not come on this connection"
                self.broken(dialler, pack_header(1, kind), text)

    def test_kinds_between_nodes(self):
        """Gossip and Raft come as they are, with their group."""
        dialler, acceptor = connect(NODE_A, CERTIFIED_A)
        dialler.send(SwimNack(sequence=1), group=3, stream=9)
        dialler.send_raft(RAFT)
        first, second = move(dialler, acceptor)
        self.assertEqual(first, MessageReceived(message=SwimNack(sequence=1), group=3, stream=9))
        self.assertEqual(type(second), RaftFrameReceived)
        frame = second.frame
        self.assertEqual((frame.kind, frame.group, frame.stream), (TimeoutNow.KIND, 3, 0))
        self.assertEqual(pack_header(16, frame.kind, group=3) + frame.body, b"".join(encode_envelope(RAFT)))

    def test_no_group_and_no_stream(self):
        """What is about the link, or not about one group, has neither."""
        dialler, acceptor = connect(NODE_A, CERTIFIED_A)
        dialler.send(SwimNack(sequence=1))
        self.assertEqual(
            move(dialler, acceptor), [MessageReceived(message=SwimNack(sequence=1), group=0, stream=0)]
        )
        dialler.ping(5)
        self.assertEqual(
            b"".join(dialler.bytes_to_send()), pack_header(8, Ping.KIND) + (5).to_bytes(8, "big")
        )

    def test_unknown_kinds(self):
        """An optional one is dropped, a request refused on its stream, anything else breaks a rule."""
        for kind in (0x0080, 0x00FF, 0x01FF, 0x03FF, 0x7F80):
            _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
            self.assertEqual(acceptor.receive(pack_header(1, kind, stream=5) + b"x"), [])
            self.assertEqual(sent_by(acceptor)[1:], [])
        for kind in (0x0300, 0x037F):
            _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
            acceptor.bytes_to_send()
            acceptor.receive(pack_header(0, kind, stream=5))
            error = NotSupportedError(f"request kind {kind:#06x} is not known to this node's version")
            self.assertEqual(sent_by(acceptor), [(Failure.of(error), 5)])
        text = "frame kind {:#06x} is not known to this version"
        for kind, stream in [(0x037F, 0), (0x0400, 5), (0x027F, 5), (0x7F00, 5)]:
            _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
            self.broken(acceptor, pack_header(0, kind, stream=stream), text.format(kind))
        dialler, _ = connect(CLIENT, CERTIFIED_ROOT)
        self.broken(dialler, pack_header(0, 0x037F, stream=5), text.format(0x037F))

    def test_signs_of_life(self):
        """A Ping is answered with its token, at either end."""
        for ends in (connect(CLIENT, CERTIFIED_ROOT), connect(NODE_A, CERTIFIED_A)):
            for session in ends:
                session.bytes_to_send()
                self.assertEqual(session.receive(wire(Ping(token=77))), [])
                self.assertEqual(sent_by(session), [(Pong(token=77), 0)])


class GreetingTests(RulesTestCase):
    """The first frames."""

    def test_what_is_known_then(self):
        """Peer and agreement are known once the Hello fits; an acceptor answers with its own Hello."""
        acceptor = Session(NODE_B, is_dialler=False, certified=CERTIFIED_A)
        self.assertEqual(
            (acceptor.peer, acceptor.agreement, acceptor.state), (None, None, LinkState.GREETING)
        )
        [up] = acceptor.receive(wire(NODE_A))
        self.assertEqual((acceptor.peer, acceptor.agreement), (NODE_A, up.agreement))
        self.assertEqual(sent_by(acceptor), [(NODE_B, 0)])
        self.assertIs(acceptor.state, LinkState.UP)

    def test_whom_it_dialled(self):
        """The node that is expected must answer."""
        session = Session(NODE_A, is_dialler=True, expected_node="c")
        text = "dialled node 'c', but node 'b' of cluster 'logs' answered; check the addresses"
        self.broken(session, wire(NODE_B), text, IdentityError)
        self.assertEqual((session.peer, session.agreement), (None, None))

    def test_admitted(self):
        """Whoever admits peers is asked once a Hello fits, and by both ends."""
        asked = []
        for own, other, is_dialler in [(NODE_A, NODE_B, True), (NODE_B, NODE_A, False)]:
            session = Session(own, is_dialler=is_dialler, admit=asked.append)
            session.receive(wire(other))
        self.assertEqual(asked, [NODE_B, NODE_A])


class RequestTests(RulesTestCase):
    """Requests, answers, and their streams."""

    def test_group(self):
        """A request goes to the group that is named, or to the first one."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        dialler.request(Bounds())
        dialler.request(Bounds(), group=9)
        found = move(dialler, acceptor)
        self.assertEqual(found, [RequestReceived(Bounds(), 1, 1), RequestReceived(Bounds(), 9, 2)])

    def test_when_not_up(self):
        """Nothing is asked before the greeting, behind a goodbye, or by who was dialled."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        fresh = Session(CLIENT, is_dialler=True)
        for session, state in [(fresh, "greeting"), (acceptor, "up")]:
            with self.assertRaises(UnavailableError) as caught:
                session.request(Bounds())
            self.assertEqual(str(caught.exception), f"the connection is {state}; nothing was sent")
            self.assertTrue(session.is_idle)
        dialler.request(Bounds())
        dialler.say_goodbye()
        with self.assertRaises(UnavailableError) as caught:
            dialler.request(Bounds())
        self.assertEqual(str(caught.exception), "the connection is closing; nothing was sent")

    def test_answers(self):
        """An answer, a refusal and a hint arrive as what they are."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        for _ in range(2):
            dialler.request(Bounds())
        move(dialler, acceptor)
        acceptor.answer(2, REPLY)
        acceptor.refuse(1, InvalidRequestError("offset", "is odd"))
        acceptor.send(LeaderHint(name="c"), group=7)
        answered, refused, named = move(acceptor, dialler)
        self.assertEqual(answered, Answered(2, REPLY))
        self.assertEqual((type(refused), refused.stream, str(refused.error)), (Refused, 1, "offset: is odd"))
        self.assertEqual(named, LeaderNamed(group=7, name="c"))
        self.assertTrue(dialler.is_idle and acceptor.is_idle)

    def test_frames_use_up_credit(self):
        """The bytes of frames that are followed are taken off; those of other answers are not."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        stream = dialler.request(Follow(offset=0, credit=100))
        move(dialler, acceptor)
        acceptor.answer(stream, FollowFrames(next_offset=1, frames=b"x" * 30))
        self.assertEqual(acceptor.served.open[stream].credit, 70)
        [event] = move(acceptor, dialler)
        self.assertEqual(event.reply.frames, b"x" * 30)
        dialler.add_credit(stream, 5)
        self.assertEqual(sent_by(dialler), [(Credit(credit=5), stream)])

    def test_late_credit_and_cancel(self):
        """They say nothing about a stream that is over."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        acceptor.bytes_to_send()
        acceptor.receive(wire(Follow(offset=0, credit=1), stream=1))
        acceptor.refuse(1, InvalidRequestError("offset", "is odd"))
        for message in (Credit(credit=1), Cancel()):
            self.assertEqual(acceptor.receive(wire(message, stream=1)), [])
        self.assertEqual(len(sent_by(acceptor)), 1)
        dialler.cancel(4)
        dialler.add_credit(4, 1)
        self.assertEqual(dialler.bytes_to_send(), [])

    def test_too_much_credit(self):
        """It ends the stream with a refusal, and whoever serves it is told, if anybody did."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        acceptor.bytes_to_send()
        most = limits.FOLLOW_CREDIT_MAX
        refusal = Failure.of(InvalidRequestError("credit", f"{most + 1} bytes; at most {most} are allowed"))
        self.assertEqual(acceptor.receive(wire(Follow(offset=0, credit=most + 1), stream=1)), [])
        self.assertEqual(sent_by(acceptor), [(refusal, 1)])
        acceptor.receive(wire(Follow(offset=0, credit=most), stream=2))
        found = acceptor.receive(wire(Credit(credit=1), stream=2))
        self.assertEqual(found, [CancelReceived(stream=2)])
        self.assertEqual(sent_by(acceptor), [(refusal, 2)])
        self.assertTrue(acceptor.is_idle)

    def test_answer_to_what_is_over(self):
        """Nothing is sent for a stream that was cancelled, or on a closed connection."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        for _ in range(2):
            dialler.request(Bounds())
        move(dialler, acceptor)
        dialler.cancel(1)
        move(dialler, acceptor)
        acceptor.answer(1, REPLY)
        self.assertEqual(acceptor.bytes_to_send(), [])
        acceptor.fail(ProtocolError("late"))
        acceptor.bytes_to_send()
        acceptor.answer(2, REPLY)
        self.assertEqual(acceptor.bytes_to_send(), [])

    def test_frames_are_counted(self):
        """Each frame counts, those refused unread as well."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        self.assertEqual(acceptor.frame_count, 1)
        acceptor.receive(wire(Ping(token=1)) + wire(Bounds(), stream=1))
        self.assertEqual(acceptor.frame_count, 3)
        acceptor.check_before_body(refuse)
        acceptor.receive(pack_header(100, Produce.KIND, stream=2))
        self.assertEqual(acceptor.frame_count, 4)


def refuse(cls, group, size):
    """What judges a request by its header, and takes none."""
    raise InvalidRequestError("batch", f"{cls.__name__} of {size} bytes to group {group}")


class UnreadTests(RulesTestCase):
    """Requests that are judged before their bodies are here."""

    def make(self, check, hello=CLIENT, certified=CERTIFIED_ROOT):
        _, acceptor = connect(hello, certified)
        acceptor.bytes_to_send()
        acceptor.check_before_body(check)
        return acceptor

    def test_refused(self):
        """The refusal goes out at once, the body is dropped, and what follows it is read."""
        acceptor = self.make(refuse)
        self.assertEqual(acceptor.receive(pack_header(100, Produce.KIND, group=3, stream=7)), [])
        error = InvalidRequestError("batch", "Produce of 100 bytes to group 3")
        self.assertEqual(sent_by(acceptor), [(Failure.of(error), 7)])
        self.assertEqual(acceptor.frames.pending_size, 100)
        found = acceptor.receive(b"x" * 100 + wire(Bounds(), group=1, stream=8))
        self.assertEqual(found, [RequestReceived(Bounds(), 1, 8)])
        text = "stream 7 opened behind stream 8; numbers only grow"
        self.broken(acceptor, wire(Bounds(), stream=7), text)

    def test_its_stream_is_used(self):
        """The number of a request refused unread is not to be used again."""
        acceptor = self.make(refuse)
        acceptor.receive(pack_header(10, Produce.KIND, stream=7) + bytes(9))
        text = "stream 7 opened behind stream 7; numbers only grow"
        self.broken(acceptor, bytes(1) + wire(Bounds(), stream=7), text)

    def test_taken(self):
        """What is not refused is read as ever."""
        asked = []
        acceptor = self.make(lambda *header: asked.append(header))
        request = Produce(batch=b"x" * 50, record_count=1)
        data = wire(request, group=4, stream=1)
        self.assertEqual(acceptor.receive(data[:20]), [])
        self.assertEqual(acceptor.receive(data[20:]), [RequestReceived(request, 4, 1)])
        self.assertEqual(asked, [(Produce, 4, len(data) - 16)])

    def test_unknown(self):
        """A request that this version does not know is refused when it is here, without a question."""
        acceptor = self.make(refuse)
        self.assertEqual(acceptor.receive(pack_header(2, 0x037F, stream=5) + b"a"), [])
        self.assertEqual(acceptor.bytes_to_send(), [])
        acceptor.receive(b"b")
        error = NotSupportedError("request kind 0x037f is not known to this node's version")
        self.assertEqual(sent_by(acceptor), [(Failure.of(error), 5)])

    def test_not_asked(self):
        """What is no new request of a client is not judged."""
        for message in (Credit(credit=1), Cancel(), Ping(token=1), Goodbye(reason="x")):
            acceptor = self.make(refuse)
            acceptor.receive(pack_header(len(wire(message)) - 16 + 1, message.KIND, stream=1))
            self.assertEqual(acceptor.bytes_to_send(), [])
        acceptor = self.make(refuse, NODE_A, CERTIFIED_A)
        acceptor.receive(pack_header(9, SwimNack.KIND))
        self.assertEqual(acceptor.bytes_to_send(), [])


class EndTests(RulesTestCase):
    """Goodbyes, mistakes, and what is still done then."""

    def test_goodbye(self):
        """It is said once, with its reason, and the other side hears it."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        dialler.request(Bounds())
        move(dialler, acceptor)
        for _ in range(2):
            dialler.say_goodbye("enough")
        self.assertEqual(move(dialler, acceptor), [GoodbyeReceived(reason="enough")])
        self.assertEqual((dialler.state, acceptor.state), (LinkState.CLOSING, LinkState.CLOSING))
        acceptor.answer(1, REPLY)
        self.assertEqual((dialler.state, acceptor.state), (LinkState.CLOSING, LinkState.CLOSED))
        move(acceptor, dialler)
        self.assertIs(dialler.state, LinkState.CLOSED)

    def test_both_say_it(self):
        """A goodbye is answered with one, if this side wants to say it as well."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        dialler.request(Bounds())
        dialler.say_goodbye()
        move(dialler, acceptor)
        acceptor.say_goodbye("me too")
        self.assertEqual(move(acceptor, dialler), [GoodbyeReceived(reason="me too")])
        self.assertIs(acceptor.state, LinkState.CLOSING)

    def test_requests_behind_it(self):
        """A request that crosses the goodbye is refused, those before it are answered."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        dialler.request(Bounds())
        move(dialler, acceptor)
        acceptor.say_goodbye()
        acceptor.bytes_to_send()
        self.assertEqual(acceptor.receive(wire(Bounds(), stream=2)), [])
        error = UnavailableError("this node is closing the connection; try another one")
        self.assertEqual(sent_by(acceptor), [(Failure.of(error), 2)])
        self.assertIs(acceptor.state, LinkState.CLOSING)

    def test_cancelled_to_the_end(self):
        """Who gives up its last request behind a goodbye is done."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        dialler.request(Bounds())
        dialler.say_goodbye()
        dialler.cancel(1)
        self.assertIs(dialler.state, LinkState.CLOSED)
        self.assertEqual(len(move(dialler, acceptor)), 3)
        self.assertIs(acceptor.state, LinkState.CLOSED)

    def test_closed(self):
        """A closed session takes nothing, says nothing, and is told no second mistake."""
        dialler, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        stream = dialler.request(Bounds())
        for session in (dialler, acceptor):
            session.bytes_to_send()
            session.fail(ProtocolError("first"))
            session.fail(ProtocolError("second"))
            self.assertEqual(sent_by(session), [(LinkError.of(ProtocolError("first")), 0)])
            self.assertEqual(session.receive(wire(Ping(token=1))), [])
            room = session.frames.room()
            ping = wire(Ping(token=1))
            room[: len(ping)] = ping
            self.assertEqual(session.filled(len(ping)), [])
            session.say_goodbye()
            self.assertEqual(session.bytes_to_send(), [])
        dialler.cancel(stream)
        dialler.add_credit(stream, 1)
        self.assertEqual(dialler.bytes_to_send(), [])

    def test_what_follows_a_mistake(self):
        """Nothing behind a frame that closes the session is looked at."""
        dialler, _ = connect(CLIENT, CERTIFIED_ROOT)
        error = LinkError.of(ProtocolError("x"))
        found = dialler.receive(wire(error) + wire(Goodbye(reason="y")))
        self.assertEqual([type(event) for event in found], [LinkFailed])
        self.assertEqual(dialler.frame_count, 2)

    def test_received_in_place(self):
        """Bytes that are put into the session's room mean what received ones do."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        data = wire(Fetch(offset=5), group=1, stream=1)
        acceptor.frames.room()[: len(data)] = data
        self.assertEqual(acceptor.filled(len(data)), [RequestReceived(Fetch(offset=5), 1, 1)])

    def test_sizes(self):
        """What is here of a frame, and what it will have, are known."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        self.assertEqual((acceptor.frames.pending_size, acceptor.frames.awaited_size), (0, 16))
        acceptor.receive(pack_header(8, Ping.KIND) + b"abc")
        self.assertEqual((acceptor.frames.pending_size, acceptor.frames.awaited_size), (19, 24))


class HeldTests(RulesTestCase):
    """A dialler that is ahead waits."""

    BATCH = Produce(batch=bytes(limits.REQUESTS_SIZE_MAX // 2), record_count=1)
    DONE = ProduceReply(base_offset=0, record_count=1, timestamp=1)

    def test_in_order(self):
        """What came meanwhile is looked at in order, as far as there is room."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        self.assertEqual(len(acceptor.receive(wire(self.BATCH, stream=1))), 1)
        self.assertFalse(acceptor.is_held)
        events = acceptor.receive(wire(self.BATCH, stream=2) + wire(Bounds(), stream=3))
        self.assertEqual([event.stream for event in events], [2])
        self.assertTrue(acceptor.is_held)
        self.assertEqual(acceptor.receive(wire(Bounds(), stream=4)), [])
        self.assertEqual(acceptor.receive(wire(Bounds(), stream=5)), [])
        self.assertEqual((acceptor.go_on(), acceptor.is_held), ([], True))
        acceptor.answer(1, self.DONE)
        self.assertEqual([event.stream for event in acceptor.go_on()], [3, 4, 5])
        self.assertEqual((acceptor.is_held, acceptor.go_on()), (False, []))
        self.assertEqual(acceptor.frame_count, 6)

    def test_closed_meanwhile(self):
        """When the session closes, what waits is not looked at any more."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        acceptor.receive(b"".join(wire(self.BATCH, stream=stream) for stream in (1, 2, 3)))
        acceptor.fail(ProtocolError("x"))
        for stream in (1, 2):
            acceptor.served.end(stream)
        self.assertEqual(acceptor.go_on(), [])
