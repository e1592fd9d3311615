"""`loghouse cursor` against a node in memory."""

import json

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
