"""Tests of peer links: dialling, refusal, back-off, what overtakes what, what is dropped."""

from dataclasses import replace

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import IdentityError
from loghouse.limits import MIB
from loghouse.net.accept import own_hello
from loghouse.net.link import LinkTimes
from loghouse.net.peer import TURN_SIZE_MAX, PeerState, SendQueue
from loghouse.protocol.codec import decode_envelope, encode_envelope
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.forward_messages import ForwardReply
from loghouse.protocol.gossip_messages import SwimNack
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.message import NO_UUID
from loghouse.protocol.raft_messages import AppendEntries, Envelope, Heartbeat, RequestVote
from loghouse.protocol.session import MessageReceived, RaftFrameReceived
from tests.fakes.secured import node_certificate
from tests.net import wire
from tests.net.wire import WireCase, asynchronous, until
from tests.raft.group import SEED, entry

FORWARDED = ForwardReply(request_id=1, base_offset=0, record_count=1, timestamp=1, index=1, term=1)


def envelope(message):
    return Envelope(group=1, source=2, target=1, message=message)


def append(size, index=1):
    sent = entry(index, 1, EntryKind.RECORDS, payload=bytes(size), record_count=1)
    message = AppendEntries(
        term=1, prev_log_index=index - 1, prev_log_term=index > 1, commit_index=0, entries=(sent,)
    )
    return envelope(message)


class FakePeers:
    """A cluster that notes what it is told."""

    def __init__(self):
        self.links = []
        self.events = []
        self.lost = 0
        self.refused = set()

    def admit(self, hello):
        if hello.node_name in self.refused:
            raise IdentityError(f"{hello.node_name} was removed from this cluster")

    def link_up(self, link):
        self.links.append(link)

    def event_received(self, link, event):
        self.events.append((link.session.peer.node_name, event))

    def link_lost(self, link):
        self.lost += 1

    def messages(self):
        """Return the messages that arrived, without Raft's."""
        return [event.message for _, event in self.events if isinstance(event, MessageReceived)]


class PeerCase(WireCase):
    """A port with a cluster behind it."""

    def setUp(self):
        super().setUp()
        self.peers = FakePeers()

    async def begin(self):
        self.open_port()

    async def up(self, link):
        link.dial()
        await until(lambda: link.state is PeerState.UP)

    async def failed(self, link):
        """Wait until a link failed; return why."""
        metrics = self.recorded[link]
        await until(lambda: metrics.count("peer_link_failed") > 0)
        return metrics.last("peer_link_failed")[1]

    def dropped(self, link):
        """Return how many frames of a link were lost before they left."""
        events = self.recorded[link].events
        return sum(event[2] for event in events if event[0] == "frames_dropped")


class LinkTests(PeerCase):
    """A link between two nodes over real TLS."""

    @asynchronous
    async def test_messages_arrive(self):
        """Raft and gossip arrive in order, with the name of the certificate they came by."""
        link = self.peer()
        await self.up(link)
        self.assertTrue(link.send_raft(append(100_000)))
        self.assertTrue(link.send(SwimNack(sequence=7)))
        await until(lambda: len(self.peers.events) == 2)
        (name, raft), (_, gossip) = self.peers.events
        self.assertEqual(name, "n2")
        self.assertIsInstance(raft, RaftFrameReceived)
        received = decode_envelope(raft.frame, SEED)
        self.assertEqual((received.source, received.target), (2, 1))
        self.assertEqual(len(received.message.entries[0].payload), 100_000)
        self.assertEqual(gossip, MessageReceived(message=SwimNack(sequence=7), group=0, stream=0))

    @asynchronous
    async def test_groups(self):
        """Frames of further groups go only to a node that says it looks at the group of a frame."""
        link = self.peer()
        await self.up(link)
        self.assertTrue(link.send(FORWARDED, group=7))
        await until(lambda: self.peers.events)
        [(_, event)] = self.peers.events
        self.assertEqual((event.message, event.group), (FORWARDED, 7))

    @asynchronous
    async def test_no_groups(self):
        """A node of before many logs, which looks at no group, gets only what is of the default log."""
        self.patch(wire, "own_hello", lambda *what: lambda: replace(own_hello(*what)(), capabilities=0))
        await self.close_port()
        self.open_port()
        link = self.peer()
        await self.up(link)
        self.assertFalse(link.send(FORWARDED, group=2))
        self.assertFalse(link.send_raft(replace(append(1), group=2)))
        self.assertEqual(self.dropped(link), 2)
        self.assertTrue(link.send(FORWARDED, group=1))
        self.assertTrue(link.send_raft(append(1)))
        await until(lambda: len(self.peers.events) == 2)

    @asynchronous
    async def test_bulk_takes_turns(self):
        """Bulk goes a share at a time, though the socket would take more, and control in between."""
        link = self.peer()
        await self.up(link)
        await until(lambda: not link._is_turn_ending)
        for index in (1, 2, 3):
            self.assertTrue(link.send_raft(append(TURN_SIZE_MAX, index)))
        self.assertEqual(len(link.queue), 2)
        self.assertTrue(link.send(SwimNack(sequence=7)))
        self.assertEqual(len(link.queue), 2)
        await until(lambda: len(self.peers.events) == 4)
        kinds = [type(event) for _, event in self.peers.events]
        self.assertEqual(kinds, [RaftFrameReceived, MessageReceived, RaftFrameReceived, RaftFrameReceived])
        frames = [event.frame for _, event in self.peers.events if isinstance(event, RaftFrameReceived)]
        entries = [decode_envelope(frame, SEED).message.entries[0] for frame in frames]
        self.assertEqual([entry.index for entry in entries], [1, 2, 3])

    @asynchronous
    async def test_wrong_node_answers(self):
        """Row 13: another valid node at the dialled address is refused by the dialler."""
        link = self.peer(expected="n7")
        link.dial()
        self.assertIn("n7", await self.failed(link))
        self.assertEqual(self.recorded[link].count("peer_link_up"), 0)

    @asynchronous
    async def test_client_certificate_as_node(self):
        """A node certificate of another name, and of another cluster, never comes up; the reason is known."""
        for issued in (node_certificate("n3"), node_certificate("n2", "c2")):
            link = self.peer(issued=issued)
            link.dial()
            self.assertIn("certificate", await self.failed(link))
        self.assertEqual(self.peers.links, [])

    @asynchronous
    async def test_removed_member(self):
        """Row 14: a member that was removed is refused although its certificate is valid."""
        self.peers.refused.add("n2")
        link = self.peer()
        link.dial()
        self.assertIn("removed", await self.failed(link))

    @asynchronous
    async def test_joiner_is_restricted(self):
        """A node without a uuid learns the cluster's, and is no peer."""
        events = []
        link = self.peer(cluster_uuid=NO_UUID, events=events)
        await self.up(link)
        self.assertTrue(events[0].agreement.is_restricted)
        self.assertEqual(events[0].hello.cluster_uuid, self.node.cluster_uuid)
        self.assertEqual(self.peers.links, [])

    @asynchronous
    async def test_comes_back(self):
        """A link that breaks is told of and dialled again after a delay; what is sent then is dropped."""
        lost = []
        link = self.peer(link_lost=lambda: lost.append(link.state))
        await self.up(link)
        self.listener.abort_all()
        await until(lambda: link.state is PeerState.WAITING)
        self.assertFalse(link.send(SwimNack(sequence=1)))
        await until(lambda: self.recorded[link].count("peer_link_up") == 2)
        self.assertEqual((self.peers.lost, self.dropped(link)), (1, 1))
        self.assertEqual(lost, [PeerState.WAITING])

    @asynchronous
    async def test_idle_link_closes(self):
        """A link with nothing to say closes, and the next message dials again."""
        link = self.peer(idle_seconds_max=0.5)
        await self.up(link)
        await until(lambda: link.state is PeerState.IDLE)
        self.assertEqual(self.recorded[link].count("peer_link_failed"), 0)
        self.assertFalse(link.send(SwimNack(sequence=1)))
        await until(lambda: link.state is PeerState.UP)

    @asynchronous
    async def test_link_from_before_joining(self):
        """A link made while one end had no cluster carries nothing, and is made anew by the next message."""
        hello = Hello(
            role=LinkRole.NODE,
            cluster_name="c1",
            cluster_uuid=NO_UUID,
            node_name="n2",
            disk_uuid=b"2" * 16,
        )
        link = self.peer(hello=hello)
        await self.up(link)
        self.assertFalse(link.send(SwimNack(sequence=1)))
        await until(lambda: link.state is PeerState.IDLE)
        self.assertEqual(self.recorded[link].count("peer_link_failed"), 0)
        link._context = replace(
            link._context, hello=lambda: replace(hello, cluster_uuid=self.node.cluster_uuid)
        )
        self.assertFalse(link.send(SwimNack(sequence=2)))
        await until(lambda: link.state is PeerState.UP)
        self.assertTrue(link.send(SwimNack(sequence=3)))
        arrived = self.peers.messages
        await until(arrived)
        self.assertEqual(arrived(), [SwimNack(sequence=3)])

    @asynchronous
    async def test_connections_of_one_node(self):
        """A node may have few links at a time."""
        for _ in range(4):
            await self.up(self.peer())
        fifth = self.peer()
        fifth.dial()
        self.assertIn("its share of 4", await self.failed(fifth))

    @asynchronous
    async def test_slow_peer(self):
        """To a peer that does not read little is kept; control frames go before the bulk that waits."""
        link = self.peer()
        await self.up(link)
        accepted = self.peers.links[0]
        accepted.transport.pauseProducing()
        taken = 0
        while link.send_raft(append(MIB)):
            taken += 1
        self.assertLessEqual(link.queue.size, 16 * MIB)
        self.assertEqual(self.dropped(link), 1)
        self.assertTrue(link.send_raft(envelope(RequestVote(term=9, last_log_index=1, last_log_term=1))))
        waiting = len(link.queue)
        accepted.transport.resumeProducing()
        await until(lambda: len(link.queue) == 0)
        await until(lambda: len(self.peers.events) == taken + 1)
        kinds = [event.frame.kind for _, event in self.peers.events]
        self.assertLess(kinds.index(RequestVote.KIND), len(kinds) - waiting + 1)


class BackOffTests(PeerCase):
    """Dialling what is not there."""

    @asynchronous
    async def test_nobody_there(self):
        """Failures are counted with their reason, with growing delays between them."""
        await self.close_port()
        link = self.peer()
        link.dial()
        metrics = self.recorded[link]
        await until(lambda: metrics.count("peer_link_failed") >= 3)
        self.assertIn("refused", metrics.last("peer_link_failed")[1].lower())
        self.assertLess(metrics.count("peer_dialled", "n1"), 10)

    @asynchronous
    async def test_silent_server(self):
        """A server that accepts and says nothing is given up at the deadline."""

        class Silent(Protocol):
            pass

        port = reactor.listenTCP(0, Factory.forProtocol(Silent), interface="127.0.0.1")
        self.closers.append(lambda: maybeDeferred(port.stopListening))
        link = self.peer(port=port.getHost().port, times=LinkTimes(greeting=0.5, close_max=0.5))
        link.dial()
        self.assertIn("no Hello", await self.failed(link))


class QueueTests(SynchronousTestCase):
    """`SendQueue` is bounded and knows what is urgent."""

    def frame(self, message):
        return encode_envelope(envelope(message))

    def test_control_first(self):
        """Control frames overtake bulk ones, each kind in its own order."""
        queue = SendQueue()
        bulk = encode_envelope(append(10))
        beat = self.frame(Heartbeat(term=1, commit_index=1))
        queue.put(AppendEntries.KIND, 1, bulk)
        queue.put(Heartbeat.KIND, 1, beat)
        self.assertEqual([queue.take(), queue.take(), queue.take()], [beat, bulk, None])
        self.assertEqual(queue.size, 0)

    def test_bounds(self):
        """Bytes and messages are bounded; what does not fit is refused."""
        frame = self.frame(Heartbeat(term=1, commit_index=1))
        size = sum(map(len, frame))
        by_size = SendQueue(size_max=2 * size)
        by_count = SendQueue(count_max=2)
        for queue in (by_size, by_count):
            taken = [queue.put(Heartbeat.KIND, group, frame) for group in range(3)]
            self.assertEqual(taken, [True, True, False])
        self.assertEqual(by_size.clear(), 2)
        self.assertEqual((by_size.size, len(by_size)), (0, 0))

    def test_newer_heartbeat(self):
        """A newer heartbeat takes the place of the waiting one of its group."""
        queue = SendQueue()
        old, new = (self.frame(Heartbeat(term=1, commit_index=index)) for index in (1, 2))
        self.assertFalse(queue.replace(Heartbeat.KIND, 1, old))
        queue.put(Heartbeat.KIND, 1, old)
        queue.put(Heartbeat.KIND, 2, old)
        self.assertTrue(queue.replace(Heartbeat.KIND, 1, new))
        self.assertEqual([queue.take(), queue.take(), queue.take()], [new, old, None])
