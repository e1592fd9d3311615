"""What a node knows of logs elsewhere, by itself: whom its news reach, and who is told of another leader."""

from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import UnavailableError
from loghouse.metrics import Metrics
from loghouse.node.elsewhere import Elsewhere
from loghouse.protocol.forward_messages import ForwardReply
from loghouse.protocol.message import RequestIds
from loghouse.protocol.routing_messages import Lead, Leads


def group_of(*names):
    return SimpleNamespace(members=[SimpleNamespace(name=name, disk_uuid=name) for name in names])


def log(group, names, *, leader=0, term=3):
    """A log of these nodes, of which this one is the first; 0: it has no copy of it."""
    raft = SimpleNamespace(id=1, leader=leader, term=term)
    driver = SimpleNamespace(raft=raft) if leader else None
    return SimpleNamespace(group=group, configuration=group_of(*names), driver=driver)


class ElsewhereTests(SynchronousTestCase):
    """Node n1 of a cluster of three."""

    def setUp(self):
        self.sent, self.told, self.later = [], [], []
        everybody = log(1, ("n1", "n2", "n3"), leader=1)
        self.node = SimpleNamespace(
            name="n1",
            transport=SimpleNamespace(send=lambda *words: self.sent.append(words) or True),
            forwarder=SimpleNamespace(leader_changed=lambda *words: self.told.append(words)),
            membership=everybody,
            logs={1: everybody, 16: log(16, ("n1", "n2"), leader=1), 17: log(17, ("n1", "n3"), leader=2)},
        )
        self.clock = Clock()
        self.elsewhere = Elsewhere(
            self.node, clock=self.clock, soon=self.later.append, ids=RequestIds(1), metrics=Metrics()
        )

    def heard(self, source, *groups, term=3):
        leads = Leads(leads=tuple(Lead(group=group, term=term) for group in groups))
        return self.elsewhere.message_received(source, leads, 0)

    def test_news(self):
        """The others hear of what this node leads and not all of them are members of."""
        self.elsewhere.news.look()
        message = Leads(leads=(Lead(group=16, term=3),))
        self.assertEqual(self.sent, [("n2", message, 0), ("n3", message, 0)])
        self.sent.clear()
        self.elsewhere.stop()
        self.elsewhere.news.look()
        self.assertEqual(self.sent, [])

    def test_news_for_an_emptied_disk(self):
        """A node that is a member with another disk than the group knows has no copy: it hears, too."""
        self.node.logs[18] = whole = log(18, ("n1", "n2", "n3"), leader=1)
        self.assertEqual([lead.group for lead in self.elsewhere._leads()], [16])
        whole.configuration.members[2].disk_uuid = "lost"
        self.assertEqual([lead.group for lead in self.elsewhere._leads()], [16, 18])

    def test_another_leader(self):
        """What was asked of a leader is told of the next one, unless this node is a member of the group."""
        self.node.logs[18] = log(18, ())
        self.assertTrue(self.heard("n2", 16, 18, 19))
        self.assertEqual(self.told, [(18, "n2"), (19, "n2")])
        self.assertEqual(self.elsewhere.leaders.leader_of(16), "n2")
        self.told.clear()
        self.elsewhere.denied(18, "n2", "n3")
        self.assertEqual(self.told, [(18, "n3")])
        self.elsewhere.denied(18, "n2", "n1")
        self.assertEqual(self.told, [(18, "n3")], "n2 is not who was believed")
        self.elsewhere.denied(18, "n3", "n1")
        self.assertEqual(self.told[1:], [(18, "")], "this node knows better whether it leads")

    def test_node_lost(self):
        """Of a node whose link is gone nothing is believed, and no answer is waited for."""
        self.heard("n2", 18)
        asked = self.elsewhere.reads.bounds("n2", 18)
        other = self.elsewhere.reads.bounds("n3", 18)
        self.elsewhere.node_lost("n2")
        self.failureResultOf(asked, UnavailableError)
        self.assertNoResult(other)
        self.assertEqual(self.elsewhere.leaders.leader_of(18), "")
        self.elsewhere.stop()
        self.failureResultOf(other, UnavailableError)

    def test_for_others(self):
        """A message of another kind is nobody's here."""
        reply = ForwardReply(request_id=1, base_offset=0, record_count=1, timestamp=1, index=1, term=1)
        self.elsewhere.message_received("n2", reply, 18)
        self.assertEqual((self.sent, self.told), ([], []))
