"""Records become batches: the same bytes that protobuf makes, cut where they should be."""

import random
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2
from loghouse.client import batching
from loghouse.client.batching import (
    Accumulator,
    OutgoingBatch,
    ProducerLedger,
    check_fits,
    encode_batch_of,
    encode_record,
    head_of,
    message_of,
)
from loghouse.client.records import NewRecord
from loghouse.errors import DeadlineError, InvalidRequestError
from loghouse.limits import PAYLOAD_SIZE_MAX, RECORDS_PER_BATCH_MAX
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.checking import check_batch
from loghouse.protocol.entry import Codec
from tests.processes import thorough

SIZES = [
    0,
    1,
    2,
    100,
    123,
    124,
    125,
    126,
    127,
    128,
    129,
    16_379,
    16_380,
    16_381,
    16_384,
    2_097_151,
    2_097_152,
]


class EncodingTests(SynchronousTestCase):
    """Hand-made bytes are protobuf's bytes."""

    def test_values_alone(self):
        """A batch of values is what protobuf serializes, at every length of a length."""
        values = [bytes([size % 251]) * size for size in SIZES]
        payload, record_count = encode_batch_of(values)
        self.assertEqual(record_count, len(SIZES))
        self.assertEqual(payload == encode_batch([log_pb2.Record(value=value) for value in values]), True)

    @thorough
    def test_any_record(self):
        """A record with key, headers or timestamp, too; joined with others they are one batch."""

        @settings(deadline=None, derandomize=True, max_examples=100)
        @given(
            st.lists(
                st.tuples(
                    st.binary(max_size=200),
                    st.none() | st.binary(max_size=5),
                    st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=3)), max_size=3),
                    st.none() | st.integers(0, 2**63),
                ),
                min_size=1,
                max_size=5,
            )
        )
        def check(records):
            pieces = [piece for record in records for piece in encode_record(*record)]
            messages = [message_of(*record) for record in records]
            self.assertEqual(b"".join(pieces), encode_batch(messages))
            mixed = [*(NewRecord(*record) for record in records), bytearray(b"plain")]
            messages.append(log_pb2.Record(value=b"plain"))
            self.assertEqual(encode_batch_of(mixed), (encode_batch(messages), len(messages)))

        check()

    def test_datetime(self):
        """A datetime becomes microseconds since the epoch."""
        message = message_of(b"", b"", (), datetime(2023, 11, 14, 22, 13, 20, 5, tzinfo=UTC))
        self.assertEqual(message.timestamp, 1_700_000_000_000_005)

    def test_empty_key(self):
        """An empty key is not the same as none, which costs nothing."""
        self.assertEqual(encode_record(b"v", None, (), None), (head_of(1), b"v"))
        for key in (b"", bytearray()):
            _, body = encode_record(b"v", key, (), None)
            self.assertEqual(body, b"\x0a\x01v\x2a\x00")

    def test_kinds_of_values(self):
        """Whatever holds bytes is taken; text and numbers are refused by name."""
        for value in (bytearray(b"ab"), memoryview(b"ab")):
            self.assertEqual(encode_record(value, None, (), None), (head_of(2), b"ab"))
        for value in ("text", 5, None, [b"x"]):
            error = self.assertRaises(InvalidRequestError, encode_record, value, None, (), None)
            self.assertIn(type(value).__name__, str(error))
        for key, headers in (("text", ()), (b"", [("name", "text")]), (b"", [(5, b"")])):
            self.assertRaises(InvalidRequestError, encode_record, b"", key, headers, None)

    def test_words(self):
        """A refusal names the field, and of several values the place; sizes are told."""
        most = f"a batch holds at most {PAYLOAD_SIZE_MAX}"
        for refused, field, text in (
            ((encode_batch_of, [b"", "a"]), "values", "1 is a str; give bytes, such as text.encode()"),
            (
                (encode_batch_of, [NewRecord(b""), 7]),
                "values",
                "1 is a int; give bytes, such as text.encode()",
            ),
            ((encode_batch_of, [NewRecord("a")]), "value", "is a str; give bytes, such as text.encode()"),
            ((encode_batch_of, []), "values", f"are 0 records; allowed: 1 to {RECORDS_PER_BATCH_MAX}"),
            ((check_fits, PAYLOAD_SIZE_MAX + 1), "record", f"has {PAYLOAD_SIZE_MAX + 1} bytes; {most}"),
        ):
            error = self.assertRaises(InvalidRequestError, *refused)
            self.assertEqual((error.field, error.problem), (field, text))

    def test_exactly_as_much(self):
        """A batch and a record of exactly the most that there may be are taken, and one record is a batch."""
        check_fits(PAYLOAD_SIZE_MAX)
        size = PAYLOAD_SIZE_MAX - len(head_of(PAYLOAD_SIZE_MAX - 10))
        payload, record_count = encode_batch_of([bytes(size)])
        self.assertEqual((len(payload), record_count), (PAYLOAD_SIZE_MAX, 1))
        head, body = encode_record(bytes(size), None, (), None)
        self.assertEqual(len(head) + len(body), PAYLOAD_SIZE_MAX)
        self.assertRaises(InvalidRequestError, encode_record, bytes(size + 1), None, (), None)
        self.assertEqual(encode_batch_of([b""] * RECORDS_PER_BATCH_MAX)[1], RECORDS_PER_BATCH_MAX)

    def test_other_bytes(self):
        """What holds bytes is copied as bytes; a key of None is none; any other part counts."""
        self.assertEqual(encode_batch_of([bytearray(b"ab")]), encode_batch_of([b"ab"]))
        self.assertEqual(message_of(b"v", None, (), None), log_pb2.Record(value=b"v"))
        self.assertEqual(message_of(b"v", b"k", None, 7), log_pb2.Record(value=b"v", key=b"k", timestamp=7))
        for key, headers, timestamp in ((b"k", (), None), (b"", [("a", b"b")], None), (b"", (), 7)):
            head, body = encode_record(b"v", key, headers, timestamp)
            message = message_of(b"v", key, headers, timestamp)
            self.assertEqual((head + body, body), (encode_batch([message]), message.SerializeToString()))

    def test_heads_are_remembered(self):
        """The same head is not made twice; of so many sizes that memory would grow it is made anew."""
        self.assertIs(head_of(12_345), head_of(12_345))
        self.patch(batching, "_heads", {})
        self.patch(batching, "_HEADS_MAX", 2)
        for size in (1, 200, 3000):
            self.assertEqual(head_of(size)[-1:] != b"", True)
        self.assertEqual(set(batching._heads), {1, 200})

    def test_too_much(self):
        """What no batch can hold, and a batch of nothing, are refused here."""
        self.assertRaises(InvalidRequestError, encode_record, bytes(PAYLOAD_SIZE_MAX), None, (), None)
        self.assertRaises(InvalidRequestError, encode_batch_of, [bytes(PAYLOAD_SIZE_MAX // 2)] * 2)
        self.assertRaises(InvalidRequestError, encode_batch_of, [])
        self.assertRaises(InvalidRequestError, encode_batch_of, [b""] * (RECORDS_PER_BATCH_MAX + 1))


class OutgoingTests(SynchronousTestCase):
    """A sealed batch."""

    def sealed(self, value, codec):
        batch = OutgoingBatch(due_at=0.0, deadline=1.0)
        batch.pieces += encode_record(value, None, (), None)
        batch.record_count = 1
        batch.seal(codec)
        check_batch(batch.payload, record_count=1, codec=batch.codec, payload_crc=batch.crc)
        self.assertEqual([r.value for r in decode_batch(batch.payload, batch.codec).records], [value])
        return batch

    def test_compression(self):
        """It is compressed when that helps, and only then."""
        self.assertEqual(self.sealed(bytes(10_000), Codec.ZSTD).codec, Codec.ZSTD)
        self.assertEqual(self.sealed(bytes(10_000), Codec.NONE).codec, Codec.NONE)
        noise = random.Random(1).randbytes(10_000)
        self.assertEqual(self.sealed(noise, Codec.ZSTD).codec, Codec.NONE)

    def test_outcome(self):
        """Its records have offsets in their order, or all its error."""
        batch = OutgoingBatch(due_at=0.0, deadline=1.0)
        self.assertFalse(batch.is_settled)
        batch.base_offset = 7
        self.assertEqual((batch.is_settled, batch.offset(0), batch.offset(3)), (True, 7, 10))
        failed = OutgoingBatch(due_at=0.0, deadline=1.0)
        failed.error = DeadlineError("late")
        self.assertEqual((failed.is_settled, failed.is_reported), (True, False))
        self.assertRaises(DeadlineError, failed.offset, 0)
        self.assertTrue(failed.is_reported)

    def test_new(self):
        """A new batch is empty, was never sent, and nothing is known of it."""
        batch = OutgoingBatch(due_at=1.0, deadline=2.0)
        self.assertEqual((batch.pieces, batch.payload, batch.codec, batch.crc), ([], b"", Codec.NONE, 0))
        self.assertEqual((batch.record_count, batch.size, batch.sequence, batch.base_offset), (0, 0, -1, -1))
        flags = batch.is_unsure, batch.is_reported, batch.is_full, batch.is_settled
        self.assertEqual(flags, (False,) * 4)
        self.assertEqual((batch.error, batch.waiter), (None, None))

    def test_first_offset(self):
        """A batch at the very beginning of the log is settled, too; sealed it holds its bytes once."""
        batch = self.sealed(b"v", Codec.NONE)
        self.assertEqual(batch.pieces, [])
        batch.base_offset = 0
        self.assertEqual((batch.is_settled, batch.offset(0)), (True, 0))

    def test_no_gain(self):
        """What compression makes no smaller is sent as it is."""
        batch = OutgoingBatch(due_at=0.0, deadline=1.0)
        batch.pieces.append(b"payload")
        self.patch(batching, "compress", lambda payload, codec: b"7 bytes")
        batch.seal(Codec.ZSTD)
        self.assertEqual((batch.payload, batch.codec), (b"payload", Codec.NONE))


class LedgerTests(SynchronousTestCase):
    """What a producer's ledger counts."""

    def batch(self, count, error=None):
        batch = OutgoingBatch(due_at=0.0, deadline=1.0)
        batch.record_count, batch.size, batch.error = count, 10 * count, error
        batch.pieces.append(b"piece")
        return batch

    def test_room(self):
        """Records take room and are under way; settled, whatever became of them, they give both back."""
        ledger = ProducerLedger(25)
        self.assertEqual((ledger.room, ledger.taken, ledger.done, ledger.unreported()), (25, 0, 0, ""))
        for room in (15, 5, -5):
            ledger.take(10)
            self.assertEqual(ledger.room, room)
        self.assertEqual((ledger.taken, ledger.unreported()), (3, "3 records were not acknowledged yet"))
        ledger.settle(self.batch(1))
        self.assertEqual((ledger.room, ledger.done), (5, 1))
        failed = self.batch(1, DeadlineError("late"))
        ledger.settle(failed)
        self.assertEqual((ledger.room, ledger.done, failed.pieces), (15, 2, []))
        self.assertEqual(
            ledger.unreported(),
            "1 record was not acknowledged yet, and 1 record was not appended, and nobody was told: late",
        )

    def test_raised_once(self):
        """The first failure that nobody was told of is raised, once; then nothing is left to tell."""
        ledger = ProducerLedger(100)
        told, first, second = (self.batch(2, DeadlineError(text)) for text in ("told", "first", "second"))
        told.is_reported = True
        for batch in (told, first, second):
            ledger.taken += 2
            ledger.settle(batch)
        self.assertEqual(ledger.unreported(), "4 records were not appended, and nobody was told: first")
        self.assertEqual(str(self.assertRaises(DeadlineError, ledger.raise_unreported)), "first")
        self.assertEqual((first.is_reported, second.is_reported, ledger.unreported()), (True, False, ""))
        ledger.raise_unreported()

    def test_those_beyond_memory(self):
        """Failures that there was no room to remember are counted until the next one is raised."""
        self.patch(batching, "UNREPORTED_BATCHES_MAX", 1)
        ledger = ProducerLedger(100)
        for _ in range(2):
            ledger.settle(self.batch(3, DeadlineError("late")))
        ledger.taken = ledger.done
        self.assertEqual(ledger.unreported(), "6 records were not appended, and nobody was told: late")
        self.assertRaises(DeadlineError, ledger.raise_unreported)
        ledger.settle(self.batch(3, DeadlineError("late")))
        ledger.taken = ledger.done
        self.assertEqual(ledger.unreported(), "3 records were not appended, and nobody was told: late")


class AccumulatorTests(SynchronousTestCase):
    """Batches are cut by size, by count and by time."""

    def setUp(self):
        self.accumulator = Accumulator(batch_size=1000, linger_seconds=0.5, timeout_seconds=10.0)

    def add(self, size, now=0.0):
        return self.accumulator.add(head_of(size), bytes(size), now)

    def taken(self, now):
        batches = []
        while (batch := self.accumulator.take(now)) is not None:
            batches.append(batch)
        return batches

    def test_linger(self):
        """A record waits for others as long as it may, and no longer; the first one counts."""
        self.assertEqual(self.accumulator.due_at, None)
        batch = self.add(10, 1.0)
        self.assertIs(self.add(10, 1.3), batch)
        self.assertEqual(self.accumulator.due_at, 1.5)
        self.assertEqual(self.taken(1.49), [])
        self.assertEqual(self.taken(1.5), [batch])
        self.assertEqual((batch.record_count, batch.deadline), (2, 11.0))
        self.assertIsNot(self.add(10, 1.6), batch)

    def test_size(self):
        """A batch that has its size goes at once; no batch but of one record is larger."""
        full = [self.add(490) for _ in range(5)]
        self.assertEqual([batch.record_count for batch in self.taken(0.0)], [2, 2])
        self.assertIsNot(full[-1], full[0])
        large = self.add(5000)
        self.assertTrue(large.is_full)
        self.assertEqual([batch.size for batch in self.taken(0.0)][1:], [5006])

    def test_count(self):
        """A batch holds no more records than a node takes."""
        accumulator = Accumulator(batch_size=PAYLOAD_SIZE_MAX, linger_seconds=0.5, timeout_seconds=10.0)
        head = head_of(0)
        for _ in range(RECORDS_PER_BATCH_MAX + 1):
            batch = accumulator.add(head, b"", 0.0)
        self.assertEqual(accumulator.take(0.0).record_count, RECORDS_PER_BATCH_MAX)
        self.assertEqual(batch.record_count, 1)

    def test_hurry(self):
        """In a hurry nothing lingers."""
        self.accumulator.hurry()
        batch = self.add(1, 5.0)
        self.assertEqual(self.taken(5.0), [])
        self.accumulator.hurry()
        self.assertEqual(self.taken(5.0), [batch])

    def test_expire(self):
        """What waited too long is not sent any more, the oldest first."""
        first, second, third = self.add(990, 0.0), self.add(990, 1.0), self.add(10, 2.0)
        self.assertEqual(self.accumulator.expire(9.9), [])
        self.assertEqual(self.accumulator.expire(11.0), [first, second])
        self.assertEqual(self.accumulator.expire(12.0), [third])
        self.assertEqual((self.taken(99.0), self.accumulator.due_at), ([], None))

    def test_drop(self):
        """All that is gathered can be dropped."""
        batches = [self.add(990), self.add(990), self.add(10)]
        self.assertEqual(self.accumulator.drop(), batches)
        self.assertEqual(self.accumulator.drop(), [])

    def test_exactly_full(self):
        """A batch of exactly its size is full; one more byte does not go in."""
        accumulator = Accumulator(batch_size=20, linger_seconds=0.5, timeout_seconds=10.0)
        first = accumulator.add(b"h" * 5, b"b" * 5, 0.0)
        self.assertFalse(first.is_full)
        self.assertIs(accumulator.add(b"h" * 5, b"b" * 5, 0.0), first)
        self.assertEqual((first.is_full, first.size, first.record_count), (True, 20, 2))
        self.assertEqual(first.pieces, [b"h" * 5, b"b" * 5] * 2)
        second = accumulator.add(b"h" * 5, b"b" * 5, 0.0)
        third = accumulator.add(b"h" * 5, b"b" * 6, 0.0)
        self.assertEqual((second.is_full, second.record_count, third.record_count), (False, 1, 1))
        self.assertEqual([accumulator.take(0.0), accumulator.take(0.0)], [first, second])

    def test_due(self):
        """A full batch is due at once, an open one when it has lingered; expired ones do not hold it up."""
        self.add(1, 1.0)
        self.assertEqual(self.accumulator.due_at, 1.5)
        self.add(999, 1.2)
        self.assertEqual(self.accumulator.due_at, float("-inf"))
        self.assertEqual(len(self.accumulator.expire(11.0)), 1)
        self.assertEqual(self.accumulator.due_at, float("-inf"))
        self.assertEqual(len(self.accumulator.expire(11.2)), 1)
        self.assertIsNone(self.accumulator.due_at)

    def test_the_open_one_expires_last(self):
        """The open batch expires at its moment, not before those that are full."""
        first, second = self.add(990, 5.0), self.add(20, 1.0)
        self.assertEqual(self.accumulator.expire(11.0), [], "the first one has time until 15.0")
        self.assertEqual(self.accumulator.expire(15.0), [first, second])
