"""Kinds 0x03xx: what a client asks and what a node answers. See `docs/wire_format.md`.

Every request opens a stream: the frame header's `stream` is a number the client chooses, larger than any
before on this connection; replies carry it back. The header's `group` says which log (1 is `default`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self

from construct import GreedyBytes, Int8ub, Int16ub, Int32ub, Int64ub, Struct

from loghouse.limits import (
    ADDRESS_SIZE_MAX,
    DESCRIBE_SIZE_MAX,
    FETCH_REPLY_SIZE_MAX,
    GOSSIP_MEMBERS_MAX,
    LOGS_PER_DESCRIBE_MAX,
    NAME_SIZE_MAX,
    PRODUCE_SIZE_MAX,
    STATE_REPLY_SIZE_MAX,
)
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.entry import CATALOGUE_LOG, CODEC_MASK, Buffer
from loghouse.protocol.failures import FailureFields
from loghouse.protocol.fields import U16, U32, U64, Items16, LongText, Rest, ShortText, Truth, Uuid, message
from loghouse.protocol.layout import FixedLayout
from loghouse.protocol.message import Message, check_name, check_text
from loghouse.protocol.range_messages import Read, ReadReply

HAS_CRC: Final = 0x01
HAS_EXPECT_OFFSET: Final = 0x02


@message(0x0301, PRODUCE_SIZE_MAX, frozen=False, kw_only=False)
class Produce(Message):
    """Append a batch: a serialized RecordBatch, compressed as `attributes` says (as in the entry frame).

    Answered by ProduceReply when it is durable on a majority. `batch_crc` is the CRC32C of `batch`, kept with
    it for good; `timeout_milliseconds` 0 means the server's own. `producer_id` 0: not idempotent.
    """

    TAIL: ClassVar[str] = "batch"
    WIRE: ClassVar = Struct(
        "given" / Int8ub,
        "attributes" / Int16ub,
        "record_count" / Int32ub,
        "batch_crc" / Int32ub,
        "expect_offset" / Int64ub,
        "producer_id" / Int64ub,
        "producer_sequence" / Int32ub,
        "timeout_milliseconds" / Int32ub,
        "batch" / GreedyBytes,
    ).compile()

    batch: Buffer
    record_count: int
    attributes: int = 0
    batch_crc: int | None = None
    expect_offset: int | None = None
    producer_id: int = 0
    producer_sequence: int = 0
    timeout_milliseconds: int = 0

    def check(self) -> None:
        """Raise ValueError when a reserved attribute bit is set."""
        if self.attributes & ~CODEC_MASK:
            raise ValueError(f"reserved attribute bits set: {self.attributes:#06x}")

    def within(self, milliseconds: int) -> Produce:
        """Return the same request with another timeout."""
        return Produce(
            self.batch,
            self.record_count,
            self.attributes,
            self.batch_crc,
            self.expect_offset,
            self.producer_id,
            self.producer_sequence,
            milliseconds,
        )

    # By position, and not frozen, like its reply: one of each is made for every append, on either side.

    def _fixed(self, layout: FixedLayout) -> tuple[Any, ...]:
        crc, expect = self.batch_crc, self.expect_offset
        return (
            (HAS_CRC if crc is not None else 0) | (HAS_EXPECT_OFFSET if expect is not None else 0),
            self.attributes,
            self.record_count,
            crc or 0,
            expect or 0,
            self.producer_id,
            self.producer_sequence,
            self.timeout_milliseconds,
        )

    @classmethod
    def _from_fixed(cls, layout: FixedLayout, fields: tuple[Any, ...], tail: Buffer) -> Self:
        given, attributes, record_count, crc, expect, producer_id, producer_sequence, timeout = fields
        if given & ~(HAS_CRC | HAS_EXPECT_OFFSET):
            raise ValueError(f"reserved bits set in given: {given:#04x}")
        if (crc and not given & HAS_CRC) or (expect and not given & HAS_EXPECT_OFFSET):
            raise ValueError("a field that is not given must be zero")
        return cls(
            tail,
            record_count,
            attributes,
            crc if given & HAS_CRC else None,
            expect if given & HAS_EXPECT_OFFSET else None,
            producer_id,
            producer_sequence,
            timeout,
        )


@message(0x0302, frozen=False)
class ProduceReply(Message):
    """The batch is durable; its first record has `base_offset`. `timestamp` in microseconds."""

    base_offset: U64
    record_count: U32
    timestamp: U64


@message(0x0303)
class Fetch(Message):
    """Read entry frames from the one that holds `offset`: at least one, else at most `size_max` bytes.

    `size_max` 0 means the server's own. Behind the last record this is an error; Follow waits.
    """

    offset: U64
    size_max: U32 = 0


@message(0x0304, FETCH_REPLY_SIZE_MAX)
class FetchReply(Message):
    """Whole entry frames, of all kinds; go on at `next_offset`."""

    next_offset: U64
    frames: Rest


@message(0x0305)
class Follow(Message):
    """Read from `offset` on, and go on as records come. The server may send `credit` bytes of frames."""

    offset: U64
    credit: U32


@message(0x0306, FETCH_REPLY_SIZE_MAX)
class FollowFrames(Message):
    """The next entry frames of a followed log; their bytes are taken off the stream's credit."""

    next_offset: U64
    frames: Rest


@message(0x0307)
class Credit(Message):
    """On a followed stream: the server may send this many bytes of frames more."""

    credit: U32


@message(0x0308)
class Cancel(Message):
    """Forget this stream. What it asked for may still happen; frames already under way are to be ignored."""


@message(0x0309)
class Describe(Message):
    """Ask for the cluster, its logs and its nodes. A node that belongs to no cluster answers, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedServer:
    """A node as clients are told of it: `role` is VOTER or LEARNER, which stands for replicas, too.

    `grpc_address` is its direct gRPC address, empty when it has none.
    """

    name: ShortText
    address: LongText
    grpc_address: LongText = ""
    role: Annotated[MemberRole, Int8ub] = MemberRole.VOTER
    is_leader: Truth = False
    is_alive: Truth = True


@message(0x030A, DESCRIBE_SIZE_MAX)
class DescribeReply(Message):
    """The cluster as the answering node sees it. `cluster_uuid` is zero when it belongs to none.

    `logs` are pairs of group and name.
    """

    cluster_uuid: Uuid
    cluster_name: ShortText
    node_name: ShortText
    logs: Items16[tuple[U32, ShortText]] = ()
    servers: Items16[DescribedServer] = ()

    def check(self) -> None:
        """Raise ValueError when a name or a count is beyond what it may be."""
        check_name("cluster", self.cluster_name)
        check_name("node", self.node_name)
        if len(self.logs) > LOGS_PER_DESCRIBE_MAX or len(self.servers) > GOSSIP_MEMBERS_MAX:
            raise ValueError("too many logs or servers")
        for _, name in self.logs:
            check_name("log", name)
        for server in self.servers:
            check_server(server)


def check_server(server: DescribedServer) -> None:
    """Raise ValueError when a node cannot be as it is described."""
    check_name("node", server.name)
    check_text("address", server.address, ADDRESS_SIZE_MAX)
    check_text("address", server.grpc_address, ADDRESS_SIZE_MAX)


@message(0x030B)
class Bounds(Message):
    """Ask for the readable range, confirmed by the leader."""


@message(0x030C)
class BoundsReply(Message):
    """The lowest readable offset, and the next to be given out; equal: no records."""

    lowest: U64
    next_offset: U64


@message(0x030D)
class FindOffset(Message):
    """Ask for the first offset appended at or after `timestamp`, in microseconds since the epoch."""

    timestamp: U64


@message(0x030E)
class FindOffsetReply(Message):
    """That offset and when it was appended; the next offset and 0 when nothing is that young."""

    offset: U64
    timestamp: U64


@message(0x0310)
class RegisterProducer(Message):
    """Ask for a producer id, for appends done exactly once; only this client's subject may use it."""


@message(0x0311)
class RegisterProducerReply(Message):
    """The id is committed: every node knows it."""

    producer_id: U64


@message(0x0312)
class DescribeLog(Message):
    """Ask for one log by its name, empty: the default one; UnknownLogError when there is none."""

    name: ShortText = ""

    def check(self) -> None:
        """Raise ValueError when no log can be called so."""
        check_text("log", self.name, NAME_SIZE_MAX)


@message(0x0313, DESCRIBE_SIZE_MAX)
class DescribeLogReply(Message):
    """Where a log is, as the answering node knows it; of two answers that with the higher `epoch` is newer.

    `group` is for the headers of requests about the log, and is never used again for another log. `leader` is
    empty when none is known; `servers` are the nodes that hold the log.
    """

    name: ShortText
    group: U32
    epoch: U64
    leader: ShortText = ""
    servers: Items16[DescribedServer] = ()

    def check(self) -> None:
        """Raise ValueError when a name or a count is beyond what it may be."""
        check_described(self)
        if len(self.servers) > GOSSIP_MEMBERS_MAX:
            raise ValueError("too many servers")
        for server in self.servers:
            check_server(server)


@message(0x0314)
class DescribeLogs(Message):
    """Ask for the logs whose names come after `after`, at most `count_max` of them (0: the node's own)."""

    after: ShortText = ""
    count_max: U16 = 0

    def check(self) -> None:
        """Raise ValueError when no log can be called so."""
        check_text("log", self.after, NAME_SIZE_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedLog:
    """A log in a list: its name, number, age of what is said, and leader, empty when none is known."""

    name: ShortText
    group: U32
    epoch: U64
    leader: ShortText = ""


@message(0x0315, DESCRIBE_SIZE_MAX)
class DescribeLogsReply(Message):
    """The logs that the client may do anything with, by name; go on behind `next`, if it is not empty."""

    found: Items16[DescribedLog] = ()
    next: ShortText = ""

    def check(self) -> None:
        """Raise ValueError when a name or a count is beyond what it may be."""
        if len(self.found) > LOGS_PER_DESCRIBE_MAX:
            raise ValueError("too many logs")
        for log in self.found:
            check_described(log)
        check_log_name(self.next, empty=True)


@message(0x0316)
class FetchState(Message):
    """Ask for the log's replicated state just before the entry that holds `offset`, for a backup.

    With the next offset to be given out: the state as it is now.
    """

    offset: U64


@message(0x0317, STATE_REPLY_SIZE_MAX)
class FetchStateReply(Message):
    """The state, as in `<base>.state` on a disk; its own next offset is `next_offset`."""

    next_offset: U64
    state: Rest


def check_log_name(name: str, *, empty: bool = False) -> None:
    """Raise ValueError unless there can be a log of that name; the catalogue has one of its own."""
    if name != CATALOGUE_LOG:
        check_name("log", name, empty=empty)


def check_described(log: DescribedLog | DescribeLogReply) -> None:
    """Raise ValueError when a log cannot be as it is described."""
    check_log_name(log.name)
    check_name("node", log.leader, empty=True)
    if not log.group:
        raise ValueError("log without a group")


@message(0x0380)
class LeaderHint(Message):
    """The node that leads is another, and appends sent here take a hop more. On no stream; may be ignored."""

    name: ShortText

    def check(self) -> None:
        """Raise ValueError when it can be no node's name."""
        check_name("node", self.name)


@message(0x030F)
class Failure(FailureFields, Message):
    """The request of this stream was refused; the stream is over, the connection goes on."""


# What answers a request when it succeeds. Follow's stream stays open, the others end with their reply.
REPLIES: Final[Mapping[type[Message], type[Message]]] = {
    Produce: ProduceReply,
    Fetch: FetchReply,
    Follow: FollowFrames,
    Describe: DescribeReply,
    Bounds: BoundsReply,
    FindOffset: FindOffsetReply,
    RegisterProducer: RegisterProducerReply,
    DescribeLog: DescribeLogReply,
    DescribeLogs: DescribeLogsReply,
    FetchState: FetchStateReply,
    Read: ReadReply,
}
