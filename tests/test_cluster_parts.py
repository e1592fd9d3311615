"""The parts of membership one by one: links by node and address, the search for a cluster, and twins."""

from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from loghouse.cluster import peers
from loghouse.cluster.discovery import ANSWER_SECONDS_MAX, JOIN_LOOKS_EAGER, LOOKS_SAID, Discovery
from loghouse.cluster.peers import AcceptedPeers, PeerSet
from loghouse.cluster.twins import APART_SECONDS, Twins
from loghouse.gossip.members import MemberKey
from loghouse.limits import PEER_ADDRESSES_MAX, TWINS_MAX
from loghouse.net.peer import PeerState
from loghouse.protocol.message import NO_UUID
from loghouse.protocol.session import LinkUp

A, B = MemberKey("a", b"A" * 16), MemberKey("b", b"B" * 16)
EMPTIED = MemberKey("a", b"E" * 16)  # has the name of A and another disk


def hello(key, cluster_uuid=NO_UUID):
    return SimpleNamespace(node_name=key.name, disk_uuid=key.disk_uuid, cluster_uuid=cluster_uuid)


class FakeLink:
    """A dialled link of which the test says what happens."""

    def __init__(self, context, host, port, expected_node, event_received, link_lost):
        self.context, self.address, self.expected_node = context, (host, port), expected_node
        self._event_received, self.lost = event_received, link_lost
        self.state = PeerState.IDLE
        self.dials, self.sent, self.stopped = 0, [], None

    def dial(self):
        self.dials += 1

    def send_raft(self, envelope):
        self.sent.append(envelope)
        return True

    def send(self, message, *, group=0):
        self.sent.append((message, group))
        return True

    def stop(self, reason=""):
        self.stopped = reason

    def up(self, key):
        """Come up: a node answers."""
        self.state = PeerState.UP
        event = LinkUp.__new__(LinkUp)
        object.__setattr__(event, "hello", hello(key))
        self._event_received(event)


class PeerSetTests(SynchronousTestCase):
    """Links to nodes, and to addresses whose nodes are not known."""

    def setUp(self):
        self.made, self.ups, self.lost = [], [], []

        def make(*args):
            self.made.append(FakeLink(*args))
            return self.made[-1]

        self.patch(peers, "PeerLink", make)
        self.clock = Clock()
        self.peers = PeerSet(
            lambda address, link, said: self.ups.append((address, link, said.node_name)),
            self.lost.append,
            self.clock.seconds,
        )
        self.peers.start("context")

    def test_one_link(self):
        """A node has one link for all that is sent to it, at the address where it is."""
        self.assertTrue(self.peers.send_raft(A, "h:1", "raft"))
        self.assertTrue(self.peers.send(A, "h:1", "message", group=7))
        self.assertTrue(self.peers.send(A, "h:1", "other"))
        [link] = self.made
        self.assertEqual((link.context, link.address, link.expected_node), ("context", ("h", 1), "a"))
        self.assertEqual(link.sent, ["raft", ("message", 7), ("other", 0)])
        self.assertTrue(self.peers.send(B, "h:2", "message"))
        self.assertEqual(len(self.made), 2)

    def test_moved(self):
        """A node that moved is tried at both addresses until one answers; the other is given up later."""
        self.peers.send(A, "h:1", "x")
        self.peers.send(A, "h:2", "y")
        old, new = self.made
        self.assertEqual((old.address, old.sent), (("h", 1), [("x", 0)]))
        self.assertEqual((new.address, new.sent), (("h", 2), [("y", 0)]))
        new.up(A)
        self.peers.send(A, "h:1", "z")
        self.assertEqual((new.sent[1:], old.dials, old.stopped), ([("z", 0)], 1, None))
        self.clock.advance(peers.UNASKED_SECONDS_MAX)
        self.peers.send(A, "h:2", "u")
        self.assertIsNone(old.stopped)
        self.clock.advance(0.001)
        self.peers.send(A, "h:2", "v")
        self.assertEqual((old.stopped, new.stopped, new.sent[2:]), ("you moved", None, [("u", 0), ("v", 0)]))
        self.assertEqual(self.peers.links(), [("a", new)])

    def test_hearsay(self):
        """An address that was only heard of cuts no link: only pings go there, until the node answers."""
        self.peers.send_raft(A, "h:1", "raft 1")
        [true] = self.made
        true.up(A)
        for _ in range(2):
            self.assertTrue(self.peers.send_raft(A, "evil:1", "raft 2"))
            self.assertTrue(self.peers.send_to(A, "evil:1", "ping there"))
            self.assertTrue(self.peers.send_to(A, "h:1", "ping here"))
            self.clock.advance(peers.UNASKED_SECONDS_MAX + 1)
        _, evil = self.made
        self.assertEqual(true.sent, ["raft 1", "raft 2", ("ping here", 0), "raft 2", ("ping here", 0)])
        self.assertEqual((evil.sent, evil.dials), ([("ping there", 0)] * 2, 2))
        self.assertEqual((true.stopped, evil.stopped), (None, None))
        self.assertEqual((self.peers.hello_of(A).node_name, self.peers.links()), ("a", [("a", true)]))
        evil.up(B)  # and not the one that it was said to be
        self.assertFalse(self.peers.send_to(A, "evil:1", "ping there"))
        self.peers.keep(set())
        self.assertEqual((true.stopped, evil.stopped), ("no longer of this cluster",) * 2)

    def test_many_addresses(self):
        """A node is tried at two addresses at most, and never given up where it answers."""
        for number in range(20):
            self.peers.send_to(A, f"h:{number + 1}", "ping")
            self.clock.advance(1)
            if number == 0:
                self.made[0].up(A)
        there = [link.address[1] for link in self.made if link.stopped is None]
        self.assertEqual(there, [1, 20])
        self.assertEqual(len(there), PEER_ADDRESSES_MAX)
        self.made[0].state = PeerState.WAITING  # it answers nowhere: the one that was asked longest ago goes
        self.peers.send_to(A, "h:21", "ping")
        self.assertEqual([link.address[1] for link in self.made if link.stopped is None], [20, 21])

    def test_another_disk_answers(self):
        """Nothing meant for a node goes to another disk under its name, while it is known to answer there."""
        self.peers.send(A, "h:1", "x")
        [link] = self.made
        link.up(EMPTIED)
        self.assertFalse(self.peers.send(A, "h:1", "y"))
        self.assertFalse(self.peers.send_raft(A, "h:1", "y"))
        self.assertEqual(link.sent, [("x", 0)])
        self.assertIsNone(self.peers.hello_of(A))
        link.state = PeerState.WAITING  # who answers next is not known
        self.assertTrue(self.peers.send(A, "h:1", "z"))

    def test_hellos(self):
        """What a node said counts while its link is up."""
        self.assertIsNone(self.peers.hello_of(A))
        self.peers.send(A, "h:1", "x")
        [link] = self.made
        self.assertIsNone(self.peers.hello_of(A))
        link.up(A)
        self.assertEqual(self.peers.hello_of(A).node_name, "a")
        self.assertEqual(self.ups, [("h:1", link, "a")])
        link.state = PeerState.DIALLING
        self.assertIsNone(self.peers.hello_of(A))
        link.lost()
        link.lost()
        self.assertEqual(self.lost, [A])

    def test_seeds(self):
        """An address is dialled once; its link becomes that of who answers, for both ways of sending."""
        seed = self.peers.seed("h:1")
        self.assertIs(self.peers.seed("h:1"), seed)
        self.assertEqual((seed.dials, seed.expected_node), (2, ""))
        self.assertTrue(self.peers.send_to_seed("h:1", "x"))
        seed.up(A)
        self.assertEqual(seed.expected_node, "a")
        self.assertTrue(self.peers.send(A, "h:1", "y"))
        self.assertTrue(self.peers.send_to_seed("h:1", "z"))
        self.assertEqual(seed.sent, [("x", 0), ("y", 0), ("z", 0)])
        self.assertEqual(self.made, [seed])

    def test_seed_of_a_known_node(self):
        """A node that has a link keeps it, wherever else it answers."""
        self.peers.send(A, "h:1", "x")
        seed = self.peers.seed("h:2")
        seed.up(A)
        self.peers.send(A, "h:1", "y")
        self.assertEqual(self.made[0].sent, [("x", 0), ("y", 0)])
        self.assertIs(self.peers.seed("h:2"), seed)

    def test_fresh_seed(self):
        """An address is dialled anew by another link; what the old one hears then changes nothing."""
        old = self.peers.seed("h:1")
        new = self.peers.fresh_seed("h:1")
        self.assertIsNot(new, old)
        self.assertEqual(new.dials, 1)
        old.up(A)
        self.assertIs(self.peers.seed("h:1"), new)

    def test_keep(self):
        """Only these nodes keep their links; seeds are no nodes."""
        self.peers.send(A, "h:1", "x")
        self.peers.send(B, "h:2", "x")
        seed = self.peers.seed("h:3")
        self.peers.keep({B})
        self.assertEqual([link.stopped for link in self.made], ["no longer of this cluster", None, None])
        self.peers.send(A, "h:1", "again")
        self.assertEqual(len(self.made), 4)
        self.peers.stop("bye")
        self.assertEqual([link.stopped for link in self.made[1:]], ["bye"] * 3)
        self.assertIsNot(self.peers.seed("h:3"), seed)


class AcceptedTests(SynchronousTestCase):
    """Links that others dialled."""

    def setUp(self):
        self.lost, self.said = [], []
        self.peers = AcceptedPeers(
            admit=self.said.append,
            event_received=lambda link, event: self.said.append((link, event)),
            link_lost=self.lost.append,
        )

    def link(self, key):
        class Link(SimpleNamespace):
            __hash__ = object.__hash__

            def close(self):
                self.closed += 1
                self.peers.link_lost(self)

        made = Link(session=SimpleNamespace(peer=hello(key)), closed=0, peers=self.peers)
        self.peers.link_up(made)
        return made

    def test_last_link(self):
        """A node is lost with its last link, once."""
        first, second = self.link(A), self.link(A)
        self.peers.link_lost(first)
        self.assertEqual(self.lost, [])
        self.peers.link_lost(second)
        self.peers.link_lost(second)
        self.assertEqual(self.lost, [A])

    def test_close(self):
        """All links of a name are cut, whatever the disk, and no others."""
        links = [self.link(A), self.link(A), self.link(EMPTIED), self.link(B)]
        self.peers.close("a")
        self.assertEqual([link.closed for link in links], [1, 1, 1, 0])
        self.assertEqual(set(self.lost), {A, EMPTIED})

    def test_passed_on(self):
        """Who may come in, and what is said, others decide."""
        link = self.link(A)
        self.peers.admit("hello")
        self.peers.event_received(link, "event")
        self.assertEqual(self.said, ["hello", (link, "event")])


class DiscoveryTests(SynchronousTestCase):
    """A node without a cluster, and two addresses in `join`."""

    def setUp(self):
        self.clock, self.links, self.found, self.told = Clock(), [], [], []
        self.clock.advance(1000.0)
        self.patch(Discovery, "logger", Logger(observer=self.told.append))

    def discovery(self, *seeds, bootstrap=True):
        def dial(address):
            stops = []
            link = SimpleNamespace(address=address, state=PeerState.DIALLING, stops=stops, stop=stops.append)
            self.links.append(link)
            return link

        return Discovery(
            "c", seeds, bootstrap=bootstrap, clock=self.clock, dial=dial, found=self.found.append
        )

    def answer(self, discovery, link, key=A, uuid=NO_UUID):
        link.state = PeerState.UP
        discovery.answered(link, hello(key, uuid))

    def test_all_belong_to_none(self):
        """Once all answered lately that they belong to none, the node that bootstraps makes a cluster."""
        discovery = self.discovery("h:1", "h:2")
        discovery.look()
        self.assertEqual([link.address for link in self.links], ["h:1", "h:2"])
        self.answer(discovery, self.links[0])
        discovery.look()
        self.assertEqual(self.found, [])
        self.assertEqual((self.links[0].stops, self.links[1].stops), (["asking again"], []))
        self.answer(discovery, self.links[1])
        self.clock.advance(ANSWER_SECONDS_MAX - 0.001)
        discovery.look()
        self.assertEqual(self.found, [None])

    def test_old_answers(self):
        """An answer counts for some seconds only."""
        discovery = self.discovery("h:1")
        discovery.look()
        self.answer(discovery, self.links[0])
        self.clock.advance(ANSWER_SECONDS_MAX)
        discovery.look()
        self.assertEqual(self.found, [])
        self.answer(discovery, self.links[0])  # of the link before: nobody asks there any more
        discovery.look()
        self.assertEqual(self.found, [])
        self.answer(discovery, self.links[1])
        discovery.look()
        self.assertEqual(self.found, [None])

    def test_may_not_bootstrap(self):
        """Who does not bootstrap waits, and says for whom."""
        discovery = self.discovery("h:1", bootstrap=False)
        discovery.look()
        self.answer(discovery, self.links[0])
        discovery.look()
        self.assertEqual(self.found, [])
        self.assertEqual([event["silent"] for event in self.told], ["h:1"])

    def test_cluster(self):
        """One that belongs to a cluster settles it, whatever the others say."""
        discovery = self.discovery("h:1", "h:2")
        discovery.look()
        self.answer(discovery, self.links[1], uuid=b"u" * 16)
        self.assertEqual(self.found, [b"u" * 16])

    def test_how_often(self):
        """It asks at each of the first looks, then at every fourth; a link that is not up is waited for."""
        discovery, asked = self.discovery("h:1"), []
        for number in range(1, 4 * JOIN_LOOKS_EAGER + 1):
            count = len(self.links)
            discovery.look()
            if len(self.links) > count:
                asked.append(number)
            self.links[-1].state = PeerState.UP
        self.assertEqual(asked, [1, 2, 3, 4, 8, 12, 16])
        self.links[-1].state = PeerState.WAITING
        count = len(self.links)
        for _ in range(3 * JOIN_LOOKS_EAGER):
            discovery.look()
        self.assertEqual(len(self.links), count)

    def test_what_is_said(self):
        """Who is waited for is said at first, when it changes (at each tenth look), and once an hour."""
        discovery = self.discovery("h:2", "h:1")
        said = []
        for number in range(LOOKS_SAID + 1):
            self.told.clear()
            while discovery._looks == number:
                discovery.look()
            if number == 11:
                self.answer(discovery, self.links[-1])
                self.clock.advance(0.0)
            if self.told:
                said.append((number, self.told[0]["silent"]))
        self.assertEqual(said, [(0, "h:1, h:2"), (20, "h:2"), (LOOKS_SAID, "h:2")])


class TwinTests(SynchronousTestCase):
    """Two disks of one name."""

    def test_heard_beside(self):
        """A stranger is a twin once the member was heard a second after it came, not before."""
        twins = Twins()
        self.assertEqual(twins.look([A], [EMPTIED, B], 10.0), [])
        twins.heard(A, 10.0 + APART_SECONDS - 0.001)
        self.assertEqual(twins.look([A], [EMPTIED], 12.0), [])
        self.assertNotIn(EMPTIED, twins)
        twins.heard(A, 10.0 + APART_SECONDS)
        self.assertEqual(twins.look([A], [EMPTIED], 12.0), [EMPTIED])
        self.assertIn(EMPTIED, twins)
        self.assertEqual(twins.look([A], [EMPTIED], 13.0), [])  # told once

    def test_gone_between(self):
        """A stranger that went and came back is looked at from then on; a known twin stays one."""
        twins = Twins()
        twins.look([A], [EMPTIED], 10.0)
        twins.look([A], [], 11.0)
        twins.heard(A, 12.0)
        self.assertEqual(twins.look([A], [EMPTIED], 12.0), [])
        twins.heard(A, 13.0)
        self.assertEqual(twins.look([A], [EMPTIED], 13.0), [EMPTIED])
        twins.look([A], [], 14.0)
        self.assertIn(EMPTIED, twins)

    def test_forgotten(self):
        """It is none any more when it is a member itself, or nobody has that name."""
        for members in ([EMPTIED], [B], []):
            twins = Twins()
            twins.look([A], [EMPTIED], 10.0)
            twins.heard(A, 20.0)
            twins.look([A], [EMPTIED], 20.0)
            self.assertIn(EMPTIED, twins)
            twins.look(members, [], 21.0)
            self.assertNotIn(EMPTIED, twins)

    def test_member_that_left(self):
        """What was heard of a member that left does not count when it is one again."""
        twins = Twins()
        twins.heard(A, 99.0)
        twins.look([], [], 99.0)
        self.assertEqual(twins.look([A], [EMPTIED], 10.0), [])

    def test_bound(self):
        """However many there are, so many are remembered."""
        twins = Twins()
        many = [MemberKey("a", bytes([number // 256, number % 256]) * 8) for number in range(TWINS_MAX + 5)]
        twins.look([A], many, 10.0)
        twins.heard(A, 20.0)
        self.assertEqual(len(twins.look([A], many, 20.0)), TWINS_MAX + 5)
        self.assertEqual(sum(twin in twins for twin in many), TWINS_MAX)
