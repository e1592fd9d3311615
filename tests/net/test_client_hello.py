"""Tests of loghouse.net.client_hello: what real clients send, cut anywhere, and everything else refused."""

import contextlib
import ssl

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import ProtocolError
from loghouse.limits import CLIENT_HELLO_SIZE_MAX
from loghouse.net.client_hello import TLS_1_3, ClientHello, ClientHelloReader
from tests.fuzzing import EXAMPLES


def real_hello(*protocols, maximum=None):
    """Return the bytes OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if maximum is not None:
        context.maximum_version = maximum
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="node")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")


HELLO = real_hello("h2", "loghouse/1")


def records(message, sizes):
    """Return a handshake message cut into TLS records of these sizes, the last one with the rest."""
    out, position = b"", 0
    for size in [*sizes, len(message)]:
        piece = message[position : position + size]
        if piece:
            out += b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece
        position += size
    return out


def read(*pieces):
    reader = ClientHelloReader()
    found = None
    for piece in pieces:
        found = reader.feed(piece) or found
    return found


class RealTests(SynchronousTestCase):
    """What OpenSSL sends is understood."""

    def test_protocols_and_versions(self):
        """ALPN names come in the client's order; TLS 1.3 is among the versions."""
        found = read(HELLO)
        self.assertEqual(found.protocols, (b"h2", b"loghouse/1"))
        self.assertIn(TLS_1_3, found.versions)

    def test_no_alpn(self):
        """Without ALPN there are no protocols."""
        self.assertEqual(read(real_hello()).protocols, ())

    def test_tls_1_2(self):
        """A client of TLS 1.2 does not offer 1.3."""
        self.assertNotIn(TLS_1_3, read(real_hello("h2", maximum=ssl.TLSVersion.TLSv1_2)).versions)

    def test_byte_by_byte(self):
        """One byte at a time gives the same, at the last byte and not before."""
        reader = ClientHelloReader()
        for byte in HELLO[:-1]:
            self.assertIs(reader.feed(bytes([byte])), None)
        self.assertEqual(reader.feed(HELLO[-1:]), read(HELLO))
        self.assertEqual(bytes(reader.received), HELLO)

    @settings(deadline=None, derandomize=True, max_examples=50)
    @given(st.lists(st.integers(1, 300), max_size=10))
    def test_many_records(self, sizes):
        """A ClientHello may be spread over several TLS records."""
        self.assertEqual(read(records(HELLO[5:], sizes)), read(HELLO))


def message_of(body, kind=1):
    """Return a handshake message with its header."""
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def body_of(*extensions):
    """Return the body of a ClientHello with these extensions: pairs of a number and what it holds."""
    fields = bytes(34) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    inner = b"".join(
        kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for kind, data in extensions
    )
    return fields + (len(inner).to_bytes(2, "big") + inner if extensions else b"")


def padded(size):
    """Return a whole ClientHello message whose body has just this size."""
    found = body_of((21, bytes(size - len(body_of((21, b""))))))
    assert len(found) == size
    return message_of(found)


class SizeTests(SynchronousTestCase):
    """Every bound, to the byte."""

    def refused(self, *pieces):
        return str(self.assertRaises(ProtocolError, read, *pieces))

    def test_fields(self):
        """Offers are read whatever stands around them; without extensions there are none."""
        found = read(records(message_of(body_of((16, b"\0\3\2h2"), (5, b"xy"), (43, b"\2\3\4"))), []))
        self.assertEqual(found, ClientHello((b"h2",), (TLS_1_3,)))
        self.assertEqual(read(records(message_of(body_of()), [])), ClientHello((), ()))

    def test_whole_message(self):
        """A ClientHello may have 16 KiB, and one byte more is refused as soon as its size is known."""
        largest = padded(CLIENT_HELLO_SIZE_MAX)
        self.assertEqual(read(records(largest, [16_000])), ClientHello((), ()))
        self.assertEqual(
            self.refused(records(message_of(b"")[:1] + b"\0\x40\x01", [])),
            "a ClientHello of 16385 bytes; at most 16384 are allowed",
        )

    def test_records(self):
        """A record may have 16 KiB and holds one byte at least."""
        largest = padded(16_384 - 4)
        self.assertEqual(read(records(largest, [])), ClientHello((), ()))
        self.assertEqual(self.refused(b"\x16\3\1\x40\1"), "a TLS record of 16385 bytes")
        self.assertEqual(self.refused(b"\x16\3\1\0\0"), "a TLS record of 0 bytes")

    def test_all_that_came(self):
        """Of all that comes 32 KiB are kept; with one byte more it is refused."""
        reader = ClientHelloReader()
        endless = records(b"\1\0\x40\0", []) + b"\x16\3\1\x40\0"
        self.assertIsNone(reader.feed(endless))
        self.assertIsNone(reader.feed(bytes(16_383)))
        rest = 2 * CLIENT_HELLO_SIZE_MAX - len(reader.received)
        again = ClientHelloReader()
        again._take_records = lambda: None
        self.assertIsNone(again.feed(bytes(2 * CLIENT_HELLO_SIZE_MAX)))
        error = self.assertRaises(ProtocolError, again.feed, b"x")
        self.assertEqual(str(error), "a ClientHello of more than 16384 bytes")
        self.assertGreater(rest, 0)

    def test_what_follows(self):
        """What stands behind the ClientHello is not looked at, in its last record or in later ones."""
        hello = message_of(body_of((16, b"\0\3\2h2")))
        expected = ClientHello((b"h2",), ())
        self.assertEqual(read(records(hello + b"\x02junk", [])), expected)
        self.assertEqual(read(records(hello, []) + b"\x17\3\3\0\0"), expected)
        self.assertEqual(read(records(hello, [len(hello) - 1]) + b"GET /"), expected)
        bare = message_of(body_of())
        self.assertEqual(read(records(bare + b"\0\5junk!", [])), ClientHello((), ()))
        reader = ClientHelloReader()
        self.assertIsNone(reader.feed(records(hello[:-1], [])))
        self.assertEqual(reader.feed(records(hello[-1:], [])), expected)

    def test_other_messages(self):
        """Another handshake message is named by its number, once its header is there."""
        self.assertIsNone(read(records(b"\x02\0\0", [])))
        self.assertEqual(
            self.refused(records(b"\x02\0\0\0", [])), "TLS handshake message 2 instead of a ClientHello"
        )

    def test_large_messages(self):
        """The first byte of the size counts, too."""
        self.assertEqual(
            self.refused(records(b"\x01\x01\0\x10", [])),
            "a ClientHello of 65552 bytes; at most 16384 are allowed",
        )


class RefusalTests(SynchronousTestCase):
    """Everything else is refused, early and bounded."""

    def test_not_tls(self):
        """The first byte of something else is enough."""
        for first in (b"G", b"P", b"\0", b"\x15", b"\x17", b"\x80", b"\x16\x02"):
            with self.assertRaises(ProtocolError, msg=repr(first)):
                read(first)

    def test_not_a_client_hello(self):
        """Another handshake message is refused."""
        with self.assertRaises(ProtocolError):
            read(records(b"\x02\x00\x00\x01x", []))

    def test_sizes(self):
        """Records and messages of impossible sizes are refused by their headers."""
        for head in (
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x40\x01",
            b"\x16\x03\x01\xff\xff",
            records(b"\x01" + (CLIENT_HELLO_SIZE_MAX + 1).to_bytes(3, "big"), []),
            records(b"\x01\xff\xff\xff", []),
        ):
            with self.assertRaises(ProtocolError, msg=repr(head)):
                read(head)

    def test_holds_little(self):
        """A client that never finishes can make us hold 32 KiB at most."""
        reader = ClientHelloReader()
        with self.assertRaises(ProtocolError):
            for _ in range(1000):
                reader.feed(records(b"\x01\x00\x40\x00" if not reader.received else bytes(1), []) * 10)
        self.assertLessEqual(len(reader.received), 2 * CLIENT_HELLO_SIZE_MAX)

    def test_every_truncation_of_the_message(self):
        """A message whose length was cut is a ProtocolError or fewer extensions, never a crash."""
        body = HELLO[9:]
        for size in range(len(body)):
            message = b"\x01" + size.to_bytes(3, "big") + body[:size]
            with contextlib.suppress(ProtocolError):
                self.assertIsInstance(read(records(message, [])), ClientHello)

    def test_every_bit_flip(self):
        """Each flipped bit gives a ClientHello, a refusal, or a wait for more."""
        data = bytearray(HELLO[:700])
        for bit in range(8 * len(data)):
            data[bit // 8] ^= 1 << bit % 8
            try:
                found = read(bytes(data) + HELLO[700:])
                self.assertIsInstance(found, ClientHello | None)
            except ProtocolError:
                pass
            data[bit // 8] ^= 1 << bit % 8

    @settings(deadline=None, derandomize=True, max_examples=EXAMPLES)
    @given(st.binary(max_size=400))
    def test_random_bytes(self, data):
        """Random bytes behind an honest beginning end in a ProtocolError, a ClientHello or a wait."""
        for prefix in (b"", b"\x16\x03\x01", records(b"\x01" + len(data).to_bytes(3, "big") + data, [])):
            with contextlib.suppress(ProtocolError):
                self.assertIsInstance(read(prefix, data), ClientHello | None)
