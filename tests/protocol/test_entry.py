"""The entry frame: two declarations that agree, and nothing wrong that decodes."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import EntryDamagedError, EntryError, EntryTruncatedError
from loghouse.limits import ENTRY_SIZE_MAX
from loghouse.protocol.entry import (
    HEADER,
    WIRE,
    EntryKind,
    checked_entries,
    crc32c,
    decode_entries,
    decode_entry,
    frame_seed,
    make_entry,
)

SEED = frame_seed(bytes(range(16)), 1)
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
FIELDS = st.fixed_dictionaries(
    {
        "index": st.integers(1, 2**64 - 1),
        "term": st.integers(1, 2**64 - 1),
        "base_offset": U64,
        "timestamp": U64,
        "producer_id": U64,
        "producer_sequence": U32,
        "payload": st.binary(max_size=200),
        "attributes": st.integers(0, 7),
        "record_count": st.integers(1, 2**32 - 1),
    }
)


def entry(**fields):
    options = {"index": 7, "term": 2, "kind": EntryKind.RECORDS, "base_offset": 5, "timestamp": 9}
    return make_entry(SEED, **{**options, "record_count": 3, "payload": b"payload", **fields})


class EntryTests(SynchronousTestCase):
    """Making and decoding frames."""

    def test_struct_twin(self):
        """The struct and the construct declaration make the same bytes and read the same fields."""

        @settings(deadline=None, derandomize=True, max_examples=150)
        @given(FIELDS)
        def check(fields):
            made = make_entry(SEED, kind=EntryKind.RECORDS, **fields)
            parsed = WIRE.parse(made.frame)
            names = [f.name for f in WIRE.subcons]
            self.assertEqual(
                [parsed[name] for name in names[:-1]], list(HEADER.unpack(made.head)), "construct reads"
            )
            self.assertEqual(parsed.payload, fields["payload"])
            for name, value in fields.items():
                self.assertEqual(parsed[name], value, name)
            self.assertEqual(WIRE.build(parsed), made.frame)

        check()

    def test_checksum(self):
        """`crc32c` gives the values of RFC 3720, B.4, of any buffer, whole or continued."""
        vectors = (
            (bytes(32), 0x8A9136AA),
            (b"\xff" * 32, 0x62A8AB43),
            (bytes(range(32)), 0x46DD794E),
            (bytes(range(31, -1, -1)), 0x113FDB5C),
        )
        for data, value in vectors:
            self.assertEqual(crc32c(data), value)
            for buffer in (bytearray(data), memoryview(b"x" + data)[1:], memoryview(bytearray(data))):
                self.assertEqual(crc32c(buffer), value)
            for cut in range(len(data) + 1):
                self.assertEqual(crc32c(data[cut:], crc32c(data[:cut])), value)

    def test_round_trip(self):
        """What was made decodes to the same entry, at any position of any buffer."""

        @settings(deadline=None, derandomize=True, max_examples=100)
        @given(FIELDS, st.binary(max_size=20), st.binary(max_size=20))
        def check(fields, before, behind):
            made = make_entry(SEED, kind=EntryKind.RECORDS, **fields)
            found = decode_entry(SEED, before + made.frame + behind, len(before))
            self.assertEqual(found.frame, made.frame)
            for name in ("index", "term", "kind", "attributes", "record_count", "base_offset", "timestamp"):
                self.assertEqual(getattr(found, name), getattr(made, name))
            self.assertEqual((found.size, found.next_offset), (made.size, made.next_offset))
            self.assertEqual(
                (found.producer_id, found.producer_sequence, found.payload_crc),
                (made.producer_id, made.producer_sequence, crc32c(fields["payload"])),
            )

        check()

    def test_every_truncation(self):
        """A frame cut at any byte says how many bytes it needs."""
        frame = entry().frame
        for size in range(len(frame)):
            with self.assertRaises(EntryTruncatedError) as caught:
                decode_entry(SEED, frame[:size])
            self.assertEqual(caught.exception.needed, 64 if size < 64 else len(frame), size)

    def test_every_bit(self):
        """A frame with any bit flipped does not decode."""
        frame = entry().frame
        for bit in range(len(frame) * 8):
            wrong = bytearray(frame)
            wrong[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(EntryError):
                decode_entry(SEED, bytes(wrong))

    def test_other_log(self):
        """A frame of another cluster or group is never valid here."""
        for seed in (frame_seed(bytes(16), 1), frame_seed(bytes(range(16)), 2)):
            with self.assertRaises(EntryDamagedError):
                decode_entry(seed, entry().frame)

    def test_zeroes_are_no_frame(self):
        """A zeroed tail is never a frame, whatever the log."""
        with self.assertRaises(EntryDamagedError):
            decode_entry(SEED, bytes(100))

    def test_fields_that_no_writer_makes(self):
        """Fields that are wrong although the checksum is right are refused, each by name."""
        rows = [
            ("kind", {"kind": 99}),
            ("kind", {"kind": 0}),
            ("reserved", {"attributes": 8}),
            ("record count", {"record_count": 0}),
            ("record count", {"kind": EntryKind.NOOP}),
            ("index 0", {"index": 0}),
            ("term 0", {"term": 0}),
        ]
        for word, fields in rows:
            with self.assertRaises(EntryDamagedError) as caught:
                decode_entry(SEED, entry(**fields).frame)
            self.assertIn(word, str(caught.exception))

    def test_lengths(self):
        """A length below a header or above the limit is refused before anything is read behind it."""
        for length in (0, 63, ENTRY_SIZE_MAX + 1, 2**32 - 1):
            head = bytearray(entry().head)
            struct.pack_into(">I", head, 4, length)
            head[:4] = crc32c(bytes(head[4:]), SEED).to_bytes(4, "big")
            with self.assertRaises(EntryDamagedError):
                decode_entry(SEED, bytes(head) + bytes(100))

    def test_payload_crc_of_its_maker(self):
        """A payload that does not fit the CRC its maker sent is damaged when it arrives."""
        with self.assertRaises(EntryDamagedError):
            decode_entry(SEED, entry(payload_crc=1).frame)

    def test_many(self):
        """Frames one after the other decode in order; a broken last one is an error after the others."""
        made = [entry(index=index) for index in (1, 2, 3)]
        joined = b"".join(e.frame for e in made)
        self.assertEqual([e.frame for e in decode_entries(SEED, joined)], [e.frame for e in made])
        for form in (joined, memoryview(joined)):
            self.assertEqual(list(checked_entries(form)), list(decode_entries(SEED, joined)))
        found = decode_entries(SEED, joined[:-1])
        self.assertEqual([next(found).index, next(found).index], [1, 2])
        with self.assertRaises(EntryTruncatedError):
            next(found)
