"""Certificates and policy are read again: when their files change, and at SIGHUP."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.certificates import make_node_certificate
from loghouse.auth.policy import Authorizer
from loghouse.cli.certs import POLICY_TEXT
from loghouse.errors import PermissionDeniedError
from loghouse.net.one_port import OnePort
from loghouse.service.node_service import WATCH_SECONDS, FileWatch
from tests.service.case import HOSTS, ServiceCase, authority, until


class FileWatchTests(SynchronousTestCase):
    """Files are compared by time, size and place."""

    def setUp(self):
        self.path = self.mktemp()
        self.write("one")
        self.reloads = 0
        self.under_way = None
        self.watch = FileWatch([Path(self.path)], self.reload)

    def write(self, text):
        Path(self.path).write_text(text)

    def reload(self):
        self.reloads += 1
        return self.under_way

    def look(self, count):
        """Look; the files were read so often by then."""
        self.watch.check()
        self.assertEqual(self.reloads, count)

    def test_change(self):
        """A change is read once; what stays as it is never."""
        self.look(0)
        self.write("other")
        self.look(1)
        self.look(1)

    def test_file_that_is_gone(self):
        """A file that goes away is a change, and so is its coming back."""
        os.remove(self.path)
        self.look(1)
        self.look(1)
        self.write("one")
        self.look(2)

    def test_new_file_of_the_same_time(self):
        """A file put in the place of another one is a change, though time and size are equal."""
        before = os.stat(self.path)
        other = self.path + "-new"
        Path(other).write_text("two")
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(other, self.path)
        self.look(1)

    def test_under_way(self):
        """While files are read nobody looks; what changed meanwhile is read by the next look."""
        reading = self.under_way = Deferred()
        self.write("second")
        self.look(1)
        self.write("the third")
        self.look(1)
        self.under_way = None
        reading.callback(None)
        self.look(2)


class ReloadTests(ServiceCase):
    """What a running node does with files that changed."""

    def permits(self, service):
        """Whether the node lets another one append for `nobody`."""
        try:
            service.node.check_subject("nobody", "default")
        except PermissionDeniedError:
            return False
        return True

    async def test_policy(self):
        """A new policy counts some seconds later, without a restart."""
        service = self.start()
        self.assertFalse(self.permits(service))
        self.policy.write_text(POLICY_TEXT + "p, nobody, *, produce\n")
        self.reactor.clock.advance(WATCH_SECONDS)
        await until(lambda: self.permits(service))

    def test_how_often(self):
        """Files are looked at every five seconds."""
        self.start()
        looks = []
        self.patch(FileWatch, "check", lambda watch: looks.append(self.reactor.seconds()))
        begin = self.reactor.seconds()
        self.reactor.clock.pump([0.5] * 20)
        self.assertEqual([at - begin for at in looks], [5.0, 10.0])

    async def test_bad_policy(self):
        """A policy that cannot be used changes nothing, and is told; the next good one counts."""
        service = self.start()
        lines = self.note_lines()
        self.policy.write_text("p, nobody\n")
        self.reactor.clock.advance(WATCH_SECONDS)
        await until(lambda: any("the new file is not used" in line for line in lines))
        service.node.check_subject("root", "default")
        self.policy.write_text(POLICY_TEXT + "p, nobody, *, produce\n")
        self.reactor.clock.advance(WATCH_SECONDS)
        await until(lambda: self.permits(service))

    async def test_unexpected(self):
        """Whatever else goes wrong while files are read is logged with its trace, and the node goes on."""
        service = self.start()
        self.policy.write_text(POLICY_TEXT + "\n")
        with mock.patch.object(Authorizer, "read", side_effect=ZeroDivisionError):
            self.reactor.clock.advance(WATCH_SECONDS)
            failures = []
            await until(lambda: failures.extend(self.flushLoggedErrors(ZeroDivisionError)) or failures)
        service.node.check_subject("root", "default")

    async def test_certificate(self):
        """New connections see a new certificate; one that cannot be used leaves the old one in force."""
        service = self.start(security=self.write_tls_files())
        await self.lead(service)
        tls = self.client_tls()
        first = await self.serial(tls)
        (self.folder / "n1.pem").write_text("nothing")
        lines = self.note_lines()
        self.reactor.clock.advance(WATCH_SECONDS)
        await until(lambda: any("the new file is not used" in line for line in lines))
        self.assertEqual(await self.serial(tls), first)
        ca, _, _ = authority()
        anew = make_node_certificate(ca, cluster="c1", node="n1", hosts=HOSTS, now=datetime.now(UTC))
        self.write_tls_files(node=anew)
        self.reactor.clock.advance(WATCH_SECONDS)
        seen = first
        while seen == first:
            seen = await self.serial(tls)
        self.assertNotEqual(seen, first)

    async def serial(self, tls):
        """The serial number of the certificate that a new connection is shown."""
        connection = await self.connect(tls)
        return connection.transport.getPeerCertificate().get_serial_number()

    async def test_hang_up(self):
        """SIGHUP reads what changed at once, and whoever had the signal before still gets it."""
        heard = []
        signal.signal(signal.SIGHUP, lambda number, frame: heard.append(number))
        service = self.start()
        self.policy.write_text(POLICY_TEXT + "p, nobody, *, produce\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: self.permits(service))
        self.assertEqual(heard, [signal.SIGHUP])

    async def test_hang_up_of_nobody_else(self):
        """It does so, too, when nobody had the signal."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        service = self.start()
        self.policy.write_text(POLICY_TEXT + "p, nobody, *, produce\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: self.permits(service))

    async def test_watch_that_fails(self):
        """A look that fails is logged, and the node goes on."""
        with mock.patch.object(OnePort, "warn_of_expiry", side_effect=[None, ZeroDivisionError]):
            service = self.start()
            self.reactor.clock.advance(WATCH_SECONDS)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        service.node.check_subject("root", "default")
