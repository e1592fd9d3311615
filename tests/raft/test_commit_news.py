"""The news of a commit rides with the next entries, or goes alone when the driver says so (ADR 12)."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.raft_messages import AppendEntries
from loghouse.raft.ready import Proposal
from tests.raft.member import Bench, heartbeat, holds
from tests.raft.test_paper import only


class CommitNewsTests(SynchronousTestCase):
    """A leader of three whose followers hold everything."""

    def setUp(self):
        self.bench = Bench().committing_leader()
        self.raft = self.bench.raft
        self.bench.group.waits_with_news = True

    def append(self):
        """Append an entry that everybody holds; returns its index and what was sent after the commit."""
        index = self.raft.propose(Proposal(payload=b"x", record_count=1), 0).index
        self.bench.out()
        heard = [self.bench.hear(source, holds(self.raft.term, index)) for source in (2, 3)]
        return index, only(heard[0] + heard[1], AppendEntries)

    def check_told(self, index, entry_count):
        """Both followers are told with so many entries, and then there is nothing left to tell."""
        sent = only(self.bench.out(), AppendEntries)
        self.assertEqual([(len(m.entries), m.commit_index) for _, m in sent], [(entry_count, index)] * 2)
        self.assertFalse(self.raft.has_untold_commit)
        self.raft.tell_commit(index)
        self.assertEqual(only(self.bench.out(), AppendEntries), [])

    def test_waits(self):
        """A commit alone sends nothing at once, and says that there is something to tell."""
        index, sent = self.append()
        self.assertEqual((self.raft.commit_index, sent), (index, []))
        self.assertTrue(self.raft.has_untold_commit)

    def test_rides_along(self):
        """The next entries carry it, and then there is nothing left to tell."""
        index, _ = self.append()
        self.raft.propose(Proposal(payload=b"y", record_count=1), 0)
        self.check_told(index, 1)

    def test_is_told(self):
        """Told to, the leader sends it without entries, once, to who does not know it."""
        index, _ = self.append()
        self.raft.tell_commit(index)
        self.check_told(index, 0)

    def test_a_deposed_leader_has_nothing_to_tell(self):
        """Who leads no more has no followers, and no news for them."""
        self.append()
        self.bench.hear(2, heartbeat(self.raft.term + 1))
        self.assertFalse(self.raft.has_untold_commit)
        self.assertFalse(self.raft.tell_commit(self.raft.commit_index))

    def test_newer_commits_wait_their_turn(self):
        """A driver that speaks of an older commit, told by now, does not send the newer one early."""
        older, _ = self.append()
        self.append()
        self.raft.tell_commit(older)
        self.assertEqual(only(self.bench.out(), AppendEntries), [])
        self.assertTrue(self.raft.has_untold_commit)
