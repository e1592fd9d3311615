"""Tests of loghouse.protocol.framing."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import FrameTooLargeError, ProtocolError
from loghouse.protocol.framing import HEADER, ROOM_SIZE, WIRE, FrameBuffer, pack_header
from tests.processes import thorough

SIZE_MAX = 16


def frame(kind, body, **fields):
    return pack_header(len(body), kind, **fields) + body


def frames_of(reads, size_max=lambda kind: SIZE_MAX):
    buffer = FrameBuffer(size_max)
    return [(found.kind, found.body) for data in reads for found in buffer.feed(data)]


class HeaderTests(SynchronousTestCase):
    """The header's two declarations are one."""

    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**16 - 1),
        st.integers(0, 2**16 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
    )
    def test_twins_agree(self, length, kind, flags, group, stream):
        """The struct twin builds and reads exactly what the construct declaration does."""
        packed = pack_header(length, kind, flags=flags, group=group, stream=stream)
        declared = {"length": length, "kind": kind, "flags": flags, "group": group, "stream": stream}
        self.assertEqual(WIRE.build(declared), packed)
        parsed = WIRE.parse(packed)
        self.assertEqual({name: parsed[name] for name in declared}, declared)
        self.assertEqual(HEADER.unpack(packed), (length, kind, flags, group, stream))


class NotTakenTests(SynchronousTestCase):
    """Frames whose body nobody wants."""

    def test_body_is_not_kept(self):
        """A body that is refused at its header is skipped, however it comes, and the next frame comes out."""
        wire = frame(1, b"first") + frame(2, b"x" * 16, stream=7) + frame(3, b"last")
        for cut in range(len(wire)):
            buffer, asked = FrameBuffer(lambda kind: SIZE_MAX), []

            def takes(kind, length, group, stream, asked=asked):
                asked.append((kind, length, stream))
                return kind != 2

            buffer.ask(takes)
            found = [one.kind for data in (wire[:cut], wire[cut:]) for one in buffer.feed(data)]
            is_incomplete = 21 + 16 <= cut < 21 + 32
            self.assertEqual(found, [1, 3] if is_incomplete else [1, 2, 3], cut)
            self.assertEqual((2, 16, 7) in asked, is_incomplete, cut)
            self.assertLessEqual(len(asked), 1)

    def test_asked_late(self):
        """Whoever begins to ask when a body is awaited already is asked about that one, too."""
        buffer = FrameBuffer(lambda kind: SIZE_MAX)
        self.assertEqual([one.kind for one in buffer.feed(frame(1, b"a") + frame(2, b"x" * 16)[:18])], [1])
        buffer.ask(lambda *header: False)
        self.assertEqual((len(buffer._received), buffer.pending_size), (0, 14))
        self.assertEqual([one.kind for one in buffer.feed(b"x" * 14 + frame(3, b"y"))], [3])

    def test_byte_by_byte(self):
        """What is left of a refused body counts as pending, so that its sender's time is bounded."""
        buffer = FrameBuffer(lambda kind: SIZE_MAX)
        buffer.ask(lambda *header: False)
        self.assertEqual(list(buffer.feed(frame(2, b"x" * 16)[:20])), [])
        self.assertEqual((len(buffer._received), buffer.pending_size), (0, 12))
        for left in range(12, 0, -1):
            self.assertEqual((list(buffer.feed(b"x")), buffer.pending_size), ([], left - 1))
        self.assertEqual([one.kind for one in buffer.feed(frame(3, b"y"))], [3])


class FrameBufferTests(SynchronousTestCase):
    """`FrameBuffer` finds the same frames however the stream is cut, and refuses before it buffers."""

    ROWS = [
        ("whole", [frame(1, b"ab")], [(1, b"ab")]),
        ("byte by byte", [b"%c" % b for b in frame(1, b"ab")], [(1, b"ab")]),
        ("two at once", [frame(1, b"a") + frame(2, b"")], [(1, b"a"), (2, b"")]),
        ("tail kept", [frame(1, b"a")[:3]], []),
        ("header only", [pack_header(1, 7)], []),
        ("largest allowed", [frame(3, b"x" * SIZE_MAX)], [(3, b"x" * SIZE_MAX)]),
        ("nothing", [b"", b""], []),
    ]

    def test_rows(self):
        """Every row of `ROWS` comes out as listed."""
        for name, reads, expected in self.ROWS:
            self.assertEqual(frames_of(reads), expected, name)

    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(
        st.lists(st.tuples(st.integers(0, 2**16 - 1), st.binary(max_size=SIZE_MAX)), max_size=8),
        st.lists(st.integers(1, 40), max_size=20),
    )
    def test_any_cut(self, expected, cuts):
        """Frames written together come out the same, whatever the reads are."""
        stream = b"".join(frame(kind, body) for kind, body in expected)
        reads = []
        for size in cuts:
            reads.append(stream[:size])
            stream = stream[size:]
        self.assertEqual(frames_of([*reads, stream]), expected)

    @thorough
    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(
        st.lists(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 4 * ROOM_SIZE)), max_size=6),
        st.lists(st.integers(1, 2 * ROOM_SIZE), min_size=1, max_size=20),
    )
    def test_received_in_place(self, sizes, cuts):
        """What is received into the buffer's own room makes the same frames, small and large, however cut."""
        expected = [(kind, random.Random(size).randbytes(size)) for kind, size in sizes]
        stream = b"".join(frame(kind, body) for kind, body in expected)
        buffer = FrameBuffer(lambda kind: 4 * ROOM_SIZE)
        found, cut = [], 0
        while stream:
            room = buffer.room()
            size = min(len(room), len(stream), cuts[cut % len(cuts)])
            cut += 1
            room[:size], stream = stream[:size], stream[size:]
            found += [(one.kind, bytes(one.body)) for one in buffer.fill(size)]
        self.assertEqual(found, expected)
        self.assertEqual(buffer.pending_size, 0)

    def test_large_frame_is_not_copied(self):
        """The rest of a large frame is received where it stays; nobody can change it there afterwards."""
        buffer = FrameBuffer(lambda kind: 4 * ROOM_SIZE)
        start = pack_header(3 * ROOM_SIZE, 1) + b"x" * 100
        buffer.room()[: len(start)] = start
        self.assertEqual(list(buffer.fill(len(start))), [])
        room = buffer.room()
        self.assertEqual(len(room), 3 * ROOM_SIZE - 100)
        self.assertEqual((buffer.pending_size, buffer.awaited_size), (116, 16 + 3 * ROOM_SIZE))
        room[:] = b"y" * len(room)
        (found,) = buffer.fill(len(room))
        self.assertEqual(bytes(found.body[98:102]), b"xxyy")
        self.assertTrue(found.body.readonly)
        self.assertIs(found.body.obj, room.obj)
        self.assertNotEqual(buffer.room().obj, room.obj)

    def test_no_room_for_what_is_too_large(self):
        """A length above the cap is refused by its header, however it is received."""
        buffer = FrameBuffer(lambda kind: SIZE_MAX)
        header = pack_header(2**32 - 1, 1)
        buffer.room()[: len(header)] = header
        self.assertRaises(FrameTooLargeError, list, buffer.fill(len(header)))
        self.assertEqual(len(buffer.room()), ROOM_SIZE)

    def test_refuses_by_the_header(self):
        """Lengths above the cap are refused when the header is there, before a byte of the body."""
        for length in (SIZE_MAX + 1, 2**31 - 1, 2**31, 2**32 - 1):
            buffer = FrameBuffer(lambda kind: SIZE_MAX)
            self.assertEqual(list(buffer.feed(pack_header(length, 1)[:-1])), [])
            error = self.assertRaises(FrameTooLargeError, lambda b=buffer: list(b.feed(b"\0")))
            self.assertEqual((error.size, error.size_max), (length, SIZE_MAX))
            self.assertEqual(buffer.pending_size, 16)

    def test_caps_are_per_kind(self):
        """Each kind has its own cap."""
        caps = {1: 2, 2: 4}
        self.assertEqual(frames_of([frame(1, b"12") + frame(2, b"1234")], caps.__getitem__)[1], (2, b"1234"))
        self.assertRaises(FrameTooLargeError, frames_of, [frame(1, b"123")], caps.__getitem__)

    def test_cap_may_change_between_frames(self):
        """A frame that follows another in the same read is judged by what the first one changed."""
        buffer = FrameBuffer(lambda kind: 1)
        found = []
        for item in buffer.feed(frame(1, b"a") + frame(2, b"long")):
            found.append(item.body)
            buffer.size_max = lambda kind: 4
        self.assertEqual(found, [b"a", b"long"])

    def test_flags(self):
        """An unknown critical flag closes the link; the others are ignored."""
        self.assertEqual(frames_of([frame(1, b"", flags=0xFF00)]), [(1, b"")])
        for bit in range(8):
            self.assertRaises(ProtocolError, frames_of, [frame(1, b"", flags=1 << bit)])

    def test_holds_only_the_incomplete_frame(self):
        """What came out is no longer held."""
        buffer = FrameBuffer(lambda kind: SIZE_MAX)
        list(buffer.feed(frame(1, b"abc") * 3 + frame(1, b"abcd")[:-1]))
        self.assertEqual(buffer.pending_size, 19)
