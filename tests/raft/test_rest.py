"""A member may be without ticks while nothing happens in its group, and is told when that is over."""

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.raft_messages import Heartbeat, NoRoom, RequestVote
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import Damage, Role
from tests.raft.group import Group

CONFIG = RaftConfig(quiet_ticks=3)
EVERYBODY = frozenset((1, 2, 3))


class RestTests(SynchronousTestCase):
    """A group of three whose first member leads, and has been quiet for long."""

    def setUp(self):
        self.group = self.quiet()
        self.ticks = CONFIG.election_ticks

    def quiet(self, seed=1, **what):
        group = Group(3, config=CONFIG, rng_seed=seed, **what)
        group.elect(1)
        group.propose(1)
        return group.tick(2 * CONFIG.election_ticks)

    def said(self):
        leader = self.group[1]
        return leader.term, leader.last_index

    def may_sleep(self, here=EVERYBODY):
        return self.group[1].may_lead_asleep(here)

    def test_all_quiet(self):
        """All sleep once nothing is left to do: the leader first, and who is at its very point with it."""
        self.assertTrue(self.may_sleep())
        for id_ in (2, 3):
            raft = self.group[id_]
            self.assertTrue(raft.may_follow_asleep(self.said()))
            self.assertFalse(raft.may_follow_asleep(None))
            self.assertFalse(raft.may_follow_asleep((raft.term + 1, raft.last_index)))
            self.assertFalse(raft.may_follow_asleep((raft.term, raft.last_index + 1)))
            self.assertFalse(raft.may_lead_asleep(EVERYBODY))
        self.assertFalse(self.group[1].may_follow_asleep(self.said()))

    def test_learner(self):
        """A learner sleeps like any follower, and is waited for like one."""
        group = self.group = Group(2, learners=1, config=CONFIG)
        group.elect(1)
        group.tick(2 * self.ticks)
        self.assertTrue(self.may_sleep())
        self.assertTrue(group[3].may_follow_asleep(self.said()))
        self.assertFalse(self.may_sleep(here={1, 2}))

    def test_not_soon(self):
        """A log with a new entry is not at rest before its cache is given back, nor is one that just woke."""
        self.group.propose(1)
        self.group.tick(CONFIG.quiet_ticks)
        self.assertFalse(self.may_sleep())
        self.assertFalse(self.group[2].may_follow_asleep(self.said()))
        self.group.tick()
        self.assertTrue(self.may_sleep())
        self.group[1].wake()
        self.group.tick(self.ticks - 1)
        self.assertFalse(self.may_sleep())
        self.group.tick()
        self.assertTrue(self.may_sleep())

    def test_uncommitted(self):
        """A leader does not sleep with an entry that others lack, nor a follower with one that it lacks."""
        self.group.isolate(2, 3)
        self.group.propose(1)
        self.group.tick(CONFIG.quiet_ticks + 1)
        self.assertFalse(self.may_sleep())
        self.assertFalse(self.group[2].may_follow_asleep(self.said()))
        follower = self.group.start(2).raft  # knows of no commit
        follower.leader = 1
        self.assertEqual(follower.is_at_rest, follower.commit_index == follower.last_index)

    def test_undurable(self):
        """Nobody sleeps with something on its way to the disk: an entry, or a vote."""
        self.group.nodes[1].disk = False
        self.group.propose(1)  # committed by the others
        self.group.tick(CONFIG.quiet_ticks + 1)
        self.assertEqual(self.group[1].commit_index, self.group[1].last_index)
        self.assertFalse(self.may_sleep())
        self.group.nodes[1].disk = True
        self.group.finish_writes(1)
        self.group.tick(2 * self.ticks)
        self.assertTrue(self.may_sleep())
        self.group[1].vote = 0
        self.assertFalse(self.may_sleep())

    def test_not_held_by_all(self):
        """Who is there and lags, or does not know of the last commit, keeps the leader awake."""
        progress = self.group[1]._progress[3]
        for change in ({"match_index": 1}, {"sent_commit": 1}, {"no_room_ticks": 1}):
            for name, value in change.items():
                before = getattr(progress, name)
                setattr(progress, name, value)
                self.assertFalse(self.may_sleep(), name)
                setattr(progress, name, before)
        progress.become_probe()
        self.assertFalse(self.may_sleep())

    def test_one_is_away(self):
        """Who is away for long keeps nobody awake; who is heard and does not beat needs heartbeats."""
        self.assertFalse(self.may_sleep(here={1, 2}))
        self.group.isolate(3)
        self.group.tick(2 * self.ticks, ids=(1, 2))
        self.assertTrue(self.may_sleep(here={1, 2}))
        self.group.propose(1)
        self.group.tick(CONFIG.quiet_ticks + 1, ids=(1, 2))
        self.assertTrue(self.may_sleep(here={1, 2}))
        self.assertFalse(self.may_sleep())  # it is there again, and lags

    def test_quorum(self):
        """Without a quorum of those that are there a leader does not sleep: it is to step down."""
        leader = self.group[1]
        leader.missed(3)
        self.assertEqual((leader.is_heard(2), leader.is_heard(3)), (True, False))
        self.assertTrue(self.may_sleep(here={1, 2}))
        leader.missed(2)
        leader.missed(9)
        self.assertFalse(self.may_sleep(here={1}))

    def test_alone(self):
        """A lone voter sleeps when it is at rest."""
        group = self.group = Group(1, config=CONFIG)
        group.tick(2 * self.ticks)
        self.assertTrue(self.may_sleep(here=set()))

    def test_something_is_under_way(self):
        """A read, a hand-over, damage and a full disk keep a member awake."""
        leader, follower = self.group[1], self.group[2]
        leader.read_index()
        follower.read_index()
        self.assertFalse(self.may_sleep())
        self.assertFalse(follower.may_follow_asleep(self.said()))
        self.group.settle()
        self.assertTrue(self.may_sleep())
        leader._transfer_target = 2
        self.assertFalse(self.may_sleep())
        leader._transfer_target = 0
        for raft in (leader, follower):
            raft.disk_is_full = True
        self.assertFalse(self.may_sleep() or follower.may_follow_asleep(self.said()))
        for raft in (leader, follower):
            raft.disk_is_full = False
            raft.damage = Damage(1, 1)
        self.assertFalse(self.may_sleep() or follower.may_follow_asleep(self.said()))

    def test_new_leader(self):
        """A leader that has not committed an entry of its own term yet does not sleep."""
        self.group[1]._term_start_index = self.group[1].last_index + 1
        self.assertFalse(self.may_sleep())

    def test_no_room_is_heard(self):
        """A follower without room keeps its leader awake."""
        self.group[1]._on_no_room(2, NoRoom(term=self.group[1].term))
        self.assertFalse(self.may_sleep())

    def test_leader_wakes(self):
        """A woken leader sends heartbeats with its next tick, and all have a whole timeout to answer."""
        leader = self.group[1]
        for elapsed in range(self.ticks):
            leader._election_elapsed = elapsed
            for progress in leader._progress.values():
                progress.active = False
            leader.wake()
            self.group.tick(1, ids=(1,), settle=False)
            self.group.turn(1)
            sent = [one.target for one in self.group.queue if isinstance(one.message, Heartbeat)]
            self.assertEqual(sorted(sent), [2, 3])
            self.group.settle()
            self.group.tick(self.ticks)
            self.assertIs(leader.role, Role.LEADER)

    def test_follower_wakes(self):
        """A follower that is woken has a whole timeout before it stands, and refuses others as long."""
        for _ in range(20):
            follower = self.group[2]
            follower._election_elapsed = self.ticks - 1
            follower.wake()
            self.group.tick(self.ticks - 1, ids=(2,))
            self.assertIs(follower.role, Role.FOLLOWER)
            self.assertTrue(follower._hears_leader(3))

    def test_woken_by_mistake(self):
        """One follower that wakes alone is refused by those who sleep, and raises no term."""
        term = self.group[1].term
        self.group.filter = lambda envelope: envelope.target != 1
        self.group.tick(6 * self.ticks, ids=(2,))
        self.assertTrue(any(isinstance(one.message, RequestVote) for one in self.group.dropped))
        self.assertEqual([self.group[id_].term for id_ in (1, 2, 3)], [term] * 3)
        self.group.filter = None
        self.group[1].wake()  # by the question that reached it
        self.group.tick()
        self.assertEqual(self.group[2].leader, 1)

    def test_spread(self):
        """Those that lose the leader of many logs stand for election one after the other, all in time."""
        ticks = 3 * self.ticks
        stood = Counter()
        for seed in range(60):
            raft = self.quiet(seed + 1)[2 + seed % 2]
            raft.leader_link_lost(3)
            for tick in range(ticks):
                raft.tick()
                if raft.role is Role.PRE_CANDIDATE:
                    stood[tick] += 1
                    break
        self.assertEqual(stood.total(), 60)
        self.assertGreater(max(stood) - min(stood), 2 * self.ticks)
        self.assertLess(max(stood.values()), 10)
