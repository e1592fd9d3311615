"""One message of every kind, and more where a field can be there or not: the source of the wire vectors."""

from loghouse import errors
from loghouse.protocol.beat_messages import NodeBeat, encode_sleeping
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Cancel,
    Credit,
    Describe,
    DescribedLog,
    DescribedServer,
    DescribeLog,
    DescribeLogReply,
    DescribeLogs,
    DescribeLogsReply,
    DescribeReply,
    Failure,
    Fetch,
    FetchReply,
    FetchState,
    FetchStateReply,
    FindOffset,
    FindOffsetReply,
    Follow,
    FollowFrames,
    LeaderHint,
    Produce,
    ProduceReply,
    RegisterProducer,
    RegisterProducerReply,
)
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.cursor_messages import (
    AskCursor,
    AskCursorReply,
    CursorOperation,
    DescribedCursor,
    ForwardCursor,
    ForwardCursorReply,
    ForwardProduceWithCursor,
    ProduceWithCursor,
)
from loghouse.protocol.entry import EntryKind, crc32c, frame_seed, make_entry
from loghouse.protocol.forward_messages import (
    AdminOperation,
    ForwardAdmin,
    ForwardAdminReply,
    ForwardFailure,
    ForwardProduce,
    ForwardReply,
    Match,
)
from loghouse.protocol.gossip_messages import (
    Liveness,
    PushPull,
    PushPullReply,
    Statement,
    SwimAck,
    SwimBroadcast,
    SwimNack,
    SwimPing,
    SwimPingReq,
)
from loghouse.protocol.link_messages import Goodbye, Hello, LinkError, LinkRole, Ping, Pong
from loghouse.protocol.log_state import LogState, encode_log_state
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import (
    AppendEntries,
    AppendEntriesReply,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    NoRoom,
    ReadIndex,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from loghouse.protocol.range_messages import ForwardRange, ForwardRangeReply, Read, ReadReply
from loghouse.protocol.repair_messages import EntriesReply, EntriesRequest
from loghouse.protocol.roster_messages import RosterEntry, RosterReply, RosterRequest
from loghouse.protocol.routing_messages import (
    ForwardBounds,
    ForwardBoundsReply,
    ForwardFindOffset,
    ForwardFindOffsetReply,
    ForwardFrames,
    ForwardRead,
    ForwardWait,
    ForwardWaitReply,
    Lead,
    Leads,
)
from loghouse.protocol.trace_messages import ForwardTrace, RequestTrace

CLUSTER = bytes.fromhex("6c6f67686f7573652d74657374000001")
DISK_A = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
DISK_B = bytes.fromhex("101112131415161718191a1b1c1d1e1f")
GROUP = 1
TIME = 1_700_000_000_000_000
# A serialized RecordBatch of two records with the values "hello" and "world".
BATCH = bytes.fromhex("0a070a0568656c6c6f0a070a05776f726c64")
ENTRY = make_entry(
    frame_seed(CLUSTER, GROUP),
    index=3,
    term=1,
    kind=EntryKind.RECORDS,
    base_offset=0,
    timestamp=TIME,
    payload=BATCH,
    record_count=2,
)

CURSOR = DescribedCursor(
    name="orders→bills",
    position=2**64 - 1,
    epoch=8,
    holder="host-1:4711",
    subject="root",
    lease_milliseconds=10_000,
    left_milliseconds=9_000,
    waiting_count=2,
    lag=7,
)

WAITING = ("host-2:7", "host-3:8")


def body_of(message: Message) -> bytes:
    """Return the body of a message that is a part of another one."""
    return b"".join(map(bytes, message.encode()))


ALIVE = Statement(
    liveness=Liveness.ALIVE,
    name="a",
    disk_uuid=DISK_A,
    incarnation=7,
    address="10.0.0.1:8400",
    grpc_address="10.0.0.1:8401",
    version_min=1,
    version_max=1,
    tags=("zone=north",),
)
SUSPECT = Statement(liveness=Liveness.SUSPECT, name="b", disk_uuid=DISK_B, incarnation=2, accuser="a")
LEFT = Statement(liveness=Liveness.LEFT, name="c", disk_uuid=DISK_B, incarnation=2**64 - 1)

# name, message, stream
MESSAGES = (
    (
        "hello of a node",
        Hello(
            role=LinkRole.NODE,
            cluster_name="logs",
            cluster_uuid=CLUSTER,
            node_name="a",
            disk_uuid=DISK_A,
            entry_kinds=bytes([1, 2, 3, 4, 5]),
            software="loghouse 0.1.0",
        ),
        0,
    ),
    ("hello of a client", Hello(role=LinkRole.CLIENT, entry_kinds=bytes([1, 2, 3, 4, 5])), 0),
    ("ping", Ping(token=2**64 - 2), 0),
    ("pong", Pong(token=2**64 - 2), 0),
    ("link error", LinkError.of(errors.FrameTooLargeError(0x0301, 2**32 - 1, 8_388_672)), 0),
    ("goodbye", Goodbye(reason="shutting down"), 0),
    ("forward produce", ForwardProduce(request_id=1, subject="root", batch=BATCH, record_count=2), 0),
    (
        "forward produce with everything",
        ForwardProduce(
            request_id=2**64 - 1,
            subject="node:a",
            batch=BATCH,
            record_count=2,
            attributes=1,
            batch_crc=0,
            expect_offset=0,
            producer_id=5,
            producer_sequence=6,
        ),
        0,
    ),
    (
        "forward produce with a cursor",
        ForwardProduceWithCursor(
            cursor="orders→bills",
            epoch=8,
            position=2,
            produce=body_of(ForwardProduce(request_id=1, subject="root", batch=BATCH, record_count=2)),
        ),
        0,
    ),
    (
        "forward cursor: acquire",
        ForwardCursor(
            request_id=1,
            operation=CursorOperation.ACQUIRE,
            name="billing",
            holder="host-1:4711",
            subject="root",
            lease_milliseconds=10_000,
        ),
        0,
    ),
    (
        "forward cursor: set, by an administrator",
        ForwardCursor(
            request_id=2,
            operation=CursorOperation.SET,
            name="billing",
            subject="root",
            is_admin=True,
            position=3,
        ),
        0,
    ),
    ("forward cursor reply", ForwardCursorReply(request_id=1, cursors=(CURSOR,), waiting=WAITING), 0),
    ("forward cursor reply: none", ForwardCursorReply(request_id=2**64 - 1), 0),
    (
        "forward reply",
        ForwardReply(request_id=1, base_offset=0, record_count=2, timestamp=TIME, index=3, term=1),
        0,
    ),
    (
        "forward failure: sequence",
        ForwardFailure.answering(2**64 - 1, errors.SequenceError(5, 6, 3)),
        0,
    ),
    (
        "forward admin: add a learner",
        ForwardAdmin(request_id=3, operation=AdminOperation.ADD, name="c", number=1),
        0,
    ),
    ("forward admin: transfer", ForwardAdmin(request_id=4, operation=AdminOperation.TRANSFER), 0),
    (
        "forward admin: has left",
        ForwardAdmin(request_id=5, operation=AdminOperation.HAS_LEFT, name="c", number=4),
        16,
    ),
    ("forward admin reply", ForwardAdminReply(request_id=4, name="b"), 0),
    (
        "forward admin reply: progress",
        ForwardAdminReply(
            request_id=5, number=3, matches=(Match(member=1, index=3), Match(member=2, index=2))
        ),
        0,
    ),
    ("entries request", EntriesRequest(request_id=6, first_index=3, last_index=4), 0),
    ("entries reply", EntriesReply(request_id=6, frames=ENTRY.frame), 0),
    ("entries reply: none", EntriesReply(request_id=2**64 - 1), 0),
    ("roster request", RosterRequest(request_id=1), 0),
    (
        "roster reply",
        RosterReply(
            request_id=1,
            index=3,
            members=(
                RosterEntry(id=1, name="a", disk_uuid=bytes(range(16))),
                RosterEntry(id=2, name="b", disk_uuid=DISK_B),
            ),
        ),
        0,
    ),
    ("roster reply: none", RosterReply(request_id=2, index=0), 0),
    ("leads", Leads(leads=(Lead(group=16, term=3), Lead(group=2**32 - 1, term=2**64 - 1))), 0),
    ("leads: none", Leads(), 0),
    ("beat", NodeBeat(life=2**64 - 1, sleeping=encode_sleeping([(16, 3, 9), (2**32 - 1, 1, 2**64 - 1)])), 0),
    ("beat: no log sleeps", NodeBeat(life=1), 0),
    (
        "forward trace",
        ForwardTrace(request_id=7, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        0,
    ),
    (
        "request trace",
        RequestTrace(
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            tracestate="rojo=00f067aa0b",
        ),
        5,
    ),
    (
        "request trace: no state",
        RequestTrace(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
        6,
    ),
    ("forward read", ForwardRead(request_id=7, offset=1, size_max=65_536), 0),
    ("forward frames", ForwardFrames(request_id=7, next_offset=2, frames=ENTRY.frame), 0),
    ("forward wait", ForwardWait(request_id=8, offset=2), 0),
    ("forward wait reply", ForwardWaitReply(request_id=8, next_offset=3), 0),
    ("forward bounds", ForwardBounds(request_id=9), 0),
    ("forward bounds reply", ForwardBoundsReply(request_id=9, lowest=1, next_offset=2**64 - 1), 0),
    ("forward find offset", ForwardFindOffset(request_id=2**64 - 1, timestamp=TIME), 0),
    ("forward find offset reply", ForwardFindOffsetReply(request_id=10, offset=1, timestamp=TIME), 0),
    (
        "forward range",
        ForwardRange(
            request_id=11,
            first=1,
            end=5,
            is_reverse=True,
            consistency=1,
            count_max=10,
            size_max=4096,
            keys=(b"k",),
            key_prefixes=(b"",),
            headers=(("unit", b"mm"),),
        ),
        0,
    ),
    (
        "forward range reply",
        ForwardRangeReply(
            request_id=11, next_offset=0, lowest=0, committed=2, is_confirmed=True, frames=ENTRY.frame
        ),
        0,
    ),
    ("swim ping", SwimPing(sequence=9, name="b", disk_uuid=DISK_B, broadcasts=(ALIVE,)), 0),
    ("swim ping request", SwimPingReq(sequence=10, name="b", disk_uuid=DISK_B), 0),
    ("swim ack", SwimAck(sequence=9, broadcasts=(SUSPECT, LEFT)), 0),
    ("swim nack", SwimNack(sequence=10), 0),
    ("push pull", PushPull(members=(ALIVE, SUSPECT)), 0),
    ("push pull reply", PushPullReply(members=()), 0),
    ("swim broadcast", SwimBroadcast(broadcasts=(LEFT,)), 0),
    ("produce", Produce(batch=BATCH, record_count=2, batch_crc=crc32c(BATCH)), 1),
    (
        "produce with everything",
        Produce(
            batch=BATCH,
            record_count=2,
            attributes=1,
            batch_crc=0,
            expect_offset=0,
            producer_id=5,
            producer_sequence=6,
            timeout_milliseconds=1500,
        ),
        2,
    ),
    (
        "produce with a cursor",
        ProduceWithCursor(
            cursor="orders→bills",
            epoch=8,
            position=2,
            produce=body_of(Produce(batch=BATCH, record_count=2, batch_crc=crc32c(BATCH))),
        ),
        1,
    ),
    (
        "ask cursor: acquire",
        AskCursor(
            operation=CursorOperation.ACQUIRE, name="billing", holder="host-1:4711", lease_milliseconds=10_000
        ),
        2,
    ),
    (
        "ask cursor: advance, back",
        AskCursor(operation=CursorOperation.ADVANCE, flags=1, name="billing", epoch=8, position=1),
        2,
    ),
    ("ask cursor: list", AskCursor(operation=CursorOperation.LIST, name="b", count_max=2), 2),
    ("ask cursor reply", AskCursorReply(cursors=(CURSOR,), waiting=WAITING), 2),
    (
        "ask cursor reply: a page",
        AskCursorReply(cursors=(DescribedCursor(name="c", position=0, epoch=9),), next="c"),
        2,
    ),
    ("produce reply", ProduceReply(base_offset=0, record_count=2, timestamp=TIME), 1),
    ("fetch", Fetch(offset=1, size_max=65_536), 3),
    ("fetch reply", FetchReply(next_offset=2, frames=ENTRY.frame), 3),
    ("follow", Follow(offset=0, credit=1_048_576), 4),
    ("follow frames", FollowFrames(next_offset=2, frames=ENTRY.frame), 4),
    ("credit", Credit(credit=65_536), 4),
    ("cancel", Cancel(), 4),
    ("describe", Describe(), 5),
    (
        "describe reply",
        DescribeReply(
            cluster_uuid=CLUSTER,
            cluster_name="logs",
            node_name="a",
            logs=((1, "default"),),
            servers=(
                DescribedServer(name="a", address="10.0.0.1:8400", is_leader=True),
                DescribedServer(
                    name="b",
                    address="10.0.0.2:8400",
                    grpc_address="10.0.0.2:8401",
                    role=MemberRole.LEARNER,
                    is_alive=False,
                ),
            ),
        ),
        5,
    ),
    ("bounds", Bounds(), 6),
    ("bounds reply", BoundsReply(lowest=0, next_offset=2), 6),
    ("find offset", FindOffset(timestamp=TIME), 7),
    ("find offset reply", FindOffsetReply(offset=0, timestamp=TIME), 7),
    ("register producer", RegisterProducer(), 8),
    ("register producer reply", RegisterProducerReply(producer_id=2**64 - 1), 8),
    ("describe log", DescribeLog(name="orders"), 9),
    (
        "describe log reply",
        DescribeLogReply(
            name="orders",
            group=16,
            epoch=5,
            leader="b",
            servers=(DescribedServer(name="b", address="10.0.0.2:8400", is_leader=True),),
        ),
        9,
    ),
    ("describe logs", DescribeLogs(after="default", count_max=2), 10),
    (
        "describe logs reply",
        DescribeLogsReply(
            found=(
                DescribedLog(name="default", group=1, epoch=0, leader="a"),
                DescribedLog(name="orders", group=16, epoch=2**64 - 1),
            ),
            next="orders",
        ),
        10,
    ),
    ("fetch state", FetchState(offset=7), 11),
    (
        "fetch state reply",
        FetchStateReply(next_offset=6, state=encode_log_state(LogState(index=9, term=2))),
        11,
    ),
    ("read of a whole log", Read(), 12),
    (
        "read with everything",
        Read(
            first=7,
            end=2**64 - 2,
            is_reverse=False,
            consistency=1,
            count_max=2**32 - 1,
            size_max=1048576,
            wait_milliseconds=30_000,
            keys=(b"sensor-7", b""),
            key_prefixes=(b"sensor-",),
            headers=(("unit", b"mm"), ("", b"")),
        ),
        12,
    ),
    ("read backwards", Read(end=2, is_reverse=True, count_max=1), 13),
    (
        "read reply",
        ReadReply(next_offset=1, lowest=0, committed=2, is_confirmed=False, frames=ENTRY.frame),
        13,
    ),
    ("leader hint", LeaderHint(name="b"), 0),
    ("failure: offset out of range", Failure.of(errors.OffsetOutOfRangeError(9, 0, 2)), 3),
    ("failure: not permitted", Failure.of(errors.PermissionDeniedError("nobody", "produce", "default")), 1),
    ("failure: not leader", Failure.of(errors.NotLeaderError("b")), 1),
)

# name, message; each from member 1 to member 2
RAFT_MESSAGES = (
    ("request vote", RequestVote(term=5, last_log_index=3, last_log_term=1, transfer=True)),
    ("request pre-vote", RequestVote(term=5, last_log_index=3, last_log_term=1, pre_vote=True)),
    ("request vote reply", RequestVoteReply(term=5, granted=True)),
    (
        "append entries",
        AppendEntries(term=5, prev_log_index=2, prev_log_term=1, commit_index=2, entries=(ENTRY,)),
    ),
    ("append entries, none", AppendEntries(term=5, prev_log_index=2, prev_log_term=1, commit_index=2)),
    ("append entries reply", AppendEntriesReply(term=5, success=True, index=3)),
    (
        "append entries reply, conflict",
        AppendEntriesReply(term=5, success=False, index=9, hint_index=3, hint_term=1),
    ),
    ("heartbeat", Heartbeat(term=5, commit_index=3, read_round=2**64 - 1)),
    ("heartbeat reply", HeartbeatReply(term=5, read_round=2**64 - 1, last_index=3, timestamp=TIME)),
    (
        "install snapshot",
        InstallSnapshot(term=5, state=encode_log_state(LogState(index=3, term=1, next_offset=2))),
    ),
    ("timeout now", TimeoutNow(term=5)),
    ("no room", NoRoom(term=5)),
    ("read index", ReadIndex(term=5, context=77)),
    ("read index reply", ReadIndexReply(term=5, context=77, index=3)),
)
ENVELOPES = tuple(
    (name, Envelope(group=GROUP, source=1, target=2, message=message)) for name, message in RAFT_MESSAGES
)
