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
