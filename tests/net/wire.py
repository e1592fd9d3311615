"""The real port with real TLS on loopback, certificates for every kind of stranger, and plain sockets."""

import functools
import os
import random
import shutil
import socket
import ssl
import tempfile
import threading
import time
from pathlib import Path

from grpc import aio
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from loghouse.api.server import GrpcServer
from loghouse.auth.credentials import Credentials
from loghouse.net.accept import LinkContext, own_hello
from loghouse.net.admission import Admission, ConnectionLimits
from loghouse.net.appending import Appender
from loghouse.net.binary_client import ClientTls, connect
from loghouse.net.binary_server import BinaryServer
from loghouse.net.callers import Callers
from loghouse.net.link import LinkTimes, LinkWatch
from loghouse.net.listener import Listener
from loghouse.net.peer import DialContext, PeerLink
from loghouse.net.tls import TlsContexts
from loghouse.node.gate import Gate
from loghouse.protocol.framing import HEADER
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.runtime.bridge import from_asyncio, soon
from loghouse.shares import Shares
from tests.fakes.secured import SecuredCase, authority, channel_to, client_certificate, node_certificate
from tests.recording import RecordingMetrics

POLICY = "p, root, *, produce\np, root, *, consume\np, reader, default, consume\n"


def pause(seconds):
    """Real time, for what the kernel or a peer process needs; never in place of a condition."""
    return deferLater(reactor, seconds, lambda: None)


async def until(condition, seconds=40.0):
    """Return when the condition holds; fail when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition never came")
        await pause(0.002)


def asynchronous(method):
    """Run an `async def` test method as a coroutine on the reactor, closing what it opened."""

    @functools.wraps(method)
    def run(self):
        return Deferred.fromCoroutine(self.run_and_close(method))

    return run


class WireCase(SecuredCase):
    """A test with the one port of a `FakeNode`."""

    policy = POLICY
    limits = ConnectionLimits()
    times = LinkTimes()
    peers = None
    grpc_path = None
    scheduler = reactor

    def setUp(self):
        super().setUp()
        self.shares = Shares()
        self.callers = Callers(self.shares.bodies)
        self.recorded = {}  # the metrics of each `peer`

    async def begin(self):
        """Open what all tests of the class need; nothing by default."""

    async def run_and_close(self, method):
        try:
            await self.begin()
            await method(self)
        finally:
            for close in reversed(self.closers):
                await close()

    def client_tls(self, name="root", issued=None):
        certificate, key = self.write(name, issued or client_certificate(name))
        ca_path = self.directory / "ca.pem"
        ca_path.write_bytes(authority().certificate_pem)
        return ClientTls(ca=ca_path, certificate=certificate, key=key)

    # --- the port ---------------------------------------------------------------------

    def open_port(self, *, plaintext=False):
        """Listen; sets `self.port`, `self.listener`."""
        self.credentials = None if plaintext else Credentials(self.tls_paths())
        self.tls = None if plaintext else TlsContexts(self.credentials, clock=lambda: self.wall_clock())
        gate = Gate(self.node, self.authorizer, clock=lambda: self.wall_clock())
        server = BinaryServer(
            gate=gate,
            scheduler=self.scheduler,
            appends=Appender(
                gate,
                soon=soon(),
                scheduler=reactor,
                in_thread=deferToThread,
                bodies=self.shares.bodies,
            ),
            shares=self.shares,
        )
        links = LinkContext(
            binary=server,
            watch=LinkWatch(reactor),
            times=self.times,
            hello=own_hello(self.node, "test"),
            tls=self.tls,
            anonymous="root",
            peers=self.peers,
        )
        self.metrics = RecordingMetrics()
        self.admission = Admission(
            self.limits,
            self.metrics,
            self.shares.quotas.connections_of,
            self.shares.quotas.connection_refused,
        )
        self.listener = Listener(reactor, links, self.admission, self.grpc_path, self.callers)
        self.listener.port = reactor.listenTCP(0, self.listener, backlog=512, interface="127.0.0.1")
        self.port = self.listener.port.getHost().port
        self.closers.append(self.close_port)
        return self.port

    async def open_both(self, *, plaintext=False):
        """The same with a gRPC server behind it."""
        runtime = tempfile.mkdtemp(prefix="lh-")
        self.addCleanup(shutil.rmtree, runtime)
        self.grpc_path = os.path.join(runtime, "grpc")
        self.open_port(plaintext=plaintext)
        secured = {"credentials": None}
        if not plaintext:
            secured["credentials"] = self.credentials
            secured["check_caller"] = self.credentials.check
        self.server = server = GrpcServer(
            self.node,
            self.authorizer,
            clock=lambda: self.wall_clock(),
            anonymous="root",
            shares=self.shares,
            callers=self.callers,
            **secured,
        )
        server.bind(f"unix:{self.grpc_path}")
        await from_asyncio(server.start())
        self.closers.append(lambda: from_asyncio(server.stop(0)))

    def channel(self, name="root", *, is_plain=False):
        """A gRPC channel of a client."""
        address = f"127.0.0.1:{self.port}"
        if is_plain:
            channel = aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        else:
            channel = channel_to(address, client_certificate(name))
        self.closers.append(lambda: from_asyncio(channel.close()))
        return channel

    async def close_port(self):
        await maybeDeferred(self.listener.port.stopListening)
        self.listener.abort_all()
        await until(lambda: self.admission.all == 0)

    async def connect(self, name="root", issued=None):
        """Return a greeted client connection."""
        tls = self.client_tls(name, issued) if self.tls is not None else None
        connection = await connect(reactor, "127.0.0.1", self.port, tls)

        async def close():
            connection.abort()
            await connection.close()

        self.closers.append(close)
        return connection

    def peer(self, name="n2", *, issued=None, expected="n1", events=None, hello=None, port=None, **fields):
        """Return a `PeerLink` of another node towards the port; `events` collects what comes back.

        Its metrics are in `self.recorded`.
        """
        cluster_uuid = fields.pop("cluster_uuid", self.node.cluster_uuid)
        link_lost = fields.pop("link_lost", lambda: None)
        issued = issued or node_certificate(name)
        own = hello or Hello(
            role=LinkRole.NODE,
            cluster_name="c1",
            cluster_uuid=cluster_uuid,
            node_name=name,
            disk_uuid=name.encode().ljust(16, b"-"),
        )
        metrics = RecordingMetrics()
        dial = DialContext(
            reactor=reactor,
            watch=LinkWatch(reactor),
            hello=lambda: own,
            tls=TlsContexts(Credentials(self.tls_paths(f"{name}-dial", issued)), clock=time.time),
            rng=random.Random(1),
            metrics=metrics,
            **fields,
        )
        received = [].append if events is None else events.append
        link = PeerLink(dial, "127.0.0.1", port or self.port, expected, received, link_lost)
        self.recorded[link] = metrics

        async def stop():
            link.stop()
            await until(lambda: link.link is None and link._connector is None)

        self.closers.append(stop)
        return link


class Stranger:
    """A TLS client made of the standard library, in a thread: sends any bytes, sees what comes back."""

    def __init__(self, port, *, issued=None, directory=None, alpn=("loghouse/1",), maximum=None):
        self.port = port
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.load_verify_locations(cadata=authority().certificate_pem.decode())
        if maximum is not None:
            self.context.maximum_version = maximum
        if issued is not None:
            path = Path(directory) / f"stranger-{threading.get_ident()}-{id(issued)}.pem"
            path.write_bytes(issued.certificate_pem + issued.key_pem)
            self.context.load_cert_chain(path)
        if alpn:
            self.context.set_alpn_protocols(list(alpn))

    def talk(self, *pieces, wait=True):
        """Connect, send the pieces, return everything that came until the end (in a thread)."""
        return deferToThread(self._talk, pieces, wait)

    def _talk(self, pieces, wait):
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), 40) as plain:
            try:
                with self.context.wrap_socket(plain) as tls:
                    for piece in pieces:
                        tls.sendall(piece)
                    while wait:
                        data = tls.recv(65_536)
                        if not data:
                            break
                        received += data
            except (ssl.SSLError, ConnectionError) as error:
                return received, error
        return received, None


def frames_in(data):
    """Return (kind, body) of the frames in received bytes."""
    found = []
    while data:
        length, kind, _, _, _ = HEADER.unpack(data[:16])
        found.append((kind, data[16 : 16 + length]))
        data = data[16 + length :]
    return found
