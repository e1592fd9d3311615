"""What systemd hears of a node (sd_notify): on a real socket, by a clock that the test moves."""

import os
import subprocess
import sys
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import ReloadRefusedError
from loghouse.service.systemd import SystemdNotifier
from tests.processes import in_children
from tests.service.case import ServiceCase, turn, until
from tests.service.notify_socket import NotifySocket


class NotifierTests(SynchronousTestCase):
    """What is sent, and when."""

    def setUp(self):
        self.clock = Clock()

    def make(self, is_abstract=False, **environment):
        self.socket = NotifySocket(is_abstract)
        self.addCleanup(self.socket.close)
        notifier = SystemdNotifier({"NOTIFY_SOCKET": self.socket.address, **environment}, self.clock)
        self.addCleanup(notifier.end)
        return notifier

    def names(self):
        """Return the first name of each message so far."""
        return [next(iter(message)) for message in self.socket.listen()]

    def test_life(self):
        """A start, a reload and a stop are told in order, at the address of a file and at an abstract one."""
        for is_abstract in (False, True):
            notifier = self.make(is_abstract)
            notifier.ready("serves")
            done = Deferred()
            notifier.reloading(done)
            self.assertEqual(self.names(), ["READY", "RELOADING"])
            done.callback("settings")
            self.assertEqual(self.successResultOf(done), "settings")
            notifier.stopping()
            self.assertEqual(self.names(), ["READY", "RELOADING", "READY", "STOPPING"])
            self.assertEqual(self.socket.heard[0], {"READY": "1", "STATUS": "serves"})
            self.assertGreater(int(self.socket.heard[1]["MONOTONIC_USEC"]), 0)

    def test_refused_reload(self):
        """A reload that is refused ends for systemd, too, with a status that says so."""
        notifier, done = self.make(), Deferred()
        notifier.reloading(done)
        done.errback(Failure(ReloadRefusedError("no")))
        self.failureResultOf(done, ReloadRefusedError)
        self.assertEqual(self.names(), ["RELOADING", "READY"])
        self.assertIn("refused", self.socket.heard[1]["STATUS"])

    def test_status_is_one_line(self):
        """A status cannot say what is another line's to say."""
        self.make().ready("a\nSTOPPING=1")
        self.assertEqual(self.socket.listen(), [{"READY": "1", "STATUS": "a\\x0aSTOPPING=1"}])

    def test_stop_is_the_last(self):
        """Behind the stop nothing is told but that the process is alive."""
        notifier, done = self.make(WATCHDOG_USEC="2000000"), Deferred()
        notifier.ready("serves")
        notifier.reloading(done)
        for _ in range(2):
            notifier.stopping()
        done.callback(None)
        notifier.reloading(Deferred())
        notifier.ready("serves")
        self.clock.advance(1)
        self.assertEqual(self.names(), ["READY", "WATCHDOG", "RELOADING", "STOPPING", "WATCHDOG"])

    def test_watchdog(self):
        """A sign of life comes at the start, then at half of the time that systemd allows, until the end."""
        notifier = self.make(WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid()))
        self.clock.advance(10)
        self.assertEqual(self.names(), [], "not before it serves")
        notifier.ready("serves")
        self.clock.pump([0.5] * 6)
        self.assertEqual(self.names(), ["READY", *["WATCHDOG"] * 3])
        notifier.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_watchdog(self):
        """Who is not watched gives no sign: no time, none that is a number, another process's."""
        for environment in (
            {},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "soon"},
            {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid() + 1)},
        ):
            self.make(**environment).ready("serves")
            self.assertEqual((self.names(), self.clock.getDelayedCalls()), (["READY"], []), environment)

    def test_nobody_listens(self):
        """A message that cannot be sent is a line in the diagnostics, and the node goes on."""
        notifier = SystemdNotifier({"NOTIFY_SOCKET": "/nowhere/notify"}, self.clock)
        self.addCleanup(notifier.end)
        with mock.patch.object(SystemdNotifier, "logger") as logger:
            notifier.ready("serves")
        [call] = logger.warn.mock_calls
        self.assertEqual(call.kwargs["what"], "READY=1")
        self.assertIn("No such file", call.kwargs["error"])


class ServiceTests(ServiceCase):
    """A node tells it at the right moments."""

    async def test_life(self):
        """It is ready when gRPC serves, says when it reads settings again, and that it stops."""
        heard = NotifySocket()
        self.addCleanup(heard.close)
        self.patch(os, "environ", {**os.environ, "NOTIFY_SOCKET": heard.address, "WATCHDOG_USEC": "4000000"})
        service = self.start()
        self.assertEqual(heard.listen(), [])
        await until(heard.listen)
        status = f"node n1 of cluster c1 serves on 127.0.0.1:{self.port}"
        self.assertEqual(heard.heard[0], {"READY": "1", "STATUS": status})
        self.reactor.clock.advance(2)
        self.assertEqual(heard.listen()[1:], [{"WATCHDOG": "1"}] * 2)
        await service.reload("a test")
        self.assertEqual(
            [[*message] for message in heard.listen()[3:]], [["RELOADING", "MONOTONIC_USEC"], ["READY"]]
        )
        await self.lead(service)
        heard.listen()
        del heard.heard[:]
        stopped = service.stopService()
        self.assertEqual(heard.listen(), [{"STOPPING": "1"}])
        while not stopped.called:
            self.reactor.clock.advance(0.01)
            await turn()
        await stopped

    @in_children
    def test_no_cost(self):
        """A node that systemd did not start imports nothing of this, nor of HTTP, which not each serves."""
        program = (
            "import sys, loghouse.service.node_service;"
            "print([name for name in ('loghouse.service.systemd', 'loghouse.http.server', 'twisted.web.http',"
            " 'prometheus_client') if name in sys.modules])"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        self.assertEqual(done.stdout, "[]\n", done.stderr)
