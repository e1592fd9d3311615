"""The published vectors are what the code makes, and the code reads them back."""

import json

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import InvalidRequestError, ProtocolError
from loghouse.protocol import codec
from loghouse.protocol.checking import check_batch
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.framing import FrameBuffer
from loghouse.protocol.greeting import Certified
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.session import Session
from tests.vectors.generate import DIRECTORY, FILES, plain, raft_fields, text_of
from tests.vectors.messages import CLUSTER, DISK_A, GROUP


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
        """Every frame that must be refused is, where the vector says, with the code that it names."""
        seed = frame_seed(CLUSTER, GROUP)
        for vector in self.refused("header", "body"):
            data = bytes.fromhex(vector["hex"])
            with self.assertRaises(ProtocolError, msg=vector["name"]) as caught:
                for frame in FrameBuffer(codec.body_size_max).feed(data[: self.stop(vector)]):
                    if frame.kind in codec.RAFT_KINDS:
                        codec.decode_envelope(frame, seed)
                    else:
                        codec.decode(frame)
            self.assertEqual(caught.exception.code, vector["code"], vector["name"])

    def test_refused_by_a_session(self):
        """Every client that breaks a rule is told which, and the connection is over."""
        hello = Hello(
            role=LinkRole.NODE, cluster_name="logs", cluster_uuid=CLUSTER, node_name="a", disk_uuid=DISK_A
        )
        for vector in self.refused("session"):
            session = Session(hello, is_dialler=False, certified=Certified(subject="root"))
            with self.assertRaises(ProtocolError, msg=vector["name"]) as caught:
                session.receive(bytes.fromhex(vector["hex"]))
            self.assertEqual(caught.exception.code, vector["code"], vector["name"])
            [*_, last] = FrameBuffer(codec.body_size_max).feed(b"".join(session.bytes_to_send()))
            self.assertEqual((codec.decode(last).code, session.is_closed), (vector["code"], True))

    def refused(self, *stages):
        vectors = json.loads((DIRECTORY / "wire_refused.json").read_text())
        found = [vector for vector in vectors if vector["stage"] in stages]
        self.assertGreater(len(found), 10)
        return found

    def stop(self, vector):
        return 16 if vector["stage"] == "header" else None

    def test_refused_batches(self):
        """Every batch that must be refused is, with the field that the vector names."""
        for vector in json.loads((DIRECTORY / "batch_refused.json").read_text()):
            with self.assertRaises(InvalidRequestError, msg=vector["name"]) as caught:
                check_batch(
                    bytes.fromhex(vector["hex"]),
                    record_count=vector["record_count"],
                    codec=vector["codec"],
                    payload_crc=vector["batch_crc"],
                )
            self.assertEqual(caught.exception.field, vector["place"], vector["name"])

    def test_every_family(self):
        """There are many refusals, some for every family of messages (the first byte of their kinds)."""
        vectors = json.loads((DIRECTORY / "wire_refused.json").read_text())
        self.assertEqual({vector["hex"][8:10] for vector in vectors}, {"00", "01", "02", "03"})
        self.assertEqual(len({vector["name"] for vector in vectors}), len(vectors))
        self.assertGreaterEqual(len(vectors), 90)
