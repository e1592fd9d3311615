"""Which certificates count is one rule: whom one protocol lets in, the other lets in, too.

Two TLS stacks judge: OpenSSL and gRPC's BoringSSL. What they are shown here no tool of ours would make.
"""

import contextlib
import itertools
import os
import socket
import ssl
import struct
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.threads import deferToThread

from loghouse.auth.certificates import Issued, load_certificates
from loghouse.auth.denylist import entry_of
from loghouse.protocol.client_messages import Bounds, BoundsReply
from loghouse.protocol.codec import encode
from loghouse.protocol.link_messages import Hello, LinkRole
from tests.auth.issuing import (
    CA_USAGE,
    CURVE_ORDERS,
    LEAF_USAGE,
    element,
    issue,
    issued,
    pem,
    pem_text,
    rewritten,
    signed_anew,
)
from tests.fakes.secured import authority, client_certificate, foreign_authority
from tests.net.wire import WireCase, asynchronous, frames_in

POLICY = "p, root, *, consume\n"
SECONDS_MAX = 20
# A gRPC call of Bounds with an empty message, by hand (RFC 9113, RFC 7541: literals, nothing indexed).
_FIELDS = {
    ":method": "POST",
    ":scheme": "https",
    ":path": "/log.v1.Log/Bounds",
    ":authority": "localhost",
    "te": "trailers",
    "content-type": "application/grpc",
}
_HEADERS = b"".join(
    bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    for name, value in _FIELDS.items()
)


def http2_frame(kind, flags, stream, body=b""):
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


CALL = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + http2_frame(4, 0, 0)
    + http2_frame(1, 4, 1, _HEADERS)
    + http2_frame(0, 1, 1, bytes(5))
)
ASK = b"".join(encode(Hello(role=LinkRole.CLIENT))) + b"".join(encode(Bounds(), group=1, stream=1))


def http2_frames(data):
    """Return (kind, flags, stream) of the whole frames in received bytes."""
    while len(data) >= 9:
        length = int.from_bytes(data[:3])
        if len(data) < 9 + length:
            return
        yield data[3], data[4], int.from_bytes(data[5:9])
        data = data[9 + length :]


def is_answered_h2(data, stream):
    """Whether the call had a message for an answer (True), another end (False), or none yet (None)."""
    frames = list(http2_frames(data))
    if any(kind == 0 and of == stream for kind, _, of in frames):
        return True
    ended = any(of == stream and flags & 1 for kind, flags, of in frames if kind in (0, 1))
    return False if ended or any(kind in (3, 7) for kind, _, _ in frames) else None


def is_answered(data, stream):
    """The same of the binary protocol."""
    with contextlib.suppress(struct.error):
        kinds = [kind for kind, _ in frames_in(data)]
        if BoundsReply.KIND in kinds:
            return True
        if kinds and kinds[-1] != Hello.KIND:
            return False
    return None


class Caller:
    """A client made of Python's own OpenSSL, which shows whatever it is told to."""

    def __init__(self, port, own, folder, alpn, session_of=None, trusting=None):
        path = os.path.join(folder, f"shown-{id(own)}.pem")
        with open(path, "wb") as file:
            file.write(own.certificate_pem + own.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.load_verify_locations(cadata=(trusting or authority().certificate_pem).decode())
        context.load_cert_chain(path)
        context.set_alpn_protocols([alpn])
        self.is_answered = is_answered_h2 if alpn == "h2" else is_answered
        self.context = session_of.context if session_of is not None else context
        session = session_of.tls.session if session_of is not None else None
        plain = socket.create_connection(("127.0.0.1", port), SECONDS_MAX)
        self.tls = self.context.wrap_socket(plain, do_handshake_on_connect=False, session=session)

    def ask(self, request, stream=1):
        """Send a request on this connection; return whether it was answered with what was asked for."""
        received, answered = b"", None
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            self.tls.do_handshake()
            self.tls.sendall(request)
            while answered is None:
                data = self.tls.recv(65_536)
                if not data:
                    break
                received += data
                answered = self.is_answered(received, stream)
        return bool(answered)


class BothDoorsCase(WireCase):
    """One port, both protocols, one set of credentials."""

    policy = POLICY
    trusted = ()

    def tls_paths(self, name="n1", issued=None, ca=None):
        paths = super().tls_paths(name, issued, ca)
        paths.ca.write_bytes(authority().certificate_pem + pem(*self.trusted))
        return paths

    async def let_in(self, own, trusting=None):
        """Return whether (binary, gRPC) serve who shows this."""
        answers = []
        for alpn, request in (("loghouse/1", ASK), ("h2", CALL)):
            answers.append(await deferToThread(self._try, own, alpn, request, trusting))
        return tuple(answers)

    def _try(self, own, alpn, request, trusting):
        caller = Caller(self.port, own, self.directory, alpn, trusting=trusting)
        try:
            return caller.ask(request)
        finally:
            caller.tls.close()

    def by_ca(self, **fields):
        """Return a client's certificate that the CA of all tests signed."""
        key = fields.pop("key", None) or ec.generate_private_key(ec.SECP256R1())
        return issued(issue(key=key, signer=authority_key(), issuer="test CA", **fields), key)


def authority_key():
    return load_pem_private_key(authority().key_pem, None)


class KeyTests(BothDoorsCase):
    """Keys and signatures."""

    @asynchronous
    async def test_keys(self):
        """P-256, P-384 and RSA from 2048 bits count; what one of the stacks does not know does not."""
        await self.open_both()
        rows = [
            (ec.generate_private_key(ec.SECP256R1()), True),
            (ec.generate_private_key(ec.SECP384R1()), True),
            (rsa.generate_private_key(65537, 2048), True),
            (ec.generate_private_key(ec.SECP521R1()), False),
            (ec.generate_private_key(ec.SECP256K1()), False),
            (ed25519.Ed25519PrivateKey.generate(), False),
            (rsa.generate_private_key(65537, 1024), False),
        ]
        for key, is_good in rows:
            own = self.by_ca(key=key)
            self.assertEqual(await self.let_in(own), (is_good, is_good), key)

    @asynchronous
    async def test_signatures(self):
        """A certificate signed over SHA-1 or SHA-224 does not count, one over SHA-384 does."""
        await self.open_both()
        for digest, is_good in ((hashes.SHA384, True), (hashes.SHA224, False)):
            self.assertEqual(await self.let_in(self.by_ca(digest=digest)), (is_good, is_good), digest)


class DifferenceTests(BothDoorsCase):
    """What only one of the stacks refuses by itself: both servers do."""

    def by_rsa(self, padded):
        key = ec.generate_private_key(ec.SECP256R1())
        return issued(issue(key=key, signer=self.rsa_key, issuer="RSA CA", rsa_padding=padded), key)

    @asynchronous
    async def test_pss(self):
        """RSA-PSS counts with the parameters of TLS 1.3, not with other salts or two digests."""
        self.rsa_key = rsa.generate_private_key(65537, 2048)
        fields = {
            "ca": True,
            "key_usage": CA_USAGE,
            "usages": (),
            "issuer": "RSA CA",
            "common_name": "RSA CA",
        }
        self.trusted = [issue(key=self.rsa_key, **fields)]
        await self.open_both()
        rows = [(hashes.SHA256, 32, True), (hashes.SHA256, 100, False), (hashes.SHA512, 32, False)]
        for digest, salt, is_good in rows:
            own = self.by_rsa(padding.PSS(padding.MGF1(digest()), salt))
            self.assertEqual(await self.let_in(own), (is_good, is_good), (digest, salt))

    @asynchronous
    async def test_size(self):
        """A certificate of some kilobytes counts; a larger one does not, nor a long row of them."""
        await self.open_both()
        for count, is_good in ((200, True), (500, False)):
            own = self.by_ca(hosts=[f"h{number}.example.com" for number in range(count)])
            self.assertEqual(await self.let_in(own), (is_good, is_good), count)
        key = ec.generate_private_key(ec.SECP256R1())
        chain = [issue(key=key)] * 100
        own = issued(issue(key=key, signer=authority_key(), issuer="test CA"), key, *chain)
        self.assertEqual(await self.let_in(own), (False, False))

    @asynchronous
    async def test_forms(self):
        """A compressed point counts; a hybrid one does not, nor a Netscape type, nor version 4."""
        await self.open_both()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = issue(key=key, signer=authority_key(), issuer="test CA")
        whole, short = (
            key.public_key().public_bytes(Encoding.X962, form)
            for form in (PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint)
        )
        algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")

        def key_of(point):
            return element(0x30, algorithm + element(0x03, b"\0" + point))

        version = bytes.fromhex("a0030201")
        rows = [
            (key_of(whole), key_of(short), True),
            (key_of(whole), key_of(bytes([6 + whole[-1] % 2]) + whole[1:]), False),
            (version + b"\2", version + b"\3", False),
        ]
        for old, new, is_good in rows:
            text = pem_text(signed_anew(certificate, authority_key(), old, new))
            own = Issued(certificate_pem=text, key_pem=issued(certificate, key).key_pem)
            self.assertEqual(await self.let_in(own), (is_good, is_good), new)
        oid = x509.ObjectIdentifier("2.16.840.1.113730.1.1")
        own = self.by_ca(extensions=[x509.UnrecognizedExtension(oid, bytes.fromhex("03020640"))])
        self.assertEqual(await self.let_in(own), (False, False))

    @asynchronous
    async def test_names_of_a_ca(self):
        """Whom a CA of certain names has signed needs a name besides the common one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subtrees = x509.NameConstraints([x509.DNSName("example.com")], None)
        fields = {"ca": True, "key_usage": CA_USAGE, "usages": (), "extensions": [subtrees]}
        self.trusted = [issue(key=key, issuer="of names", common_name="of names", **fields)]
        await self.open_both()
        for hosts, is_good in (((), False), (["a.example.com"], True), (["example.org"], False)):
            own = ec.generate_private_key(ec.SECP256R1())
            certificate = issue(key=own, signer=key, issuer="of names", hosts=hosts)
            self.assertEqual(await self.let_in(issued(certificate, own)), (is_good, is_good), hosts)

    @asynchronous
    async def test_renewed_ca(self):
        """A CA that was renewed with its key, in a file with what it was and will be, in any order."""
        key, day = ec.generate_private_key(ec.SECP256R1()), timedelta(days=1)
        fields = {
            "ca": True,
            "key_usage": CA_USAGE,
            "usages": (),
            "issuer": "old CA",
            "common_name": "old CA",
        }
        was, is_now, will_be = (
            issue(key=key, begins=begins * day, ends=ends * day, **fields)
            for begins, ends in ((-2, -1), (-1, 1), (1, 9))
        )
        own = ec.generate_private_key(ec.SECP256R1())
        leaf = issued(issue(key=own, signer=key, issuer="old CA"), own)
        await self.open_both()
        for one in itertools.permutations((was, is_now, will_be)):
            self.trusted = one
            self.tls_paths()
            self.credentials.take(self.credentials.read())
            self.assertEqual(await self.let_in(leaf), (True, True), one)


class ChainTests(BothDoorsCase):
    """CAs between the file's and the leaf."""

    def intermediate(self, *, key=None, signer=None, **fields):
        key = key or ec.generate_private_key(ec.SECP256R1())
        fields = {"ca": True, "key_usage": CA_USAGE, "usages": (), "common_name": "between", **fields}
        return key, issue(key=key, signer=signer or self.root_key, issuer="root of the company", **fields)

    def root(self, *, key=None, **fields):
        self.root_key = key or ec.generate_private_key(ec.SECP256R1())
        fields = {"ca": True, "key_usage": CA_USAGE, "usages": (), **fields}
        return issue(
            key=self.root_key, issuer="root of the company", common_name="root of the company", **fields
        )

    def leaf(self, key, *chain):
        own = ec.generate_private_key(ec.SECP256R1())
        return issued(issue(key=own, signer=key, issuer="between"), own, *chain)

    @asynchronous
    async def test_chain_shown(self):
        """A root in the file, an intermediate behind a leaf: good when it is behind the node's own."""
        root = self.root()
        self.trusted = [root]
        key, between = self.intermediate()
        await self.open_both()
        self.assertEqual(await self.let_in(self.leaf(key, between)), (False, False))
        own = ec.generate_private_key(ec.SECP256R1())
        uri = "loghouse://c1/node/n1"
        node = issue(key=own, signer=key, issuer="between", uri=uri, hosts=["localhost"])
        self.tls_paths(issued=issued(node, own, between))
        self.assertTrue(self.credentials.take(self.credentials.read()))
        trusting = pem(root)
        self.assertEqual(await self.let_in(self.leaf(key, between), trusting), (True, True))
        self.assertEqual(await self.let_in(self.leaf(key), trusting), (False, False))

    @asynchronous
    async def test_chain_in_the_file(self):
        """Root and intermediate in the file: what else the leaf shows makes no difference."""
        root = self.root()
        key, between = self.intermediate()
        self.trusted = [root, between]
        await self.open_both()
        for chain in ((), (between,), (between, root)):
            self.assertEqual(await self.let_in(self.leaf(key, *chain)), (True, True), chain)

    @asynchronous
    async def test_intermediate_alone(self):
        """An intermediate CA in the file, and its root nowhere: whom it signed is good."""
        self.root()
        key, between = self.intermediate()
        self.trusted = [between]
        await self.open_both()
        self.assertEqual(await self.let_in(self.leaf(key)), (True, True))

    @asynchronous
    async def test_path_length(self):
        """A root that allows no CA below it: whom one below it signed is not good."""
        self.trusted = [self.root(path_length=0)]
        key, between = self.intermediate()
        await self.open_both()
        self.assertEqual(await self.let_in(self.leaf(key, between)), (False, False))

    @asynchronous
    async def test_no_ca(self):
        """What a leaf signed is not good."""
        self.trusted = [self.root()]
        key, between = self.intermediate(ca=False, key_usage=LEAF_USAGE)
        await self.open_both()
        self.assertEqual(await self.let_in(self.leaf(key, between)), (False, False))

    @asynchronous
    async def test_weak_intermediate(self):
        """An RSA key of 1024 bits between the file's CA and the leaf."""
        self.trusted = [self.root()]
        key, between = self.intermediate(key=rsa.generate_private_key(65537, 1024))
        await self.open_both()
        self.assertEqual(await self.let_in(self.leaf(key, between)), (False, False))


class PurposeTests(BothDoorsCase):
    """Purposes and dates."""

    @asynchronous
    async def test_purposes(self):
        """A certificate for clients, or for anything: good; one for servers, or that cannot sign: not."""
        await self.open_both()
        rows = [
            ({"usages": (ExtendedKeyUsageOID.CLIENT_AUTH,)}, True),
            ({"usages": ()}, True),
            ({"key_usage": LEAF_USAGE}, True),
            ({"usages": (ExtendedKeyUsageOID.SERVER_AUTH,)}, False),
            ({"usages": (ExtendedKeyUsageOID.CODE_SIGNING,)}, False),
            ({"key_usage": CA_USAGE}, False),
        ]
        for fields, is_good in rows:
            self.assertEqual(await self.let_in(self.by_ca(**fields)), (is_good, is_good), fields)

    @asynchronous
    async def test_dates(self):
        """Neither what has expired nor what does not count yet."""
        await self.open_both()
        hour = timedelta(hours=1)
        for begins, ends in ((-2 * hour, -hour), (hour, 2 * hour)):
            own = self.by_ca(begins=begins, ends=ends)
            self.assertEqual(await self.let_in(own), (False, False), begins)


class DenyTests(BothDoorsCase):
    """Certificates that count no more."""

    def deny(self, line):
        (self.directory / "denylist").write_text(line + "\n")
        self.assertTrue(self.credentials.take(self.credentials.read()))

    @asynchronous
    async def test_other_guise(self):
        """Whoever is denied by fingerprint does not come in with the signature written another way."""
        await self.open_both()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = issue(key=key, signer=authority_key(), issuer="test CA")
        other = rewritten(certificate, CURVE_ORDERS[ec.SECP256R1])
        for one in (certificate, other):
            self.assertEqual(await self.let_in(issued(one, key)), (True, True))
        self.deny("sha256:" + certificate.fingerprint(hashes.SHA256()).hex())
        for one in (certificate, other):
            self.assertEqual(await self.let_in(issued(one, key)), (False, False))

    @asynchronous
    async def test_key(self):
        """Whoever is denied by key does not come in with another certificate of it."""
        await self.open_both()
        key = ec.generate_private_key(ec.SECP256R1())
        first, second = (issue(key=key, signer=authority_key(), issuer="test CA") for _ in range(2))
        self.assertEqual(await self.let_in(issued(second, key)), (True, True))
        self.deny(entry_of(first))
        self.assertEqual(await self.let_in(issued(second, key)), (False, False))
        self.assertEqual(await self.let_in(client_certificate("root")), (True, True))


class RemovedTests(BothDoorsCase):
    """A CA is taken out of the file while connections are open."""

    @asynchronous
    async def test_open_grpc_connection(self):
        """A connection that gRPC let in before is refused its next call, and so is a new one."""
        self.trusted = load_certificates(foreign_authority().certificate_pem, self.directory)
        await self.open_both()
        own = client_certificate("root", is_foreign=True)
        caller = await self.call(own)
        self.trusted = ()
        self.tls_paths()
        self.assertTrue(self.credentials.take(self.credentials.read()))
        again = http2_frame(1, 4, 3, _HEADERS) + http2_frame(0, 1, 3, bytes(5))
        self.assertFalse(await deferToThread(caller.ask, again, 3))
        self.assertEqual(await self.let_in(own), (False, False))
        self.assertEqual(await self.let_in(client_certificate("root")), (True, True))

    async def call(self, own, session_of=None):
        caller = Caller(self.port, own, self.directory, "h2", session_of)
        self.addCleanup(caller.tls.close)
        self.assertTrue(await deferToThread(caller.ask, CALL))
        return caller

    @asynchronous
    async def test_ticket(self):
        """A ticket that gRPC gave out is worth nothing once the CA is gone, or its holder is denied."""
        self.trusted = load_certificates(foreign_authority().certificate_pem, self.directory)
        await self.open_both()
        own = client_certificate("root", is_foreign=True)
        first = await self.call(own)
        resumed = await self.call(own, session_of=first)
        self.assertTrue(resumed.tls.session_reused)
        denylist = self.directory / "denylist"
        denylist.write_text(entry_of(load_certificates(own.certificate_pem, denylist)[0]))
        self.assertTrue(self.credentials.take(self.credentials.read()))
        await self.not_answered(own, first)
        denylist.write_text("")
        self.trusted = ()
        self.tls_paths()
        self.assertTrue(self.credentials.take(self.credentials.read()))
        await self.not_answered(own, first)

    async def not_answered(self, own, session_of):
        caller = Caller(self.port, own, self.directory, "h2", session_of)
        self.addCleanup(caller.tls.close)
        self.assertFalse(await deferToThread(caller.ask, CALL))
