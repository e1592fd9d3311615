"""One end of a link, without a network: its deadlines, its writes in parts, when it reads, how it ends."""

from types import SimpleNamespace
from unittest.mock import patch

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.identity import Identity
from loghouse.errors import IdentityError, PeerTimeoutError, ProtocolError
from loghouse.limits import KIB, MIB
from loghouse.net import link as link_module
from loghouse.net.link import CLOSE_SECONDS_MAX, WRITE_AT_ONCE_MAX, Link, LinkTimes, LinkWatch
from loghouse.protocol.client_messages import Bounds, BoundsReply
from loghouse.protocol.greeting import Certified
from loghouse.protocol.link_messages import Goodbye, LinkError, Ping, Pong
from loghouse.protocol.session import LinkFailed, Session
from tests.net.in_memory import Transport, frame_of, hello_of

TIMES = LinkTimes(greeting=10, frame=4, silence=20, silence_max=50, stuck_max=7, close_max=3)


class NotingLink(Link):
    """An accepted link that notes what happens."""

    def __init__(self, watch, tls=None, times=TIMES):
        super().__init__(watch, times, tls)
        self.events, self.resumed, self.reasons, self.turned_away, self.greeted = [], 0, [], [], []

    def greet(self, certified):
        self.greeted.append(certified)
        self.start(Session(hello_of("n1"), is_dialler=False))

    def turn_away(self, error):
        self.turned_away.append(str(error))

    def event_received(self, event):
        self.events.append(event)

    def write_resumed(self):
        self.resumed += 1

    def link_lost(self, reason):
        self.reasons.append(reason)


class LinkCase(SynchronousTestCase):
    """A link on a clock."""

    def setUp(self):
        self.clock = Clock()
        self.clock.advance(1000)
        self.watch = LinkWatch(self.clock)
        self.warnings = []

    def make(self, peer="", *, tls=None, is_greeted=True):
        """Return a link that is connected, and greeted by a node of that name, or by a client."""
        made = NotingLink(self.watch, tls)
        made.logger = SimpleNamespace(warn=lambda format, **fields: self.warnings.append((format, fields)))
        self.transport = Transport()
        made.makeConnection(self.transport)
        if is_greeted:
            made.dataReceived(frame_of(hello_of(peer)))
            self.transport.clear()
            self.transport.take_calls()
        return made

    def errors(self):
        """Return the texts of the LinkErrors that were written."""
        frames = self.transport.take_frames()
        return [str(LinkError.decode(body).error()) for kind, body in frames if kind == LinkError.KIND]


class DeadlineTests(LinkCase):
    """Who is too slow hears why, at its time and not before."""

    def late(self, link, seconds, reason, *, more=0.0):
        """Check that the link ends so many seconds from now (`more`: for bytes awaited), and not before."""
        now = self.clock.seconds()
        link.check_deadlines(now + seconds - 0.01)
        self.assertEqual(self.errors(), [])
        link.check_deadlines(now + seconds + more)
        self.assertEqual((self.errors(), link.problem), ([reason], reason))
        self.assertEqual(self.transport.take_calls()[-2:], ["no producer", "lose"])
        [(_, fields)] = self.warnings
        self.assertEqual(fields["problem"], reason)
        self.assertNotIn("lasting", fields)
        # One problem ends a link once.
        link.check_deadlines(now + seconds)
        self.assertEqual((self.errors(), len(self.warnings)), ([], 1))

    def test_no_hello(self):
        """Of who says no Hello."""
        link = self.make(is_greeted=False)
        self.clock.advance(2)
        link.dataReceived(frame_of(hello_of())[:20])
        self.late(link, 8, "no Hello within 10 s")

    def test_no_handshake(self):
        """Of who does no handshake: there is nothing to tell it, and the connection closes."""
        link = self.make(tls=object(), is_greeted=False)
        link.check_deadlines(self.clock.seconds() + 9.9)
        self.assertEqual(self.transport.take_calls(), [])
        link.check_deadlines(self.clock.seconds() + 10)
        self.assertEqual(self.transport.take_calls(), ["no producer", "lose"])
        self.assertEqual(self.transport.value(), b"")

    def test_half_a_frame(self):
        """Of who does not end a frame; a large one may take longer, and each byte of another is no excuse."""
        link = self.make()
        ping = frame_of(Ping(token=1))
        link.dataReceived(ping + ping[:3])
        self.clock.advance(1)
        link.dataReceived(ping[3:6])
        self.transport.clear()
        self.late(link, 3, "a frame was not complete within 4 s", more=0.001)

    def test_next_frame(self):
        """The time of a frame begins when the one before it is whole."""
        link = self.make()
        ping = frame_of(Ping(token=1))
        link.dataReceived(ping[:5])
        self.clock.advance(3)
        link.dataReceived(ping[5:] + ping[:2])
        self.transport.clear()
        self.late(link, 4, "a frame was not complete within 4 s", more=0.001)

    def test_whole_frames(self):
        """Between frames nobody is late, though something was incomplete before."""
        link = self.make()
        ping = frame_of(Ping(token=1))
        link.dataReceived(ping[:5])
        link.dataReceived(ping[5:])
        self.transport.clear()
        link.check_deadlines(self.clock.seconds() + 19)
        self.assertEqual(self.transport.take_frames(), [])

    def test_large_frame(self):
        """A second more for each 64 KiB that are awaited."""
        link = self.make()
        with patch.object(type(link.session.frames), "awaited_size", 128 * KIB):
            link.dataReceived(frame_of(Ping(token=1))[:4])
            self.late(link, 6, "a frame was not complete within 6 s")

    def test_silence(self):
        """A silent peer is asked once, with a token of its own each time, and then given up."""
        link = self.make()
        now = self.clock.seconds()
        for seconds, asked in ((19.9, False), (20, True), (21, False), (49.9, False)):
            link.check_deadlines(now + seconds)
            pings = [(kind, Ping.decode(body).token) for kind, body in self.transport.take_frames()]
            self.assertEqual(pings, [(Ping.KIND, 1)] if asked else [], seconds)
        self.late(link, 50, "silent for 50 s")

    def test_sign_of_life(self):
        """A sign of life begins the silence anew, and the next one has the next token."""
        link = self.make()
        tokens = []
        for _ in range(3):
            self.clock.advance(20)
            link.check_deadlines(self.clock.seconds())
            tokens += [Ping.decode(body).token for _, body in self.transport.take_frames()]
            link.dataReceived(frame_of(Pong(token=tokens[-1])))
        self.assertEqual(tokens, [1, 2, 3])

    def test_not_read(self):
        """Who is not read cannot be silent, and its silence begins when it is read again."""
        link = self.make()
        link.hold_reading("a")
        link.dataReceived(frame_of(Ping(token=1))[:4])
        link.check_deadlines(self.clock.seconds() + 60)
        self.assertEqual(self.transport.take_frames(), [])
        link.dataReceived(frame_of(Ping(token=1))[4:])
        self.transport.clear()
        self.clock.advance(60)
        link.release_reading("a")
        link.check_deadlines(self.clock.seconds() + 19)
        self.assertEqual(self.transport.take_frames(), [])
        link.check_deadlines(self.clock.seconds() + 20)
        self.assertEqual([kind for kind, _ in self.transport.take_frames()], [Ping.KIND])
        self.late(link, 50, "silent for 50 s")

    def test_stuck(self):
        """Of who takes nothing, also while it is not read."""
        link = self.make()
        link.hold_reading("a")
        link.pauseProducing()
        self.late(link, 7, "took nothing of what was sent for 7 s")

    def test_takes_again(self):
        """A peer that took everything is not stuck."""
        link = self.make()
        link.pauseProducing()
        link.resumeProducing()
        link.check_deadlines(self.clock.seconds() + 8)
        self.assertEqual(self.errors(), [])

    def test_close(self):
        """A peer that does not close in its time is cut off."""
        link = self.make()
        self.assertEqual(CLOSE_SECONDS_MAX, 5)
        link.close()
        link.close()
        self.assertEqual(self.transport.take_calls(), ["no producer", "lose"])
        link.check_deadlines(self.clock.seconds() + 2.9)
        self.assertEqual(self.transport.take_calls(), [])
        link.check_deadlines(self.clock.seconds() + 3)
        self.assertEqual(self.transport.take_calls(), ["abort"])

    def test_certificate(self):
        """A certificate is looked at every time; one that counts no more ends the link, which lasts."""
        link = self.make("n2")
        looks = []

        def check():
            looks.append(1)
            if len(looks) == 2:
                raise IdentityError("it has expired")

        link._shown = SimpleNamespace(check_still_valid=check)
        link.check_deadlines(self.clock.seconds())
        self.assertEqual((self.errors(), len(looks)), ([], 1))
        link.check_deadlines(self.clock.seconds())
        self.assertEqual(self.errors(), ["it has expired"])
        [(_, fields)] = self.warnings
        self.assertEqual(fields["lasting"], "n2: it has expired")
        self.assertEqual((fields["peer"], fields["about"]), ("n2", "n2"))

    def test_watch(self):
        """All links are looked at once a second, while there are any, and not at once."""
        links = [self.make(), self.make()]
        looks = []
        for number, link in enumerate(links):
            link.check_deadlines = lambda now, number=number: looks.append((number, now - 1000))
        self.clock.advance(0.9)
        self.assertEqual(looks, [])
        self.clock.advance(0.1)
        self.clock.advance(1)
        self.assertEqual(looks, [(0, 1), (1, 1), (0, 2), (1, 2)])
        for link in links:
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
            link.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.make()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)


class ReadingTests(LinkCase):
    """A link reads unless there is a reason not to."""

    def test_reasons(self):
        """The first reason stops it, the last one that goes lets it go on; an unknown one is nothing."""
        link = self.make()
        for step, calls in (
            (lambda: link.release_reading("a"), []),
            (lambda: link.hold_reading("a"), ["pause"]),
            (lambda: link.hold_reading("b"), []),
            (lambda: link.hold_reading("b"), []),
            (lambda: link.release_reading("a"), []),
            (lambda: link.release_reading("b"), ["resume"]),
        ):
            step()
            self.assertEqual(self.transport.take_calls(), calls)

    def test_closing(self):
        """A link that closes, or is gone, is neither stopped nor let go on, and takes nothing any more."""
        for end in (lambda link: link.close(), lambda link: link.connectionLost()):
            for is_held in (False, True):
                link = self.make()
                if is_held:
                    link.hold_reading("a")
                end(link)
                self.transport.take_calls()
                (link.release_reading if is_held else link.hold_reading)("a")
                self.assertEqual(self.transport.take_calls(), [])
        link = self.make()
        link.close()
        link.dataReceived(frame_of(Ping(token=1)))
        self.assertEqual(self.transport.value(), b"")

    def test_broken_rule(self):
        """Who breaks a rule is told, logged and cut; what it says behind that is not read."""
        link = self.make()
        link.dataReceived(b"\xff" * 40)
        [text] = self.errors()
        self.assertEqual(link.problem, text)
        self.assertEqual(self.transport.take_calls(), ["no producer", "lose"])
        self.assertEqual(self.warnings[0][0], "closing link of {peer}: {problem}")
        link.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(link.reasons, [text])

    def test_requests_held(self):
        """Requests beyond what may be open wait; the next turn takes them once there is room."""
        link = self.make()
        served = link.session.served
        count = 0
        while not link.session.is_held:
            asked = [frame_of(Bounds(), group=1, stream=2 * count + number) for number in (1, 3)]
            link.dataReceived(b"".join(asked))
            count += 2
            self.assertLess(count, 100_000)
        self.assertIn("pause", self.transport.take_calls())
        known = len(link.events)
        self.assertLess(known - 1, count)
        self.assertEqual(self.clock.getDelayedCalls()[1:], [])
        for number in list(served.open):
            link.session.answer(number, BoundsReply(lowest=0, next_offset=0))
        link.flush()
        link.flush()
        self.assertEqual(len(link.events), known)
        self.clock.advance(0)
        self.assertEqual(len(link.events), known + 1)
        self.assertEqual(self.transport.take_calls(), ["resume"])


class WritingTests(LinkCase):
    """Much is written in parts, one a turn."""

    def test_small(self):
        """What is small leaves at once, up to just the share of a turn."""
        link = self.make()
        link._write([b"a", b"bc"], 3)
        self.assertEqual(self.transport.value(), b"abc")
        self.transport.clear()
        link._write([bytes(WRITE_AT_ONCE_MAX)], WRITE_AT_ONCE_MAX)
        self.assertEqual((len(self.transport.value()), link.is_writable), (1 * MIB, True))

    def test_parts(self):
        """A long write takes turns of 1 MiB, what comes behind it waits; then the link is writable again."""
        link = self.make()
        data = [bytes([number]) * size for number, size in enumerate((700 * KIB, 900 * KIB, 1100 * KIB))]
        link._write(data[:2], 1600 * KIB)
        self.assertEqual((self.transport.value(), link.is_writable), (b"", False))
        link._write(data[2:], 1100 * KIB)
        self.transport.sizes.clear()
        self.clock.advance(0)
        self.assertEqual(self.transport.sizes, [1 * MIB, 1 * MIB, 2700 * KIB - 2 * MIB])
        self.assertTrue(self.transport.value() == b"".join(data))
        self.assertEqual((link.is_writable, link.resumed), (True, 1))

    def test_full_meanwhile(self):
        """The link stays unwritable while the transport is full, though the long write is done."""
        link = self.make()
        link._write([bytes(2 * MIB)], 2 * MIB)
        link.pauseProducing()
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual((link.is_writable, link.resumed), (False, 0))
        link.resumeProducing()
        self.assertEqual((link.is_writable, link.resumed), (True, 1))

    def test_long_write_meanwhile(self):
        """It stays so while the long write goes on, though the transport is empty."""
        link = self.make()
        link._write([bytes(2 * MIB)], 2 * MIB)
        link.pauseProducing()
        link.resumeProducing()
        self.assertEqual((link.is_writable, link.resumed), (False, 0))

    def test_close_behind(self):
        """A link closes behind the last part, and is not read while it writes."""
        link = self.make()
        link._write([bytes(2 * MIB)], 2 * MIB)
        link.close()
        self.assertEqual(self.transport.take_calls(), [])
        self.clock.advance(0)
        self.assertEqual((self.transport.take_calls(), link.resumed), (["no producer", "lose"], 0))

    def test_gone_behind(self):
        """Nothing is written once the connection is gone."""
        link = self.make()
        link._write([bytes(2 * MIB)], 2 * MIB)
        link.connectionLost()
        self.clock.advance(0)
        link.flush()
        self.assertEqual(self.transport.value(), b"")
        self.assertFalse(link.is_writable)

    def test_answers_not_taken(self):
        """A peer that does not take its answers is not read."""
        link = self.make()
        link.pauseProducing()
        link.dataReceived(frame_of(Ping(token=1)))
        self.assertEqual(self.transport.take_calls(), ["pause"])
        link.resumeProducing()
        self.assertEqual((self.transport.take_calls(), link.resumed), (["resume"], 1))


class EndTests(LinkCase):
    """How a link begins and ends."""

    def test_start(self):
        """With a session the transport tells when it is full, and has a large buffer."""
        link = self.make(is_greeted=False)
        self.assertEqual(link.greeted, [None])
        self.assertEqual(self.transport.take_calls(), [("producer", True)])
        self.assertGreater(self.transport.bufferSize, 64 * KIB)

    def test_handshake(self):
        """The certificate's names go to the greeting; ALPN and identity are looked at before it."""
        identity = Identity(subject="node:n2", expires_at=0.0, node="n2", cluster="c1")
        shown = SimpleNamespace(identity=identity)
        self.patch(link_module, "ShownCertificate", lambda contexts, transport: shown)
        link = self.make(tls=object(), is_greeted=False)
        self.assertEqual(link.greeted, [])
        link.handshakeCompleted()
        self.assertEqual(link.greeted, [Certified(subject="node:n2", node="n2", cluster="c1")])
        self.assertIs(link._shown, shown)
        link = self.make(tls=object(), is_greeted=False)
        self.transport.negotiatedProtocol = b"h2"
        link.handshakeCompleted()
        self.assertEqual(link.turned_away, ["ALPN b'h2', expected b'loghouse/1'"])
        self.assertEqual(link.greeted, [])

    def test_refused_by_the_peer(self):
        """A peer's refusal is logged with its words, and is the reason of the end."""
        link = self.make("n2")
        link._receive_event(LinkFailed(error=IdentityError("who are you?")))
        self.assertEqual(link.problem, "refused by the peer: who are you?")
        [(format, fields)] = self.warnings
        self.assertEqual((format, fields["lasting"]), ("{peer}: {problem}", link.problem))
        link.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(link.reasons, ["refused by the peer: who are you?"])

    def test_reason(self):
        """Without a problem the end has the transport's reason."""
        link = self.make()
        link.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(link.reasons, ["Connection was closed cleanly."])

    def test_goodbye(self):
        """A goodbye waits for open requests; before the greeting it just closes."""
        link = self.make()
        link.dataReceived(frame_of(Bounds(), group=1, stream=1))
        link.say_goodbye("the node is stopping")
        [(kind, body)] = self.transport.take_frames()
        self.assertEqual((kind, Goodbye.decode(body).reason), (Goodbye.KIND, "the node is stopping"))
        self.assertEqual(self.transport.take_calls(), [])
        link.session.answer(1, BoundsReply(lowest=0, next_offset=0))
        link.flush()
        self.assertEqual(self.transport.take_calls(), ["no producer", "lose"])
        link = self.make(tls=object(), is_greeted=False)
        link.say_goodbye("the node is stopping")
        self.assertEqual(self.transport.take_calls(), ["no producer", "lose"])

    def test_break_off(self):
        """A link is broken off once: the first reason counts, and is told."""
        link = self.make()
        for reason in ("one", "two"):
            link.break_off(PeerTimeoutError(reason))
        self.assertEqual((self.errors(), link.problem, len(self.warnings)), (["one"], "one", 1))
        self.assertEqual(self.transport.take_calls(), ["no producer", "lose"])
        link.connectionLost()
        link.close()
        link.break_off(ProtocolError("three"))
        self.assertEqual(self.transport.take_calls(), [])

    def test_names(self):
        """A node is known by its name once it said it, who has none by its host."""
        link = self.make("n2")
        self.assertEqual((link.peer_name, link.log_account, link.is_of_node), ("n2", "n2", True))
        link = self.make("")
        self.assertEqual((link.peer_name, link.is_of_node), ("192.0.2.7", False))
        link = self.make("n2", is_greeted=False)
        self.assertEqual((link.peer_name, link.is_of_node), ("192.0.2.7", False))
        link.transport.peerAddr = object()
        self.assertEqual(link.peer_name, "?")


class WatchTests(LinkCase):
    """Waiting for links to end, with those of nodes or without."""

    def test_when_empty(self):
        """Each who waits hears it once, when the links that count for it are gone."""
        client, node = self.make(""), self.make("n2")
        heard = []
        for nodes_too in (False, True):
            waiting = self.watch.when_empty(nodes_too=nodes_too)
            waiting.addCallback(lambda _, nodes_too=nodes_too: heard.append(nodes_too))
        self.assertEqual(heard, [])
        client.connectionLost()
        self.assertEqual(heard, [False])
        self.watch.when_empty(nodes_too=False).addCallback(lambda _: heard.append("at once"))
        self.assertEqual(heard, [False, "at once"])
        given_up = self.watch.when_empty()
        given_up.addErrback(lambda _: heard.append("given up"))
        given_up.cancel()
        node.connectionLost()
        self.assertEqual(heard, [False, "at once", "given up", True])

    def test_goodbye(self):
        """Everybody hears the goodbye, nodes only if they are meant."""
        said = []
        for name in ("", "n2"):
            link = self.make(name)
            link.say_goodbye = lambda reason, name=name: said.append((name, reason))
        self.watch.say_goodbye("a", nodes_too=False)
        self.assertEqual(said, [("", "a")])
        self.watch.say_goodbye("b")
        self.assertEqual(said[1:], [("", "b"), ("n2", "b")])
