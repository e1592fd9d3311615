"""Raft's messages: what is encoded is decoded, and nothing else is."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import MalformedMessageError
from loghouse.protocol.entry import EntryKind, frame_seed, make_entry
from loghouse.protocol.raft_messages import (
    ADDRESS,
    BY_KIND,
    MESSAGES,
    AppendEntries,
    AppendEntriesReply,
    Envelope,
    HeartbeatReply,
    InstallSnapshot,
    RequestVote,
    TimeoutNow,
    envelope_from_wire,
    envelope_to_wire,
    from_wire,
)
from tests.vectors.messages import RAFT_MESSAGES

SEED = frame_seed(bytes(16), 1)
U64 = st.integers(0, (1 << 64) - 1)


def entries(prev, count, term=2):
    return tuple(
        make_entry(
            SEED,
            index=prev + number + 1,
            term=term,
            kind=EntryKind.RECORDS,
            base_offset=number,
            timestamp=5,
            payload=b"p" * number,
            record_count=1,
        )
        for number in range(count)
    )


def append(found):
    return AppendEntries(term=2, prev_log_index=7, prev_log_term=2, commit_index=6, entries=found)


def samples():
    """A message of every kind; the append has three entries of its own."""
    others = [message for _, message in RAFT_MESSAGES if not isinstance(message, AppendEntries)]
    return [append(entries(7, 3)), *others]


class RaftMessageTests(SynchronousTestCase):
    """Messages to bytes and back."""

    def test_round_trip(self):
        """Every message comes back as it was, with its addresses."""
        self.assertEqual({type(message) for message in samples()}, set(MESSAGES))
        for message in samples():
            envelope = Envelope(4, 1, 2, message)
            kind, group, pieces = envelope_to_wire(envelope)
            self.assertEqual((kind >> 8, group), (1, 4))
            self.assertEqual(envelope_from_wire(kind, group, b"".join(pieces), SEED), envelope)

    def test_entries_are_passed_on_untouched(self):
        """An append's pieces are the very bytes of the entries; nothing is copied."""
        message = append(entries(7, 3))
        pieces = message.encode()
        self.assertIs(pieces[1], message.entries[0].head)
        self.assertIs(pieces[3], message.entries[1].payload)
        self.assertEqual(len(pieces), 1 + 3 + 2)

    def test_addresses_are_as_declared(self):
        """The addresses before a body are what their declaration says."""
        _, _, pieces = envelope_to_wire(Envelope(1, 0x01020304, 0xFFFFFFFF, TimeoutNow(term=1)))
        self.assertEqual(bytes(pieces[0]), ADDRESS.build({"source": 0x01020304, "target": 0xFFFFFFFF}))

    def test_kinds_are_their_own(self):
        """No number is used twice, and all are Raft's."""
        self.assertEqual(sorted(BY_KIND), [*range(0x0101, 0x010B), 0x0180])

    def test_wrong_sizes(self):
        """Short and long bodies are malformed, at every length."""
        for message in samples():
            kind, pieces = message.KIND, message.encode()
            body = b"".join(pieces)
            for size in range(len(body)):
                if isinstance(message, InstallSnapshot) and size >= 8:
                    continue  # its state is checked by who takes it
                boundaries = [32, 32 + 64, 32 + 64 + 65]
                if isinstance(message, AppendEntries) and size in boundaries:
                    continue  # fewer entries
                with self.assertRaises(MalformedMessageError):
                    from_wire(kind, body[:size], SEED)
            if not isinstance(message, InstallSnapshot):
                with self.assertRaises(MalformedMessageError):
                    from_wire(kind, body + b"x", SEED)

    def test_damaged_entries(self):
        """Any flipped bit in an entry is found; so is an entry of another log."""
        message = append(entries(7, 2))
        kind, pieces = message.KIND, message.encode()
        body = b"".join(pieces)
        for position in range(32, len(body)):
            damaged = bytearray(body)
            damaged[position] ^= 0x10
            with self.assertRaises(MalformedMessageError):
                from_wire(kind, bytes(damaged), SEED)
        with self.assertRaises(MalformedMessageError):
            from_wire(kind, body, SEED + 1)

    def test_entries_that_do_not_follow(self):
        """Entries with a gap, a falling term or a term of the future are malformed."""
        for found in (entries(8, 1), entries(7, 1, term=3), entries(7, 1, term=1)):
            message = append(found)
            kind, pieces = message.KIND, message.encode()
            with self.assertRaises(MalformedMessageError):
                from_wire(kind, b"".join(pieces), SEED)

    def test_unknown_kinds_and_no_addresses(self):
        """A kind that is not Raft's, and a body without addresses, are malformed."""
        with self.assertRaises(MalformedMessageError):
            from_wire(0x0199, b"", SEED)
        with self.assertRaises(MalformedMessageError):
            envelope_from_wire(0x0108, 1, b"1234567", SEED)

    @settings(deadline=None, derandomize=True, max_examples=300)
    @given(st.sampled_from(sorted(BY_KIND)), st.binary(max_size=120))
    def test_random_bodies(self, kind, body):
        """Random bytes are a message or malformed, never anything else; and one encoding is the only one."""
        try:
            message = from_wire(kind, body, SEED)
        except MalformedMessageError:
            return
        again = b"".join(message.encode())
        self.assertEqual(len(again), len(body))

    @settings(deadline=None, derandomize=True, max_examples=100)
    @given(U64, U64, U64, st.booleans())
    def test_all_numbers(self, term, index, other, flag):
        """Every u64 has its place."""
        for message in (
            RequestVote(term=term, last_log_index=index, last_log_term=other, pre_vote=flag),
            AppendEntriesReply(term=term, success=flag, index=index, hint_index=other, hint_term=term),
            HeartbeatReply(term=term, read_round=index, last_index=other, timestamp=term),
        ):
            kind, pieces = message.KIND, message.encode()
            self.assertEqual(from_wire(kind, b"".join(pieces), SEED), message)
