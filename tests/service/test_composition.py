"""What the parts of a node are given by the service that composes them, and what each failure ends."""

import gc
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from twisted.internet import reactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse import __version__
from loghouse.config.settings import load
from loghouse.errors import DiskFailedError
from loghouse.limits import KIB
from loghouse.metrics import Metrics
from loghouse.net.one_port import OnePort, OnePortOptions
from loghouse.node.node import Node
from loghouse.runtime.bridge import soon
from loghouse.service import node_service
from loghouse.service.node_service import (
    EXIT_DISK_FAILED,
    WATCH_SECONDS,
    FileWatch,
    NodeService,
    make_service,
)
from loghouse.testing.process import free_port
from tests.service.case import ServiceCase


class PartsTests(ServiceCase):
    """Each part gets what the settings say, and the other parts that it needs."""

    def test_reactor(self):
        """The service of a process is of the reactor that runs there."""
        self.make()
        self.assertIs(make_service(load(self.folder / "node.yaml"))._reactor, reactor)

    def test_port(self):
        """The port knows who calls and how large a record may be, and gives the cluster its links."""
        metrics = Metrics()
        self.make("limits: {record_bytes_max: 64KiB}", "plaintext_subject: ann")
        service = NodeService(load(self.folder / "node.yaml"), self.reactor, metrics)
        with mock.patch.object(node_service, "OnePort", wraps=OnePort) as made:
            authorizer, credentials = service._read_security()
        [call] = made.mock_calls
        self.assertEqual(call.args, (self.reactor, service.node, authorizer))
        options = OnePortOptions(tls=credentials, anonymous="ann", record_size_max=64 * KIB, metrics=metrics)
        expected = {
            "wall_clock": time.time,
            "options": options,
            "peers": service.cluster.accepted,
            "soon": soon(),
        }
        self.assertEqual(call.kwargs, expected)

    def joined(self, *lines):
        """Start a node among others; return what the links that it dials have in common."""
        contexts = []
        with self.replaced("join", lambda cluster, context: contexts.append((cluster, context))):
            service = self.start(*lines, security=self.write_tls_files())
        self.patch(service.cluster, "stop", [].append)
        return service, contexts

    def test_links(self):
        """The links to others say who this is, and have the port's certificates."""
        service, [(cluster, context)] = self.joined(f"join: ['127.0.0.1:{free_port()}']", "bootstrap: false")
        self.assertIs(cluster, service.cluster)
        self.assertIs(context.reactor, self.reactor)
        self.assertEqual((context.watch, context.tls), (service._one_port.watch, service._one_port.tls))
        self.assertIsNotNone(context.tls)
        self.assertIsInstance(context.rng, random.SystemRandom)
        self.assertEqual((context.soon, context.metrics), (soon(), service.node.options.metrics))
        hello = context.hello()
        self.assertEqual((hello.node_name, hello.cluster_name), ("n1", "c1"))
        self.assertEqual(hello.software, f"loghouse {__version__}")

    def test_alone_no_more(self):
        """A node that its settings have alone looks for the members that its log has."""
        with mock.patch.object(Node, "is_in_cluster", True):
            service, [(cluster, _)] = self.joined("bootstrap: true")
        self.assertIs(cluster, service.cluster)
        self.assertIsNotNone(service.node.forwarder)

    def test_alone(self):
        """Without such members it looks for nobody."""
        service, contexts = self.joined("bootstrap: true")
        self.assertEqual((contexts, service.node.forwarder), ([], None))

    def test_expiry(self):
        """Certificates that end soon are told at the start, and whenever files are looked at."""
        told = []
        self.patch(OnePort, "warn_of_expiry", lambda port: told.append(self.reactor.seconds()))
        begin = self.reactor.seconds()
        self.start()
        self.reactor.clock.advance(WATCH_SECONDS)
        self.assertEqual([at - begin for at in told], [0.0, WATCH_SECONDS])


class EndTests(ServiceCase):
    """What a failure ends."""

    def test_last_words(self):
        """All that was written before the end is out before the process ends."""
        steps = []
        stream = {
            name: SimpleNamespace(flush=lambda name=name: steps.append(name), write=steps.append)
            for name in ("out", "err")
        }
        service = self.make()
        self.patch(sys, "stdout", stream["out"])
        self.patch(sys, "stderr", stream["err"])
        self.patch(node_service.os, "_exit", steps.append)
        service._die(Failure(DiskFailedError("gone")))
        told = f"loghouse: {Failure(DiskFailedError('gone')).getErrorMessage()}\n"
        self.assertEqual(steps, ["out", told, "err", EXIT_DISK_FAILED])
        self.assertEqual(len(self.flushLoggedErrors(DiskFailedError)), 1)


class FailingWatchTests(SynchronousTestCase):
    """Files that cannot be read again."""

    def test_failed_reload(self):
        """A reload that raises is told, and the next change is read."""
        path = Path(self.mktemp())
        path.write_text("one")
        reloads = []

        def reload():
            reloads.append(True)
            raise ZeroDivisionError

        watch = FileWatch([path], reload)
        for text in ("second", "the third"):
            path.write_text(text)
            watch.check()
            gc.collect()
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(reloads), 2)
