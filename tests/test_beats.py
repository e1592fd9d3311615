"""Quiet logs sleep, by real cores over real logs; nodes hear each other by their beats."""

import random
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.node.beats import Beats
from loghouse.protocol.beat_messages import NodeBeat, decode_sleeping
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.raft_messages import Heartbeat, HeartbeatReply
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import Role
from loghouse.replica.driver import RaftDriver
from tests.driver.group import Group

CONFIG = RaftConfig(quiet_ticks=3)
TICKS = CONFIG.election_ticks
ORDERS = 16


class Log:
    """One log on one node."""

    def __init__(self, group, driver, configuration):
        self.group = group
        self.driver = driver
        self.configuration = configuration
        self.is_busy = False
        self.placed_names = ()
        self.is_hosted = driver is not None

    @property
    def is_asleep(self):
        return self.driver is not None and self.driver.is_asleep

    @property
    def leader_name(self):
        leader = self.driver.raft.leader
        return f"n{leader}" if leader else ""


class TownNode:
    """A node that has the default log, and one more."""

    def __init__(self, town, member):
        self.name = f"n{member.id}"
        self.transport = self
        configuration = member.raft.configuration
        self.membership = Log(1, None, configuration)
        self.orders = Log(ORDERS, member.replica, configuration)
        self.logs = {1: self.membership, ORDERS: self.orders}
        self.sent = []
        self._town = town
        self.beats = Beats(self, CONFIG, random.Random(member.id))

    def send(self, name, beat, group):
        self.sent.append((name, beat))
        self._town.flying.append((self.name, name, beat))


class BeatsCase(SynchronousTestCase):
    """Three nodes; the first leads, and all are asleep."""

    def setUp(self):
        self.group = Group(3, CONFIG)
        self.nodes = {id_: TownNode(self, member) for id_, member in self.group.members.items()}
        self.flying, self.deaf = [], set()
        self.passed = 0
        self.group.elect(1)
        self.pass_(3 * TICKS)
        self.assertEqual(self.asleep(), [1, 2, 3])
        self.forget()

    def forget(self):
        for member in self.group.members.values():
            member.sent.clear()
        for node in self.nodes.values():
            node.sent.clear()

    def pass_(self, ticks=1):
        """Let ticks pass on the nodes that live, as `Node` does it."""
        for _ in range(ticks):
            self.passed += 1
            living = [id_ for id_, member in self.group.members.items() if not member.is_silent]
            for id_ in living:
                if self.passed % TICKS == 0:
                    self.nodes[id_].beats.look()
                self.nodes[id_].beats.tick()
            for id_ in living:
                if not self.group[id_].replica.is_asleep:
                    self.group[id_].replica.tick()
            self.group.settle()
            self.deliver()

    def deliver(self):
        flying, self.flying = self.flying, []
        for source, target, beat in flying:
            both = {int(source[1:]), int(target[1:])}
            if not both & self.deaf and not any(self.group[id_].is_silent for id_ in both):
                self.nodes[int(target[1:])].beats.message_received(source, beat)

    def asleep(self):
        return [id_ for id_, member in self.group.members.items() if member.replica.is_asleep]

    def leading(self):
        return [id_ for id_, member in self.group.members.items() if member.leads and not member.is_silent]

    def until_led(self, ticks):
        """How many ticks pass until another than the first leads."""
        for passed in range(ticks):
            if set(self.leading()) - {1}:
                return passed
            self.pass_()
        self.fail(f"nobody leads after {ticks} ticks")

    def append(self, id_=1):
        self.successResultOf(self.group[id_].propose_and_settle())

    def cut(self, *ids):
        """Let nothing get to these or come from them."""
        everybody = set(self.group.members)
        pairs = {(a, b) for a in ids for b in everybody} | {(b, a) for a in ids for b in everybody}
        self.group.lost = [pair for pair in pairs if pair[0] != pair[1]]
        self.deaf = set(ids)

    def heal(self):
        self.group.lost, self.deaf = [], set()


class SleepTests(BeatsCase):
    """What sleeping logs do, and what they do not."""

    def test_silence(self):
        """Logs that sleep send nothing and take no time; each pair of leader and follower has its beats."""
        before = [member.raft._election_elapsed for member in self.group.members.values()]
        self.pass_(100)
        self.assertEqual([member.sent for member in self.group.members.values()], [[], [], []])
        after = [member.raft._election_elapsed for member in self.group.members.values()]
        self.assertEqual((self.asleep(), after), ([1, 2, 3], before))
        sent = {id_: [name for name, _ in node.sent] for id_, node in self.nodes.items()}
        self.assertEqual(sent, {1: ["n2", "n3"] * 100, 2: ["n1"] * 100, 3: ["n1"] * 100})
        raft = self.group[1].raft
        said = {name: decode_sleeping(beat.sleeping) for name, beat in self.nodes[1].sent}
        self.assertEqual(said, {name: {ORDERS: (raft.term, raft.last_index)} for name in ("n2", "n3")})

    def test_the_default_log(self):
        """The default log never sleeps, and where it is alone nobody beats."""
        for node in self.nodes.values():
            node.logs = {1: node.orders}
        for member in self.group.members.values():
            member.replica.wake()
        self.pass_(3 * TICKS)
        self.assertEqual((self.asleep(), [node.sent for node in self.nodes.values()]), ([], [[], [], []]))

    def test_not_hosted(self):
        """A log of which there is no copy here neither sleeps nor has beats."""
        for node in self.nodes.values():
            node.orders.driver, node.orders.is_hosted = None, False
        self.pass_(TICKS)
        self.forget()
        self.pass_()
        self.assertEqual([node.sent for node in self.nodes.values()], [[], [], []])

    def test_append(self):
        """An append to a log that sleeps is committed everywhere at once; then all sleep again."""
        self.append()
        self.assertEqual({member.raft.commit_index for member in self.group.members.values()}, {3})
        self.assertEqual(self.asleep(), [])
        self.pass_(2 * TICKS)
        self.assertEqual(self.asleep(), [1, 2, 3])

    def test_read(self):
        """A read at a follower wakes it and its leader, which asks a quorum."""
        read = self.group[2].read_barrier()
        self.group.settle()
        self.assertEqual(self.successResultOf(read), 2)
        self.assertIn(1, {1, 2, 3} - set(self.asleep()))
        self.assertEqual(len(self.group[1].sent_of(Heartbeat)), 2)
        self.pass_(2 * TICKS)
        self.assertEqual(self.asleep(), [1, 2, 3])

    def test_read_of_a_deposed_leader(self):
        """A leader that slept through a newer term answers no read out of what it knows."""
        self.group[1].is_silent = True  # its process is stopped
        self.until_led(5 * TICKS)
        self.append(self.leading()[0])
        self.group[1].is_silent = False
        self.assertEqual((self.group[1].leads, 1 in self.asleep()), (True, True))
        read = self.group[1].read_barrier()
        self.group.settle()
        self.failureResultOf(read)
        self.pass_(4 * TICKS)
        self.assertEqual((len(self.leading()), self.asleep()), (1, [1, 2, 3]))

    def test_orders(self):
        """A change of members and a hand-over wake a leader."""
        for order in (
            lambda driver: driver.propose_configuration(
                self.group[1].raft.configuration, lambda done: None, lambda error: None
            ),
            lambda driver: driver.transfer_leadership(1),
            RaftDriver.stand,
            RaftDriver.wake,
        ):
            order(self.group[1].replica)
            self.assertNotIn(1, self.asleep())
            self.group.settle()
            self.pass_(3 * TICKS)
            self.assertIn(1, self.asleep())

    def test_late_reply(self):
        """The answer to the last heartbeat before does not wake a leader, unless entries were lost."""
        raft = self.group[1].raft
        for last_index, is_asleep in ((raft.last_index, True), (raft.last_index - 1, False)):
            reply = HeartbeatReply(term=raft.term, last_index=last_index, read_round=0, timestamp=0)
            self.group[1].replica.receive(SimpleNamespace(group=1, source=2, target=1, message=reply))
            self.assertEqual(1 in self.asleep(), is_asleep)

    def test_busy(self):
        """What is under way beside the core keeps a log awake."""
        self.nodes[1].orders.is_busy = True
        self.append()
        self.pass_(3 * TICKS)
        self.assertNotIn(1, self.asleep())

    def test_waiting_reads(self):
        """A read that waits for entries keeps its log awake."""
        self.group[2].replica._behind.append(SimpleNamespace(ticks_left=9, index=99))
        self.assertFalse(self.group[2].replica.is_at_rest)


class WakeTests(BeatsCase):
    """What ends a sleep that nobody ended by asking something."""

    def test_leader_is_gone(self):
        """When a leader's node beats no more its followers look for another, in time."""
        self.group[1].is_silent = True
        passed = self.until_led(6 * TICKS)
        self.assertGreaterEqual(passed, TICKS - 1)
        self.append(self.leading()[0])

    def test_link_is_lost(self):
        """When the link with the leader's node is gone that takes less than an election timeout."""
        self.group[1].is_silent = True
        for id_ in (2, 3):
            self.nodes[id_].beats.node_lost("n1")
        self.assertEqual(self.asleep(), [1])
        self.assertLess(self.until_led(3 * TICKS), 2 * TICKS)

    def test_link_is_back(self):
        """A link that was only lost costs no leader its office: the next beat lets who woke sleep on."""
        for lost in ((2,), (2, 3)):
            for id_ in lost:
                self.nodes[id_].beats.node_lost("n1")
                self.nodes[1].beats.node_lost(f"n{id_}")
            self.assertEqual(self.asleep(), [1, 3] if lost == (2,) else [])  # without a quorum all wake
            self.pass_(2 if lost == (2,) else 2 * TICKS)
            self.assertEqual((self.leading(), self.asleep()), ([1], [1, 2, 3]))

    def test_another_life(self):
        """When the leader's process is another one its followers look for another leader at once."""
        self.deaf = {1}
        for id_ in (2, 3):
            self.nodes[id_].beats.message_received("n1", NodeBeat(life=99))
        self.assertEqual(self.asleep(), [1])
        self.group[1].is_silent = True
        self.assertLess(self.until_led(3 * TICKS), 2 * TICKS)

    def test_another_life_that_says_the_same(self):
        """Another life of a follower's node wakes the leader: nobody there knows who leads."""
        said = self.nodes[2].sent[-1][1].sleeping if self.nodes[2].sent else b""
        self.nodes[1].beats.message_received("n2", NodeBeat(life=99, sleeping=said))
        self.assertEqual(self.asleep(), [2, 3])
        self.nodes[1].beats.message_received("n9", NodeBeat(life=99))  # has no copy of this log

    def test_old_life(self):
        """A beat of a process that is gone lets nobody sleep."""
        old = dict(self.nodes[1].sent or [("n2", self.nodes[1].beats._beats["n2"])])["n2"]
        self.group[1].is_silent = True
        self.nodes[2].beats.message_received("n1", NodeBeat(life=99))
        for _ in range(3):
            self.nodes[2].beats.message_received("n1", old)
            self.pass_()
            self.assertNotIn(2, self.asleep())

    def test_not_named_any_more(self):
        """A follower whose log is not in its leader's beat wakes, whatever the reason."""
        self.nodes[2].beats.message_received("n1", NodeBeat(life=self.nodes[1].beats._life))
        self.assertEqual(self.asleep(), [1, 3])
        self.assertIs(self.group[2].raft.role, Role.FOLLOWER)

    def test_closed_log(self):
        """A leader whose log was closed is replaced although its node lives and beats."""
        self.nodes[1].orders.driver = None
        self.group[1].replica.stop()
        self.assertLess(self.until_led(5 * TICKS), 5 * TICKS)

    def test_pre_vote(self):
        """The question of one that woke by mistake wakes the leader, which is heard and stays."""
        term = self.group[1].raft.term
        self.deaf = {2}  # else the beats would let it sleep again
        self.nodes[2].beats.node_lost("n1")
        self.nodes[1].orders.is_busy = True
        self.pass_(TICKS + 1)
        self.assertEqual((self.leading(), self.group[2].raft.leader), ([1], 1))
        self.assertNotIn(1, self.asleep())
        self.assertEqual({member.raft.term for member in self.group.members.values()}, {term})

    def test_away_and_back(self):
        """One that is away keeps nobody awake; it gets what it lacks as soon as it is there again."""
        self.cut(3)
        self.pass_(TICKS)
        self.append()
        self.pass_(4 * TICKS)
        self.assertEqual(self.asleep(), [1, 2])
        self.heal()
        self.pass_(3)
        self.assertEqual(self.group[3].raft.commit_index, self.group[1].raft.commit_index)
        self.pass_(4 * TICKS)
        self.assertEqual(self.asleep(), [1, 2, 3])

    def test_stopped_and_back(self):
        """The same when it was stopped, and believes that it is asleep: the first beat of it tells."""
        self.group[3].is_silent = True
        self.pass_(TICKS)
        self.append()
        self.pass_(4 * TICKS)
        self.group[3].is_silent = False
        self.assertEqual(self.asleep(), [1, 2, 3])
        self.pass_(3)
        self.assertEqual(self.group[3].raft.commit_index, self.group[1].raft.commit_index)

    def test_back_and_even(self):
        """The beats of one that missed nothing wake nobody."""
        self.nodes[1].beats.node_lost("n3")
        self.assertFalse(self.group[1].raft.is_heard(3))
        self.assertEqual(self.asleep(), [1, 2, 3])
        self.pass_(2)
        self.assertEqual(self.asleep(), [1, 2, 3])

    def test_no_quorum(self):
        """A leader whose voters are gone wakes, and steps down as ever."""
        self.cut(2, 3)
        self.nodes[1].beats.node_lost("n3")
        self.assertIn(1, self.asleep())
        self.pass_(TICKS)
        self.assertNotIn(1, self.asleep())
        self.pass_(2 * TICKS)
        self.assertFalse(self.group[1].leads)

    def test_older_node(self):
        """With a member whose node takes no beats, and sends none, nobody sleeps: it needs heartbeats."""
        self.deaf = {3}
        self.append()
        self.pass_(5 * TICKS)
        self.assertEqual(self.asleep(), [])
        self.assertEqual((self.leading(), self.group[3].raft.leader), ([1], 1))

    def test_another_disk(self):
        """A node that beats, with another disk than the member's, is not that member."""
        node = self.nodes[1]
        node.membership.configuration = Configuration().with_member("n2", b"x" * 16, MemberRole.VOTER)
        self.assertEqual(node.beats._here(node.orders), set())

    def test_forgotten(self):
        """Who is no member of the cluster any more is not there."""
        node = self.nodes[1]
        self.assertEqual(node.beats._here(node.orders), {2, 3})
        node.membership.configuration = node.membership.configuration.without(3)
        node.beats.look()
        self.assertFalse(node.beats._pulses.is_here("n3"))

    def test_no_configuration(self):
        """A copy that does not know yet which member it is lets everybody know that it is there."""
        node = self.nodes[2]
        node.orders.driver, node.orders.configuration = None, Configuration()
        self.assertEqual(list(node.beats._make_beats()), ["n1", "n3"])

    def test_no_leader(self):
        """Whoever knows no leader beats to all who may lead: to members, to replicas, or to everybody."""
        node = self.nodes[2]
        self.group[2].raft.leader = 0
        node.orders.placed_names = ("n4",)
        self.assertEqual(list(node.beats._make_beats()), ["n1", "n3", "n4"])
        node.orders.configuration = Configuration()
        self.assertEqual(list(node.beats._make_beats()), ["n4"])
        node.orders.placed_names = ()
        self.assertEqual(list(node.beats._make_beats()), ["n1", "n3"])


class AloneTests(SynchronousTestCase):
    """A node alone, which is the only voter of its logs."""

    def asleep_after(self, group):
        lone = Group(1, CONFIG)
        self.flying = []
        node = TownNode(self, lone[1])
        node.logs = {group: node.orders}
        for _ in range(3 * TICKS):
            node.beats.tick()
            if not node.orders.is_asleep:
                lone.tick()
        self.assertEqual(node.sent, [])
        return node.orders.is_asleep

    def test_named_log(self):
        """Its quiet logs sleep, too; there is nobody to tell."""
        self.assertTrue(self.asleep_after(ORDERS))

    def test_the_default_log(self):
        """The default log never sleeps."""
        self.assertFalse(self.asleep_after(1))


class WaveTests(SynchronousTestCase):
    """A node that leads many logs is gone."""

    def test_spread(self):
        """Elections are spread the wider the more logs lost their leader."""
        for count, elections in ((1, 1), (399, 1), (400, 2), (1000, 5)):
            lost = []
            driver = SimpleNamespace(
                raft=SimpleNamespace(leader=2, id=1), leader_lost=lost.append, is_asleep=False
            )
            log = SimpleNamespace(driver=driver, leader_name="n2", configuration=Configuration())
            beats = Beats(SimpleNamespace(), CONFIG, random.Random(1))
            beats._asleep = dict.fromkeys(range(count), log)
            beats.node_lost("n2")
            self.assertEqual(lost, [elections] * count)
            beats.message_received("n2", NodeBeat(life=5))
            self.assertEqual(lost, [elections] * 2 * count)
