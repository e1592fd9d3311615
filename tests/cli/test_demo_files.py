"""The files of `loghouse demo`: where its nodes live, what their settings say, when certificates are made."""

from pathlib import Path
from unittest import mock

import yaml

from loghouse.cli import demo_nodes
from loghouse.config.settings import load, load_client
from loghouse.config.values import Address
from tests.cli.support import CommandCase

LISTEN = Address("127.0.0.1", 8400)


class FilesTests(CommandCase):
    """What `prepare` leaves."""

    def prepare(self, count):
        """Prepare so many nodes; return them."""
        nodes = demo_nodes.demo_nodes(Path("dev").absolute(), LISTEN, count)
        demo_nodes.prepare(Path("dev").absolute(), nodes)
        return nodes

    def settings(self, node):
        return yaml.safe_load((node.folder / "node.yaml").read_text())

    def test_one(self):
        """One node lives in the folder itself, and knows of no others."""
        [node] = self.prepare(1)
        self.assertEqual((node.name, node.folder), ("node-1", Path("dev").absolute()))
        settings = self.settings(node)
        self.assertEqual((settings["node"], settings["listen"]), ("node-1", "127.0.0.1:8400"))
        self.assertEqual({"join", "bootstrap"} & set(settings), set())
        loaded = load(node.folder / "node.yaml")
        self.assertEqual((loaded.name, loaded.tls.certificate.name), ("node-1", "node-1.pem"))

    def test_three(self):
        """Each of several has a folder and a port; the first begins the cluster, all know all."""
        nodes = self.prepare(3)
        self.assertEqual([node.listen.port for node in nodes], [8400, 8401, 8402])
        for number, node in enumerate(nodes, 1):
            self.assertEqual(node.folder, Path(f"dev/node-{number}").absolute())
            self.assertEqual(node.log_path, node.folder / "node.log")
            settings = self.settings(node)
            self.assertEqual(settings["node"], f"node-{number}")
            self.assertEqual(settings["join"], [str(other.listen) for other in nodes])
            self.assertIs(settings["bootstrap"], number == 1)
            loaded = load(node.folder / "node.yaml")
            self.assertEqual(str(loaded.http_listen), f"127.0.0.1:{8479 + number}")
            self.assertEqual(loaded.http.loopback_subject, "root")
        client = load_client(Path("dev/client.yaml"))
        self.assertEqual([str(address) for address in client.server], [str(node.listen) for node in nodes])
        self.assertEqual(client.tls.certificate.name, "root.pem")

    def test_again(self):
        """Certificates that are good stay; when one is missing or ends within a day all are made anew."""
        self.prepare(1)
        certificate, key = Path("dev/certs/node-1.pem"), Path("dev/certs/root.key")
        first = certificate.read_bytes()
        self.prepare(1)
        self.assertEqual(certificate.read_bytes(), first)
        key.unlink()
        self.prepare(1)
        second = certificate.read_bytes()
        self.assertNotEqual(second, first)
        asked = []
        with mock.patch.object(
            demo_nodes, "find_expiring", lambda paths, **when: asked.append((paths, when)) or ["one"]
        ):
            self.prepare(1)
        self.assertNotEqual(certificate.read_bytes(), second)
        [(paths, when)] = asked
        self.assertEqual({path.name for path in paths} >= {"ca.pem", "node-1.pem", "root.pem"}, True)
        self.assertEqual(when["within"].total_seconds(), 86_400)
