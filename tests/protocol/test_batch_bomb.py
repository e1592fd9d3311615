"""A batch that announces less than it holds is refused before it is unfolded in memory."""

import resource

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record
from loghouse.errors import InvalidRequestError
from loghouse.limits import KIB, MIB, PAYLOAD_SIZE_MAX
from loghouse.protocol.batch import PARSE_SLACK, check_batch, compress, encode_batch
from loghouse.protocol.entry import Codec


class BombTests(SynchronousTestCase):
    """`check_batch` of batches that would take far more memory than they have bytes."""

    def test_millions_of_empty_records(self):
        """Four million empty records in under a kilobyte are refused, and memory hardly moves."""
        payload = compress(b"\n\0" * (PAYLOAD_SIZE_MAX // 2), Codec.ZSTD)
        self.assertLess(len(payload), KIB)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for record_count in (1, 1000):
            error = self.assertRaises(
                InvalidRequestError, check_batch, payload, record_count=record_count, codec=Codec.ZSTD
            )
            self.assertEqual(error.field, "record_count")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * KIB
        self.assertLess(grown, 48 * MIB)

    def test_honest_batches_with_many_line_feeds(self):
        """Values full of line feeds, and many small records, are what they say they are."""
        feeds = Record(value=b"\n" * 1_000_000)
        check_batch(encode_batch([feeds] * 3), record_count=3)
        check_batch(encode_batch([Record(value=b"x" * 1_000_000)]), record_count=1)
        check_batch(encode_batch([Record(value=b"\n\n\n")] * PARSE_SLACK), record_count=PARSE_SLACK)
        with self.assertRaises(InvalidRequestError):
            check_batch(encode_batch([feeds] * 3), record_count=2)

    def test_rubbish_with_many_line_feeds(self):
        """Other fields, endless lengths and cut ends among many line feeds are no batch."""
        feeds = b"\n" * (4 * PARSE_SLACK)
        for payload in (
            b"\x12\x00" + feeds,
            b"\n" + b"\xff" * 9 + feeds,
            b"\n\xff\xff\xff\x7f" + feeds,
            feeds + b"\n\x80",
        ):
            with self.assertRaises(InvalidRequestError):
                check_batch(payload, record_count=PARSE_SLACK)
