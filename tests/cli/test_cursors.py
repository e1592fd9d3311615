"""`loghouse cursor` against a node in memory."""

import json
from unittest.mock import patch

from loghouse import limits
from loghouse.cli import cursors as command
from loghouse.errors import NotSupportedError, PermissionDeniedError
from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder
from tests.cli.support import NodeCase
from tests.fakes.cursors import carry_out, move_with_records


class CursorCommandTests(NodeCase):
    """What each command does and says."""

    def setUp(self):
        super().setUp()
        self.cluster.add_values(b"a", b"b", b"c")
        self.order(CursorOperation.ACQUIRE, holder="host:7", lease_milliseconds=5000)

    def order(self, operation, name="billing", **fields):
        carry_out(self.cluster, CursorOrder(operation=operation, name=name, subject="root", **fields))

    def run_cursor(self, *arguments):
        return self.run_command("cursor", *arguments, *self.target)

    def test_list(self):
        """Each cursor has a line: where it stands, how far behind, who holds it and for how long."""
        self.order(CursorOperation.SET, "importer", position=1000)
        code, out, err = self.run_cursor("list")
        self.assertEqual((code, err), (0, ""))
        rows = [line.split() for line in out.splitlines()]
        self.assertEqual(rows[0], ["CURSOR", "POSITION", "LAG", "HOLDER", "LEASE", "OWNER"])
        self.assertEqual(rows[1], ["billing", "0", "3", "host:7", "5.0s", "root"])
        self.assertEqual(rows[2], ["importer", "1000", "-", "nobody", "-", "root"])
        code, out, _ = self.run_cursor("list", "--json")
        found = json.loads(out)["cursors"]
        self.assertEqual([(one["name"], one["lag"]) for one in found], [("billing", 3), ("importer", None)])

    def test_get(self):
        """One cursor, as a line or as JSON; one that is not there is an error."""
        code, out, _ = self.run_cursor("get", "billing")
        self.assertEqual((code, out.splitlines()[1].split()[:3]), (0, ["billing", "0", "3"]))
        code, out, _ = self.run_cursor("get", "billing", "--json")
        found = json.loads(out)
        self.assertEqual((found["holder"], found["position"], found["lag"]), ("host:7", 0, 3))
        code, _, err = self.run_cursor("get", "nothing")
        self.assertEqual(code, 1)
        self.assertIn("this log has no cursor 'nothing'", err)
        self.assertIn("`loghouse cursor list` shows those there are", err)

    def test_set(self):
        """A cursor is put somewhere, and whoever held it is fenced."""
        code, out, err = self.run_cursor("set", "billing", "--position", "2")
        self.assertEqual((code, out, err), (0, "cursor billing stands at 2\n", ""))
        cursor = self.cluster.state.cursors.by_name["billing"]
        self.assertEqual((cursor.position, cursor.holder), (2, ""))
        code, _, err = self.run_cursor("set", "billing", "--position", "-1")
        self.assertEqual(code, 2)
        self.assertIn("--position", err)

    def test_delete(self):
        """A cursor is forgotten, if that is meant."""
        code, _, err = self.run_cursor("delete", "billing")
        self.assertEqual(code, 2)
        self.assertIn("add --yes", err)
        self.assertIn("billing", self.cluster.state.cursors.by_name)
        code, out, _ = self.run_cursor("delete", "billing", "--yes", "--json")
        self.assertEqual((code, json.loads(out)), (0, {"deleted": "billing"}))
        self.assertEqual(self.cluster.state.cursors.by_name, {})

    def test_pipeline(self):
        """A position that moved with records counts something else: its lag is not known, and not made up."""
        move_with_records(self.cluster, "billing", 1)
        _, out, _ = self.run_cursor("list")
        self.assertEqual(out.splitlines()[1].split()[:3], ["billing", "1", "-"])
        for shown in (("list",), ("get", "billing")):
            _, out, _ = self.run_cursor(*shown, "--json")
            found = json.loads(out)
            self.assertIsNone(found.get("cursors", [found])[0]["lag"])


class AllCursorsTests(NodeCase):
    """`loghouse cursor list --all`: the cursors of all logs."""

    def setUp(self):
        super().setUp()
        self.logs = {"default": self.cluster}
        for name in ("bills", "orders", "secret"):
            self.run_command("log", "create", name, "--replicas", "1", *self.target)
            self.logs[name] = self.cluster.named[max(self.cluster.named)]
        for name, log in self.logs.items():
            log.add_values(b"a", b"b")
            self.put(name, f"of-{name}", 1)

    def put(self, log, name, position):
        order = CursorOrder(operation=CursorOperation.SET, name=name, subject="root", position=position)
        carry_out(self.logs[log], order)

    def fail(self, log, error):
        for node in self.logs[log].nodes:
            node.failure = error

    def list_all(self, *options):
        return self.run_command("cursor", "list", "--all", *options, *self.target)

    def test_all(self):
        """Those of every log are listed, by log and name, but of a log that the caller may not consume."""
        self.fail("secret", PermissionDeniedError("root", "consume", "secret"))
        self.put("orders", "another", 7)
        code, out, err = self.list_all()
        self.assertEqual((code, err), (0, ""))
        rows = [line.split() for line in out.splitlines()]
        self.assertEqual(rows[0], ["LOG", "CURSOR", "POSITION", "LAG", "HOLDER", "LEASE", "OWNER"])
        self.assertEqual(
            [row[:4] for row in rows[1:]],
            [
                ["bills", "of-bills", "1", "1"],
                ["default", "of-default", "1", "1"],
                ["orders", "another", "7", "-"],
                ["orders", "of-orders", "1", "1"],
            ],
        )
        code, out, err = self.list_all("--json")
        found = json.loads(out)
        self.assertEqual((code, err, found["is_complete"]), (0, "", True))
        self.assertEqual([one["log"] for one in found["cursors"]], ["bills", "default", "orders", "orders"])
        self.assertEqual(found["cursors"][2]["name"], "another")
        self.assertIsNone(found["cursors"][2]["lag"])

    def test_one_does_not_answer(self):
        """What a log's leader does not tell is said, with the code of that error; the others are shown."""
        self.fail("orders", NotSupportedError("cursors are not known"))
        code, out, err = self.list_all("--json")
        found = json.loads(out)
        self.assertEqual((code, found["is_complete"]), (1, False))
        self.assertEqual([one["log"] for one in found["cursors"]], ["bills", "default", "secret"])
        self.assertEqual(err, "log orders: cursors are not known\n")

    def test_too_many(self):
        """So many are listed, and that there are more is said."""
        self.assertEqual(command.CURSORS_LISTED_MAX, limits.CURSORS_LISTED_MAX)
        for most, is_complete in ((3, False), (4, True)):
            with patch.object(command, "CURSORS_LISTED_MAX", most):
                code, out, err = self.list_all("--json")
            found = json.loads(out)
            self.assertEqual((code, len(found["cursors"]), found["is_complete"]), (0, most, is_complete))
            self.assertEqual("the first 3" in err, not is_complete)

    def test_one_log_or_all(self):
        """All logs and one of them contradict each other."""
        code, _, err = self.list_all("--log", "orders")
        self.assertEqual(code, 2)
        self.assertIn("--all does not go with --log", err)
