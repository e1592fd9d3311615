"""What a leader is asked: bounds, producers, reads, and the shape of a Ready."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    DamageError,
    InvalidRequestError,
    MembershipError,
    NotLeaderError,
    ResourceExhaustedError,
    UnavailableError,
)
from loghouse.limits import PAYLOAD_SIZE_MAX
from loghouse.protocol.configuration import (
    MemberRole,
    encode_configuration,
    encode_trim,
)
from loghouse.protocol.entry import EntryKind, crc32c
from loghouse.protocol.raft_messages import AppendEntries, HeartbeatReply, InstallSnapshot
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import Proposal
from tests.raft.group import configuration
from tests.raft.member import (
    RECORD,
    Bench,
    append,
    commit,
    heartbeat,
    heartbeat_reply,
    holds,
    leading,
    only,
    rejects,
)


class ProposeTests(SynchronousTestCase):
    """`propose` appends or says why not."""

    def test_offsets_follow_from_the_log(self):
        """Each batch gets the offsets behind the one before; other kinds take none."""
        bench = leading()
        found = [
            bench.raft.propose(replace(RECORD, record_count=3), 0),
            bench.raft.propose(Proposal(kind=EntryKind.TRIM, payload=encode_trim(1)), 0),
            bench.raft.propose(replace(RECORD, record_count=2), 0),
        ]
        self.assertEqual([(t.index, t.base_offset) for t in found], [(3, 0), (4, 3), (5, 3)])
        self.assertEqual(bench.raft.next_offset, 5)

    def test_timestamps_never_decrease(self):
        """A clock that goes back does not take the log with it."""
        bench = leading()
        for now in (50, 40, 60):
            bench.raft.propose(RECORD, now)
        bench.out()
        self.assertEqual([e.timestamp for e in bench.readies[-1].entries], [50, 50, 60])

    def test_clock_of_a_tick(self):
        """A no-op has the time of the last tick."""
        bench = Bench()
        bench.raft.tick(77)
        bench.leader()
        self.assertEqual(bench.readies[-1].entries[0].timestamp, 77)

    def test_given_checksum_is_kept(self):
        """The payload's checksum is its maker's: damage on the way here is found by any reader."""
        bench = leading()
        bench.raft.propose(replace(RECORD, payload_crc=crc32c(b"x")), 0)
        bench.out()
        self.assertEqual(bench.readies[-1].entries[0].payload_crc, crc32c(b"x"))

    def test_false_proposals(self):
        """What cannot be an entry is refused, naming the field."""
        bench = leading()
        for field, proposal in [
            ("record_count", Proposal(payload=b"x")),
            ("payload", Proposal(payload=bytes(PAYLOAD_SIZE_MAX + 1), record_count=1)),
            ("kind", Proposal(kind=EntryKind.NOOP)),
            ("kind", Proposal(kind=EntryKind.CONFIGURATION, payload=encode_configuration(configuration(3)))),
            ("kind", Proposal(kind=EntryKind.TRIM, payload=encode_trim(0), record_count=1)),
            ("payload", Proposal(kind=EntryKind.TRIM, payload=b"?")),
            ("payload", Proposal(kind=EntryKind.PRODUCER, payload=b"\x09")),
            ("lowest_offset", Proposal(kind=EntryKind.TRIM, payload=encode_trim(1))),
        ]:
            with self.assertRaises(InvalidRequestError) as caught:
                bench.raft.propose(proposal, 0)
            self.assertEqual(caught.exception.field, field)
        self.assertEqual(bench.raft.last_index, 2)

    def test_entries_are_bounded(self):
        """So many entries wait to be committed, and no more; then it goes on."""
        bench = leading(config=RaftConfig(proposals_max=3))
        for _ in range(3):
            bench.raft.propose(RECORD, 0)
        with self.assertRaises(ResourceExhaustedError):
            bench.raft.propose(RECORD, 0)
        commit(bench)
        bench.raft.propose(RECORD, 0)

    def test_bytes_are_bounded(self):
        """So many bytes wait to be committed, and no more; a single large entry always goes."""
        bench = leading(config=RaftConfig(proposals_size_max=100))
        bench.raft.propose(replace(RECORD, payload=bytes(1000)), 0)
        with self.assertRaises(ResourceExhaustedError):
            bench.raft.propose(RECORD, 0)
        commit(bench)
        bench.raft.propose(RECORD, 0)

    def test_leader_is_named(self):
        """Who cannot append says who can."""
        bench = Bench()
        with self.assertRaises(NotLeaderError) as caught:
            bench.raft.propose(RECORD, 0)
        self.assertIsNone(caught.exception.leader)
        bench.hear(3, heartbeat(2))
        with self.assertRaises(NotLeaderError) as caught:
            bench.raft.propose_configuration(bench.raft.configuration, 0)
        self.assertEqual(caught.exception.leader, "n3")


class ReadTests(SynchronousTestCase):
    """Reads: bounds and errors."""

    def test_no_leader(self):
        """Without a leader there is nobody to ask."""
        with self.assertRaises(UnavailableError):
            Bench().raft.read_index()

    def test_bounded(self):
        """So many reads wait, and no more, on leaders and followers."""
        config = RaftConfig(reads_max=3)
        follower = Bench(config=config)
        follower.hear(2, heartbeat(2))
        for bench in (leading(config=config), follower):
            for _ in range(3):
                bench.raft.read_index()
            bench.out()
            with self.assertRaises(ResourceExhaustedError):
                bench.raft.read_index()

    def test_lone_voter(self):
        """A lone voter confirms by itself."""
        bench = Bench(voters=1)
        read = bench.raft.read_index()
        bench.out()
        self.assertEqual(bench.node.reads[read], 2)

    def test_learners_do_not_confirm(self):
        """A learner's answer is no majority's."""
        bench = leading(learners=2)
        read = bench.raft.read_index()
        bench.out()
        for learner in (4, 5):
            bench.hear(learner, heartbeat_reply(2, read_round=1))
        self.assertNotIn(read, bench.node.reads)
        bench.hear(3, heartbeat_reply(2, read_round=1))
        self.assertIn(read, bench.node.reads)

    def test_ids_differ_after_restart(self):
        """A question asked before a restart is not mistaken for one asked after it."""
        bench = Bench()
        bench.hear(2, heartbeat(2))
        before = bench.raft.read_index()
        bench.restart()
        bench.hear(2, heartbeat(2))
        self.assertGreater(abs(bench.raft.read_index() - before), 1)


class SendingTests(SynchronousTestCase):
    """What a leader sends, and how much."""

    def test_heartbeat_reply_tells_time(self):
        """A follower tells its wall clock; the leader keeps it for whoever compares."""
        bench = Bench()
        bench.raft.tick(1234)
        [(_, reply)] = bench.hear(2, heartbeat(2))
        self.assertEqual(reply.timestamp, 1234)
        bench = leading()
        bench.hear(2, HeartbeatReply(term=2, read_round=0, last_index=2, timestamp=99))
        self.assertEqual(bench.raft.followers[2].timestamp, 99)

    def test_time_of_a_majority(self):
        """The time of a majority is what most voters' clocks have reached; one clock ahead does not count."""
        bench = leading()
        bench.raft.tick(2_000_000)
        self.assertEqual(bench.raft.majority_time(), 0)
        bench.hear(2, HeartbeatReply(term=2, read_round=0, last_index=2, timestamp=99))
        self.assertEqual(bench.raft.majority_time(), 99)
        bench.hear(3, HeartbeatReply(term=2, read_round=0, last_index=2, timestamp=101))
        self.assertEqual(bench.raft.majority_time(), 101)
        bench.hear(2, HeartbeatReply(term=2, read_round=0, last_index=2, timestamp=3_000_000))
        self.assertEqual(bench.raft.majority_time(), 2_000_000)

    def test_large_entry_goes_alone(self):
        """An entry beyond the in-flight bound goes when nothing else is in flight, and is not split."""
        bench = leading(config=RaftConfig(inflight_size_max=300, append_size_max=200))
        bench.raft.propose(replace(RECORD, payload=bytes(100)), 0)
        bench.raft.propose(replace(RECORD, payload=bytes(1000)), 0)
        bench.raft.propose(RECORD, 0)
        [(_, first)] = [(t, m) for t, m in only(bench.out(), AppendEntries) if t == 2]
        self.assertEqual([e.index for e in first.entries], [3])
        [(_, second)] = [(t, m) for t, m in only(bench.hear(2, holds(2, 3)), AppendEntries) if t == 2]
        self.assertEqual([e.index for e in second.entries], [4])

    def test_no_snapshot_for_the_silent(self):
        """A follower not heard of gets no snapshot: it can be megabytes."""
        bench = Bench(terms=(1, 1, 1))
        bench.leader()
        bench.hear(2, holds(2, 5))
        bench.node.log.trim_prefix(4)
        bench.raft.followers[3].next_index = 2
        bench.raft.followers[3].paused = False
        self.assertFalse(bench.raft.followers[3].active)
        self.assertEqual(only(bench.out(), InstallSnapshot), [])
        self.assertEqual(len(only(bench.hear(3, heartbeat_reply(2, last_index=1)), InstallSnapshot)), 1)

    def test_trimmed_between_two_looks(self):
        """Entries trimmed between two looks at the log make a snapshot, not a malformed append."""
        for method in ("entries", "term_at"):
            bench = Bench(terms=(1, 1, 1), config=RaftConfig(cache_size_max=1))
            bench.leader()
            bench.hear(2, holds(2, 5))
            log = bench.node.log
            real = getattr(log, method)

            def late(*args, real=real, log=log):
                if log.first_index < 5:
                    log.trim_prefix(5)
                return real(*args)

            setattr(log, method, late)
            sent = bench.hear(3, rejects(2, 4, 2, 1))
            self.assertEqual(len(only(sent, InstallSnapshot)), 1, method)

    def test_damage_pauses_the_follower(self):
        """A leader that cannot read its log sends nothing of it; the driver learns of it (openraft#1795).

        It tries again with each answer to a heartbeat, and goes on once the damage is mended.
        """
        bench = Bench(terms=(1, 1, 1), config=RaftConfig(cache_size_max=1))
        bench.leader()
        bench.hear(2, holds(2, 5))

        def entries(low, high, size_max):
            raise DamageError("x.store", 4096, "payload checksum does not match")

        bench.node.log.entries = entries
        self.assertEqual(bench.hear(3, rejects(2, 4, 2, 1)), [])
        self.assertIsInstance(bench.raft.take_unreadable(), DamageError)
        self.assertEqual(bench.out(), [])
        self.assertIsNone(bench.raft.take_unreadable())
        self.assertEqual(only(bench.hear(3, heartbeat_reply(2)), AppendEntries), [])
        self.assertIsInstance(bench.raft.take_unreadable(), DamageError)
        del bench.node.log.entries
        [(_, append)] = only(bench.hear(3, heartbeat_reply(2)), AppendEntries)
        self.assertGreater(len(append.entries), 0)

    def test_caught_up(self):
        """Caught up: for an election timeout without a break it got within one what the log held."""
        bench = leading(learners=1)
        self.assertFalse(bench.raft.is_caught_up(4))
        self.keep_up(bench, 9)
        self.assertFalse(bench.raft.is_caught_up(4))
        self.keep_up(bench, 1)
        self.assertTrue(bench.raft.is_caught_up(4))
        self.assertFalse(bench.raft.is_caught_up(9))
        promoted = bench.raft.configuration.with_role(4, MemberRole.VOTER)
        bench.raft.propose_configuration(promoted, 0)

    def test_slow_learner(self):
        """One that lacks few entries, and gets them more slowly than an election takes, is not caught up."""
        bench = leading(learners=1)
        self.keep_up(bench, 10)
        for _ in range(3):
            bench.raft.propose(RECORD, 0)
        self.keep_up(bench, 11)  # the round before ends, then one begins that holds them
        self.assertTrue(bench.raft.is_caught_up(4))
        self.keep_up(bench, 1)
        self.assertFalse(bench.raft.is_caught_up(4))
        promoted = bench.raft.configuration.with_role(4, MemberRole.VOTER)
        self.assertRaises(MembershipError, bench.raft.propose_configuration, promoted, 0)
        bench.hear(4, holds(2, 5))
        self.keep_up(bench, 10)  # the first of them ends the long round
        self.assertFalse(bench.raft.is_caught_up(4))
        self.keep_up(bench, 1)
        self.assertTrue(bench.raft.is_caught_up(4))

    def keep_up(self, bench, ticks):
        """Let time go by in which the voters answer, and nobody gets any entries."""
        for _ in range(ticks):
            bench.tick()
            for other in (2, 3):
                bench.hear(other, heartbeat_reply(2))

    def test_group_is_in_every_envelope(self):
        """Every message names its group, source and target."""
        bench = leading()
        bench.raft.tick()
        bench.group.turn(1)
        self.assertEqual({(e.group, e.source) for e in bench.group.queue}, {(1, 1)})


class ReadyTests(SynchronousTestCase):
    """The contract with the driver."""

    def test_nothing_to_do(self):
        """Without work there is no Ready."""
        self.assertIsNone(leading().raft.ready())

    def test_must_persist(self):
        """Messages alone need no write, but wait for the writes before them."""
        bench = Bench()
        bench.hear(2, heartbeat(1))
        bench.hear(2, append(1, 1, 1))
        self.assertFalse(bench.readies[-1].must_persist)
        self.assertEqual(len(bench.readies[-1].messages_after_persist), 1)
        bench.hear(2, heartbeat(2))
        self.assertTrue(bench.readies[-1].must_persist)

    def test_no_term_leaves_before_it_is_durable(self):
        """While a new term is being written, even what needs no write waits for it."""
        bench = Bench()
        bench.node.disk = False
        self.assertEqual(bench.hear(2, heartbeat(5)), [])
        self.assertEqual(bench.hear(2, heartbeat(5)), [])
        bench.group.finish_writes(1, 1)
        self.assertEqual([m.term for _, m in bench.out()], [5])
        self.assertEqual([m.term for _, m in bench.hear(2, heartbeat(5))], [5])

    def test_committed_is_bounded(self):
        """Much that is committed comes in several Readies, in order."""
        bench = Bench(terms=(1,) * 9, config=RaftConfig(committed_size_max=130))
        bench.hear(2, heartbeat(1, 10))
        self.assertEqual([e.index for e in bench.node.committed], list(range(1, 11)))
        self.assertTrue(all(len(r.committed) <= 2 for r in bench.readies))

    def test_trimmed_before_delivery(self):
        """What was trimmed in an earlier life is not delivered again."""
        bench = Bench(terms=(1, 1, 1))
        bench.node.log.trim_prefix(3)
        bench.hear(2, heartbeat(1, 4))
        self.assertEqual([e.index for e in bench.node.committed], [3, 4])

    def test_stalled_member_does_not_campaign(self):
        """A member whose disk hangs asks for no votes, and none is counted for it."""
        bench = Bench()
        bench.node.disk = False
        bench.hear(2, append(1, 1, 1, []))
        bench.hear(2, heartbeat(3))
        self.assertEqual(bench.tick(60), [])
        self.assertTrue(bench.raft.is_stalled)
        bench.group.finish_writes(1)
        bench.out()
        self.assertFalse(bench.raft.is_stalled)
        self.assertNotEqual(bench.tick(20), [])
