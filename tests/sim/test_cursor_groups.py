"""The members of simulated groups do the same in every process."""

from random import Random
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.clock import SimClock
from loghouse.testing.cursor_groups import GroupMember
from loghouse.testing.swarm import SwarmOptions


class LeavingTests(SynchronousTestCase):
    """A member that leaves."""

    def test_order(self):
        """It lets go of its logs by their names: the order of a set is another one in each process."""
        logs = tuple(f"log{number}" for number in range(30))
        work = SimpleNamespace(clock=SimClock(), options=SwarmOptions(seed=1), stopped=False)
        member = GroupMember(work, logs, "member", Random(1))
        released = []
        for log in logs:
            member._held[log] = SimpleNamespace(release=lambda done, log=log: released.append(log))
            member._shares.set_logs(logs)
            member._shares.took(log, 0.0)
        member._leave(1.0)
        self.assertEqual(released, sorted(logs))
