"""The ceiling of `follow`: a TLS server that writes 1 MiB pieces as fast as they go, with a node's contexts.

    python -m bench.wire_source CERTIFICATES

Prints its port and serves until its standard input closes.
"""

import sys
import time
from pathlib import Path

from loghouse.runtime import reactor as _reactor

_reactor.install()

from twisted.internet import reactor
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from loghouse.auth.credentials import Credentials, TlsPaths
from loghouse.limits import MIB
from loghouse.net.tls import TlsContexts

PIECE = bytes(MIB)


@implementer(IHandshakeListener, IPushProducer)
class Source(Protocol):
    """Writes without end."""

    def handshakeCompleted(self):
        self.is_open = True
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self):
        self.is_open = True
        while self.is_open:
            self.transport.write(PIECE)

    def pauseProducing(self):
        self.is_open = False

    stopProducing = pauseProducing


def main():
    folder = Path(sys.argv[1])
    paths = TlsPaths(certificate=folder / "node-1.pem", key=folder / "node-1.key", ca=folder / "ca.pem")
    contexts = TlsContexts(Credentials(paths), clock=time.time)
    factory = TLSMemoryBIOFactory(contexts, False, Factory.forProtocol(Source))
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.callWhenRunning(lambda: deferToThread(sys.stdin.read).addBoth(lambda _: reactor.stop()))
    reactor.run()


if __name__ == "__main__":
    main()
