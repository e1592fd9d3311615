"""Three replicas over real logs: what is answered, when, and what never leaves before the disk said so."""

from dataclasses import replace
from unittest.mock import Mock

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    DamageError,
    DiskFailedError,
    DiskFullError,
    DivergenceError,
    NotLeaderError,
    OutcomeUnknownError,
    UnavailableError,
)
from loghouse.node.api import proposing
from loghouse.protocol.configuration import encode_trim
from loghouse.protocol.entry import EntryKind, make_entry
from loghouse.protocol.raft_messages import (
    AppendEntries,
    AppendEntriesReply,
    Envelope,
    InstallSnapshot,
    RequestVote,
    RequestVoteReply,
)
from loghouse.raft.config import LAN
from loghouse.raft.ready import Proposal
from loghouse.replica import driver
from tests.driver.group import SEED, Group

TWO_ELECTIONS = 2 * LAN.election_ticks


class DriverTestCase(SynchronousTestCase):
    """Has a group of three, the first of which leads."""

    CONFIG = LAN

    def setUp(self):
        self.group = Group(3, self.CONFIG)
        self.leader = self.group.elect(1)
        self.addCleanup(self.check_end)

    def check_end(self):
        """Whatever the test did: after a stop nobody waits."""
        for member in self.group.members.values():
            member.replica.stop()
            self.assertTrue(member.replica._unsettled.is_empty)
            self.assertEqual(member.replica._reads, {})
            self.assertEqual(member.replica._behind, [])
            self.assertEqual(member.replica._idle, [])
        for done in self.group.proposed:
            self.assertTrue(done.called)
            done.addErrback(lambda failure: failure.trap(OutcomeUnknownError, UnavailableError))

    def same_logs(self):
        frames = [member.frames() for member in self.group.members.values()]
        self.assertTrue(all(other == frames[0] for other in frames[1:]), [len(one) for one in frames])


class CommitTests(DriverTestCase):
    """A commit needs a majority's disks; promises leave after the disk said so."""

    def test_majority_of_disks(self):
        """One disk of three acknowledges nothing; two do, also without the leader's own."""
        for member in self.group.members.values():
            member.disk.is_held = True
        done = self.leader.propose_and_settle()
        self.assertNoResult(done)
        self.group[2].disk.is_held = False
        self.group.settle()
        self.assertNoResult(done)
        self.group[3].disk.is_held = False
        self.group.settle()
        self.assertEqual(self.successResultOf(done).base_offset, 0)

    def test_committed_is_not_readable_before_it_is_durable_here(self):
        """A leader whose own disk is slow acknowledges by the others' disks, and serves it after its own."""
        self.leader.disk.is_held = True
        done = self.leader.propose_and_settle()
        self.successResultOf(done)
        self.assertEqual(self.leader.replica.readable_offset, 0)
        read = self.leader.read_barrier()
        self.group.settle()
        self.assertNoResult(read)
        self.leader.disk.is_held = False
        self.group.settle()
        self.assertEqual(self.leader.replica.readable_offset, 1)
        self.assertEqual(self.successResultOf(read), self.leader.replica.readable_index)

    def test_acknowledgements_wait_for_the_disk(self):
        """A follower says that it has an entry only once its disk has it."""
        follower = self.group[2]
        follower.disk.is_held = True
        follower.sent.clear()
        self.leader.propose_and_settle()
        self.assertEqual(follower.sent_of(AppendEntriesReply), [])
        follower.disk.is_held = False
        self.group.settle()
        self.assertEqual(
            {reply.index for reply in follower.sent_of(AppendEntriesReply) if reply.success},
            {self.leader.raft.last_index},
        )

    def test_acknowledgements_wait_for_every_earlier_write(self):
        """Behind a write on its way, even an answer without a write of its own waits."""
        follower = self.group[2]
        follower.disk.is_held = True
        self.leader.propose_and_settle()
        follower.sent.clear()
        self.group.tick(1, count=2)  # heartbeats, with a commit index for the entry that is being written
        self.leader.propose_and_settle()
        self.assertEqual(follower.sent_of(AppendEntriesReply), [])
        follower.disk.is_held = False
        self.group.settle()
        self.assertEqual(follower.log.durable_index, self.leader.raft.last_index)

    def test_votes_wait_for_the_disk(self):
        """A candidate asks, and a voter grants, only when term and vote are durable."""
        self.leader.is_silent = True
        second, third = self.group[2], self.group[3]
        second.disk.is_held = third.disk.is_held = True
        for member in (second, third):
            member.sent.clear()
        self.group.tick(3, count=LAN.election_ticks)
        self.group.tick(2, count=TWO_ELECTIONS)
        asked = [vote for vote in second.sent_of(RequestVote) if not vote.pre_vote]
        self.assertEqual(asked, [])
        second.disk.is_held = False
        self.group.settle()
        self.assertEqual([vote.pre_vote for vote in second.sent_of(RequestVote)][-1], False)
        granted = [vote for vote in third.sent_of(RequestVoteReply) if not vote.pre_vote]
        self.assertEqual(granted, [])
        self.assertFalse(second.leads)
        third.disk.is_held = False
        self.group.settle()
        self.assertTrue(second.leads)

    def test_groups_are_bounded(self):
        """A follower's write takes what fits the bound of a sync; the rest is the next one, in order."""
        self.patch(driver, "SYNC_GROUP_SIZE_MAX", 1000)
        follower = self.group[2]
        follower.disk.is_held = True
        syncs = []
        sync = follower.log.sync
        follower.log.sync = lambda commit_index: (sync(commit_index), syncs.append(follower.log.last_index))
        for _ in range(6):
            self.leader.propose_and_settle(600)
        follower.disk.is_held = False
        self.group.settle()
        grown = sorted(set(syncs))
        self.assertEqual(grown, [3, 5, 7, 8], "one on its way, then two and two, then the rest")
        self.same_logs()

    def test_followers_refuse(self):
        """Only the leader appends; another names it and appended nothing."""
        error = self.failureResultOf(self.group[2].propose(), NotLeaderError).value
        self.assertEqual(error.leader, "n1")

    def test_idle(self):
        """`when_idle` waits for the disk and for commits, and no longer."""
        self.successResultOf(self.leader.when_idle())
        for member in self.group.members.values():
            member.disk.is_held = True
        self.leader.propose()
        idle = self.leader.when_idle()
        self.group.settle()
        self.assertNoResult(idle)
        self.leader.disk.is_held = False
        self.group.settle()
        self.assertNoResult(idle)  # its own disk alone is no majority
        for member in self.group.members.values():
            member.disk.is_held = False
        self.group.settle()
        self.successResultOf(idle)


class LostLeadership(DriverTestCase):
    """Loses leadership with an append under way."""

    def lose(self, *, is_replicated: bool):
        """Let an append be under way, its acknowledgements lost, and another leader come; return it."""
        self.group.lost = [(2, 1), (3, 1)] if is_replicated else [(1, 2), (1, 3)]
        done = self.leader.propose_and_settle(producer_id=0)
        self.assertNoResult(done)
        self.group.lost = []
        self.leader.is_silent = True
        self.group.elect(2)
        return done


class LostLeadershipTests(LostLeadership):
    """Appends under way when leadership is lost are answered by what commits in their place."""

    def test_committed_by_the_successor(self):
        """The next leader had the entry and commits it: the append succeeded."""
        done = self.lose(is_replicated=True)
        self.leader.is_silent = False
        self.group.tick(2)
        self.assertEqual(self.successResultOf(done).base_offset, 0)

    def test_replaced_by_the_successor(self):
        """Another entry commits in its place: certainly not appended, and said so."""
        done = self.lose(is_replicated=False)
        self.leader.is_silent = False
        self.group.tick(2)
        self.failureResultOf(done, UnavailableError)
        self.same_logs()

    def test_replaced_before_its_place_is_reached(self):
        """An entry of a newer term committed below its place settles it: nothing older can follow there."""
        self.group.lost = [(1, 2), (1, 3)]
        done = [self.leader.propose() for _ in range(5)]
        self.group.settle()
        self.leader.is_silent = True
        self.group.lost = []
        self.group.elect(2)
        self.leader.is_silent = False
        self.group.tick(2)
        self.assertLess(self.leader.raft.last_index, 2 + 5)
        for waiting in done:
            self.failureResultOf(waiting, UnavailableError)

    def test_replaced_and_leading_again(self):
        """A leader that lost its suffix and leads again leaves nobody waiting for a place never filled."""
        self.group.lost = [(1, 2), (1, 3)]
        done = [self.leader.propose() for _ in range(5)]
        self.group.settle()
        self.leader.is_silent = True
        self.group.lost = []
        # The second's own entry reaches the others, but it never learns that, so it does not commit it.
        self.group.lost_types = (AppendEntriesReply,)
        second = self.group.elect(2)
        self.leader.is_silent = False
        self.group.tick(2, count=2)
        self.assertLess(self.leader.raft.last_index, 2 + 5)
        self.group.lost_types = ()
        second.is_silent = True
        self.group.elect(1)
        for waiting in done:
            self.failureResultOf(waiting, UnavailableError)

    def test_not_settled_in_time(self):
        """Without a new leader, two elections later the outcome is unknown, and not before."""
        done = self.lose(is_replicated=True)
        while self.leader.leads:
            self.group.tick(1)
        self.group.tick(1, count=TWO_ELECTIONS - 1)
        self.assertNoResult(done)
        self.group.tick(1)
        self.failureResultOf(done, OutcomeUnknownError)

    def test_cancelled(self):
        """Who stopped waiting is not answered, whatever becomes of the append."""
        done = self.lose(is_replicated=True)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.leader.is_silent = False
        self.group.tick(2)
        self.assertEqual(self.leader.replica.readable_offset, 1)


class SnapshotTests(LostLeadership):
    """A follower that is far behind gets where the leader's log begins."""

    CONFIG = replace(LAN, cache_size_max=1)

    def test_skipped_by_a_snapshot(self):
        """The log moved on by a snapshot: nobody can tell here what became of the append."""
        done = self.lose(is_replicated=False)
        second = self.group[2]
        for _ in range(3):
            second.propose(30_000)
            self.group.settle()
        proposing(second.replica.propose, Proposal(kind=EntryKind.TRIM, payload=encode_trim(3)))
        second.propose(30_000)
        self.group.settle()
        second.log.trim_prefix(3, second.replica.readable_index)
        self.assertGreater(second.log.first_index, self.leader.raft.last_index)
        self.leader.is_silent = False
        self.group.tick(2, count=5)
        self.assertTrue(second.sent_of(InstallSnapshot))
        self.failureResultOf(done, OutcomeUnknownError)
        replica = self.leader.replica
        self.assertEqual(replica.readable_offset, second.replica.readable_offset)
        self.assertEqual(replica.lowest_offset, 3)
        again = second.propose()
        self.group.settle()
        self.successResultOf(again)
        self.group.tick(2)
        self.assertEqual(replica.readable_offset, second.replica.readable_offset)


class ReadTests(DriverTestCase):
    """A read barrier sees everything acknowledged before it was asked, on every member."""

    def test_leader(self):
        """The leader answers after a majority confirmed it."""
        self.group.lost = [(2, 1), (3, 1)]
        read = self.leader.read_barrier()
        self.group.settle()
        self.assertNoResult(read)
        self.group.lost = []
        self.group.tick(1)
        self.assertEqual(self.successResultOf(read), self.leader.raft.commit_index)

    def test_follower(self):
        """A follower answers when it has what the leader had committed, however slow its own disk."""
        follower = self.group[2]
        follower.disk.is_held = True
        done = self.leader.propose_and_settle()
        index = self.successResultOf(done).index
        read = follower.read_barrier()
        self.group.settle()
        self.group.tick(1)
        self.assertNoResult(read)
        follower.disk.is_held = False
        self.group.settle()
        self.group.tick(1)
        self.assertGreaterEqual(self.successResultOf(read), index)
        self.assertEqual(follower.replica.readable_offset, 1)

    def test_no_leader(self):
        """Without a leader a read fails at once."""
        follower = self.group[2]
        self.leader.is_silent = True
        self.group.tick(2, count=TWO_ELECTIONS)
        self.failureResultOf(follower.read_barrier(), UnavailableError)

    def test_leader_is_lost(self):
        """A read that a deposed leader cannot confirm fails; the caller tries again."""
        self.leader.is_silent = True
        reads = [self.leader.read_barrier() for _ in range(2)]
        reads[0].cancel()
        self.failureResultOf(reads[0], CancelledError)
        self.group.tick(1, count=TWO_ELECTIONS)
        self.failureResultOf(reads[1], UnavailableError)

    def test_leader_is_silent(self):
        """A follower's question that nobody answers fails after an election timeout."""
        self.group.lost = [(2, 1)]
        read = self.group[2].read_barrier()
        self.group.tick(1, 2, count=LAN.election_ticks - 1)
        self.assertNoResult(read)
        self.group.tick(1, 2, count=2)
        self.failureResultOf(read, UnavailableError)

    def test_cancelled_behind_the_disk(self):
        """A read cancelled while it waits for the disk disturbs nobody."""
        self.leader.disk.is_held = True
        self.leader.propose_and_settle()
        read, other = self.leader.read_barrier(), self.leader.read_barrier()
        self.group.settle()
        read.cancel()
        self.failureResultOf(read, CancelledError)
        self.leader.disk.is_held = False
        self.group.settle()
        self.successResultOf(other)


class FullDiskTests(DriverTestCase):
    """A full disk stops writes where they are; they go on there when there is room."""

    def test_follower(self):
        """Commits go on without it; once there is room it writes each entry once and catches up."""
        follower = self.group[2]
        free = follower.fill_disk()
        done = []
        for _ in range(6):
            done.append(self.leader.propose(30_000))
            self.group.settle()
        for waiting in done:
            self.successResultOf(waiting)
        self.assertEqual(follower.fills, [True])
        last = follower.log.last_index
        follower.replica.retry_write()
        self.group.settle()
        self.assertEqual((follower.fills, follower.log.last_index), ([True], last))
        free()
        follower.replica.retry_write()
        self.group.settle()
        self.group.tick(1, count=3)
        self.assertEqual(follower.fills, [True, False])
        self.assertEqual(follower.replica.readable_offset, 6)
        self.assertEqual(follower.failures, [])
        self.same_logs()

    def test_retry_goes_on_where_it_stopped(self):
        """Of a group with two steps the first is not done again when the second finds a full disk."""
        follower = self.group[2]
        self.leader.propose_and_settle(100)
        saves, appends = [], []
        real_save, real_append = follower.log.save_hard_state, follower.log.append
        follower.log.save_hard_state = lambda **state: (saves.append(state), real_save(**state))

        def append(entries):
            appends.append(len(entries))
            if len(appends) == 1:
                raise DiskFullError("/data")
            real_append(entries)

        follower.log.append = append
        self.leader.is_silent = True
        third = self.group.elect(3)
        self.assertEqual(follower.fills, [True])
        saved = len(saves)
        self.assertGreater(saved, 0)
        follower.replica.retry_write()
        self.group.settle()
        self.assertEqual(len(saves), saved)
        self.group.tick(3)
        self.assertEqual(follower.log.durable_index, third.raft.last_index)

    def test_leader(self):
        """The others commit what the leader took; it steps down, and later holds each entry once."""
        free = self.leader.fill_disk()
        done = [self.leader.propose(30_000) for _ in range(4)]
        self.group.settle()
        for waiting in done:
            self.successResultOf(waiting)  # two disks of three have it
        self.assertTrue(self.leader.replica.is_full)
        self.group.tick(count=2 * TWO_ELECTIONS)
        self.assertFalse(self.leader.leads)
        leader = next(member for member in self.group.members.values() if member.leads)
        more = leader.propose()
        self.group.settle()
        self.successResultOf(more)
        free()
        self.leader.replica.retry_write()
        self.group.settle()
        self.group.tick(count=3)
        self.assertEqual(self.leader.replica.readable_offset, 5)
        self.assertFalse(self.leader.replica.is_full)
        self.same_logs()

    def test_stop_while_full(self):
        """A stopped replica does not write again."""
        self.leader.fill_disk()
        for _ in range(4):
            self.leader.propose(30_000)
        self.group.settle()
        self.leader.replica.stop()
        self.leader.replica.retry_write()
        self.assertEqual(len(self.leader.disk.waiting), 0)


class StopTests(DriverTestCase):
    """A stop in any state answers everybody and does nothing later."""

    def check_stop(self, member, *waiting_for_append, reads=()):
        idle = member.when_idle()
        member.replica.stop()
        self.successResultOf(idle)
        for done in waiting_for_append:
            self.failureResultOf(done, OutcomeUnknownError)
        for done in reads:
            self.failureResultOf(done, UnavailableError)
        member.sent.clear()
        member.disk.is_held = False
        self.group.settle()
        member.replica.tick()
        self.group.settle()
        self.assertEqual(member.sent, [], "nothing leaves after the stop")
        self.successResultOf(member.when_idle())
        self.failureResultOf(member.read_barrier(), UnavailableError)

    def test_before_the_turn(self):
        """Before anything left the replica."""
        self.check_stop(self.leader, self.leader.propose(), reads=[self.leader.read_barrier()])

    def test_while_writing(self):
        """With a write on its way and another waiting."""
        self.leader.disk.is_held = True
        self.group[2].disk.is_held = True
        self.group[3].disk.is_held = True
        first = self.leader.propose()
        self.group.settle()
        second = self.leader.propose()
        self.group.settle()
        self.check_stop(self.leader, first, second)

    def test_with_something_to_say(self):
        """A write that ends after the stop brings out nothing of what the core still had to send."""
        self.leader.disk.is_held = True
        done = self._committed()
        self.group.settle()
        for _ in range(self.leader.raft.config.election_ticks - 1):
            self.leader.raft.tick(0)
        self.successResultOf(done)
        self.check_stop(self.leader)

    def test_while_reads_wait(self):
        """With reads that wait for the leader's majority, and for the own disk."""
        self.leader.disk.is_held = True
        self.successResultOf(self._committed())
        behind = self.leader.read_barrier()
        self.group.settle()
        self.group.lost = [(2, 1), (3, 1)]
        asked = self.leader.read_barrier()
        self.group.settle()
        self.assertNoResult(behind)
        self.assertNoResult(asked)
        self.check_stop(self.leader, reads=[behind, asked])

    def _committed(self):
        done = self.leader.propose_and_settle()
        return done

    def test_follower(self):
        """A follower with a write on its way acknowledges nothing after its stop."""
        follower = self.group[2]
        follower.disk.is_held = True
        self.leader.propose_and_settle()
        self.check_stop(follower, reads=[follower.read_barrier()])

    def test_proposal_after_the_stop(self):
        """A stopped leader takes nothing that it would never answer."""
        self.leader.replica.stop()
        self.failureResultOf(self.leader.propose(), UnavailableError)
        configuration = self.leader.raft.configuration
        self.failureResultOf(self.leader.change(configuration), UnavailableError)


class FatalTests(DriverTestCase):
    """What contradicts committed entries, or a broken disk, ends the node once and answers who waits."""

    def test_divergence(self):
        """A leader's entry that contradicts a committed one is fatal, and nothing is written."""
        follower = self.group[2]
        self.group.tick(1)
        index = follower.raft.commit_index
        entry = make_entry(
            SEED, index=index, term=9, kind=EntryKind.NOOP, base_offset=0, timestamp=10**12, payload=b""
        )
        message = AppendEntries(
            term=9, prev_log_index=index - 1, prev_log_term=1, commit_index=index, entries=(entry,)
        )
        frames = follower.frames()
        follower.replica.receive(Envelope(1, 3, 2, message))
        self.group.settle()
        self.assertIsInstance(follower.failures[0], DivergenceError)
        self.assertEqual(len(follower.failures), 1)
        self.assertEqual(follower.frames(), frames)

    def test_damage_found_by_the_core(self):
        """Damage that the core meets is told, not sent; others go on, and who needs it when it is mended."""
        behind = self.group[3]
        behind.is_silent = True
        for _ in range(3):
            self.leader.propose_and_settle(20_000)
        self.leader.raft.config = replace(LAN, cache_size_max=1)
        self.leader.raft._log._cache_size_max = 1
        done = self.leader.propose_and_settle()
        self.successResultOf(done)

        self.leader.log.entries = Mock(side_effect=DamageError("a.store", 4096, "damaged"))
        behind.is_silent = False
        self.group.tick(1, count=3)
        done = self.leader.propose_and_settle()
        self.successResultOf(done)
        self.assertIn(len(self.leader.damages), range(1, 6), "not at each turn, but at each heartbeat")
        del self.leader.log.entries
        self.group.tick(1, count=5)
        self.assertEqual(behind.frames(), self.leader.frames())

    def test_disk_failure_at_a_follower(self):
        """A follower whose disk fails stops and acknowledges nothing."""
        follower = self.group[2]

        def broken(*_):
            raise DiskFailedError("dead")

        follower.log.sync = broken
        follower.sent.clear()
        done = self.leader.propose_and_settle()
        self.successResultOf(done)
        self.assertEqual([type(error) for error in follower.failures], [DiskFailedError])
        self.assertEqual(follower.sent_of(AppendEntriesReply), [])
