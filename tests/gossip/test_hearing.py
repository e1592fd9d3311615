"""What a member makes of what it hears: of itself, of strangers, of who comes, goes, and is accused."""

import random
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.config import LAN
from loghouse.gossip.core import Swim
from loghouse.gossip.members import MemberKey, Profile
from loghouse.gossip.ready import EventKind
from loghouse.limits import GOSSIP_MEMBERS_MAX, GOSSIP_STRANGERS_MAX, INCARNATION_JUMP_MAX
from loghouse.protocol.address_book import AddressBook, Contact
from loghouse.protocol.gossip_messages import Liveness, PushPull, SwimBroadcast, SwimPing
from tests.gossip.bench import Bench, address_of, alive, dead, key, left, said, suspect

ALIVE, SUSPECT, DEAD, LEFT = Liveness.ALIVE, Liveness.SUSPECT, Liveness.DEAD, Liveness.LEFT


def told_about(bench, name):
    """Return what was said of a member, to whomever, in order."""
    return [
        statement
        for outgoing in bench.sent
        for statement in (
            *getattr(outgoing.message, "broadcasts", ()),
            *getattr(outgoing.message, "members", ()),
        )
        if statement.name == name
    ]


class OwnNameTests(SynchronousTestCase):
    """What others say of this member."""

    def test_absurd(self):
        """Who says something absurd is told at once how this member is."""
        bench = Bench().meet("a")
        bench.forget_sent()
        bench.hear("a", dead("me", bench.swim.incarnation + INCARNATION_JUMP_MAX + 1))
        self.assertEqual(bench.told_of_me(), [alive("me", bench.swim.incarnation)])

    def test_older_self(self):
        """That an older self is dead is denied, once a tick; that it was alive is nothing."""
        bench = Bench(book=AddressBook(incarnation=5)).meet("a")
        bench.forget_sent()
        bench.hear("a", alive("me", 3))
        self.assertEqual(bench.sent, [])
        for answers in (1, 2):
            for _ in range(2):
                bench.hear("a", dead("me", 3))
            self.assertEqual(len(bench.told_of_me()), answers)
            bench.swim._refute()

    def test_nobody_to_deny_to(self):
        """A member not known gets no denial, and nobody gets one before the first word is durable."""
        book = AddressBook(incarnation=5)
        bench = Bench(book=book)
        bench.hear("x", dead("me", 3))
        self.assertEqual(bench.sent, [])
        bench = Bench(book=book, persist=False).meet("a")
        bench.hear("a", dead("me", 3))
        self.assertEqual(bench.sent, [])

    def test_own_address_is_no_seed(self):
        """A node that is one of its own seeds does not dial itself."""
        bench = Bench(seeds=(address_of("me"), "seed.example:1"))
        bench.tick(20)
        self.assertEqual({outgoing.address for outgoing in bench.sent}, {"seed.example:1"})


class RemovedTests(SynchronousTestCase):
    """Nodes that were removed, by name."""

    def test_shut_out(self):
        """They are forgotten, in the book, too, and not spoken of; the others stay."""
        bench = Bench().meet("a", "b")
        bench.tick(LAN.book_ticks)
        bench.hear("b", alive("b", 2))
        self.assertIsNone(bench.swim.last_book())
        bench.swim.shut_out(frozenset({"b"}))
        self.assertEqual([contact.name for contact in bench.swim.last_book().contacts], ["a"])
        self.assertEqual((bench.liveness("a"), bench.member("b")), (ALIVE, None))
        bench.forget_sent()
        bench.tick(20)
        self.assertEqual(told_about(bench, "b"), [])

    def test_not_heard(self):
        """What they say is refused, and what is said of them; each is counted."""
        bench = Bench().meet("a")
        bench.swim.shut_out(frozenset({"b"}))
        bench.hear("b", alive("b", 1))
        bench.hear("a", alive("b", 1))
        bench.hear("me", alive("c", 1))
        self.assertEqual(
            dict(bench.refusals),
            {"message of a removed node": 1, "about a removed node": 1, "message of ourselves": 1},
        )
        self.assertEqual([member.name for member in bench.swim.members], ["me", "a"])

    def test_suspect(self):
        """Of a suspect that is removed no death is told later."""
        bench = Bench().meet("a", "b")
        bench.silent = set()
        bench.hear("a", suspect("b", 1))
        bench.swim.shut_out(frozenset({"b"}))
        bench.forget_sent()
        bench.tick(300)
        self.assertEqual((bench.events, bench.swim._suspects), ([], {}))


class NamesakeTests(SynchronousTestCase):
    """Another machine with the name of this one."""

    OTHER = alive("me", 1, disk_uuid=bytes(16), address="other.example:1")

    def heard(self, *members):
        """Return whether the other machine is known, to a node that believes these members, if any."""
        bench = Bench().meet("a", "b")
        if members:
            bench.swim.believe(frozenset(key(name) for name in members))
        bench.hear("a", self.OTHER, alive("b", 2))
        self.assertEqual(bench.member("b").incarnation, 2)
        is_known = MemberKey("me", bytes(16)) in bench.swim.keys
        self.assertEqual(bench.refusals["another machine of this name"], 0 if is_known else 1)
        return is_known

    def test_whose_name_it_is(self):
        """Once this node is a member nobody else of its name is heard of; before that anybody is."""
        self.assertTrue(self.heard())
        self.assertTrue(self.heard("a", "b"))
        self.assertFalse(self.heard("a", "b", "me"))

    def test_old_self(self):
        """A node with an emptied disk does not look for its older self, and does not write it down."""
        old = Contact(name="me", disk_uuid=bytes(16), incarnation=7, address="me.example:1")
        bench = Bench(book=AddressBook(incarnation=1, contacts=(old,))).meet("a")
        bench.tick(LAN.book_ticks)
        self.assertEqual([contact.name for contact in bench.books[-1].contacts], ["a"])
        self.assertEqual(bench.sent_to("me.example:1"), [])

    def test_two_live_ones(self):
        """While two disks of one name live, none of them has taken the other's place."""
        bench = Bench().meet("a", "b")
        bench.hear("a", alive("b", 1, disk_uuid=bytes(16), address="b2.example:1"))
        bench.tick(LAN.book_ticks)
        addresses = {contact.address for contact in bench.books[-1].contacts}
        self.assertEqual(addresses, {address_of("a"), address_of("b"), "b2.example:1"})


class ManyStrangersTests(SynchronousTestCase):
    """Nodes that no configuration names: how often they are heard, and how many there may be."""

    def setUp(self):
        self.bench = Bench().meet("a")
        self.bench.silent = set()
        self.believe("a", "me")

    def believe(self, *names):
        self.bench.swim.believe(frozenset(map(key, names)))

    def strangers(self, count):
        for number in range(count):
            self.bench.hear(f"x{number}", alive(f"x{number}", 1))

    def disk(self, number):
        return MemberKey("x", bytes([number]) * 16)

    def test_pace(self):
        """A stranger's next change counts after just a probe's time; before that it is refused."""
        bench = self.bench
        bench.hear("x", alive("x", 1))
        bench.tick(LAN.probe_ticks - 1)
        bench.hear("x", alive("x", 2))
        self.assertEqual(bench.member("x").incarnation, 1)
        self.assertEqual(bench.refusals["stranger that changes too often"], 1)
        bench.tick()
        bench.hear("x", alive("x", 2))
        self.assertEqual(bench.member("x").incarnation, 2)

    def test_back_again(self):
        """A stranger that left, and says that it lives, has said something, whether it counts or not."""
        bench = self.bench
        bench.hear("x", alive("x", 1))
        bench.tick(LAN.probe_ticks)
        bench.hear("x", left("x", 1))
        bench.tick(LAN.probe_ticks)
        bench.hear("x", alive("x", 1))
        bench.hear("x", alive("x", 2))
        self.assertEqual(bench.liveness("x"), LEFT)
        self.assertEqual(bench.refusals["stranger that changes too often"], 1)

    def test_who_was_heard(self):
        """The pace of so many is remembered, of those that spoke last."""
        self.strangers(GOSSIP_STRANGERS_MAX)
        self.bench.tick(LAN.probe_ticks)
        self.bench.hear("x0", alive("x0", 2))
        heard = self.bench.swim._strangers_heard
        self.assertEqual((len(heard), [*heard][-1]), (GOSSIP_STRANGERS_MAX, "x0"))
        self.bench.hear("late", alive("late", 1))
        self.assertEqual((len(heard), "x1" in heard, "x0" in heard), (GOSSIP_STRANGERS_MAX, False, True))

    def test_no_room(self):
        """One more than there may be is refused and not told of, as long as all others live."""
        self.strangers(GOSSIP_STRANGERS_MAX)
        self.bench.forget_sent()
        self.strangers(GOSSIP_STRANGERS_MAX + 1)
        self.assertEqual(self.bench.refusals["no room for another member"], 1)
        self.assertEqual((self.bench.events, len(self.bench.swim.members)), ([], GOSSIP_STRANGERS_MAX + 2))

    def test_room_of_the_gone(self):
        """Of strangers that are gone the one that went first makes room."""
        bench = self.bench
        self.strangers(GOSSIP_STRANGERS_MAX)
        for name in ("x5", "x3"):
            bench.tick(LAN.probe_ticks)
            bench.hear(name, left(name, 1))
        bench.tick()
        bench.hear("late", alive("late", 1))
        self.assertEqual([bench.liveness(name) for name in ("x5", "x3", "late")], [None, LEFT, ALIVE])

    def test_members_take_no_room(self):
        """However many members there are, strangers have their places."""
        names = [f"m{number}" for number in range(GOSSIP_STRANGERS_MAX + 1)]
        self.believe("a", "me", *names)
        self.bench.meet(*names, "x")
        self.assertEqual(self.bench.liveness("x"), ALIVE)

    def said(self, liveness, number):
        return said(liveness, "x", 1, disk_uuid=self.disk(number).disk_uuid)

    def test_disks_of_one_name(self):
        """A third disk of a name takes the place of the older one, or of one that is gone."""
        for gone, out in ((None, 0), (1, 1)):
            self.setUp()
            bench = self.bench.meet("y", "z")
            for number in range(2):
                bench.hear(self.disk(number), self.said(ALIVE, number))
                bench.tick(LAN.probe_ticks)
            if gone is not None:
                bench.hear(self.disk(gone), self.said(LEFT, gone))
                bench.tick(LAN.probe_ticks)
            bench.hear(self.disk(2), self.said(ALIVE, 2))
            known = [number for number in range(3) if self.disk(number) in bench.swim.keys]
            self.assertEqual(known, [number for number in range(3) if number != out])
            self.assertEqual([bench.liveness(name) for name in "yz"], [ALIVE, ALIVE])

    def test_let_go(self):
        """A live one that makes room has failed, as far as anybody is told, and is spoken of no more."""
        bench = self.bench = Bench(config=replace(LAN, gossip_ticks=1000)).meet("a")
        bench.silent = set()
        self.believe("a", "me")
        for number in range(2):
            bench.tick(LAN.probe_ticks)
            bench.hear(self.disk(number), self.said(ALIVE, number))
        bench.tick(LAN.probe_ticks)
        bench.swim.step(self.disk(2), SwimBroadcast(broadcasts=(self.said(ALIVE, 2),)))
        ready = bench.swim.ready()
        shown = [(event.kind, event.member.disk_uuid[0], event.member.liveness) for event in ready.events]
        self.assertEqual(shown, [(EventKind.FAILED, 0, DEAD), (EventKind.JOINED, 2, ALIVE)])
        bench.forget_sent()
        bench.tick(LAN.probe_ticks * 2)
        self.assertEqual({statement.disk_uuid[0] for statement in told_about(bench, "x")}, {1, 2})


class MemberTests(SynchronousTestCase):
    """What is said of other members."""

    def test_counted(self):
        """What cannot be is refused, and counted by its reason."""
        bench = Bench().meet("a", "b")
        bench.hear("a", alive("c", 1, address=""), suspect("b", 1, accuser="ghost"), dead("grave", 1))
        for _ in range(2):
            bench.step("a", PushPull(members=()))
        bench.step("grave", PushPull(members=()))
        self.assertEqual(
            dict(bench.refusals),
            {
                "alive without an address": 1,
                "accuser not known": 1,
                "push-pull twice in a tick": 1,
                "push-pull of a stranger": 1,
            },
        )

    def test_own_word(self):
        """A member's own older word is stale, unless what was heard of it is out of all reason."""
        known = 5 + INCARNATION_JUMP_MAX
        bench = Bench().meet("b", incarnation=known)
        for incarnation in (known - 1, 5):
            bench.hear("b", alive("b", incarnation, tags=("t",)))
            self.assertEqual(bench.member("b").incarnation, known)
        bench.hear("b", alive("b", 4, tags=("t",)))
        self.assertEqual(bench.member("b").incarnation, 4)
        self.assertEqual(bench.refusals["absurd incarnation, heard earlier and denied now"], 1)

    def addresses(self, bench, name="b"):
        return bench.swim._table.get(key(name)).addresses

    def test_doubt(self):
        """A new address is in doubt until the member itself says the very same; others change nothing."""
        bench = Bench().meet("a", "b")
        moved = alive("b", 2, address="new.example:1")
        both = ("new.example:1", address_of("b"))
        bench.hear("a", moved, moved)
        self.assertEqual(self.addresses(bench), both)
        bench.hear("b", alive("b", 2))
        self.assertEqual(self.addresses(bench), both)
        bench.hear("b", moved)
        self.assertEqual(self.addresses(bench), ("new.example:1",))

    def test_no_doubt(self):
        """Hearsay of new tags at the same address casts no doubt on it."""
        bench = Bench().meet("a", "b")
        bench.hear("a", alive("b", 2, tags=("t",)))
        self.assertEqual(self.addresses(bench), (address_of("b"),))

    def test_when_the_book_changes(self):
        """Who joins, moves, leaves or comes back belongs into the book; a new incarnation alone does not."""
        bench = Bench()
        for statement, is_new in (
            (alive("b", 1), True),
            (alive("b", 2), False),
            (alive("b", 3, tags=("t",)), True),
            (left("b", 3), True),
            (left("b", 4), False),
            (alive("b", 5, tags=("t",)), True),
        ):
            count = len(bench.books)
            bench.hear("b", statement)
            bench.tick(LAN.book_ticks)
            self.assertEqual(len(bench.books) - count, int(is_new), statement)
            self.assertIsNone(bench.swim.last_book())

    def test_nothing_to_write(self):
        """A member that heard of nobody has no last book, not even before its first one."""
        swim = Swim(
            LAN,
            name="me",
            disk_uuid=bytes(16),
            profile=Profile(address=address_of("me")),
            rng=random.Random(1),
        )
        self.assertIsNone(swim.last_book())

    def test_newcomer_is_probed(self):
        """A newcomer has its place in the round of probes that is under way, once."""
        bench = Bench().meet(*"abcdefgh")
        bench.silent = set()
        bench.tick(LAN.probe_ticks * 2)
        for statement in (alive("z", 1), left("z", 1), alive("z", 2)):
            bench.hear("z", statement)
            self.assertEqual(bench.swim._ring.count(key("z")), 1)
        bench.forget_sent()
        bench.tick(LAN.probe_ticks * len(bench.swim._ring))
        self.assertEqual(len(bench.sent_to("z", SwimPing)), 1)

    def test_news_is_spread(self):
        """That a member is suspect, and that it left, is told to the others; a leave names no accuser."""
        bench = Bench().meet("a", "b", "c")
        bench.silent = set()
        for statement in (suspect("b", 1, accuser="a"), left("b", 1)):
            bench.forget_sent()
            bench.hear("a", statement)
            bench.tick(4)
            self.assertIn(statement, told_about(bench, "b"))


class DeathTests(SynchronousTestCase):
    """A suspect whose time is over, and one that refuted in time."""

    def setUp(self):
        self.bench = Bench().meet("a", "b")
        self.bench.silent = set()
        self.bench.hear("a", suspect("b", 1))

    def test_to_the_tick(self):
        """It has its time to the tick; then this member says itself that it is dead, once."""
        bench = self.bench
        bench.forget_sent()
        bench.tick(LAN.suspicion_factor * LAN.probe_ticks - 1)
        self.assertEqual((bench.liveness("b"), bench.events), (SUSPECT, []))
        bench.forget_sent()
        bench.tick(3)
        self.assertEqual((bench.liveness("b"), bench.events), (DEAD, [(EventKind.FAILED, "b")]))
        self.assertIn(dead("b", 1, accuser="me"), told_about(bench, "b"))
        self.assertEqual(bench.swim._suspects, {})

    def test_refuted(self):
        """Who refuted is suspect no more, however much time passes; the next suspicion begins anew."""
        bench = self.bench
        bench.hear("b", alive("b", 2))
        bench.tick(300)
        self.assertEqual((bench.liveness("b"), bench.swim._suspects), (ALIVE, {}))
        bench.hear("a", suspect("b", 2))
        bench.tick(LAN.suspicion_factor * LAN.probe_ticks - 1)
        self.assertEqual(bench.liveness("b"), SUSPECT)


class FullTableTests(SynchronousTestCase):
    """Who goes when there is no room for another."""

    def test_the_gone_first(self):
        """For a proven newcomer a member that is gone goes, and nobody who lives."""
        bench = Bench().meet("n0", "gone")
        for number in range(1, GOSSIP_MEMBERS_MAX - 2):
            bench.hear("n0", alive(f"n{number}", 1))
        bench.hear("gone", left("gone", 1))
        bench.hear("late", alive("late", 1))
        names = {member.name for member in bench.swim.members}
        self.assertEqual(names, {"me", "late", *(f"n{number}" for number in range(GOSSIP_MEMBERS_MAX - 2))})
