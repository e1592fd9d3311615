"""Kinds 0x03xx: what a client asks and what a node answers. See `docs/wire_format.md`.

Every request opens a stream: the frame header's `stream` is a number the client chooses, larger than any
before on this connection; replies carry it back. The header's `group` says which log (1 is `default`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from construct import (
    Bytes,
    Flag,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    PrefixedArray,
    Struct,
)

from loghouse.limits import (
    ADDRESS_SIZE_MAX,
    CONTROL_SIZE_MAX,
    DESCRIBE_SIZE_MAX,
    FETCH_REPLY_SIZE_MAX,
    GOSSIP_MEMBERS_MAX,
    LOGS_PER_DESCRIBE_MAX,
    PRODUCE_SIZE_MAX,
)
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.entry import CODEC_MASK, Buffer
from loghouse.protocol.failures import FAILURE_WIRE, FailureFields
from loghouse.protocol.layout import FixedLayout
from loghouse.protocol.message import LONG_TEXT, SHORT_TEXT, Message, check_name, check_text

_HAS_CRC: Final = 0x01
_HAS_EXPECT_OFFSET: Final = 0x02


@dataclass(slots=True)
class Produce(Message):
    """Append a batch: a serialized RecordBatch, compressed as `attributes` says (as in the entry frame).

    Answered by ProduceReply when it is durable on a majority. `batch_crc` is the CRC32C of `batch`, kept with
    it for good; `timeout_milliseconds` 0 means the server's own. `producer_id` 0: not idempotent.
    """

    KIND: ClassVar[int] = 0x0301
    SIZE_MAX: ClassVar[int] = PRODUCE_SIZE_MAX
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

    # By position, and not frozen, like its reply: one of each is made for every append, on either side.

    def _fixed(self, layout: FixedLayout) -> tuple[Any, ...]:
        crc, expect = self.batch_crc, self.expect_offset
        return (
            (_HAS_CRC if crc is not None else 0) | (_HAS_EXPECT_OFFSET if expect is not None else 0),
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
        if given & ~(_HAS_CRC | _HAS_EXPECT_OFFSET):
            raise ValueError(f"reserved bits set in given: {given:#04x}")
        if (crc and not given & _HAS_CRC) or (expect and not given & _HAS_EXPECT_OFFSET):
            raise ValueError("a field that is not given must be zero")
        return cls(
            tail,
            record_count,
            attributes,
            crc if given & _HAS_CRC else None,
            expect if given & _HAS_EXPECT_OFFSET else None,
            producer_id,
            producer_sequence,
            timeout,
        )


@dataclass(slots=True, kw_only=True)
class ProduceReply(Message):
    """The batch is durable; its first record has `base_offset`. `timestamp` in microseconds."""

    KIND: ClassVar[int] = 0x0302
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct(
        "base_offset" / Int64ub, "record_count" / Int32ub, "timestamp" / Int64ub
    ).compile()

    base_offset: int
    record_count: int
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch(Message):
    """Read entry frames from the one that holds `offset`: at least one, else at most `size_max` bytes.

    `size_max` 0 means the server's own. Behind the last record this is an error; Follow waits.
    """

    KIND: ClassVar[int] = 0x0303
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct("offset" / Int64ub, "size_max" / Int32ub).compile()

    offset: int
    size_max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReply(Message):
    """Whole entry frames, of all kinds; go on at `next_offset`."""

    KIND: ClassVar[int] = 0x0304
    SIZE_MAX: ClassVar[int] = FETCH_REPLY_SIZE_MAX
    TAIL: ClassVar[str] = "frames"
    WIRE: ClassVar = Struct("next_offset" / Int64ub, "frames" / GreedyBytes).compile()

    next_offset: int
    frames: Buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow(Message):
    """Read from `offset` on, and go on as records come. The server may send `credit` bytes of frames."""

    KIND: ClassVar[int] = 0x0305
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct("offset" / Int64ub, "credit" / Int32ub).compile()

    offset: int
    credit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowFrames(Message):
    """The next entry frames of a followed log; their bytes are taken off the stream's credit."""

    KIND: ClassVar[int] = 0x0306
    SIZE_MAX: ClassVar[int] = FETCH_REPLY_SIZE_MAX
    TAIL: ClassVar[str] = "frames"
    WIRE: ClassVar = Struct("next_offset" / Int64ub, "frames" / GreedyBytes).compile()

    next_offset: int
    frames: Buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit(Message):
    """On a followed stream: the server may send this many bytes of frames more."""

    KIND: ClassVar[int] = 0x0307
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct("credit" / Int32ub).compile()

    credit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Message):
    """Forget this stream. What it asked for may still happen; frames already under way are to be ignored."""

    KIND: ClassVar[int] = 0x0308
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct().compile()


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe(Message):
    """Ask for the cluster, its logs and its nodes. A node that belongs to no cluster answers, too."""

    KIND: ClassVar[int] = 0x0309
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct().compile()


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedServer:
    """A node as DescribeReply shows it. `grpc_address` is empty when it has no direct gRPC door."""

    name: str
    address: str
    grpc_address: str = ""
    role: MemberRole = MemberRole.VOTER
    is_leader: bool = False
    is_alive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeReply(Message):
    """The cluster as the answering node sees it. `cluster_uuid` is zero when it belongs to none.

    `logs` are pairs of group and name.
    """

    KIND: ClassVar[int] = 0x030A
    SIZE_MAX: ClassVar[int] = DESCRIBE_SIZE_MAX
    WIRE: ClassVar = Struct(
        "cluster_uuid" / Bytes(16),
        "cluster_name" / SHORT_TEXT,
        "node_name" / SHORT_TEXT,
        "logs" / PrefixedArray(Int16ub, Struct("group" / Int32ub, "name" / SHORT_TEXT)),
        "servers"
        / PrefixedArray(
            Int16ub,
            Struct(
                "name" / SHORT_TEXT,
                "address" / LONG_TEXT,
                "grpc_address" / LONG_TEXT,
                "role" / Int8ub,
                "is_leader" / Flag,
                "is_alive" / Flag,
            ),
        ),
    ).compile()

    cluster_uuid: bytes
    cluster_name: str
    node_name: str
    logs: tuple[tuple[int, str], ...] = ()
    servers: tuple[DescribedServer, ...] = ()

    def check(self) -> None:
        """Raise ValueError when a name or a count is beyond what it may be."""
        check_name("cluster", self.cluster_name)
        check_name("node", self.node_name)
        if len(self.logs) > LOGS_PER_DESCRIBE_MAX or len(self.servers) > GOSSIP_MEMBERS_MAX:
            raise ValueError("too many logs or servers")
        for _, name in self.logs:
            check_name("log", name)
        for server in self.servers:
            check_name("node", server.name)
            check_text("address", server.address, ADDRESS_SIZE_MAX)
            check_text("address", server.grpc_address, ADDRESS_SIZE_MAX)

    def _values(self) -> dict[str, Any]:
        return {
            "cluster_uuid": self.cluster_uuid,
            "cluster_name": self.cluster_name,
            "node_name": self.node_name,
            "logs": [{"group": group, "name": name} for group, name in self.logs],
            "servers": [
                {
                    "name": server.name,
                    "address": server.address,
                    "grpc_address": server.grpc_address,
                    "role": int(server.role),
                    "is_leader": server.is_leader,
                    "is_alive": server.is_alive,
                }
                for server in self.servers
            ],
        }

    @classmethod
    def _from_values(cls, parsed: Mapping[str, Any]) -> Self:
        return cls(
            cluster_uuid=parsed["cluster_uuid"],
            cluster_name=parsed["cluster_name"],
            node_name=parsed["node_name"],
            logs=tuple((log["group"], log["name"]) for log in parsed["logs"]),
            servers=tuple(
                DescribedServer(
                    name=server["name"],
                    address=server["address"],
                    grpc_address=server["grpc_address"],
                    role=MemberRole(server["role"]),
                    is_leader=server["is_leader"],
                    is_alive=server["is_alive"],
                )
                for server in parsed["servers"]
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds(Message):
    """Ask for the readable range, confirmed by the leader."""

    KIND: ClassVar[int] = 0x030B
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct().compile()


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundsReply(Message):
    """The lowest readable offset, and the next to be given out; equal: no records."""

    KIND: ClassVar[int] = 0x030C
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct("lowest" / Int64ub, "next_offset" / Int64ub).compile()

    lowest: int
    next_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FindOffset(Message):
    """Ask for the first offset appended at or after `timestamp`, in microseconds since the epoch."""

    KIND: ClassVar[int] = 0x030D
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct("timestamp" / Int64ub).compile()

    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FindOffsetReply(Message):
    """That offset and when it was appended; the next offset and 0 when nothing is that young."""

    KIND: ClassVar[int] = 0x030E
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct("offset" / Int64ub, "timestamp" / Int64ub).compile()

    offset: int
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterProducer(Message):
    """Ask for a producer id, for appends done exactly once; only this client's subject may use it."""

    KIND: ClassVar[int] = 0x0310
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct().compile()


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterProducerReply(Message):
    """The id is committed: every node knows it."""

    KIND: ClassVar[int] = 0x0311
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct("producer_id" / Int64ub).compile()

    producer_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderHint(Message):
    """The node that leads is another, and appends sent here take a hop more. On no stream; may be ignored."""

    KIND: ClassVar[int] = 0x0380
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct("name" / SHORT_TEXT).compile()

    name: str

    def check(self) -> None:
        """Raise ValueError when it can be no node's name."""
        check_name("node", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(FailureFields, Message):
    """The request of this stream was refused; the stream is over, the connection goes on."""

    KIND: ClassVar[int] = 0x030F
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = FAILURE_WIRE


CLIENT_MESSAGES: Final[tuple[type[Message], ...]] = (
    Produce,
    ProduceReply,
    Fetch,
    FetchReply,
    Follow,
    FollowFrames,
    Credit,
    Cancel,
    Describe,
    DescribeReply,
    Bounds,
    BoundsReply,
    FindOffset,
    FindOffsetReply,
    RegisterProducer,
    RegisterProducerReply,
    LeaderHint,
    Failure,
)

# What answers a request when it succeeds. Follow's stream stays open, the others end with their reply.
REPLIES: Final[Mapping[type[Message], type[Message]]] = {
    Produce: ProduceReply,
    Fetch: FetchReply,
    Follow: FollowFrames,
    Describe: DescribeReply,
    Bounds: BoundsReply,
    FindOffset: FindOffsetReply,
    RegisterProducer: RegisterProducerReply,
}
