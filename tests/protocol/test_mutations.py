"""Fast mutation fuzzing: every vector, damaged in many ways, into its decoder gives typed errors only.

Hypothesis (`test_fuzz.py`) finds structure; this finds volume: `FUZZ_MUTATIONS` inputs for each decoder.
"""

import contextlib
import json
import os
import random
import ssl
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import EntryError, LoghouseError, MalformedMessageError, ProtocolError
from loghouse.net.client_hello import ClientHelloReader
from loghouse.protocol import codec
from loghouse.protocol.address_book import AddressBook, Contact, decode_address_book, encode_address_book
from loghouse.protocol.configuration import decode_configuration, decode_producer, decode_trim
from loghouse.protocol.entry import decode_entries, frame_seed
from loghouse.protocol.framing import Frame, FrameBuffer
from loghouse.protocol.log_state import LogState, decode_log_state, encode_log_state
from tests.vectors.messages import CLUSTER, ENTRY, GROUP

MUTATIONS = int(os.environ.get("FUZZ_MUTATIONS", "2000"))
SEED = frame_seed(CLUSTER, GROUP)
VECTORS = Path(__file__).resolve().parent.parent / "vectors"
HEADER_SIZE = 16


def frames_of(name: str) -> list[bytes]:
    """Every whole frame of a vector file."""
    return [
        bytes.fromhex(vector["hex"].replace(" ", "")) for vector in json.loads((VECTORS / name).read_text())
    ]


def by_kind(frames: list[bytes]) -> dict[int, list[bytes]]:
    """The bodies of the frames, by their kind."""
    bodies: dict[int, list[bytes]] = {}
    for frame in frames:
        bodies.setdefault(int.from_bytes(frame[4:6], "big"), []).append(frame[HEADER_SIZE:])
    return bodies


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Damage `data`: flip bits, overwrite, cut, repeat, insert, or splice with another."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(7):
            case 0 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 1:
                out[at : at + 4] = rng.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1")
                )
            case 2:
                del out[at:]
            case 3:
                del out[at : at + rng.randrange(1, 9)]
            case 4:
                out[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 5:
                out[at:at] = out[at : at + rng.randrange(1, 33)]
            case _:
                other = rng.choice(others)
                out[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(out[:4096])


def client_hello() -> bytes:
    """The first flight of a real TLS client."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "loghouse/1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname="node-1")
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


class MutationTests(SynchronousTestCase):
    """Whatever a stranger sends, a decoder gives a value or a typed error."""

    def bombard(
        self, seeds: list[bytes], decode: Callable[[bytes], object], *errors: type[LoghouseError]
    ) -> int:
        """Feed mutations of the seeds; return how many were refused."""
        rng = random.Random(f"{self.id()}")
        refused = 0
        for number in range(MUTATIONS):
            data = mutate(rng, seeds[number % len(seeds)], seeds)
            try:
                decode(data)
            except errors:
                refused += 1
            except Exception as error:
                self.fail(f"{type(error).__name__}: {error} from {data.hex()}")
        return refused

    def test_messages(self):
        """Bodies of every kind but Raft's."""
        frames = frames_of("wire.json")
        others = [frame[HEADER_SIZE:] for frame in frames[:6]]
        for kind, bodies in by_kind(frames).items():

            def decode(body: bytes, kind: int = kind) -> None:
                message = codec.decode(Frame(kind, 0, 0, 0, body))
                if message is not None:
                    codec.encode(message)

            self.bombard([*bodies, *others], decode, MalformedMessageError)

    def test_raft_messages(self):
        """Bodies of Raft's kinds."""
        frames = frames_of("wire_raft.json")
        others = [frame[HEADER_SIZE:] for frame in frames]
        for kind, bodies in by_kind(frames).items():

            def decode(body: bytes, kind: int = kind) -> None:
                codec.decode_envelope(Frame(kind, 0, GROUP, 0, body), SEED)

            self.assertGreater(self.bombard([*bodies, *others], decode, MalformedMessageError), 0)

    def test_frame_buffer(self):
        """Streams of frames, damaged and cut anywhere; what is kept stays within one frame."""
        seeds = [b"".join(frames_of("wire.json")[at : at + 4]) for at in range(8)]
        rng = random.Random(7)

        def decode(data: bytes) -> None:
            buffer = FrameBuffer(codec.body_size_max)
            middle = rng.randrange(len(data) + 1)
            for piece in (data[:middle], data[middle:]):
                for frame in buffer.feed(piece):
                    if frame.kind in codec.RAFT_KINDS:
                        codec.decode_envelope(frame, SEED)
                    else:
                        codec.decode(frame)

        self.assertGreater(self.bombard(seeds, decode, ProtocolError), 0)

    def test_entries(self):
        """Entry frames: what decodes is what was written."""

        def decode(data: bytes) -> None:
            for entry in decode_entries(SEED, data):
                self.assertEqual(entry.frame, ENTRY.frame)

        self.assertGreater(self.bombard([ENTRY.frame, ENTRY.frame * 2], decode, EntryError), 0)

    def test_payloads_and_states(self):
        """Payloads of entries that are not records, states, address books."""
        book = AddressBook(
            incarnation=3, contacts=(Contact(name="a", disk_uuid=bytes(16), incarnation=1, address="h:1"),)
        )
        states = [
            encode_log_state(LogState(index=3, term=1)),
            encode_address_book(book),
            bytes(ENTRY.payload),
        ]
        for decode in (
            decode_configuration,
            decode_trim,
            decode_producer,
            decode_log_state,
            decode_address_book,
        ):
            self.assertGreater(self.bombard(states, decode, MalformedMessageError), 0, decode.__name__)

    def test_client_hello(self):
        """A real ClientHello, damaged: found, still incomplete, or refused."""
        self.bombard([client_hello()], lambda data: ClientHelloReader().feed(data), ProtocolError)
