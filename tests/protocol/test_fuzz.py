"""Any bytes into every decoder of the floor: typed errors only. `make fuzz` tries 100,000 of each."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import EntryError, InvalidRequestError, MalformedMessageError, ProtocolError
from loghouse.protocol import codec
from loghouse.protocol.checking import check_batch
from loghouse.protocol.configuration import decode_configuration, decode_producer, decode_trim
from loghouse.protocol.entry import decode_entries, frame_seed
from loghouse.protocol.framing import Frame, FrameBuffer, pack_header
from loghouse.protocol.log_state import LogState, decode_log_state, encode_log_state
from tests.fuzzing import EXAMPLES
from tests.vectors.messages import CLUSTER, ENTRY, ENVELOPES, GROUP

SEED = frame_seed(CLUSTER, GROUP)
fuzz = settings(deadline=None, derandomize=True, max_examples=EXAMPLES)


@st.composite
def damaged(draw, whole):
    """Return `whole` with a few bytes changed, cut out or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 2)):
            case 0:
                data[at : at + 1] = draw(st.binary(max_size=1))
            case 1:
                del data[at : at + draw(st.integers(1, 8))]
            case _:
                data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


class FuzzTests(SynchronousTestCase):
    """Each decoder gives a value or an error of its own."""

    @fuzz
    @given(st.lists(st.binary(max_size=40), max_size=6))
    def test_frame_buffer(self, reads):
        """Any reads give frames within their caps, or a ProtocolError; little is held."""
        buffer = FrameBuffer(lambda kind: 32)
        with contextlib.suppress(ProtocolError):
            for data in reads:
                for frame in buffer.feed(data):
                    self.assertLessEqual(len(frame.body), 32)
                self.assertLessEqual(buffer.pending_size, 16 + 32)

    @fuzz
    @given(st.sampled_from(sorted(codec.RAFT_KINDS)), st.binary(max_size=200))
    def test_raft_messages(self, kind, body):
        """Random bodies of Raft's kinds."""
        with contextlib.suppress(MalformedMessageError):
            codec.decode_envelope(Frame(kind, 0, GROUP, 0, body), SEED)

    @fuzz
    @given(
        st.sampled_from([envelope for _, envelope in ENVELOPES]).flatmap(
            lambda e: damaged(b"".join(codec.encode_envelope(e)))
        )
    )
    def test_damaged_raft_messages(self, data):
        """Real Raft frames with a few bytes changed."""
        with contextlib.suppress(ProtocolError):
            for frame in FrameBuffer(codec.body_size_max).feed(data):
                if frame.kind in codec.RAFT_KINDS:
                    codec.decode_envelope(frame, SEED)
                else:
                    codec.decode(frame)

    @fuzz
    @given(st.binary(max_size=200))
    def test_entries(self, data):
        """Random bytes where entry frames belong."""
        with contextlib.suppress(EntryError):
            list(decode_entries(SEED, data))

    @fuzz
    @given(damaged(ENTRY.frame * 2))
    def test_damaged_entries(self, data):
        """Entry frames with a few bytes changed never decode to something that was not written."""
        with contextlib.suppress(EntryError):
            for entry in decode_entries(SEED, data):
                self.assertEqual(entry.frame, ENTRY.frame)

    @fuzz
    @given(st.binary(max_size=120))
    def test_payloads(self, data):
        """Random payloads of the entries that are not records."""
        for decode in (decode_configuration, decode_trim, decode_producer):
            with contextlib.suppress(MalformedMessageError):
                decode(data)

    @fuzz
    @given(st.binary(max_size=200) | damaged(encode_log_state(LogState(index=3, term=1))))
    def test_log_state(self, data):
        """Random and damaged states."""
        with contextlib.suppress(MalformedMessageError):
            decode_log_state(data)

    @fuzz
    @given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 2**32 - 1))
    def test_batches(self, payload, codec_number, count):
        """Random batches of a producer."""
        with contextlib.suppress(InvalidRequestError):
            check_batch(payload, record_count=count, codec=codec_number)

    def test_frames_of_length_zero(self):
        """A flood of empty frames is a flood of frames, and nothing is kept."""
        buffer = FrameBuffer(lambda kind: 0)
        self.assertEqual(sum(1 for _ in buffer.feed(pack_header(0, 1) * 10_000)), 10_000)
        self.assertEqual(buffer.pending_size, 0)
