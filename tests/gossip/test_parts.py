"""The small parts: suspicion, local health, broadcasts, presets, the table of members."""

from dataclasses import asdict, replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.awareness import Awareness
from loghouse.gossip.broadcasts import Broadcasts, transmit_limit
from loghouse.gossip.config import LAN, LOCAL, WAN, SwimConfig
from loghouse.gossip.members import KnownMember, MemberKey, MemberTable, Profile
from loghouse.gossip.suspicion import (
    Suspicion,
    confirmations_expected,
    suspicion_ticks,
    suspicion_ticks_range,
)
from loghouse.protocol.gossip_messages import Liveness
from tests.gossip.bench import alive, key, left


class SuspicionTicksTests(SynchronousTestCase):
    """The time that a suspect has, as a function of what is known."""

    # confirmations, expected, low, high -> ticks
    ROWS = [
        (0, 0, 40, 240, 40),
        (0, 3, 20, 300, 300),
        (1, 3, 20, 300, 160),
        (2, 3, 20, 300, 78),
        (3, 3, 20, 300, 20),
        (4, 3, 20, 300, 20),
        (10, 3, 20, 300, 20),
        (0, 1, 40, 240, 240),
        (1, 1, 40, 240, 40),
        (0, 2, 40, 240, 240),
        (1, 2, 40, 240, 113),
        (2, 2, 40, 240, 40),
    ]

    def test_rows(self):
        """Every row of `ROWS` comes out as listed."""
        for confirmations, expected, low, high, ticks in self.ROWS:
            row = (confirmations, expected, low, high)
            self.assertEqual(suspicion_ticks(*row), ticks, row)

    def test_range(self):
        """The shortest time grows with the logarithm of the members, the longest with it."""
        found = [suspicion_ticks_range(LAN, live) for live in (0, 1, 3, 10, 50, 100)]
        self.assertEqual(found, [(40, 240), (40, 240), (40, 240), (40, 240), (68, 408), (80, 480)])

    def test_expected(self):
        """Confirmations are waited for only where there are enough others to give them."""
        self.assertEqual([confirmations_expected(LAN, live) for live in (1, 3, 4, 50)], [0, 0, 2, 2])
        self.assertEqual(confirmations_expected(replace(LAN, suspicion_factor=1), 50), 0)
        self.assertEqual([confirmations_expected(LOCAL, live) for live in (2, 3, 50)], [0, 1, 1])

    def test_confirmations(self):
        """Each new accuser shortens the time; one heard before, and one too many, changes nothing."""
        suspicion = Suspicion(LAN, 10, "a", 1000)
        self.assertFalse(suspicion.is_over(1239, 1))
        self.assertTrue(suspicion.is_over(1240, 1))
        self.assertFalse(suspicion.confirm("a"))
        self.assertTrue(suspicion.confirm("b"))
        self.assertFalse(suspicion.is_over(1112, 1))
        self.assertTrue(suspicion.is_over(1113, 1))
        self.assertTrue(suspicion.confirm("c"))
        self.assertFalse(suspicion.confirm("d"))
        self.assertTrue(suspicion.is_over(1040, 1))
        self.assertFalse(suspicion.is_over(1359, 9))
        self.assertTrue(suspicion.is_over(1360, 9))


class AwarenessTests(SynchronousTestCase):
    """The score of local health."""

    def test_bounds(self):
        """The score stays between 0 and its maximum, and stretches by one more than itself."""
        awareness = Awareness(8)
        seen = []
        for by in (-1, 3, 2, 9, -1, -20):
            awareness.change(by)
            seen.append((awareness.score, awareness.scaled(10)))
        self.assertEqual(seen, [(0, 10), (3, 40), (5, 60), (8, 90), (7, 80), (0, 10)])


class BroadcastsTests(SynchronousTestCase):
    """What is told, and how often."""

    def test_limit(self):
        """The transmit limit grows with the logarithm of the members."""
        self.assertEqual([transmit_limit(4, live) for live in (1, 9, 10, 50, 99, 100)], [4, 4, 8, 8, 8, 12])

    def test_each_is_transmitted_so_often(self):
        """Each statement is taken exactly as often as the limit says, those taken least often first."""
        queue = Broadcasts()
        for name in "abc":
            queue.queue(alive(name, 1))
        taken = []
        while len(queue):
            taken.append(queue.take(2, 2))
        self.assertEqual(
            [[statement.name for statement in each] for each in taken], [["a", "b"], ["c", "a"], ["b", "c"]]
        )
        self.assertEqual(queue.take(2, 2), ())

    def test_newer_replaces_older(self):
        """Of each member only the latest statement is transmitted, as often as if there had been no other."""
        queue = Broadcasts()
        queue.queue(alive("a", 1))
        queue.take(1, 3)
        queue.queue(left("a", 1))
        self.assertEqual(len(queue), 1)
        self.assertEqual([queue.take(9, 3) for _ in range(4)], [(left("a", 1),)] * 3 + [()])

    def test_latest_last(self):
        """What is said of a member again waits behind what was said of others before."""
        queue = Broadcasts()
        for statement in (alive("a", 1), alive("b", 1), alive("a", 2)):
            queue.queue(statement)
        self.assertEqual(queue.take(9, 9), (alive("b", 1), alive("a", 2)))

    def test_drop(self):
        """What is dropped is not transmitted."""
        queue = Broadcasts()
        queue.queue(alive("a", 1))
        queue.drop(key("a"))
        queue.drop(key("b"))
        self.assertEqual(queue.take(9, 9), ())


class ConfigTests(SynchronousTestCase):
    """Settings that cannot work are refused at once."""

    def test_refused(self):
        """Each bad value is named, and the last good one is taken."""
        for name, more, good in (
            ("probe_ticks must be at least 1", {"probe_ticks": 0}, {"probe_ticks": 6}),
            ("gossip_ticks must be at least 1", {"gossip_ticks": 0}, {"gossip_ticks": 1}),
            ("timeout_ticks must be below", {"timeout_ticks": 10}, {"timeout_ticks": 9}),
            ("reach_out_ticks_max must not", {"reach_out_ticks_max": 9}, {"reach_out_ticks_max": 10}),
            ("dead_reclaim_ticks must not", {"dead_reclaim_ticks": 299}, {"dead_reclaim_ticks": 300}),
        ):
            error = self.assertRaises(ValueError, SwimConfig, **more)
            self.assertIn(name, str(error))
            SwimConfig(**good)

    def test_presets(self):
        """The presets are what their descriptions say, a tick being 100 ms."""
        lan = {
            "probe_ticks": 10,
            "timeout_ticks": 5,
            "indirect_probes": 3,
            "suspicion_factor": 4,
            "suspicion_max_factor": 6,
            "awareness_max": 8,
            "gossip_ticks": 2,
            "fanout": 3,
            "transmit_factor": 4,
            "gossip_to_dead_ticks": 30 * 10,
            "push_pull_ticks": 30 * 10,
            "reach_out_ticks_min": 1 * 10,
            "reach_out_ticks_max": 10 * 10,
            "dead_reclaim_ticks": 24 * 3600 * 10,
            "book_ticks": 1 * 10,
        }
        local = {"timeout_ticks": 2, "indirect_probes": 1, "suspicion_factor": 3, "push_pull_ticks": 15 * 10}
        wan = {
            "probe_ticks": 5 * 10,
            "timeout_ticks": 3 * 10,
            "suspicion_factor": 6,
            "gossip_ticks": 5,
            "fanout": 4,
            "gossip_to_dead_ticks": 60 * 10,
            "push_pull_ticks": 60 * 10,
        }
        for preset, more in ((LAN, {}), (LOCAL, local), (WAN, wan)):
            self.assertEqual(asdict(preset), {**lan, **more})

    def test_time_of_a_suspect(self):
        """A LOCAL suspect has less time than a LAN one, and a WAN one more."""
        shortest = [suspicion_ticks_range(config, 10)[0] for config in (LOCAL, LAN, WAN)]
        self.assertEqual(shortest, [30, 40, 300])


class TableTests(SynchronousTestCase):
    """The table of the other members."""

    def setUp(self):
        self.table = MemberTable()

    def add(self, name, liveness=Liveness.ALIVE, tick=0, *, disk=b"1", address="a:1", **more):
        profile = Profile(address=address) if address else None
        member = KnownMember(MemberKey(name, disk * 16), liveness, 1, tick, profile)
        for field, value in more.items():
            setattr(member, field, value)
        self.table.add(member)
        return member

    def names(self):
        return [member.key.name for member in self.table.live()]

    def test_live(self):
        """The live members are those of this moment, whatever was asked before."""
        self.assertEqual(self.names(), [])
        one = self.add("a")
        self.assertEqual(self.names(), ["a"])
        self.add("b", Liveness.SUSPECT)
        self.table.move(one, Liveness.LEFT, 5)
        self.assertEqual((self.names(), one.changed_tick), (["b"], 5))
        self.table.move(one, Liveness.ALIVE, 6)
        self.table.drop(MemberKey("b", b"1" * 16))
        self.table.drop(MemberKey("b", b"1" * 16))
        self.assertEqual((self.names(), len(self.table)), (["a"], 1))

    def test_suspicion_ends(self):
        """Whatever becomes of a member, the suspicion of it is over."""
        one = self.add("a", Liveness.SUSPECT, suspicion=Suspicion(LAN, 5, "b", 0))
        self.table.move(one, Liveness.ALIVE, 1)
        self.assertIsNone(one.suspicion)

    def test_least(self):
        """Who has no address goes first, then who is not shown, then who is gone longest; none that lives."""
        newcomer = KnownMember(MemberKey("new", bytes(16)), Liveness.ALIVE, 1, 9)
        self.add("live")
        self.assertIsNone(self.table.least(newcomer))
        for name, tick, more in (
            ("late", 7, {}),
            ("early", 2, {}),
            ("hidden late", 8, {"is_forgotten": True}),
            ("hidden", 3, {"is_forgotten": True}),
            ("nowhere late", 9, {"address": ""}),
            ("nowhere", 4, {"address": ""}),
        ):
            self.add(name, Liveness.DEAD, tick, **more)
            self.assertEqual(self.table.least(newcomer).key.name, name)

    def test_least_for_a_proven_one(self):
        """For a proven newcomer one that lives goes, too, if it never proved itself and none is gone."""
        newcomer = KnownMember(MemberKey("new", bytes(16)), Liveness.ALIVE, 1, 9, is_proven=True)
        self.add("proven", tick=1, is_proven=True)
        self.assertIsNone(self.table.least(newcomer))
        self.add("invented", tick=3)
        self.assertEqual(self.table.least(newcomer).key.name, "invented")
        self.add("gone", Liveness.LEFT, tick=5)
        self.assertEqual(self.table.least(newcomer).key.name, "gone")

    def test_namesakes(self):
        """A namesake is another one of the same name that lives."""
        one = self.add("a", Liveness.DEAD)
        self.add("b")
        self.assertFalse(self.table.has_live_namesake(one))
        other = self.add("a", disk=b"2")
        self.assertTrue(self.table.has_live_namesake(one))
        self.assertFalse(self.table.has_live_namesake(other))
