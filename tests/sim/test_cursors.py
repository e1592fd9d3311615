"""The judges of cursors find what is wrong, and a run without faults wrongs nobody."""

from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.cursor_messages import DescribedCursor
from loghouse.protocol.cursors import (
    REWIND,
    CursorAction,
    CursorChange,
    Cursors,
    advance_with_records,
    encode_cursor_change,
)
from loghouse.protocol.entry import EntryKind
from loghouse.testing.checkers import Oracle, Violation
from loghouse.testing.cluster import SimCluster
from loghouse.testing.cursor_books import Claim, CursorBooks, CursorHistory
from loghouse.testing.cursor_workers import KINDS
from loghouse.testing.full.cluster import FullCluster
from loghouse.testing.full.swarm import FullOptions
from loghouse.testing.swarm import SwarmOptions
from tests.processes import thorough

ACQUIRE, ADVANCE, RELEASE, SET, DELETE = CursorAction
LEASE = 2000  # milliseconds


class LogOfEntries:
    """A committed log that a test writes, all of one term unless it says otherwise."""

    def __init__(self):
        self.entries = []
        self.next_offset = 0

    def add(self, kind, payload=b"", record_count=0, term=1):
        index = len(self.entries) + 1
        self.entries.append(
            SimpleNamespace(
                index=index,
                term=term,
                kind=kind,
                payload=payload,
                base_offset=self.next_offset,
                record_count=record_count,
            )
        )
        self.next_offset += record_count
        return index

    def change(self, action, term=1, **fields):
        """Add a cursor entry; return its index."""
        if action == ACQUIRE:
            fields = {"holder": "one", "lease_milliseconds": LEASE, **fields}
        change = CursorChange(action=action, name="a", **fields)
        return self.add(EntryKind.CURSOR, encode_cursor_change(change), term=term)

    def records(self, payload=b"x", count=1, term=1):
        return self.add(EntryKind.RECORDS, payload, count, term)

    def emit(self, epoch, start, end, term=1, records_term=None):
        """Add an advance and its records; return the index of the records."""
        change = advance_with_records("a", epoch, end)
        self.add(EntryKind.CURSOR, encode_cursor_change(change), term=term)
        return self.records(Claim("a", start, end).payload(b"by one"), term=records_term or term)

    @property
    def oracle(self):
        oracle = Oracle()
        oracle.committed = self.entries
        return oracle


class BooksTests(SynchronousTestCase):
    """The fold over the log."""

    def setUp(self):
        self.log = LogOfEntries()

    def rules(self):
        return [violation.rule for violation in CursorBooks(self.log.entries).violations]

    def standing(self):
        return CursorBooks(self.log.entries).now("a")

    def test_life(self):
        """A cursor is made, moved, taken over, released, set and deleted."""
        log = self.log
        first = log.change(ACQUIRE)
        log.change(ADVANCE, epoch=first, position=5)
        self.assertEqual(self.standing(), (5, first, "one", LEASE, (0, 0, 0)))
        records = log.emit(first, 5, 9)
        self.assertEqual(self.standing(), (9, first, "one", LEASE, (records, 0, 1)))
        second = log.change(ACQUIRE, holder="two")
        self.assertEqual(self.standing(), (9, second, "two", LEASE, (records, 0, 0)))
        log.change(ADVANCE, epoch=second, position=3, flags=REWIND)
        free = log.change(RELEASE, epoch=second)
        self.assertEqual(self.standing(), (3, free, "", 0, (records, 0, 0)))
        place = log.change(SET, position=8)
        self.assertEqual(self.standing(), (8, place, "", 0, (records, 0, 0)))
        log.change(DELETE)
        self.assertIsNone(self.standing())
        self.assertEqual(self.rules(), [])
        books = CursorBooks(log.entries)
        after = [books.after("a", index) for index in (0, 2, 4, 9)]
        self.assertEqual([one and one.position for one in after], [None, 5, 9, None])

    def test_fenced(self):
        """An entry of another epoch, or of a cursor that is not there, is none that a leader may write."""
        self.log.change(ADVANCE, epoch=1, position=1)
        first = self.log.change(ACQUIRE)
        self.log.change(SET, position=1)
        self.log.change(ADVANCE, epoch=first, position=2)
        self.log.change(RELEASE, epoch=first)
        self.log.emit(first, 1, 2)
        self.assertEqual(self.rules(), ["cursor-fenced"] * 4 + ["cursor-records"])

    def test_back(self):
        """A position that goes back without a rewind, or stands with records, is wrong."""
        first = self.log.change(ACQUIRE)
        self.log.change(ADVANCE, epoch=first, position=5)
        self.log.change(ADVANCE, epoch=first, position=5)
        self.assertEqual(self.rules(), [])
        self.log.change(ADVANCE, epoch=first, position=4)
        self.log.emit(first, 5, 5)
        self.assertEqual(self.rules(), ["cursor-back", "cursor-back", "cursor-records"])

    def test_records(self):
        """Records and the advance that came with them are one: none is there alone, or with others."""
        first = self.log.change(ACQUIRE)
        self.log.emit(first, 0, 2)
        self.log.records()
        self.assertEqual(self.rules(), [])
        self.log.records(Claim("a", 2, 4).payload(b"by one"))
        self.assertEqual(self.rules(), ["cursor-records"])
        self.log.emit(first, 3, 5)
        self.assertEqual(self.rules(), ["cursor-records"] * 2)

    def test_records_lost(self):
        """An advance whose records were cut never counted."""
        first = self.log.change(ACQUIRE)
        self.log.emit(first, 0, 2)
        self.log.add(EntryKind.CURSOR, encode_cursor_change(advance_with_records("a", first, 7)))
        self.log.add(EntryKind.NOOP, term=2)
        self.log.records(term=2)
        self.assertEqual((self.rules(), self.standing().position), ([], 2))

    def test_state(self):
        """A state that differs in a cursor, in what it awaits, or in which cursors there are is found."""
        first = self.log.change(ACQUIRE)
        self.log.emit(first, 0, 2)
        books, state = CursorBooks(self.log.entries), Cursors()
        for entry in self.log.entries:
            if entry.kind == EntryKind.CURSOR:
                state.apply(entry)
            if entry.index == 2:
                books.check_state("n1", 2, state)
                awaited, state.awaited = state.awaited, None
                self.assertRaises(Violation, books.check_state, "n1", 2, state)
                state.awaited = awaited
        state.take_records(3, 1, 0, 1)
        books.check_state("n1", 3, state)
        for index in (0, 2):
            self.assertRaises(Violation, books.check_state, "n1", index, state)
        state.by_name.clear()
        self.assertRaises(Violation, books.check_state, "n1", 3, state)


class HistoryTests(SynchronousTestCase):
    """What workers did and were told, against the log."""

    def setUp(self):
        self.log, self.history = LogOfEntries(), CursorHistory()

    def found(self, *, readers=(), drift=0.0):
        """Return the rule that is broken; empty when none is."""
        try:
            self.history.check(self.log.oracle, readers, drift)
        except Violation as violation:
            return violation.rule
        return ""

    def tell(self, invoked, returned, position, epoch, holder="one"):
        cursor = DescribedCursor(
            name="a", position=position, epoch=epoch, holder=holder, lease_milliseconds=LEASE if holder else 0
        )
        self.history.tell("a", invoked, returned, cursor)

    def test_told(self):
        """What was told fits one order of the log; what never was, or comes after its end, does not."""
        first = self.log.change(ACQUIRE)
        self.log.change(ADVANCE, epoch=first, position=5)
        self.history.tell("a", 1, 2, None)
        self.tell(3, 6, 5, first)
        self.tell(4, 5, 0, first)
        self.assertEqual(self.found(), "")
        self.tell(7, 8, 0, first)
        self.assertEqual(self.found(), "cursor-answer")

    def test_told_what_was_lost(self):
        """A standing that the log never had was not committed when it was told."""
        first = self.log.change(ACQUIRE)
        self.tell(1, 2, 3, first)
        self.assertEqual(self.found(), "cursor-answer")

    def test_told_that_it_is_not_there(self):
        """Nobody is told that there is no cursor after somebody was told of it, unless it was deleted."""
        first = self.log.change(ACQUIRE)
        self.tell(1, 2, 0, first)
        self.history.tell("a", 3, 4, None)
        self.assertEqual(self.found(), "cursor-answer")
        self.log.change(DELETE)
        self.assertEqual(self.found(), "")

    def test_holders(self):
        """Two holders of one epoch are found."""
        first = self.log.change(ACQUIRE)
        self.history.take("a", first, "one", 1.0)
        self.assertEqual(self.found(), "")
        self.history.take("a", first, "two", 9.0)
        self.assertEqual(self.found(), "cursor-holders")

    def test_lease(self):
        """A cursor that was taken within the lease of another holder's last written sign is found."""
        first = self.log.change(ACQUIRE)
        second = self.log.change(ACQUIRE, holder="two")
        self.history.sign("a", first, 8.0, 2.0)
        self.history.sign("a", first, 7.0, 2.0)
        self.history.take("a", second, "two", 10.0)
        self.assertEqual(self.found(), "")
        self.history.sign("a", first, 8.5, 2.0)
        self.assertEqual(self.found(), "cursor-lease")
        self.assertEqual(self.found(drift=0.4), "")

    def test_lease_is_over(self):
        """Who released a cursor, or comes back to its own, leaves nobody waiting."""
        first = self.log.change(ACQUIRE)
        again = self.log.change(ACQUIRE)
        self.log.change(RELEASE, epoch=again)
        second = self.log.change(ACQUIRE, holder="two")
        for epoch, holder in ((first, "one"), (again, "one"), (second, "two")):
            self.history.sign("a", epoch, 1.0, 2.0)
            self.history.take("a", epoch, holder, 1.5)
        self.assertEqual(self.found(), "")

    def test_handled(self):
        """A position above what somebody handled is found; what is done twice is not."""
        first = self.log.change(ACQUIRE)
        self.log.change(ADVANCE, epoch=first, position=5)
        self.history.did("a", 0, 2)
        self.history.did("a", 3, 5)
        self.assertEqual(self.found(), "")
        self.assertEqual(self.found(readers=("a",)), "cursor-handled")
        self.history.did("a", 1, 4)
        self.assertEqual(self.found(readers=("a",)), "")

    def test_recovered(self):
        """A state that a member found at its start is looked at, unless its entries were cut since."""
        self.log.change(ACQUIRE)
        oracle = self.log.oracle
        oracle.recovered_cursors.append((1, 1, 9, Cursors()))
        oracle.recovered_cursors.append((1, 2, 1, Cursors()))
        self.history.check(oracle, (), 0.0)
        oracle.recovered_cursors.append((1, 1, 1, Cursors()))
        self.assertRaises(Violation, self.history.check, oracle, (), 0.0)


class CalmTests(SynchronousTestCase):
    """Runs without faults."""

    def check(self, cluster):
        result = cluster.run()
        self.assertIsNone(result.violation)
        for count in ("acquired", "committed", "emitted"):
            self.assertGreater(result.counters[count], 0, count)
        work = cluster.cursor_work
        self.assertEqual(len(work.drills) + len(work.groups), len(KINDS))
        self.assertTrue(all(drill.is_over for drill in (*work.drills, *work.groups)))

    @thorough
    def test_core(self):
        """Every kind of cursor is worked on by the core alone."""
        self.check(SimCluster(SwarmOptions(seed=1, cursors=KINDS)))

    @thorough
    def test_whole_nodes(self):
        """Every kind of cursor is worked on by whole nodes."""
        self.check(FullCluster(FullOptions(seed=1, tick_seconds=0.1, cursors=KINDS)))
