"""The worked session of docs/wire_format.md: a client says hello, appends, reads, follows, leaves."""

from loghouse.errors import OffsetOutOfRangeError
from loghouse.protocol import codec
from loghouse.protocol.client_messages import (
    Cancel,
    Credit,
    Failure,
    Fetch,
    FetchReply,
    Follow,
    FollowFrames,
    Produce,
    ProduceReply,
)
from loghouse.protocol.entry import crc32c
from loghouse.protocol.link_messages import Goodbye, Hello, LinkRole
from tests.vectors.messages import BATCH, CLUSTER, DISK_A, ENTRY, GROUP, TIME

KINDS = bytes([1, 2, 3, 4, 5])
CLIENT, NODE = "C", "N"

# who, stream, message
STEPS = (
    (CLIENT, 0, Hello(role=LinkRole.CLIENT, entry_kinds=KINDS)),
    (
        NODE,
        0,
        Hello(
            role=LinkRole.NODE,
            cluster_name="logs",
            cluster_uuid=CLUSTER,
            node_name="a",
            disk_uuid=DISK_A,
            entry_kinds=KINDS,
        ),
    ),
    (CLIENT, 1, Produce(batch=BATCH, record_count=2, batch_crc=crc32c(BATCH))),
    (CLIENT, 2, Fetch(offset=9)),
    (NODE, 2, Failure.of(OffsetOutOfRangeError(9, 0, 0))),
    (NODE, 1, ProduceReply(base_offset=0, record_count=2, timestamp=TIME)),
    (CLIENT, 3, Fetch(offset=1)),
    (NODE, 3, FetchReply(next_offset=2, frames=ENTRY.frame)),
    (CLIENT, 4, Follow(offset=0, credit=65_536)),
    (NODE, 4, FollowFrames(next_offset=2, frames=ENTRY.frame)),
    (CLIENT, 4, Credit(credit=len(ENTRY.frame))),
    (CLIENT, 4, Cancel()),
    (CLIENT, 0, Goodbye()),
)


def lines():
    """Return the session as the document shows it: a comment, and the frame in hex, 32 bytes a line."""
    found = []
    for who, stream, message in STEPS:
        on = f", stream {stream}" if stream else ""
        found.append(f"{who}: {type(message).__name__}{on}")
        group = GROUP if stream and who == CLIENT else 0
        data = b"".join(codec.encode(message, group=group, stream=stream)).hex()
        found += [f"   {data[at : at + 64]}" for at in range(0, len(data), 64)]
    return found
