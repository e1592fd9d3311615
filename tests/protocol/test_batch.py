"""Record batches: checked as what they say they are, bounded when unpacked."""

import random

import zstandard
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import EncodedRecords, Record, RecordBatch
from loghouse.errors import InvalidRequestError
from loghouse.limits import PAYLOAD_SIZE_MAX, RECORDS_PER_BATCH_MAX
from loghouse.protocol.batch import decode_batch, encode_batch, plain_values, split_batch
from loghouse.protocol.checking import check_batch
from loghouse.protocol.compression import compress, decompress
from loghouse.protocol.entry import Codec, crc32c
from loghouse.protocol.uniform import uniform_records

PAYLOAD = encode_batch([Record(value=b"one"), Record(value=b"two" * 50)])


class BatchTests(SynchronousTestCase):
    """`check_batch`, `decode_batch` and the codecs."""

    def refused(self, field, payload, **options):
        with self.assertRaises(InvalidRequestError) as caught:
            check_batch(payload, **{"record_count": 2, **options})
        self.assertEqual(caught.exception.field, field)
        return str(caught.exception)

    def test_round_trip(self):
        """Records come back from each codec, from bytes and from views."""
        for codec in Codec:
            payload = compress(PAYLOAD, codec)
            for form in (payload, memoryview(payload)):
                values = [record.value for record in decode_batch(form, codec).records]
                self.assertEqual(values, [b"one", b"two" * 50])
                check_batch(form, record_count=2, codec=codec, payload_crc=crc32c(payload))

    def test_false_claims(self):
        """A count, a CRC or a codec that is not true is refused by its field."""
        for count in (1, 3):
            self.assertIn("holds 2", self.refused("record_count", PAYLOAD, record_count=count))
        for count in (0, -1, RECORDS_PER_BATCH_MAX + 1):
            self.assertIn("allowed", self.refused("record_count", PAYLOAD, record_count=count))
        self.refused("batch_crc", PAYLOAD, payload_crc=crc32c(PAYLOAD) ^ 1)
        self.refused("codec", PAYLOAD, codec=7)
        self.refused("batch", PAYLOAD, codec=Codec.ZSTD)
        self.refused("batch", b"\xff\xff\xff")

    def test_sizes(self):
        """A payload or a record beyond its limit is refused; at the limit it passes."""
        self.assertIn(str(PAYLOAD_SIZE_MAX), self.refused("batch", bytes(PAYLOAD_SIZE_MAX + 1)))
        largest = max(record.ByteSize() for record in decode_batch(PAYLOAD).records)
        check_batch(PAYLOAD, record_count=2, record_size_max=largest)
        self.assertIn(f"has {largest} bytes", self.refused("record", PAYLOAD, record_size_max=largest - 1))
        packed = compress(PAYLOAD, Codec.ZSTD)
        self.refused("record", packed, codec=Codec.ZSTD, record_size_max=largest - 1)

    def test_bomb(self):
        """A payload that unpacks to more than the limit is refused without unpacking it all."""
        bomb = zstandard.ZstdCompressor().compress(bytes(PAYLOAD_SIZE_MAX + 1))
        self.assertLess(len(bomb), 10_000)
        with self.assertRaises(InvalidRequestError):
            decompress(bomb, Codec.ZSTD)
        exact = zstandard.ZstdCompressor().compress(bytes(PAYLOAD_SIZE_MAX))
        self.assertEqual(len(decompress(exact, Codec.ZSTD)), PAYLOAD_SIZE_MAX)


class PlainValuesTests(SynchronousTestCase):
    """`split_batch` and `plain_values`: what `decode_batch` gives, or nothing."""

    # What a record can be besides its value alone; each also hides among plain ones.
    OTHERS = (
        b"",  # an empty value
        Record(key=b"k").SerializeToString(),
        Record(value=b"v", key=b"k").SerializeToString(),
        Record(value=b"v", timestamp=1).SerializeToString(),
        b"\x0a\x01a\x0a\x01b",  # two values: the last one counts
        b"\x0a\x81\x00v",  # a length of more bytes than it needs
        b"\x42\x01v",  # a field of a later version
        b"\x08\x01",  # field 1, and no bytes
    )

    def test_values_alone(self):
        """Values of every size come as they are, compressed or not."""
        values = [b"x" * size for size in (1, 2, 10, 127, 128, 129, 16_383, 16_384, 70_000)]
        payload = encode_batch(Record(value=value) for value in values)
        for codec in Codec:
            self.assertEqual(plain_values(split_batch(compress(payload, codec), codec)), values)
        self.assertIsNone(plain_values(EncodedRecords()))

    def test_anything_else(self):
        """A batch with one record that is more, or less, than a value is not taken for plain."""
        plain = b"\x0a\x01p"
        for other in self.OTHERS:
            for records in ([other], [other, plain], [plain, other], [plain, other, plain]):
                self.assertIsNone(plain_values(EncodedRecords(records=records)), records)

    def test_never_wrong(self):
        """Whatever records are made of, the values are protobuf's own, or there are none."""
        rng = random.Random(7)
        others = [*self.OTHERS, b"\x0a\x00"]  # an empty value, written down: one value, too
        found = 0
        for _ in range(3000):
            records = [
                rng.choice(others) if rng.random() < 0.1 else b"\x0a\x02v%d" % rng.randrange(10)
                for _ in range(rng.randrange(1, 9))
            ]
            batch = EncodedRecords(records=records)
            values = plain_values(batch)
            if values is not None:
                found += 1
                whole = RecordBatch.FromString(batch.SerializeToString())
                self.assertEqual(values, [record.value for record in whole.records])
        self.assertGreater(found, 500)

    def test_uniform(self):
        """Values of one size are taken apart by their places, whatever size; other batches are not."""
        for size in (1, 2, 125, 126, 127, 128, 129, 16_380, 16_383, 16_384):
            values = [bytes([number]) * size for number in range(5)]
            payload = encode_batch(Record(value=value) for value in values)
            self.assertEqual(uniform_records(payload, 5).values(), values)
            self.assertEqual(uniform_records(payload, 5).SerializeToString(), payload)
            for count in (0, 1, 4, 6):
                self.assertIsNone(uniform_records(payload, count), (size, count))
        for payload in (b"", b"\x0a", b"\x0a\x00", b"\x0a\x02\x0a\x00", b"\xff" * 12, b"\x0a\xff\xff\xff"):
            self.assertIsNone(uniform_records(payload, 1), payload)

    def test_uniform_of_any_length(self):
        """However many values there are, each comes once and in its place: many are taken at a time."""
        for count in (1, 31, 32, 33, 63, 64, 1000):
            values = [b"%04d" % number for number in range(count)]
            payload = encode_batch(Record(value=value) for value in values)
            self.assertEqual(uniform_records(payload, count).values(), values)

    def test_uniform_is_never_wrong(self):
        """Whatever a batch is made of: by their places values are protobuf's own, or there are none."""
        rng = random.Random(8)
        alike = [b"\x0a\x03abc", b"\x0a\x03xyz", b"\x0a\x81\x80\x00v", b"\x0a\x01a\x0a\x00", b"\x12\x03key"]
        found = 0
        for _ in range(3000):
            others = alike if rng.random() < 0.5 else alike[:2]
            count = rng.randrange(1, 6)
            payload = EncodedRecords(records=rng.choices(others, k=count)).SerializeToString()
            if rng.random() < 0.3:
                place = rng.randrange(len(payload))
                payload = payload[:place] + rng.choice((b"\x0a", b"\x03", b"\x05")) + payload[place + 1 :]
            uniform = uniform_records(payload, count)
            if uniform is not None:
                found += 1
                records = RecordBatch.FromString(payload).records
                self.assertEqual(uniform.values(), [record.value for record in records])
                self.assertEqual(len(records), count)
        self.assertGreater(found, 1000)

    def test_not_records(self):
        """Bytes that are no records are not plain, and no batch at all is refused."""
        for records in ([b"\xff"], [b"\x0a\x01p", b"\xff"], [b"\x0a\x01p", b"\x0a\x05p"]):
            self.assertIsNone(plain_values(EncodedRecords(records=records)))
        self.assertRaises(InvalidRequestError, split_batch, b"\xff\xff")
