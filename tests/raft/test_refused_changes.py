"""Changes of the members and of who leads: what is refused, at which value, in which words."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    MembershipError,
    ResourceExhaustedError,
)
from loghouse.limits import MEMBERS_MAX
from loghouse.protocol.configuration import (
    Configuration,
    MemberRole,
    decode_configuration,
    encode_configuration,
)
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.raft_messages import AppendEntries
from loghouse.raft.config import LAN, WAN, RaftConfig
from loghouse.raft.membership import bootstrap_entry, check_change
from tests.raft.group import SEED, configuration
from tests.raft.member import RECORD, Bench, commit, heartbeat_reply, holds, leading, only

VOTER, LEARNER = MemberRole.VOTER, MemberRole.LEARNER
OWN_ID = "a node's id is its own"


class MembershipTests(SynchronousTestCase):
    """Changes of the configuration."""

    def refused(self, bench, new, text):
        last = bench.raft.last_index
        with self.assertRaises(MembershipError) as caught:
            bench.raft.propose_configuration(new, 0)
        self.assertEqual(str(caught.exception), text)
        self.assertEqual(bench.raft.last_index, last)

    def test_in_turn(self):
        """A leader changes nothing before its own term is committed, nor before the last change is."""
        bench = Bench(voters=4)
        bench.leader()
        smaller = bench.raft.configuration.without(4)
        text = "the leader has not committed an entry of its own term yet; try again"
        self.refused(bench, smaller, text)
        commit(bench)
        ticket = bench.raft.propose_configuration(smaller, 33)
        found = (ticket.index, ticket.term, ticket.base_offset, ticket.record_count, ticket.timestamp)
        self.assertEqual(found, (3, 2, 0, 0, 33))
        self.refused(bench, smaller, "another membership change is not committed yet; try again")
        commit(bench)
        bench.raft.propose_configuration(bench.raft.configuration, 0)

    def test_learner_not_caught_up(self):
        """A learner that is not caught up gets no vote; one that is does."""
        bench = leading(learners=2)
        promoted = bench.raft.configuration.with_role(5, VOTER)
        self.refused(bench, promoted, "learner 5 is not caught up yet; try again later")
        for _ in range(bench.raft.config.election_ticks):
            bench.hear(5, holds(2, 2))
            bench.tick()
            bench.hear(2, heartbeat_reply(2))
            bench.hear(3, heartbeat_reply(2))
        bench.hear(5, heartbeat_reply(2))
        bench.raft.propose_configuration(promoted, 0)

    def test_room(self):
        """A change takes room as records do."""
        bench = leading(config=RaftConfig(proposals_max=1))
        bench.raft.propose(RECORD, 0)
        with self.assertRaises(ResourceExhaustedError):
            bench.raft.propose_configuration(bench.raft.configuration.without(3), 0)

    def test_entry(self):
        """The entry is the configuration, of the leader's term."""
        bench = leading()
        new = bench.raft.configuration.without(3)
        bench.raft.propose_configuration(new, 9)
        bench.out()
        [entry] = bench.readies[-1].entries
        self.assertEqual((entry.kind, entry.term, entry.timestamp), (EntryKind.CONFIGURATION, 2, 9))
        self.assertEqual(decode_configuration(bytes(entry.payload)), new)

    def test_voters_near(self):
        """Voters count that were heard within the time, and hold all but one window of the log."""
        for silent, behind, is_fit in [(0, 0, True), (9, 3, True), (10, 3, False), (9, 4, False)]:
            bench = leading(config=RaftConfig(inflight_entries_max=3))
            for _ in range(5):
                bench.raft.propose(RECORD, 0)
            follower = bench.raft.followers[3]
            follower.silent_ticks, follower.match_index = silent, bench.raft.last_index - behind
            new = bench.raft.configuration.without(2)
            if is_fit:
                bench.raft.check_voters(new)
            else:
                with self.assertRaises(MembershipError) as caught:
                    bench.raft.check_voters(new)
                self.assertEqual(
                    str(caught.exception),
                    "of the 2 voters that there would be, n3 cannot be reached or is far behind: no "
                    "majority, nothing was changed; start those first, or wait until they have caught up",
                )

    def test_voters_asked_for(self):
        """The time may be shorter, also nothing; the leader itself needs none."""
        bench = leading()
        new = bench.raft.configuration.without(2)
        bench.raft.followers[3].silent_ticks = 2
        bench.raft.check_voters(new, within_ticks=3)
        for ticks in (2, 0):
            self.assertRaises(MembershipError, bench.raft.check_voters, new, within_ticks=ticks)
        lone = new.without(3)
        bench.raft.check_voters(lone, within_ticks=0)

    def test_missing_but_enough(self):
        """Of five voters two may be missing, of four one; learners do not matter."""
        for voters, silent, is_fit in [
            (6, (2, 3), True),
            (6, (2, 3, 4), False),
            (5, (2,), True),
            (5, (2, 3), False),
        ]:
            bench = leading(voters=voters, learners=1)
            for other in (*silent, voters + 1):
                bench.raft.followers[other].silent_ticks = 99
            new = bench.raft.configuration.without(voters)
            if is_fit:
                bench.raft.check_voters(new)
            else:
                self.assertRaises(MembershipError, bench.raft.check_voters, new)

    def test_changes(self):
        """Which configuration may follow: bounds of members and ids, and who a member is."""
        old = configuration(3)
        full = old
        while len(full.members) < MEMBERS_MAX:
            full = full.with_member(f"x{full.next_id}", bytes(16), LEARNER)
        check_change(old, full)
        check_change(old, replace(old, next_id=0xFFFF_FFFF))
        check_change(old, replace(old, next_id=4))
        jumped = replace(old, next_id=9).with_member("n9", bytes(16), LEARNER)
        check_change(old, jumped)
        one, two, three = old.members
        for new, text in [
            (full.with_member("y", bytes(16), LEARNER), f"a configuration has at most {MEMBERS_MAX} members"),
            (replace(old, next_id=0x1_0000_0000), "next_id must not go back: ids are never reused"),
            (replace(old, next_id=3), "next_id must not go back: ids are never reused"),
            (replace(jumped, next_id=9), "member 'n9' has id 9: new ids go from 4 to next_id"),
            (
                replace(old, members=(one, two, replace(three, name="x"))),
                f"member 3 cannot become 'x'; {OWN_ID}",
            ),
            (
                replace(old, members=(one, two, replace(three, disk_uuid=bytes(16)))),
                f"member 3 cannot become 'n3'; {OWN_ID}",
            ),
            (old.without(1).without(2), "only one voter can change at a time"),
            (
                replace(old, members=(one, two, three, replace(one, role=LEARNER))),
                "two members have the same id",
            ),
        ]:
            with self.assertRaises(MembershipError) as caught:
                check_change(old, new)
            self.assertEqual(str(caught.exception), text)
        with self.assertRaises(MembershipError) as caught:
            check_change(configuration(1), Configuration(next_id=2))
        self.assertEqual(str(caught.exception), "a configuration needs at least one voter")

    def test_first_entry(self):
        """A log begins with its configuration, at index 1 in term 1."""
        entry = bootstrap_entry(SEED, configuration(3), 77)
        self.assertEqual((entry.index, entry.term, entry.kind), (1, 1, EntryKind.CONFIGURATION))
        self.assertEqual((entry.base_offset, entry.record_count, entry.timestamp), (0, 0, 77))
        self.assertEqual(entry.payload, encode_configuration(configuration(3)))


class TransferTests(SynchronousTestCase):
    """Hand-overs."""

    def test_refused(self):
        """To whom leadership cannot go, in words."""
        bench = leading(learners=1)
        for target, text in [
            (4, "member 4 is no voter; leadership cannot go there"),
            (9, "member 9 is no voter; leadership cannot go there"),
        ]:
            with self.assertRaises(MembershipError) as caught:
                bench.raft.transfer_leadership(target)
            self.assertEqual(str(caught.exception), text)
        for other in (2, 3):
            bench.raft.followers[other].silent_ticks = 99
        with self.assertRaises(MembershipError) as caught:
            bench.raft.transfer_leadership(3)
        self.assertEqual(str(caught.exception), "'n3' was not heard lately; leadership stays here")
        with self.assertRaises(MembershipError) as caught:
            bench.raft.transfer_leadership()
        text = "no other voter was heard lately; leadership stays here"
        self.assertEqual(str(caught.exception), text)
        self.assertEqual(bench.raft.transfer_target, 0)

    def test_replicating_target(self):
        """A target that is streamed to is told once it has the last entry."""
        bench = leading()
        bench.raft.propose(RECORD, 0)
        [(_, first), _] = only(bench.out(), AppendEntries)
        self.assertEqual(len(first.entries), 1)
        bench.raft.transfer_leadership(2)
        self.assertEqual([type(m).__name__ for _, m in bench.hear(3, holds(2, 3))], ["AppendEntries"])
        names = [type(m).__name__ for target, m in bench.hear(2, holds(2, 3)) if target == 2]
        self.assertIn("TimeoutNow", names)


class ConfigTests(SynchronousTestCase):
    """`RaftConfig`: what is allowed, and the presets."""

    def test_least(self):
        """The least values are taken: 1, and an election longer than a heartbeat."""
        RaftConfig(
            election_ticks=2,
            heartbeat_ticks=1,
            snapshot_ticks=1,
            append_size_max=1,
            inflight_entries_max=1,
            inflight_size_max=1,
            proposals_max=1,
            proposals_size_max=1,
            committed_size_max=1,
            cache_size_max=1,
            reads_max=1,
        )
        RaftConfig(heartbeat_ticks=4, election_ticks=5)
        with self.assertRaisesRegex(ValueError, "^election_ticks must exceed heartbeat_ticks"):
            RaftConfig(heartbeat_ticks=5, election_ticks=5)
        with self.assertRaisesRegex(ValueError, "^heartbeat_ticks must be at least 1$"):
            RaftConfig(heartbeat_ticks=0)

    def test_presets(self):
        """Ten heartbeats make an election, a wide area waits five times as long; the rest is the same."""
        self.assertEqual((LAN.election_ticks, LAN.heartbeat_ticks, LAN.snapshot_ticks), (10, 1, 20))
        self.assertEqual(WAN, replace(LAN, election_ticks=50, snapshot_ticks=100))

    def test_defaults(self):
        """What is in memory for a group in all is bounded by these, in bytes and in number."""
        mib = 1024 * 1024
        sizes = (LAN.append_size_max, LAN.inflight_size_max, LAN.committed_size_max, LAN.cache_size_max)
        self.assertEqual(sizes, (mib, 4 * mib, 8 * mib, 16 * mib))
        self.assertEqual((LAN.inflight_entries_max, LAN.reads_max), (4096, 16384))
        self.assertEqual((LAN.proposals_max, LAN.proposals_size_max), (16384, 64 * mib))
