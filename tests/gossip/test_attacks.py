"""What a member with a proper certificate can say, and what it cannot achieve (attack rows 17 to 20)."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.members import MemberKey
from loghouse.limits import (
    GOSSIP_BROADCASTS_MAX,
    GOSSIP_MEMBERS_MAX,
    INCARNATION_HEARSAY_MAX,
    INCARNATION_JUMP_MAX,
)
from loghouse.protocol.gossip_messages import Liveness, PushPull, Statement, SwimBroadcast
from tests.gossip.bench import said
from tests.gossip.town import Town
from tests.processes import thorough

EVIL = 10
HONEST = range(1, 10)


@thorough
class AttackTests(SynchronousTestCase):
    """Nine honest nodes and one that says what it likes."""

    def setUp(self):
        self.town = Town(10, seed=41)
        self.town.settle()
        self.town.run(20)
        self.victim = self.town[1]

    def about(self, liveness, incarnation, **more):
        """A statement about the victim."""
        return said(liveness, "node-1", incarnation, disk_uuid=self.victim.disk_uuid, **more)

    def tell_everybody(self, *statements, but=()):
        for number in set(HONEST) - set(but):
            self.town.forge(EVIL, number, SwimBroadcast(broadcasts=statements))

    def check_unharmed(self):
        """Nobody failed or left, and soon everybody agrees, on the true addresses."""
        self.town.run_until_agreed(60)
        self.assertEqual(self.town.failures, [])
        for node in self.town:
            self.assertEqual(node.member(self.victim).profile.address, self.victim.address)

    def test_dead_storm(self):
        """Row 17: a storm of accusations under many names, each of the latest incarnation, kills nobody."""
        before = self.victim.swim.incarnation
        sent_before = sum(self.town.sent.values())
        for step in range(600):
            incarnation = self.victim.swim.incarnation
            self.tell_everybody(
                self.about(Liveness.DEAD, incarnation, accuser=f"node-{step % 9 + 2}"),
                self.about(Liveness.SUSPECT, incarnation + step % 2, accuser=f"node-{(step + 3) % 9 + 2}"),
            )
            self.town.run(0.1)
            self.assertIn("node-1", self.town[2].live_names())
        self.assertLessEqual(self.victim.swim.incarnation - before, 2 * 600)
        # At most what the gossip rhythm allows: it is not amplified.
        self.assertLess(sum(self.town.sent.values()) - sent_before, 60 * 10 * (5 * 3 + 10 + 10))
        self.check_unharmed()

    def test_poisoned_incarnation(self):
        """Row 18: no incarnation that others make up can silence a member."""
        for incarnation in (
            (1 << 64) - 1,
            1 << 63,
            INCARNATION_HEARSAY_MAX,
            self.victim.swim.incarnation + INCARNATION_JUMP_MAX,
        ):
            self.tell_everybody(
                self.about(Liveness.DEAD, incarnation, accuser="node-10"),
                self.about(Liveness.LEFT, incarnation + 1 if incarnation < 1 << 62 else incarnation),
            )
            self.town.run(10)
        self.town.run_until_agreed(60)
        self.assertEqual(self.town.failures, [])
        self.assertLess(self.victim.swim.incarnation, INCARNATION_HEARSAY_MAX)

    def test_poisoned_newcomer(self):
        """Row 18: a newcomer that hears only lies first is put right by the members themselves."""
        self.town[9].kill()
        self.town[9].disk = b""
        self.town.run_until_agreed(60)
        self.town.failures.clear()
        self.town[9].seeds = (self.town[EVIL].address,)
        self.town[9].start()
        lies = [
            said(
                liveness,
                f"node-{number}",
                INCARNATION_HEARSAY_MAX,
                disk_uuid=self.town[number].disk_uuid,
                address="evil.example:1" if liveness is Liveness.ALIVE else "",
            )
            for number, liveness in zip(
                range(1, 5), (Liveness.ALIVE, Liveness.DEAD, Liveness.LEFT, Liveness.ALIVE), strict=True
            )
        ]
        self.town.forge(EVIL, 9, SwimBroadcast(broadcasts=tuple(lies)))
        self.town.run_until_agreed(90)
        self.assertEqual({by for _, by, _ in self.town.failures} - {9}, set())

    def test_forged_address(self):
        """Row 19: a forged ALIVE with another address neither cuts a member off nor moves it for good."""
        for step in range(20):
            forged = self.about(
                Liveness.ALIVE, self.victim.swim.incarnation + 1, address=self.town[EVIL].address
            )
            self.tell_everybody(forged, but=[1])
            self.town.run(1 + step % 3)
        self.check_unharmed()

    def test_forged_leave(self):
        """A leave that the member never said is taken back by the member, within seconds."""
        self.tell_everybody(self.about(Liveness.LEFT, self.victim.swim.incarnation))
        self.town.run(1)
        self.assertLess(self.town.run_until_agreed(10), 10)

    def test_replay(self):
        """Row 20: old words of a member, said again later, change nothing."""
        recorded = []
        self.town.tap = lambda source, outgoing: recorded.extend(
            statement
            for statement in (
                *getattr(outgoing.message, "broadcasts", ()),
                *getattr(outgoing.message, "members", ()),
            )
            if statement.name == "node-1"
        )
        for tag in ("one", "two", "three"):
            self.victim.swim.update(self.profile(tags=(tag,)))
            self.town.run(5)
        self.victim.swim.leave()
        self.victim.drive()
        self.town.run(5)
        self.victim.kill()
        self.town.tap = None
        old = tuple(dict.fromkeys(recorded))
        self.assertGreater(len(old), 3)
        for low in range(0, len(old), GOSSIP_BROADCASTS_MAX):
            self.tell_everybody(*old[low : low + GOSSIP_BROADCASTS_MAX])
        self.town.run(60)
        for node in self.town.running():
            self.assertIs(node.member(self.victim).liveness, Liveness.LEFT)
        self.victim.tags = ("four",)
        self.victim.start()
        self.town.run_until_agreed(30)
        self.tell_everybody(*old[:GOSSIP_BROADCASTS_MAX])
        self.town.run(60)
        self.assertTrue(self.town.has_agreed())
        self.assertEqual({node.member(self.victim).profile.tags for node in self.town}, {("four",)})

    def profile(self, **more):
        from dataclasses import replace

        return replace(self.victim.swim.profile, **more)

    def invent(self, count):
        """Let the liar tell everybody of members that do not exist."""
        invented = [
            Statement(
                liveness=Liveness.ALIVE,
                name=f"ghost-{number}",
                disk_uuid=number.to_bytes(16, "big"),
                incarnation=1,
                address="ghost.example:1",
            )
            for number in range(count)
        ]
        for low in range(0, count, GOSSIP_MEMBERS_MAX):
            for number in HONEST:
                members = tuple(invented[low : low + GOSSIP_MEMBERS_MAX])
                self.town.forge(EVIL, number, PushPull(members=members))

    def test_invented_members(self):
        """Members that do not exist fill the table, no more, and take no real member's place."""
        self.invent(2 * GOSSIP_MEMBERS_MAX)
        self.town.run(10)
        honest = {node.key.name for node in self.town}
        for node in self.town:
            self.assertEqual(len(node.swim.members), GOSSIP_MEMBERS_MAX)
            self.assertTrue(honest <= node.live_names())
            # That inventions do not answer is no reason to distrust oneself.
            self.assertEqual(node.swim.awareness.score, 0)

    def test_invented_members_die(self):
        """Inventions are found dead in a minute or two, and nobody else is."""
        self.invent(40)
        self.town.run(120)
        honest = {node.key.name for node in self.town}
        self.assertEqual({frozenset(node.live_names()) for node in self.town}, {frozenset(honest)})
        self.assertEqual([name for _, _, name in self.town.failures if name in honest], [])

    def test_other_name(self):
        """Who sends is taken from the link: nobody else's word counts as the member's own."""
        stranger = MemberKey("stranger", bytes(16))
        self.victim.swim.step(stranger, SwimBroadcast(broadcasts=(self.about(Liveness.LEFT, 1),)))
        self.town.network.send(EVIL, 2, (stranger, PushPull(members=())))
        self.town.run(1)
        self.check_unharmed()
