"""Nodes that are no members, and two machines of one name: whose word counts, and about whom."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.config import LAN
from loghouse.gossip.members import MemberKey
from loghouse.limits import GOSSIP_STRANGERS_MAX, GOSSIP_STRANGERS_PER_NAME_MAX
from loghouse.protocol.gossip_messages import Liveness, PushPull, SwimAck, SwimNack, SwimPing, SwimPingReq
from tests.gossip.bench import Bench, address_of, alive, dead, key, left, said, suspect

ALIVE, SUSPECT, DEAD = Liveness.ALIVE, Liveness.SUSPECT, Liveness.DEAD
TWIN = MemberKey("a", b"another disk, or")


class StrangerTests(SynchronousTestCase):
    """A bench with the members a and b, and the stranger x."""

    def setUp(self):
        self.bench = Bench().meet("a", "b", "x")
        self.bench.swim.believe(frozenset({key("a"), key("b")}))
        self.bench.tick(LAN.probe_ticks)

    def refused(self, reason):
        return self.bench.refusals[reason]

    def test_hearsay(self):
        """What a stranger says of others is not heard, whatever it is; a member's word is."""
        for statement in (
            suspect("b", 1, accuser="x"),
            dead("b", 1, accuser="a"),
            left("b", 1),
            alive("b", 5, address="evil.example:1"),
            alive("invented", 1),
            dead("me", 1, accuser="a"),
        ):
            self.bench.hear("x", statement)
        self.bench.tick()
        self.assertEqual(self.refused("hearsay of a stranger"), 6)
        self.assertEqual(self.bench.liveness("b"), ALIVE)
        self.assertEqual(self.bench.member("b").profile.address, address_of("b"))
        self.assertIsNone(self.bench.member("invented"))
        self.bench.hear("a", suspect("b", 1, accuser="a"))
        self.assertEqual(self.bench.liveness("b"), SUSPECT)

    def test_itself(self):
        """A stranger may say where it is, and that it leaves: so nodes join."""
        self.bench.hear("y", alive("y", 1))
        self.assertEqual(self.bench.liveness("y"), ALIVE)
        self.bench.hear("y", left("y", 1))
        self.assertEqual(self.bench.liveness("y"), Liveness.LEFT)

    def test_changes_are_few(self):
        """A stranger that moves on and on is followed once in a probe's time: each address is dialled."""
        seen = set()
        for number in range(2, 2 + 10 * LAN.probe_ticks):
            self.bench.hear("x", alive("x", number, address=f"x-{number}.example:1"))
            seen.add(self.bench.member("x").profile.address)
            self.bench.tick()
        self.assertLessEqual(len(seen), 12)
        self.assertGreater(len(seen), 5)

    def test_probes(self):
        """A stranger's ping is answered, but nobody is pinged for it."""
        me = key("me")
        self.bench.forget_sent()
        self.bench.step("x", SwimPing(sequence=1, name=me.name, disk_uuid=me.disk_uuid))
        self.assertEqual(len(self.bench.sent_to("x", SwimAck)), 1)
        b = key("b")
        self.bench.forget_sent()
        self.bench.step("x", SwimPingReq(sequence=2, name=b.name, disk_uuid=b.disk_uuid))
        self.assertEqual(len(self.bench.sent_to("x", SwimNack)), 1)
        self.assertEqual(self.bench.sent_to("b", SwimPing), [])

    def test_table(self):
        """Strangers have a part of the table, one name's disks a small part of that; members always fit."""
        for number in range(50):
            disk = MemberKey("x", b"%016d" % number)
            self.bench.step(disk, PushPull(members=(said(ALIVE, "x", 1, disk_uuid=disk.disk_uuid),)))
            self.bench.tick(LAN.probe_ticks)
        disks = [member for member in self.bench.swim.members if member.name == "x"]
        self.assertLessEqual(len(disks), GOSSIP_STRANGERS_PER_NAME_MAX)
        for number in range(2 * GOSSIP_STRANGERS_MAX):
            self.bench.hear(f"y{number}", alive(f"y{number}", 1))
        self.assertLessEqual(len(self.bench.swim.keys), GOSSIP_STRANGERS_MAX + 2)
        members = frozenset({key("a"), key("b"), key("c")})
        self.bench.swim.believe(members)
        self.bench.hear("c", alive("c", 1))
        self.assertLess(members, self.bench.swim.keys)

    def test_shut_out(self):
        """A removed name is forgotten, alive or not, and neither heard nor heard of until it is let in."""
        self.bench.swim.shut_out(frozenset({"x"}))
        self.assertIsNone(self.bench.member("x"))
        self.bench.hear("a", alive("x", 7))
        self.bench.hear("x", alive("x", 7))
        self.assertIsNone(self.bench.member("x"))
        self.bench.forget_sent()
        self.bench.tick(30 * LAN.probe_ticks)
        self.assertEqual(self.bench.sent_to("x"), [])
        self.bench.swim.shut_out(frozenset())
        self.bench.hear("x", alive("x", 7))
        self.assertEqual(self.bench.liveness("x"), ALIVE)


class NamesakeTests(SynchronousTestCase):
    """A machine that has the name of the member a, and another disk."""

    def setUp(self):
        self.bench = Bench().meet("a", "b")
        self.bench.swim.believe(frozenset({key("a"), key("b")}))
        self.bench.step(TWIN, PushPull(members=(self.twin(1),)))

    def twin(self, incarnation, **more):
        more.setdefault("address", "elsewhere.example:1")
        return said(ALIVE, "a", incarnation, disk_uuid=TWIN.disk_uuid, **more)

    def views(self):
        return {
            member.disk_uuid: (member.liveness, member.profile.address)
            for member in self.bench.swim.members
            if member.name == "a"
        }

    def test_two_nodes(self):
        """The two are two nodes, each with its own address and life; neither speaks for the other."""
        own = (ALIVE, address_of("a"))
        self.assertEqual(
            self.views(), {key("a").disk_uuid: own, TWIN.disk_uuid: (ALIVE, "elsewhere.example:1")}
        )
        for statement in (
            alive("a", 9, address="elsewhere.example:1"),
            dead("a", 9, accuser="a"),
            left("a", 9),
        ):
            self.bench.step(TWIN, PushPull(members=(statement,)))
            self.assertEqual(self.views()[key("a").disk_uuid], own)

    def answer(self, messages):
        """Everybody answers pings but the member a itself."""
        for outgoing in messages:
            if isinstance(outgoing.message, SwimPing) and outgoing.target != key("a"):
                self.bench.swim.step(outgoing.target, SwimAck(sequence=outgoing.message.sequence))

    def lose(self):
        """Let the member a fail while its namesake lives."""
        self.bench.silent, self.bench._answer = set(), self.answer
        self.bench.tick(1000)
        livenesses = [self.views()[disk][0] for disk in (key("a").disk_uuid, TWIN.disk_uuid)]
        self.assertEqual(livenesses, [DEAD, ALIVE])
        self.bench.forget_sent()

    def contacts(self):
        return {(one.name, one.disk_uuid) for one in self.bench.swim._book().contacts}

    def tried(self):
        self.bench.tick(2 * LAN.reach_out_ticks_max)
        return [outgoing.target for outgoing in self.bench.sent if outgoing.address == address_of("a")]

    def test_keeps_its_place(self):
        """A member that failed is looked for and remembered, whoever lives under its name."""
        self.lose()
        self.assertIn(key("a"), self.tried())
        self.assertIn(key("a"), self.contacts())

    def test_whose_disk_is_gone(self):
        """One that is no member any more gives its place to its living namesake, as ever."""
        self.bench.swim.believe(frozenset({TWIN, key("b")}))
        self.lose()
        self.assertNotIn(key("a"), self.tried())
        self.assertNotIn(key("a"), self.contacts())
