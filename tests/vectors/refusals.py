"""What a reader must refuse on the wire: frames by their header or their body, and what breaks a session.

A row is (name, stage, place, bytes, error): when the bytes are refused, and the field that is why.
"header": sixteen bytes are enough; "body": the frame is whole; "session": a client's bytes from its Hello on.
"""

from loghouse import errors
from loghouse.protocol import codec
from loghouse.protocol.client_messages import Cancel, Credit, Describe, DescribeReply, Fetch
from loghouse.protocol.framing import pack_header
from loghouse.protocol.link_messages import Hello, LinkRole
from tests.vectors.messages import BATCH, CLUSTER, ENVELOPES, GROUP, MESSAGES

HEADER_SIZE = 16
KIB, MIB = 1024, 1024 * 1024
RULE, SIZE = errors.ProtocolError, errors.FrameTooLargeError
BODY, WHO, VERSION = errors.MalformedMessageError, errors.IdentityError, errors.VersionError
FRAMES = {
    **{
        name: b"".join(codec.encode(message, group=GROUP if stream else 0, stream=stream))
        for name, message, stream in MESSAGES
    },
    **{name: b"".join(codec.encode_envelope(envelope)) for name, envelope in ENVELOPES},
}


def reframed(frame, body):
    """Return a frame with another body."""
    return len(body).to_bytes(4, "big") + frame[4:HEADER_SIZE] + body


def cut(name, count=1):
    """Return the frame of a vector without its last bytes."""
    return reframed(FRAMES[name], FRAMES[name][HEADER_SIZE:-count])


def longer(name, more=b"\0"):
    """Return the frame of a vector with bytes behind it."""
    return reframed(FRAMES[name], FRAMES[name][HEADER_SIZE:] + more)


def changed(name, at, new, old_size=None):
    """Return the frame of a vector with other bytes at a place of its body."""
    body = FRAMES[name][HEADER_SIZE:]
    size = len(new) if old_size is None else old_size
    return reframed(FRAMES[name], body[:at] + new + body[at + size :])


def headers():
    """Frames refused before any byte of their body is held."""
    for name, kind, size_max in (
        ("hello", 0x0001, 4 * KIB),
        ("ping", 0x0002, 8 * KIB),
        ("heartbeat", 0x0105, 80),
        ("append entries", 0x0103, 9 * MIB + 72),
        ("leads", 0x01B0, 128 * KIB),
        ("forward frames", 0x01B2, 8 * MIB + 128),
        ("swim ping", 0x0201, 64 * KIB),
        ("push pull", 0x0205, 256 * KIB),
        ("fetch", 0x0303, 8 * KIB),
        ("follow frames", 0x0306, 8 * MIB + 128),
        ("describe reply", 0x030A, 256 * KIB),
        ("ask cursor", 0x0320, 8 * KIB),
        ("ask cursor reply", 0x0321, 256 * KIB),
        ("produce with a cursor", 0x0322, 8 * MIB + 208),
        ("unknown kind", 0x0077, 64 * KIB),
    ):
        yield f"{name} of {size_max + 1} bytes", "length", pack_header(size_max + 1, kind), SIZE
    yield "produce of 2^32 - 1 bytes", "length", pack_header(2**32 - 1, 0x0301, stream=1), SIZE
    yield "unknown critical flag", "flags", pack_header(0, 0x0001, flags=0x0001), RULE


def link_bodies():
    """Frames of any connection."""
    yield "hello without its magic", "magic", pack_header(1, 0x0001) + b"x"
    yield "hello of another magic", "magic", changed("hello of a client", 3, b"T")
    yield "hello of version 0", "version_min", changed("hello of a client", 4, b"\0\0")
    yield "hello of versions 2 to 1", "version_min", changed("hello of a client", 4, b"\0\2")
    yield "hello of role 3", "role", changed("hello of a client", 8, b"\3")
    yield "hello of a client with a disk", "disk_uuid", changed("hello of a client", 33, b"\1")
    yield "hello of a node without a name", "node_name", changed("hello of a node", 54, b"\0", 2)
    yield "hello of a cluster in capitals", "cluster_name", changed("hello of a node", 50, b"L")
    yield "hello cut in its kinds", "entry_kinds", cut("hello of a client")
    yield "ping of 7 bytes", "token", pack_header(7, 0x0002) + bytes(7)
    yield "ping of 9 bytes", "token", pack_header(9, 0x0002) + bytes(9)
    yield "pong of no bytes", "token", pack_header(0, 0x0003)
    yield "goodbye longer than it says", "reason", pack_header(3, 0x0005) + b"\x00\x00x"
    yield "goodbye shorter than it says", "reason", pack_header(3, 0x0005) + b"\x00\x05x"
    yield "goodbye that is not UTF-8", "reason", pack_header(3, 0x0005) + b"\x00\x01\xff"
    yield "goodbye in two lines", "reason", pack_header(3, 0x0005) + b"\x00\x01\n"
    yield "goodbye of 2049 bytes", "reason", pack_header(2051, 0x0005) + b"\x08\x01" + b"x" * 2049
    yield "link error with 9 numbers", "numbers", pack_header(78, 0x0004) + b"\0\1\x09" + bytes(75)
    yield "link error cut in a number", "numbers", pack_header(9, 0x0004) + b"\0\1\1" + bytes(6)


def node_bodies():
    """Frames between nodes."""
    yield "heartbeat without its last byte", "read_round", cut("heartbeat")
    yield "heartbeat and a byte", "read_round", longer("heartbeat")
    yield "request vote of addresses alone", "term", pack_header(8, 0x0101) + bytes(8)
    yield "timeout now without addresses", "target", pack_header(7, 0x0108) + bytes(7)
    yield "append entries with a damaged entry", "entries", changed("append entries", 60, b"\xff")
    yield "append entries with half an entry", "entries", cut("append entries")
    yield "append entries behind another place", "entries", changed("append entries", 23, b"\5")
    yield "install snapshot without a term", "term", pack_header(15, 0x0107) + bytes(15)
    yield "forward produce with a reserved bit", "given", changed("forward produce", 8, b"\4")
    yield "forward produce of no records", "record_count", changed("forward produce", 11, bytes(4))
    yield "forward produce with reserved attributes", "attributes", changed("forward produce", 10, b"\x08")
    yield (
        "forward produce with a cursor, of a producer",
        "produce",
        changed("forward produce with a cursor", 64, b"\1"),
    )
    yield (
        "forward produce with a cursor, cut in its batch's fields",
        "produce",
        cut("forward produce with a cursor", 30),
    )
    yield "forward cursor of a third truth", "is_admin", changed("forward cursor: acquire", 35, b"\2")
    yield "forward cursor and a byte", "count_max", longer("forward cursor: acquire")
    yield "forward cursor reply of 65535 cursors", "cursors", pack_header(10, 0x0126) + bytes(8) + b"\xff\xff"
    yield "forward admin: add nobody", "name", changed("forward admin: transfer", 8, b"\x01")
    yield "forward admin reply cut in its matches", "matches", cut("forward admin reply: progress")
    yield "forward reply and a byte", "term", longer("forward reply")
    yield "entries request backwards", "last_index", changed("entries request", 23, b"\1")
    yield "entries request from entry 0", "first_index", changed("entries request", 8, bytes(8))
    yield "roster reply cut in a disk's uuid", "members", cut("roster reply")
    yield "leads of group 0", "leads", changed("leads", 2, bytes(4))
    yield "leads in term 0", "leads", changed("leads", 6, bytes(8))
    yield "leads cut in a term", "leads", cut("leads")
    yield "leads of 65535 groups", "leads", pack_header(2, 0x01B0) + b"\xff\xff"
    yield "forward read without its last byte", "size_max", cut("forward read")
    yield "forward frames of 15 bytes", "next_offset", pack_header(15, 0x01B2) + bytes(15)
    yield "forward wait without an offset", "offset", cut("forward wait", 8)
    yield "forward bounds and a byte", "request_id", longer("forward bounds")
    yield "forward find offset reply and a byte", "timestamp", longer("forward find offset reply")
    yield "swim ping of nobody", "name", changed("swim ping request", 4, b"\0", 2)
    yield "swim broadcast of nothing", "broadcasts", pack_header(1, 0x0207) + b"\0"
    yield "swim broadcast of liveness 5", "liveness", changed("swim broadcast", 1, b"\5")
    yield "swim broadcast of a suspect without accuser", "accuser", changed("swim broadcast", 1, b"\2")
    yield "push pull of 65535 members", "members", pack_header(2, 0x0205) + b"\xff\xff"


def client_bodies():
    """Requests of a client, and a node's answers."""
    yield "produce without its fields", "given", pack_header(3, 0x0301, stream=1) + bytes(3)
    yield "produce with a reserved bit", "given", pack_header(35, 0x0301, stream=1) + b"\x04" + bytes(34)
    yield "produce with reserved attributes", "attributes", changed("produce", 2, b"\x08")
    yield "produce with a checksum that is not given", "batch_crc", changed("produce", 0, b"\0")
    yield "produce with an offset that is not given", "expect_offset", changed("produce", 18, b"\1")
    yield "produce with a cursor without a batch", "produce", cut("produce with a cursor", 53)
    yield "produce with a cursor and a reserved bit", "given", changed("produce with a cursor", 31, b"\x04")
    yield "produce with a cursor, of a producer", "produce", changed("produce with a cursor", 57, b"\1")
    yield "produce with a cursor in two lines", "cursor", changed("produce with a cursor", 1, b"\n")
    yield "ask cursor without its last byte", "count_max", cut("ask cursor: acquire")
    yield "ask cursor and a byte", "count_max", longer("ask cursor: list")
    yield "ask cursor in two lines", "name", changed("ask cursor: list", 3, b"\n")
    yield "ask cursor reply of 65535 cursors", "cursors", pack_header(2, 0x0321, stream=1) + b"\xff\xff"
    yield "ask cursor reply cut in its cursor", "cursors", cut("ask cursor reply", 27)
    yield "ask cursor reply cut in who waits", "waiting", cut("ask cursor reply")
    second_line = reframed(FRAMES["ask cursor reply"], FRAMES["ask cursor reply"][HEADER_SIZE:-1] + b"\n")
    yield "ask cursor reply of a waiter in two lines", "waiting", second_line
    yield "produce reply without its last byte", "timestamp", cut("produce reply")
    yield "fetch without its last byte", "size_max", cut("fetch")
    yield "fetch and a byte", "size_max", longer("fetch")
    yield "fetch reply of 7 bytes", "next_offset", pack_header(7, 0x0304, stream=3) + bytes(7)
    yield "follow without its credit", "credit", cut("follow", 4)
    yield "credit of 3 bytes", "credit", cut("credit")
    yield "cancel with a body", "body", longer("cancel")
    yield "describe with a body", "body", longer("describe")
    yield "bounds reply and a byte", "next_offset", longer("bounds reply")
    yield "register producer reply of 7 bytes", "producer_id", cut("register producer reply")
    yield "describe log with a line break", "name", pack_header(2, 0x0312, stream=1) + b"\1\n"
    yield "describe log reply without a group", "group", changed("describe log reply", 10, b"\0")
    yield "describe log reply of a log with an underscore", "name", changed("describe log reply", 1, b"_")
    yield "describe log reply without its last byte", "servers", cut("describe log reply")
    yield "describe logs without its last byte", "count_max", cut("describe logs")
    yield "describe logs reply of 65535 logs", "found", pack_header(2, 0x0315, stream=1) + b"\xff\xff"
    yield "describe logs reply and a byte", "next", longer("describe logs reply")
    yield "leader hint of nobody", "name", pack_header(1, 0x0380) + b"\0"
    yield "leader hint with an underscore", "name", pack_header(4, 0x0380) + b"\3a_b"
    yield "describe reply of 65535 logs", "logs", pack_header(22, 0x030A) + bytes(16) + b"\x01a\x01a\xff\xff"
    yield (
        "describe reply of a third truth",
        "is_alive",
        changed("describe reply", -1 % _size("describe reply"), b"\2"),
    )
    yield "describe reply of role 0", "role", changed("describe reply", -3 % _size("describe reply"), b"\0")
    yield "describe reply without its last byte", "servers", cut("describe reply")
    yield (
        "failure with a text that is not UTF-8",
        "text",
        changed("failure: not leader", -1 % _size("failure: not leader"), b"\xff"),
    )
    yield "failure and a byte", "text", longer("failure: not leader")


def batches():
    """What Produce may not carry: (name, place, codec, record_count, batch_crc, bytes); None: not given."""
    one = BATCH[:9]  # a record of which the value is "hello"
    yield "no records", "record_count", 0, 0, None, b""
    yield "131,073 records", "record_count", 0, 131_073, None, BATCH
    yield "fewer records than said", "record_count", 0, 3, None, BATCH
    yield "more records than said", "record_count", 0, 1, None, BATCH
    yield "a wrong checksum", "batch_crc", 0, 2, 1, BATCH
    yield "codec 2", "codec", 2, 2, None, BATCH
    yield "cut in a record", "batch", 0, 2, None, BATCH[:-1]
    yield "a record that is longer than the batch", "batch", 0, 1, None, b"\x0a\x08" + one[2:]
    yield "a record cut in a field", "batch", 0, 1, None, b"\x0a\x02\x0a\x05"
    yield "a record that is a number", "record_count", 0, 1, None, b"\x08\x01"
    yield "a length of eleven bytes", "batch", 0, 1, None, b"\x0a" + b"\xff" * 10 + b"\x01"
    yield "a tag without a value", "batch", 0, 1, None, one + b"\x0a"
    yield "wire type 7", "batch", 0, 1, None, one + b"\x0f"
    yield "zstd that is none", "batch", 1, 2, None, BATCH


def _size(name):
    return len(FRAMES[name]) - HEADER_SIZE


def sessions():
    """What a client, `root`, sends from the start on to node `a` of cluster `logs`."""

    def frame(message, stream=1):
        return b"".join(codec.encode(message, group=GROUP, stream=stream))

    def greeting(**fields):
        return frame(Hello(role=LinkRole.CLIENT, entry_kinds=bytes([1, 2, 3, 4, 5]), **fields), 0)

    hello, fetch = greeting(), Fetch(offset=0)
    describe_reply = DescribeReply(cluster_uuid=CLUSTER, cluster_name="logs", node_name="a")
    yield "a request before Hello", "kind", frame(fetch), RULE
    yield "a second Hello", "kind", hello + hello, RULE
    yield "a Hello of versions 2 to 3", "version_min", greeting(version_min=2, version_max=3), VERSION
    yield "a Hello of another cluster", "cluster_name", greeting(cluster_name="other"), WHO
    yield "a Hello of another uuid", "cluster_uuid", greeting(cluster_uuid=bytes(15) + b"\1"), WHO
    node = Hello(role=LinkRole.NODE, cluster_name="logs", node_name="b", entry_kinds=bytes([1, 2, 3, 4, 5]))
    yield "a client that says it is a node", "role", frame(node, 0), WHO
    yield "a request on stream 0", "stream", hello + frame(fetch, 0), RULE
    yield "a stream's number again", "stream", hello + frame(fetch) + frame(fetch), RULE
    yield "a lower stream's number", "stream", hello + frame(fetch, 2) + frame(fetch, 1), RULE
    yield "credit for nothing", "stream", hello + frame(Credit(credit=1), 7), RULE
    yield "credit for a fetch", "stream", hello + frame(fetch) + frame(Credit(credit=1)), RULE
    yield "cancel of nothing", "stream", hello + frame(Cancel(), 7), RULE
    yield "an answer to nobody", "kind", hello + frame(describe_reply), RULE
    yield "a node's message from a client", "kind", hello + FRAMES["heartbeat"], RULE
    yield "an unknown kind that may not be ignored", "kind", hello + pack_header(0, 0x0042), RULE
    yield "a good request and a bad one", "body", hello + frame(Describe()) + longer("fetch"), BODY


def rows():
    """Yield every row."""
    for name, place, data, error in headers():
        yield name, "header", place, data, error
    for bodies in (link_bodies, node_bodies, client_bodies):
        for name, place, data in bodies():
            yield name, "body", place, data, BODY
    for name, place, data, error in sessions():
        yield name, "session", place, data, error
