"""A disk that is full and slow at once: what it was told twice must not count for what comes behind."""

from loghouse.protocol.raft_messages import AppendEntriesReply
from tests.test_driver import DriverTestCase


class SlowFullDiskTests(DriverTestCase):
    """A follower whose disk has no room, and takes its time to say so."""

    def test_one_retry_at_a_time(self):
        """While a retry is on its way no second one begins, and nothing behind it is acknowledged early."""
        follower = self.group[2]
        free = follower.fill_disk()
        done = [self.leader.propose(30_000) for _ in range(4)]
        self.group.settle()
        self.assertEqual(follower.fills, [True])
        free()
        follower.disk.is_held = True
        for _ in range(3):
            follower.replica.retry_write()
        self.assertEqual(len(follower.disk.waiting), 1)
        done.append(self.leader.propose(100))
        self.group.settle()
        follower.sent.clear()
        follower.disk.step()  # the retry alone: what came behind it is not on the disk
        self.group.settle()
        acknowledged = [reply.index for reply in follower.sent_of(AppendEntriesReply) if reply.success]
        self.assertLessEqual(max(acknowledged, default=0), follower.log.durable_index)
        follower.disk.is_held = False
        self.group.settle()
        self.group.tick(1, count=3)
        for waiting in done:
            self.successResultOf(waiting)
        self.same_logs()
