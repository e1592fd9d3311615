"""Reads: their numbers, their rounds, who answers whom, and what becomes of those that nobody answers."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import ResourceExhaustedError, UnavailableError
from loghouse.protocol.raft_messages import Envelope, Heartbeat, ReadIndex, ReadIndexReply
from loghouse.raft.config import RaftConfig
from loghouse.raft.read_queue import ReadQueue
from loghouse.raft.ready import ReadState
from tests.raft.group import GROUP
from tests.raft.member import RECORD, Bench, append, heartbeat, heartbeat_reply, holds, leading, only


class QueueTests(SynchronousTestCase):
    """`ReadQueue`, the bookkeeping."""

    def test_numbers(self):
        """Each number is another one, from the first on, and goes into 64 bits."""
        for first in (0, 2**62 - 1):
            queue = ReadQueue(first)
            found = [queue.new_id() for _ in range(5)]
            self.assertEqual(found, [first + 1, first + 2, first + 3, first + 4, first + 5])

    def test_asked_and_answered(self):
        """Reads asked together are answered together, once; all of them count until then."""
        queue = ReadQueue(100)
        queue.waiting, queue.running = [(1, 7)], [(2, 8), (2, 9)]
        queue.to_ask = [1, 2]
        self.assertEqual(len(queue), 5)
        first = queue.ask()
        self.assertEqual((queue.to_ask, len(queue)), ([], 5))
        queue.to_ask = [3]
        second = queue.ask()
        self.assertNotEqual(first, second)
        self.assertEqual(len(queue), 6)
        self.assertEqual((queue.answered(first), len(queue)), ([1, 2], 4))
        self.assertEqual((queue.answered(first), len(queue)), ([], 4))
        self.assertEqual((queue.answered(second), len(queue)), ([3], 3))

    def test_old_ones_fail(self):
        """What was asked so many ticks ago fails, each by its own age; the rest stays."""
        queue = ReadQueue(0)
        queue.to_ask = [1, 2]
        queue.ask()
        self.assertEqual(queue.tick(3), [])
        queue.to_ask = [3]
        later = queue.ask()
        self.assertEqual(queue.tick(3), [])
        self.assertEqual(queue.tick(3), [ReadState(1, None), ReadState(2, None)])
        self.assertEqual((list(queue.asked), len(queue)), ([later], 1))
        self.assertEqual(queue.tick(3), [ReadState(3, None)])
        self.assertEqual((queue.tick(3), len(queue)), ([], 0))

    def test_all_fail(self):
        """When the role ends, the own ones fail, those of others are dropped, and all begins anew."""
        queue = ReadQueue(0)
        queue.to_ask = [1]
        queue.ask()
        queue.to_ask = [2]
        queue.waiting = [(1, 3), (9, 4)]
        queue.running = [(9, 5), (1, 6)]
        queue.round = 7
        failed = queue.fail_all(1)
        self.assertEqual(sorted(state.id for state in failed), [1, 2, 3, 6])
        self.assertEqual({state.index for state in failed}, {None})
        self.assertEqual((len(queue), queue.round, queue.waiting, queue.running), (0, 0, [], []))
        self.assertEqual((queue.to_ask, queue.asked, queue.fail_all(1)), ([], {}, []))


class RoundTests(SynchronousTestCase):
    """Rounds of heartbeats on a leader."""

    def test_shared(self):
        """Reads of one turn share a round; those that come while it runs share the next one."""
        bench = leading()
        first = [bench.raft.read_index() for _ in range(3)]
        rounds = [m.read_round for _, m in only(bench.out(), Heartbeat)]
        self.assertEqual(rounds, [1, 1])
        second = [bench.raft.read_index() for _ in range(2)]
        self.assertEqual(only(bench.out(), Heartbeat), [])
        sent = bench.hear(2, heartbeat_reply(2, read_round=1))
        self.assertEqual([m.read_round for _, m in only(sent, Heartbeat)], [2, 2])
        self.assertEqual(sorted(bench.node.reads), sorted(first))
        bench.hear(3, heartbeat_reply(2, read_round=1))
        self.assertEqual(sorted(bench.node.reads), sorted(first))
        bench.hear(3, heartbeat_reply(2, read_round=2))
        self.assertEqual(sorted(bench.node.reads), sorted(first + second))

    def test_index(self):
        """A read gets the commit index of its round's beginning, not of its end."""
        bench = leading()
        read = bench.raft.read_index()
        bench.out()
        bench.raft.propose(RECORD, 0)
        bench.out()
        bench.hear(2, holds(2, 3))
        self.assertEqual(bench.raft.commit_index, 3)
        bench.hear(2, heartbeat_reply(2, read_round=1))
        self.assertEqual(bench.node.reads[read], 2)

    def test_answers_of_others(self):
        """Each follower's read is answered to it, under its own number."""
        bench = leading()
        own = bench.raft.read_index()
        for source, context in ((2, 70), (3, 71)):
            bench.raft.step(Envelope(GROUP, source, 1, ReadIndex(term=2, context=context)))
        bench.out()
        sent = only(bench.hear(3, heartbeat_reply(2, read_round=1)), ReadIndexReply)
        self.assertEqual(
            sent,
            [
                (2, ReadIndexReply(term=2, context=70, index=2)),
                (3, ReadIndexReply(term=2, context=71, index=2)),
            ],
        )
        self.assertEqual(bench.node.reads, {own: 2})

    def test_an_answer_to_an_older_round(self):
        """An answer to a heartbeat of before, or of a round never begun, confirms nothing."""
        bench = leading()
        bench.raft.read_index()
        bench.out()
        bench.hear(2, heartbeat_reply(2, read_round=1))
        read = bench.raft.read_index()
        bench.out()
        for stale in (0, 1, 3, 99):
            bench.hear(3, heartbeat_reply(2, read_round=stale))
            self.assertNotIn(read, bench.node.reads, stale)
        bench.hear(3, heartbeat_reply(2, read_round=2))
        self.assertEqual(bench.node.reads[read], 2)

    def test_majority(self):
        """In a group of five two others must confirm."""
        bench = leading(voters=5)
        read = bench.raft.read_index()
        bench.out()
        for source in (4, 4):
            bench.hear(source, heartbeat_reply(2, read_round=1))
            self.assertNotIn(read, bench.node.reads)
        bench.hear(2, heartbeat_reply(2, read_round=1))
        self.assertIn(read, bench.node.reads)

    def test_a_leader_without_a_vote(self):
        """A leader that gave up its vote does not count itself."""
        bench = leading()
        bench.raft.propose_configuration(bench.raft.configuration.without(1), 0)
        bench.out()
        read = bench.raft.read_index()
        bench.out()
        bench.hear(2, heartbeat_reply(2, read_round=1))
        self.assertNotIn(read, bench.node.reads)
        bench.hear(3, heartbeat_reply(2, read_round=1))
        self.assertIn(read, bench.node.reads)

    def test_before_an_entry_of_the_own_term(self):
        """Before it committed an entry of its own a new leader begins no round; then it does."""
        bench = Bench()
        bench.leader()
        read = bench.raft.read_index()
        bench.out()
        bench.hear(2, heartbeat_reply(2, read_round=0))
        self.assertEqual((bench.node.reads, len(bench.raft._reads)), ({}, 1))
        sent = bench.hear(2, holds(2, 2))
        self.assertEqual([m.read_round for _, m in only(sent, Heartbeat)], [1, 1])
        bench.hear(2, heartbeat_reply(2, read_round=1))
        self.assertEqual(bench.node.reads[read], 2)

    def test_rounds_of_a_second_leadership(self):
        """They are counted from 1 again in each leadership, and old reads failed with the old one."""
        bench = leading()
        read = bench.raft.read_index()
        bench.out()
        bench.hear(2, heartbeat(9))
        self.assertEqual(bench.node.reads, {read: None})
        bench.committing_leader()
        bench.raft.read_index()
        self.assertEqual([m.read_round for _, m in only(bench.out(), Heartbeat)], [1, 1])

    def test_round_in_each_heartbeat(self):
        """A lost heartbeat of a round is made good by the next one."""
        bench = leading()
        bench.raft.read_index()
        bench.out()
        self.assertEqual([m.read_round for _, m in only(bench.tick(), Heartbeat)], [1, 1])


class FollowerTests(SynchronousTestCase):
    """Reads on a follower."""

    def test_asked_together(self):
        """Those of one turn are asked together, and all get the leader's index."""
        bench = Bench()
        bench.hear(2, heartbeat(2))
        reads = [bench.raft.read_index() for _ in range(3)]
        [(target, asked)] = only(bench.out(), ReadIndex)
        self.assertEqual((target, asked.term), (2, 2))
        self.assertEqual(bench.out(), [])
        bench.hear(2, ReadIndexReply(term=2, context=asked.context + 1, index=5))
        self.assertEqual(bench.node.reads, {})
        bench.hear(2, ReadIndexReply(term=2, context=asked.context, index=5))
        self.assertEqual(bench.node.reads, dict.fromkeys(reads, 5))
        bench.hear(2, ReadIndexReply(term=2, context=asked.context, index=6))
        self.assertEqual(bench.node.reads, dict.fromkeys(reads, 5))

    def test_another_leader(self):
        """A read fails when the leader does."""
        bench = Bench()
        bench.hear(2, heartbeat(2))
        asked, to_ask = bench.raft.read_index(), None
        bench.out()
        to_ask = bench.raft.read_index()
        bench.hear(3, append(3, 1, 1))
        self.assertEqual(bench.node.reads, {asked: None, to_ask: None})

    def test_refusals(self):
        """Why a read is not taken, in words."""
        bench = Bench(config=RaftConfig(reads_max=2))
        with self.assertRaises(UnavailableError) as caught:
            bench.raft.read_index()
        self.assertEqual(str(caught.exception), "no leader is known; try again")
        bench.hear(2, heartbeat(2))
        bench.raft.read_index()
        bench.raft.read_index()
        with self.assertRaises(ResourceExhaustedError) as caught:
            bench.raft.read_index()
        self.assertEqual(caught.exception.resource, "reads")
        self.assertEqual(caught.exception.limit, "2 are waiting for the leader")
