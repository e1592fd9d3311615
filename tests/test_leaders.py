"""Tests of loghouse.node.leaders: whose word counts about who leads, for how long, and when it is told."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.limits import LEADER_SECONDS_MAX, LEADERS_MAX
from loghouse.node.leaders import LeaderNews, LeaderTable
from loghouse.protocol.routing_messages import Lead, Leads


def leads(*pairs):
    return tuple(Lead(group=group, term=term) for group, term in pairs)


class TableTests(SynchronousTestCase):
    """What is believed of what other nodes say."""

    def setUp(self):
        self.now = 100.0
        self.table = LeaderTable(lambda: self.now)

    def test_nobody(self):
        """Of a group that nobody spoke of no leader is known."""
        self.assertEqual((self.table.leader_of(16), self.table.term_of(16)), ("", 0))

    def test_heard(self):
        """A node leads what it says it leads, and no more what it does not name the next time."""
        self.assertEqual(self.table.heard("a", leads((16, 3), (17, 1))), [16, 17])
        self.assertEqual((self.table.leader_of(16), self.table.term_of(16)), ("a", 3))
        self.assertEqual(self.table.heard("a", leads((16, 3), (17, 1))), [])
        self.assertEqual(self.table.heard("a", leads((17, 2))), [16])
        self.assertEqual((self.table.leader_of(16), self.table.term_of(17)), ("", 2))
        self.assertEqual(self.table.heard("a", ()), [17])
        self.assertEqual((len(self.table), self.table._groups), (0, {}))

    def test_newer_term(self):
        """Of two nodes the one with the higher term leads, whichever spoke last."""
        self.table.heard("a", leads((16, 3)))
        self.assertEqual(self.table.heard("b", leads((16, 4))), [16])
        self.assertEqual(self.table.heard("a", leads((16, 3))), [])
        self.assertEqual(self.table.heard("c", leads((16, 4))), [], "nobody else leads in a term")
        self.assertEqual((self.table.leader_of(16), self.table.term_of(16)), ("b", 4))
        self.assertEqual(self.table.heard("a", ()), [], "it was forgotten with the higher term")
        self.assertEqual(self.table.leader_of(16), "b")

    def test_silence(self):
        """A node that says nothing for a while is believed no more; then a lower term counts, too."""
        self.table.heard("a", leads((16, 3)))
        self.now += LEADER_SECONDS_MAX
        self.assertEqual(self.table.leader_of(16), "a")
        self.now += 0.1
        self.assertEqual((self.table.leader_of(16), self.table.term_of(16)), ("", 0))
        self.assertEqual(self.table.heard("b", leads((16, 2))), [16])
        self.assertEqual(self.table.leader_of(16), "b")

    def test_repeated(self):
        """Whoever goes on saying so is believed on."""
        for _ in range(5):
            self.table.heard("a", leads((16, 3)))
            self.now += LEADER_SECONDS_MAX
            self.assertEqual(self.table.leader_of(16), "a")

    def test_lost(self):
        """What a node said is forgotten with its link; what others said stays."""
        self.table.heard("a", leads((17, 1), (16, 3)))
        self.table.heard("b", leads((18, 3)))
        self.assertEqual(self.table.node_lost("a"), [16, 17])
        self.assertEqual(self.table.node_lost("a"), [])
        self.assertEqual([self.table.leader_of(group) for group in (16, 17, 18)], ["", "", "b"])

    def test_denied(self):
        """A node that was asked and does not lead may know who does: that one is believed for a while."""
        self.assertTrue(self.table.denied(16, "a", "b"))
        self.assertEqual((self.table.leader_of(16), self.table.term_of(16)), ("b", 0))
        self.table.heard("b", leads((16, 1)))
        self.assertEqual((self.table.leader_of(16), self.table.term_of(16)), ("b", 1))
        self.assertTrue(self.table.denied(16, "b", "c"))
        self.assertEqual((self.table.leader_of(16), self.table.term_of(16)), ("c", 1))
        self.assertEqual(self.table.heard("c", ()), [16], "it knows better whether it leads")
        self.assertFalse(self.table.denied(16, "b", ""))

    def test_denied_by_a_former_leader(self):
        """What others say of a group counts less than what its leader says of itself."""
        self.table.heard("b", leads((16, 4)))
        self.assertFalse(self.table.denied(16, "a", "c"))
        self.assertFalse(self.table.denied(16, "a", "b"))
        self.assertFalse(self.table.denied(16, "a", ""))
        self.assertEqual(self.table.leader_of(16), "b")
        self.assertTrue(self.table.denied(16, "b", ""))
        self.assertEqual(self.table.leader_of(16), "")
        self.table.heard("b", leads((16, 4)))
        self.assertTrue(self.table.denied(16, "b", "b"), "itself it cannot mean")
        self.assertEqual(self.table.leader_of(16), "")

    def test_bounded(self):
        """So many groups are remembered; another one has no leader here until there is room."""
        self.table.heard("a", leads(*((group, 1) for group in range(1, LEADERS_MAX + 1))))
        self.assertEqual(self.table.heard("b", leads((LEADERS_MAX + 1, 1))), [])
        self.assertEqual((len(self.table), self.table.leader_of(LEADERS_MAX + 1)), (LEADERS_MAX, ""))
        self.table.heard("b", leads((1, 2)))
        self.assertEqual((len(self.table), self.table.leader_of(1)), (LEADERS_MAX, "b"))
        self.table.node_lost("a")
        self.assertEqual(self.table.heard("b", leads((LEADERS_MAX + 1, 1))), [1, LEADERS_MAX + 1])


class NewsTests(SynchronousTestCase):
    """When the others are told what this node leads."""

    def setUp(self):
        self.leads, self.sent, self.soon = [], [], []

        def send(name, message, group):
            self.sent.append((name, message, group))
            return False

        self.news = LeaderNews(lambda: self.leads, lambda: ("b", "c"), send, soon=self.soon.append)

    def end_turn(self):
        """Run what is due at the end of this turn; return the groups that each was told of."""
        for work in self.soon:
            work()
        self.soon.clear()
        told, self.sent = self.sent, []
        self.assertTrue(all(isinstance(message, Leads) and group == 0 for _, message, group in told))
        return {name: [lead.group for lead in message.leads] for name, message, _ in told}

    def test_changes_of_a_turn(self):
        """However many roles change in a turn, everybody is told once, at its end, what is so then."""
        self.news.changed()
        self.leads = leads((16, 3))
        self.news.changed()
        self.assertEqual((self.sent, len(self.soon)), ([], 1))
        self.assertEqual(self.end_turn(), {"b": [16], "c": [16]})
        self.news.changed()
        self.assertEqual(self.end_turn(), {"b": [16], "c": [16]})

    def test_every_second(self):
        """What is led is told again and again; that nothing is led any more, once."""
        self.news.look()
        self.assertEqual(self.end_turn(), {}, "nothing to tell")
        self.leads = leads((16, 3))
        for _ in range(2):
            self.news.look()
            self.assertEqual(self.end_turn(), {"b": [16], "c": [16]})
        self.leads = []
        self.news.look()
        self.assertEqual(self.end_turn(), {"b": [], "c": []})
        self.news.look()
        self.assertEqual(self.end_turn(), {})

    def test_stopped(self):
        """Nothing is told after the end."""
        self.leads = leads((16, 3))
        self.news.changed()
        self.news.stop()
        self.news.look()
        self.assertEqual(self.end_turn(), {})
