"""Frames become records: each offset once, from the asked one up to the end."""

import random
from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2
from loghouse.client.records import Batch, Record, batches_of, split_answer
from loghouse.errors import EntryDamagedError, InvalidRequestError, LoghouseError, ProtocolError
from loghouse.protocol.batch import encode_batch, split_batch
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec, EntryKind, frame_seed, make_entry

SEED = frame_seed(bytes(16), 1)
TIME = 1_700_000_000_000_000


def frames_of(*sizes, base=0, codec=Codec.NONE, gap_at=None, count_off=0):
    """Entries of so many records each (0: a no-op); values are their offsets."""
    frames, offset = b"", base
    for index, size in enumerate(sizes, 1):
        offset += gap_at == index
        records = [log_pb2.Record(value=str(offset + place).encode()) for place in range(size)]
        frames += make_entry(
            SEED,
            index=index,
            term=1,
            kind=EntryKind.RECORDS if size else EntryKind.NOOP,
            base_offset=offset,
            timestamp=TIME + index,
            payload=compress(encode_batch(records), codec) if size else b"",
            attributes=codec if size else 0,
            record_count=size + count_off if size else 0,
        ).frame
        offset += size
    return frames


def offsets(frames, offset, next_offset, end=None, seed=SEED):
    found = [record for batch in batches_of(seed, frames, offset, next_offset, end) for record in batch]
    for record in found:
        assert record.value == str(record.offset).encode(), record
    return [record.offset for record in found]


class BatchesTests(SynchronousTestCase):
    """From frames to records."""

    def test_whole(self):
        """Entries of other kinds are passed over, and every record comes with its offset."""
        self.assertEqual(offsets(frames_of(3, 0, 1, 2), 0, 6), list(range(6)))

    def test_begins_and_ends_inside(self):
        """The first entry may begin before the asked offset, the last one end behind the end."""
        frames = frames_of(3, 4, 5)
        for first in range(12):
            for end in range(first, 13):
                found = offsets(frames, first, 12, end)
                self.assertEqual(found, list(range(first, end)), f"{first} to {end}")

    def test_compressed(self):
        """Compressed batches are unpacked, never to more than a payload may have."""
        self.assertEqual(offsets(frames_of(3, 4, codec=Codec.ZSTD), 1, 7), list(range(1, 7)))
        bomb = compress(bytes(9 << 20), Codec.ZSTD)
        entry = make_entry(
            SEED, index=1, term=1, kind=EntryKind.RECORDS, base_offset=0, timestamp=1, payload=bomb,
            attributes=Codec.ZSTD, record_count=1,
        )  # fmt: skip
        error = self.assertRaises(InvalidRequestError, offsets, entry.frame, 0, 1)
        self.assertIn("unpacks to more than", str(error))

    def test_nothing_but_other_kinds(self):
        """An answer without records moves nothing."""
        self.assertEqual(offsets(frames_of(0, 0, base=5), 5, 5), [])

    def test_missing_offsets(self):
        """A gap, before, between or behind the entries, is an error and not a silent loss."""
        for frames, first, next_offset in (
            (frames_of(3, base=1), 0, 4),
            (frames_of(3, 4, gap_at=2), 0, 8),
            (frames_of(3), 0, 4),
        ):
            self.assertRaises(ProtocolError, offsets, frames, first, next_offset)

    def test_false_count(self):
        """A batch that holds another number of records than its frame says is an error."""
        self.assertRaises(ProtocolError, offsets, frames_of(3, count_off=1), 0, 4)

    def test_damaged_or_foreign(self):
        """A flipped bit, and frames of another cluster, are errors."""
        frames = bytearray(frames_of(3, 4))
        rng = random.Random(5)
        for _ in range(20):
            place = rng.randrange(len(frames))
            frames[place] ^= 1 << rng.randrange(8)
            with self.assertRaises(LoghouseError):
                offsets(bytes(frames), 0, 7)
            frames = bytearray(frames_of(3, 4))
        self.assertRaises(EntryDamagedError, offsets, bytes(frames), 0, 7, seed=frame_seed(b"\x01" * 16, 1))


class AnswerTests(SynchronousTestCase):
    """An answer is taken apart by hand as protobuf does it."""

    def test_as_protobuf(self):
        """Frames and offsets of any size, in any order, absent or twice; unknown fields do not matter."""
        for frames in (b"", b"f", bytes(127), bytes(128), bytes(70_000)):
            for next_offset in (0, 1, 127, 128, 2**32, 2**64 - 1):
                message = log_pb2.FetchResponse(frames=frames, next_offset=next_offset).SerializeToString()
                later = log_pb2.Server(role="x").SerializeToString()  # a field 4
                first = log_pb2.FetchResponse(next_offset=5).SerializeToString()
                for given in (message, first + message, message + later, later + message):
                    found, number = split_answer(given)
                    self.assertEqual(
                        (bytes(found), number), (frames, next_offset or 5 * given.startswith(first))
                    )

    def test_nonsense(self):
        """What is cut off or no message at all is an error, never less than was sent."""
        message = log_pb2.FetchResponse(frames=bytes(300), next_offset=300).SerializeToString()
        for size in range(1, len(message)):
            if size != len(message) - 3:  # there the second field begins
                self.assertRaises(ProtocolError, split_answer, message[:size])
        self.assertRaises(ProtocolError, split_answer, b"\xff" * 20)


class RecordTests(SynchronousTestCase):
    """What a record says."""

    def test_fields(self):
        """Key, headers and a timestamp of its producer come as they were given."""
        message = log_pb2.Record(value=b"v", key=b"k", timestamp=TIME + 5)
        message.headers.add(key="unit", value=b"mm")
        message.headers.add(key="unit", value=b"")
        batch = Batch(4, TIME, split_batch(encode_batch([message, log_pb2.Record()])), 0, 2)
        first, second = batch
        self.assertEqual(first, Record(4, TIME + 5, b"v", b"k", (("unit", b"mm"), ("unit", b""))))
        self.assertEqual(second, Record(5, TIME, b"", None, ()))
        self.assertEqual(second.time, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC))
        self.assertEqual((len(batch), batch.next_offset, batch.values()), (2, 6, [b"v", b""]))
        self.assertEqual(list(batch.messages), [message, log_pb2.Record()])
        self.assertIn("offset=4", repr(batch))

    def test_keys(self):
        """A record without a key has None, also among others that have one, and among plain ones."""
        for keys in ([None, b"", b"k"], [None, None]):
            messages = [log_pb2.Record(value=b"v", key=key) for key in keys]
            batch = Batch(0, TIME, split_batch(encode_batch(messages)), 0, len(keys))
            self.assertEqual([record.key for record in batch], keys)
        self.assertEqual((Record(0, 0, b"").key, Record(0, 0, b"", b"").key), (None, b""))

    def test_part(self):
        """A part of a batch has its own records alone, in whatever form; with keys and without."""
        for key in (b"", b"k"):
            records = [log_pb2.Record(value=b"%d" % place, key=key) for place in range(6)]
            whole = Batch(10, TIME, split_batch(encode_batch(records)), 0, 6)
            part = Batch(12, TIME, split_batch(encode_batch(records)), 2, 6).before(15)
            self.assertEqual((part.offset, part.next_offset, len(part)), (12, 15, 3))
            self.assertEqual(part.values(), [b"2", b"3", b"4"])
            self.assertEqual(list(part.messages), records[2:5])
            self.assertEqual(list(part), list(whole)[2:5])
            self.assertEqual([record.offset for record in part], [12, 13, 14])
            self.assertEqual(len(whole.before(10)), 0)
            self.assertIs(whole.before(16), whole)

    def test_undecodable_record(self):
        """Bytes that are no record are an error once they are looked at."""
        batch = Batch(0, TIME, log_pb2.EncodedRecords(records=[b"\x0a\x01v", b"\xff"]), 0, 2)
        self.assertRaises(InvalidRequestError, batch.values)
        self.assertRaises(InvalidRequestError, list, batch)
