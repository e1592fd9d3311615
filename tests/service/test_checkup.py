"""What `loghouse doctor` finds: each thing that can be wrong, provoked once."""

import json
import os
import socket
import ssl
import threading
from datetime import UTC, datetime
from unittest import mock

from loghouse.auth.certificates import make_ca, make_node_certificate, write_issued
from loghouse.cli import doctor
from loghouse.config.settings import load
from loghouse.config.values import Address
from loghouse.service import checkup
from loghouse.service.checkup import OK, PROBLEM, WARNING, examine
from tests.cli.support import CommandCase
from tests.service.case import HOSTS, ServiceCase, authority


class CheckupCase(ServiceCase):
    """A node.yaml to look at; the disk is quick and the clock right, unless the test says something else."""

    def setUp(self):
        super().setUp()
        self.patch(checkup, "sync_seconds", lambda place: 0.001)
        self.patch(checkup, "file_system_of", lambda place: "ext4")
        self.patch(checkup, "_kernel_clock", lambda: 0)

    def found(self, *lines, **arguments):
        """Return the findings, those that are fine left out, as (level, area, text, remedy)."""
        path = self.write_settings(*lines, **arguments)
        self.all = list(examine(path))
        return [(f.level, f.area, f.text, f.remedy) for f in self.all if f.level != OK]

    def assertFinds(self, level, area, text, *lines, **arguments):
        """Just one thing is to be found, and what to do is said."""
        [(found_level, found_area, found_text, remedy)] = self.found(*lines, **arguments)
        self.assertEqual((found_level, found_area), (level, area), found_text)
        self.assertIn(text, found_text)
        self.assertTrue(remedy)


class CheckupTests(CheckupCase):
    """A node alone."""

    def test_fine(self):
        """Nothing wrong: each area says what was looked at."""
        self.assertEqual(self.found(security=self.write_tls_files()), [])
        areas = {finding.area for finding in self.all}
        self.assertEqual(areas, {"settings", "policy", "certificates", "start", "disk", "clock"})
        self.assertFalse(self.data.exists())

    def test_settings(self):
        """Wrong settings are told with their lines, and nothing else is looked at."""
        self.assertFinds(PROBLEM, "settings", "logging.level (line 7)", "logging: {level: loud}")
        self.assertEqual(len(self.all), 1)

    def test_policy(self):
        """A wrong line is a problem, one that can never match a warning."""
        self.policy.write_text("p, nobody\n")
        self.assertFinds(PROBLEM, "policy", "policy.csv:1: a rule 'p' has 3 values")
        self.policy.write_text("p, root, *, admin\np, ann, Orders, produce\n")
        self.assertFinds(WARNING, "policy", "policy.csv:2: no log can be called so")
        self.policy.write_text("")
        self.assertFinds(WARNING, "policy", "has no rule")

    def test_certificates(self):
        """Another node's certificate, one that ends soon, and a key that others may read."""
        ca, _, _ = authority()
        security = self.write_tls_files()
        self.data.mkdir()
        now = datetime.now(UTC)
        soon = make_node_certificate(ca, cluster="c1", node="n1", hosts=HOSTS, now=now, days=10)
        self.write_tls_files(node=soon)
        self.assertFinds(WARNING, "certificates", "expires on", security=security)
        other = make_node_certificate(ca, cluster="c1", node="n2", hosts=HOSTS, now=now)
        self.write_tls_files(node=other)
        found = self.found(security=security)
        self.assertEqual([one[:2] for one in found], [(PROBLEM, "certificates"), (PROBLEM, "start")])
        self.write_tls_files()
        os.chmod(self.folder / "n1.key", 0o644)
        self.assertFinds(WARNING, "certificates", "others than its owner may use", security=security)

    def test_start(self):
        """A port that is taken would end a start."""
        with self.listening(self.port):
            self.assertFinds(PROBLEM, "start", "another process listens there")

    def test_disk(self):
        """A slow disk, one in memory, and one that is nearly full."""
        for seconds, level in ((0.2, WARNING), (2.0, PROBLEM)):
            self.patch(checkup, "sync_seconds", lambda place, seconds=seconds: seconds)
            self.assertFinds(level, "disk", f"a write and its sync take {1000 * seconds:.1f} ms")
        self.patch(checkup, "sync_seconds", lambda place: 0.001)
        self.patch(checkup, "file_system_of", lambda place: "tmpfs")
        self.assertFinds(PROBLEM, "disk", "is in memory (tmpfs)")
        self.patch(checkup, "file_system_of", lambda place: "ext4")
        full = mock.Mock(f_bavail=1, f_frsize=4096)
        with mock.patch.object(checkup.os, "statvfs", return_value=full):
            self.assertFinds(WARNING, "disk", "0 MiB free")

    def test_unwritable(self):
        """A disk that cannot be written."""

        def fail(place):
            raise OSError(30, "Read-only file system")

        self.patch(checkup, "sync_seconds", fail)
        self.assertFinds(PROBLEM, "disk", "cannot be written: Read-only file system")

    def test_clock(self):
        """A clock that nothing keeps right, or of which that is not known."""
        for state, text in ((0x40, "nothing keeps it right"), (None, "it is not known")):
            self.patch(checkup, "_kernel_clock", lambda state=state: state)
            self.assertFinds(WARNING, "clock", text)


class MachineTests(ServiceCase):
    """What is asked of the machine itself."""

    def test_sync(self):
        """A sync takes some time, and leaves nothing."""
        self.assertGreater(checkup.sync_seconds(self.folder), 0.0)
        self.assertEqual([path.name for path in self.folder.iterdir() if "doctor" in path.name], [])

    def test_kernel(self):
        """The kernel tells of its clock, or nothing."""
        state = checkup._kernel_clock()
        self.assertTrue(state is None or 0 <= state < 1 << 32)

    def test_file_system(self):
        """The kind of a file system is that of the innermost mount."""
        self.assertEqual(checkup.file_system_of(checkup.Path("/proc/self")), "proc")


class PeerTests(CheckupCase):
    """The other nodes of `join`."""

    def serve(self, issued):
        """Return the address of something that shakes hands with a certificate, and says nothing."""
        write_issued(issued, self.folder / "peer.pem", self.folder / "peer.key", may_replace=True)
        context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cadata=authority()[0].certificate_pem.decode()
        )
        context.load_cert_chain(self.folder / "peer.pem", self.folder / "peer.key")
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)

        def shake():
            plain, _ = listening.accept()
            with plain:
                try:
                    with context.wrap_socket(plain, server_side=True) as shaken:
                        shaken.recv(1)
                except OSError:
                    pass

        thread = threading.Thread(target=shake, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 10)
        return Address("127.0.0.1", listening.getsockname()[1])

    def look(self, address):
        """Return what is found of a node at that address."""
        config = load(self.write_settings(f"join: ['{address}']", security=self.write_tls_files()))
        [finding] = checkup._peers(config)
        return finding.level, finding.text.partition(": ")[2]

    def test_rows(self):
        """A member, a client, another cluster's node, this node's name, another CA's, and nobody."""
        ca, _, client = authority()
        now = datetime.now(UTC)

        def node(cluster, name, ca=ca):
            return make_node_certificate(ca, cluster=cluster, node=name, hosts=HOSTS, now=now)

        foreign = make_ca("other CA", now=now)
        for issued, level, text in (
            (node("c1", "n2"), OK, "is n2 of this cluster"),
            (client, PROBLEM, "its certificate does not count here: "),
            (node("c2", "n2"), PROBLEM, "is n2 of another cluster, 'c2'"),
            (node("c1", "n1"), PROBLEM, "calls itself n1, as this node does"),
            (node("c1", "n2", foreign), PROBLEM, "its certificate does not count here: "),
        ):
            found_level, found_text = self.look(self.serve(issued))
            self.assertEqual(found_level, level, found_text)
            self.assertTrue(found_text.startswith(text), found_text)
        level, text = self.look(Address("127.0.0.1", 1))
        self.assertEqual(level, WARNING)
        self.assertTrue(text.startswith("is not reached: "), text)

    def test_itself(self):
        """A node does not look at itself."""
        config = load(
            self.write_settings(f"join: ['127.0.0.1:{self.port}']", security=self.write_tls_files())
        )
        self.assertEqual(list(checkup._peers(config)), [])


class CommandTests(CommandCase):
    """What the command prints, and its exit codes."""

    def test_codes(self):
        """The worst finding is the exit code; JSON has every finding."""
        fine = checkup.Symptom(OK, "disk", "quick")
        warned = checkup.Symptom(WARNING, "clock", "nothing keeps it right", "run NTP")
        wrong = checkup.Symptom(PROBLEM, "settings", "wrong", "mend it")
        for findings, code in (([fine], 0), ([fine, warned], 6), ([warned, wrong], 1)):
            self.patch(doctor, "examine", lambda path, findings=findings: iter(findings))
            self.assertEqual(self.run_command("doctor")[0], code)
        _, out, _ = self.run_command("doctor")
        self.assertEqual(out.splitlines()[:2], ["warning clock: nothing keeps it right", "          run NTP"])
        _, out, _ = self.run_command("doctor", "--json")
        self.assertEqual([one["level"] for one in json.loads(out)["findings"]], [WARNING, PROBLEM])
