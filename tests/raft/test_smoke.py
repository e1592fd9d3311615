"""The shortest way through the core: elect, append, commit, everywhere."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.raft.ready import Role
from tests.raft.group import Group


class SmokeTests(SynchronousTestCase):
    """A group of each size works."""

    def test_elect_and_commit(self):
        """A group of one to five elects a leader and commits what it is given, on every member."""
        for voters in range(1, 6):
            group = Group(voters).settle()
            leader = group.elect(1) if voters > 1 else group[1]
            self.assertIs(leader.role, Role.LEADER)
            ticket = group.propose(1, b"hello")
            self.assertEqual(ticket.base_offset, 0)
            self.assertEqual(group.propose(1, b"again").base_offset, 1)
            for node in group.nodes.values():
                self.assertEqual(node.raft.commit_index, 4)
                self.assertEqual(
                    [bytes(e.payload) for e in node.committed if e.record_count], [b"hello", b"again"]
                )
                self.assertEqual(node.log.last_index, 4)
