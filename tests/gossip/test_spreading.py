"""What a member spreads: to whom, how often, as much as fits; what it writes down, and in which order."""

from dataclasses import replace
from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip import core
from loghouse.gossip.config import LAN
from loghouse.gossip.core import Swim
from loghouse.gossip.members import MemberKey, Profile
from loghouse.limits import INCARNATION_RESERVE
from loghouse.protocol.address_book import AddressBook, Contact
from loghouse.protocol.gossip_messages import Liveness, PushPull, PushPullReply, SwimBroadcast, statement_size
from tests.gossip.bench import Bench, alive, dead, key, left, suspect
from tests.gossip.test_hearing import told_about

DEAD = Liveness.DEAD


def contact(name, incarnation=1):
    return Contact(name=name, disk_uuid=key(name).disk_uuid, incarnation=incarnation, address=f"{name}:1")


class ChanceTests(SynchronousTestCase):
    """What is left to chance at the start."""

    def test_phases(self):
        """Numbers begin anywhere, and each rhythm at any tick of its first interval."""
        asked = []

        class Chance:
            def randrange(self, start, stop):
                asked.append((start, stop))
                return start

        profile = Profile(address="me:1")
        Swim(LAN, name="me", disk_uuid=bytes(16), profile=profile, rng=Chance())
        intervals = (LAN.probe_ticks, LAN.gossip_ticks, LAN.push_pull_ticks)
        self.assertEqual(asked, [(0, 2**32 - 1), *((1, ticks + 1) for ticks in intervals)])


class NewsTests(SynchronousTestCase):
    """News that are told on."""

    def quiet(self, **config):
        """Return a bench on which every member answers, and nothing else is told than what a test says."""
        bench = Bench(config=replace(LAN, push_pull_ticks=100_000, **config))
        bench.silent = set()
        return bench

    def test_pace(self):
        """While there is news it is told at a steady pace, to so many members at a time."""
        bench = self.quiet(gossip_ticks=3, fanout=2, transmit_factor=9).meet("a", "b", "c", "d")
        found = []
        for tick in range(1, 40):
            bench.forget_sent()
            bench.tick()
            told = [one for one in bench.sent if isinstance(one.message, SwimBroadcast)]
            if told:
                found.append(tick)
                self.assertEqual(len({one.target for one in told}), 2)
        self.assertGreater(len(found), 3)
        self.assertEqual({later - earlier for earlier, later in pairwise(found)}, {3})

    def test_how_often(self):
        """Each statement is told as often as the number of members asks for, on messages of any kind."""
        for others, times in ((3, 4), (11, 8)):
            bench = self.quiet().meet(*(f"n{number}" for number in range(others - 1)))
            bench.tick(200)
            bench.forget_sent()
            bench.hear("n0", alive("late", 1))
            bench.tick(200)
            self.assertEqual(len(told_about(bench, "late")), times)

    def test_all_at_once(self):
        """One message tells of all that is new, as far as there is room in it."""
        bench = self.quiet().meet("a")
        bench.tick(100)
        names = [f"n{number}" for number in range(20)]
        bench.forget_sent()
        bench.step("a", PushPull(members=tuple(alive(name, 1) for name in names)))
        bench.tick(2)
        sizes = {len(one.message.broadcasts) for one in bench.sent if isinstance(one.message, SwimBroadcast)}
        self.assertEqual(sizes, {20})

    def test_old_members_hear(self):
        """Members that nothing was said of for long hear the news as the others do."""
        bench = self.quiet(gossip_to_dead_ticks=20).meet("a", "b")
        bench.tick(100)
        bench.forget_sent()
        bench.hear("b", alive("b", 2, tags=("t",)))
        bench.tick(20)
        self.assertTrue(bench.sent_to("a", SwimBroadcast))

    def test_contacts_do_not_hear(self):
        """A contact that was not heard of yet is looked for, and is told no news."""
        bench = Bench(book=AddressBook(incarnation=1, contacts=(contact("a"),))).meet("b")
        bench.tick(20)
        self.assertTrue(bench.sent_to("a", PushPull))
        self.assertEqual(bench.sent_to("a", SwimBroadcast), [])

    def test_old_news(self):
        """What nobody was there to hear is not told once its member is forgotten."""
        bench = self.quiet(gossip_ticks=1, gossip_to_dead_ticks=1, dead_reclaim_ticks=1).meet("b")
        bench.tick(LAN.probe_ticks * 5 - 1)
        bench.hear("b", left("b", 1))
        bench.tick(1)
        bench.forget_sent()
        bench.meet("a").tick(20)
        self.assertEqual(told_about(bench, "b"), [])


class ViewTests(SynchronousTestCase):
    """Whole views."""

    def reply_to(self, bench, name):
        bench.forget_sent()
        bench.step(name, PushPull(members=()))
        [reply] = bench.sent_to(name, PushPullReply)
        return reply.members

    def test_one_member(self):
        """In each interval one member gets the whole view."""
        bench = Bench().meet("a", "b", "c")
        bench.silent = set()
        bench.tick(LAN.push_pull_ticks)
        bench.forget_sent()
        bench.tick(LAN.push_pull_ticks)
        self.assertEqual([one for one in bench.sent if isinstance(one.message, PushPull)][1:], [])

    def test_before_the_first_word(self):
        """Who may not say anything of itself yet tells of the others."""
        bench = Bench(persist=False).meet("a", "b")
        self.assertEqual({statement.name for statement in self.reply_to(bench, "a")}, {"a", "b"})

    def test_contacts(self):
        """A contact that was not heard of is nobody's business but its own: it is told what is held of it."""
        bench = Bench(book=AddressBook(incarnation=1, contacts=(contact("x", 7),))).meet("a")
        self.assertEqual({statement.name for statement in self.reply_to(bench, "a")}, {"me", "a"})
        bench.tick(20)
        told = bench.sent_to("x", PushPull)[0].members
        self.assertIn(dead("x", 6, accuser="me"), told)

    def test_just_as_much_as_fits(self):
        """A view has as many statements as fit into a message, to the byte."""
        bench = Bench().meet("a", "b", "c")
        whole = self.reply_to(bench, "a")
        self.assertEqual([statement.name for statement in whole], ["me", "a", "b", "c"])
        size = 2 + sum(map(statement_size, whole))
        for size_max, count in ((size, 4), (size - 1, 3), (size - statement_size(whole[-1]) - 1, 2)):
            self.patch(core, "PUSH_PULL_SIZE_MAX", size_max)
            bench.tick()
            self.assertEqual(self.reply_to(bench, "a"), whole[:count])

    def test_size(self):
        """That is the size of the message's body."""
        members = (alive("a", 1), suspect("b", 2))
        self.assertEqual(
            len(b"".join(PushPullReply(members=members).encode())), 2 + sum(map(statement_size, members))
        )


class BookTests(SynchronousTestCase):
    """What is written, when, and in which order."""

    def test_order(self):
        """Who lives comes first, then who is shown, and of these who changed last."""
        bench = Bench(book=AddressBook(incarnation=1, contacts=(contact("x", 7), contact("y"))))
        for name in "abc":
            bench.tick()
            bench.meet(name)
        bench.kill("a")
        bench.kill("b")
        bench.hear("d", alive("d", 5))
        bench.tick(LAN.book_ticks)
        found = [(one.name, one.incarnation) for one in bench.books[-1].contacts]
        self.assertEqual(found, [("d", 5), ("c", 1), ("b", 1), ("a", 1), ("x", 6), ("y", 1)])

    def test_to_the_tick(self):
        """A book that only lacks addresses is written just so long after the one before."""
        bench = Bench().meet("a")
        count = len(bench.books)
        bench.tick(LAN.book_ticks - 1)
        self.assertEqual(len(bench.books), count)
        bench.tick()
        self.assertEqual(len(bench.books), count + 1)

    def test_older_book(self):
        """That an older book is durable allows what that one covers, and no more."""
        bench = Bench(persist=False).meet("a")
        first = bench.books[0].incarnation
        bench.hear("a", suspect("me", first - 1))
        bench.tick()
        self.assertEqual([book.incarnation for book in bench.books], [first, first + INCARNATION_RESERVE])
        bench.swim.persisted(1)
        bench.hear("a", suspect("me", first))
        bench.forget_sent()
        bench.tick(5)
        self.assertEqual({statement.incarnation for statement in bench.told_of_me()}, {first})


class LeaveTests(SynchronousTestCase):
    """A member that leaves."""

    def test_goodbye(self):
        """It tells every live member at once, and some of them again, so that who missed it hears it."""
        bench = Bench().meet("a", "b")
        bench.tick(50)
        bench.forget_sent()
        bench.swim.leave()
        bench.drain()
        for name in "ab":
            self.assertEqual([one.broadcasts for one in bench.sent_to(name)], [(left("me", 1),)])
        bench.forget_sent()
        bench.tick(4)
        self.assertEqual(set(bench.told_of_me()), {left("me", 1)})
        bench.swim.leave()
        bench.forget_sent()
        bench.drain()
        self.assertEqual(bench.sent, [])


class NamesakeTests(SynchronousTestCase):
    """A member with an emptied disk takes the place of its older self."""

    def test_replaced(self):
        """The old one is not looked for while a namesake lives; another name's life changes nothing."""
        bench = Bench().meet("a", "b")
        bench.kill("b")
        bench.tick(LAN.book_ticks)
        self.assertEqual([one.name for one in bench.books[-1].contacts], ["a", "b"])
        bench.hear(MemberKey("b", bytes(16)), alive("b", 1, disk_uuid=bytes(16), address="new.example:1"))
        bench.tick(LAN.book_ticks)
        self.assertEqual(
            {one.address for one in bench.books[-1].contacts}, {"a.example:8400", "new.example:1"}
        )
        self.assertIs(bench.swim._table.get(key("b")).liveness, DEAD)
