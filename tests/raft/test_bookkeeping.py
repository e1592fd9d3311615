"""What the core counts is given back, and what it hands out is what the driver needs."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.entry import EntryKind
from loghouse.protocol.raft_messages import Envelope, NoRoom, ReadIndex, ReadIndexReply, RequestVoteReply
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import Damage, Proposal, Role
from tests.raft.group import GROUP, Group, entry
from tests.raft.member import Bench, append, ask_vote, heartbeat, heartbeat_reply, only
from tests.raft.test_paper_later import snapshot

FEW_READS = RaftConfig(reads_max=3)


class ReadRoomTests(SynchronousTestCase):
    """A member takes `reads_max` reads at a time, however many it has taken before."""

    def test_answered_by_the_leader(self):
        """A follower whose reads were answered takes as many again."""
        bench = Bench(config=FEW_READS)
        bench.hear(2, heartbeat(2))
        for _ in range(5):
            ids = [bench.raft.read_index() for _ in range(3)]
            [(_, asked)] = only(bench.out(), ReadIndex)
            bench.hear(2, ReadIndexReply(term=2, context=asked.context, index=1))
            self.assertEqual([bench.node.reads[id_] for id_ in ids], [1] * 3)

    def test_not_answered(self):
        """So does one whose reads failed because the leader did not answer in time, or was replaced."""
        bench = Bench(config=FEW_READS)
        for term in range(2, 7):
            bench.hear(2, heartbeat(term))
            for _ in range(2):
                ids = [bench.raft.read_index() for _ in range(3)]
                bench.out()
                for _ in range(2 * FEW_READS.election_ticks):
                    bench.tick()
                    bench.hear(2, heartbeat(term))
                self.assertEqual([bench.node.reads[id_] for id_ in ids], [None] * 3)
            for _ in range(3):
                bench.raft.read_index()
            bench.out()

    def test_confirmed_by_a_majority(self):
        """So does a leader, for its own reads and for those of its followers."""
        bench = Bench(config=FEW_READS).committing_leader()
        for round_ in range(1, 6):
            own = [bench.raft.read_index() for _ in range(2)]
            bench.hear(2, ReadIndex(term=bench.raft.term, context=round_))
            bench.hear(3, ReadIndex(term=bench.raft.term, context=100 + round_))  # one too many
            sent = bench.hear(2, heartbeat_reply(bench.raft.term, read_round=round_))
            answers = only(sent, ReadIndexReply)
            self.assertEqual([(target, answer.context) for target, answer in answers], [(2, round_)])
            self.assertTrue(all(bench.node.reads[id_] is not None for id_ in own))


class LeaderTests(SynchronousTestCase):
    """What a leader knows of the others."""

    def test_who_is_heard(self):
        """It hears itself always, others until an election timeout of silence, strangers never."""
        bench = Bench().committing_leader()
        ticks = bench.group.config.election_ticks
        self.assertEqual([bench.raft.is_heard(id_) for id_ in (1, 2, 3, 9)], [True, True, True, False])
        for _ in range(ticks - 1):
            bench.tick()
            bench.hear(3, heartbeat_reply(bench.raft.term))
        self.assertEqual([bench.raft.is_heard(id_) for id_ in (1, 2, 3)], [True, True, True])
        bench.tick()
        self.assertEqual([bench.raft.is_heard(id_) for id_ in (1, 2, 3)], [True, False, True])

    def test_full_disks_of_others(self):
        """While too few voters have room records are refused; a trim, which makes room, is taken."""
        bench = Bench().committing_leader()
        for follower in (2, 3):
            bench.hear(follower, NoRoom(term=bench.raft.term))
        bench.tick()
        record = Proposal(payload=b"\n\0", record_count=1)
        self.assertRaisesRegex(Exception, "n2, n3", bench.raft.propose, record, 0)
        trim = replace(record, kind=EntryKind.TRIM, payload=bytes(8), record_count=0)
        before = bench.raft.last_index
        bench.raft.propose(trim, 0)
        self.assertEqual(bench.raft.last_index, before + 1)


class HandedTests(SynchronousTestCase):
    """What the driver is handed."""

    def test_nothing_to_cut(self):
        """Entries that were replaced before the disk had them are not cut there."""
        bench = Bench()
        bench.node.readies.clear()
        group = bench.group
        for source, term in ((2, 2), (3, 3)):
            message = append(term, 1, 1, [entry(2, term), entry(3, term)])
            bench.raft.step(Envelope(GROUP, source, 1, message))
        group.turn(1)
        self.assertEqual(bench.terms(), [3, 3])
        self.assertEqual([ready.truncate_after for ready in bench.readies if ready.truncate_after], [])

    def test_cut(self):
        """Entries that the disk has, or will have, are cut there before others take their place."""
        bench = Bench()
        bench.hear(2, append(2, 1, 1, [entry(2, 2), entry(3, 2)]))
        bench.node.readies.clear()
        bench.hear(3, append(3, 2, 2, [entry(3, 3)]))
        self.assertEqual([ready.truncate_after for ready in bench.readies if ready.truncate_after], [2])

    def test_late_write(self):
        """A write of the log that a snapshot replaced makes nothing durable of the new one."""
        bench = Bench()
        bench.node.disk = False
        bench.hear(2, append(2, 1, 1, [entry(index, 2) for index in range(2, 10)]))
        bench.hear(3, snapshot(3, 5, 3))
        bench.group.finish_writes(1, 1)
        self.assertEqual((bench.raft.last_index, bench.raft.durable_index), (5, 0))
        bench.group.finish_writes(1)
        self.assertEqual(bench.raft.durable_index, 5)


class DamageTests(SynchronousTestCase):
    """A member whose log held an entry 5 of term 2, and ends with an entry 3 of term 1."""

    def test_votes(self):
        """It votes for logs that are as up to date as its own was: the term counts, then the length."""
        for last, granted in (
            ((9, 1), False),
            ((4, 2), False),
            ((5, 2), True),
            ((6, 2), True),
            ((2, 3), True),
        ):
            bench = Bench(terms=(1, 1), term=3, damage=Damage(last_index=5, last_term=2))
            [(_, reply)] = only(bench.hear(2, ask_vote(4, *last)), RequestVoteReply)
            self.assertIs(reply.granted, granted, last)


class LinkLostTests(SynchronousTestCase):
    """How long a follower that lost its connection with the leader waits."""

    def test_bounds(self):
        """It stands at random between two heartbeats' time and an election timeout, each at its own time."""
        waited = {id_: self.waited(3, id_) for id_ in (2, 3)}
        config = Group().config
        self.assertEqual((2 * config.heartbeat_ticks + 1, config.election_ticks), (3, 10))
        self.assertEqual(waited, {2: {6, 7}, 3: {3, 4}})
        self.assertEqual({id_: self.waited(5, id_) for id_ in (2, 3, 4, 5)}, {2: {4}, 3: {6}, 4: {8}, 5: {3}})

    def waited(self, count, id_):
        """The ticks after which a member of so many stands, by any chance."""
        waited = set()
        for seed in range(50):
            group = Group(count, rng_seed=seed)
            group.elect(1)
            group.isolate(1)
            group[id_].leader_link_lost()
            ticks = 0
            while group[id_].role is Role.FOLLOWER:
                group[id_].tick()
                ticks += 1
            waited.add(ticks)
        return waited
