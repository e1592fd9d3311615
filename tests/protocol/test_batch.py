"""Record batches: checked as what they say they are, bounded when unpacked."""

import zstandard
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record
from loghouse.errors import InvalidRequestError
from loghouse.limits import PAYLOAD_SIZE_MAX, RECORDS_PER_BATCH_MAX
from loghouse.protocol.batch import check_batch, compress, decode_batch, decompress, encode_batch
from loghouse.protocol.entry import Codec, crc32c

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
