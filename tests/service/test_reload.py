"""Certificates and policy are read again: when their files change, and at SIGHUP."""

import contextlib
import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from grpc import aio
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.auth.certificates import make_node_certificate, write_issued
from loghouse.auth.policy import Authorizer
from loghouse.cli.certs import POLICY_TEXT
from loghouse.config.settings import load
from loghouse.errors import ConfigError, InvalidRequestError, PermissionDeniedError, ReloadRefusedError
from loghouse.limits import KIB, MIB
from loghouse.net.one_port import OnePort
from loghouse.node.api import Reloaded
from loghouse.protocol.batch import encode_batch
from loghouse.runtime.bridge import from_asyncio
from loghouse.service.node_service import WATCH_SECONDS, FileWatch
from loghouse.shares import SubjectQuota
from loghouse.testing.process import free_port
from tests.service.case import HOSTS, ServiceCase, authority, turn, until


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


class SettingsTests(ServiceCase):
    """node.yaml is read again: what can change does, the rest is told, and nothing of a wrong file counts."""

    def rewrite(self, *lines, security="plaintext: true"):
        """Write node.yaml anew with these lines."""
        self.write_settings(*lines, security=security)

    async def test_what_changes(self):
        """Limits, rates, times and the log level count at once; each is a line with both values."""
        levels = []
        service = self.start()
        service.change_logging = lambda logging: levels.append(logging.level)
        await self.lead(service)
        told = self.note_lines()
        self.rewrite(
            "limits: {record_bytes_max: 64KiB, proposals_bytes_max: 16MiB}",
            "storage: {scrub_rate: 0, cold_read_rate: 0, keep_deleted: 1h}",
            "logging: {level: debug}",
            "shutdown: {drain_seconds: 3}",
        )
        report = await service.reload("ann")
        lines = (
            "storage.scrub_rate: 4MiB -> 0",
            "storage.cold_read_rate: 32MiB -> 0",
            "storage.keep_deleted: 86400 -> 3600",
            "limits.record_bytes_max: 1MiB -> 64KiB",
            "limits.proposals_bytes_max: 64MiB -> 16MiB",
            "logging.level: info -> debug",
            "shutdown.drain_seconds: 10 -> 3",
        )
        self.assertEqual((report.changed, report.waiting, report.warnings), (lines, (), ()))
        self.assertIn("settings were read again, asked for by ann: 7 changed, 0 wait for a restart", told)
        self.assertEqual(
            set(told) & {f"settings: {line}" for line in lines}, {f"settings: {x}" for x in lines}
        )
        self.assertEqual(levels, ["debug"])
        node, replica = service.node, service.node.membership.replica
        self.assertEqual(service._one_port.gate.record_size_max, 64 * KIB)
        self.assertEqual(service._server.gate.record_size_max, 64 * KIB)
        self.assertEqual(replica.driver.raft.config.proposals_size_max, 16 * MIB)
        self.assertEqual(node._budgets.under_way.ledger.quota[1:], (16 * MIB, 12 * MIB))
        self.assertEqual(replica.damage_control.scrubber.rate, 0)
        replica.cold_reads.write_began()
        self.assertFalse(replica.cold_reads.must_give_way(0.0))
        self.assertEqual(node._named.hosted.keep_deleted_seconds, 3600)
        self.assertEqual((node.options.drain_seconds, service._config.shutdown.drain_seconds), (3, 3))
        connection = await self.connect()
        batch = encode_batch([log_pb2.Record(value=b"x" * 64 * KIB)])
        with self.assertRaises(InvalidRequestError):
            await connection.produce(batch, record_count=1)
        self.assertEqual(await service.reload("ann"), Reloaded())

    async def test_what_waits(self):
        """What only a start can take is told each time until there is one, and does not count meanwhile."""
        service = self.start()
        self.rewrite(
            f"grpc_listen: 127.0.0.1:{free_port()}", "retention: {age: 7d}", "timing: {network: wan}"
        )
        report = await service.reload("ann")
        self.assertEqual(report.changed, ())
        self.assertEqual(report.waiting[0], f"grpc_listen: none -> {load(self.path).grpc_listen}")
        self.assertIn(
            "retention.age: 0s -> 604800s (of a new cluster; `loghouse log alter`", report.waiting[1]
        )
        self.assertEqual(report.waiting[2], "timing.network: lan -> wan")
        self.assertEqual(service._config.timing.network, "lan")
        self.assertEqual(await service.reload("ann"), report)

    async def test_wrong(self):
        """Every problem is named with file and line, and all old settings stay, also those that are right."""
        service = self.start()
        told = self.note_lines()
        self.rewrite("shutdown: {drain_seconds: 3}", "logging: {level: loud}", "nonsense: 1")
        error = await self.assertFailure(service.reload("ann"), ReloadRefusedError)
        self.assertIn("nothing was changed: ", str(error))
        self.assertIn(
            f"{self.path}: logging.level (line 8): 'loud' is not known; allowed: debug,", str(error)
        )
        self.assertIn(f"{self.path}: nonsense (line 9): is not a setting", str(error))
        self.assertEqual(service._config.shutdown.drain_seconds, 10)
        self.assertTrue(any("asked for by ann: nothing was changed" in line for line in told))

    async def test_wrong_files(self):
        """A policy and certificates that cannot be used refuse the rest of the settings, too."""
        security = self.write_tls_files()
        service = self.start(security=security)
        before = service._credentials.material
        self.rewrite("shutdown: {drain_seconds: 3}", security=security)
        (self.folder / "n1.pem").write_text("nothing")
        self.policy.write_text("p, nobody\n")
        error = await self.assertFailure(service.reload("ann"), ReloadRefusedError)
        self.assertIn(f"{self.policy}:1: a rule 'p' has 3 values", str(error))
        self.assertIn(str(self.folder / "n1.pem"), str(error))
        self.assertEqual(service._config.shutdown.drain_seconds, 10)
        self.assertIs(service._credentials.material, before)
        service.node.check_subject("root", "default")

    async def test_other_places(self):
        """Policy and certificates may be other files from now on, which are watched from now on."""
        service = self.start(security=self.write_tls_files())
        ca, _, _ = authority()
        anew = make_node_certificate(ca, cluster="c1", node="n1", hosts=HOSTS, now=datetime.now(UTC))
        write_issued(anew, self.folder / "new.pem", self.folder / "new.key")
        (self.folder / "new.csv").write_text(POLICY_TEXT + "p, nobody, *, produce\n")
        path = self.write_settings(security="tls: {ca: ca.pem, certificate: new.pem, key: new.key}")
        path.write_text(path.read_text().replace("policy.csv", "new.csv"))
        report = await service.reload("ann")
        folder = self.folder
        self.assertEqual(
            report.changed[:3],
            (
                f"tls.certificate: {folder}/n1.pem -> {folder}/new.pem",
                f"tls.key: {folder}/n1.key -> {folder}/new.key",
                f"acl.policy: {folder}/policy.csv -> {folder}/new.csv",
            ),
        )
        self.assertRegex(report.changed[3], "^the policy: [0-9]+ rules -> [0-9]+ rules$")
        self.assertRegex(report.changed[4], "^certificates: serial .* -> serial .*, 1 CAs, 0 denied$")
        service.node.check_subject("nobody", "default")
        (self.folder / "new.csv").write_text(POLICY_TEXT)
        self.reactor.clock.advance(WATCH_SECONDS)

        def is_refused():
            try:
                service.node.check_subject("nobody", "default")
            except PermissionDeniedError:
                return True
            return False

        await until(is_refused)

    async def test_no_tls_any_more(self):
        """TLS cannot come or go while a node runs."""
        security = self.write_tls_files()
        service = self.start()
        self.rewrite(security=security)
        report = await service.reload("ann")
        self.assertEqual(report.changed, ())
        self.assertEqual(
            [line.partition(":")[0] for line in report.waiting],
            ["plaintext", "tls.ca", "tls.certificate", "tls.key"],
        )

    async def test_warnings(self):
        """Rules that can never match are told at the start, at a reload, and when the file changes."""
        rules = POLICY_TEXT + "p, ann, Orders, produce\n"
        self.policy.write_text(rules)
        told = self.note_lines()
        service = self.start()
        line = len(rules.splitlines())
        self.assertTrue(any(f"the policy: {self.policy}:{line}: no log can be called so" in x for x in told))
        report = await service.reload("ann")
        self.assertEqual(len(report.warnings), 1)
        del told[:]
        self.policy.write_text(rules + "p, bob, *, produce\n")
        self.reactor.clock.advance(WATCH_SECONDS)
        await until(lambda: any("no log can be called so" in line for line in told))
        self.assertTrue(any("the policy was read again: the policy: " in line for line in told))

    async def test_one_after_the_other(self):
        """Of two that are asked for at once the second begins when the first has ended."""
        service = self.start()
        self.rewrite("shutdown: {drain_seconds: 3}")
        first, second = service.reload("ann"), service.reload("bob")
        self.assertEqual((await first).changed, ("shutdown.drain_seconds: 10 -> 3",))
        self.assertEqual(await second, Reloaded())

    async def test_hang_up(self):
        """SIGHUP reads node.yaml, too."""
        service = self.start()
        self.rewrite("shutdown: {drain_seconds: 3}")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: service._config.shutdown.drain_seconds == 3)

    async def test_unexpected(self):
        """Whatever else goes wrong while files are read is logged with its trace, and told as a failure."""
        service = self.start()
        with mock.patch.object(Authorizer, "read", side_effect=ZeroDivisionError):
            await self.assertFailure(service.reload("ann"), ZeroDivisionError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(await service.reload("ann"), Reloaded())

    async def test_quotas(self):
        """Quotas count from the next request on, and are told as node.yaml has them."""
        service = self.start()
        quotas = service._one_port.shares.quotas
        self.assertFalse(quotas.is_used)
        self.rewrite('quotas: {"team-*": {in: 10MiB, requests: 4}}')
        report = await service.reload("ann")
        self.assertEqual(report.changed, ("quotas: none -> {team-*: {in: 10MiB, requests: 4}}",))
        self.assertEqual(quotas.of("team-a").quota, SubjectQuota(bytes_in=10 * MIB, requests=4))
        self.rewrite('quotas: {"team-*": {in: 1KiB}}')
        error = await self.assertFailure(service.reload("ann"), ReloadRefusedError)
        self.assertIn(
            "gives 'team-*' a bound in: '1KiB', which is out of range; allowed: 64KiB to", str(error)
        )


class AuditTests(ServiceCase):
    """What is refused and changed gets into the audit's file."""

    def told(self, path):
        """Return the lines that are there by now."""
        return [json.loads(line) for line in path.read_text().splitlines()]

    async def test_file(self):
        """Refusals and acts over both protocols are lines; a signal begins a file that was moved anew."""
        before = signal.getsignal(signal.SIGUSR1)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        self.policy.write_text("p, root, *, admin\n")
        service = self.start("audit: audit.log")
        await self.lead(service)
        path = self.folder / "audit.log"
        connection = await self.connect()
        with self.assertRaises(PermissionDeniedError):
            await connection.produce(encode_batch([log_pb2.Record(value=b"x")]), record_count=1)
        await until(lambda: path.read_text())
        [line] = self.told(path)
        self.assertEqual(
            [line[key] for key in ("kind", "who", "what", "from", "outcome")],
            ["refusal", "root", "Produce", "127.0.0.1", "'root' is not permitted to produce 'default'"],
        )
        moved = self.folder / "moved"
        path.rename(moved)
        os.kill(os.getpid(), signal.SIGUSR1)

        async def administer():
            async with aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
                stub = log_pb2_grpc.ClusterStub(channel)
                await stub.Reload(log_pb2.ReloadRequest())
                with contextlib.suppress(aio.AioRpcError):
                    await stub.Remove(log_pb2.RemoveRequest(name="n1"))

        done = from_asyncio(administer())
        while not done.called:
            self.reactor.clock.advance(0.001)
            await turn()
        await done
        await until(lambda: path.exists() and len(self.told(path)) == 2)
        first, second = self.told(path)
        self.assertEqual((first["what"], first["outcome"]), ("/log.v1.Cluster/Reload", "done"))
        self.assertEqual(second["what"], '/log.v1.Cluster/Remove name: "n1"')
        self.assertIn("Membership: ", second["outcome"])
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(self.told(path)) == 3)
        self.assertEqual((self.told(path)[2]["who"], self.told(path)[2]["what"]), ("SIGHUP", "reload"))

    async def test_no_file(self):
        """A file that cannot be written ends a start, and refuses a reload."""
        service = self.make("audit: nowhere/audit.log")
        self.assertRaises(ConfigError, service.startService)
        service = self.start()
        self.write_settings("audit: nowhere/audit.log")
        error = await self.assertFailure(service.reload("ann"), ReloadRefusedError)
        self.assertIn("audit: ", str(error))
        self.write_settings("audit: audit.log")
        self.addCleanup(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
        await service.reload("ann")
        self.assertTrue((self.folder / "audit.log").exists())
