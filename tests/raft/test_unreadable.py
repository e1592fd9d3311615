"""Committed entries that the disk damaged: the core says so, sends none of them, and goes on."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError
from loghouse.protocol.configuration import encode_producer
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.raft_messages import AppendEntriesReply
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import Proposal
from tests.raft.group import entry
from tests.raft.member import Bench, append, heartbeat, holds, only, rejects


def unreadable(*_):
    raise DamageError("x.store", 4096, "header checksum")


class UnreadableTests(SynchronousTestCase):
    """A member whose entries 2 to 4 (terms 1, 1, 2) are only on its disk, which damaged them."""

    def follower(self, commit_index):
        bench = Bench(terms=(1, 1, 2), commit_index=commit_index)
        bench.node.log.term_at = bench.node.log.entries = unreadable
        return bench

    def assert_told(self, bench):
        self.assertIsInstance(bench.raft.take_unreadable(), DamageError)
        self.assertIsNone(bench.raft.take_unreadable())

    def test_append_of_what_is_committed(self):
        """A late append below the commit index is acknowledged: there is nothing left to compare it with."""
        bench = self.follower(4)
        [(_, reply)] = bench.hear(2, append(3, 2, 1, [entry(3, 1), entry(4, 2)], commit_index=4))
        self.assertEqual((reply.success, reply.index), (True, 4))
        self.assert_told(bench)

    def test_hint_of_a_follower(self):
        """Asked where its log could fit, it answers with what is certain: its commit index."""
        bench = self.follower(3)
        [(_, reply)] = only(bench.hear(2, append(5, 9, 4, [entry(10, 5)])), AppendEntriesReply)
        self.assertEqual((reply.success, reply.index, reply.hint_index), (False, 9, 3))
        self.assert_told(bench)

    def test_delivered_once_they_are_mended(self):
        """What an earlier life left to be delivered waits, and nothing is lost or told twice."""
        bench = self.follower(1)
        bench.hear(2, heartbeat(3, commit_index=4))
        self.assertEqual(bench.node.committed, [])
        self.assert_told(bench)
        del bench.node.log.term_at, bench.node.log.entries
        bench.tick()
        self.assertEqual([one.index for one in bench.node.committed], [2, 3, 4])

    def test_hint_to_a_leader(self):
        """A leader that cannot look for a better place takes the follower's."""
        bench = Bench(terms=(1, 1, 2), config=RaftConfig(cache_size_max=1))
        bench.leader()
        bench.hear(2, holds(bench.raft.term, bench.raft.last_index))
        bench.node.log.term_at = unreadable
        bench.hear(3, rejects(bench.raft.term, bench.raft.last_index - 1, hint_index=2, hint_term=1))
        self.assertEqual(bench.raft.followers[3].next_index, 3)
        self.assert_told(bench)

    def test_retry_of_a_damaged_batch(self):
        """A batch that is committed is acknowledged again though its entry cannot be read."""
        for is_behind in (True, False):
            self.check_retry(is_behind)

    def check_retry(self, is_behind):
        bench = Bench(config=RaftConfig(cache_size_max=1)).committing_leader()
        producer = bench.raft.propose(
            Proposal(kind=EntryKind.PRODUCER, payload=encode_producer("root")), 0
        ).index
        batch = Proposal(payload=b"x", record_count=1, subject="root", producer_id=producer)
        first = bench.raft.propose(batch, 0)
        if is_behind:
            for _ in range(3):
                bench.raft.propose(Proposal(payload=b"x", record_count=1), 0)
        bench.out()
        for other in (2, 3):
            bench.hear(other, holds(bench.raft.term, bench.raft.last_index))
        bench.raft._log.header_at = unreadable
        again = bench.raft.propose(batch, 0)
        self.assertEqual((again.index, again.duplicate), (first.index, True))
        self.assertLessEqual(again.index, bench.raft.commit_index)
        self.assert_told(bench)
