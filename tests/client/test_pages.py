"""Answers to reads of a range: only what was wanted is given, and what is missing is noticed."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record as Message
from loghouse.client.pages import begin_of, decoded, in_order
from loghouse.client.records import PickedBatch
from loghouse.errors import InvalidRequestError, ProtocolError
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec, EntryKind, decode_entries, frame_seed, make_entry
from loghouse.protocol.record_filter import RecordFilter
from loghouse.protocol.record_matching import Matcher
from loghouse.protocol.record_range import ReadPage, RecordRange

SEED = frame_seed(b"c" * 16, 1)
TIME = 1_700_000_000_000_000
KEYED = RecordFilter(keys=(b"k",))


def entry(base, keys, codec=Codec.NONE, kind=EntryKind.RECORDS):
    """An entry whose records have these keys, and their offsets as values."""
    payload = encode_batch(Message(value=b"%d" % (base + place), key=key) for place, key in enumerate(keys))
    made = make_entry(
        SEED,
        index=base + 1,
        term=1,
        kind=kind,
        base_offset=base,
        timestamp=TIME + base,
        payload=compress(payload, codec) if keys else b"",
        attributes=codec,
        record_count=len(keys),
    )
    return made.frame


FRAMES = (
    entry(0, [None, b"k", None]),
    entry(3, [], kind=EntryKind.NOOP),
    entry(3, [b"k", b"k"], Codec.ZSTD),
    entry(5, [b"other", b""]),
    entry(7, [b"k", None, b"k"]),
)


class RangeTests(SynchronousTestCase):
    """Ten records in four batches, and what an answer makes of them."""

    def read(self, wanted, next_offset, frames=FRAMES, committed=10):
        answer = ReadPage(
            frames=b"".join(frames), next_offset=next_offset, lowest=0, committed=committed, is_confirmed=True
        )
        matcher = Matcher(wanted.filter) if wanted.filter else None
        return decoded(decode_entries(SEED, answer.frames), wanted, answer, matcher)

    def offsets(self, wanted, next_offset, **more):
        batches, _ = self.read(wanted, next_offset, **more)
        records = [record for batch in batches for record in in_order(batch, wanted.is_reverse)]
        for record in records:
            self.assertEqual(record.value, b"%d" % record.offset)
        return [record.offset for record in records]

    def test_whole(self):
        """All of it, either way; of entries at the edges only what belongs to the answer."""
        for first, end, next_offset, found in (
            (0, 10, 10, range(10)),
            (1, 9, 9, range(1, 9)),
            (2, 9, 4, (2, 3)),
        ):
            self.assertEqual(self.offsets(RecordRange(first=first, end=end), next_offset), [*found])
        for first, end, next_offset, found in (
            (0, 10, 0, range(10)),
            (0, 2**64 - 1, 5, range(5, 10)),
            (1, 9, 1, range(1, 9)),
        ):
            wanted = RecordRange(first=first, end=end, is_reverse=True)
            self.assertEqual(self.offsets(wanted, next_offset), [*found][::-1])

    def test_filtered(self):
        """Of batches with wanted records only these, with their own offsets; others may be left out."""
        for frames in (FRAMES, (FRAMES[0], FRAMES[2], FRAMES[4])):
            wanted = RecordRange(filter=KEYED)
            self.assertEqual(self.offsets(wanted, 10, frames=frames), [1, 3, 4, 7, 9])
            self.assertEqual(self.offsets(wanted, 9, frames=frames), [1, 3, 4, 7])
            backwards = RecordRange(end=9, is_reverse=True, filter=KEYED)
            self.assertEqual(self.offsets(backwards, 4, frames=frames), [7, 4])

    def test_limit(self):
        """Not more than are wanted, whatever came; how many there were is known at once."""
        for fields, next_offset, found in (({}, 10, [1, 3]), ({"is_reverse": True}, 0, [9, 7])):
            wanted = RecordRange(end=10, count_max=2, filter=KEYED, **fields)
            self.assertEqual(self.offsets(wanted, next_offset), found)
            self.assertEqual(self.read(wanted, next_offset)[1], 2)
        self.assertEqual(self.read(RecordRange(count_max=99, filter=KEYED), 10)[1], 5)
        self.assertEqual(self.read(RecordRange(first=2, count_max=4), 6)[1], 4)
        self.assertEqual(self.read(RecordRange(end=20, is_reverse=True), 6)[1], 4)

    def test_nothing(self):
        """At the log's end, and where a range is beyond it."""
        for wanted, next_offset in (
            (RecordRange(first=10), 10),
            (RecordRange(first=10, is_reverse=True), 10),
            (RecordRange(first=15, is_reverse=True), 10),
        ):
            self.assertEqual(self.offsets(wanted, next_offset, frames=()), [])
        self.assertEqual(begin_of(RecordRange(), self.answer()), 0)
        self.assertEqual(begin_of(RecordRange(is_reverse=True), self.answer()), 10)

    def answer(self):
        return ReadPage(frames=b"", next_offset=10, lowest=0, committed=10, is_confirmed=True)

    def test_gaps(self):
        """Without a filter no record may be missing: in the middle, at the beginning, or at the end."""
        for is_reverse, next_offset in ((False, 10), (True, 0)):
            for missing in (0, 2, 3, 4):
                frames = [frame for place, frame in enumerate(FRAMES) if place != missing]
                wanted = RecordRange(end=10, is_reverse=is_reverse)
                with self.assertRaises(ProtocolError, msg=(is_reverse, missing)):
                    self.offsets(wanted, next_offset, frames=frames)

    def test_goes_on_elsewhere(self):
        """An answer goes on within what was asked for, in the direction that was."""
        for fields, next_offset in (
            ({"first": 3, "end": 9}, 2),
            ({"first": 3, "end": 9}, 10),
            ({"first": 3, "end": 9, "is_reverse": True}, 2),
            ({"first": 3, "end": 9, "is_reverse": True}, 10),
            ({"first": 3, "end": 9, "filter": KEYED}, 2),
        ):
            self.assertRaises(ProtocolError, self.offsets, RecordRange(**fields), next_offset)

    def test_damaged_batch(self):
        """A batch that cannot be read is told, also when only some of its records are wanted."""
        payload = b"\x2a\x01k, and no batch"
        bad = make_entry(
            SEED, index=1, term=1, kind=1, base_offset=0, timestamp=1, payload=payload, record_count=1
        )
        for filter_ in ({}, {"filter": KEYED}):
            with self.assertRaises(InvalidRequestError):
                self.offsets(RecordRange(**filter_), 1, frames=[bad.frame], committed=1)


class PickedTests(SynchronousTestCase):
    """A batch of which some records were wanted."""

    def picked(self):
        [found] = decode_entries(SEED, FRAMES[4])
        payload = bytes(found.payload)
        return PickedBatch.of(found, payload, 0, 10, Matcher(KEYED).places)

    def test_parts(self):
        """It has its records alone, and so have its parts."""
        batch = self.picked()
        self.assertEqual((len(batch), batch.offset, batch.next_offset), (2, 7, 10))
        self.assertEqual(
            ([*batch.offsets], batch.values(), batch.timestamp), ([7, 9], [b"7", b"9"], TIME + 7)
        )
        for end, offsets in ((7, []), (8, [7]), (9, [7]), (10, [7, 9])):
            self.assertEqual([one.offset for one in batch.before(end)], offsets)
        self.assertIs(batch.before(10), batch)
        self.assertEqual([one.offset for one in batch.first_of(1)], [7])
        self.assertEqual([one.offset for one in batch.last_of(1)], [9])

    def test_whole_batches(self):
        """Parts of a batch by count, from either end."""
        batches, _ = RangeTests().read(RecordRange(first=1), 10)
        first = next(batches)
        self.assertEqual([*first.offsets], [1, 2])
        self.assertEqual([one.offset for one in first.first_of(1)], [1])
        self.assertEqual([one.offset for one in first.last_of(1)], [2])
