"""The replicated state: a function of the log, and its bytes."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse import limits
from loghouse.errors import EntryDamagedError, MalformedMessageError, SequenceError, UnknownProducerError
from loghouse.protocol import log_state
from loghouse.protocol.configuration import (
    Birth,
    Configuration,
    MemberRole,
    encode_birth,
    encode_configuration,
    encode_producer,
)
from loghouse.protocol.entry import EntryKind, frame_seed, make_entry
from loghouse.protocol.log_state import (
    _WIRE,
    LogState,
    check_follows,
    decode_log_state,
    encode_log_state,
)

SEED = frame_seed(bytes(16), 1)


def make(state, kind=EntryKind.RECORDS, payload=b"", **fields):
    options = {
        "index": state.index + 1,
        "term": max(state.term, 1),
        "base_offset": state.next_offset,
        "timestamp": state.timestamp,
        "record_count": 1 if kind == EntryKind.RECORDS else 0,
    }
    return make_entry(SEED, kind=kind, payload=payload, **{**options, **fields})


def follow(state, *arguments, **fields):
    entry = make(state, *arguments, **fields)
    check_follows(state, entry)
    state.apply(entry)
    return entry


def register(state, subject):
    return follow(state, EntryKind.PRODUCER, encode_producer(subject)).index


class LogStateTests(SynchronousTestCase):
    """Folding entries."""

    def setUp(self):
        self.state = LogState()

    def test_joins(self):
        """An entry that does not join is refused, and the state stays as it was."""
        follow(self.state, term=3, timestamp=50)
        for word, fields in (
            ("where 2 belongs", {"index": 3}),
            ("where 2 belongs", {"index": 1}),
            ("below 3", {"term": 2}),
            ("base offset", {"base_offset": 2}),
            ("back in time", {"timestamp": 49}),
        ):
            with self.assertRaises(EntryDamagedError) as caught:
                check_follows(self.state, make(self.state, **fields))
            self.assertIn(word, str(caught.exception))
        self.assertEqual((self.state.index, self.state.next_offset), (1, 1))

    def test_offsets(self):
        """Only records move the next offset; a trim never moves the lowest one back."""
        follow(self.state, record_count=5)
        follow(self.state, EntryKind.NOOP)
        self.assertEqual(self.state.next_offset, 5)
        follow(self.state, EntryKind.TRIM, (4).to_bytes(8, "big"))
        follow(self.state, EntryKind.TRIM, (2).to_bytes(8, "big"))
        self.assertEqual(self.state.lowest_offset, 4)

    def test_configuration(self):
        """A configuration entry replaces the configuration and is remembered by its index."""
        configuration = Configuration().with_member("a", bytes(16), MemberRole.VOTER)
        entry = follow(self.state, EntryKind.CONFIGURATION, encode_configuration(configuration))
        self.assertEqual(self.state.configuration, configuration)
        self.assertEqual(self.state.configuration_index, entry.index)

    def test_birth(self):
        """The first birth counts, with the index and time of its entry; a later one changes nothing."""
        founders = Configuration().with_member("a", bytes(16), MemberRole.VOTER)
        follow(self.state)
        entry = follow(self.state, EntryKind.BIRTH, encode_birth(2, founders), timestamp=70)
        follow(self.state, EntryKind.BIRTH, encode_birth(3, founders), timestamp=80)
        birth = Birth(group=2, index=entry.index, timestamp=70, configuration=founders)
        self.assertEqual(self.state.birth, birth)
        self.assertEqual(self.state.copy().birth, birth)
        self.assertEqual(self.state.configuration, Configuration())

    def test_malformed_births(self):
        """A group that cannot be, and one without a voter, are none."""
        founders = Configuration().with_member("a", bytes(16), MemberRole.VOTER)
        learners = Configuration().with_member("a", bytes(16), MemberRole.LEARNER)
        for payload in (
            encode_birth(0, founders),
            encode_birth(2, learners),
            encode_birth(2, founders) + b"0",
        ):
            with self.assertRaises(MalformedMessageError):
                self.state.apply(make(self.state, EntryKind.BIRTH, payload))

    def test_malformed_payloads(self):
        """A payload that is not what its kind says is an error of that kind."""
        for kind in (EntryKind.CONFIGURATION, EntryKind.TRIM, EntryKind.PRODUCER, EntryKind.BIRTH):
            with self.assertRaises(MalformedMessageError):
                self.state.apply(make(self.state, kind, b"\xff"))

    def test_producer(self):
        """A producer's batches are found again; gaps, old ones, strangers and unknown ids are errors."""
        producer = register(self.state, "alice")
        self.assertIsNone(self.state.find_batch(producer, "alice", 0))
        for sequence in range(limits.PRODUCER_BATCHES_MAX + 2):
            follow(self.state, producer_id=producer, producer_sequence=sequence, record_count=2)
        last = limits.PRODUCER_BATCHES_MAX + 1
        found = self.state.find_batch(producer, "alice", last)
        self.assertEqual((found.base_offset, found.record_count, found.sequence), (2 * last, 2, last))
        self.assertEqual(self.state.find_batch(producer, "alice", 2).base_offset, 4)
        self.assertIsNone(self.state.find_batch(producer, "alice", last + 1))
        for sequence in (0, 1, last + 2):
            with self.assertRaises(SequenceError) as caught:
                self.state.find_batch(producer, "alice", sequence)
            self.assertEqual(caught.exception.expected, last + 1)
        for id_, subject in ((producer, "bob"), (producer + 1, "alice")):
            with self.assertRaises(UnknownProducerError):
                self.state.find_batch(id_, subject, 0)
        with self.assertRaises(EntryDamagedError):
            self.state.apply(make(self.state, producer_id=999))

    def test_eviction(self):
        """Past the bound, the producer that was used least recently goes."""
        self.patch(log_state, "PRODUCERS_MAX", 3)
        first, second, third = (register(self.state, name) for name in "abc")
        follow(self.state, producer_id=first)
        fourth = register(self.state, "d")
        self.assertEqual(list(self.state.producers), [third, first, fourth])
        with self.assertRaises(UnknownProducerError):
            self.state.find_batch(second, "b", 0)

    def test_copy(self):
        """A copy does not follow the original."""
        producer = register(self.state, "a")
        copied = self.state.copy()
        self.assertEqual(encode_log_state(copied), encode_log_state(self.state))
        follow(self.state, producer_id=producer)
        self.assertEqual(copied.find_batch(producer, "a", 0), None)
        self.assertNotEqual(encode_log_state(copied), encode_log_state(self.state))


class LogStateBytesTests(SynchronousTestCase):
    """A state's bytes."""

    def test_round_trip(self):
        """Any state that entries can make comes back from its bytes."""

        @settings(deadline=None, derandomize=True, max_examples=60)
        @given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 1000))
        def check(kinds, seed):
            rng, state, producers = random.Random(seed), LogState(), []
            for kind in kinds:
                if kind == 0:
                    producers.append(register(state, rng.choice(["a", "bé", "c" * 60])))
                elif kind == 1 and producers:
                    id_ = rng.choice(producers)
                    follow(state, producer_id=id_, producer_sequence=state.producers[id_].next_sequence)
                elif kind == 2:
                    configuration = state.configuration.with_member(
                        "n", rng.randbytes(16), MemberRole.LEARNER
                    )
                    follow(state, EntryKind.CONFIGURATION, encode_configuration(configuration))
                elif kind == 5:
                    founders = Configuration().with_member("n", rng.randbytes(16), MemberRole.VOTER)
                    follow(state, EntryKind.BIRTH, encode_birth(rng.randrange(1, 9), founders))
                elif kind == 3:
                    follow(state, EntryKind.TRIM, rng.randrange(9).to_bytes(8, "big"))
                else:
                    follow(state, record_count=rng.randrange(1, 9), timestamp=state.timestamp + 5)
            encoded = encode_log_state(state)
            self.assertEqual(_WIRE.build(_WIRE.parse(encoded)), encoded, "the declared layout")
            found = decode_log_state(encoded)
            self.assertEqual(found, state)
            self.assertEqual(list(found.producers), list(state.producers))

        check()

    def test_every_truncation(self):
        """A state cut at any byte is an error, and so is one with bytes behind it."""
        state = LogState()
        follow(state, producer_id=0)
        follow(state, producer_id=register(state, "alice"))
        content = encode_log_state(state)
        for size in range(len(content)):
            with self.assertRaises(MalformedMessageError):
                decode_log_state(content[:size])
        with self.assertRaises(MalformedMessageError):
            decode_log_state(content + b"\0")

    def test_too_many_producers(self):
        """More producers than the bound are refused."""
        state = LogState()
        for name in "abc":
            register(state, name)
        content = encode_log_state(state)
        self.patch(log_state, "PRODUCERS_MAX", 3)
        self.assertEqual(decode_log_state(content), state)
        self.patch(log_state, "PRODUCERS_MAX", 2)
        with self.assertRaises(MalformedMessageError):
            decode_log_state(content)
