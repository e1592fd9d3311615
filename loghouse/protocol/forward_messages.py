"""Kinds 0x012x: what a node asks of its group's leader for somebody else, and the leader's answers.

The frame's group says which log. Answers come on the other link of the two nodes, so a request carries an id
that only its sender understands; who asks is known from the link. See `docs/wire_format.md`; the rules are in
`loghouse/node/forwarding.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Final, Self

from construct import GreedyBytes, Int8ub, Int16ub, Int32ub, Int64ub, Struct

from loghouse.errors import LoghouseError
from loghouse.limits import (
    FORWARD_SIZE_MAX,
    MEMBERS_MAX,
    PAYLOAD_SIZE_MAX,
    RECORDS_PER_BATCH_MAX,
    SUBJECT_SIZE_MAX,
    UINT32_MAX,
    UINT64_MAX,
)
from loghouse.protocol.client_messages import HAS_CRC, HAS_EXPECT_OFFSET
from loghouse.protocol.entry import CODEC_MASK, Buffer
from loghouse.protocol.failures import FailureFields
from loghouse.protocol.fields import SHORT_TEXT, U8, U32, U64, Items8, ShortText, message, struct_of
from loghouse.protocol.message import Message, check_name, check_text


class AdminOperation(IntEnum):
    """What a ForwardAdmin asks for. ONLY APPEND TO THIS LIST."""

    ADD = 1
    """Let the node `name` in, also one that was removed; `number` 1: as a learner that is never promoted."""
    REMOVE = 2
    """Take the node `name` out of the configuration, and keep it out."""
    TRANSFER = 3
    """Hand leadership to the node `name`, or to the best candidate; answered with the new leader's name."""
    TRIM = 4
    """Let records below the offset `number` go; answered with the lowest offset."""
    REGISTER_PRODUCER = 5
    """Register a producer of the subject `name`; answered with its id."""
    PROGRESS = 6
    """Answered with the leader's commit index, and the last index known to be on each member's disk."""
    FOUND_CATALOGUE = 7
    """Bring the catalogue's group into being, unless that is done."""
    HAS_LEFT = 8
    """Asked of any member. Answered with 1 when the last committed configuration has no member on the node
    `name`, and every member id below `number` was used or passed over, so that none of them comes; else 0."""


@message(0x0120, FORWARD_SIZE_MAX)
class ForwardProduce(Message):
    """Append this batch for `subject`, who was allowed to where the batch came in. Fields as in Produce.

    Answered by ForwardReply or ForwardFailure; the receiver never passes it on.
    """

    TAIL: ClassVar[str] = "batch"
    WIRE: ClassVar = Struct(
        "request_id" / Int64ub,
        "given" / Int8ub,
        "attributes" / Int16ub,
        "record_count" / Int32ub,
        "batch_crc" / Int32ub,
        "expect_offset" / Int64ub,
        "producer_id" / Int64ub,
        "producer_sequence" / Int32ub,
        "subject" / SHORT_TEXT,
        "batch" / GreedyBytes,
    ).compile()

    request_id: int
    subject: str
    batch: Buffer
    record_count: int
    attributes: int = 0
    batch_crc: int | None = None
    expect_offset: int | None = None
    producer_id: int = 0
    producer_sequence: int = 0

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        if self.attributes & ~CODEC_MASK:
            raise ValueError(f"reserved attribute bits set: {self.attributes:#06x}")
        if not 0 < self.record_count <= RECORDS_PER_BATCH_MAX:
            raise ValueError(f"{self.record_count} records, allowed: 1 to {RECORDS_PER_BATCH_MAX}")
        if len(self.batch) > PAYLOAD_SIZE_MAX:
            raise ValueError(f"a batch of {len(self.batch)} bytes, allowed: {PAYLOAD_SIZE_MAX}")
        check_text("subject", self.subject, SUBJECT_SIZE_MAX)

    def _values(self) -> dict[str, Any]:
        given = (HAS_CRC if self.batch_crc is not None else 0) | (
            HAS_EXPECT_OFFSET if self.expect_offset is not None else 0
        )
        # Written out, as below: one of each is made for every forwarded append.
        return {
            "request_id": self.request_id,
            "given": given,
            "attributes": self.attributes,
            "record_count": self.record_count,
            "batch_crc": self.batch_crc or 0,
            "expect_offset": self.expect_offset or 0,
            "producer_id": self.producer_id,
            "producer_sequence": self.producer_sequence,
            "subject": self.subject,
            "batch": self.batch,
        }

    @classmethod
    def _from_values(cls, parsed: Mapping[str, Any]) -> Self:
        given = parsed["given"]
        if given & ~(HAS_CRC | HAS_EXPECT_OFFSET):
            raise ValueError(f"reserved bits set in given: {given:#04x}")
        crc, expect = parsed["batch_crc"], parsed["expect_offset"]
        if (crc and not given & HAS_CRC) or (expect and not given & HAS_EXPECT_OFFSET):
            raise ValueError("a field that is not given must be zero")
        return cls(
            request_id=parsed["request_id"],
            subject=parsed["subject"],
            batch=parsed["batch"],
            record_count=parsed["record_count"],
            attributes=parsed["attributes"],
            batch_crc=crc if given & HAS_CRC else None,
            expect_offset=expect if given & HAS_EXPECT_OFFSET else None,
            producer_id=parsed["producer_id"],
            producer_sequence=parsed["producer_sequence"],
        )


@message(0x0121)
class ForwardReply(Message):
    """The batch is durable on a majority: where it went. `timestamp` in microseconds."""

    request_id: U64
    base_offset: U64
    record_count: U32
    timestamp: U64
    index: U64
    term: U64


@message(0x0122)
class ForwardFailure(FailureFields, Message):
    """The request failed; the error says what is certain."""

    WIRE: ClassVar = Struct("request_id" / Int64ub, *struct_of(FailureFields).subcons).compile()

    request_id: int

    @classmethod
    def answering(cls, request_id: int, error: LoghouseError) -> ForwardFailure:
        """Return the message that tells whoever asked of `error`."""
        told = FailureFields.of(error)
        return cls(
            request_id=request_id, code=told.code, numbers=told.numbers, texts=told.texts, text=told.text
        )


_NUMBERS_MAX: Final[Mapping[int, int]] = {
    AdminOperation.ADD: 1,
    AdminOperation.TRIM: UINT64_MAX,
    AdminOperation.HAS_LEFT: UINT32_MAX,
}


@message(0x0123)
class ForwardAdmin(Message):
    """Do this as the leader, for somebody who was allowed to ask where it came in.

    `operation` is an `AdminOperation`, or one of a later version: that is answered with a NotSupportedError.
    """

    request_id: U64
    operation: U8
    name: ShortText = ""
    number: U64 = 0

    def check(self) -> None:
        """Raise ValueError when a field is beyond what its operation allows."""
        match self.operation:
            case AdminOperation.ADD | AdminOperation.REMOVE | AdminOperation.HAS_LEFT:
                check_name("node", self.name)
            case AdminOperation.TRANSFER:
                check_name("node", self.name, empty=True)
            case AdminOperation.REGISTER_PRODUCER:
                check_text("subject", self.name, SUBJECT_SIZE_MAX)
            case AdminOperation.TRIM | AdminOperation.PROGRESS:
                check_text("name", self.name, 0)
            case _:
                return  # of a later version, which knows what it allows
        number_max = _NUMBERS_MAX.get(self.operation, 0)
        if self.number > number_max:
            name = AdminOperation(self.operation).name
            raise ValueError(f"number {self.number} of {name}, allowed: 0 to {number_max}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The last index that the leader knows to be on a member's disk."""

    member: U32
    index: U64


@message(0x0124)
class ForwardAdminReply(Message):
    """It is done, and committed where it changed the log; what the fields mean is said by the operation."""

    request_id: U64
    name: ShortText = ""
    number: U64 = 0
    matches: Items8[Match] = ()

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        check_name("node", self.name, empty=True)
        if len(self.matches) > MEMBERS_MAX:
            raise ValueError(f"{len(self.matches)} members, at most {MEMBERS_MAX}")


FORWARD_BULK_KINDS: Final = frozenset((ForwardProduce.KIND,))
