"""The published vectors are what the code makes, and the code reads them back."""

import json

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import ProtocolError
from loghouse.protocol import codec
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.framing import FrameBuffer
from tests.vectors.generate import DIRECTORY, FILES, plain, raft_fields, text_of
from tests.vectors.messages import CLUSTER, GROUP


class DriftTests(SynchronousTestCase):
    """The files under tests/vectors are up to date."""

    def test_files(self):
        """Regenerating changes nothing; after a wanted change run `python -m tests.vectors.generate`."""
        for name, make in FILES.items():
            self.assertEqual((DIRECTORY / name).read_text(), text_of(make), name)

    def test_no_strangers(self):
        """Every JSON file there is generated."""
        self.assertEqual({path.name for path in DIRECTORY.glob("*.json")}, set(FILES))


class WireVectorTests(SynchronousTestCase):
    """The codec agrees with the published bytes."""

    def test_read(self):
        """Every vector decodes to the fields it names."""
        for vector in json.loads((DIRECTORY / "wire.json").read_text()):
            [frame] = FrameBuffer(codec.body_size_max).feed(bytes.fromhex(vector["hex"]))
            self.assertEqual(plain(codec.decode(frame)), vector["fields"], vector["name"])

    def test_read_raft(self):
        """Every Raft vector decodes to the fields it names."""
        for vector in json.loads((DIRECTORY / "wire_raft.json").read_text()):
            [frame] = FrameBuffer(codec.body_size_max).feed(bytes.fromhex(vector["hex"]))
            envelope = codec.decode_envelope(frame, frame_seed(CLUSTER, GROUP))
            self.assertEqual(raft_fields(envelope), vector["fields"], vector["name"])

    def test_refused(self):
        """Every frame that must be refused is, with the code it names."""
        for vector in json.loads((DIRECTORY / "wire_refused.json").read_text()):
            with self.assertRaises(ProtocolError, msg=vector["name"]) as caught:
                for frame in FrameBuffer(codec.body_size_max).feed(bytes.fromhex(vector["hex"])):
                    codec.decode(frame)
            self.assertEqual(caught.exception.code, vector["code"], vector["name"])
