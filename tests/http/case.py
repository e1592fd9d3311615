"""An HTTP server in this process, on a clock that the test moves, and clients that write whatever bytes."""

import json
import re
import time

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS

from loghouse.http.server import HttpServer
from loghouse.http.site import HttpContext
from loghouse.http.tls import HttpTls
from loghouse.node.gate import Gate
from loghouse.shares import Shares
from tests.fakes.secured import SecuredCase, authority
from tests.service.case import SteppedReactor, turn, until


class Client(Protocol):
    """A connection: what came on it, and whether it is over."""

    def __init__(self):
        self.received = b""
        self.is_lost = False

    def dataReceived(self, data):
        self.received += data

    def connectionLost(self, reason):
        self.is_lost = True

    def send(self, data):
        self.transport.write(data)

    def cut(self):
        if not self.is_lost:
            self.transport.abortConnection()

    @property
    def statuses(self):
        """The status of each answer that began."""
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+) ", self.received)]

    async def answer(self):
        """Wait for a whole answer with a length, take it, and return status, headers and body."""
        await until(self._has_answer)
        head, _, rest = self.received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers["content-length"])
        body, self.received = rest[:size], rest[size:]
        return int(first.split()[1]), headers, body

    def _has_answer(self):
        head, end, rest = self.received.partition(b"\r\n\r\n")
        size = re.search(rb"(?i)content-length: (\d+)", head)
        return bool(end) and size is not None and len(rest) >= int(size[1])

    async def end(self):
        """Wait until the connection is over; return all that came."""
        await until(lambda: self.is_lost)
        return self.received


async def connect_to(case, port):
    """Return a plain connection to a port, cut at the test's end."""
    client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Client())
    case.addCleanup(client.cut)
    return client


class HttpCase(SecuredCase):
    """A server of a fake node, whose policy permits root everything and nobody else anything."""

    def setUp(self):
        super().setUp()
        self.reactor = SteppedReactor()
        self.hindrances = []
        self.node.hindrances = lambda: self.hindrances
        self.shares = Shares()
        self.server = None

    def serve(self, *, credentials=None, anonymous="root", put=None, **options):
        """Begin to serve; `put` is told of the tree before."""
        gate = Gate(
            self.node,
            self.authorizer,
            clock=self.wall_clock,
            check_caller=credentials.check if credentials is not None else None,
        )
        self.context = HttpContext(
            reactor=self.reactor,
            gate=gate,
            shares=self.shares,
            tls=HttpTls(credentials, clock=time.time) if credentials is not None else None,
            anonymous="" if credentials is not None else anonymous,
            soon=lambda work: reactor.callLater(0, work),
            **options,
        )
        self.server = HttpServer(self.context, self.node)
        if put is not None:
            put(self.server.tree, self.context)
        self.port = self.server.bind("127.0.0.1", 0)
        self.server.listen()
        self.addCleanup(self.stop)

    async def stop(self):
        stopped = self.server.stop()
        self.server.abort()
        await stopped

    @property
    def site(self):
        return self.server.site

    async def connect(self):
        """Return a plain connection."""
        client = await connect_to(self, self.port)
        await until(lambda: self.site._channels)
        return client

    async def connect_tls(self, issued=None, **versions):
        """Return a connection over TLS, with a certificate or without."""
        own = PrivateCertificate.loadPEM(issued.key_pem + issued.certificate_pem) if issued else None
        trust = Certificate.loadPEM(authority().certificate_pem)
        options = optionsForClientTLS(
            "localhost", trustRoot=trust, clientCertificate=own, extraCertificateOptions=versions
        )
        endpoint = wrapClientTLS(options, TCP4ClientEndpoint(reactor, "127.0.0.1", self.port))
        client = await connectProtocol(endpoint, Client())
        self.addCleanup(client.cut)
        return client

    async def get(self, path, client=None, *headers, method="GET"):
        """Ask for a path; return status, headers and the JSON of the body."""
        client = client or await self.connect()
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers, "", ""]
        client.send("\r\n".join(lines).encode("latin-1"))
        status, found, body = await client.answer()
        return status, found, json.loads(body) if body else None

    async def pass_time(self, seconds):
        """Let time pass for the server."""
        self.reactor.clock.advance(seconds)
        await turn()
