"""`loghouse node reload` against a node in memory."""

import json

from loghouse.errors import PermissionDeniedError, ReloadRefusedError
from loghouse.node.api import Reloaded
from tests.cli.support import NodeCase


class ReloadTests(NodeCase):
    """A node is told to read its settings again."""

    def reload(self, *words):
        """Return (exit code, stdout, stderr)."""
        return self.run_command("node", "reload", *words, *self.target)

    def test_report(self):
        """What changed, what waits and what is warned of is a line each."""
        self.node.reloaded = Reloaded(
            changed=("logging.level: info -> debug",),
            waiting=("listen: 127.0.0.1:1 -> 127.0.0.1:2",),
            warnings=("policy.csv:3: never",),
        )
        code, out, _ = self.reload()
        self.assertEqual(code, 0)
        self.assertEqual(
            out.splitlines(),
            [
                "n1: logging.level: info -> debug",
                "n1: needs a restart: listen: 127.0.0.1:1 -> 127.0.0.1:2",
                "n1: warning: policy.csv:3: never",
            ],
        )
        code, out, _ = self.reload("--json")
        self.assertEqual(
            json.loads(out),
            {
                "node": "n1",
                "changed": ["logging.level: info -> debug"],
                "needs_restart": ["listen: 127.0.0.1:1 -> 127.0.0.1:2"],
                "warnings": ["policy.csv:3: never"],
            },
        )
        self.assertEqual(self.node.orders, [("reload", "root")] * 2)

    def test_nothing(self):
        """Settings that are as they were are said to be."""
        self.assertEqual(self.reload()[:2], (0, "n1: nothing is different\n"))

    def test_by_name(self):
        """A node is asked by its name, or all are."""
        for words in (["n1"], ["--all"]):
            self.assertEqual(self.reload(*words)[0], 0)
        code, _, err = self.reload("n9")
        self.assertEqual(code, 3)
        self.assertIn("no server named 'n9'", err)
        self.assertEqual(len(self.node.orders), 2)

    def test_refused(self):
        """Wrong settings are exit code 2, with the node's words."""
        self.node.reloaded = ReloadRefusedError(
            "nothing was changed: /n/node.yaml: logging.level (line 3): no"
        )
        code, out, err = self.reload()
        self.assertEqual((code, out), (2, ""))
        self.assertIn("nothing was changed: /n/node.yaml: logging.level (line 3): no", err)

    def test_others_go_on(self):
        """Of several nodes one that refuses does not keep the others from reading."""
        self.node.reloaded = ReloadRefusedError("nothing was changed: x")
        code, _, err = self.reload("n1", "n1")
        self.assertEqual(code, 1)
        self.assertEqual(err.count("loghouse node: n1: "), 2)

    def test_not_permitted(self):
        """Who may not administer is told which rule is missing."""
        self.node.reloaded = PermissionDeniedError("eve", "admin", "*")
        code, _, err = self.reload()
        self.assertEqual(code, 1)
        self.assertIn("p, <subject>, *, admin", err)
