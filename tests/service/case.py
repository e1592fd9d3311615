"""A service tree of real parts in this process, on a reactor whose time the test moves."""

import contextlib
import functools
import signal
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from twisted.internet import reactor, task
from twisted.internet.task import deferLater
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from loghouse.api.server import GrpcServer
from loghouse.auth.certificates import make_ca, make_client_certificate, make_node_certificate, write_issued
from loghouse.cli.certs import MODEL_TEXT, POLICY_TEXT
from loghouse.cluster.cluster import Cluster
from loghouse.config.settings import load
from loghouse.http.server import HttpServer
from loghouse.net.binary_client import ClientTls, connect
from loghouse.net.one_port import OnePort
from loghouse.node.administration import Administration
from loghouse.node.node import Node
from loghouse.service.node_service import NodeService
from loghouse.testing.process import free_port

HOSTS = ["localhost", "127.0.0.1"]
# What a start and a stop call on their parts, in the place of which a test may put something else.
STEPS = {
    "bind HTTP": (HttpServer, "bind"),
    "serve HTTP": (HttpServer, "listen"),
    "tell HTTP": (HttpServer, "enter_stop"),
    "stop HTTP": (HttpServer, "stop"),
    "claim": (Node, "claim"),
    "bind gRPC": (GrpcServer, "bind"),
    "bind": (OnePort, "bind"),
    "start the node": (Node, "startService"),
    "listen": (OnePort, "listen"),
    "serve gRPC": (GrpcServer, "start"),
    "join": (Cluster, "start"),
    "hand over": (Administration, "hand_over"),
    "release waiters": (Node, "release_waiters"),
    "stop accepting": (OnePort, "stop_accepting"),
    "wait for clients": (OnePort, "when_clients_are_gone"),
    "stop gRPC": (GrpcServer, "stop"),
    "settle": (Node, "when_settled"),
    "leave the cluster": (Cluster, "stop"),
    "leave nodes": (OnePort, "leave_nodes"),
    "cut off": (OnePort, "abort"),
    "stop the node": (Node, "stopService"),
}


@functools.cache
def authority():
    """Return the CA of all tests here, a node's certificate and a client's."""
    now = datetime.now(UTC)
    ca = make_ca("test CA", now=now)
    node = make_node_certificate(ca, cluster="c1", node="n1", hosts=HOSTS, now=now)
    return ca, node, make_client_certificate(ca, name="root", now=now)


async def until(condition, seconds=20.0):
    """Give the reactor turns until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition never came")
        await deferLater(reactor, 0.002, lambda: None)


async def turn():
    """Give the reactor a turn."""
    await deferLater(reactor, 0, lambda: None)


class SteppedReactor:
    """The reactor, with a time that stands until the test moves it."""

    def __init__(self):
        self.clock = task.Clock()
        self.callLater, self.seconds = self.clock.callLater, self.clock.seconds

    def __getattr__(self, name):
        return getattr(reactor, name)


class ServiceCase(TestCase):
    """A node.yaml, and services made of it."""

    timeout = 60

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.data = self.folder / "data"
        self.port = free_port()
        self.reactor = SteppedReactor()
        self.policy = self.folder / "policy.csv"
        self.policy.write_text(POLICY_TEXT)
        (self.folder / "model.conf").write_text(MODEL_TEXT)
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))

    def write_tls_files(self, ca=None, node=None):
        """Write this node's certificates; return the lines of node.yaml that name them."""
        own_ca, own_node, _ = authority()
        write_issued(node or own_node, self.folder / "n1.pem", self.folder / "n1.key", may_replace=True)
        (self.folder / "ca.pem").write_bytes((ca or own_ca).certificate_pem)
        return "tls: {ca: ca.pem, certificate: n1.pem, key: n1.key}"

    def client_tls(self):
        """Return what a client of these certificates connects with."""
        ca, _, client = authority()
        files = ClientTls(
            ca=self.folder / "ca-of-root.pem",
            certificate=self.folder / "root.pem",
            key=self.folder / "root.key",
        )
        files.ca.write_bytes(ca.certificate_pem)
        write_issued(client, files.certificate, files.key, may_replace=True)
        return files

    def make(self, *lines, security="plaintext: true"):
        """Return a service that is not started, of a node.yaml with these lines more."""
        return NodeService(load(self.write_settings(*lines, security=security)), self.reactor)

    def write_settings(self, *lines, security="plaintext: true"):
        """Write a node.yaml with these lines more, the first of which is its seventh; return its path."""
        path = self.path = self.folder / "node.yaml"
        head = ["node: n1", "cluster: c1", "data_dir: data", f"listen: 127.0.0.1:{self.port}", security]
        acl = "acl: {model: model.conf, policy: policy.csv}"
        path.write_text("\n".join([*head, acl, *lines]) + "\n")
        return path

    def start(self, *lines, **arguments):
        """Return a service that is started, and stopped at the test's end."""
        service = self.make(*lines, **arguments)
        service.startService()
        self.addCleanup(lambda: service.stopService() if service.running else None)
        return service

    async def lead(self, service):
        """Let time pass until the node leads, which a node alone does by itself."""
        while not service.node.log("").has_leader:
            self.reactor.clock.advance(0.1)
            await turn()

    async def connect(self, tls=None, port=None):
        """Return a connection of the binary protocol, cut at the test's end."""
        connection = await connect(reactor, "127.0.0.1", port or self.port, tls)
        self.addCleanup(connection.abort)
        return connection

    def note_lines(self):
        """Return the list that from now on gets each line of the diagnostics."""
        lines = []

        def note(event):
            lines.append(formatEvent(event))

        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        return lines

    def note_steps(self):
        """Return the list that from now on gets the name of each step that is taken."""
        taken = []

        def note(name, work, *args, **kwargs):
            taken.append(name)
            return work(*args, **kwargs)

        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        for name in STEPS:
            work = getattr(*STEPS[name])
            stack.enter_context(self.replaced(name, functools.partial(note, name, work)))
        return taken

    def replaced(self, name, instead):
        """Call `instead`, with the object and the arguments, in the place of a step."""

        def call(*args, **kwargs):
            return instead(*args, **kwargs)

        return mock.patch.object(*STEPS[name], call)

    def listening(self, port):
        """Return a socket that listens on a port, closed as a context."""
        return socket.create_server(("127.0.0.1", port))

    def is_free(self, port):
        """Whether a server could listen there."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                probe.listen()
            except OSError:
                return False
        return True
