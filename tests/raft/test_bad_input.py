"""Messages nobody should send: refused or ignored, never a crash, never memory without bound.

LOGHOUSE_FUZZ says how many random messages each role gets.
"""

import contextlib
import os
import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    ConsensusError,
    DivergenceError,
    EntryError,
    LoghouseError,
    MalformedMessageError,
    ProtocolError,
)
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.log_state import LogState, encode_log_state
from loghouse.protocol.raft_messages import (
    AppendEntries,
    AppendEntriesReply,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    ReadIndex,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
    envelope_from_wire,
    envelope_to_wire,
)
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import Proposal, Role
from tests.raft.group import GROUP, SEED, configuration, entry
from tests.raft.member import (
    Bench,
    append,
    ask_vote,
    heartbeat,
    heartbeat_reply,
    holds,
    only,
    rejects,
    vote_reply,
)
from tests.raft.test_paper_later import snapshot

FUZZ = int(os.environ.get("LOGHOUSE_FUZZ", "1500"))
HUGE = (1 << 64) - 1


def follower(terms=(1, 2, 2)):
    bench = Bench(terms=terms)
    bench.hear(2, heartbeat(3, 2))
    return bench


def pre_candidate():
    bench = Bench(terms=(1, 2, 2), commit_index=2)
    bench.campaign()
    return bench


def candidate():
    bench = Bench(terms=(1, 2, 2), commit_index=2)
    bench.candidate()
    return bench


def leader():
    bench = Bench(terms=(1, 2, 2), learners=1, commit_index=2).committing_leader()
    for number in range(5):
        bench.raft.propose(Proposal(payload=bytes([number]), record_count=1), 0)
    bench.out()
    return bench


def learner():
    bench = Bench(voters=0, learners=3, terms=(1, 2))
    bench.hear(2, heartbeat(3, 2))
    return bench


ROLES = {
    Role.FOLLOWER: follower,
    Role.PRE_CANDIDATE: pre_candidate,
    Role.CANDIDATE: candidate,
    Role.LEADER: leader,
    Role.LEARNER: learner,
}


class RandomMessage:
    """Well-formed messages whose numbers mean nothing, or nearly something."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def number(self, near):
        near = min(near, HUGE - 2)
        return self.rng.choice(
            [0, 1, 2, near, near, near + 1, max(0, near - 1), near + 2, self.rng.getrandbits(64), HUGE]
        )

    def flag(self):
        return self.rng.random() < 0.5

    def entries(self, raft, prev):
        found, term = [], self.rng.randrange(1, raft.term + 2)
        offset = self.number(raft.next_offset) % (1 << 62)
        for index in range(prev + 1, prev + 1 + self.rng.randrange(4)):
            if index >= 1 << 64:
                break
            kind = self.rng.choice(list(EntryKind))
            count = self.rng.randrange(1, 4) if kind == EntryKind.RECORDS else 0
            payload = self.rng.randbytes(self.rng.randrange(8))
            found.append(entry(index, term, kind, offset, payload, record_count=count))
            offset += count
            term += self.rng.random() < 0.2
        return found

    def for_(self, raft):
        """Return a random message for this member."""
        term = self.number(raft.term)
        index, other = self.number(raft.last_index), self.number(raft.commit_index)
        kind = self.rng.randrange(10)
        if kind == 0:
            return RequestVote(
                term=term,
                last_log_index=index,
                last_log_term=self.number(raft.term),
                pre_vote=self.flag(),
                transfer=self.flag(),
            )
        if kind == 1:
            return RequestVoteReply(term=term, granted=self.flag(), pre_vote=self.flag())
        if kind == 2:
            entries = self.entries(raft, index)
            prev_term = raft.term_at(index) if self.flag() else self.number(raft.term)
            return append(term, index, prev_term, entries, other)
        if kind == 3:
            return AppendEntriesReply(
                term=term,
                success=self.flag(),
                index=index,
                hint_index=other,
                hint_term=self.number(raft.term),
            )
        if kind == 4:
            return Heartbeat(term=term, commit_index=index, read_round=other)
        if kind == 5:
            return HeartbeatReply(term=term, read_round=other, last_index=index, timestamp=self.number(0))
        if kind == 6:
            state = LogState(
                index=index, term=self.number(raft.term), configuration=configuration(self.rng.randrange(4))
            )
            data = encode_log_state(state)
            cut = self.rng.randrange(len(data)) if self.rng.random() < 0.3 else len(data)
            return InstallSnapshot(term=term, state=data[:cut])
        if kind == 7:
            return TimeoutNow(term=term)
        if kind == 8:
            return ReadIndex(term=term, context=index)
        return ReadIndexReply(term=term, context=other, index=index)


class FuzzTests(SynchronousTestCase):
    """Random well-formed messages to every role."""

    def fuzz(self, role):
        for seed in range(FUZZ // 50):
            bench = ROLES[role]()
            self.assertIs(bench.raft.role, role)
            source = RandomMessage(f"{role} {seed}")
            for _ in range(50):
                self.one(bench, source)

    def one(self, bench, source):
        raft = bench.raft
        term, commit_index = raft.term, raft.commit_index
        fixed = [raft.term_at(index) for index in range(1, min(commit_index, 40) + 1)]
        sender, target = source.rng.choice([0, 1, 2, 3, 9]), source.rng.choice([1, 1, 1, 1, 2])
        group = source.rng.choice([GROUP, GROUP, GROUP, GROUP, 7])
        envelope = Envelope(group, sender, target, source.for_(raft))
        # What came over the wire is the same message.
        kind, group, pieces = envelope_to_wire(envelope)
        try:
            envelope_from_wire(kind, group, b"".join(pieces), SEED)
        except MalformedMessageError:
            self.assertIsInstance(envelope.message, AppendEntries)
        with contextlib.suppress(ProtocolError, EntryError, ConsensusError):
            raft.step(envelope)
        if source.rng.random() < 0.3:
            raft.tick()
        sent = bench.out()
        self.assertLess(len(sent), 50)
        self.assertGreaterEqual(raft.term, term)
        self.assertGreaterEqual(raft.commit_index, commit_index)
        self.assertGreaterEqual(raft.last_index, raft.commit_index)
        # (A snapshot may replace what was committed: its term is then not known any more, 0.)
        for index, fixed_term in enumerate(fixed, 1):
            self.assertIn(raft.term_at(index), (fixed_term, 0))
        self.assertLess(len(bench.node.refusals), 40)

    def test_follower(self):
        """A follower survives everything, and keeps what is committed."""
        self.fuzz(Role.FOLLOWER)

    def test_pre_candidate(self):
        """So does a pre-candidate."""
        self.fuzz(Role.PRE_CANDIDATE)

    def test_candidate(self):
        """So does a candidate."""
        self.fuzz(Role.CANDIDATE)

    def test_leader(self):
        """So does a leader."""
        self.fuzz(Role.LEADER)

    def test_learner(self):
        """So does a learner."""
        self.fuzz(Role.LEARNER)


class RefusalTests(SynchronousTestCase):
    """Particular nonsense and its particular answer."""

    def refused(self, bench, source, message, reason, **where):
        envelope = Envelope(where.get("group", GROUP), source, where.get("target", 1), message)
        before = bench.node.describe()
        bench.raft.step(envelope)
        self.assertEqual(bench.node.refusals[reason], 1, bench.node.refusals)
        self.assertEqual(bench.node.describe(), before)
        self.assertEqual(bench.out(), [])

    def test_addresses(self):
        """Other groups, other targets, nobody and oneself are not listened to."""
        reason = "not addressed to this member"
        self.refused(follower(), 2, heartbeat(9), reason, group=2)
        self.refused(follower(), 2, heartbeat(9), reason, target=3)
        self.refused(follower(), 1, heartbeat(9), reason)
        self.refused(follower(), 0, heartbeat(9), reason)

    def test_absurd_terms(self):
        """A term that no number of elections reaches is ignored: it would be the last one."""
        for message in (heartbeat(HUGE), append(1 << 63), ask_vote(HUGE, HUGE, HUGE), holds(HUGE, 1)):
            self.refused(follower(), 2, message, "absurd term")

    def test_newer_terms_of_strangers(self):
        """Answers in a newer term are believed from members only; hand-overs and reads from nobody."""
        reason = "newer term without reason"
        self.refused(leader(), 9, holds(7, 1), reason)
        self.refused(candidate(), 9, vote_reply(7, granted=False), reason)
        self.refused(follower(), 2, TimeoutNow(term=9), reason)
        self.refused(follower(), 2, ReadIndex(term=9, context=1), reason)
        self.refused(leader(), 2, ReadIndexReply(term=9, context=1, index=1), reason)

    def test_older_terms(self):
        """Answers, hand-overs and reads of older terms are ignored."""
        for message in (holds(1, 1), TimeoutNow(term=1), ReadIndex(term=1, context=1), heartbeat_reply(1)):
            self.refused(leader(), 2, message, "older term")

    def test_wrong_roles(self):
        """What is meant for another role is ignored."""
        self.refused(follower(), 2, holds(3, 1), "reply from no follower")
        self.refused(follower(), 2, heartbeat_reply(3), "reply from no follower")
        self.refused(leader(), 9, holds(3, 1), "reply from no follower")
        self.refused(leader(), 9, heartbeat_reply(3), "reply from no follower")
        self.refused(leader(), 2, vote_reply(3), "vote not asked for, or too late")
        self.refused(candidate(), 9, vote_reply(3), "vote of another term or of no voter")
        self.refused(follower(), 3, ReadIndex(term=3, context=1), "read from no follower")
        self.refused(leader(), 9, ReadIndex(term=3, context=1), "read from no follower")
        self.refused(follower(), 3, ReadIndexReply(term=3, context=1, index=1), "answer from no leader")
        self.refused(follower(), 3, TimeoutNow(term=3), "hand-over that does not fit")
        self.refused(leader(), 2, TimeoutNow(term=3), "hand-over that does not fit")

    def test_second_leader(self):
        """A second leader in one term is a lie; the first is kept."""
        for message in (heartbeat(3, 4), append(3, 4, 2), snapshot(3, 90, 3)):
            self.refused(follower(), 3, message, "second leader of a term")
            self.refused(leader(), 2, message, "second leader of a term")

    def test_acknowledgement_of_the_future(self):
        """Nobody can hold what the leader never had."""
        self.refused(leader(), 2, holds(3, 900), "reply beyond the log")

    def test_late_rejections(self):
        """A refusal of something acknowledged since changes nothing."""
        bench = leader()
        self.refused(bench, 2, rejects(3, 1, 1, 1), "stale rejection")

    def test_entries_out_of_order(self):
        """Entries must follow each other, in terms that do not fall nor pass the message's."""
        for entries in (
            [entry(6, 3)],
            [entry(5, 3), entry(7, 3)],
            [entry(5, 3), entry(6, 2)],
            [entry(5, 4)],
            [entry(5, 1)],
        ):
            bench = follower()
            with self.assertRaises(MalformedMessageError):
                bench.raft.step(Envelope(GROUP, 2, 1, append(3, 4, 2, entries)))
            self.assertEqual(bench.terms(), [1, 2, 2])

    def test_entries_that_do_not_join(self):
        """An entry whose offset does not join is never taken, and nothing is acknowledged."""
        bench = follower()
        with self.assertRaises(EntryError):
            bench.raft.step(Envelope(GROUP, 2, 1, append(3, 4, 2, [entry(5, 3), entry(6, 3, base_offset=4)])))
        self.assertEqual(bench.terms(), [1, 2, 2, 3])
        self.assertEqual(only(bench.out(), AppendEntriesReply), [])

    def test_malformed_configuration(self):
        """An entry whose payload is not what its kind says is never taken."""
        bench = follower()
        bad = entry(5, 3, EntryKind.CONFIGURATION, payload=b"\xff" * 9)
        with self.assertRaises(LoghouseError):
            bench.raft.step(Envelope(GROUP, 2, 1, append(3, 4, 2, [bad])))
        self.assertEqual(bench.raft.last_index, 4)

    def test_contradiction_of_committed_entries(self):
        """A leader that contradicts what is committed here is not obeyed: the member stops."""
        for message in (
            append(9, 2, 1, [entry(3, 9)]),
            append(9, 3, 9),
            append(9, 3, 9, [entry(4, 9)]),
            append(9, 1, 1, [entry(2, 1), entry(3, 9), entry(4, 9)]),
            snapshot(9, 3, 9),
        ):
            bench = follower()
            bench.hear(2, heartbeat(3, 3))
            with self.assertRaises(DivergenceError) as caught:
                bench.raft.step(Envelope(GROUP, 3, 1, message))
            self.assertEqual((caught.exception.index, caught.exception.term), (3, 2))
            self.assertEqual(bench.terms(), [1, 2, 2])
            self.assertEqual(only(bench.out(), AppendEntriesReply), [])

    def test_malformed_snapshots(self):
        """A snapshot that is none, or of the future, is malformed; the log stays."""
        state = encode_log_state(LogState(index=50, term=9, configuration=configuration(3)))
        for data in (b"", b"x" * 40, state[:-1], state):
            bench = follower()
            with self.assertRaises(MalformedMessageError):
                bench.raft.step(Envelope(GROUP, 2, 1, InstallSnapshot(term=3, state=data)))
            self.assertEqual(bench.terms(), [1, 2, 2])

    def test_huge_commit_index(self):
        """A commit index beyond the log commits what is held and known to fit."""
        bench = follower()
        bench.hear(2, append(3, 4, 2, [entry(5, 3)], HUGE))
        self.assertEqual(bench.raft.commit_index, 5)
        bench.hear(2, heartbeat(3, HUGE))
        self.assertEqual(bench.raft.commit_index, 5)

    def test_read_round_of_the_future(self):
        """An answer to a heartbeat never sent confirms nothing."""
        bench = leader()
        bench.hear(2, heartbeat_reply(3, read_round=99))
        read = bench.raft.read_index()
        bench.out()
        self.assertNotIn(read, bench.node.reads)

    def test_appends_are_bounded(self):
        """A follower whose disk is slow takes so many bytes and no more; later they are sent again."""
        bench = Bench(config=RaftConfig(inflight_size_max=300))
        bench.node.disk = False
        index = 1
        while not bench.node.refusals and index < 100:
            bench.hear(2, append(1, index, 1, [entry(index + 1, 1, payload=bytes(100))]))
            index += 1
        self.assertEqual(bench.node.refusals["more appends than the disk takes"], 1)
        self.assertEqual(bench.raft.last_index, 5)
        bench.group.finish_writes(1)
        bench.hear(2, append(1, 5, 1, [entry(6, 1, payload=bytes(100))]))
        self.assertEqual(bench.raft.last_index, 6)

    def test_reads_of_followers_are_bounded(self):
        """A leader holds so many unanswered reads and no more."""
        bench = Bench(config=RaftConfig(reads_max=3)).committing_leader()
        for context in range(10):
            bench.raft.step(Envelope(GROUP, 2, 1, ReadIndex(term=2, context=context)))
        self.assertEqual(bench.node.refusals["too many reads"], 7)

    def test_unknown_token(self):
        """The disk cannot finish what it was never given."""
        with self.assertRaises(ValueError):
            Bench().raft.persisted(99)
