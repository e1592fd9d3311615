"""What a leader sends to each follower, and when not: windows, probes, unread entries, commits."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.raft_messages import (
    AppendEntries,
    AppendEntriesReply,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    TimeoutNow,
)
from loghouse.raft.config import RaftConfig
from loghouse.raft.progress import ProgressState
from loghouse.raft.ready import EntriesPendingError, Role
from tests.raft.group import GROUP, entry
from tests.raft.member import RECORD, Bench, append, heartbeat, heartbeat_reply, holds, leading, only, rejects


def appends(sent, target):
    """What is sent to one follower, as (previous index, indices of the entries)."""
    return [
        (m.prev_log_index, [entry.index for entry in m.entries])
        for to, m in only(sent, AppendEntries)
        if to == target
    ]


def propose(bench, *sizes):
    """Append entries of so many bytes in all, headers included."""
    for size in sizes:
        bench.raft.propose(replace(RECORD, payload=bytes(size - 64)), 0)


class StreamTests(SynchronousTestCase):
    """A follower that is streamed to."""

    def test_batches(self):
        """An append has as many entries as fit its bytes, to the byte; the next one follows at once."""
        for size_max, expected in [
            (199, [[3], [4], [5], [6]]),
            (200, [[3, 4], [5, 6]]),
            (299, [[3, 4], [5, 6]]),
            (300, [[3, 4, 5], [6]]),
            (50, [[3], [4], [5], [6]]),
        ]:
            bench = leading(config=RaftConfig(append_size_max=size_max))
            propose(bench, 100, 100, 100, 100)
            found = appends(bench.out(), 2)
            if size_max == 50:  # a single larger entry goes alone: nothing else may be in flight then
                self.assertEqual(found, [(2, [3])])
                self.assertEqual(appends(bench.hear(2, holds(2, 3)), 2), [(3, [4])])
                continue
            self.assertEqual([indices for _, indices in found], expected, size_max)
            self.assertEqual([prev for prev, _ in found], [indices[0] - 1 for indices in expected])

    def test_entries_in_flight(self):
        """So many entries are in flight; each acknowledgement makes room for as many."""
        bench = leading(config=RaftConfig(inflight_entries_max=3))
        propose(bench, *[100] * 7)
        self.assertEqual(appends(bench.out(), 2), [(2, [3, 4, 5])])
        self.assertEqual(appends(bench.hear(2, holds(2, 4)), 2), [])
        self.assertEqual(appends(bench.hear(2, holds(2, 5)), 2), [(5, [6, 7, 8])])
        self.assertEqual(appends(bench.hear(2, holds(2, 8)), 2), [(8, [9])])
        self.assertEqual(appends(bench.hear(2, holds(2, 9)), 2), [(9, [])])  # the commit, alone

    def test_bytes_in_flight(self):
        """So many bytes are in flight; what is left of them bounds the next append."""
        bench = leading(config=RaftConfig(inflight_size_max=350, append_size_max=200))
        propose(bench, *[100] * 6)
        self.assertEqual(appends(bench.out(), 2), [(2, [3, 4]), (4, [5])])
        self.assertEqual(appends(bench.hear(2, holds(2, 4)), 2), [(5, [6, 7])])

    def test_large_entry(self):
        """An entry larger than all bounds goes when nothing else is in flight."""
        bench = leading(config=RaftConfig(inflight_size_max=350, append_size_max=200))
        propose(bench, 100, 5000, 100)
        self.assertEqual(appends(bench.out(), 2), [(2, [3])])
        self.assertEqual(appends(bench.hear(2, holds(2, 3)), 2), [(3, [4])])
        self.assertEqual(appends(bench.hear(2, holds(2, 4)), 2), [(4, [5])])

    def test_answer_to_a_heartbeat(self):
        """One append without entries, behind those in flight, shows whether they came; just one."""
        bench = leading()
        propose(bench, 100)
        self.assertEqual(appends(bench.out(), 2), [(2, [3])])
        self.assertEqual(appends(bench.hear(2, heartbeat_reply(2)), 2), [(3, [])])
        self.assertEqual(appends(bench.out(), 2), [])
        bench.hear(2, holds(2, 3))
        self.assertEqual(appends(bench.hear(2, heartbeat_reply(2)), 2), [])

    def test_lost_append(self):
        """An append that was lost is found by that, and sent again as a probe, then the stream goes on."""
        bench = leading()
        propose(bench, 100, 100)
        bench.out()
        bench.hear(2, heartbeat_reply(2))
        sent = bench.hear(2, rejects(2, 4, 2, 2))
        self.assertEqual(appends(sent, 2), [(2, [3, 4])])
        self.assertIs(bench.raft.followers[2].state, ProgressState.PROBE)
        self.assertEqual(appends(bench.out(), 2), [])
        propose(bench, 100)
        self.assertEqual(appends(bench.out(), 2), [])
        self.assertEqual(appends(bench.hear(2, holds(2, 4)), 2), [(4, [5])])
        self.assertIs(bench.raft.followers[2].state, ProgressState.REPLICATE)

    def test_follower_that_lost_entries(self):
        """One that holds less than it said is sent the rest, and this is counted; the same is no loss."""
        bench = leading()
        propose(bench, 100, 100)
        bench.out()
        bench.hear(2, holds(2, 4))
        bench.hear(2, heartbeat_reply(2, last_index=4))
        self.assertEqual(bench.node.refusals["follower lost entries"], 0)
        sent = bench.hear(2, heartbeat_reply(2, last_index=3))
        self.assertEqual(bench.node.refusals["follower lost entries"], 1)
        self.assertEqual((bench.raft.followers[2].match_index, appends(sent, 2)), (3, [(3, [4])]))


class ProbeTests(SynchronousTestCase):
    """A follower whose log is looked for."""

    def test_one_at_a_time(self):
        """A probe carries entries, as many as an append may, and waits for an answer to it or a heartbeat."""
        bench = Bench(terms=(1, 1, 1), config=RaftConfig(append_size_max=150, cache_size_max=1))
        bench.leader()
        self.assertEqual(bench.out(), [])
        self.assertEqual(appends(bench.hear(3, rejects(2, 4, 2, 1)), 3), [(2, [3, 4])])
        self.assertEqual(appends(bench.out(), 3), [])
        self.assertEqual(appends(bench.hear(3, heartbeat_reply(2)), 3), [(2, [3, 4])])

    def test_hints(self):
        """The next probe is where both logs can agree: never a term that the follower does not have."""
        for hint_index, hint_term, prev in [
            (5, 1, 3),  # our entries 2 and 3 are of term 1
            (5, 2, 5),
            (4, 2, 4),
            (3, 2, 3),
            (2, 1, 2),
            (1, 1, 1),
            (0, 0, 0),
            (5, 0, 0),
        ]:
            bench = Bench(terms=(1, 1, 2, 2, 3))
            bench.leader()
            [(found, _)] = appends(bench.hear(3, rejects(4, 6, hint_index, hint_term)), 3)
            self.assertEqual(found, prev, (hint_index, hint_term))

    def test_hint_below_the_log(self):
        """A hint at what is trimmed makes a snapshot."""
        bench = Bench(terms=(1, 1, 1))
        bench.leader()
        bench.hear(2, holds(2, 5))
        bench.node.log.trim_prefix(4)
        self.assertEqual(len(only(bench.hear(3, rejects(2, 4, 2, 1)), InstallSnapshot)), 1)
        self.assertEqual(bench.raft.followers[3].pending_snapshot, 3)

    def test_hint_at_the_logs_begin(self):
        """The entry before the first is known by its term: behind it no snapshot is needed."""
        bench = Bench(terms=(1, 1, 1))
        bench.leader()
        bench.hear(2, holds(2, 5))
        bench.node.log.trim_prefix(4)
        sent = bench.hear(3, rejects(2, 4, 3, 1))
        self.assertEqual(only(sent, InstallSnapshot), [])
        self.assertEqual(appends(sent, 3)[0][0], 3)

    def test_probe_at_the_end(self):
        """A follower that holds everything is probed as well: an append without entries."""
        bench = leading()
        bench.raft.followers[2].become_probe()
        self.assertEqual(appends(bench.out(), 2), [(2, [])])
        self.assertEqual(appends(bench.out(), 2), [])

    def test_acknowledged_probe(self):
        """An answer that tells what is held, also what was known, begins the stream; an older one not."""
        for index, state in [(2, ProgressState.REPLICATE), (1, ProgressState.PROBE)]:
            bench = leading()
            bench.raft.followers[2].become_probe()
            bench.raft.followers[2].paused = True
            bench.hear(2, holds(2, index))
            self.assertIs(bench.raft.followers[2].state, state, index)


class SnapshotTests(SynchronousTestCase):
    """A follower that was sent a snapshot."""

    def waiting(self):
        bench = Bench(terms=(1, 1, 1))
        bench.leader()
        bench.hear(2, holds(2, 5))
        bench.node.log.trim_prefix(4)
        bench.hear(3, rejects(2, 4, 1, 1))
        self.assertIs(bench.raft.followers[3].state, ProgressState.SNAPSHOT)
        return bench

    def test_ends(self):
        """It is streamed to once its log joins this one: from the entry before the first on."""
        for index, state in [
            (1, ProgressState.SNAPSHOT),
            (2, ProgressState.SNAPSHOT),
            (3, ProgressState.REPLICATE),
            (5, ProgressState.REPLICATE),
        ]:
            bench = self.waiting()
            bench.hear(3, holds(2, index))
            self.assertIs(bench.raft.followers[3].state, state, index)

    def test_not_probed(self):
        """Neither a new entry nor the answer to a heartbeat sends it anything."""
        bench = self.waiting()
        propose(bench, 100)
        self.assertEqual([t for t, _ in only(bench.out(), AppendEntries)], [2])
        sent = bench.hear(3, heartbeat_reply(2, last_index=1))
        self.assertEqual([t for t, m in sent if t == 3], [])


class UnreadTests(SynchronousTestCase):
    """Entries that are only on the leader's disk."""

    def behind(self):
        """A leader that must read entries 2 to 4 from its disk for member 3."""
        bench = Bench(terms=(1, 1, 1), config=RaftConfig(cache_size_max=1))
        bench.leader()
        bench.hear(2, holds(2, 5))
        return bench

    def test_pending(self):
        """What is being read is sent when it is here; other followers do not wait."""
        bench = self.behind()
        real = bench.node.log.entries

        def pending(*_):
            raise EntriesPendingError

        bench.node.log.entries = pending
        self.assertEqual(appends(bench.hear(3, rejects(2, 4, 2, 1)), 3), [])
        propose(bench, 100)
        self.assertEqual(appends(bench.out(), 2), [(5, [6])])
        bench.node.log.entries = real
        self.assertEqual(appends(bench.out(), 3)[0][0], 2)

    def test_damaged_stream(self):
        """A stream that comes to damage stops, is probed with each heartbeat, goes on when it is mended."""
        bench = self.behind()
        bench.raft.followers[3].match_index = 2
        bench.raft.followers[3].become_replicate()
        real = bench.node.log.entries

        def damaged(*_):
            raise DamageError("x.store", 4096, "payload checksum does not match")

        bench.node.log.entries = damaged
        self.assertEqual(appends(bench.out(), 3), [])
        follower = bench.raft.followers[3]
        self.assertEqual((follower.state, follower.paused), (ProgressState.PROBE, True))
        self.assertIsInstance(bench.raft.take_unreadable(), DamageError)
        bench.node.log.entries = real
        self.assertEqual(appends(bench.out(), 3), [])
        self.assertEqual(appends(bench.hear(3, heartbeat_reply(2)), 3)[0][0], 2)


class CommitTests(SynchronousTestCase):
    """What is committed, and who is told."""

    def test_majority(self):
        """An entry is committed once a majority of voters holds it: learners do not count."""
        for voters, learners, heard, is_committed in [
            (3, 0, (2,), True),
            (4, 0, (2,), False),
            (4, 0, (2, 3), True),
            (5, 0, (4,), False),
            (5, 0, (4, 5), True),
            (3, 2, (4, 5), False),
        ]:
            bench = leading(voters=voters, learners=learners)
            propose(bench, 100)
            bench.out()
            for other in heard:
                bench.hear(other, holds(2, 3))
            case = (voters, learners, heard)
            self.assertEqual(bench.raft.commit_index, 3 if is_committed else 2, case)

    def test_own_term_first(self):
        """Entries of older terms are committed only with one of the own term on top."""
        bench = Bench(terms=(1, 1, 1))
        bench.leader()
        bench.hear(2, holds(2, 4))
        self.assertEqual((bench.raft.commit_index, bench.raft.has_own_commit), (0, False))
        bench.hear(2, holds(2, 5))
        self.assertEqual((bench.raft.commit_index, bench.raft.has_own_commit), (5, True))

    def test_followers_are_told(self):
        """Each append and heartbeat tells the commit index, a heartbeat only what the follower holds."""
        bench = leading()
        propose(bench, 100)
        self.assertEqual({m.commit_index for _, m in only(bench.out(), AppendEntries)}, {2})
        bench.hear(2, holds(2, 3))
        told = {target: m.commit_index for target, m in only(bench.tick(), Heartbeat)}
        self.assertEqual(told, {2: 3, 3: 2})
        propose(bench, 100)
        told = {target: m.commit_index for target, m in only(bench.out(), AppendEntries)}
        self.assertEqual(told, {2: 3, 3: 3})

    def test_leader_that_leaves(self):
        """A leader without a vote leads until its removal is committed, tells the others, and names one."""
        bench = leading()
        propose(bench, 100)
        bench.raft.propose_configuration(bench.raft.configuration.without(1), 0)
        bench.out()
        for other in (2, 3):
            bench.hear(other, holds(2, 3))
        self.assertEqual((bench.raft.commit_index, bench.raft.role), (3, Role.LEADER))
        bench.hear(2, holds(2, 4))
        self.assertEqual((bench.raft.commit_index, bench.raft.role), (3, Role.LEADER))
        sent = bench.hear(3, holds(2, 4))
        self.assertEqual((bench.raft.commit_index, bench.raft.role), (4, Role.LEARNER))
        self.assertEqual({m.commit_index for _, m in only(sent, AppendEntries)}, {4})
        self.assertEqual([target for target, _ in only(sent, AppendEntries)], [2, 3])
        self.assertEqual(only(sent, TimeoutNow), [(2, TimeoutNow(term=2))])

    def test_time_of_a_majority(self):
        """The time that most voters' clocks reached; who is not heard of has none."""
        bench = leading(voters=5, learners=1)
        bench.raft.tick(70)
        self.assertEqual(bench.raft.majority_time(), 0)
        for source, timestamp, expected in [(2, 50, 0), (6, 99, 0), (3, 60, 50), (4, 90, 60), (5, 80, 70)]:
            bench.hear(source, HeartbeatReply(term=2, read_round=0, last_index=2, timestamp=timestamp))
            self.assertEqual(bench.raft.majority_time(), expected, source)
        self.assertEqual(Bench(voters=0, learners=3).raft.majority_time(), 0)

    def test_newest_timestamp(self):
        """The log's last append time is that of its last entry."""
        bench = leading()
        bench.raft.propose(RECORD, 123)
        self.assertEqual(bench.raft.newest_timestamp, 123)


class FollowerTests(SynchronousTestCase):
    """What a follower answers, and what it keeps."""

    def test_rejection(self):
        """It says what did not fit, and its last entry that could: below the leader's term there."""
        for prev_index, prev_term, hint in [
            (9, 4, (6, 3)),
            (6, 4, (6, 3)),
            (5, 3, (5, 2)),
            (6, 2, (5, 2)),
            (4, 1, (3, 1)),
            (9, 1, (3, 1)),
        ]:
            bench = Bench(terms=(1, 1, 2, 2, 3))
            [(target, reply)] = bench.hear(2, append(4, prev_index, prev_term))
            self.assertEqual(target, 2)
            self.assertEqual(
                reply,
                AppendEntriesReply(
                    term=4, success=False, index=prev_index, hint_index=hint[0], hint_term=hint[1]
                ),
                (prev_index, prev_term),
            )

    def test_acknowledged(self):
        """It acknowledges what it was sent, or what it knows to be committed: never more."""
        for message, index in [
            (append(1, 2, 1), 3),
            (append(1, 4, 1), 4),
            (append(1, 1, 1, commit_index=3), 3),
            (append(1, 0, 0), 3),
        ]:
            bench = Bench(terms=(1, 1, 1), commit_index=3)
            [(_, reply)] = only(bench.hear(2, message), AppendEntriesReply)
            self.assertEqual(reply, holds(1, index), message)

    def test_late_append_below_a_trimmed_log(self):
        """What is trimmed is not compared any more, whatever its term."""
        bench = Bench(terms=(1, 1, 1, 1), commit_index=5)
        bench.node.log.trim_prefix(4)
        [(_, reply)] = only(bench.hear(2, append(2, 1, 2)), AppendEntriesReply)
        self.assertEqual(reply, holds(2, 5))

    def test_heartbeat_reply(self):
        """It answers a heartbeat with the round, its last index and its clock."""
        bench = Bench(terms=(1, 1), now=44)
        [(target, reply)] = bench.hear(2, heartbeat(1, 2, 7))
        self.assertEqual(target, 2)
        self.assertEqual(reply, HeartbeatReply(term=1, read_round=7, last_index=3, timestamp=44))
        self.assertEqual(bench.raft.commit_index, 2)

    def test_bytes_to_write(self):
        """From twice the in-flight bytes on its disk's list it takes no entries, but answers a probe."""
        for size, is_taken in [(199, True), (200, False), (201, False)]:
            bench = Bench(config=RaftConfig(inflight_size_max=100))
            bench.node.disk = False
            one, two = entries_of(size, 100)
            bench.hear(2, append(1, 1, 1, [one]))
            bench.hear(2, append(1, 2, 1, [two]))
            self.assertEqual(bench.raft.last_index, 3 if is_taken else 2, size)
            bench.raft.step(Envelope(GROUP, 2, 1, append(1, 2, 1)))
            self.assertEqual(bench.node.refusals["more appends than the disk takes"], 0 if is_taken else 1)


def entries_of(*sizes):
    """No-ops from index 2 on, of so many bytes in all."""
    return [entry(index, 1, EntryKind.NOOP, payload=bytes(size - 64)) for index, size in enumerate(sizes, 2)]
