"""Reads that were confirmed, at a member that does not get as far as they need."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import UnavailableError
from loghouse.raft.config import LAN
from loghouse.replica import BEHIND_ELECTIONS_MAX
from tests.driver.group import Group


class BehindTests(SynchronousTestCase):
    """Nobody waits for ever at a node that was removed or cut off."""

    def test_cut_off(self):
        """A confirmed read waits some elections for its entries, then it is told to go on elsewhere."""
        group = Group(3)
        leader, follower = group.elect(1), group[2]
        follower.disk.is_held = True
        leader.propose()
        group.settle()
        read = follower.replica.read_barrier()
        group.settle()
        group.tick(1)
        follower.is_silent = True
        group.tick(2, count=BEHIND_ELECTIONS_MAX * LAN.election_ticks - 1)
        self.assertNoResult(read)
        group.tick(2)
        self.failureResultOf(read, UnavailableError)
