"""Cursors of a leader's log: what is appended, what is refused, and retries of advances with records."""

from dataclasses import fields, replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    CursorFencedError,
    CursorRewindError,
    DiskFullError,
    InvalidRequestError,
    UnknownCursorError,
)
from loghouse.limits import CURSOR_NAME_SIZE_MAX
from loghouse.protocol.cursors import (
    REWIND,
    WITH_RECORDS,
    CursorAction,
    CursorChange,
    encode_cursor_change,
)
from loghouse.protocol.entry import EntryKind
from loghouse.raft.ready import Proposal
from loghouse.replica.tracing import traced
from tests.raft import test_room
from tests.raft.group import entry
from tests.raft.member import commit, leading

ACQUIRE, ADVANCE, RELEASE, SET, DELETE = CursorAction


def change(action, name="billing", **fields):
    return CursorChange(action=action, name=name, **fields)


def proposal(action, name="billing", **fields):
    return Proposal(kind=EntryKind.CURSOR, payload=encode_cursor_change(change(action, name, **fields)))


def batch(epoch, position, *, payload=b"x", **fields):
    advance = change(ADVANCE, epoch=epoch, position=position, flags=WITH_RECORDS)
    return Proposal(payload=payload, record_count=2, cursor=advance, **fields)


class CursorCase(SynchronousTestCase):
    """A leader with a cursor at position 0."""

    def setUp(self):
        self.bench = leading()
        self.epoch = self.propose(proposal(ACQUIRE, holder="one", subject="ann")).index

    @property
    def raft(self):
        return self.bench.raft

    @property
    def cursor(self):
        return self.raft.cursors.by_name["billing"]

    def propose(self, one):
        return self.raft.propose(one, 0)

    def refused(self, kind, one):
        """Nothing is appended."""
        before = self.raft.last_index
        with self.assertRaises(kind) as caught:
            self.propose(one)
        self.assertEqual(self.raft.last_index, before)
        return caught.exception


class ProposalTests(CursorCase):
    """Changes of cursors."""

    def test_each(self):
        """Each action is an entry; its effect is there once it is appended."""
        self.assertEqual((self.cursor.epoch, self.cursor.holder), (self.epoch, "one"))
        for one in (
            proposal(ADVANCE, epoch=self.epoch, position=4),
            proposal(ADVANCE, epoch=self.epoch, position=3, flags=REWIND),
            proposal(RELEASE, epoch=self.epoch),
            proposal(SET, position=9, subject="root"),
            proposal(DELETE),
        ):
            before = self.raft.last_index
            self.assertEqual(self.propose(one).index, before + 1)
        self.assertEqual(self.raft.cursors.by_name, {})
        self.assertEqual(self.raft.later_index, self.raft.last_index)

    def test_refused(self):
        """What would come to nothing is refused, by what is appended already, committed or not."""
        self.propose(proposal(ADVANCE, epoch=self.epoch, position=4))
        self.refused(CursorRewindError, proposal(ADVANCE, epoch=self.epoch, position=3))
        self.refused(UnknownCursorError, proposal(DELETE, "other"))
        again = self.propose(proposal(ACQUIRE, holder="two")).index
        error = self.refused(CursorFencedError, proposal(ADVANCE, epoch=self.epoch, position=5))
        self.assertEqual(error.current, again)
        self.refused(CursorFencedError, batch(self.epoch, 5))

    def test_malformed(self):
        """Payloads that are none, names that are too long, and advances without their records are refused."""
        for one in (
            Proposal(kind=EntryKind.CURSOR, payload=b"x"),
            proposal(DELETE, "n" * (CURSOR_NAME_SIZE_MAX + 1)),
            proposal(DELETE, "a\tb"),
            proposal(ADVANCE, epoch=self.epoch, position=5, flags=WITH_RECORDS),
            replace(proposal(DELETE), cursor=change(DELETE)),
            replace(proposal(DELETE), record_count=1),
        ):
            self.refused(InvalidRequestError, one)

    def test_disk_without_room(self):
        """Like records, they are refused while too few disks have room: nothing that frees room is behind."""
        self.raft._without_room = "the data directories of n2, n3"
        self.refused(DiskFullError, proposal(ADVANCE, epoch=self.epoch, position=5))
        self.refused(DiskFullError, batch(self.epoch, 5))


class BatchTests(CursorCase):
    """Records that come with an advance."""

    def test_two_entries(self):
        """The advance is the entry before that of the records; the position counts from there."""
        ticket = self.propose(batch(self.epoch, 5))
        self.assertEqual((ticket.index, ticket.record_count), (self.epoch + 2, 2))
        commit(self.bench)
        kinds = [one.kind for one in self.bench.node.committed if one.index >= ticket.index - 1]
        self.assertEqual(kinds, [EntryKind.CURSOR, EntryKind.RECORDS])
        self.assertEqual((self.cursor.position, self.cursor.batch_index), (5, ticket.index))

    def test_leader_is_lost_between(self):
        """A follower that got the advance and not its records does not move on with those of a new leader."""
        one, two = (self.bench.raft._log.state.copy() for _ in range(2))
        payload = encode_cursor_change(batch(self.epoch, 5).cursor)
        advance = entry(one.index + 1, one.term, EntryKind.CURSOR, payload=payload)
        for state in (one, two):
            state.apply(advance)
        one.apply(entry(advance.index + 1, one.term, EntryKind.RECORDS, record_count=1))
        two.apply(entry(advance.index + 1, two.term + 1))
        two.apply(entry(advance.index + 2, two.term + 1, EntryKind.RECORDS, record_count=1))
        self.assertEqual([state.cursors.by_name["billing"].position for state in (one, two)], [5, 0])

    def test_retry(self):
        """A retry has the original's place, and appends nothing, before and after it is committed."""
        first = self.propose(batch(self.epoch, 5))
        last_index = self.raft.last_index
        for _ in range(2):
            again = self.propose(batch(self.epoch, 5))
            self.assertEqual(replace(again, duplicate=False), first)
            self.assertTrue(again.duplicate)
            commit(self.bench)
        self.assertEqual(self.raft.last_index, last_index)

    def test_no_retry(self):
        """Other records at a position that stands, and a retry behind a later advance, are refused."""
        self.propose(batch(self.epoch, 5))
        self.refused(CursorRewindError, batch(self.epoch, 5, payload=b"y"))
        self.refused(CursorRewindError, replace(batch(self.epoch, 5), record_count=1))
        self.propose(batch(self.epoch, 6))
        self.refused(CursorRewindError, batch(self.epoch, 5))
        again = self.propose(proposal(ACQUIRE, holder="two")).index
        self.refused(CursorFencedError, batch(self.epoch, 6))
        self.refused(CursorRewindError, batch(again, 6))

    def test_one_of_two(self):
        """A batch has a producer or a cursor; an advance with it does not rewind."""
        self.refused(InvalidRequestError, replace(batch(self.epoch, 5), cursor=change(DELETE)))
        rewinding = change(ADVANCE, epoch=self.epoch, position=5, flags=REWIND)
        self.refused(InvalidRequestError, replace(batch(self.epoch, 5), cursor=rewinding))
        long = replace(batch(self.epoch, 5).cursor, name="n" * 300)
        self.refused(InvalidRequestError, replace(batch(self.epoch, 5), cursor=long))


class TracedTests(SynchronousTestCase):
    """A batch that belongs to a trace."""

    def test_nothing_is_lost(self):
        """It is proposed as it is, its advance too."""
        given = batch(
            3,
            5,
            kind=EntryKind.RECORDS,
            attributes=1,
            payload_crc=7,
            producer_id=8,
            producer_sequence=9,
            subject="ann",
            expect_offset=4,
        )
        found = traced(given, ())
        for field in fields(Proposal):
            self.assertEqual(getattr(found, field.name), getattr(given, field.name))
            if field.name != "kind":
                self.assertNotEqual(getattr(given, field.name), field.default, field.name)


class FullDiskTests(SynchronousTestCase):
    """A follower whose disk is full takes cursors as it takes records: what is kept free is for others."""

    full = test_room.FollowerTests.full
    taken = test_room.FollowerTests.taken

    def test_takes_what_fits(self):
        """What clients write without end takes no room that is kept for trims and elections."""
        for kind in (EntryKind.RECORDS, EntryKind.CURSOR):
            (one,) = test_room.records(2, 164)
            if kind == EntryKind.CURSOR:
                payload = encode_cursor_change(change(DELETE, "n" * 75))
                one = entry(2, 2, kind, payload=payload)
                self.assertEqual(one.size, 164)
            for room, expected in ((163, 0), (164, 2)):
                self.assertEqual(self.taken(self.full(room), [one]), expected, (kind, room))
