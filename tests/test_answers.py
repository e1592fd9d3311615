"""Answers of appends: each caller's own concern."""

from loghouse.raft.ready import Proposal
from tests.test_driver import DriverTestCase


class AnswerTests(DriverTestCase):
    """A replica and those who wait for it."""

    def test_a_caller_that_raises(self):
        """What a caller does with its answer is not the log's concern: the others get theirs, readers too."""
        self.leader.replica.propose(Proposal(payload=b"x", record_count=1), lambda _: 1 // 0, self.fail)
        done = self.leader.propose_and_settle()
        self.assertEqual(self.successResultOf(done).base_offset, 1)
        self.assertEqual(self.leader.replica.readable_offset, 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_bug_behind_a_write(self):
        """What goes wrong behind a write ends the node: nobody knows what it would go on with."""
        self.patch(self.leader.raft, "persisted", lambda token: 1 // 0)
        self.leader.propose_and_settle()
        self.assertEqual([type(error) for error in self.leader.failures], [ZeroDivisionError])
