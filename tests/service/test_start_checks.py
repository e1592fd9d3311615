"""What `config check` asks of a start, before there is one: everything at once, and nothing is changed."""

import os
from types import SimpleNamespace
from unittest import mock

from loghouse.config.settings import load
from loghouse.errors import CertificateError, ConfigError
from loghouse.net.one_port import take_address
from loghouse.service import start_checks
from loghouse.service.proving import credentials_of
from loghouse.service.start_checks import StartCheck, check_start, read_policy
from loghouse.storage.directory import DataDirectory
from loghouse.testing.process import free_port
from tests.service.case import ServiceCase, authority


class CheckTests(ServiceCase):
    """One node.yaml after the other."""

    def check(self, *lines, **arguments):
        """Check a node.yaml with these lines."""
        self.make(*lines, **arguments)
        return check_start(load(self.folder / "node.yaml"))

    def problem(self, *lines, **arguments):
        """Return the one problem of a node.yaml."""
        found = self.check(*lines, **arguments)
        self.assertIs(found.is_running, False)
        [problem] = found.problems
        return problem

    def test_good(self):
        """Where nothing is wrong nothing is said, and nothing is made."""
        self.assertEqual(self.check(), StartCheck((), is_running=False))
        self.assertFalse(self.data.exists())
        self.assertEqual(self.check(security=self.write_tls_files()), StartCheck((), is_running=False))
        self.start()
        self.assertTrue(self.data.exists())

    def test_places(self):
        """The data directory, or the folder that it is to be made in, must be one to write to."""
        self.assertIn(f"data_dir: {self.folder}/none does not exist", self.place("none/data"))
        (self.folder / "file").write_text("")
        self.assertIn(f"data_dir: {self.folder}/file does not exist", self.place("file/data"))
        asked, access = [], os.access

        def refuse(path, mode):
            if not mode & os.W_OK:
                return access(path, mode)
            asked.append((path, mode))
            return False

        with mock.patch.object(start_checks.os, "access", refuse):
            told = self.place("data")
            self.assertIn(f"data_dir: this user may not write to {self.folder}; check its owner", told)
        self.assertEqual(asked, [(str(self.folder), os.W_OK | os.X_OK)])

    async def test_own_place(self):
        """A data directory that is there is itself the one to write to, whatever its folder allows."""
        service = self.start()
        await service.stopService()
        asked, access = [], os.access

        def refuse(path, mode):
            if mode & os.W_OK:
                asked.append(path)
            return access(path, mode) and path != str(self.data)

        with mock.patch.object(start_checks.os, "access", refuse):
            self.assertIn(f"this user may not write to {self.data};", self.problem())
        self.assertEqual(asked, [str(self.data)])

    def test_lock(self):
        """The lock of a directory that is there is let go at once."""
        closed = []
        claimed = SimpleNamespace(close=lambda: closed.append(True))
        with mock.patch.object(DataDirectory, "claim", return_value=claimed):
            self.assertEqual(self.check(), StartCheck((), is_running=False))
        self.assertEqual(closed, [True])

    def test_several_of_one_kind(self):
        """A list of problems is told one by one, any other refusal as one."""
        for error, problems in (
            (ConfigError(["first", "second"]), ("first", "second")),
            (CertificateError("first; second"), ("first; second",)),
        ):
            with mock.patch.object(start_checks, "read_policy", side_effect=error):
                self.assertEqual(self.check().problems, problems)

    def place(self, name):
        """Return the problem of a data directory in this place."""
        path = self.folder / "node.yaml"
        self.make()
        path.write_text(path.read_text().replace("data_dir: data", f"data_dir: {name}"))
        [problem] = check_start(load(path)).problems
        return problem

    async def test_another_node(self):
        """A directory of another node, or of another cluster, is refused; the node's own is not."""
        service = self.start()
        await service.stopService()
        self.assertEqual(self.check(), StartCheck((), is_running=False))
        path = self.folder / "node.yaml"
        for old, new in (("node: n1", "node: n2"), ("cluster: c1", "cluster: c2")):
            self.make()
            path.write_text(path.read_text().replace(old, new))
            [problem] = check_start(load(path)).problems
            self.assertIn(new.split(": ")[1], problem)
        self.start()  # its lock was let go

    async def test_running(self):
        """A node that runs holds its directory and its ports, which are not tried then."""
        second = free_port()
        self.start(f"grpc_listen: 127.0.0.1:{second}")
        found = check_start(load(self.folder / "node.yaml"))
        self.assertEqual(found, StartCheck((), is_running=True))

    def test_ports(self):
        """Both addresses must be free; where a node runs, of hosts that there are, at least."""
        second = free_port()
        with self.listening(self.port):
            self.assertIn(str(self.port), self.problem())
        with self.listening(second):
            self.assertIn(str(second), self.problem(f"grpc_listen: 127.0.0.1:{second}"))
        with self.listening(self.port), self.listening(second):
            self.assertEqual(len(self.check(f"grpc_listen: 127.0.0.1:{second}").problems), 2)
        self.assertEqual(self.check(f"grpc_listen: 127.0.0.1:{second}").problems, ())
        self.assertTrue(self.is_free(self.port))

    def test_running_elsewhere(self):
        """A host that is not this machine's is told while the node runs, too."""
        self.start()
        tried = []

        def take(host, port):
            tried.append((host, port))
            return take_address(host, port)

        with mock.patch.object(start_checks, "take_address", take):
            check_start(load(self.folder / "node.yaml"))
        self.assertEqual(tried, [("127.0.0.1", 0)])

    def test_all_at_once(self):
        """All that is wrong is told at once: the policy, the certificate, the directory, the port."""
        self.policy.write_text("p, root\n")
        _, _, client = authority()
        lines = self.write_tls_files(node=client)
        self.make()
        path = self.folder / "node.yaml"
        text = path.read_text().replace("plaintext: true", lines)
        path.write_text(text.replace("data_dir: data", "data_dir: none/data"))
        with self.listening(self.port):
            problems = check_start(load(path)).problems
        for problem, told in zip(problems, ("policy.csv", "n1.pem", "data_dir", str(self.port)), strict=True):
            self.assertIn(told, problem)

    def test_parts(self):
        """The policy and the credentials are those that a start would read."""
        self.make()
        config = load(self.folder / "node.yaml")
        read_policy(config).check("root", "default", "produce")
        self.assertIsNone(credentials_of(config))
        self.make(security=self.write_tls_files())
        credentials = credentials_of(load(self.folder / "node.yaml"))
        self.assertEqual(credentials.paths.key, self.folder / "n1.key")
        self.assertIsNone(credentials.paths.denylist)
