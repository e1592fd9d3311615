"""The end of the leader's connection hastens an election, and never decides one (ADR 10)."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.raft.ready import Role
from tests.raft.group import Group


class LinkLostTests(SynchronousTestCase):
    """A group of three whose first member leads."""

    def setUp(self):
        self.group = Group(3)
        self.group.elect(1)
        self.ticks = self.group.config.election_ticks

    def test_a_dead_leader_is_replaced_soon(self):
        """When all lost their connection with it, another leads before an election timeout is over.

        No two stand at the same time, so no vote is split.
        """
        soon = 0
        for seed in range(20):
            group = Group(3, rng_seed=seed)
            group.elect(1)
            group.isolate(1)
            for id_ in (2, 3):
                group[id_].leader_link_lost()
            group.tick(2 * group.config.heartbeat_ticks, ids=(2, 3))
            self.assertEqual({group[id_].role for id_ in (2, 3)}, {Role.FOLLOWER})
            group.tick(self.ticks - 2, ids=(2, 3))
            soon += [group[id_].role for id_ in (2, 3)].count(Role.LEADER)
        self.assertEqual(soon, 20)

    def test_a_heartbeat_takes_it_back(self):
        """A leader that only lost the connection is heard again in time, and stays."""
        term = self.group[1].term
        for _ in range(20):
            for id_ in (2, 3):
                self.group[id_].leader_link_lost()
            self.group.tick(self.group.config.heartbeat_ticks)
        self.group.tick(3 * self.ticks)
        self.assertEqual((self.group[1].role, self.group[1].term), (Role.LEADER, term))

    def test_one_alone_disturbs_nobody(self):
        """Who alone lost the leader asks by pre-vote, is refused by who hears it, and raises no term."""
        term = self.group[1].term
        self.group.cut |= {(1, 2), (2, 1)}
        self.group[2].leader_link_lost()
        self.group.tick(10 * self.ticks)
        self.assertEqual(self.group[1].role, Role.LEADER)
        self.assertEqual({self.group[id_].term for id_ in (1, 2, 3)}, {term})
        self.group.heal()
        self.group.tick(2)
        self.assertEqual(self.group[2].leader, 1)

    def test_only_followers_care(self):
        """A leader, a candidate, and a follower without a leader go on as they were."""
        self.group[1].leader_link_lost()
        self.group.isolate(2)
        self.group.tick(3 * self.ticks, ids=(2,))
        self.group[2].leader_link_lost()
        self.assertEqual((self.group[1].role, self.group[2].role), (Role.LEADER, Role.PRE_CANDIDATE))
        fresh = Group(3)[1]
        before = fresh._election_timeout
        fresh.leader_link_lost()
        self.assertEqual(fresh._election_timeout, before)

    def test_a_heartbeat_as_long_as_an_election_allows(self):
        """Timing at its bounds still leaves room for two heartbeats."""
        config = Group().config
        tight = type(config)(election_ticks=2, heartbeat_ticks=1)
        group = Group(3, config=tight)
        group.elect(1)
        group.isolate(1)
        for id_ in (2, 3):
            group[id_].leader_link_lost()
        group.tick(20, ids=(2, 3))
        self.assertEqual([group[id_].role for id_ in (2, 3)].count(Role.LEADER), 1)
