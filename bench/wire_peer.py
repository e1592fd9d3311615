"""64 KiB frames over TLS in one process, as a peer link or as bare Twisted writes; prints bytes a CPU second.

python -m bench.wire_peer peer|bare CERTIFICATES
"""

import random
import sys
import time
from pathlib import Path

from loghouse.runtime import reactor as _reactor

_reactor.install()

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from loghouse.auth.credentials import Credentials, TlsPaths
from loghouse.limits import KIB
from loghouse.net.accept import AcceptedLink, LinkContext
from loghouse.net.admission import Admission, ConnectionLimits
from loghouse.net.link import LinkTimes, LinkWatch
from loghouse.net.peer import DialContext, PeerLink
from loghouse.net.tls import TlsContexts
from loghouse.protocol.codec import encode_envelope
from loghouse.protocol.entry import EntryKind, frame_seed, make_entry
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.raft_messages import AppendEntries, Envelope
from loghouse.protocol.session import LinkUp
from loghouse.runtime.bulk_tls import BulkTlsFactory

SIZE = 512 << 20
CLUSTER = bytes(range(16))
ENTRY = make_entry(
    frame_seed(CLUSTER, 1),
    index=1,
    term=1,
    kind=EntryKind.RECORDS,
    base_offset=0,
    timestamp=0,
    payload=bytes(64 * KIB),
    record_count=1,
)
APPEND = Envelope(
    group=1,
    source=2,
    target=1,
    message=AppendEntries(term=1, prev_log_index=0, prev_log_term=0, commit_index=0, entries=(ENTRY,)),
)
FRAME_SIZE = sum(map(len, encode_envelope(APPEND)))


def contexts(folder, name):
    paths = TlsPaths(certificate=folder / f"{name}.pem", key=folder / f"{name}.key", ca=folder / "ca.pem")
    return TlsContexts(Credentials(paths), clock=time.time)


class Counting:
    """The cluster behind the accepted link: counts."""

    def __init__(self, done):
        self.left = SIZE
        self.done = done
        self.begin = 0.0

    def admit(self, hello):
        pass

    def link_up(self, link):
        self.begin = time.process_time()

    def event_received(self, link, event):
        self.left -= len(event.frame.body)
        if self.left <= 0 and not self.done.called:
            self.done.callback(SIZE / (time.process_time() - self.begin))

    def link_lost(self, link):
        pass


class PushingLink(PeerLink):
    """Keeps the queue filled."""

    def push(self):
        while self.queue.size < 1 << 20 and self.send_raft(APPEND):
            pass

    def write_resumed(self):
        super().write_resumed()
        self.push()

    def _end_turn(self):
        # Its share of a turn ends more often than the transport is full.
        super()._end_turn()
        self.push()


def hello(cluster, name):
    return lambda: Hello(
        role=LinkRole.NODE,
        cluster_name=cluster,
        cluster_uuid=CLUSTER,
        node_name=name,
        disk_uuid=name.encode().ljust(16),
    )


def peer(folder, cluster, done):
    watch = LinkWatch(reactor)
    tls = contexts(folder, "node-1")
    links = LinkContext(
        binary=type("NoBinary", (), {})(),
        watch=watch,
        times=LinkTimes(),
        hello=hello(cluster, "node-1"),
        tls=tls,
        peers=Counting(done),
    )
    ticket = Admission(ConnectionLimits()).enter("x")
    wrapped = Factory.forProtocol(lambda: AcceptedLink(links, ticket))
    factory = BulkTlsFactory(tls, False, wrapped, clock=reactor)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
    dial = DialContext(
        reactor=reactor,
        watch=watch,
        hello=hello(cluster, "node-2"),
        tls=contexts(folder, "node-2"),
        rng=random.Random(1),
    )

    def event_received(event):
        if isinstance(event, LinkUp):
            link.push()

    link = PushingLink(dial, "127.0.0.1", port, "node-1", event_received)
    link.dial()


@implementer(IHandshakeListener, IPushProducer)
class BareSender(Protocol):
    """The same pieces, written as they are while there is room."""

    def handshakeCompleted(self):
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self):
        self.is_open = True
        while self.is_open:
            self.transport.writeSequence(encode_envelope(APPEND))

    def pauseProducing(self):
        self.is_open = False

    stopProducing = pauseProducing


class BareReceiver(Protocol):
    """Counts bytes."""

    def __init__(self, done):
        self.left, self.done, self.begin = SIZE, done, 0.0

    def dataReceived(self, data):
        self.begin = self.begin or time.process_time()
        self.left -= len(data)
        if self.left <= 0 and not self.done.called:
            self.done.callback(SIZE / (time.process_time() - self.begin))


def bare(folder, cluster, done):
    server = Factory.forProtocol(lambda: BareReceiver(done))
    factory = TLSMemoryBIOFactory(contexts(folder, "node-1"), False, server)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
    sender = ClientFactory.forProtocol(BareSender)
    reactor.connectTCP("127.0.0.1", port, TLSMemoryBIOFactory(contexts(folder, "node-2"), True, sender))


def main():
    from loghouse.testing.process import CLUSTER as CLUSTER_NAME

    done = Deferred()
    work = peer if sys.argv[1] == "peer" else bare

    def finish(rate):
        print(rate, flush=True)
        reactor.stop()

    done.addCallback(finish)
    reactor.callWhenRunning(work, Path(sys.argv[2]), CLUSTER_NAME, done)
    reactor.run()


if __name__ == "__main__":
    main()
