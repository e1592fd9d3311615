"""HTTP/2 peers that flood the gRPC door of a real node: bounded memory, and an honest client beside them.

The frames are made by hand (RFC 9113, RFC 7541): no client library would send them.
"""

import contextlib
import socket
import ssl
import struct
import threading

import grpc

from loghouse.api.v1 import log_pb2
from loghouse.limits import KIB, MIB
from loghouse.net.listener import HTTP2_PREFACE
from tests.e2e.test_node_process import ProcessTestCase
from tests.processes import long

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4
GROWTH_MAX = 16 * MIB
# gRPC's own header parser keeps up to 16 MiB of a block that does not end, and copies it, before it gives up.
UNENDING_GROWTH_MAX = 64 * MIB
SECONDS_MAX = 60
PIECE = 256 * KIB  # what is written between two looks at the node's memory


def frame(kind: int, flags: int = 0, stream: int = 0, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def literal(name: bytes, value: bytes, *, first: int = 0x00) -> bytes:
    """A header field, not indexed (`first` 0x40: put into the dynamic table), without Huffman coding."""
    return bytes([first]) + integer(len(name)) + name + integer(len(value)) + value


def integer(number: int, prefix: int = 7) -> bytes:
    """An integer of RFC 7541 5.1 with nothing before its prefix."""
    limit = (1 << prefix) - 1
    if number < limit:
        return bytes([number])
    coded, number = [limit], number - limit
    while number >= 128:
        coded.append(number % 128 + 128)
        number //= 128
    return bytes([*coded, number])


def request(method: bytes) -> bytes:
    return b"".join(
        literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":path", b"/log.v1.Log/" + method),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
    )


class FloodTests(ProcessTestCase):
    """Rows 29 to 33: whatever an authenticated HTTP/2 peer sends, others are served and memory is bounded."""

    def setUp(self):
        super().setUp()
        self.node = self.make_node()
        self.node.start()
        self.honest = self.stub(self.node)
        self.produce(self.honest, b"first")
        self.offset = 0

    def connect(self, settings: bytes = b"") -> ssl.SSLSocket:
        """A connection as `root`, greeted."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.certificates.path("ca"))
        context.load_cert_chain(self.certificates.path("root"), self.certificates.key_path("root"))
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", self.node.port), SECONDS_MAX)
        tls = context.wrap_socket(plain, server_hostname="localhost")
        self.addCleanup(tls.close)
        tls.sendall(HTTP2_PREFACE + frame(SETTINGS, body=settings))
        return tls

    def drain(self, tls: ssl.SSLSocket) -> None:
        """Read what comes until the end, in a thread."""

        def read() -> None:
            with contextlib.suppress(OSError, ValueError):
                while tls.recv(65_536):
                    pass

        threading.Thread(target=read, daemon=True).start()

    def flood(self, tls: ssl.SSLSocket, pieces, memory_max: int | None = None) -> None:
        """Write until the node ends the connection or there is no more; watch its memory and serve others."""
        if memory_max is None:
            memory_max = self.node.anonymous_size() + GROWTH_MAX
        with contextlib.suppress(OSError):
            waiting = []
            for piece in pieces:
                waiting.append(piece)
                if sum(map(len, waiting)) >= PIECE:
                    tls.sendall(b"".join(waiting))
                    waiting.clear()
                    self.assertUnharmed(memory_max)
            tls.sendall(b"".join(waiting))
        self.assertUnharmed(memory_max)

    def assertUnharmed(self, memory_max: int) -> None:
        reply = self.honest.Produce(
            log_pb2.ProduceRequest(record=log_pb2.Record(value=b"honest")), timeout=SECONDS_MAX
        )
        self.offset += 1
        self.assertEqual(reply.offset, self.offset)
        self.assertLess(self.node.anonymous_size(), memory_max)

    def test_rapid_reset(self):
        """Row 29: streams that are opened and reset at once."""
        tls = self.connect()
        self.drain(tls)
        headers = request(b"Produce")
        reset = struct.pack(">I", 8)
        self.flood(
            tls,
            (
                frame(HEADERS, END_HEADERS, stream, headers) + frame(RST_STREAM, 0, stream, reset)
                for stream in range(1, 40_001, 2)
            ),
        )

    @long
    def test_continuation_flood(self):
        """Row 30: a header block that never ends, several times over."""
        junk = b"".join(literal(b"x-%d" % number, bytes(1000)) for number in range(15))
        first = frame(HEADERS, 0, 1, request(b"Produce"))
        # Against the memory before the first: what that one cost is given back at any time, or used again.
        memory_max = self.node.anonymous_size() + UNENDING_GROWTH_MAX
        for _ in range(2):
            tls = self.connect()
            self.drain(tls)
            self.flood(tls, [first, *(frame(CONTINUATION, 0, 1, junk) for _ in range(1500))], memory_max)

    @long
    def test_pings_and_settings(self):
        """Row 31: pings and settings, with their answers read or not."""
        for is_read in (True, False):
            tls = self.connect()
            if is_read:
                self.drain(tls)
            else:
                tls.settimeout(1)
            body = struct.pack(">HI", INITIAL_WINDOW_SIZE, 65_535)
            self.flood(tls, (frame(PING, body=bytes(8)) + frame(SETTINGS, body=body) for _ in range(20_000)))

    def test_header_bomb(self):
        """Row 32: a header of four kilobytes in the table, named again by one byte each, many times over."""
        tls = self.connect()
        self.drain(tls)
        large = literal(b"x", bytes(3900), first=0x40)
        again = bytes([0x80 | 62]) * (15 * KIB)
        blocks = (
            frame(HEADERS, END_HEADERS | END_STREAM, stream, request(b"Produce") + large + again)
            for stream in range(1, 401, 2)
        )
        self.flood(tls, blocks)

    def test_no_window(self):
        """Row 33: streams that are asked for and never given room."""
        for _ in range(8):
            self.produce(self.honest, bytes(500_000))
            self.offset += 1
        tls = self.connect(struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))
        self.drain(tls)
        asked = log_pb2.ConsumeRequest(offset=0).SerializeToString()
        message = b"\0" + struct.pack(">I", len(asked)) + asked
        self.flood(
            tls,
            (
                frame(HEADERS, END_HEADERS, stream, request(b"ConsumeStream"))
                + frame(DATA, END_STREAM, stream, message)
                for stream in range(1, 401, 2)
            ),
        )
        self.assertEqual(self.consume(self.honest, 0), b"first")

    def test_strangers_are_not_heard(self):
        """Without a client's certificate not one HTTP/2 frame is looked at."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.certificates.path("ca"))
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", self.node.port), SECONDS_MAX)
        self.addCleanup(plain.close)
        with self.assertRaises(OSError):
            tls = context.wrap_socket(plain, server_hostname="localhost")
            tls.sendall(HTTP2_PREFACE + frame(SETTINGS))
            while True:
                if not tls.recv(1000):
                    raise ConnectionError("closed")
        self.assertEqual(self.consume(self.honest, 0), b"first")
        self.assertStatus(grpc.StatusCode.OUT_OF_RANGE, self.honest.Consume, log_pb2.ConsumeRequest(offset=9))
