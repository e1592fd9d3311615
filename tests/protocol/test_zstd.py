"""Which zstd payloads are taken: one whole frame that every decoder reads."""

import json
import shutil
import subprocess

import zstandard
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse.errors import InvalidRequestError
from loghouse.limits import PAYLOAD_SIZE_MAX, ZSTD_BLOCKS_MAX
from loghouse.protocol.checking import check_batch, check_stored
from loghouse.protocol.compression import decompress
from loghouse.protocol.entry import Codec
from loghouse.protocol.zstd import unpack_frame, unpacked_size
from tests.vectors.generate import DIRECTORY
from tests.vectors.payloads import BATCH, WHOLE, block, frame


class PayloadVectorTests(SynchronousTestCase):
    """`tests/vectors/payloads.json`."""

    def setUp(self):
        self.vectors = json.loads((DIRECTORY / "payloads.json").read_text())

    def test_taken_and_refused(self):
        """What is one whole frame is taken; everything else is refused by the field that is wrong."""
        for vector in self.vectors:
            data = bytes.fromhex(vector["hex"])
            for form in (data, memoryview(data)):
                try:
                    check_batch(form, record_count=vector["record_count"], codec=vector["codec"])
                except InvalidRequestError as error:
                    self.assertFalse(vector["is_taken"], vector["name"])
                    self.assertIn(error.field, ("batch", "record_count", "codec"))
                else:
                    self.assertTrue(vector["is_taken"], vector["name"])

    def test_in_the_log(self):
        """A check of what is in the log says the same of them."""
        for vector in self.vectors:
            if vector["codec"] == Codec.ZSTD:
                try:
                    check_stored(bytes.fromhex(vector["hex"]), vector["record_count"], Codec.ZSTD)
                except InvalidRequestError:
                    self.assertFalse(vector["is_taken"], vector["name"])
                else:
                    self.assertTrue(vector["is_taken"], vector["name"])

    def test_reference(self):
        """The reference decoder reads what is taken, and of the rest just what the vectors say."""
        command = shutil.which("zstd")
        if command is None:
            raise SkipTest("there is no zstd command here")
        for vector in self.vectors:
            data = bytes.fromhex(vector["hex"])
            done = subprocess.run([command, "-dcq"], input=data, capture_output=True, check=False)
            self.assertEqual(done.returncode == 0, vector["is_read_by_libzstd"], vector["name"])
            if vector["is_taken"]:
                self.assertEqual(done.stdout, BATCH, vector["name"])

    def test_in_parts(self):
        """What is taken is read alike by a decoder that gets it a byte at a time."""
        for vector in self.vectors:
            if vector["is_taken"]:
                decoder = zstandard.ZstdDecompressor().decompressobj()
                data = bytes.fromhex(vector["hex"])
                parts = [decoder.decompress(data[at : at + 1]) for at in range(len(data))]
                self.assertEqual((b"".join(parts), decoder.eof), (BATCH, True), vector["name"])


class FrameTests(SynchronousTestCase):
    """`unpack_frame`, and what may still be read."""

    def test_every_cut_and_every_tail(self):
        """No prefix of a frame is taken, nor any frame with something behind it, from any encoder."""
        content = bytes(range(256)) * 40
        for options in ({}, {"write_checksum": True}, {"write_content_size": False}, {"level": 19}):
            whole = zstandard.ZstdCompressor(**options).compress(content)
            self.assertEqual(unpack_frame(whole), content)
            for cut in range(len(whole)):
                self.assertRaises(InvalidRequestError, unpack_frame, whole[:cut])
            for tail in (b"\0", b"\n\0", whole):
                self.assertRaises(InvalidRequestError, unpack_frame, whole + tail)

    def test_bomb(self):
        """A frame that unpacks to more than the limit is refused, whether it says so or not."""
        for options in ({}, {"write_content_size": False}):
            zeros = zstandard.ZstdCompressor(**options)
            self.assertRaises(InvalidRequestError, unpack_frame, zeros.compress(bytes(PAYLOAD_SIZE_MAX + 1)))
            self.assertEqual(len(unpack_frame(zeros.compress(bytes(PAYLOAD_SIZE_MAX)))), PAYLOAD_SIZE_MAX)

    def test_many_blocks(self):
        """Blocks are walked over, so their number is bounded."""
        empty = block(b"", is_last=False)
        self.assertEqual(unpack_frame(frame(*[empty] * (ZSTD_BLOCKS_MAX - 1), block(BATCH))), BATCH)
        self.assertRaises(InvalidRequestError, unpack_frame, frame(*[empty] * ZSTD_BLOCKS_MAX, block(BATCH)))

    def test_said_size(self):
        """How much a frame unpacks to is known before it is; the most there can be if it does not say."""
        self.assertEqual(unpacked_size(WHOLE), len(BATCH))
        self.assertEqual(unpacked_size(frame(size=None, window=0)), PAYLOAD_SIZE_MAX)

    def test_old_ones_stay_readable(self):
        """What earlier versions took is no longer taken, and still read from the log."""
        for old in (WHOLE + b"\0", frame(checksum=bytes(4))[:-4], frame(block(BATCH, is_last=False))):
            self.assertRaises(InvalidRequestError, unpack_frame, old)
            self.assertEqual(bytes(decompress(old, Codec.ZSTD)), BATCH)
