"""When followers hear of a commit: soon, but seldom by a message of its own (ADR 12)."""

from loghouse.protocol.raft_messages import AppendEntries
from tests.test_driver import DriverTestCase


class CommitNotificationTests(DriverTestCase):
    """A leader of three and its followers."""

    def lone(self):
        """How many messages notified followers of a commit and carried nothing else."""
        return sum(not message.entries for message in self.leader.sent_of(AppendEntries))

    def test_a_lone_append(self):
        """Without anything behind it, followers hear of it before a tick, and once each."""
        before = self.lone()
        done = self.leader.propose_and_settle()
        self.successResultOf(done)
        self.assertEqual(self.lone() - before, 2)
        self.assertEqual(
            {member.replica.readable_index for member in self.group.members.values()},
            {self.leader.raft.commit_index},
        )

    def test_appends_behind_each_other(self):
        """Where the next append comes before the notification is due, it carries it: half of the messages."""
        before, count = self.lone(), 20
        dones = []

        def go_on(_=None):
            if len(dones) < count:
                dones.append(self.leader.propose())
                dones[-1].addCallback(go_on)

        go_on()
        self.group.settle()
        self.assertEqual(len(dones), count)
        self.assertEqual(self.lone() - before, 2)

    def test_a_stop(self):
        """A replica that stops with a notification due leaves no timer behind."""
        self.leader.propose()
        self.group.settle_now()
        self.assertEqual(len(self.group.clock.getDelayedCalls()), 1)
        self.leader.replica.stop()
        self.assertEqual(self.group.clock.getDelayedCalls(), [])


class LeaderDiskTests(DriverTestCase):
    """A leader's own disk begins behind what was sent, so that others' disks need not wait for it."""

    def test_sent_first(self):
        """The append is on its way to the followers before the leader's disk is given it."""
        self.leader.propose()
        self.leader.sent.clear()
        self.group.soons.popleft()()
        self.assertEqual(len(self.leader.sent_of(AppendEntries)), 2)
        self.assertEqual(len(self.leader.disk.waiting), 0)
        self.group.soons.popleft()()
        self.assertEqual(len(self.leader.disk.waiting), 1)

    def test_a_stop_between(self):
        """A replica that stops before its disk was given anything writes nothing any more."""
        last_index = self.leader.log.last_index
        self.leader.propose()
        self.group.soons.popleft()()
        self.leader.replica.stop()
        self.group.soons.popleft()()
        self.assertEqual(len(self.leader.disk.waiting), 0)
        self.assertEqual((self.leader.log.last_index, self.leader.failures), (last_index, []))

    def test_answers_come_before_readers_are_woken(self):
        """The end of a write answers who appended; whatever else a commit brings comes behind that."""
        order = []
        self.group[3].disk.is_held = self.leader.disk.is_held = True
        self.leader.propose_and_settle().addCallback(lambda _: order.append("answered"))
        self.leader.committed = lambda: order.append("readers")
        self.leader.disk.step()
        self.assertEqual(order, ["answered"])
        self.assertEqual(self.leader.replica.readable_offset, 1)
        self.group.settle()
        self.assertEqual(order, ["answered", "readers"])
