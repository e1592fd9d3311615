"""The merge rules: what is believed, what is refuted, what is refused."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.config import LAN
from loghouse.gossip.members import Profile
from loghouse.gossip.ready import EventKind
from loghouse.limits import (
    GOSSIP_MEMBERS_MAX,
    GOSSIP_OUTBOX_MAX,
    INCARNATION_HEARSAY_MAX,
    INCARNATION_JUMP_MAX,
    INCARNATION_MAX,
    INCARNATION_RESERVE,
)
from loghouse.protocol.address_book import AddressBook, Contact
from loghouse.protocol.gossip_messages import (
    Liveness,
    PushPull,
    PushPullReply,
    SwimAck,
    SwimBroadcast,
    SwimPing,
)
from loghouse.protocol.link_messages import Ping
from tests.gossip.bench import Bench, address_of, alive, dead, key, left, suspect

ALIVE, SUSPECT, DEAD, LEFT = Liveness.ALIVE, Liveness.SUSPECT, Liveness.DEAD, Liveness.LEFT


class OrderTests(SynchronousTestCase):
    """Of two statements the one of the higher incarnation counts; of equals LEFT, DEAD, SUSPECT, ALIVE."""

    # What is held of "b" at incarnation 5, what is then said, what is held after.
    ROWS = [
        (alive, alive("b", 5), ALIVE, 5),
        (alive, alive("b", 4), ALIVE, 5),
        (alive, alive("b", 6), ALIVE, 6),
        (alive, suspect("b", 4), ALIVE, 5),
        (alive, suspect("b", 5), SUSPECT, 5),
        (alive, suspect("b", 6), SUSPECT, 6),
        (alive, dead("b", 4), ALIVE, 5),
        (alive, dead("b", 5), SUSPECT, 5),
        (alive, dead("b", 6), SUSPECT, 6),
        (alive, left("b", 4), ALIVE, 5),
        (alive, left("b", 5), LEFT, 5),
        (suspect, alive("b", 5), SUSPECT, 5),
        (suspect, alive("b", 6), ALIVE, 6),
        (suspect, suspect("b", 7), SUSPECT, 7),
        (suspect, left("b", 5), LEFT, 5),
        (dead, alive("b", 4), DEAD, 5),
        (dead, alive("b", 5), DEAD, 5),
        (dead, alive("b", 6), ALIVE, 6),
        (dead, suspect("b", 7), DEAD, 7),
        (dead, left("b", 5), LEFT, 5),
        (left, alive("b", 5), LEFT, 5),
        (left, alive("b", 6), ALIVE, 6),
        (left, dead("b", 5), LEFT, 5),
        (left, suspect("b", 9), LEFT, 9),
        (left, left("b", 9), LEFT, 9),
    ]

    def bench(self, held):
        bench = Bench().meet("a").meet("b", incarnation=5)
        if held is suspect:
            bench.hear("a", suspect("b", 5))
        elif held is dead:
            bench.kill("b")
        elif held is left:
            bench.hear("b", left("b", 5))
        return bench

    def test_rows(self):
        """Every row of `ROWS` comes out as listed."""
        for held, statement, liveness, incarnation in self.ROWS:
            bench = self.bench(held)
            bench.hear("a", statement)
            row = (held.__name__, statement)
            self.assertEqual(
                (bench.liveness("b"), bench.member("b").incarnation), (liveness, incarnation), row
            )

    def test_unknown_members(self):
        """Of a member not known only ALIVE makes one; of its end only its incarnation is remembered."""
        for statement in (suspect("b", 5), dead("b", 5), left("b", 5)):
            bench = Bench().meet("a")
            bench.hear("a", statement)
            self.assertIsNone(bench.member("b"), statement)
            bench.hear("a", alive("b", 5))
            expected = ALIVE if statement.liveness is SUSPECT else None
            self.assertEqual(bench.liveness("b"), expected, statement)
            bench.hear("a", alive("b", 6))
            self.assertEqual(bench.liveness("b"), ALIVE, statement)

    def test_where_the_dead_may_live(self):
        """An ALIVE that does not count says where to try a member of which only its end was heard."""
        for statement in (dead("b", 5), left("b", 5)):
            bench = Bench().meet("a")
            bench.hear("a", statement)
            bench.hear("a", alive("b", 5, address="said-by-a.example:1"))
            bench.forget_sent()
            bench.step("b", SwimPing(sequence=7, name="me", disk_uuid=key("me").disk_uuid))
            [ack] = bench.sent_to("said-by-a.example:1", SwimAck)
            self.assertEqual(ack.broadcasts[0].liveness, statement.liveness)
            # Its own word of where it is counts for more; that of others, later, does not.
            bench.hear("b", alive("b", 4))
            bench.hear("a", alive("b", 5, address="evil.example:1"))
            bench.forget_sent()
            bench.step("b", PushPull(members=()))
            [reply] = bench.sent_to(address_of("b"), PushPullReply)
            self.assertIn(
                (statement.liveness, "b", 5), [(s.liveness, s.name, s.incarnation) for s in reply.members]
            )
            self.assertIsNone(bench.member("b"))
            bench.hear("b", alive("b", 6))
            self.assertEqual(bench.liveness("b"), ALIVE)

    def test_disk(self):
        """A node with an emptied disk is another member; what is said of one does not touch the other."""
        bench = Bench().meet("a").meet("b", incarnation=5)
        bench.hear("a", alive("b", 1, disk_uuid=bytes(16)))
        bench.hear("a", dead("b", 5))
        self.assertEqual(
            [(m.liveness, m.incarnation) for m in bench.swim.members if m.name == "b"],
            [(SUSPECT, 5), (ALIVE, 1)],
        )

    def test_events(self):
        """Joined, updated, failed and left are each noted once."""
        bench = Bench().meet("a")
        bench.forget_sent()
        for statement in (
            alive("b", 1),
            alive("b", 1),
            alive("b", 2),
            alive("b", 3, tags=("rack-1",)),
            suspect("b", 3),
            alive("b", 4, tags=("rack-1",)),
            left("b", 4),
            left("b", 4),
            left("b", 5),
            alive("b", 6),
        ):
            bench.hear("a", statement)
        kinds = [kind for kind, name in bench.events if name == "b"]
        self.assertEqual(kinds, [EventKind.JOINED, EventKind.UPDATED, EventKind.LEFT, *kinds[3:]])
        self.assertEqual(kinds[3:], [EventKind.JOINED])


class RefutationTests(SynchronousTestCase):
    """Whoever is called suspect, dead or gone, and is not, says so with a higher incarnation."""

    def test_accusations(self):
        """Every kind of accusation at the own incarnation is refuted one above it, in the next tick."""
        for accuse in (suspect, dead, left):
            bench = Bench().meet("a")
            before = bench.swim.incarnation
            bench.hear("a", accuse("me", before))
            bench.forget_sent()
            bench.tick(3)
            self.assertEqual(bench.swim.incarnation, before + 1, accuse.__name__)
            self.assertIn(alive("me", before + 1), bench.told_of_me(), accuse.__name__)

    def test_awareness(self):
        """Whoever is accused trusts itself less (Lifeguard)."""
        bench = Bench().meet("a")
        bench.hear("a", suspect("me", bench.swim.incarnation))
        bench.tick()
        self.assertEqual(bench.swim.awareness.score, 1)

    def test_storm(self):
        """However many accusations come, there is one refutation in a tick."""
        bench = Bench().meet("a")
        before = bench.swim.incarnation
        for step in range(200):
            bench.hear("a", dead("me", before + step % 3))
        self.assertEqual(bench.swim.incarnation, before)
        bench.tick()
        self.assertEqual(bench.swim.incarnation, before + 3)

    def test_lost_address_book(self):
        """A node that forgot its incarnation takes up the one that others know, and goes on above it."""
        bench = Bench().meet("a")
        bench.step("a", PushPullReply(members=(alive("a", 1), dead("me", 57))))
        bench.tick(3)
        self.assertEqual(bench.swim.incarnation, 58)
        self.assertIn(alive("me", 58), bench.told_of_me())

    def test_false_description(self):
        """A false ALIVE by others, of another address or incarnation, is refuted like an accusation."""
        for more in ({"address": "evil.example:1"}, {"tags": ("voter",)}):
            bench = Bench().meet("a")
            before = bench.swim.incarnation
            bench.hear("a", alive("me", before, **more))
            bench.tick()
            self.assertEqual(bench.swim.incarnation, before + 1)
        bench = Bench().meet("a")
        bench.hear("a", alive("me", before + 7))
        bench.tick()
        self.assertEqual(bench.swim.incarnation, before + 8)
        bench.hear("a", alive("me", before + 8))
        bench.tick()
        self.assertEqual(bench.swim.incarnation, before + 8)

    def test_stale_accusation_is_answered(self):
        """Whoever still accuses an older self is told directly, once a tick (memberlist #345)."""
        bench = Bench().meet("a")
        bench.hear("a", suspect("me", 1))
        bench.tick(30)
        bench.forget_sent()
        for _ in range(3):
            bench.hear("a", dead("me", 1), alive("me", 1))
        self.assertEqual(len(bench.sent_to("a")), 1)
        self.assertEqual(bench.told_of_me(), [alive("me", bench.swim.incarnation)])
        bench.tick()
        bench.hear("a", alive("me", 1))
        self.assertEqual(bench.swim.incarnation, 2)

    def test_absurd_accusation(self):
        """An incarnation far above the own is not followed: it would leave none to refute with (#359)."""
        bench = Bench().meet("a")
        before = bench.swim.incarnation
        for incarnation in ((1 << 64) - 1, INCARNATION_MAX, before + INCARNATION_JUMP_MAX + 1):
            bench.hear("a", dead("me", incarnation))
            bench.tick()
        self.assertEqual(bench.swim.incarnation, before)
        self.assertEqual(
            dict(bench.refusals),
            {"incarnation out of range": 1, "absurd incarnation of this member": 2},
        )
        bench.hear("a", dead("me", before + INCARNATION_JUMP_MAX))
        bench.tick()
        self.assertEqual(bench.swim.incarnation, before + INCARNATION_JUMP_MAX + 1)


class DurabilityTests(SynchronousTestCase):
    """Nothing is said with an incarnation that a restart could forget."""

    def test_first_word(self):
        """A new node says nothing of itself before its incarnation is durable, and then at once."""
        bench = Bench(persist=False, seeds=["s.example:1"])
        bench.meet("a")
        bench.tick(400)
        self.assertEqual(bench.told_of_me(), [])
        self.assertEqual([book.incarnation for book in bench.books][:1], [1 + INCARNATION_RESERVE])
        bench.swim.persisted(1)
        bench.tick(2)
        self.assertIn(alive("me", 1), bench.told_of_me())

    def test_restart(self):
        """A restarted node begins above everything it may have said before."""
        bench = Bench().meet("a")
        for _ in range(40):
            bench.hear("a", suspect("me", bench.swim.incarnation))
            bench.tick()
        spoken = max(statement.incarnation for statement in bench.told_of_me())
        again = Bench(book=bench.books[-1])
        self.assertGreater(again.swim.incarnation, spoken)

    def test_slow_disk(self):
        """While the disk is slow, refutations go on as far as what is durable covers, and no further."""
        bench = Bench().meet("a")
        bench.persist = False
        for _ in range(40):
            bench.hear("a", suspect("me", bench.swim.incarnation))
            bench.tick()
        spoken = max(statement.incarnation for statement in bench.told_of_me())
        self.assertEqual(spoken, bench.books[0].incarnation)
        bench.forget_sent()
        bench.swim.persisted(bench.swim._token)
        bench.tick(3)
        self.assertIn(bench.swim.incarnation, {statement.incarnation for statement in bench.told_of_me()})

    def test_token(self):
        """A token that was never given out is a bug of the driver, and said to be."""
        self.assertRaises(ValueError, Bench().swim.persisted, 99)


class UpdateTests(SynchronousTestCase):
    """A node's own change of address or tags."""

    def test_update(self):
        """A new description goes out under a new incarnation; the same one again is nothing."""
        bench = Bench().meet("a")
        before = bench.swim.incarnation
        profile = Profile(address="new.example:8400", tags=("rack-2",))
        bench.swim.update(profile)
        bench.swim.update(profile)
        bench.forget_sent()
        bench.tick(3)
        self.assertIn(
            alive("me", before + 1, address="new.example:8400", tags=("rack-2",)), bench.told_of_me()
        )
        self.assertEqual(bench.swim.members[0].profile, profile)

    def test_rejoin_with_other_tags(self):
        """A member that comes back with another address and other tags is shown with those (serf #58)."""
        bench = Bench().meet("a", "b")
        bench.hear("b", left("b", 1))
        bench.hear("b", alive("b", 20, address="elsewhere.example:8400", tags=("new",)))
        self.assertEqual(bench.member("b").profile, Profile(address="elsewhere.example:8400", tags=("new",)))
        self.assertEqual(bench.events[-1], (EventKind.JOINED, "b"))


class AddressTests(SynchronousTestCase):
    """A new address from the member itself counts at once; from others it is tried beside the old one."""

    def pinged(self, bench, name):
        bench.forget_sent()
        for _ in range(60):
            bench.tick()
            found = [o for o in bench.sent if o.target == key(name) and isinstance(o.message, SwimPing)]
            if found:
                return found
        raise AssertionError(f"{name} was not pinged")

    def test_first_hand(self):
        """The member's own word moves it."""
        bench = Bench().meet("b")
        bench.hear("b", alive("b", 2, address="new.example:1"))
        self.assertEqual([o.address for o in self.pinged(bench, "b")], ["new.example:1"])

    def test_hearsay_confirmed(self):
        """An ack from the new address, or the member's own word, ends the doubt."""
        for by_word in (False, True):
            bench = Bench().meet("a", "b")
            bench.hear("a", alive("b", 2, address="new.example:1"))
            pings = self.pinged(bench, "b")
            self.assertEqual([o.address for o in pings], ["new.example:1", address_of("b")])
            if by_word:
                bench.hear("b", alive("b", 2, address="new.example:1"))
            else:
                bench.step("b", SwimAck(sequence=pings[0].message.sequence))
            self.assertEqual([o.address for o in self.pinged(bench, "b")], ["new.example:1"])

    def test_hearsay_refuted(self):
        """A member that answers where it was before is shown what is said of it there."""
        bench = Bench().meet("a", "b")
        forged = alive("b", 2, address="evil.example:1")
        bench.hear("a", forged)
        pings = self.pinged(bench, "b")
        bench.step("b", SwimAck(sequence=pings[1].message.sequence))
        told = [
            o for o in bench.sent if isinstance(o.message, SwimBroadcast) and o.address == address_of("b")
        ]
        self.assertIn(forged, told[-1].message.broadcasts)
        bench.hear("b", alive("b", 3))
        self.assertEqual([o.address for o in self.pinged(bench, "b")], [address_of("b")])

    def test_hearsay_twice(self):
        """However often others change it, the address that the member itself gave is kept, also on disk."""
        bench = Bench().meet("a", "b")
        for incarnation in range(2, 6):
            bench.hear("a", alive("b", incarnation, address=f"evil-{incarnation}.example:1"))
        self.assertEqual([o.address for o in self.pinged(bench, "b")], ["evil-5.example:1", address_of("b")])
        bench.tick(LAN.book_ticks)
        self.assertIn(address_of("b"), [contact.address for contact in bench.books[-1].contacts])
        bench.hear("a", alive("b", 6))
        self.assertEqual([o.address for o in self.pinged(bench, "b")], [address_of("b")])


class RefusalTests(SynchronousTestCase):
    """What is refused, counted, and changes nothing."""

    def test_absurd_hearsay(self):
        """Others cannot raise a member's incarnation by more than a bound at once."""
        bench = Bench().meet("a", "b")
        for say in (alive, suspect, dead, left):
            bench.hear("a", say("b", 1 + INCARNATION_JUMP_MAX + 1))
        bench.hear("a", alive("c", INCARNATION_HEARSAY_MAX + 1))
        bench.hear("a", alive("c", 0))
        self.assertEqual((bench.liveness("b"), bench.member("b").incarnation), (ALIVE, 1))
        self.assertIsNone(bench.member("c"))
        self.assertEqual(bench.refusals["absurd incarnation"], 5)
        self.assertEqual(bench.refusals["incarnation out of range"], 1)

    def test_absurd_hearsay_of_a_stranger(self):
        """What was believed of a stranger is undone when the member itself says otherwise."""
        bench = Bench().meet("a")
        bench.hear("a", alive("b", INCARNATION_HEARSAY_MAX, address="evil.example:1"))
        bench.hear("a", alive("b", 5))
        self.assertEqual(bench.member("b").incarnation, INCARNATION_HEARSAY_MAX)
        bench.hear("b", alive("b", 5))
        self.assertEqual((bench.liveness("b"), bench.member("b").incarnation), (ALIVE, 5))
        self.assertEqual(bench.member("b").profile.address, address_of("b"))
        bench.hear("a", dead("c", INCARNATION_HEARSAY_MAX))
        bench.hear("c", alive("c", 5))
        self.assertEqual(bench.liveness("c"), ALIVE)

    def test_own_word_may_jump(self):
        """A member's own word counts whatever others knew of it."""
        bench = Bench().meet("b")
        bench.hear("b", alive("b", 1 << 50))
        self.assertEqual(bench.member("b").incarnation, 1 << 50)

    def test_no_address(self):
        """A member that is nowhere is none."""
        bench = Bench().meet("a")
        bench.hear("a", alive("b", 1, address=""))
        self.assertIsNone(bench.member("b"))

    def test_accuser(self):
        """An accusation by nobody known is none."""
        bench = Bench().meet("a", "b")
        bench.hear("a", suspect("b", 1, accuser="ghost"))
        self.assertEqual(bench.liveness("b"), ALIVE)
        bench.hear("a", suspect("b", 1, accuser="me"))
        self.assertEqual(bench.liveness("b"), SUSPECT)

    def test_ourselves(self):
        """A message that claims to be of this very node is refused."""
        bench = Bench().meet("a")
        bench.hear("me", left("a", 1))
        self.assertEqual(bench.liveness("a"), ALIVE)

    def test_foreign_message(self):
        """A message that is none of gossip changes nothing."""
        bench = Bench()
        bench.step("a", Ping(token=1))
        self.assertEqual(dict(bench.refusals), {"not a message of gossip": 1})

    def test_two_of_one_identity(self):
        """A second node on a copy of the disk is counted, and costs no more than a refutation a tick."""
        bench = Bench().meet("a")
        for _ in range(20):
            for _ in range(5):
                bench.hear("a", alive("me", bench.swim.incarnation, address="copy.example:1"))
            bench.tick()
        self.assertEqual(bench.swim.incarnation, 21)
        self.assertEqual(bench.refusals["another description of this member"], 100)

    def test_full_outbox(self):
        """What a turn may send is bounded; what is beyond is lost, as messages may be."""
        bench = Bench().meet("a")
        bench.forget_sent()
        for sequence in range(GOSSIP_OUTBOX_MAX + 7):
            bench.swim.step(key("a"), SwimPing(sequence=sequence, name="me", disk_uuid=key("me").disk_uuid))
        bench.drain()
        self.assertEqual(len(bench.sent), GOSSIP_OUTBOX_MAX)
        self.assertEqual(bench.refusals["too many messages in one turn"], 7)

    def test_too_many_members(self):
        """In a table full of live members there is no room for another; the dead give way."""
        bench = Bench()
        names = [f"n{number}" for number in range(GOSSIP_MEMBERS_MAX - 1)]
        for name in names:
            bench.hear("n0", alive(name, 1))
        bench.hear("n0", alive("late", 1), dead("grave", 1))
        self.assertIsNone(bench.member("late"))
        self.assertEqual(len(bench.swim.members), GOSSIP_MEMBERS_MAX)
        self.assertEqual(bench.refusals["no room for another member"], 2)
        bench.hear("n7", left("n7", 1))
        bench.hear("n0", alive("late", 1))
        self.assertEqual(bench.liveness("late"), ALIVE)
        self.assertEqual(len(bench.swim.members), GOSSIP_MEMBERS_MAX)
        self.assertIsNone(bench.member("n7"))

    def test_proven_newcomer(self):
        """In a table full of live members a newcomer takes the place of one that only others spoke of."""
        bench = Bench().meet("n0")
        for number in range(1, GOSSIP_MEMBERS_MAX):
            bench.hear("n0", alive(f"n{number}", 1))
        bench.forget_sent()
        bench.hear("n0", alive("late", 1))
        self.assertIsNone(bench.member("late"))
        bench.hear("late", alive("late", 1))
        self.assertEqual(bench.liveness("late"), ALIVE)
        self.assertEqual(len(bench.swim.members), GOSSIP_MEMBERS_MAX)
        self.assertEqual([kind for kind, _ in bench.events], [EventKind.FAILED, EventKind.JOINED])
        self.assertEqual(bench.liveness("n0"), ALIVE)

    def test_only_proven_members(self):
        """When all were proven there is no room, whoever asks."""
        bench = Bench().meet(*[f"n{number}" for number in range(GOSSIP_MEMBERS_MAX - 1)])
        bench.hear("late", alive("late", 1))
        self.assertIsNone(bench.member("late"))

    def test_graves_are_bounded(self):
        """Ends of strangers, however many, take no more room than members do, and no member's place."""
        bench = Bench().meet("a", "b")
        bench.hear("b", left("b", 1))
        for number in range(2000):
            bench.hear("a", dead(f"n{number}", 1))
        self.assertLess(len(bench.swim._table), GOSSIP_MEMBERS_MAX)
        self.assertEqual((bench.liveness("a"), bench.liveness("b")), (ALIVE, LEFT))


class BookTests(SynchronousTestCase):
    """What a node remembers of the others."""

    BOOK = AddressBook(
        incarnation=40,
        contacts=(
            Contact(name="a", disk_uuid=key("a").disk_uuid, incarnation=7, address="a.example:1"),
            Contact(name="me", disk_uuid=key("me").disk_uuid, incarnation=7, address="me.example:1"),
        ),
    )

    def test_contacts(self):
        """Contacts are tried, not shown, until they are heard of; the own old self is not tried."""
        bench = Bench(book=self.BOOK)
        bench.tick(300)
        self.assertEqual([member.name for member in bench.swim.members], ["me"])
        self.assertEqual({outgoing.address for outgoing in bench.sent}, {"a.example:1"})
        bench.hear("a", alive("a", 6))
        self.assertIsNone(bench.member("a"))
        bench.hear("a", alive("a", 7))
        self.assertEqual(bench.liveness("a"), ALIVE)

    def test_written(self):
        """The book has live and dead members with their addresses; the ones that left are not looked for."""
        bench = Bench().meet("a", "b", "c", "d")
        bench.hear("b", left("b", 1))
        bench.hear("a", dead("ghost", 3))
        bench.kill("c")
        bench.tick(LAN.book_ticks)
        names = [contact.name for contact in bench.books[-1].contacts]
        self.assertEqual(sorted(names), ["a", "c", "d"])

    def test_last_book(self):
        """Who is about to stop is given what the written book lacks, and nothing when it lacks nothing."""
        bench = Bench().meet("a")
        bench.tick(2 * LAN.book_ticks)
        self.assertIsNone(bench.swim.last_book())
        bench.hear("b", alive("b", 1))
        bench.hear("c", alive("c", 1))
        names = [contact.name for contact in bench.swim.last_book().contacts]
        self.assertEqual(sorted(names), ["a", "b", "c"])

    def test_rhythm(self):
        """However often members come and go, the book is written at most every `book_ticks`."""
        bench = Bench().meet("a")
        count = len(bench.books)
        for incarnation in range(1, 201):
            bench.hear("b", alive("b", incarnation, address=f"b-{incarnation}.example:1"))
            bench.tick()
        self.assertLessEqual(len(bench.books) - count, 200 // LAN.book_ticks + 1)

    def test_leave_before_the_first_word(self):
        """Who leaves before its first word says goodbye when that is durable, and refutes nothing."""
        bench = Bench(persist=False).meet("a")
        bench.swim.leave()
        bench.drain()
        self.assertEqual(bench.told_of_me(), [])
        bench.swim.persisted(1)
        bench.swim.leave()
        bench.drain()
        self.assertEqual(bench.told_of_me(), [left("me", 1)])
        bench.hear("a", dead("me", 1))
        bench.tick(20)
        self.assertEqual({said.liveness for said in bench.told_of_me()}, {LEFT})

    def test_full_view(self):
        """What a push-pull carries: this node first, then what is said against the one it goes to."""
        bench = Bench().meet("a", "b", "c")
        bench.hear("a", suspect("b", 1))
        bench.forget_sent()
        bench.step("b", PushPull(members=(alive("b", 1),)))
        (reply,) = bench.sent_to("b", PushPullReply)
        self.assertEqual(reply.members[:2], (alive("me", bench.swim.incarnation), suspect("b", 1)))
        self.assertEqual({statement.name for statement in reply.members}, {"me", "a", "b", "c"})
