"""A follower whose log is replaced by a snapshot: what it may say, serve and count, before and after."""

from dataclasses import replace

from loghouse.errors import OutcomeUnknownError, UnavailableError
from loghouse.node.api import proposing
from loghouse.protocol.configuration import Retention, encode_trim
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.raft_messages import AppendEntriesReply, InstallSnapshot
from loghouse.raft.config import LAN
from loghouse.raft.ready import Proposal
from tests.test_driver import DriverTestCase, LostLeadership

LARGE = 30_000  # two of them fill a segment


class SnapshotTests(DriverTestCase):
    """A group of three whose third member falls behind the leader's log."""

    CONFIG = replace(LAN, cache_size_max=1)

    def setUp(self):
        super().setUp()
        self.third = self.group[3]
        self.seen = []  # what the third's readers were told, at each commit
        self.third.committed = lambda: self.seen.append(self.readable())

    def readable(self):
        replica = self.third.replica
        return replica.readable_index, replica.readable_offset, replica.lowest_offset

    def go_on(self, trim_to: int) -> None:
        """Let the others append and trim, so that the leader's log begins behind the third's."""
        for _ in range(4):
            self.leader.propose_and_settle(LARGE)
        proposing(self.leader.replica.propose, Proposal(kind=EntryKind.TRIM, payload=encode_trim(trim_to)))
        self.leader.propose_and_settle(LARGE)
        self.leader.log.trim_prefix(trim_to, self.leader.replica.readable_index)

    def come_back(self) -> None:
        self.third.is_silent = False
        self.group.tick(1, count=5)
        self.assertTrue(self.leader.sent_of(InstallSnapshot))

    def withhold_entries(self):
        """Let the snapshot arrive at the third, and nothing behind it; returns what ends that."""
        deliver = self.group._deliver

        def without_entries(envelope):
            if envelope.target != 3 or not getattr(envelope.message, "entries", ()):
                deliver(envelope)

        self.group._deliver = without_entries

        def end():
            self.group._deliver = deliver

        return end

    def test_membership(self):
        """The configuration of the snapshot counts at once, and the owner is told to look."""
        self.third.is_silent = True
        configuration = replace(self.leader.raft.configuration, retention=Retention(size_max=1 << 40))
        changed = self.leader.change(configuration)
        self.group.settle()
        self.successResultOf(changed)
        self.go_on(3)
        self.seen.clear()
        self.withhold_entries()
        self.come_back()
        self.assertEqual(self.third.raft.configuration, self.leader.raft.configuration)
        start = self.third.log.state_at(self.third.log.first_index - 1)
        expected = (start.index, start.next_offset, self.leader.log.first_offset)
        self.assertEqual(self.readable(), expected)
        self.assertIn(expected, self.seen)
        self.assertEqual(self.third.log.last_index, start.index)

    def test_slow_disk(self):
        """While writes of the old log are still to come nothing is acknowledged, and reads never go back."""
        self.third.disk.is_held = True
        for _ in range(3):
            self.leader.propose_and_settle(LARGE)
        self.assertGreater(self.third.raft.commit_index, self.third.replica.readable_index)
        self.third.is_silent = True
        self.go_on(6)
        self.third.sent.clear()
        end = self.withhold_entries()
        self.come_back()
        places = [self.readable()]
        while self.third.disk.waiting:
            self.third.disk.step()
            self.group.settle_now()
            places.append(self.readable())
            acknowledged = [reply.index for reply in self.third.sent_of(AppendEntriesReply) if reply.success]
            self.assertLessEqual(max(acknowledged, default=0), self.third.log.last_index)
        self.assertEqual(places, sorted(places))
        self.assertEqual(self.seen, sorted(self.seen))
        start = self.third.log.state_at(self.third.log.first_index - 1)
        self.assertGreater(start.index, places[0][0])
        self.assertEqual(places[-1][:2], (start.index, start.next_offset))
        self.third.disk.is_held = False
        end()
        self.group.tick(1, count=5)
        leading = self.leader.replica
        self.assertEqual(
            self.readable(), (leading.readable_index, leading.readable_offset, leading.lowest_offset)
        )
        self.assertEqual(self.third.log.last_index, self.leader.log.last_index)

    def test_appends_behind(self):
        """What is appended behind the snapshot gets the offsets that the leader gave it."""
        self.third.is_silent = True
        self.go_on(3)
        self.come_back()
        done = self.leader.propose_and_settle()
        self.group.tick(1, count=2)
        offset = self.successResultOf(done).base_offset
        self.assertEqual(self.third.replica.readable_offset, offset + 1)
        self.assertEqual(self.third.log.index_of_offset(offset), self.third.log.last_index)
        self.assertEqual(self.seen, sorted(self.seen))


class WaitingTests(LostLeadership):
    """Appends of a leader that lost its place, each at an index of its own."""

    CONFIG = replace(LAN, cache_size_max=1)

    def test_around_a_snapshot(self):
        """Up to where the snapshot ends nobody knows their outcome; behind it they were not appended."""
        first = self.leader.raft.last_index + 1
        done = [self.lose(is_replicated=False), *(self.leader.propose() for _ in range(8))]
        self.group.settle()
        second = self.group[2]
        for _ in range(3):
            second.propose(LARGE)
            self.group.settle()
        proposing(second.replica.propose, Proposal(kind=EntryKind.TRIM, payload=encode_trim(3)))
        second.propose(LARGE)
        self.group.settle()
        second.log.trim_prefix(3, second.replica.readable_index)
        end = second.log.first_index - 1
        self.assertTrue(first < end < first + 8)
        self.leader.is_silent = False
        self.group.tick(2, count=5)
        self.assertTrue(second.sent_of(InstallSnapshot))
        for index, waiting in enumerate(done, first):
            self.failureResultOf(waiting, OutcomeUnknownError if index <= end else UnavailableError)

    def test_before_anything_follows(self):
        """The snapshot alone settles appends behind it, though nothing is committed there yet."""
        done = [self.lose(is_replicated=False), *(self.leader.propose() for _ in range(8))]
        second = self.group[2]
        for _ in range(3):
            second.propose(LARGE)
            self.group.settle()
        second.log.trim_prefix(3, second.replica.readable_index)
        second.propose(LARGE)
        self.group.settle()
        # Only the snapshot comes to the old leader: what is behind it is lost on the way.
        deliver = self.group._deliver
        self.group._deliver = lambda envelope: getattr(envelope.message, "entries", ()) or deliver(envelope)
        self.leader.is_silent = False
        self.group.tick(2, count=5)
        self.assertEqual(self.leader.raft.last_index, second.log.first_index - 1)
        for waiting in done:
            self.failureResultOf(waiting, OutcomeUnknownError, UnavailableError)

    def test_two_at_one_place(self):
        """A leader that lost its suffix and leads again tells the old append at a place from the new one."""
        self.group.lost = [(1, 2), (1, 3)]
        told = []  # what each old append was told, each time that it was
        for _ in range(6):
            self.leader.replica.propose(Proposal(payload=b"x", record_count=1), told.append, told.append)
        self.group.settle()
        self.leader.is_silent = True
        self.group.lost = []
        self.group.lost_types = (AppendEntriesReply,)  # nobody learns what can be committed
        second = self.group.elect(2)
        self.leader.is_silent = False
        self.group.tick(2, count=2)
        second.is_silent = True
        self.group.elect(1)
        new = [self.leader.propose() for _ in range(3)]
        self.group.settle()
        self.assertEqual(told, [])
        for waiting in new:
            self.assertNoResult(waiting)
        self.group.lost_types = ()
        self.group.tick(1, count=2)
        self.assertEqual([type(outcome) for outcome in told], [UnavailableError] * 6)
        self.assertEqual([self.successResultOf(waiting).base_offset for waiting in new], [0, 1, 2])


class ReaderTests(DriverTestCase):
    """Readers are told when what they wait for is readable here."""

    def test_each_at_its_place(self):
        """Confirmed reads end one by one, as the disk gets to them; the owner is told of each step once."""
        commits = []
        self.leader.committed = lambda: commits.append(self.leader.replica.readable_index)
        self.leader.disk.is_held = True
        reads = []
        for _ in range(3):
            self.leader.propose_and_settle()
            reads.append(self.leader.read_barrier())
            self.group.settle()
        last = self.leader.raft.commit_index
        self.assertEqual(commits, [])
        self.leader.disk.step()
        self.group.settle()
        self.assertEqual(self.successResultOf(reads.pop(0)), last - 2)
        for waiting in reads:
            self.assertNoResult(waiting)
        self.assertEqual(commits, [last - 2])
        self.leader.disk.is_held = False
        self.group.settle()
        self.assertEqual([self.successResultOf(read) for read in reads], [last - 1, last])
        self.assertEqual(commits, sorted(set(commits)))
        count = len(commits)
        self.group.tick(count=3)
        self.assertEqual(len(commits), count)
