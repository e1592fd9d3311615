"""Connections in memory, for tests of one end: a transport that notes what is asked of it, and Hellos."""

from types import SimpleNamespace

from twisted.internet.testing import StringTransport

from loghouse.net.tls import ALPN
from loghouse.protocol.codec import encode
from loghouse.protocol.link_messages import Capability, Hello, LinkRole
from tests.net.wire import frames_in

UUID = b"c" * 16


def hello_of(name="n1", **fields):
    """Return the Hello of a node; of a client without a name."""
    if not name:
        return Hello(role=LinkRole.CLIENT)
    fields = {"cluster_name": "c1", "cluster_uuid": UUID, "capabilities": Capability.MANY_LOGS, **fields}
    return Hello(role=LinkRole.NODE, node_name=name, disk_uuid=name.encode().ljust(16, b"-"), **fields)


def frame_of(message, **where):
    """Return the bytes of a message."""
    return b"".join(encode(message, **where))


class Transport(StringTransport):
    """Notes in `calls` what is asked of it, beside bytes, and in `sizes` how many each write had."""

    def __init__(self, host="192.0.2.7"):
        super().__init__(peerAddress=SimpleNamespace(host=host))
        self.calls = []
        self.sizes = []
        self.negotiatedProtocol = ALPN
        self.bufferSize = 0

    def write(self, data):
        self.sizes.append(len(data))
        super().write(data)

    def setTcpNoDelay(self, enabled):
        self.calls.append(("no delay", enabled))

    def pauseProducing(self):
        self.calls.append("pause")

    def resumeProducing(self):
        self.calls.append("resume")

    def loseConnection(self):
        self.calls.append("lose")

    def loseWriteConnection(self):
        self.calls.append("lose write")

    def abortConnection(self):
        self.calls.append("abort")

    def registerProducer(self, producer, streaming):
        self.calls.append(("producer", streaming))

    def unregisterProducer(self):
        self.calls.append("no producer")

    def take_calls(self):
        """Return what was asked since the last time."""
        calls, self.calls = self.calls, []
        return calls

    def take_frames(self):
        """Return kind and body of what was written since the last time."""
        data = self.value()
        self.clear()
        return frames_in(data)
