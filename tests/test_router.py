"""Which frame goes to whom: members by id and by name, and what of the frames that come in is taken."""

from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.cluster.roster import Roster
from loghouse.cluster.router import Router
from loghouse.cluster.twins import Twins
from loghouse.errors import DamageError, IdentityError
from loghouse.gossip.members import MemberKey
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.forward_messages import ForwardReply
from loghouse.protocol.framing import Frame
from loghouse.protocol.raft_messages import Envelope, Heartbeat, envelope_to_wire
from loghouse.protocol.roster_messages import RosterReply, RosterRequest
from loghouse.protocol.session import MessageReceived, RaftFrameReceived

FORWARDED = ForwardReply(request_id=1, base_offset=0, record_count=1, timestamp=1, index=1, term=1)
HEARTBEAT = Heartbeat(term=1, commit_index=0, read_round=1)
A, B, C = (MemberKey(name, name.encode() * 16) for name in "abc")


def configuration(*keys):
    made = Configuration()
    for key in keys:
        made = made.with_member(key.name, key.disk_uuid, MemberRole.VOTER)
    return made


class FakeNode:
    """Member 1 of a group that member 2 leads; notes what it is given."""

    name, disk_uuid = A
    seed = 0
    member_id, leader_id = 1, 2
    configuration_index = 7

    def __init__(self, members):
        self.configuration = members
        self.committed = members
        self.received = []
        self.refusal = None
        self.membership = self
        self.group = 1
        self.logs = {1: self}
        self.messages = []

    @property
    def settled(self):
        if self.committed is None:
            raise DamageError("file", 0, "damaged")
        return self.committed, self.configuration_index

    def receive(self, envelope, *, is_member):
        if self.refusal is not None:
            raise self.refusal
        self.received.append((envelope.source, is_member))

    def message_received(self, source, message, group):
        self.messages.append((source, message, group))


class FakePeers:
    """Dialled links that note what is sent to whom; up are those in `hellos`."""

    def __init__(self):
        self.sent = []
        self.hellos = {}

    def send_raft(self, key, address, envelope):
        self.sent.append((key, address))
        return True

    def send(self, key, address, message, *, group=0):
        self.sent.append((key, type(message), group) if group else (key, type(message)))
        return True

    def hello_of(self, key):
        return self.hellos.get(key)


class RouterCase(SynchronousTestCase):
    """A router of node a, whose owner is the test."""

    def setUp(self):
        self.node = FakeNode(configuration(A, B))
        self.peers = FakePeers()
        self.addresses = {B: "b:1", C: "c:1"}
        self.looked_up = 0
        self.router = Router(
            self.node, self.peers, roster=Roster(), twins=Twins(), owner=self, now=lambda: 10.0
        )
        self.router.look()
        self.router.is_open = True

    def find_address(self, key):
        self.looked_up += 1
        return self.addresses.get(key, "")

    def configuration_changed(self):
        self.router.look()

    def known_changed(self):
        pass

    def send_to(self, target):
        self.peers.sent.clear()
        self.router.send_raft(Envelope(group=1, source=1, target=target, message=HEARTBEAT))
        return self.peers.sent

    def receive(self, key, event):
        """Let a node say something; returns why its link was broken, if it was."""
        problems = []
        peer = SimpleNamespace(node_name=key.name, disk_uuid=key.disk_uuid)
        link = SimpleNamespace(session=SimpleNamespace(peer=peer), break_off=problems.append)
        self.router.event_received(link, event)
        return problems

    def hear(self, key, source, *, group=1):
        envelope = Envelope(group=group, source=source, target=1, message=HEARTBEAT)
        kind, group, body = envelope_to_wire(envelope)
        frame = Frame(kind=kind, flags=0, group=group, stream=0, body=b"".join(body))
        return self.receive(key, RaftFrameReceived(frame=frame))


class OutTests(RouterCase):
    """What leaves goes to the node that is the member, or nowhere."""

    def test_members(self):
        """A member is sent to at its address, which gossip is asked for once."""
        self.assertEqual(self.send_to(2), [(B, "b:1")])
        self.assertEqual(self.send_to(2), [(B, "b:1")])
        self.assertEqual(self.looked_up, 1)
        self.router.forget_addresses()
        self.send_to(2)
        self.assertEqual(self.looked_up, 2)

    def test_dropped(self):
        """What is for nobody that is known, or for somebody at no known address, is dropped."""
        self.assertEqual(self.send_to(9), [])
        del self.addresses[B]
        self.assertEqual(self.send_to(2), [])
        self.assertFalse(self.router.send("b", FORWARDED, 1))
        self.addresses[None] = "z:1"
        self.assertIs(self.router.send("z", FORWARDED, 1), False)
        self.assertEqual(self.peers.sent, [])

    def test_who_is_a_member(self):
        """A follower goes by the committed configuration, a leader by its latest; else by who spoke."""
        self.node.configuration = configuration(A, C)
        self.assertEqual(self.send_to(2), [(B, "b:1")])
        self.node.leader_id = 1
        self.assertEqual(self.send_to(2), [(C, "c:1")])
        self.router.group.speakers[5] = B
        self.assertEqual(self.send_to(5), [(B, "b:1")])

    def test_groups(self):
        """A message says of which log it is, and nothing is said of a log that this node does not have."""
        self.assertTrue(self.router.send("b", FORWARDED, 7))
        self.assertEqual(self.peers.sent, [(B, ForwardReply, 7)])
        self.peers.sent.clear()
        self.router.send_raft(Envelope(group=7, source=1, target=2, message=HEARTBEAT))
        self.assertEqual(self.peers.sent, [])

    def test_damage(self):
        """While the committed configuration cannot be read, the one known before counts."""
        self.node.configuration, self.node.committed = configuration(A, C), None
        self.assertFalse(self.router.look())
        self.assertEqual(self.send_to(2), [(B, "b:1")])

    def test_two_of_a_name(self):
        """Of a voter and the node that is to replace it, the one that is there is meant by the name."""
        emptied = MemberKey("b", b"new disk".ljust(16))
        self.node.configuration = self.node.configuration.with_member(*emptied, MemberRole.LEARNER)
        self.assertEqual(self.router.key_of("b"), emptied)
        self.peers.hellos[B] = object()
        self.assertEqual(self.router.key_of("b"), B)


class InTests(RouterCase):
    """What comes in is taken from whoever may send it."""

    def test_members(self):
        """A member's frame reaches the group, as that of a member."""
        self.assertEqual(self.hear(B, 2), [])
        self.assertEqual(self.node.received, [(2, True)])

    def test_another_group(self):
        """A frame of another group touches no log of this node, and its link stays: it may be ours soon."""
        self.assertEqual((self.hear(B, 2, group=7), self.node.received), ([], []))
        self.assertEqual((self.hear(B, 9, group=7), self.node.received), ([], []))

    def test_groups(self):
        """A message is passed on with its group; from nodes of before many logs it is the default log's."""
        for said, meant in ((0, 1), (1, 1), (7, 7)):
            self.receive(B, MessageReceived(group=said, stream=0, message=FORWARDED))
            self.assertEqual(self.node.messages.pop(), ("b", FORWARDED, meant))

    def test_closed(self):
        """Before this node takes part in a cluster, and after it stopped, nothing is taken."""
        self.router.is_open = False
        self.assertEqual((self.hear(B, 2), self.node.received), ([], []))

    def test_another_id(self):
        """Who speaks as another member is cut off."""
        (problem,) = self.hear(B, 1)
        self.assertEqual(str(problem), "node 'b' spoke as member 1 ('a')")
        self.assertEqual(self.node.received, [])

    def test_strangers(self):
        """A stranger is not heard: members are asked about it, and it is cut off when they do not know it."""
        self.assertEqual((self.hear(C, 3), self.node.received), ([], []))
        self.assertEqual(self.peers.sent, [(B, RosterRequest)])
        self.receive(
            B, MessageReceived(group=0, stream=0, message=RosterReply(request_id=1, index=7, members=()))
        )
        (problem,) = self.hear(C, 3)
        self.assertIsInstance(problem, IdentityError)

    def test_new_configuration(self):
        """A configuration that came since the last look counts for the next frame."""
        self.node.configuration = self.node.committed = configuration(A, B, C)
        self.assertEqual((self.hear(C, 3), self.node.received), ([], [(3, True)]))

    def test_contradiction(self):
        """Who contradicts what is committed here is cut off."""
        self.node.refusal = IdentityError("contradicts")
        self.assertEqual(self.hear(B, 2), [self.node.refusal])

    def test_roster(self):
        """Any node is told who is a member, at its address."""
        self.receive(C, MessageReceived(group=0, stream=0, message=RosterRequest(request_id=1)))
        self.assertEqual(self.peers.sent, [(C, RosterReply)])
