"""What a check of a batch may cost: no parse makes more than is bounded before it, whatever the bytes are."""

import resource
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Header, Record, RecordBatch
from loghouse.errors import InvalidRequestError
from loghouse.limits import (
    HEADERS_PER_RECORD_MAX,
    KIB,
    MIB,
    PAYLOAD_SIZE_MAX,
    RECORD_SIZE_MAX,
    RECORDS_PER_BATCH_MAX,
)
from loghouse.protocol import checking
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.checking import (
    PARSED_ELEMENTS_MAX,
    UNPACKED_ELEMENTS_MAX,
    WALKED_RECORDS_MAX,
    RecordWalk,
    check_batch,
    check_not_more,
    check_steps,
)
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec

EMPTY = b"\n\0"
HEADER = b"\x32\0"


def record(content):
    """Return a batch of one record of this serialized content."""
    return RecordBatch(records=[Record()]).SerializeToString()[:1] + _varint(len(content)) + content


def _varint(number):
    return Record(offset=number).SerializeToString()[1:]


class CostTests(SynchronousTestCase):
    """`check_steps`: what is made in a step, and what is left for a thread."""

    def setUp(self):
        self.made = []
        real = checking.parse

        def parse(form, payload):
            parsed = real(form, payload)
            headers = sum(len(record.headers) for record in parsed.records) if form is RecordBatch else 0
            self.made.append(len(parsed.records) + headers)
            return parsed

        self.patch(checking, "parse", parse)

    def check(self, payload, record_count, codec=Codec.NONE, record_size_max=RECORD_SIZE_MAX):
        """Return how many steps a check has, what the first one made, and the error's field."""
        self.made.clear()
        steps = check_steps(record_size_max, payload, record_count, codec, None)
        count, at_once, field = 0, None, ""
        try:
            for count, _ in enumerate(steps, 1):
                at_once = sum(self.made) if count == 1 else at_once
        except InvalidRequestError as error:
            field = error.field
        self.assertLessEqual(max(self.made, default=0), PARSED_ELEMENTS_MAX + 1)
        return count, sum(self.made) if at_once is None else at_once, field

    def test_bombs(self):
        """Millions of empty records or headers in some bytes are refused, or taken, with small parses."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        millions = compress(EMPTY * (PAYLOAD_SIZE_MAX // 2), Codec.ZSTD)
        self.assertLess(len(millions), KIB)
        for record_count in (1, 1000, RECORDS_PER_BATCH_MAX):
            self.assertEqual(self.check(millions, record_count, Codec.ZSTD)[2], "record_count")
        self.assertEqual(self.check(millions, RECORDS_PER_BATCH_MAX + 1, Codec.ZSTD), (0, 0, "record_count"))
        for content in (HEADER, EMPTY, b"\x40\0"):
            payload = record(content * 524_000) * 8
            field = "" if content == b"\x40\0" else "record.headers"
            for packed, codec in ((compress(payload, Codec.ZSTD), Codec.ZSTD), (payload, Codec.NONE)):
                self.assertEqual(self.check(packed, 8, codec)[2], field)
        unknown = b"\x40\0" * (PAYLOAD_SIZE_MAX // 2)
        self.assertEqual(self.check(compress(unknown, Codec.ZSTD), 1000, Codec.ZSTD)[2], "batch")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * KIB
        self.assertLess(grown, 96 * MIB)

    def test_what_the_reactor_does_itself(self):
        """Plain batches of common sizes have one step; packed ones make little in the first."""
        values = [Record(value=bytes(997))] * 250
        self.assertEqual(self.check(encode_batch(values), 250)[:1], (0,))
        self.assertEqual(self.check(encode_batch(values * 4), 1000)[:1], (0,))
        for record_count in (1, UNPACKED_ELEMENTS_MAX, 4 * UNPACKED_ELEMENTS_MAX):
            payload = EMPTY * record_count
            for claimed in (record_count, 1):
                _, at_once, _ = self.check(compress(payload, Codec.ZSTD), claimed, Codec.ZSTD)
                self.assertLessEqual(at_once, UNPACKED_ELEMENTS_MAX)
        self.assertEqual(self.check(encode_batch(values * 32), 8000)[1], 0)

    def test_the_largest(self):
        """A batch of as many records as may be passes, in steps that walk over some thousand each."""
        for payload, codec in (
            (EMPTY * RECORDS_PER_BATCH_MAX, Codec.NONE),
            (compress(EMPTY * RECORDS_PER_BATCH_MAX, Codec.ZSTD), Codec.ZSTD),
        ):
            steps = check_steps(RECORD_SIZE_MAX, payload, RECORDS_PER_BATCH_MAX, codec, None)
            walked = [number for number in steps if number]
            self.assertGreaterEqual(len(walked), RECORDS_PER_BATCH_MAX // WALKED_RECORDS_MAX)
            self.assertLessEqual(max(walked), WALKED_RECORDS_MAX + 1)
            self.assertEqual(self.check(payload, RECORDS_PER_BATCH_MAX - 1, codec)[2], "record_count")

    def test_honest_batches_that_look_dear(self):
        """Values full of line feeds and of digits are walked over, and are what they say they are."""
        for byte in (b"\n", b"2"):
            large = encode_batch([Record(value=byte * 1_000_000)] * 3)
            self.assertEqual(self.check(large, 3)[2], "")
            self.assertEqual(self.check(large, 2)[2], "record_count")
            self.assertEqual(self.check(large, 4)[2], "record_count")
            self.assertEqual(self.check(large, 3, record_size_max=1_000_000)[2], "record")
        small = encode_batch([Record(value=b"\n2\n")] * 70_000)
        self.assertEqual(self.check(small, 70_000)[2], "")
        headers = [Header(key="k", value=b"v")] * HEADERS_PER_RECORD_MAX
        self.assertEqual(self.check(encode_batch([Record(headers=headers)]), 1)[2], "")
        headers.append(headers[0])
        self.assertEqual(self.check(encode_batch([Record(headers=headers)]), 1)[2], "record.headers")

    def test_rubbish(self):
        """Endless lengths, cut ends and no fields at all among many line feeds are no batch."""
        feeds = b"\n" * (4 * PARSED_ELEMENTS_MAX)
        for payload in (
            b"\x12\x00" + feeds,
            b"\n" + b"\xff" * 9 + feeds,
            b"\n\xff\xff\xff\x7f" + feeds,
            b"\x17" + feeds,
            feeds + b"\n\x80",
            EMPTY * PARSED_ELEMENTS_MAX * 2 + b"\n",
            record(HEADER * PARSED_ELEMENTS_MAX * 2 + b"\x32"),
        ):
            self.assertNotEqual(self.check(payload, 1000)[2], "", payload[:8])

    def test_fields_of_later_versions(self):
        """A few fields that are no records are passed over, as in a small batch, and are not counted."""
        later = b"\x10\x01" + b"\x19" + bytes(8) + b"\x22\x01x" + b"\x2d" + bytes(4) + b"\x33\x34"
        for count in (10, 20_000):
            values = encode_batch([Record(value=b"\n" * 20)] * count)
            self.assertEqual(self.check(values + later + values, 2 * count)[2], "")
        long_tag = b"\x8a\x00\x02\x0a\x00"
        self.assertEqual(self.check(EMPTY * 100_000 + long_tag, 100_001)[2], "")

    def test_readers(self):
        """A reader who knows how many records there are does not parse many more."""
        check_not_more(EMPTY * 500_000, 500_000)
        check_not_more(encode_batch([Record(value=b"\n" * 500_000)]), 1)
        with self.assertRaises(InvalidRequestError):
            check_not_more(EMPTY * 500_000, 400_000)


class RecordWalkTests(SynchronousTestCase):
    """`RecordWalk`: pieces that are payloads of their own."""

    def test_pieces(self):
        """Pieces join to the whole, keep to their bounds, and a record too large for them comes alone."""
        sizes = [0, 1, 126, 127, 128, 300, 5000, 2, 0, 70_000, 1]
        payload = encode_batch([Record(value=bytes(size)) for size in sizes])
        for records_max, size_max, cost in ((3, PAYLOAD_SIZE_MAX, 0), (100, 600, 0), (100, 600, 128)):
            walk, pieces, places = RecordWalk(payload), [], [0]
            while not walk.is_done:
                piece = walk.take(records_max, size_max, cost)
                count = walk.count - places[-1]
                self.assertTrue(count == 1 or len(piece) + cost * count <= size_max)
                self.assertLessEqual(count, records_max)
                self.assertEqual(len(RecordBatch.FromString(bytes(piece)).records), count)
                pieces.append(bytes(piece))
                places.append(walk.count)
            self.assertEqual(b"".join(pieces), payload)
            self.assertEqual(walk.count, len(sizes))

    def test_a_small_limit_for_records(self):
        """Sizes of records are looked at in C in small batches, and in the walk in large ones."""
        payload = encode_batch([Record(value=bytes(50)), Record(value=bytes(60))])
        with patch.object(checking, "_walk_steps", side_effect=AssertionError):
            check_batch(payload, record_count=2, record_size_max=62)
            with self.assertRaises(InvalidRequestError):
                check_batch(payload, record_count=2, record_size_max=61)
