"""A commit notification rides with the next entries, or goes alone when the driver says so (ADR 12)."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.raft_messages import AppendEntries
from loghouse.raft.ready import Proposal
from tests.raft.member import Bench, heartbeat, holds
from tests.raft.test_paper import only


class CommitNotificationTests(SynchronousTestCase):
    """A leader of three whose followers hold everything."""

    def setUp(self):
        self.bench = Bench().committing_leader()
        self.raft = self.bench.raft
        self.bench.group.waits_with_notifications = True

    def append(self):
        """Append an entry that everybody holds; returns its index and what was sent after the commit."""
        index = self.raft.propose(Proposal(payload=b"x", record_count=1), 0).index
        self.bench.out()
        heard = [self.bench.hear(source, holds(self.raft.term, index)) for source in (2, 3)]
        return index, only(heard[0] + heard[1], AppendEntries)

    def check_notified(self, index, entry_count):
        """Both followers are notified with so many entries, and then nobody is left to notify."""
        sent = only(self.bench.out(), AppendEntries)
        self.assertEqual([(len(m.entries), m.commit_index) for _, m in sent], [(entry_count, index)] * 2)
        self.assertFalse(self.raft.has_unnotified_commit)
        self.raft.notify_commit(index)
        self.assertEqual(only(self.bench.out(), AppendEntries), [])

    def test_waits(self):
        """A commit alone sends nothing at once, and says that followers do not know of it."""
        index, sent = self.append()
        self.assertEqual((self.raft.commit_index, sent), (index, []))
        self.assertTrue(self.raft.has_unnotified_commit)

    def test_rides_along(self):
        """The next entries carry it, and then nobody is left to notify."""
        index, _ = self.append()
        self.raft.propose(Proposal(payload=b"y", record_count=1), 0)
        self.check_notified(index, 1)

    def test_goes_alone(self):
        """When the driver asks, the leader sends it without entries, once, to each that does not know it."""
        index, _ = self.append()
        self.raft.notify_commit(index)
        self.check_notified(index, 0)

    def test_a_deposed_leader_notifies_nobody(self):
        """A node that leads no more has no followers to notify."""
        self.append()
        self.bench.hear(2, heartbeat(self.raft.term + 1))
        self.assertFalse(self.raft.has_unnotified_commit)
        self.assertFalse(self.raft.notify_commit(self.raft.commit_index))

    def test_newer_commits_wait_their_turn(self):
        """A driver that speaks of an older commit, known by now, does not send the newer one early."""
        older, _ = self.append()
        self.append()
        self.raft.notify_commit(older)
        self.assertEqual(only(self.bench.out(), AppendEntries), [])
        self.assertTrue(self.raft.has_unnotified_commit)
