"""Kinds 0x01xx: what the members of a group say to each other (Raft, figure 2 and figure 13).

Each message is a frozen dataclass with the compiled `construct` declaration of its body. On the wire a
body follows `source` and `target` (`ADDRESS`); the group is in the link frame's header. Entries travel as
the frames they are on disk: `AppendEntries` encodes a header and passes their bytes on untouched.

Terms and indices are u64 and start at 1; 0 means "none". Member ids are u32; 0 is nobody.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self, TypeAlias, get_args

from construct import Construct, Int32ub, Struct

from loghouse.errors import EntryError, MalformedMessageError
from loghouse.limits import ENTRY_SIZE_MAX, MIB, STATE_SIZE_MAX
from loghouse.protocol.entry import Buffer, Entry, decode_entries
from loghouse.protocol.fields import U64, Truth, message
from loghouse.protocol.layout import FixedLayout, fixed_layout

NOBODY: Final = 0
ADDRESS: Final = Struct("source" / Int32ub, "target" / Int32ub).compile()
_ADDRESS: Final = struct.Struct(">II")  # its twin for the hot path: it is in every message
ADDRESS_SIZE: Final = _ADDRESS.size
_CONTROL_SIZE_MAX: Final = ADDRESS_SIZE + 64


class _Message:
    """What the messages share: one compiled layout of fixed size, built from and parsed to the fields."""

    __slots__ = ()

    KIND: ClassVar[int]
    SIZE_MAX: ClassVar[int] = _CONTROL_SIZE_MAX
    WIRE: ClassVar[Construct]

    def encode(self) -> list[Buffer]:
        """Return the body in pieces, to be written one behind the other."""
        layout = _LAYOUTS[self.KIND]
        return [layout.packing.pack(*layout.values_of(self))]

    @classmethod
    def decode(cls, body: Buffer, seed: int) -> Self:
        """Return the message that `body` is.

        Args:
            seed: The log's frame seed (`frame_seed`), for the entries in it.

        Raises:
            MalformedMessageError: It is not one.
        """
        layout = _LAYOUTS[cls.KIND]
        if len(body) != layout.size:
            raise MalformedMessageError(f"{cls.__name__}: {len(body)} bytes, expected {layout.size}")
        return cls(**cls._fields(body))

    @classmethod
    def _fields(cls, body: Buffer) -> dict[str, Any]:
        """Return the fields at the start of a body that is long enough."""
        layout = _LAYOUTS[cls.KIND]
        return dict(zip(layout.names, layout.packing.unpack_from(body), strict=True))


@message(0x0101)
class RequestVote(_Message):
    """Ask a member for its vote (Raft 5.2, 5.4.1, figure 2).

    With `pre_vote` the sender only asks whether it would get it; `term` is then the term it would
    campaign in, and nobody changes state (thesis 9.6). `transfer` says that the leader asked for this
    election, so a recent leader is no reason to refuse (thesis 3.10).
    """

    term: U64
    last_log_index: U64
    last_log_term: U64
    pre_vote: Truth = False
    transfer: Truth = False


@message(0x0102)
class RequestVoteReply(_Message):
    """The answer. A granted pre-vote carries the asked-for term, everything else the voter's own."""

    term: U64
    granted: Truth
    pre_vote: Truth = False


@message(0x0103, ENTRY_SIZE_MAX + 1 * MIB)
class AppendEntries(_Message):
    """Entries to follow the one at (`prev_log_index`, `prev_log_term`); none is a probe (Raft 5.3)."""

    term: U64
    prev_log_index: U64
    prev_log_term: U64
    commit_index: U64
    entries: Sequence[Entry] = ()

    def encode(self) -> list[Buffer]:
        """Return the header and, untouched, the bytes of each entry."""
        pieces = _Message.encode(self)
        for entry in self.entries:
            pieces.append(entry.head)
            if entry.payload:
                pieces.append(entry.payload)
        return pieces

    @classmethod
    def decode(cls, body: Buffer, seed: int) -> Self:
        """Return the message; the payloads of its entries are views of `body`.

        Raises:
            MalformedMessageError: Too short, an entry is damaged, or the entries do not follow each other.
        """
        size = _LAYOUTS[cls.KIND].size
        if len(body) < size:
            raise MalformedMessageError(f"{cls.__name__}: {len(body)} bytes, at least {size} expected")
        try:
            entries = tuple(decode_entries(seed, memoryview(body)[size:]))
        except EntryError as error:
            raise MalformedMessageError(f"{cls.__name__}: {error}") from error
        message = cls(**cls._fields(body), entries=entries)
        message.check()
        return message

    def check(self) -> None:
        """Raise MalformedMessageError unless the entries follow each other, in terms up to this one."""
        index, term = self.prev_log_index, self.prev_log_term
        for entry in self.entries:
            index += 1
            if entry.index != index or not term <= entry.term <= self.term:
                raise MalformedMessageError(
                    f"AppendEntries: entry ({entry.index}, term {entry.term}) where index {index} and "
                    f"a term from {term} to {self.term} belong"
                )
            term = entry.term


@message(0x0104)
class AppendEntriesReply(_Message):
    """What a follower holds (Raft 5.3; also the answer to `InstallSnapshot`).

    `success`: everything up to `index` is the leader's and durable here. Otherwise `index` is the
    `prev_log_index` that did not fit, and (`hint_index`, `hint_term`) the last entry of the follower's that
    could: no entry behind it has a term at or below the leader's there.
    """

    term: U64
    success: Truth
    index: U64
    hint_index: U64 = 0
    hint_term: U64 = 0


@message(0x0105)
class Heartbeat(_Message):
    """The leader is there. `commit_index` is what of it the target is known to hold.

    `read_round` counts the leader's ReadIndex rounds of this term; an answer with it confirms them all.
    """

    term: U64
    commit_index: U64
    read_round: U64 = 0


@message(0x0106)
class HeartbeatReply(_Message):
    """The follower is there, too.

    `last_index` tells a leader when the follower holds less than it once said (lost or damaged).
    `timestamp` is the follower's wall clock in microseconds, 0 when not known; nothing in Raft depends on it.
    """

    term: U64
    read_round: U64
    last_index: U64
    timestamp: U64 = 0


@message(0x0107, STATE_SIZE_MAX + _CONTROL_SIZE_MAX)
class InstallSnapshot(_Message):
    """The log starts behind the entry that `state` (an encoded `LogState`) is the state after (Raft 7)."""

    term: U64
    state: bytes

    def encode(self) -> list[Buffer]:
        """Return the header and the state's bytes."""
        return [*_Message.encode(self), self.state]

    @classmethod
    def decode(cls, body: Buffer, seed: int) -> Self:
        """Return the message; its state is not parsed yet.

        Raises:
            MalformedMessageError: It is too short.
        """
        size = _LAYOUTS[cls.KIND].size
        if len(body) < size:
            raise MalformedMessageError(f"{cls.__name__}: {len(body)} bytes, at least {size} expected")
        return cls(**cls._fields(body), state=bytes(memoryview(body)[size:]))


@message(0x0108)
class TimeoutNow(_Message):
    """Campaign at once: leadership is being handed to the target (thesis 3.10)."""

    term: U64


@message(0x0109)
class ReadIndex(_Message):
    """A member asks its leader for an index that is safe to read at; `context` is new in each attempt."""

    term: U64
    context: U64


@message(0x010A)
class ReadIndexReply(_Message):
    """The answer: everything acknowledged before `context` was asked is at or below `index`."""

    term: U64
    context: U64
    index: U64


@message(0x0180)  # older leaders drop it
class NoRoom(_Message):
    """A follower's disk is full: said behind each answer to a heartbeat, as long as it lasts (ADR 18)."""

    term: U64


Message: TypeAlias = (
    RequestVote
    | RequestVoteReply
    | AppendEntries
    | AppendEntriesReply
    | Heartbeat
    | HeartbeatReply
    | InstallSnapshot
    | TimeoutNow
    | ReadIndex
    | ReadIndexReply
    | NoRoom
)

MESSAGES: Final[tuple[type[_Message], ...]] = get_args(Message)
BY_KIND: Final[dict[int, type[_Message]]] = {message.KIND: message for message in MESSAGES}


class _Layouts(dict[int, FixedLayout]):
    """By kind; each is made when it is first asked for."""

    def __missing__(self, kind: int) -> FixedLayout:
        layout = fixed_layout(BY_KIND[kind].WIRE)
        assert layout is not None, "every message has fixed fields"
        self[kind] = layout
        return layout


_LAYOUTS: Final = _Layouts()
# Messages that may be large: a link's control frames overtake them.
BULK_KINDS: Final = frozenset((AppendEntries.KIND, InstallSnapshot.KIND))


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message between two members of a group."""

    group: int
    source: int
    target: int
    message: Message


def from_wire(kind: int, body: Buffer, seed: int) -> Message:
    """Return the message of this kind that `body` is.

    Args:
        seed: The frame seed of the log it belongs to (`frame_seed(cluster, group)`).

    Raises:
        MalformedMessageError: The kind is not known, or the body does not parse as it.
    """
    cls = BY_KIND.get(kind)
    if cls is None:
        raise MalformedMessageError(f"kind {kind:#06x} is not a Raft message")
    message: Message = cls.decode(body, seed)  # type: ignore[assignment]
    return message


def envelope_to_wire(envelope: Envelope) -> tuple[int, int, list[Buffer]]:
    """Return kind, group and body (addresses first, in pieces) of the frame that carries an envelope."""
    message, address = envelope.message, _ADDRESS.pack(envelope.source, envelope.target)
    return message.KIND, envelope.group, [address, *message.encode()]


def envelope_from_wire(kind: int, group: int, body: Buffer, seed: int) -> Envelope:
    """Return the envelope that a frame of this kind and group carries.

    Raises:
        MalformedMessageError: As `from_wire`, or there are no addresses.
    """
    if len(body) < ADDRESS_SIZE:
        raise MalformedMessageError(f"kind {kind:#06x}: no source and target")
    source, target = _ADDRESS.unpack_from(body)
    message = from_wire(kind, memoryview(body)[ADDRESS_SIZE:], seed)
    return Envelope(group, source, target, message)
