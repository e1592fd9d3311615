"""The rest of the `loghouse` command: certificates, settings, where to connect, and how it ends."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from cryptography import x509

from loghouse import __version__
from loghouse.auth.credentials import Credentials, TlsPaths
from loghouse.auth.denylist import names_of, parse_denylist
from loghouse.cli import certs, failures, target
from loghouse.cli.main import make_parser
from loghouse.cli.output import EXIT_CODES_TEXT, ExitCode, count_text, size_text, time_text
from loghouse.config.settings import example_text
from loghouse.errors import UnavailableError
from loghouse.limits import KIB
from loghouse.storage.files import OsFiles
from loghouse.testing.process import free_port
from tests.cli.support import CommandCase, NodeCase
from tests.processes import in_children
from tests.storage.entries import open_directory
from tests.test_config import PLAIN

ROOT = Path(__file__).resolve().parent.parent.parent


class CertificatesCase(NodeCase):
    """A CA, a node `node-1` and a client `root` in ./certs."""

    def setUp(self):
        super().setUp()
        for words in (
            ["init"],
            ["node", "node-1", "--cluster", "c1", "--host", "127.0.0.1"],
            ["client", "root"],
        ):
            code, _, err = self.run_command("certs", *words)
            self.assertEqual((code, err), (0, ""), words)


class CertsTests(CertificatesCase):
    """`loghouse certs`."""

    def test_they_work_for_mutual_tls(self):
        """A node with the made certificate serves a client with the made certificate, and no other."""
        certs = self.folder / "certs"
        paths = TlsPaths(certificate=certs / "node-1.pem", key=certs / "node-1.key", ca=certs / "ca.pem")
        node = self.serve("node-1", Credentials(paths))
        for where in ("init",), ("client", "root"):
            self.assertEqual(self.run_command("certs", *where, "--dir", "other")[0], 0)
        ca = ["--ca", "certs/ca.pem"]
        tls = [*ca, "--cert", "certs/root.pem", "--key", "certs/root.key"]
        foreign = [*ca, "--cert", "other/root.pem", "--key", "other/root.key"]
        for transport, codes in (
            ("binary", {ExitCode.FAILED}),
            ("grpc", {ExitCode.UNAVAILABLE, ExitCode.OUTCOME_UNKNOWN}),
        ):
            at = ["servers", "--server", node.address, "--transport", transport]
            code, out, err = self.run_command(*at, *tls)
            self.assertEqual((code, err), (0, ""), transport)
            self.assertIn("node-1", out)
            code, out, err = self.run_command(*at, *foreign)
            self.assertEqual(out, "", transport)
            self.assertIn(code, codes, transport)
            self.assertNotIn("Traceback", err)

    def test_files_are_kept(self):
        """What is there stays, unless --force."""
        before = (self.folder / "certs" / "root.key").read_bytes()
        code, _, err = self.run_command("certs", "client", "root")
        self.assertEqual(code, 1)
        self.assertIn("root.key is there already", err)
        self.assertEqual((self.folder / "certs" / "root.key").read_bytes(), before)
        code, out, _ = self.run_command("certs", "client", "root", "--force", "--json", "--key", "rsa2048")
        self.assertEqual((code, json.loads(out)["key"]), (0, "certs/root.key"))
        self.assertNotEqual((self.folder / "certs" / "root.key").read_bytes(), before)

    def test_nobody_elses_files(self):
        """--force, too, replaces only an older certificate of the same holder: not the CA, no node's."""
        self.run_command("certs", "client", "a/b")
        before = {path: path.read_bytes() for path in (self.folder / "certs").iterdir()}
        for words in (
            ("client", "ca"),
            ("client", ".ca"),
            ("node", "ca", "--cluster", "c1"),
            ("client", "node-1"),
            ("node", "root", "--cluster", "c1"),
            ("node", "node-1", "--cluster", "another"),
            ("client", "a_b"),
        ):
            code, _, err = self.run_command("certs", *words, "--force")
            self.assertNotEqual(code, 0, words)
            self.assertIn("choose another name", err.lower(), words)
        self.assertEqual({path: path.read_bytes() for path in before}, before)

    def test_deny(self):
        """`certs deny` prints a line of a denylist, or adds it to one; what is no denylist is left alone."""
        certificate = self.folder / "certs" / "root.pem"
        code, out, _ = self.run_command("certs", "deny", certificate)
        self.assertEqual(code, 0)
        names = names_of(x509.load_pem_x509_certificate(certificate.read_bytes()))
        denylist = self.folder / "denylist"
        self.assertTrue(parse_denylist(out.encode(), denylist) < set(names))
        denylist.write_text("serial:1")  # without a newline at its end
        words = ("certs", "deny", certificate, "--denylist", denylist)
        self.assertEqual(self.run_command(*words)[0], 0)
        self.assertEqual(len(parse_denylist(denylist.read_bytes(), denylist) & {"serial:1", *names}), 2)
        code, out, _ = self.run_command(*words, "--json")
        self.assertEqual(json.loads(out)["entries"], [names[1]])
        denylist.write_text("joe\n")
        code, _, err = self.run_command(*words)
        self.assertEqual((code, denylist.read_text()), (1, "joe\n"))
        self.assertIn("denylist:1", err)

    def test_mistakes(self):
        """No CA, a bad name, a bad number: one line each."""
        for words, code, expected in [
            (["client", "x", "--dir", "absent"], 1, "absent/ca.pem"),
            (["client", "node:x"], 1, "cannot be a client's name"),
            (["node", "Bad Name", "--cluster", "c"], 1, "Bad Name"),
            (["client", "x", "--days", "0"], 2, "allowed: 1 to 36500"),
            (["client", "x", "--key", "dsa"], 2, "invalid choice"),
            (["node", "node-2"], 2, "--cluster"),
        ]:
            found, out, err = self.run_command("certs", *words)
            self.assertEqual((found, out), (code, ""), words)
            self.assertIn(expected, err, words)
            self.assertNotIn("Traceback", err)

    def test_name_becomes_a_file_name(self):
        """A subject with a slash cannot leave the folder."""
        code, _, _ = self.run_command("certs", "client", "../evil")
        self.assertEqual(code, 0)
        self.assertFalse((self.folder / "evil.pem").exists())


class TargetTests(CertificatesCase):
    """Where a command connects, and as whom."""

    TLS: ClassVar = {"ca": "root.pem", "certificate": "root.pem", "key": "root.key"}

    def test_order(self):
        """The command line wins over the environment, that over client.yaml."""
        (self.folder / "client.yaml").write_text(f"server: {self.node.address}\n")
        self.assertEqual(self.run_command("servers")[0], 0)
        self.addCleanup(os.environ.pop, "LOGHOUSE_SERVER")
        os.environ["LOGHOUSE_SERVER"] = "127.0.0.1:1"
        self.assertEqual(self.run_command("servers")[0], 3)
        self.assertEqual(self.run_command("servers", "--server", self.node.address)[0], 0)

    def test_one_overrides_itself_alone(self):
        """Each option overrides that setting of client.yaml, and leaves all others as they are."""
        for name in ("root", "other"):
            for kind in ("pem", "key"):
                (self.folder / f"{name}.{kind}").write_text(f"-----BEGIN {name} {kind}")
        (self.folder / "client.yaml").write_text(
            "server: a:1,b:2\ncluster: c1\ntls: {ca: root.pem, certificate: root.pem, key: root.key}\n"
        )
        root = {name: Path(path).read_bytes() for name, path in self.TLS.items()}

        def settings(*words):
            args = make_parser().parse_args(["servers", *words])
            found, options = target._target(args, is_direct=False)
            tls = options["tls"]
            self.assertEqual(options["cluster"], "c2" if "--cluster" in words else "c1")
            return found, tls and {name: getattr(tls, name) for name in self.TLS}

        self.assertEqual(settings(), ("a:1,b:2", root))
        self.assertEqual(settings("--server", "c:3"), ("c:3", root))
        for option, name in (("--ca", "ca"), ("--cert", "certificate"), ("--key", "key")):
            changed = {**root, name: Path("other.pem").read_bytes()}
            self.assertEqual(settings(option, "other.pem"), ("a:1,b:2", changed))
        self.assertEqual(settings("--plaintext"), ("a:1,b:2", None))
        self.assertEqual(settings("--cluster", "c2"), ("a:1,b:2", root))

    def test_contradictions(self):
        """An option that another one would leave without effect is refused, not dropped."""
        for words, expected in [
            (["servers", "--plaintext", "--cert", "x"], "--plaintext and --cert contradict each other"),
            (["produce", "--value", "x", "--batch", "1KiB"], "--batch is for batches"),
            (["produce", "--value", "x", "--codec", "zstd"], "--codec is for batches"),
            (["bench", "produce", "--sync", "--batch", "1KiB"], "--batch is for batches"),
            (["bench", "produce", "--sync", "--codec", "zstd"], "--codec is for batches"),
        ]:
            code, out, err = self.run_command(*words, "--server", self.node.address)
            self.assertEqual((code, out), (2, ""), words)
            self.assertIn(expected, err)

    def test_development_folder(self):
        """With nothing said, ./dev/client.yaml is taken; its paths start from its folder."""
        (self.folder / "dev").mkdir()
        (self.folder / "dev" / "client.yaml").write_text(f"server: {self.node.address}\n")
        self.assertEqual(self.run_command("servers")[0], 0)

    def test_mistakes(self):
        """What is missing is named, and where to give it."""
        (self.folder / "bad.yaml").write_text("servr: x\n")
        (self.folder / "no.pem").write_text("hello")
        tls = ["--ca", "certs/ca.pem", "--cert", "certs/root.pem", "--key"]
        for words, expected in [
            ([], "no node to talk to: give --server"),
            (["--server", "h:x"], "--server: 'x' in 'h:x' is not a port from 1 to 65535"),
            (["--server", "h:1,"], "--server: '' in 'h:1,' is not an address; write HOST:PORT"),
            (["--server", "http://h"], "is not of the form loghouse://HOST:PORT"),
            (["--server", "h:1"], "--ca, --cert, --key missing"),
            (["--server", "h:1", "--ca", "certs/ca.pem"], "--cert, --key missing"),
            (["--server", "h:1", *tls, "absent"], "--key: absent: No such file"),
            (["--server", "h:1", *tls, "no.pem"], "--key: no.pem is not a PEM file"),
            (["--config", "bad.yaml"], "did you mean server?"),
            (["--config", "absent.yaml"], "absent.yaml: No such file"),
        ]:
            code, out, err = self.run_command("servers", *words)
            self.assertEqual((code, out), (2, ""), words)
            self.assertIn(expected, err, words)


class SettingsTests(CommandCase):
    """`loghouse config`."""

    def test_example(self):
        """The example is printed as it is, or as a JSON string."""
        self.assertEqual(self.run_command("config", "example"), (0, example_text(), ""))
        _, out, _ = self.run_command("config", "example", "--json")
        self.assertEqual(json.loads(out)["example"], example_text())

    def test_client(self):
        """--client prints and checks a client.yaml; the example is valid once its files are there."""
        _, out, _ = self.run_command("config", "example", "--client")
        Path("client.yaml").write_text(out)
        code, _, err = self.run_command("config", "check", "--client", "client.yaml")
        self.assertEqual((code, len(err.splitlines())), (2, 3), err)
        for words in (["init"], ["client", "root"]):
            self.run_command("certs", *words)
        code, out, _ = self.run_command("config", "check", "--client", "client.yaml")
        self.assertEqual((code, out), (0, "client.yaml: fine; commands talk to 127.0.0.1:8400\n"))

    def write_node(self, text=PLAIN):
        """Write a node.yaml that is right but for what a test changes; return its path and its port."""
        port = free_port()
        path = self.folder / "node.yaml"
        path.write_text(text.replace(":8400", f":{port}"))
        (self.folder / "certs").mkdir(exist_ok=True)
        certs.write_policy(self.folder / "certs")
        return path, port

    def test_credentials(self):
        """`config check` proves the certificates as the node will: what it cannot use is exit code 2."""
        for words in (["init"], ["node", "node-1", "--cluster", "loghouse"]):
            self.run_command("certs", *words)
        path, _ = self.write_node(example_text())
        self.assertEqual(self.run_command("config", "check", path)[0], 0)
        self.run_command("certs", "init", "--force")
        code, _, err = self.run_command("config", "check", path)
        self.assertEqual(code, 2)
        self.assertIn("node-1.pem", err)

    def test_client_certificates(self):
        """A client's files are looked into, too."""
        for words in (["init"], ["client", "root"], ["client", "nobody"]):
            self.run_command("certs", *words)
        text = self.run_command("config", "example", "--client")[1]
        for old, new in (("root.key", "nobody.key"), ("certs/ca.pem", "certs/root.key")):
            Path("client.yaml").write_text(text.replace(old, new))
            code, _, err = self.run_command("config", "check", "--client", "client.yaml")
            self.assertEqual(code, 2, new)
            self.assertIn(Path(new).name, err)

    def test_check(self):
        """A right file is exit code 0; a wrong one 2, with every problem."""
        path, port = self.write_node()
        code, out, err = self.run_command("config", "check", path)
        self.assertEqual((code, err), (0, ""))
        self.assertIn(f"fine; node node-1 of cluster loghouse on 127.0.0.1:{port}\n", out)
        path.write_text(PLAIN.replace("node-1", "Node") + "lissten: 1\n")
        code, out, err = self.run_command("config", "check", path)
        self.assertEqual((code, out, len(err.splitlines())), (2, "", 2))
        code, out, _ = self.run_command("config", "check", path, "--json")
        self.assertEqual((code, len(json.loads(out)["problems"])), (2, 2))

    def test_what_ends_a_start(self):
        """Whatever would end a start is a problem, all of it at once, and nothing is changed."""
        path, port = self.write_node(PLAIN.replace("data_dir: data", "data_dir: no/data"))
        (self.folder / "certs" / "policy.csv").write_text("p, root\n")
        before = sorted(self.folder.rglob("*"))
        with socket.create_server(("127.0.0.1", port)):
            code, _, err = self.run_command("config", "check", path)
        self.assertEqual((code, len(err.splitlines())), (2, 3), err)
        for text in ("policy.csv", "/no does not exist; make it", f"127.0.0.1:{port}: cannot listen"):
            self.assertIn(text, err)
        self.assertEqual(sorted(self.folder.rglob("*")), before)

    def test_data_directory(self):
        """One of another node is a problem; one on which a node runs is not, and its port is not tried."""
        path, port = self.write_node()
        directory = open_directory(
            OsFiles(), str(self.folder / "data"), cluster_name="loghouse", node_name="node-1",
            random_bytes=os.urandom, segment_size=64 * KIB, reserve_size=0,
        )  # fmt: skip
        with socket.create_server(("127.0.0.1", port)):
            code, out, _ = self.run_command("config", "check", path)
        self.assertEqual(code, 0)
        self.assertIn("it runs, so its ports and data directory were not tried", out)
        directory.close()
        self.assertEqual(self.run_command("config", "check", path)[0], 0)
        path.write_text(path.read_text().replace("node: node-1", "node: node-2"))
        code, _, err = self.run_command("config", "check", path)
        self.assertEqual(code, 2)
        self.assertIn("belongs to node 'node-1', not 'node-2'", err)


class MainTests(CommandCase):
    """The command as a whole."""

    def test_help_lists_exit_codes(self):
        """--help names every command and every exit code there is."""
        code, out, _ = self.run_command("--help")
        self.assertEqual(code, 0)
        for word in ("produce", "consume", "servers", "certs", "config", "inspect", "verify", "recover"):
            self.assertIn(word, out)
        for exit_code in ExitCode:
            self.assertRegex(EXIT_CODES_TEXT, rf"(?m)^  {exit_code.value} ")

    def test_version(self):
        """--version prints the package's version."""
        self.assertEqual(self.run_command("--version"), (0, f"loghouse {__version__}\n", ""))

    def test_no_command(self):
        """Without a command it says which there are."""
        code, _, err = self.run_command()
        self.assertEqual(code, 2)
        self.assertIn("COMMAND", err)

    @in_children
    def test_closed_stdout(self):
        """Output into a pipe that nobody reads ends quietly with 0."""
        read_end, write_end = os.pipe()
        os.close(read_end)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "loghouse.cli.main", "config", "example"],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=write_end,
                stderr=subprocess.PIPE,
                timeout=30,
            )
        finally:
            os.close(write_end)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_next_steps_fit(self):
        """Only when no node was reached the next step asks whether one runs there."""
        for text, asks in (
            ("127.0.0.1:8400: Connection refused", True),
            ("gave up after 2 s; the last one: [::1]:8400: silent for 20 s", True),
            ("127.0.0.1:8400: the node has not joined its cluster yet", False),
            ("no leader is known; nothing was done, try again", False),
        ):
            for command in ("produce", "cluster"):
                step = failures.next_step(UnavailableError(text), command)
                self.assertEqual("is a node running" in step, asks, text)
                self.assertIn("another --server", step)

    def test_texts(self):
        """Sizes, counts and times for people."""
        self.assertEqual([count_text(n, "line") for n in (0, 1, 2)], ["0 lines", "1 line", "2 lines"])
        self.assertEqual(
            [size_text(size) for size in (0, 1023, 1536, 2**40)], ["0 B", "1023 B", "1.5 KiB", "1.0 TiB"]
        )
        self.assertEqual(time_text(1_500_000), "1970-01-01T00:00:01.500000Z")
        self.assertEqual(time_text(2**64 - 1), "18446744073709551615 us")
