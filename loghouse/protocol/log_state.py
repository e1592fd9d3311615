"""The replicated state: a function of the log up to an entry, the same on every replica.

It holds what the log's own entries say of the log: who is in the group, where
offsets stand, what is trimmed, which producer sent what, and where cursors
stand. Storage folds it
over the entries it writes (`<base>.state`), the consensus core over the entries
it appends; a suffix cut rolls it back because it is computed again from the
shorter log. `design.md` 5 and 6.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from construct import (
    Bytes,
    ConstructError,
    GreedyRange,
    Int8ub,
    Int32ub,
    Int64ub,
    Optional,
    PascalString,
    Prefixed,
    Struct,
    Terminated,
    this,
)
from construct import GreedyBytes as _GreedyBytes

from loghouse.errors import (
    EntryDamagedError,
    MalformedMessageError,
    SequenceError,
    UnknownProducerError,
)
from loghouse.limits import PRODUCER_BATCHES_MAX, PRODUCERS_MAX
from loghouse.protocol.configuration import (
    Birth,
    Configuration,
    decode_birth,
    decode_configuration,
    decode_producer,
    decode_trim,
    encode_birth,
    encode_configuration,
)
from loghouse.protocol.cursors import Cursors, decode_cursors, encode_cursors
from loghouse.protocol.entry import Entry, EntryKind


@dataclass(frozen=True, slots=True)
class ProducedBatch:
    """A batch that a producer sent, and where it went."""

    sequence: int
    base_offset: int
    record_count: int
    index: int


@dataclass(slots=True)
class ProducerState:
    """A registered producer: its subject and its last batches, oldest first."""

    subject: str
    batches: deque[ProducedBatch] = field(default_factory=lambda: deque(maxlen=PRODUCER_BATCHES_MAX))

    @property
    def next_sequence(self) -> int:
        """The sequence its next new batch must carry; the first is 0."""
        return self.batches[-1].sequence + 1 if self.batches else 0


@dataclass(slots=True, kw_only=True)
class LogState:
    """The replicated state after the entry (`index`, `term`); the default is that of an empty log."""

    index: int = 0
    term: int = 0
    timestamp: int = 0
    next_offset: int = 0
    lowest_offset: int = 0
    configuration: Configuration = field(default_factory=Configuration)
    configuration_index: int = 0
    # Least recently used first; registering past PRODUCERS_MAX evicts from the front.
    producers: dict[int, ProducerState] = field(default_factory=dict)
    # The group that this log brought into being; the first such entry counts, a later one changes nothing.
    birth: Birth | None = None
    # Changes in place.
    cursors: Cursors = field(default_factory=Cursors)

    def apply(self, entry: Entry) -> None:
        """Fold one more entry in; `check_follows` must have passed.

        Raises:
            MalformedMessageError: Its payload is not what its kind says.
        """
        kind = entry.kind
        if kind == EntryKind.RECORDS:
            if entry.producer_id:
                self._note_batch(entry)
            if self.cursors.awaited is not None:
                self.cursors.take_records(entry.index, entry.term, entry.base_offset, entry.record_count)
        else:
            self.cursors.awaited = None  # it came alone, and counts for nothing
            self._apply_control(entry)
        self.index = entry.index
        self.term = entry.term
        self.timestamp = entry.timestamp
        self.next_offset = entry.base_offset + entry.record_count

    def _apply_control(self, entry: Entry) -> None:
        kind = entry.kind
        if kind == EntryKind.CONFIGURATION:
            self.configuration = decode_configuration(bytes(entry.payload))
            self.configuration_index = entry.index
        elif kind == EntryKind.TRIM:
            self.lowest_offset = max(self.lowest_offset, decode_trim(bytes(entry.payload)))
        elif kind == EntryKind.PRODUCER:
            self._register(entry.index, decode_producer(bytes(entry.payload)))
        elif kind == EntryKind.CURSOR:
            self.cursors.apply(entry)
        elif kind == EntryKind.BIRTH and self.birth is None:
            self.birth = decode_birth(bytes(entry.payload), index=entry.index, timestamp=entry.timestamp)

    def _register(self, producer_id: int, subject: str) -> None:
        self.producers[producer_id] = ProducerState(subject)
        while len(self.producers) > PRODUCERS_MAX:
            del self.producers[next(iter(self.producers))]

    def _note_batch(self, entry: Entry) -> None:
        producer = self.producers.pop(entry.producer_id, None)
        if producer is None:
            raise EntryDamagedError(f"entry {entry.index} is of unknown producer {entry.producer_id}")
        producer.batches.append(
            ProducedBatch(entry.producer_sequence, entry.base_offset, entry.record_count, entry.index)
        )
        self.producers[entry.producer_id] = producer  # now the most recently used

    def find_batch(self, producer_id: int, subject: str, sequence: int) -> ProducedBatch | None:
        """Return where this batch already is, or None when it is the producer's next one.

        Raises:
            UnknownProducerError: Never registered, evicted, or of another subject.
            SequenceError: A gap, or older than the batches remembered.
        """
        producer = self.producers.get(producer_id)
        if producer is None or producer.subject != subject:
            raise UnknownProducerError(producer_id)
        expected = producer.next_sequence
        if sequence == expected:
            return None
        position = sequence - expected + len(producer.batches)
        if not 0 <= position < len(producer.batches):
            raise SequenceError(producer_id, sequence, expected)
        return producer.batches[position]

    def copy(self) -> LogState:
        """Return an independent copy."""
        return LogState(
            index=self.index,
            term=self.term,
            timestamp=self.timestamp,
            next_offset=self.next_offset,
            lowest_offset=self.lowest_offset,
            configuration=self.configuration,
            configuration_index=self.configuration_index,
            producers={
                id_: ProducerState(producer.subject, producer.batches.copy())
                for id_, producer in self.producers.items()
            },
            birth=self.birth,
            cursors=self.cursors.copy(),
        )

    @property
    def later_index(self) -> int:
        """The index of the last entry of a kind that older readers do not know; 0: there never was one."""
        birth_index = self.birth.index if self.birth is not None else 0
        return max(birth_index, self.cursors.last_index)


def check_follows(before: LogState | Entry, entry: Entry) -> None:
    """Raise EntryDamagedError unless `entry` joins a state, or the entry before it."""
    if entry.index != before.index + 1:
        raise EntryDamagedError(f"entry {entry.index} where {before.index + 1} belongs")
    if entry.term < before.term:
        raise EntryDamagedError(f"entry {entry.index} has term {entry.term}, below {before.term}")
    if entry.base_offset != before.next_offset:
        raise EntryDamagedError(
            f"entry {entry.index} has base offset {entry.base_offset}, expected {before.next_offset}"
        )
    if entry.timestamp < before.timestamp:
        raise EntryDamagedError(f"entry {entry.index} goes back in time")


_BATCH: Final = struct.Struct(">IQIQ")
# Twins of parts of `_WIRE` below, which a test holds equal: an append waits for the state of a new segment.
_HEAD: Final = struct.Struct(">QQQQQQ")  # `_NUMBERS`
_SIZE: Final = struct.Struct(">I")
_PRODUCER: Final = struct.Struct(">QB")  # id, bytes of the subject
_BIRTH: Final = struct.Struct(">QQ")  # index, timestamp
_NUMBERS: Final = ("index", "term", "timestamp", "next_offset", "lowest_offset", "configuration_index")
_WIRE: Final = Struct(
    *(name / Int64ub for name in _NUMBERS),
    "configuration" / Prefixed(Int32ub, _GreedyBytes),
    "producers"
    / Prefixed(
        Int32ub,
        GreedyRange(
            Struct(
                "id" / Int64ub,
                "subject" / PascalString(Int8ub, "utf8"),
                "batch_count" / Int8ub,
                "batches" / Bytes(this.batch_count * _BATCH.size),
            )
        ),
    ),
    # Only where a birth was: without one the bytes are those of the versions that knew none.
    "birth"
    / Optional(Struct("index" / Int64ub, "timestamp" / Int64ub, "payload" / Prefixed(Int32ub, _GreedyBytes))),
    # The same with cursors; before them stands a birth, of index 0 where there was none.
    "cursors" / Optional(Prefixed(Int32ub, _GreedyBytes)),
    Terminated,
)


def encode_log_state(state: LogState) -> bytes:
    """Return the bytes of a state, as in `<base>.state` and in a snapshot."""
    has_cursors = state.cursors.last_index > 0
    pieces = [
        _HEAD.pack(*[getattr(state, name) for name in _NUMBERS]),
        _sized(encode_configuration(state.configuration)),
        _sized(b"".join([_encode_producer(*item) for item in state.producers.items()])),
    ]
    birth = state.birth
    if birth is not None:
        payload = encode_birth(birth.group, birth.configuration)
        pieces += [_BIRTH.pack(birth.index, birth.timestamp), _sized(payload)]
    elif has_cursors:
        pieces += [_BIRTH.pack(0, 0), _sized(b"")]
    if has_cursors:
        pieces.append(_sized(encode_cursors(state.cursors)))
    return b"".join(pieces)


def _sized(content: bytes) -> bytes:
    return _SIZE.pack(len(content)) + content


def _encode_producer(id_: int, producer: ProducerState) -> bytes:
    subject = producer.subject.encode()
    batches = [_BATCH.pack(b.sequence, b.base_offset, b.record_count, b.index) for b in producer.batches]
    return b"".join((_PRODUCER.pack(id_, len(subject)), subject, bytes((len(batches),)), *batches))


def decode_log_state(data: bytes) -> LogState:
    """Parse the bytes of a state.

    Raises:
        MalformedMessageError: They are not one.
    """
    try:
        parsed = _WIRE.parse(data)
        producers = {
            int(p.id): ProducerState(
                str(p.subject),
                deque(
                    (ProducedBatch(*fields) for fields in _BATCH.iter_unpack(p.batches)), PRODUCER_BATCHES_MAX
                ),
            )
            for p in parsed.producers
        }
    except (ConstructError, UnicodeError) as error:
        raise MalformedMessageError(f"log state: {error}") from error
    if len(producers) > PRODUCERS_MAX:
        raise MalformedMessageError(f"log state: {len(producers)} producers, at most {PRODUCERS_MAX}")
    numbers = {name: parsed[name] for name in _NUMBERS}
    birth = parsed.birth
    if birth and not birth.index and (birth.timestamp or birth.payload or parsed.cursors is None):
        raise MalformedMessageError("log state: a birth of no entry")
    return LogState(
        **numbers,
        configuration=decode_configuration(parsed.configuration),
        producers=producers,
        birth=(
            decode_birth(birth.payload, index=birth.index, timestamp=birth.timestamp)
            if birth and birth.index
            else None
        ),
        cursors=decode_cursors(parsed.cursors) if parsed.cursors is not None else Cursors(),
    )
