"""Protobuf's framing by hand is protobuf's framing."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2
from loghouse.protocol.varint import decode_varint, encode_varint, join_bytes_field

NUMBERS = [0, 1, 127, 128, 300, 16_383, 16_384, 2**32 - 1, 2**32, 2**63, 2**64 - 1]


class VarintTests(SynchronousTestCase):
    """Numbers and fields of bytes."""

    def test_as_protobuf(self):
        """Numbers of every length are written as protobuf writes them, and read back."""
        for number in NUMBERS:
            message = log_pb2.BoundsResponse(lowest=number).SerializeToString()
            self.assertEqual(message, b"\x08" + encode_varint(number) if number else b"")
            encoded = encode_varint(number)
            self.assertEqual(decode_varint(b"\x08" + encoded + b"\xff", 1), (number, 1 + len(encoded)))

    def test_nonsense(self):
        """What is cut off, or does not end, is no number."""
        for number in NUMBERS:
            self.assertRaises(IndexError, decode_varint, encode_varint(number)[:-1], 0)
        self.assertRaises(ValueError, decode_varint, b"\x80" * 11, 0)

    def test_field(self):
        """A field of bytes and the rest of its message are what protobuf makes of them together."""
        for size in (0, 1, 127, 128, 70_000):
            whole = log_pb2.FetchResponse(frames=bytes(size), next_offset=7)
            rest = log_pb2.FetchResponse(next_offset=7).SerializeToString()
            for content in (bytes(size), memoryview(bytes(size))):
                self.assertEqual(join_bytes_field(1, content, rest), whole.SerializeToString())
        later = join_bytes_field(17, b"x", b"")
        self.assertEqual(later, b"\x8a\x01\x01x")
