"""Cursors as nodes serve them: through any node, over leases and leaders, and with records."""

from dataclasses import replace
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    CursorFencedError,
    CursorHeldError,
    CursorRewindError,
    InvalidRequestError,
    NotSupportedError,
    PermissionDeniedError,
    UnavailableError,
    UnknownCursorError,
)
from loghouse.limits import CURSORS_PER_PAGE_MAX, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN, WAIT_SECONDS
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder
from loghouse.protocol.cursors import REWIND, WITH_RECORDS, Cursors, CursorState, advance_with_records
from loghouse.protocol.entry import EntryKind
from loghouse.raft.ready import Role
from loghouse.replica.led_cursors import LedCursors
from tests.driver.town import TownTestCase

ACQUIRE, ADVANCE, RELEASE, SET, DELETE, RENEW, GET, LIST = CursorOperation
LEASE = 5000  # milliseconds


class CursorCase(TownTestCase):
    """Three nodes; `self.leader` leads, `self.other` and `self.third` do not."""

    def setUp(self):
        super().setUp()
        self.place, self.leader, self.other, self.third = self.led()

    def ask(self, at, operation, name="billing", **fields):
        fields = {"subject": "ann", **fields}
        if operation == ACQUIRE:
            fields = {"holder": "one", "lease_milliseconds": LEASE, **fields}
        return at.log.order_cursor(CursorOrder(operation=operation, name=name, **fields))

    def done(self, at, *arguments, **fields):
        """Return the cursor after what was done."""
        (cursor,) = self.result(self.place, self.ask(at, *arguments, **fields)).cursors
        return cursor

    def refused(self, kind, at, *arguments, **fields):
        return self.failure(self.place, self.ask(at, *arguments, **fields), kind).value

    def append(self, at, epoch, position, **fields):
        fields = {"subject": "ann", **fields}
        return at.propose(cursor=advance_with_records("billing", epoch, position), **fields)

    def kinds(self):
        log = self.leader.store
        return [entry.kind for entry in log.entries(log.first_index, log.last_index + 1, 10**6)]


class ServedTests(CursorCase):
    """What each request comes to, through a node that leads and through one that does not."""

    def test_through_any_node(self):
        """Every operation works on every node."""
        for at in (self.leader, self.other):
            taken = self.done(at, ACQUIRE)
            self.assertEqual((taken.position, taken.holder, taken.subject), (0, "one", "ann"))
            self.assertEqual(taken.lease_milliseconds, LEASE)
            self.assertTrue(LEASE - 500 < taken.left_milliseconds <= LEASE)
            moved = self.done(at, ADVANCE, epoch=taken.epoch, position=7)
            self.assertEqual((moved.position, moved.epoch), (7, taken.epoch))
            back = self.done(at, ADVANCE, epoch=taken.epoch, position=5, flags=REWIND)
            self.assertEqual(back.position, 5)
            self.assertEqual(self.done(at, RENEW, epoch=taken.epoch).position, 5)
            seen = [replace(self.done(one, GET), left_milliseconds=0) for one in (at, self.third)]
            self.assertEqual(seen[0], seen[1])
            free = self.done(at, RELEASE, epoch=taken.epoch)
            self.assertEqual((free.holder, free.left_milliseconds, free.position), ("", 0, 5))
            self.assertEqual(self.done(at, SET, position=2).position, 2)
            self.assertEqual(self.result(self.place, self.ask(at, DELETE)).cursors, ())
            self.refused(UnknownCursorError, at, GET)

    def test_list(self):
        """A list comes by name, in pages."""
        for name in ("b", "a", "c"):
            self.done(self.leader, SET, name, position=1)
        found = self.result(self.place, self.ask(self.other, LIST, ""))
        self.assertEqual(([one.name for one in found.cursors], found.next), (["a", "b", "c"], ""))
        found = self.result(self.place, self.ask(self.other, LIST, "", count_max=2))
        self.assertEqual(([one.name for one in found.cursors], found.next), (["a", "b"], "b"))
        found = self.result(self.place, self.ask(self.other, LIST, "b", count_max=2))
        self.assertEqual(([one.name for one in found.cursors], found.next), (["c"], ""))

    def test_page(self):
        """A page has so many cursors, whatever is asked for."""
        for number in range(CURSORS_PER_PAGE_MAX + 1):
            self.ask(self.leader, SET, f"c{number:04}")
        found = self.result(self.place, self.ask(self.other, LIST, "", count_max=2**16 - 1))
        self.assertEqual((len(found.cursors), found.next), (CURSORS_PER_PAGE_MAX, "c0255"))

    def test_refusals_come_whole(self):
        """What the leader refuses comes back as it is, through any node."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        self.done(self.leader, ADVANCE, epoch=epoch, position=7)
        for at in (self.leader, self.other):
            error = self.refused(CursorHeldError, at, ACQUIRE, holder="two")
            self.assertEqual((error.name, error.holder), ("billing", "one"))
            self.assertTrue(0 < error.milliseconds <= LEASE)
            error = self.refused(CursorFencedError, at, ADVANCE, epoch=epoch + 1, position=9)
            self.assertEqual(error.current, epoch)
            self.refused(CursorFencedError, at, RENEW, epoch=epoch - 1)
            self.refused(CursorRewindError, at, ADVANCE, epoch=epoch, position=6)
            self.refused(UnknownCursorError, at, RENEW, "other", epoch=1)
            for flags in (WITH_RECORDS, 0x80):
                self.refused(InvalidRequestError, at, ADVANCE, epoch=epoch, position=9, flags=flags)
            self.refused(InvalidRequestError, at, GET, "")
            self.refused(NotSupportedError, at, 99)
            for milliseconds in (0, LEASE_SECONDS_MIN * 1000 - 1, LEASE_SECONDS_MAX * 1000 + 1):
                self.refused(InvalidRequestError, at, ACQUIRE, lease_milliseconds=int(milliseconds))
        for seconds in (LEASE_SECONDS_MIN, LEASE_SECONDS_MAX):
            self.done(self.leader, ACQUIRE, lease_milliseconds=int(seconds * 1000))

    def test_cursors_of_others(self):
        """Who made a cursor may set and delete it, and an administrator; nobody else, not even its holder."""
        self.done(self.leader, SET, position=3)
        held = self.done(self.leader, ACQUIRE, subject="bob")
        self.assertEqual(held.subject, "ann")
        for at in (self.leader, self.other):
            for operation in (SET, DELETE):
                error = self.refused(PermissionDeniedError, at, operation, subject="bob")
                self.assertEqual((error.subject, error.action), ("bob", "admin"))
        self.assertEqual(self.done(self.other, SET, subject="root", position=4, is_admin=True).position, 4)
        self.result(self.place, self.ask(self.leader, DELETE))

    def test_leader_asks_its_own_policy(self):
        """A leader believes no other node that a subject may consume the log, or administer the cluster."""
        self.done(self.leader, SET, position=3)
        asked = []

        def check(subject, log, is_admin):
            asked.append((subject, log, is_admin))
            raise PermissionDeniedError(subject, "consume", log)

        self.leader.node.forwarder._check_cursor = check
        self.refused(PermissionDeniedError, self.other, GET)
        self.refused(PermissionDeniedError, self.other, SET, is_admin=True)
        self.failure(self.place, self.append(self.other, 1, 1), PermissionDeniedError)
        self.assertEqual(
            asked, [("ann", "default", False), ("ann", "default", True), ("ann", "default", False)]
        )

    def test_no_leader(self):
        """Without a leader nothing is done; that is told, and certain."""
        self.done(self.leader, SET, position=3)
        self.leader.crash()
        self.other.crash()
        self.place.until(lambda: not self.third.log.has_leader, 60)
        self.refused(UnavailableError, self.third, GET)
        self.place.recover()


class LeaseTests(CursorCase):
    """Who may have a cursor that somebody has."""

    def test_take_over(self):
        """Another one gets it once its holder was silent for a whole lease, and not before."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        self.place.advance(LEASE / 1000 - 0.5)
        self.refused(CursorHeldError, self.other, ACQUIRE, holder="two")
        self.done(self.other, RENEW, epoch=epoch)
        self.place.advance(LEASE / 1000 - 0.5)
        self.refused(CursorHeldError, self.other, ACQUIRE, holder="two")
        self.place.advance(1)
        taken = self.done(self.other, ACQUIRE, holder="two")
        self.assertGreater(taken.epoch, epoch)
        self.refused(CursorFencedError, self.leader, RENEW, epoch=epoch)

    def test_work_renews(self):
        """An advance renews the lease, alone and with records."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        for position in range(1, 8):
            self.place.advance(LEASE / 1000 - 0.5)
            if position % 2:
                self.done(self.other, ADVANCE, epoch=epoch, position=position)
            else:
                self.result(self.place, self.append(self.other, epoch, position))
            self.refused(CursorHeldError, self.other, ACQUIRE, holder="two")

    def test_same_holder(self):
        """The same holder, a new process of it, need not wait; its older self is fenced."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        again = self.done(self.other, ACQUIRE)
        self.assertGreater(again.epoch, epoch)
        self.refused(CursorFencedError, self.other, ADVANCE, epoch=epoch, position=1)

    def test_released(self):
        """A cursor that was released, set or deleted is free at once."""
        for operation in (RELEASE, SET, DELETE):
            epoch = self.done(self.leader, ACQUIRE).epoch
            fields = {"epoch": epoch} if operation == RELEASE else {}
            self.result(self.place, self.ask(self.leader, operation, **fields))
            taken = self.done(self.leader, ACQUIRE, holder="two")
            self.done(self.leader, RELEASE, epoch=taken.epoch)

    def test_new_leader(self):
        """A new leader gives every holder one whole lease, though the old one's had nearly run out."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        self.place.advance(LEASE / 1000 - 0.1)
        begun = self.place.clock.seconds()
        self.result(self.place, self.leader.log.administration.transfer(self.other.name))
        self.place.until(lambda: self.other.leads)
        self.place.advance(LEASE / 1000 - 0.5)
        self.assertLess(self.place.clock.seconds() - begun, 2 * LEASE / 1000)
        self.refused(CursorHeldError, self.third, ACQUIRE, holder="two")
        self.assertEqual(self.done(self.third, GET).epoch, epoch)
        self.place.advance(1)
        self.done(self.third, ACQUIRE, holder="two")

    def test_leads_again(self):
        """A node that leads again counts from then on, not from what it remembers."""
        self.done(self.leader, ACQUIRE)
        first = self.leader
        self.result(self.place, first.log.administration.transfer(self.other.name))
        self.place.until(lambda: self.other.leads)
        self.place.advance(LEASE / 1000)
        self.result(self.place, self.other.log.administration.transfer(first.name))
        self.place.until(lambda: first.leads)
        self.refused(CursorHeldError, self.third, ACQUIRE, holder="two")

    def test_wall_clock(self):
        """A wall clock that jumps ends no lease, and makes none last."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        leases = self.leader.replica.cursors._leases
        self.assertLess(abs(leases._monotonic() - self.place.clock.seconds()), 1)
        self.place.advance(LEASE / 1000 + 1)
        self.assertGreater(self.done(self.other, ACQUIRE, holder="two").epoch, epoch)


class WaitTests(CursorCase):
    """What a holder hears of those that wait."""

    def setUp(self):
        super().setUp()
        self.epoch = self.done(self.leader, ACQUIRE).epoch
        for holder in ("two", "three"):
            self.refused(CursorHeldError, self.other, ACQUIRE, holder=holder)

    def waiting(self, at, *arguments, **fields):
        """Return who waits, as the answer to something says."""
        page = self.result(self.place, self.ask(at, *arguments, **fields))
        self.assertEqual(page.cursors[0].waiting_count, len(page.waiting))
        return page.waiting

    def test_told(self):
        """Every answer about the cursor tells who waits for it, through any node; a list tells how many."""
        for at in (self.leader, self.third):
            for operation in (RENEW, ADVANCE, GET):
                self.assertEqual(self.waiting(at, operation, epoch=self.epoch), ("two", "three"), operation)
            self.done(at, SET, "another", position=1)
            page = self.result(self.place, self.ask(at, LIST, ""))
            counts = [(one.name, one.waiting_count) for one in page.cursors]
            self.assertEqual((counts, page.waiting), ([("another", 0), ("billing", 2)], ()))

    def test_acquired(self):
        """Who gets the cursor waits no more; the others do."""
        self.done(self.leader, RELEASE, epoch=self.epoch)
        self.assertEqual(self.waiting(self.leader, ACQUIRE, holder="two"), ("three",))

    def test_silent(self):
        """Who asks no more is forgotten."""
        self.place.advance(WAIT_SECONDS - 0.5)
        self.refused(CursorHeldError, self.other, ACQUIRE, holder="three")
        self.place.advance(0.6)
        self.assertEqual(self.waiting(self.leader, RENEW, epoch=self.epoch), ("three",))

    def test_deleted(self):
        """Nobody waits for a cursor that was deleted, nor for a new one of its name."""
        self.result(self.place, self.ask(self.leader, DELETE))
        self.assertEqual(self.waiting(self.leader, ACQUIRE), ())

    def test_leads_again(self):
        """A leader remembers what it heard since it leads."""
        first = self.leader
        self.result(self.place, first.log.administration.transfer(self.other.name))
        self.place.until(lambda: self.other.leads)
        self.assertEqual(self.waiting(self.other, RENEW, epoch=self.epoch), ())
        self.result(self.place, self.other.log.administration.transfer(first.name))
        self.place.until(lambda: first.leads)
        self.patch(first.replica.cursors._waits, "_monotonic", lambda: 0.0)  # no time went by
        self.assertEqual(self.waiting(first, RENEW, epoch=self.epoch), ())


class WatchTests(CursorCase):
    """What a leader tells of cursors to those who watch it."""

    def watched(self, at=None):
        """Return the one cursor."""
        (cursor,) = (at or self.leader).replica.cursors.watch(9)
        return cursor

    def test_moves(self):
        """A cursor stands since it was made, moved or set; not since it was renewed or let go."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        for position, (operation, fields) in enumerate(
            ((ADVANCE, {}), (RENEW, {}), (None, {}), (RELEASE, {}), (SET, {}), (SET, {"position": 5})), 1
        ):
            self.place.advance(2)
            before = self.watched().idle_seconds
            self.assertGreater(before, 1.9)
            if operation is None:
                self.result(self.place, self.append(self.other, epoch, position))
            else:
                told = {"position": position} if operation in (ADVANCE, SET) else {}
                told |= {"epoch": epoch} if operation in (ADVANCE, RENEW, RELEASE) else {}
                self.done(self.other, operation, **{**told, **fields})
            moves = operation not in (RENEW, RELEASE) and fields != {"position": 5}
            self.assertEqual(self.watched().idle_seconds < before, moves, (operation, position))
            self.assertEqual(self.watched().lag is None, True)
        self.done(self.leader, ACQUIRE, holder="two")
        self.result(self.place, self.ask(self.leader, DELETE))
        self.place.advance(2)
        self.done(self.leader, ACQUIRE)
        self.assertLess(self.watched().idle_seconds, 1)

    def test_new_leader(self):
        """A new leader tells of no more than it saw; a holder that was heard before has its lease still."""
        epoch = self.done(self.leader, ACQUIRE, lease_milliseconds=60_000).epoch
        self.place.advance(30)
        self.assertGreater(self.watched().idle_seconds, 29)
        self.result(self.place, self.leader.log.administration.transfer(self.other.name))
        self.place.until(lambda: self.other.leads)
        cursor = self.watched(self.other)
        self.assertEqual((cursor.is_held, cursor.idle_seconds < 5), (True, True))
        self.done(self.other, RELEASE, epoch=epoch)
        self.assertFalse(self.watched(self.other).is_held)

    def test_lag(self):
        """The lag is in records of the log; a position that moved with some counts something else."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        self.assertEqual(self.watched().lag, 0)
        self.result(self.place, self.leader.propose())
        self.assertEqual(self.watched().lag, 1)
        self.result(self.place, self.append(self.leader, epoch, 1))
        self.assertIsNone(self.watched().lag)
        self.done(self.leader, ADVANCE, epoch=epoch, position=2)
        self.assertIsNone(self.watched().lag)

    def test_told_lag(self):
        """Whoever asks is told the lag that is watched, whichever node is asked; of a pipeline none."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        for lag in (1, 2):
            self.result(self.place, self.leader.propose())
            self.assertEqual(self.watched().lag, lag)
            self.assertEqual(self.done(self.other, GET).known_lag, lag)
            [listed] = self.result(self.place, self.ask(self.leader, LIST, "")).cursors
            self.assertEqual(listed.known_lag, lag)
        self.done(self.leader, ADVANCE, epoch=epoch, position=2)
        self.assertEqual(self.done(self.leader, GET).known_lag, 0)
        self.result(self.place, self.append(self.leader, epoch, 3))
        for operation in (GET, RENEW):
            self.assertIsNone(self.done(self.other, operation, epoch=epoch).known_lag)


class BatchTests(CursorCase):
    """Records that come with an advance."""

    def test_together(self):
        """Records and position are there together, through any node; a retry is answered as the first try."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        for position, at in enumerate((self.leader, self.other, self.third), 1):
            first = self.result(self.place, self.append(at, epoch, position))
            self.assertEqual(first.base_offset, position - 1)
            again = self.result(self.place, self.append(self.other, epoch, position))
            self.assertEqual((again.base_offset, again.index), (first.base_offset, first.index))
        self.assertEqual(self.done(self.third, GET).position, 3)
        self.assertEqual(self.kinds()[-2:], [EntryKind.CURSOR, EntryKind.RECORDS])
        self.failure(self.place, self.append(self.other, epoch, 2), CursorRewindError)
        self.failure(self.place, self.append(self.other, epoch + 1, 9), CursorFencedError)
        self.assertEqual(self.leader.driver.readable_offset, 3)

    def test_over_a_change_of_leaders(self):
        """A batch whose answer was lost is answered by the next leader, and is there once."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        first = self.result(self.place, self.append(self.leader, epoch, 5))
        self.leader.crash()
        self.place.until(lambda: self.place.leader)
        again = self.result(self.place, self.append(self.place.leader, epoch, 5))
        self.assertEqual((again.base_offset, again.index), (first.base_offset, first.index))
        self.place.recover()

    def test_after_restarts(self):
        """Cursors and the records of their last advance are there after all nodes were killed."""
        epoch = self.done(self.leader, ACQUIRE).epoch
        self.result(self.place, self.append(self.other, epoch, 5))
        before = self.done(self.other, GET)
        for one in self.place.running:
            one.crash()
        self.place.recover()
        self.place.until(lambda: self.place.leader and self.other.log.has_leader)
        found = self.done(self.other, GET)
        self.assertEqual(replace(found, left_milliseconds=0), replace(before, left_milliseconds=0))
        self.assertEqual(self.result(self.place, self.append(self.other, epoch, 5)).base_offset, 0)
        self.assertEqual(self.result(self.place, self.append(self.other, epoch, 6)).base_offset, 1)


class VersionTests(CursorCase):
    """Members of a version that cannot read such entries."""

    def test_first_cursor(self):
        """The first cursor waits until every member can read it, and says which one cannot."""
        kinds = {self.third.name: bytes(range(1, 7)), self.other.name: bytes(EntryKind)}
        transport = self.leader.node.transport
        self.patch(transport, "entry_kinds_of", lambda key: kinds[key.name])
        error = self.refused(NotSupportedError, self.leader, ACQUIRE)
        self.assertEqual(
            str(error), f"{self.third.name} runs a version without cursors; upgrade it, nothing was done"
        )
        kinds[self.third.name] = b""
        self.assertIn("is not reached", str(self.refused(UnavailableError, self.leader, SET)))
        self.refused(UnknownCursorError, self.leader, GET)
        self.refused(UnknownCursorError, self.leader, RENEW)
        kinds[self.third.name] = bytes(EntryKind)
        self.done(self.leader, ACQUIRE)
        kinds.clear()
        self.done(self.leader, ACQUIRE)  # they are in the log now: nobody is asked again

    def test_old_leader(self):
        """A node does not pass on to a leader of before what that could not read: it says why."""
        self.patch(self.other.node.transport, "entry_kinds_of", lambda key: bytes(range(1, 7)))
        error = self.refused(NotSupportedError, self.other, GET)
        self.assertEqual(
            str(error),
            f"{self.leader.name} leads, and runs a version without cursors; upgrade it, nothing was done",
        )

    def test_who_is_let_in(self):
        """Once there was a cursor, only nodes that can read it become members."""
        cluster = self.leader.cluster
        present = len(cluster._admissible())
        whole = cluster.entry_kinds_of
        self.patch(cluster, "entry_kinds_of", lambda key: bytes(range(1, 7)))
        self.assertEqual(len(cluster._admissible()), present)
        cluster.entry_kinds_of = whole
        self.done(self.leader, SET)
        cluster.entry_kinds_of = lambda key: bytes(range(1, 7))
        self.assertEqual([key.name for key in cluster._admissible()], [self.leader.name])


class CommittedTests(SynchronousTestCase):
    """A look at cursors on a leader whose last entries are on their way."""

    def setUp(self):
        cursors = Cursors()
        cursors.by_name["a"], cursors.last_index = CursorState(name="a", position=7), 9
        self.barriers, self.waits = [], []
        raft = SimpleNamespace(role=Role.LEADER, term=3, leader=1, cursors=cursors)
        raft.configuration = Configuration().with_member("n1", bytes(16), MemberRole.VOTER)
        driver = self.driver = SimpleNamespace(
            raft=raft,
            readable_offset=6,  # what the cursor stands behind is on its way, too
            read_barrier=lambda done, failed: self.barriers.append((done, failed)),
            when_readable=lambda index, done, failed: self.waits.append((index, done)),
        )
        self.told, self.refused = [], []
        led = LedCursors(SimpleNamespace(member=lambda: driver), lambda: 0.0)
        led.carry_out(CursorOrder(operation=GET, name="a"), self.told.append, self.refused.append)

    def confirm(self, index):
        done, _ = self.barriers.pop()
        done(index)

    def test_waits(self):
        """What was seen is told once it is committed, and not before; so is the lag."""
        self.confirm(8)
        self.assertEqual(self.told, [])
        ((index, readable),) = self.waits
        self.assertEqual(index, 9)
        self.driver.readable_offset = 9
        readable(index)
        self.assertEqual(
            [(page.cursors[0].position, page.cursors[0].known_lag) for page in self.told], [(7, 2)]
        )

    def test_asks_once(self):
        """Until then nobody is asked again: a lone node is answered at once, and would do nothing else."""
        self.confirm(8)
        self.assertEqual((self.barriers, len(self.waits)), ([], 1))

    def test_is_committed(self):
        """What a majority has already is told as soon as this node is known to lead."""
        self.confirm(9)
        self.assertEqual([page.cursors[0].position for page in self.told], [7])

    def test_deposed_meanwhile(self):
        """Who leads no more when its entries would be committed does not tell of them."""
        self.confirm(8)
        self.driver.raft.role = Role.FOLLOWER
        ((index, readable),) = self.waits
        readable(index)
        self.assertEqual((self.told, [error.leader for error in self.refused]), ([], ["n1"]))

    def test_leads_no_more(self):
        """It is not told when this node does not lead any more, or leads again."""
        self.driver.raft.term = 4
        self.confirm(9)
        self.assertEqual((self.told, [error.leader for error in self.refused]), ([], ["n1"]))
