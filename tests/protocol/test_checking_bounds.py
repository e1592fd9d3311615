"""Checks of batches and requests at their bounds: what is taken, and in which steps it is looked at."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Header, ProduceRequest, Record
from loghouse.errors import InvalidRequestError
from loghouse.limits import (
    HEADERS_PER_RECORD_MAX,
    KIB,
    MIB,
    PAYLOAD_SIZE_MAX,
    RECORD_SIZE_MAX,
    RECORDS_PER_BATCH_MAX,
    ZSTD_WINDOW_SIZE_MAX,
)
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.checking import (
    RecordWalk,
    check_batch,
    check_fields,
    check_not_more,
    check_record_size,
    check_steps,
    check_stored,
    record_steps,
)
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec, crc32c
from loghouse.protocol.varint import encode_varint
from loghouse.protocol.zstd import MAGIC, unpack_frame, unpacked_size
from tests.vectors.payloads import BATCH, CHECKSUM, RLE, SKIPPABLE, WHOLE, block, frame

# The bounds of `checking`, as numbers: what costs how long is measured for these.
PARSED_SIZE_MAX = 128 * KIB
PARSED_ELEMENTS_MAX = 65_536
UNPACKED_AT_ONCE_MAX = 64 * KIB
UNPACKED_ELEMENTS_MAX = 8192
OTHER_FIELDS_MAX = 1024
WALKED_RECORDS_MAX = 8192
REQUEST_FIELDS_MAX = 64
RECORD_REQUEST_OVERHEAD = 4096

EMPTY = b"\n\0"
LATER = b"\x10\x01"  # a field of a later version


def one_record(size):
    """A batch of so many bytes that is one record, full of a byte that begins nothing."""
    content = size - 4  # tag and three bytes of length
    value = content - 4  # the same of the record's value
    batch = b"\n" + _long(content) + b"\n" + _long(value) + b"x" * value
    assert len(batch) == size
    return batch


def _long(number):
    """A length in three bytes, whether it needs them or not."""
    return bytes([number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14])


def record(content):
    return b"\n" + encode_varint(len(content)) + content


class StepTests(SynchronousTestCase):
    """`check_steps`: how many records or headers were gone over at the end of each step."""

    def steps(self, payload, count, codec=Codec.NONE, record_size_max=PAYLOAD_SIZE_MAX):
        if codec:
            payload = compress(payload, codec)
        return list(check_steps(record_size_max, payload, count, codec, crc32c(payload)))

    def test_plain(self):
        """A batch is parsed at once up to a number of bytes, or of what could be records in it."""
        full = [1 + WALKED_RECORDS_MAX]
        for payload, count, steps in [
            (EMPTY * PARSED_ELEMENTS_MAX, PARSED_ELEMENTS_MAX, []),
            (EMPTY * (PARSED_ELEMENTS_MAX + 1), PARSED_ELEMENTS_MAX + 1, [0, *full * 8]),
            (EMPTY * (PARSED_ELEMENTS_MAX - 2) + one_record(100_000), PARSED_ELEMENTS_MAX - 1, []),
            (EMPTY * (PARSED_ELEMENTS_MAX - 1) + one_record(100_000), PARSED_ELEMENTS_MAX, [0, *full * 8]),
            (one_record(MIB), 1, []),
            (one_record(MIB + 1), 1, [0, 0, 2]),
            (one_record(MIB) * 3, 3, [0, 0, 2, 2, 2]),
            (one_record(MIB - 1) * 3, 3, [0, 0, 3]),
        ]:
            self.assertEqual(self.steps(payload, count), steps, (len(payload), count))

    def test_packed(self):
        """A packed one is unpacked at once up to a size, and parsed at once up to few records."""
        few = UNPACKED_ELEMENTS_MAX
        for payload, count, steps in [
            (one_record(UNPACKED_AT_ONCE_MAX), 1, []),
            (one_record(UNPACKED_AT_ONCE_MAX + 1), 1, [0]),
            (EMPTY * few, few, []),
            (EMPTY * (few + 1), few + 1, [0]),
            (EMPTY * PARSED_ELEMENTS_MAX, PARSED_ELEMENTS_MAX, [0, 0]),
            (EMPTY * (PARSED_ELEMENTS_MAX + 1), PARSED_ELEMENTS_MAX + 1, [0, 0, 0, *[few + 1] * 8]),
            (one_record(MIB), 1, [0]),
            (one_record(MIB + 1), 1, [0, 0, 0, 2]),
        ]:
            self.assertEqual(self.steps(payload, count, Codec.ZSTD), steps, (len(payload), count))

    def test_large_packed_bytes(self):
        """It also waits for a thread when the packed bytes are many and unpack to few."""
        batch = encode_batch([Record(value=b"x" * 10)])
        blocks = [block(b"", is_last=False)] * (UNPACKED_AT_ONCE_MAX // 3)
        packed = frame(*blocks, block(batch), size=len(batch))
        self.assertGreater(len(packed), UNPACKED_AT_ONCE_MAX)
        self.assertEqual(list(check_steps(100, packed, 1, Codec.ZSTD, None)), [0])

    def refused(self, field, payload, count, **options):
        with self.assertRaises(InvalidRequestError) as caught:
            check_batch(payload, record_count=count, **options)
        self.assertEqual(caught.exception.field, field)

    def test_largest_payload(self):
        """A payload has so many bytes, and no more."""
        largest = one_record(MIB) * 7 + one_record(MIB)
        self.assertEqual(len(largest), PAYLOAD_SIZE_MAX)
        check_batch(largest, record_count=8)
        self.refused("batch", largest + EMPTY, 9)

    def test_counts(self):
        """A count is from 1 to its maximum."""
        check_batch(EMPTY * RECORDS_PER_BATCH_MAX, record_count=RECORDS_PER_BATCH_MAX)
        self.refused("record_count", EMPTY * (RECORDS_PER_BATCH_MAX + 1), RECORDS_PER_BATCH_MAX + 1)
        check_batch(EMPTY, record_count=1)
        self.refused("record_count", b"", 0)

    def test_counts_when_walked_over(self):
        """So it is when the records are walked over: neither more nor fewer."""
        many = PARSED_ELEMENTS_MAX + 10
        for count in (many - 1, many + 1, 1):
            self.refused("record_count", EMPTY * many, count)

    def test_record_sizes(self):
        """A record has so many bytes, looked at or walked over; without a word a mebibyte."""
        for payload, count, size in [
            (record(b"\n\x02ab") + record(b"\n\x05abcde"), 2, 7),
            (EMPTY * PARSED_ELEMENTS_MAX + one_record(5000), PARSED_ELEMENTS_MAX + 1, 4996),
        ]:
            check_batch(payload, record_count=count, record_size_max=size)
            self.refused("record", payload, count, record_size_max=size - 1)
        check_batch(one_record(RECORD_SIZE_MAX + 4), record_count=1)
        self.refused("record", one_record(RECORD_SIZE_MAX + 5), 1)
        check_record_size(5, 5)
        self.assertRaises(InvalidRequestError, check_record_size, 6, 5)

    def test_fields_of_later_versions(self):
        """So many fields that are no records are walked over, and no more."""
        many = PARSED_ELEMENTS_MAX + 1
        later = LATER * OTHER_FIELDS_MAX
        check_batch(EMPTY * many + later, record_count=many)
        self.refused("batch", EMPTY * many + later + LATER, many)

    def test_headers(self):
        """A record has so many headers, and so many other fields on top, but for a few."""
        header = b"\x32\x00"
        for content, is_taken in [
            (header * HEADERS_PER_RECORD_MAX, True),
            (header * (HEADERS_PER_RECORD_MAX + 1), False),
            (header * HEADERS_PER_RECORD_MAX + b"\x08\x01" * 64, True),
            (header * HEADERS_PER_RECORD_MAX + b"\x08\x01" * 65, False),
        ]:
            if is_taken:
                check_batch(record(content), record_count=1)
            else:
                self.refused("record.headers", record(content), 1)
        self.refused("batch", record(header * HEADERS_PER_RECORD_MAX + b"\x17"), 1)

    def test_steps_over_headers(self):
        """Headers are gone over in steps of a thousand, each told as eight times as many records."""
        content = b"\x32\x00" * HEADERS_PER_RECORD_MAX + b"\x08\x01"
        steps = self.steps(record(content), 1)
        self.assertEqual(steps, [0, *[WALKED_RECORDS_MAX] * 64])

    def test_other_claims(self):
        """The codec and the checksum are looked at."""
        check_batch(EMPTY, record_count=1, payload_crc=crc32c(EMPTY))
        self.refused("batch_crc", EMPTY, 1, payload_crc=0)
        for codec in (2, 7):
            self.refused("codec", EMPTY, 1, codec=codec)

    def test_stored(self):
        """What is in the log is looked at whole: its count, its codec, its records."""
        packed = compress(EMPTY * 3, Codec.ZSTD)
        check_stored(EMPTY * 3, 3, Codec.NONE)
        check_stored(packed, 3, Codec.ZSTD)
        for payload, count, codec, field in [
            (EMPTY * 3, 2, Codec.NONE, "record_count"),
            (packed, 4, Codec.ZSTD, "record_count"),
            (EMPTY * 3, 3, Codec.ZSTD, "batch"),
            (b"\xff", 1, Codec.NONE, "batch"),
        ]:
            error = self.assertRaises(InvalidRequestError, check_stored, payload, count, codec)
            self.assertEqual(error.field, field)


class RequestTests(SynchronousTestCase):
    """Requests before they are parsed."""

    def test_fields(self):
        """A large request has so many fields; a small one is not looked at."""
        large = record(b"x" * PARSED_SIZE_MAX)
        check_fields(large + LATER * (REQUEST_FIELDS_MAX - 1))
        error = self.assertRaises(InvalidRequestError, check_fields, large + LATER * REQUEST_FIELDS_MAX)
        self.assertEqual(error.field, "request")
        check_fields(LATER * (PARSED_SIZE_MAX // 2))
        error = self.assertRaises(InvalidRequestError, check_fields, LATER * (PARSED_SIZE_MAX // 2 + 1))
        self.assertEqual(error.problem, f"has more than {REQUEST_FIELDS_MAX} fields")
        for rubbish in (large + b"\x17", large + b"\n", large + b"\x80" * 11):
            error = self.assertRaises(InvalidRequestError, check_fields, rubbish)
            self.assertEqual((error.field, error.problem), ("request", "does not consist of protobuf fields"))

    def test_record_sizes(self):
        """A request has so many bytes beside its record."""
        for size, is_taken in [(100 + RECORD_REQUEST_OVERHEAD, True), (101 + RECORD_REQUEST_OVERHEAD, False)]:
            data = record(b"\n" + encode_varint(size - 6) + b"x" * (size - 6))
            data = data[:1] + encode_varint(len(data)) + data
            data = data[:size]
            if is_taken:
                self.assertEqual(list(record_steps(data, 100)), [])
            else:
                error = self.assertRaises(InvalidRequestError, list, record_steps(data, 100))
                self.assertEqual(error.field, "record")

    def test_record_steps(self):
        """One up to a mebibyte is parsed at once, unless it may have too many headers."""
        for data, steps in [
            (record(b"\n\x01x"), []),
            (one_record(PARSED_SIZE_MAX + 1), []),
            (one_record(MIB), []),
            (one_record(MIB + 1), [0]),
            (record(b"\x32\x00" * HEADERS_PER_RECORD_MAX), []),
            (
                record(b"\x32\x00" * HEADERS_PER_RECORD_MAX + b"\x12\x012"),
                [0, *[WALKED_RECORDS_MAX] * 64],
            ),
            (b"\x12" + encode_varint(MIB) + b"2" * MIB, [0]),
        ]:
            self.assertEqual(list(record_steps(data, 2 * MIB)), steps, len(data))

    def test_one_record(self):
        """A large request holds one record, with its tag in one byte."""
        large = one_record(PARSED_SIZE_MAX + 1)
        for data in (large + EMPTY, b"\x8a\x00" + large[1:]):
            error = self.assertRaises(InvalidRequestError, list, record_steps(data, MIB))
            self.assertEqual(error.field, "record")
            self.assertIn("more than once", error.problem)

    def test_headers_of_a_record(self):
        """A record with too many headers is refused before it is parsed."""
        headers = [Header()] * (HEADERS_PER_RECORD_MAX + 1)
        data = ProduceRequest(record=Record(headers=headers)).SerializeToString()
        error = self.assertRaises(InvalidRequestError, list, record_steps(data, MIB))
        self.assertEqual(error.field, "record.headers")

    def test_readers(self):
        """A reader parses as many records as a small batch may have on top of those it knows of."""
        for count in (0, 5):
            allowed = count + PARSED_ELEMENTS_MAX
            check_not_more(EMPTY * (allowed + 1), count)
            check_not_more(EMPTY * allowed + one_record(1000), count)
            check_not_more(LATER * 10 + EMPTY * (allowed + 1), count + 10)
            error = self.assertRaises(InvalidRequestError, check_not_more, EMPTY * (allowed + 2), count)
            self.assertEqual(error.field, "batch")
        value = b"\n" * (PARSED_ELEMENTS_MAX + 50)
        check_not_more(encode_batch([Record(value=value)]), 1)


class WalkTests(SynchronousTestCase):
    """`RecordWalk`."""

    SIZES = (0, 5, 127, 128, 300)

    def payload(self):
        return b"".join(record(b"x" * size) for size in self.SIZES)

    def pieces(self, payload, *bounds, **where):
        walk, pieces = RecordWalk(payload, **where), []
        while not walk.is_done:
            pieces.append(len(walk.take(*bounds)))
        return pieces, walk.count, walk.largest, walk.other_count

    def test_pieces(self):
        """A piece has as many records as its number, its bytes and its costs allow, one at least."""
        sizes = [2, 7, 129, 131, 303]
        for bounds, pieces in [
            ((1,), sizes),
            ((2,), [9, 260, 303]),
            ((5,), [572]),
            ((5, 137), [9, 129, 131, 303]),
            ((5, 138), [138, 131, 303]),
            ((5, 0), sizes),
            ((5, 159, 7), [138, 131, 303]),
            ((5, 158, 7), [9, 129, 131, 303]),
        ]:
            found = self.pieces(self.payload(), *bounds)
            self.assertEqual(found, (pieces, 5, 300, 0), bounds)

    def test_from_a_place(self):
        """It may begin anywhere between records, with those counted that were before."""
        found = self.pieces(self.payload(), 5, position=9, count=2)
        self.assertEqual(found, ([563], 5, 300, 0))
        self.assertTrue(RecordWalk(b"").is_done)

    def test_other_fields(self):
        """Fields of every type are taken along, not counted as records; a record's long tag is one."""
        others = b"\x10\x81\x01" + b"\x19" + bytes(8) + b"\x22\x01x" + b"\x2b\x2c" + b"\x35" + bytes(4)
        payload = EMPTY + others + b"\x8a\x00\x01x" + EMPTY
        walk = RecordWalk(payload)
        self.assertEqual(bytes(walk.take(100)), payload)
        self.assertEqual((walk.count, walk.other_count, walk.position), (3, 6, len(payload)))
        self.assertEqual(walk.largest, 4)
        walk = RecordWalk(payload)
        self.assertEqual(bytes(walk.take(2)), payload[:5])
        self.assertEqual((walk.count, walk.other_count), (1, 1))

    def test_rubbish(self):
        """What is no field, or ends too early, is no batch."""
        for rubbish in (
            b"\n",
            b"\n\x01",
            b"\n\x80",
            b"\x16",
            b"\x17",
            b"\x10",
            b"\x19" + bytes(7),
            b"\x2d\0\0\0",
        ):
            for before in (b"", EMPTY):
                error = self.assertRaises(InvalidRequestError, RecordWalk(before + rubbish).take, 100)
                self.assertEqual((error.field, error.problem), ("batch", "is not a serialized RecordBatch"))
        walk = RecordWalk(EMPTY + b"\n\x01")
        self.assertEqual(bytes(walk.take(1)), EMPTY)


class ZstdTests(SynchronousTestCase):
    """Frames at their bounds, and what is said of those that are refused."""

    def refused(self, problem, payload, call=unpack_frame):
        with self.assertRaises(InvalidRequestError) as caught:
            call(payload)
        self.assertEqual(caught.exception.field, "batch")
        self.assertRegex(caught.exception.problem, problem)

    def test_refusals(self):
        """Each kind of false frame is called what it is."""
        for payload, problem in [
            (SKIPPABLE, "^begins with a skippable zstd frame; send one frame, which holds the batch$"),
            (b"\x5f" + SKIPPABLE[1:], "^begins with a skippable"),
            (b"\x60" + SKIPPABLE[1:], "does not begin with a frame's magic number$"),
            (b"\x4f" + SKIPPABLE[1:], "does not begin with a frame's magic number$"),
            (b"\x50" + WHOLE[1:], "does not begin with a frame's magic number$"),
            (MAGIC, "^is not valid zstd: "),
            (frame(dictionary=7), "^is packed with zstd dictionary 7, which readers do not have$"),
            (frame(size=PAYLOAD_SIZE_MAX + 1), f"^unpacks to {PAYLOAD_SIZE_MAX + 1} bytes; at most"),
            (frame(size=0), "^is an empty zstd frame; a batch has at least 1 record$"),
            (WHOLE[:-1], "^is cut off: it is not a whole zstd frame$"),
            (frame(block(BATCH, is_last=False)), "^is cut off: it is not a whole zstd frame$"),
            (WHOLE + b"ab", "^has 2 bytes behind its zstd frame; send one frame and nothing else$"),
            (frame(checksum=bytes(4)), "^is not valid zstd: "),
            (frame(checksum=bytes(4))[:-1], "^is cut off"),
            (frame(block(BATCH), size=19), "^is not valid zstd: "),
            (
                frame(block(b"x" * 9), size=None, window=0, checksum=bytes(4)),
                "^is damaged, or unpacks to more",
            ),
        ]:
            self.refused(problem, payload)

    def test_windows(self):
        """A window has up to 8 MiB, and a batch may be larger than its window."""
        self.assertEqual(ZSTD_WINDOW_SIZE_MAX, 8 * MIB)
        eight, more = 13 << 3, 13 << 3 | 1
        self.assertEqual(unpack_frame(frame(window=eight)), BATCH)
        self.refused("^needs a zstd window of 9437184 bytes; at most 8388608", frame(window=more))
        small = [block(b"x", is_last=number == 4, kind=RLE, size=KIB) for number in range(5)]
        self.assertEqual(unpack_frame(frame(*small, size=5 * KIB, window=0)), b"x" * 5 * KIB)
        self.assertEqual(unpack_frame(frame(*small, size=None, window=0)), b"x" * 5 * KIB)

    def test_blocks(self):
        """A block has as many bytes as the window, and 128 KiB at most."""
        for size, window, is_taken in [
            (KIB, 0, True),
            (KIB + 1, 0, False),
            (128 * KIB, 13 << 3, True),
            (128 * KIB + 1, 13 << 3, False),
        ]:
            payload = frame(block(b"x", kind=RLE, size=size), size=size, window=window)
            if is_taken:
                self.assertEqual(unpack_frame(payload), b"x" * size)
            else:
                self.refused(f"^has a zstd block of {size} bytes; its window allows {size - 1}$", payload)

    def test_last_block(self):
        """The last block may be empty, and a checksum may follow it."""
        for checksum in (b"", CHECKSUM):
            whole = frame(block(BATCH, is_last=False), block(b""), checksum=checksum)
            self.assertEqual(unpack_frame(whole), BATCH)
            for cut in range(1, 4 + len(checksum)):
                self.refused("^is cut off", whole[:-cut])

    def test_said_sizes(self):
        """A frame says how much it holds, at most as much as a payload."""
        self.assertEqual(unpacked_size(frame(size=PAYLOAD_SIZE_MAX)), PAYLOAD_SIZE_MAX)
        self.refused("unpacks to", frame(size=PAYLOAD_SIZE_MAX + 1), unpacked_size)
        self.assertEqual(unpacked_size(frame(size=1)), 1)
