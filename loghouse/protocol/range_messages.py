"""Reads of a range: kinds 0x0330 and 0x0331 of clients, and 0x01B9 and 0x01BA between nodes.

A node that does not know Read answers it with NotSupportedError, as any request that it does not know. Only
nodes of `Capability.RANGES` are sent a ForwardRange. See `docs/wire_format.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self, TypeAlias

from construct import GreedyBytes, Int16ub, Int64ub, Prefixed, Struct

from loghouse.limits import FETCH_REPLY_SIZE_MAX, UINT64_MAX
from loghouse.protocol.fields import U8, U32, U64, Items8, LongText, Rest, Truth, message, struct_of
from loghouse.protocol.message import Message
from loghouse.protocol.record_filter import RecordFilter
from loghouse.protocol.record_range import RecordRange

# The size in bytes comes first, in 16 bits.
LongBytes: TypeAlias = Annotated[bytes, Prefixed(Int16ub, GreedyBytes)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeFields:
    """The fields that Read and ForwardRange share: those of a `RecordRange`, and of its filter."""

    first: U64 = 0
    end: U64 = UINT64_MAX
    is_reverse: Truth = False
    consistency: U8 = 0
    count_max: U32 = 0
    size_max: U32 = 0
    wait_milliseconds: U32 = 0
    keys: Items8[LongBytes] = ()
    key_prefixes: Items8[LongBytes] = ()
    headers: Items8[tuple[LongText, LongBytes]] = ()

    def wanted(self) -> RecordRange:
        """Return what is asked for.

        Raises:
            InvalidRequestError: It cannot be meant.
        """
        wanted = RecordRange(
            first=self.first,
            end=self.end,
            is_reverse=self.is_reverse,
            count_max=self.count_max,
            size_max=self.size_max,
            filter=RecordFilter(keys=self.keys, key_prefixes=self.key_prefixes, headers=self.headers),
            consistency=self.consistency,
            wait_milliseconds=self.wait_milliseconds,
        )
        wanted.check()
        return wanted


@message(0x0330)
class Read(RangeFields, Message):
    """Read a range of records, forwards or backwards, all of them or those that the filter takes.

    `first` is the first offset, `end` the one behind the last; 2^64 - 1: to the end of the log. `consistency`
    is a `Consistency`. `count_max` and `size_max` 0: all, and as much as the server gives at a time. A record
    is taken that has one of `keys`, or a key that begins with one of `key_prefixes`, and all of `headers`.
    """

    @classmethod
    def of(cls, wanted: RecordRange) -> Self:
        """Return the message that asks for this."""
        return cls(**_fields_of(wanted))


@message(0x0331, FETCH_REPLY_SIZE_MAX)
class ReadReply(Message):
    """Whole entry frames in the order of the log; entries without wanted records may be left out.

    Go on at `next_offset`: it is the range's new `first`, or read backwards its new `end`; frames may hold
    records beyond it, which are not part of the answer. `lowest` and `committed` bound what the replica knows
    to be readable. Unless `is_confirmed`, it is not asked whether there is more.
    """

    next_offset: U64
    lowest: U64
    committed: U64
    is_confirmed: U8
    frames: Rest

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        _check_truth(self.is_confirmed)


@message(0x01B9)
class ForwardRange(RangeFields, Message):
    """Read a range as Read does. Answered by ForwardRangeReply or ForwardFailure, and never passed on."""

    WIRE: ClassVar = Struct("request_id" / Int64ub, *struct_of(RangeFields).subcons).compile()

    request_id: int

    @classmethod
    def asking(cls, request_id: int, wanted: RecordRange) -> ForwardRange:
        """Return the message that asks another node for this."""
        return cls(request_id=request_id, **_fields_of(wanted))


@message(0x01BA, FETCH_REPLY_SIZE_MAX)
class ForwardRangeReply(Message):
    """The answer, with the fields of ReadReply."""

    request_id: U64
    next_offset: U64
    lowest: U64
    committed: U64
    is_confirmed: U8
    frames: Rest

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        _check_truth(self.is_confirmed)


def _check_truth(value: int) -> None:
    """Raise ValueError unless a byte is 0 or 1: one that is unpacked as true or false could be any other."""
    if value > 1:
        raise ValueError(f"is_confirmed {value}, allowed: 0, 1")


def _fields_of(wanted: RecordRange) -> dict[str, Any]:
    filter_ = wanted.filter
    return {
        "first": wanted.first,
        "end": wanted.end,
        "is_reverse": wanted.is_reverse,
        "consistency": wanted.consistency,
        "count_max": wanted.count_max,
        "size_max": wanted.size_max,
        "wait_milliseconds": wanted.wait_milliseconds,
        "keys": filter_.keys,
        "key_prefixes": filter_.key_prefixes,
        "headers": filter_.headers,
    }


RANGE_KINDS: Final = frozenset((ForwardRange.KIND, ForwardRangeReply.KIND))
RANGE_BULK_KINDS: Final = frozenset((ForwardRangeReply.KIND,))
