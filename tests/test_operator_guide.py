"""docs/operator_guide.md: what it has people write and type is what nodes and commands take."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse.auth.identity import identity_of_pem
from loghouse.cli.certs import write_policy
from loghouse.cli.main import make_parser
from loghouse.config.settings import load, load_client
from loghouse.service.proving import credentials_of
from loghouse.service.start_checks import read_policy

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "operator_guide.md"


def block(begin: str) -> str:
    """The one fenced block of the guide that begins with these words."""
    blocks = re.findall(r"(?ms)^```\w*\n(.*?)^```$", GUIDE.read_text())
    (found,) = [one for one in blocks if one.startswith(begin)]
    return found


class CommandTests(SynchronousTestCase):
    """What stands behind a prompt."""

    def test_parse(self):
        """Each `loghouse` command has options and arguments that the command takes."""
        lines = re.findall(r"(?m)^\$ loghouse (.+?)(?: &)?$", GUIDE.read_text())
        self.assertGreater(len(lines), 25)
        for line in lines:
            stderr = io.StringIO()
            try:
                with contextlib.redirect_stderr(stderr):
                    make_parser().parse_args(shlex.split(line))
            except SystemExit:
                self.fail(f"{line}\n{stderr.getvalue()}")


class FileTests(SynchronousTestCase):
    """What a reader copies into files."""

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "certs").mkdir(parents=True)

    def written(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def test_settings(self):
        """node.yaml is right, alone and with the lines that make it one of three, and so is client.yaml."""
        for name in ("ca.pem", "node-1.pem", "node-1.key", "root.pem", "root.key"):
            (self.folder / "certs" / name).touch()
        write_policy(self.folder / "certs")
        alone = load(self.written("node.yaml", block("node: node-1\n")))
        self.assertTrue(alone.bootstrap)
        member = load(self.written("node.yaml", block("node: node-1\n") + block("join: ")))
        self.assertIn(member.listen, member.join)
        self.assertFalse(member.bootstrap)
        client = load_client(self.written("client.yaml", block("server: ")))
        self.assertEqual((client.server, client.cluster), ((alone.listen,), alone.cluster))

    def test_openssl(self):
        """The certificates that openssl makes there are good for that node.yaml, on both TLS stacks."""
        if shutil.which("openssl") is None:
            raise SkipTest("no openssl here")
        certs = self.folder / "certs"
        made = subprocess.run(
            ["sh", "-e"], input=block("openssl req"), cwd=certs, capture_output=True, text=True
        )
        self.assertEqual(made.returncode, 0, made.stderr)
        write_policy(certs)
        config = load(self.written("node.yaml", block("node: node-1\n")))
        credentials = credentials_of(config)
        client = identity_of_pem((certs / "root.pem").read_bytes())
        credentials.check(client)
        self.assertEqual((client.subject, client.is_node), ("root", False))
        self.assertEqual(read_policy(config).rules.count, 4)
