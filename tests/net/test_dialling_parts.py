"""The dialling side of a link between nodes, without a network: what it sends, drops and counts; its end."""

import random
from types import SimpleNamespace

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.identity import Identity
from loghouse.errors import IdentityError, ProtocolError
from loghouse.limits import KIB, PEER_QUEUE_MAX, PEER_QUEUE_SIZE_MAX, UINT32_MAX
from loghouse.net import peer as peer_module
from loghouse.net.link import LinkWatch
from loghouse.net.peer import CONNECT_SECONDS_MAX, TURN_SIZE_MAX, DialContext, PeerLink, PeerState, SendQueue
from loghouse.protocol.beat_messages import NodeBeat
from loghouse.protocol.cursor_messages import ForwardCursor, ForwardProduceWithCursor
from loghouse.protocol.forward_messages import ForwardProduce
from loghouse.protocol.framing import HEADER
from loghouse.protocol.gossip_messages import SwimNack
from loghouse.protocol.link_messages import Capability, Goodbye, Hello
from loghouse.protocol.message import NO_UUID
from loghouse.protocol.raft_messages import AppendEntries, Envelope, Heartbeat, RequestVote
from loghouse.protocol.routing_messages import ForwardBounds, Lead, Leads
from loghouse.protocol.session import GoodbyeReceived, LinkUp
from tests.net.in_memory import Transport, frame_of, hello_of
from tests.recording import RecordingMetrics

BULK, BEAT, VOTE = AppendEntries.KIND, Heartbeat.KIND, RequestVote.KIND


class DiallingCase(SynchronousTestCase):
    """A peer that is dialled in memory, over plain TCP."""

    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.metrics = RecordingMetrics()
        self.ends = []  # work for the end of the turn
        self.events, self.losses = [], []
        self.own = hello_of("n1")
        self.peer = self.make()

    def make(self, **fields):
        context = DialContext(
            reactor=self.reactor,
            watch=LinkWatch(self.reactor),
            hello=lambda: self.own,
            rng=random.Random(1),
            metrics=self.metrics,
            **{"tls": None, "soon": self.ends.append, **fields},
        )
        return PeerLink(context, "h", 8400, "n2", self.events.append, lambda: self.losses.append(1))

    def connect(self):
        """Let the last dial succeed; returns the link."""
        *_, (host, port, factory, timeout, _) = self.reactor.tcpClients
        self.assertEqual((host, port, timeout), ("h", 8400, CONNECT_SECONDS_MAX))
        self.assertFalse(factory.noisy)
        link = factory.buildProtocol(None)
        link.logger = SimpleNamespace(warn=lambda *what, **fields: None)
        self.transport = Transport()
        link.makeConnection(self.transport)
        return link

    def up(self, **fields):
        self.peer.dial()
        link = self.connect()
        link.dataReceived(frame_of(hello_of("n2", **fields)))
        self.transport.clear()
        return link

    def end_turn(self):
        ends, self.ends[:] = list(self.ends), []
        for end in ends:
            end()

    def send(self, size, kind=BULK, group=1):
        return self.peer._send(kind, group, (bytes(size),))

    def dropped(self):
        return sum(event[2] for event in self.metrics.events if event[0] == "frames_dropped")


class SendingTests(DiallingCase):
    """What goes when, and what does not."""

    def test_bounds(self):
        """These are what the limits say."""
        self.assertEqual((TURN_SIZE_MAX, CONNECT_SECONDS_MAX), (256 * KIB, 5))
        self.assertEqual((peer_module.BACKOFF_SECONDS_MIN, peer_module.BACKOFF_SECONDS_MAX), (0.1, 5))
        self.assertEqual(peer_module.IDLE_SECONDS_MAX, 300)

    def test_share_of_a_turn(self):
        """A share of just 256 KiB is used up; one byte less lets one frame more go. The next turn goes on."""
        self.up()
        self.assertTrue(self.send(TURN_SIZE_MAX - 1))
        self.assertEqual(self.ends, [])
        self.assertTrue(self.send(1))
        self.assertEqual(len(self.ends), 1)
        self.assertTrue(self.send(10))
        self.assertEqual((len(self.peer.queue), len(self.ends)), (1, 1))
        self.assertTrue(self.send(20, VOTE))  # control does not wait for the turn
        self.assertEqual((self.transport.sizes[-1], len(self.peer.queue), len(self.ends)), (20, 1, 1))
        self.end_turn()
        self.assertEqual((self.transport.sizes[-1], len(self.peer.queue), self.ends), (10, 0, []))
        self.assertTrue(self.send(TURN_SIZE_MAX - 10))
        self.assertEqual(len(self.ends), 1)
        self.send(1)
        self.end_turn()
        self.assertEqual(len(self.peer.queue), 0)

    def test_not_writable(self):
        """While the link is not writable all waits; control goes first, a newer beat for an older one."""
        link = self.up()
        link.pauseProducing()
        for size, kind, group in ((1, BULK, 1), (2, BEAT, 1), (3, BEAT, 2), (4, VOTE, 1), (5, BEAT, 1)):
            self.assertTrue(self.send(size, kind, group))
        self.assertEqual((len(self.peer.queue), self.metrics.count("frame_coalesced", "n2")), (4, 1))
        self.transport.sizes.clear()
        link.resumeProducing()
        self.assertEqual(self.transport.sizes, [5, 3, 4, 1])
        self.assertEqual((len(self.peer.queue), self.peer.queue.size), (0, 0))

    def test_gathered(self):
        """What several logs say in a turn goes in one write at its end, in order."""
        self.up()
        self.transport.sizes.clear()
        for size, kind, group in ((1, BEAT, 16), (2, VOTE, 17), (4, BEAT, 19), (8, BULK, 16), (16, BEAT, 18)):
            self.assertTrue(self.peer._send(kind, group, (bytes([size]) * size,)))
        self.assertEqual((self.transport.sizes, len(self.ends)), ([], 1))
        self.end_turn()
        self.assertEqual((self.transport.sizes, self.ends), ([31], []))
        written = b"".join(bytes([size]) * size for size in (1, 2, 4, 8, 16))
        self.assertTrue(self.transport.value().endswith(written))
        self.send(32, BEAT, 16)
        self.end_turn()
        self.assertEqual(self.transport.sizes[-1], 32)

    def test_not_gathered(self):
        """What one log alone has to say leaves at once, but for a named log's beats."""
        self.up()
        self.transport.sizes.clear()
        self.send(1)
        self.send(2, BEAT)
        self.assertEqual((self.transport.sizes, self.ends), ([1, 2], []))
        self.send(4, BULK, 16)  # the first one may be one of many
        self.end_turn()
        self.send(8, BULK, 16)
        self.assertEqual((self.transport.sizes, self.ends), ([1, 2, 4, 8], []))
        self.send(16, BEAT, 16)
        self.send(32, BULK, 16)  # behind the beat, as it came
        self.assertEqual(self.transport.sizes[-1], 8)
        self.end_turn()
        self.assertEqual(self.transport.sizes[-1], 48)

    def test_default_takes_along(self):
        """The log without a name waits for no other: what these said leaves before its frame, with it."""
        self.up()
        self.transport.sizes.clear()
        self.peer._send(BEAT, 16, (b"beat",))
        self.peer._send(BULK, 1, (b"append",))
        self.assertTrue(self.transport.value().endswith(b"beatappend"))
        self.assertEqual(self.transport.sizes, [10])
        self.send(1, BEAT)
        self.assertEqual(self.transport.sizes, [10, 1])
        self.end_turn()
        self.assertEqual(self.transport.sizes, [10, 1])

    def test_gathered_until_many(self):
        """Frames that are 32 KiB together leave at once, so that the peer can begin."""
        self.up()
        self.transport.sizes.clear()
        self.assertEqual(peer_module.GATHERED_SIZE_MAX, 32 * KIB)
        self.send(1, BULK, 16)
        self.send(32 * KIB - 2, BULK, 17)
        self.assertEqual(self.transport.sizes, [])
        self.send(1, BULK, 18)
        self.assertEqual(self.transport.sizes, [32 * KIB])
        self.end_turn()
        self.assertEqual((self.transport.sizes, self.ends), ([32 * KIB], []))

    def test_gathered_before_queued(self):
        """What was gathered leaves before what was queued behind it, and before a goodbye."""
        link = self.up()
        self.transport.sizes.clear()
        self.send(1, BULK, 16)
        link.pauseProducing()
        self.send(2, VOTE, 17)
        link.resumeProducing()
        self.assertEqual(self.transport.sizes, [1, 2])
        self.end_turn()
        self.assertEqual(self.transport.sizes, [1, 2])
        self.send(4, BULK, 16)
        self.peer.stop("bye")
        self.assertEqual(self.transport.sizes[2], 4)
        self.assertEqual(self.dropped(), 0)

    def test_gathered_and_lost(self):
        """What was gathered when the link is lost is dropped and counted, and the next link is not told."""
        link = self.up()
        self.send(1, BEAT, 16)
        self.send(1, BEAT, 17)
        link.connectionLost()
        self.assertEqual(self.dropped(), 2)
        self.reactor.advance(1.0)
        self.connect().dataReceived(frame_of(hello_of("n2")))
        self.transport.sizes.clear()
        self.end_turn()
        self.assertEqual(self.transport.sizes, [])

    def test_only_beats_are_coalesced(self):
        """A second vote does not take the place of the first."""
        self.up().pauseProducing()
        for _ in range(2):
            self.send(1, VOTE)
        self.assertEqual((len(self.peer.queue), self.metrics.count("frame_coalesced")), (2, 0))

    def test_too_much(self):
        """What does not fit is dropped and counted, and so is what waits when the link is lost."""
        link = self.up()
        link.pauseProducing()
        self.assertTrue(self.send(PEER_QUEUE_SIZE_MAX))
        self.assertFalse(self.send(1))
        self.assertEqual(self.dropped(), 1)
        link.connectionLost()
        self.assertEqual((self.dropped(), self.losses, self.peer.state), (2, [1], PeerState.WAITING))
        self.assertIsNone(self.peer.link)
        self.assertEqual(self.metrics.count("peer_link_failed", "n2"), 1)

    def test_nobody_there(self):
        """What is sent to whom no link is up with is dropped, and dials."""
        self.assertFalse(self.peer.send(SwimNack(sequence=1)))
        self.assertEqual((self.dropped(), self.peer.state), (1, PeerState.DIALLING))
        self.assertEqual(self.metrics.count("peer_dialled", "n2"), 1)
        self.connect()
        self.assertFalse(self.send(1))
        self.assertEqual(len(self.reactor.tcpClients), 1)

    def test_groups(self):
        """A node of many logs gets the frames of all groups, one of before only those of the first."""
        self.up()
        self.assertTrue(self.send(1, group=UINT32_MAX))
        self.peer = self.make()
        self.up(capabilities=Capability(0))
        self.assertTrue(self.send(1, group=1))
        self.assertFalse(self.send(1, group=2))
        self.assertEqual(self.dropped(), 1)

    def test_routing(self):
        """Who leads what, and reads that are passed on, are sent to nodes of many logs alone."""
        for message in (Leads(), ForwardBounds(request_id=1)):
            self.peer = self.make()
            self.assertFalse(self.peer.send(message))
            self.assertEqual(self.peer.state, PeerState.DIALLING)
            self.up()
            self.assertTrue(self.peer.send(message))
            self.peer = self.make()
            self.up(capabilities=Capability(0))
            before = self.dropped()
            self.assertFalse(self.peer.send(message))
            self.assertEqual(self.dropped(), before + 1)

    def test_cursors(self):
        """What is asked about cursors is sent to nodes alone that carry it out."""
        for message in (
            ForwardCursor(request_id=1, operation=7, name="a"),
            ForwardProduceWithCursor(
                cursor="a",
                epoch=1,
                position=2,
                produce=b"".join(
                    ForwardProduce(request_id=1, subject="ann", batch=b"x", record_count=1).encode()
                ),
            ),
        ):
            self.peer = self.make()
            self.up(capabilities=Capability.MANY_LOGS | Capability.BEATS)
            self.assertFalse(self.peer.send(message))
            self.peer = self.make()
            self.up(capabilities=Capability.MANY_LOGS | Capability.CURSORS)
            self.assertTrue(self.peer.send(message))

    def test_beats(self):
        """Beats are sent to nodes that take them alone; a newer one takes the place of one that waits."""
        self.up(capabilities=Capability.MANY_LOGS)
        self.assertFalse(self.peer.send(NodeBeat(life=1)))
        self.assertEqual(self.dropped(), 1)
        self.peer = self.make()
        link = self.up(capabilities=Capability.MANY_LOGS | Capability.BEATS)
        self.assertTrue(self.peer.send(NodeBeat(life=1)))
        link.pauseProducing()
        for life in (2, 3):
            self.assertTrue(self.peer.send(NodeBeat(life=life)))
        self.assertEqual(len(self.peer.queue), 1)
        link.resumeProducing()
        self.assertEqual(self.transport.take_frames()[-1][1], (3).to_bytes(8, "big"))

    def test_newer_leads(self):
        """What a node leads now takes the place of what it led before and did not tell yet."""
        link = self.up()
        link.pauseProducing()
        for leads in ((), (Lead(group=16, term=1),)):
            self.assertTrue(self.peer.send(Leads(leads=leads)))
        self.assertEqual(len(self.peer.queue), 1)
        link.resumeProducing()
        self.assertEqual(self.transport.take_frames()[-1][1][:2], b"\0\1")

    def test_restricted(self):
        """A link of before both were of one cluster ends in order with the next message, which is dropped."""
        self.own = hello_of("n1", cluster_uuid=NO_UUID)
        link = self.up()
        self.assertFalse(self.send(1))
        [(kind, body)] = self.transport.take_frames()
        self.assertEqual(kind, Goodbye.KIND)
        self.assertEqual(Goodbye.decode(body).reason, "nothing may be said before both are of one cluster")
        self.assertEqual((self.dropped(), link.is_idle_closed), (1, True))

    def test_late_turn(self):
        """The end of a turn of a link that is gone sends nothing, and the next link has a whole share."""
        link = self.up()
        self.send(TURN_SIZE_MAX)
        self.send(1)
        link.connectionLost()
        self.end_turn()
        self.reactor.advance(1)
        self.connect().dataReceived(frame_of(hello_of("n2")))
        self.send(TURN_SIZE_MAX - 1)
        self.assertEqual(self.ends, [])


class LifeTests(DiallingCase):
    """From the dial to the end."""

    def test_up(self):
        """The Hello of the other makes it up; what comes back is passed on."""
        link = self.up()
        self.assertIn(("no delay", True), self.transport.calls)
        self.assertIs(self.peer.link, link)
        [up] = self.events
        self.assertIsInstance(up, LinkUp)
        self.assertEqual((self.peer.state, self.metrics.count("peer_link_up", "n2")), (PeerState.UP, 1))
        link.dataReceived(frame_of(Goodbye(reason="leaving")))
        self.assertEqual(self.events[1:], [GoodbyeReceived(reason="leaving")])

    def test_hello(self):
        """It says Hello first, and another node than the expected one is refused."""
        self.peer.dial()
        link = self.connect()
        [(kind, body)] = self.transport.take_frames()
        self.assertEqual((kind, Hello.decode(body)), (Hello.KIND, self.own))
        link.dataReceived(frame_of(hello_of("n3")))
        self.assertIn("n3", link.problem)
        self.assertIs(self.peer.state, PeerState.DIALLING)

    def test_idle(self):
        """A link that carried nothing for 300 s says goodbye; each frame begins the time anew."""
        link = self.up()
        link._received_at = 299
        link.check_deadlines(299.9)
        self.assertEqual(link.session.state.value, "up")
        self.reactor.rightNow = 100
        link.write_frame((b"",), 0)
        link._received_at = 400
        link.check_deadlines(399.9)
        self.assertFalse(link.is_idle_closed)
        self.transport.clear()
        link.check_deadlines(400)
        [(kind, body)] = self.transport.take_frames()
        self.assertEqual((kind, Goodbye.decode(body).reason), (Goodbye.KIND, "nothing to say"))
        link.connectionLost()
        self.assertEqual((self.peer.state, self.losses), (PeerState.IDLE, [1]))
        self.assertEqual(self.metrics.count("peer_link_failed"), 0)

    def test_not_idle_before_it_is_up(self):
        """A link that greets is not idle: its own deadline ends it."""
        self.peer.dial()
        link = self.connect()
        link.check_deadlines(300)
        self.assertFalse(link.is_idle_closed)
        self.assertIn("no Hello", link.problem)

    def test_dial_fails(self):
        """A dial that fails is counted with its reason; no link was lost."""
        self.peer.dial()
        factory = self.reactor.tcpClients[-1][2]
        reason = SimpleNamespace(getErrorMessage=lambda: "refused")
        factory.clientConnectionFailed(None, reason)
        self.assertEqual(self.metrics.last("peer_link_failed"), ("n2", "refused"))
        self.assertEqual((self.losses, self.peer.state), ([], PeerState.WAITING))

    def test_stop(self):
        """A stop says goodbye, drops what waits, and ends a dial under way; nothing is dialled behind it."""
        link = self.up()
        link.pauseProducing()
        self.send(1)
        self.peer.stop("leaving")
        [(kind, body)] = self.transport.take_frames()
        self.assertEqual((kind, Goodbye.decode(body).reason), (Goodbye.KIND, "leaving"))
        self.assertEqual((self.dropped(), self.peer.state), (1, PeerState.STOPPED))
        link.connectionLost()
        self.assertEqual((self.losses, self.metrics.count("peer_link_failed")), ([1], 0))
        self.peer.dial()
        self.assertFalse(self.send(1))
        self.assertEqual((len(self.reactor.tcpClients), self.peer.state), (1, PeerState.STOPPED))
        self.peer = self.make()
        self.peer.dial()
        connector = self.reactor.connectors[-1]
        self.peer.stop()
        self.assertTrue(connector._disconnected)

    def test_stop_while_waiting(self):
        """A stop ends the wait for the next dial, and a second stop changes nothing."""
        self.up().connectionLost()
        self.assertIs(self.peer.state, PeerState.WAITING)
        for _ in range(2):
            self.peer.stop()
            self.assertEqual((self.reactor.getDelayedCalls(), self.peer.state), ([], PeerState.STOPPED))
        self.reactor.advance(10)
        self.assertEqual(len(self.reactor.tcpClients), 1)
        idle = self.make()
        idle.stop()
        self.assertIs(idle.state, PeerState.STOPPED)

    def test_identity(self):
        """Only a node is dialled; whoever else answers is turned away with the reason."""
        self.peer.dial()
        link = self.connect()
        link.check_identity(Identity(subject="node:n2", expires_at=0.0, node="n2", cluster="c1"))
        error = self.assertRaises(
            IdentityError, link.check_identity, Identity(subject="root", expires_at=0.0)
        )
        self.assertEqual(str(error), "'root' is no node's certificate")
        said = []
        link.logger = SimpleNamespace(warn=lambda format, **fields: said.append((format, fields)))
        self.transport.take_calls()
        link.turn_away(error)
        self.assertEqual((link.problem, self.transport.take_calls()), (str(error), ["no producer", "lose"]))
        [(format, fields)] = said
        self.assertEqual(format, "dialled {peer}: {problem}")
        self.assertEqual(fields["lasting"], f"dialled 192.0.2.7: {error}")
        link.turn_away(ProtocolError("no"))
        self.assertNotIn("lasting", said[1][1])
        link.connectionLost()
        self.assertEqual(self.metrics.last("peer_link_failed"), ("n2", "no"))

    def test_tls(self):
        """With TLS the dial is wrapped as a client's, with the contexts, the clock and the turn's end."""
        made = []

        def factory(*args, **fields):
            made.append((args[:2], fields))
            return SimpleNamespace(startedConnecting=lambda connector: None)

        self.patch(peer_module, "BulkTlsFactory", factory)
        tls = object()
        self.make(tls=tls).dial()
        soon = made[0][1]["soon"]
        self.assertEqual(made, [((tls, True), {"clock": self.reactor, "soon": soon})])
        self.assertFalse(self.reactor.tcpClients[-1][2].noisy)
        soon(1)
        self.assertEqual(self.ends, [1])

    def test_groups_of_messages(self):
        """A message goes out as of its group, which for links is 0; Raft's as of the envelope's."""
        self.up()
        envelope = Envelope(
            group=7, source=1, target=2, message=RequestVote(term=1, last_log_index=2, last_log_term=1)
        )
        for send, kind, group in (
            (lambda: self.peer.send(SwimNack(sequence=1)), SwimNack.KIND, 0),
            (lambda: self.peer.send(SwimNack(sequence=1), group=5), SwimNack.KIND, 5),
            (lambda: self.peer.send_raft(envelope), RequestVote.KIND, 7),
        ):
            self.assertIs(send(), True)
            self.end_turn()
            _, found, _, found_group, _ = HEADER.unpack(self.transport.value()[:16])
            self.assertEqual((found, found_group), (kind, group))
            self.transport.clear()
        self.peer = self.make()
        self.up(capabilities=Capability(0))
        self.assertIs(self.peer.send_raft(envelope), False)
        self.assertIs(self.peer.send(SwimNack(sequence=1), group=1), True)

    def test_after_a_dial(self):
        """A stop behind the end of a connection ends nothing that is not there."""
        self.up().connectionLost()
        connector = self.reactor.connectors[-1]
        connector._disconnected = False
        self.peer.stop()
        self.assertFalse(connector._disconnected)

    def test_soon(self):
        """Without a shorter way the next turn of the reactor is the end of this one."""
        self.peer = self.make(soon=None)
        self.up()
        self.send(TURN_SIZE_MAX)
        self.assertFalse(self.send(1) is False)
        self.assertEqual(len(self.peer.queue), 1)
        self.reactor.advance(0)
        self.assertEqual(len(self.peer.queue), 0)

    def test_certified(self):
        """The peer's Hello is compared with its certificate, and with who was dialled."""
        made = []

        def session(hello, **fields):
            made.append((hello, fields))
            return SimpleNamespace(bytes_to_send=list, state=None, is_held=False, peer=None)

        self.patch(peer_module, "Session", session)
        self.peer.dial()
        link = self.connect()
        certified = object()
        link.greet(certified)
        expected = {"is_dialler": True, "certified": certified, "expected_node": "n2"}
        self.assertEqual(made[1:], [(self.own, expected)])


class QueueTests(SynchronousTestCase):
    """The bounds of what waits."""

    def test_defaults(self):
        """16 MiB, and 4096 frames."""
        queue = SendQueue()
        self.assertTrue(all(queue.put(VOTE, 1, (b"",)) for _ in range(PEER_QUEUE_MAX)))
        self.assertFalse(queue.put(VOTE, 1, (b"",)))
        self.assertEqual((len(queue), queue.clear(), len(queue)), (PEER_QUEUE_MAX, PEER_QUEUE_MAX, 0))
        self.assertTrue(queue.put(VOTE, 1, (bytes(PEER_QUEUE_SIZE_MAX - 1), b"x")))
        self.assertFalse(queue.put(VOTE, 1, (b"x",)))

    def test_sizes(self):
        """The size follows what is put, replaced and taken; bulk may be left where it is."""
        queue = SendQueue()
        for kind, size in ((BULK, 5), (BEAT, 3)):
            queue.put(kind, 1, (bytes(size), b"x"))
        self.assertEqual((queue.size, len(queue)), (10, 2))
        self.assertFalse(queue.replace(BEAT, 2, (b"",)))
        self.assertFalse(queue.replace(VOTE, 1, (b"",)))
        self.assertTrue(queue.replace(BEAT, 1, (bytes(7),)))
        self.assertEqual(queue.size, 13)
        self.assertEqual(queue.take(bulk_too=False), (bytes(7),))
        self.assertEqual((queue.size, queue.take(bulk_too=False)), (6, None))
        self.assertEqual(queue.take(), (bytes(5), b"x"))
        self.assertEqual((queue.size, queue.clear(), queue.take()), (0, 0, None))
