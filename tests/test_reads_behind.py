"""Reads that were confirmed, at a member that does not get as far as they need."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import UnavailableError
from loghouse.protocol.configuration import encode_trim
from loghouse.protocol.entry import EntryKind
from loghouse.raft.config import LAN
from loghouse.raft.ready import Proposal
from loghouse.replica.pending_reads import BEHIND_ELECTIONS_MAX
from tests.driver.group import Group


class BehindTests(SynchronousTestCase):
    """Nobody waits for ever at a node that was removed or cut off, or is given what is not committed."""

    def test_cut_off(self):
        """A confirmed read waits some elections for its entries, then it is told to go on elsewhere."""
        group = Group(3)
        leader, follower = group.elect(1), group[2]
        follower.disk.is_held = True
        leader.propose()
        group.settle()
        read = follower.read_barrier()
        group.settle()
        group.tick(1)
        follower.is_silent = True
        group.tick(2, count=BEHIND_ELECTIONS_MAX * LAN.election_ticks - 1)
        self.assertNoResult(read)
        group.tick(2)
        self.failureResultOf(read, UnavailableError)

    def test_to_be_replaced(self):
        """What is on the disk and is to be replaced by committed entries is not served in their place."""
        group = Group(3)
        old = group.elect(1)
        old.is_silent = True
        for done in (old.propose(100), old.propose(100)):
            done.addErrback(lambda failure: failure.trap(UnavailableError))
        group.settle()
        doomed = old.log.last_index
        successor = group.elect(2)
        successor.propose(10)
        group.settle()
        self.assertGreaterEqual(successor.replica.readable_index, doomed)
        old.disk.is_held = True
        old.is_silent = False
        group.tick(2)
        while old.raft.commit_index < doomed:
            old.disk.step()  # the new term; the cut and what comes behind it wait
            group.tick(2)
        self.assertEqual(old.log.last_index, doomed)
        self.assertLess(old.replica.readable_index, doomed - 1)
        old.disk.is_held = False
        group.settle()
        group.tick(2, count=3)
        self.assertEqual(old.frames(), successor.frames())
        self.assertEqual(old.replica.readable_index, successor.replica.readable_index)

    def test_a_trim_counts_with_its_entry(self):
        """Committed trims move the lowest offset when their entries are readable, not above the next one."""
        group = Group(3)
        leader, follower = group.elect(1), group[2]
        follower.disk.is_held = True
        for _ in range(3):
            leader.propose()
        group.settle()
        leader.replica.propose(
            Proposal(kind=EntryKind.TRIM, payload=encode_trim(3)), lambda appended: None, self.fail
        )
        group.settle()
        group.tick(1)
        self.assertEqual((leader.replica.lowest_offset, leader.replica.readable_offset), (3, 3))
        self.assertEqual((follower.replica.lowest_offset, follower.replica.readable_offset), (0, 0))
        follower.disk.is_held = False
        group.settle()
        self.assertEqual((follower.replica.lowest_offset, follower.replica.readable_offset), (3, 3))
