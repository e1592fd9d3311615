"""Entry frames, what follows what, and the state after them: values at their bounds, damage in words."""

import struct
from collections import deque

from twisted.trial.unittest import SynchronousTestCase

from loghouse import limits
from loghouse.errors import (
    EntryDamagedError,
    EntryTruncatedError,
    MalformedMessageError,
    SequenceError,
)
from loghouse.protocol.configuration import Configuration, MemberRole, encode_configuration, encode_trim
from loghouse.protocol.entry import (
    WIRE,
    EntryKind,
    crc32c,
    decode_entry,
    frame_seed,
    make_entry,
    with_crc,
    without_crc,
)
from loghouse.protocol.log_state import (
    LogState,
    ProducedBatch,
    ProducerState,
    check_follows,
    decode_log_state,
    encode_log_state,
)

SEED = frame_seed(bytes(16), 1)
MOST = limits.PAYLOAD_SIZE_MAX


def entry(index=1, term=1, **fields):
    options = {"kind": EntryKind.NOOP, "base_offset": 0, "timestamp": 0, **fields}
    return make_entry(SEED, index=index, term=term, **options)


class EntryTests(SynchronousTestCase):
    """Entry frames and what follows what."""

    def with_head(self, length, **fields):
        """A frame whose header says this length, with the right checksum over it."""
        head = bytearray(entry(**fields).head)
        struct.pack_into(">I", head, 4, length)
        head[:4] = crc32c(bytes(head[4:]), SEED).to_bytes(4, "big")
        return bytes(head)

    def test_lengths(self):
        """A length from a header to the largest entry is waited for, any other is damage."""
        most = limits.ENTRY_SIZE_MAX
        self.assertEqual(decode_entry(SEED, self.with_head(64)).size, 64)
        error = self.assertRaises(EntryTruncatedError, decode_entry, SEED, self.with_head(most))
        self.assertEqual(error.needed, most)
        for length in (63, most + 1):
            error = self.assertRaises(EntryDamagedError, decode_entry, SEED, self.with_head(length))
            self.assertEqual(str(error), f"entry length {length}, expected 64 to {most}")
        error = self.assertRaises(EntryTruncatedError, decode_entry, SEED, self.with_head(64)[:63])
        self.assertEqual(error.needed, 64)

    def test_damage_in_words(self):
        """What is wrong is said: version, header, payload, fields."""
        good = entry(payload=b"abc").frame
        version = good[:8] + b"\x02" + good[9:]
        for frame, text in [
            (version, "entry version 2, expected 1"),
            (good[:20] + b"\x01" + good[21:], "header checksum does not match (damaged, or of another log)"),
            (good[:-1] + b"x", "payload checksum of entry 1 does not match"),
            (entry(kind=8).frame, "entry kind 8 is not known to this version"),
            (entry(kind=0).frame, "entry kind 0 is not known to this version"),
            (entry(attributes=8).frame, "reserved attribute bits set: 0x0008"),
            (entry(record_count=1).frame, "record count 1 in an entry of kind 2"),
            (entry(kind=EntryKind.RECORDS).frame, "record count 0 in an entry of kind 1"),
            (entry(index=0).frame, "index 0 and term 1 start at 1"),
            (entry(term=0).frame, "index 1 and term 0 start at 1"),
        ]:
            error = self.assertRaises(EntryDamagedError, decode_entry, SEED, frame)
            self.assertEqual(str(error), text)
        for kind in EntryKind:
            decode_entry(SEED, entry(kind=kind, attributes=7, record_count=int(kind == 1)).frame)

    def test_layout(self):
        """The declared layout is that of the bytes, field by field."""
        made = entry(
            2,
            3,
            kind=1,
            attributes=1,
            record_count=4,
            base_offset=5,
            timestamp=6,
            producer_id=7,
            producer_sequence=8,
            payload=b"ab",
        )
        packed = struct.pack(">IBBHIQQQQQII", 66, 1, 1, 1, 4, 2, 3, 5, 6, 7, 8, crc32c(b"ab"))
        self.assertEqual(made.frame, crc32c(packed, SEED).to_bytes(4, "big") + packed + b"ab")
        names = "header_crc length version kind attributes record_count index term base_offset timestamp"
        parsed = WIRE.parse(made.frame)
        found = [
            parsed[name]
            for name in (*names.split(), "producer_id", "producer_sequence", "payload_crc", "payload")
        ]
        self.assertEqual(
            found, [crc32c(packed, SEED), 66, 1, 1, 1, 4, 2, 3, 5, 6, 7, 8, crc32c(b"ab"), b"ab"]
        )
        self.assertEqual(WIRE.build(parsed), made.frame)

    def test_seed(self):
        """The seed of a log is the checksum of its cluster and its group."""
        cluster = bytes(range(16))
        self.assertEqual(frame_seed(cluster, 0x01020304), crc32c(cluster + b"\1\2\3\4"))

    def test_small_files(self):
        """Four bytes of checksum stand behind a small file's fields, continued from a seed."""
        for seed in (0, 7):
            content = with_crc(b"fields", seed)
            self.assertEqual(content, b"fields" + crc32c(b"fields", seed).to_bytes(4, "big"))
            self.assertEqual(without_crc(content, seed), b"fields")
            self.assertIsNone(without_crc(content, seed + 1))
            self.assertIsNone(without_crc(content[:-1], seed))
        self.assertEqual(with_crc(b"x"), with_crc(b"x", 0))
        self.assertEqual(without_crc(with_crc(b"x")), b"x")

    def test_follows(self):
        """An entry follows when its index, term, offset and time join; else it says which does not."""
        state = LogState(index=5, term=3, next_offset=9, timestamp=100)
        before = entry(5, 3, kind=EntryKind.RECORDS, base_offset=7, record_count=2, timestamp=100)
        for fields, text in [
            ({}, None),
            ({"term": 4, "timestamp": 101}, None),
            ({"index": 7}, "entry 7 where 6 belongs"),
            ({"index": 5}, "entry 5 where 6 belongs"),
            ({"term": 2}, "entry 6 has term 2, below 3"),
            ({"base_offset": 8}, "entry 6 has base offset 8, expected 9"),
            ({"base_offset": 10}, "entry 6 has base offset 10, expected 9"),
            ({"timestamp": 99}, "entry 6 goes back in time"),
        ]:
            one = entry(**{"index": 6, "term": 3, "base_offset": 9, "timestamp": 100, **fields})
            for known in (state, before):
                if text is None:
                    check_follows(known, one)
                else:
                    error = self.assertRaises(EntryDamagedError, check_follows, known, one)
                    self.assertEqual(str(error), text)

    def test_applied(self):
        """Each kind of entry changes its part of the state, and index, term, time and offset always move."""
        state = LogState()
        configuration = Configuration().with_member("a", bytes(16), MemberRole.VOTER)
        for one, changed in [
            (entry(1, 1, kind=3, payload=encode_configuration(configuration)), ("configuration_index", 1)),
            (entry(2, 1, kind=1, record_count=5, timestamp=7), ("next_offset", 5)),
            (entry(3, 2, kind=4, base_offset=5, payload=encode_trim(4), timestamp=8), ("lowest_offset", 4)),
            (entry(4, 2, kind=4, base_offset=5, payload=encode_trim(2), timestamp=8), ("lowest_offset", 4)),
            (entry(5, 2, kind=2, base_offset=5, timestamp=9), ("next_offset", 5)),
        ]:
            state.apply(one)
            self.assertEqual(getattr(state, changed[0]), changed[1])
            found = (state.index, state.term, state.timestamp, state.next_offset)
            self.assertEqual(found, (one.index, one.term, one.timestamp, one.next_offset))
        self.assertEqual((state.configuration, state.configuration_index), (configuration, 1))
        self.assertEqual(decode_log_state(encode_log_state(state)), state)
        state.apply(entry(6, 2, kind=1, base_offset=5, record_count=1))
        error = self.assertRaises(
            EntryDamagedError, state.apply, entry(7, 2, kind=1, base_offset=6, record_count=1, producer_id=9)
        )
        self.assertEqual(str(error), "entry 7 is of unknown producer 9")

    def test_layout_of_a_state(self):
        """The bytes of a state are those of docs/disk_format.md, a producer with its batches at the end."""
        producer = ProducerState("me", deque([ProducedBatch(7, 8, 9, 10)]))
        state = LogState(index=1, term=2, timestamp=3, next_offset=4, lowest_offset=5, configuration_index=6)
        state.producers[11] = producer
        configuration = encode_configuration(Configuration())
        expected = struct.pack(">QQQQQQI", 1, 2, 3, 4, 5, 6, len(configuration)) + configuration
        expected += struct.pack(">IQB", 8 + 3 + 1 + 24, 11, 2) + b"me" + struct.pack(">BIQIQ", 1, 7, 8, 9, 10)
        self.assertEqual(encode_log_state(state), expected)
        self.assertEqual(decode_log_state(expected), state)

    def test_gap_of_a_producer(self):
        """Of a producer's batches those remembered are found; what leaves a gap is none of them."""
        state = LogState(
            producers={1: ProducerState("me", deque([ProducedBatch(3, 5, 2, 7), ProducedBatch(4, 7, 1, 8)]))}
        )
        found = [state.find_batch(1, "me", sequence) for sequence in (3, 4, 5)]
        self.assertEqual(found, [*state.producers[1].batches, None])
        for sequence in (2, 6):
            error = self.assertRaises(SequenceError, state.find_batch, 1, "me", sequence)
            self.assertEqual((error.producer_id, error.sequence, error.expected), (1, sequence, 5))

    def test_damaged_state(self):
        """A state that is none says so."""
        with self.assertRaisesRegex(MalformedMessageError, "^log state: "):
            decode_log_state(b"x")
