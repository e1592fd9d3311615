"""Records become batches: the same bytes that protobuf makes, cut where they should be."""

import random
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2
from loghouse.client.batching import (
    Accumulator,
    OutgoingBatch,
    encode_batch_of,
    encode_record,
    head_of,
    message_of,
)
from loghouse.errors import DeadlineError, InvalidRequestError
from loghouse.limits import PAYLOAD_SIZE_MAX, RECORDS_PER_BATCH_MAX
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.checking import check_batch
from loghouse.protocol.entry import Codec

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

    def test_any_record(self):
        """A record with key, headers or timestamp, too; joined with others they are one batch."""

        @settings(deadline=None, derandomize=True, max_examples=100)
        @given(
            st.lists(
                st.tuples(
                    st.binary(max_size=200),
                    st.binary(max_size=5),
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

        check()

    def test_datetime(self):
        """A datetime becomes microseconds since the epoch."""
        message = message_of(b"", b"", (), datetime(2023, 11, 14, 22, 13, 20, 5, tzinfo=UTC))
        self.assertEqual(message.timestamp, 1_700_000_000_000_005)

    def test_kinds_of_values(self):
        """Whatever holds bytes is taken; text and numbers are refused by name."""
        for value in (bytearray(b"ab"), memoryview(b"ab")):
            self.assertEqual(encode_record(value, b"", (), None), (head_of(2), b"ab"))
        for value in ("text", 5, None, [b"x"]):
            error = self.assertRaises(InvalidRequestError, encode_record, value, b"", (), None)
            self.assertIn(type(value).__name__, str(error))
        for key, headers in (("text", ()), (b"", [("name", "text")]), (b"", [(5, b"")])):
            self.assertRaises(InvalidRequestError, encode_record, b"", key, headers, None)

    def test_too_much(self):
        """What no batch can hold, and a batch of nothing, are refused here."""
        self.assertRaises(InvalidRequestError, encode_record, bytes(PAYLOAD_SIZE_MAX), b"", (), None)
        self.assertRaises(InvalidRequestError, encode_batch_of, [bytes(PAYLOAD_SIZE_MAX // 2)] * 2)
        self.assertRaises(InvalidRequestError, encode_batch_of, [])
        self.assertRaises(InvalidRequestError, encode_batch_of, [b""] * (RECORDS_PER_BATCH_MAX + 1))


class OutgoingTests(SynchronousTestCase):
    """A sealed batch."""

    def sealed(self, value, codec):
        batch = OutgoingBatch(due_at=0.0, deadline=1.0)
        batch.pieces += encode_record(value, b"", (), None)
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
