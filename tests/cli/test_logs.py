"""`loghouse log` against a cluster in memory."""

import io
import json
import sys
from types import SimpleNamespace

from loghouse import errors
from loghouse.api.v1 import log_pb2
from loghouse.cli.logs import age_text, keeps_text, notes_on, watch
from loghouse.node.api import StrayLog
from tests.cli.support import NodeCase
from tests.fakes.node import FakeNode


class LogsCase(NodeCase):
    """A node of a cluster of four."""

    def setUp(self):
        super().setUp()
        for number in range(2, 5):
            FakeNode(self.cluster, f"n{number}")
        self.admin = self.node.log_administration

    def run_log(self, *arguments):
        return self.run_command("log", *arguments, *self.target)

    def create(self, *arguments):
        code, out, err = self.run_log("create", *arguments)
        self.assertEqual((code, err), (0, ""))
        return out


class CommandTests(LogsCase):
    """What each command does and says."""

    def test_create(self):
        """A log is made with what the options say, and where it is is told."""
        out = self.create("orders", "--replicas", "2", "--on", "n2,n3", "--retention-age", "7d", "--tag", "a")
        self.assertRegex(out, r"^log orders is there, on n\d \(leader\), n\d\n$")
        order, name, settings, on, by = self.admin.orders[-1]
        self.assertEqual((order, name, on, by), ("create", "orders", ("n2", "n3"), "root"))
        self.assertEqual((settings.replicas, settings.retention_seconds, settings.tags), (2, 604_800, ("a",)))
        self.create("orders", "--replicas", "2", "--retention-age", "7d", "--tag", "a")
        code, _, err = self.run_log("create", "orders")
        self.assertEqual(code, 1)
        self.assertIn("log orders exists, with other settings; alter it instead", err)

    def test_list(self):
        """Each log has a line: who leads it, where it is, and what it keeps."""
        self.create("orders", "--on", "n1,n2,n3", "--retention-bytes", "100GiB", "--retention-age", "36h")
        code, out, _ = self.run_log("list")
        self.assertEqual(code, 0)
        lines = out.splitlines()
        self.assertEqual(lines[0].split(), ["LOG", "NUMBER", "LEADER", "ON", "KEEPS"])
        self.assertRegex(lines[1], r"^default +1 +n1 +n1, n2, n3, n4 +everything$")
        self.assertRegex(lines[2], r"^orders +16 +n\d +n\d, n\d, n\d +36h, at most 100GiB$")
        code, out, _ = self.run_log("list", "--json")
        self.assertEqual([log["name"] for log in json.loads(out)["logs"]], ["default", "orders"])

    def test_watch(self):
        """The list is shown again and again, also when a node is away for a while."""
        shown, waits = [], []
        away = [None, errors.UnavailableError("the node is stopping"), None]
        made = log_pb2.LogDescription(name="orders", leader="n1")
        cluster = SimpleNamespace(logs=lambda: shown.append(1) or _raised_or(away[len(shown) - 1], [made]))

        def wait(seconds):
            waits.append(seconds)
            return len(waits) == 3

        out, err = self.patch_streams()
        watch(cluster, False, wait)
        self.assertEqual((len(shown), set(waits)), (3, {1.0}))
        self.assertEqual(out.getvalue().count("orders  0       n1"), 2)
        self.assertEqual(err.getvalue(), "loghouse log: the node is stopping\n")

    def patch_streams(self):
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        return out, err

    def test_describe(self):
        """A log's settings and replicas are told."""
        self.create("orders", "--record-max", "1MiB", "--rate-max", "2MiB", "--tag", "a", "--tag", "b")
        code, out, _ = self.run_log("describe", "orders")
        self.assertEqual(code, 0)
        lines = out.splitlines()
        self.assertRegex(lines[0], r"^log orders, number 16, made 2023-11-14T22:13:20\.0+Z$")
        self.assertEqual(lines[1], "keeps everything, records of at most 1MiB, at most 2MiB a second")
        self.assertEqual(lines[2], "tags a, b")
        self.assertEqual(lines[4].split(), ["NODE", "ID", "LEADS", "STATE"])
        self.assertEqual(len(lines), 8)
        code, out, _ = self.run_log("describe", "orders", "--json")
        described = json.loads(out)
        self.assertEqual(described["settings"]["record_bytes_max"], 1 << 20)
        self.assertEqual([one["member"] for one in described["replicas"]], [1, 2, 3])

    def test_unknown(self):
        """A log that is not there is told so, with how to find those that are."""
        for words in (
            ["describe", "nothing"],
            ["alter", "nothing", "--tag", "a"],
            ["delete", "nothing", "--yes"],
        ):
            code, _, err = self.run_log(*words)
            self.assertEqual(code, 1)
            self.assertIn(
                "no log named 'nothing' on this cluster (`loghouse log list` shows those there are)", err
            )

    def test_alter(self):
        """What is named changes, the rest stays; to name nothing is a mistake."""
        self.create("orders", "--retention-bytes", "1GiB", "--retention-age", "7d")
        code, out, _ = self.run_log("alter", "orders", "--retention-age", "30d")
        self.assertEqual((code, out), (0, "log orders keeps 30d, at most 1GiB\n"))
        code, out, _ = self.run_log("alter", "orders", "--retention-bytes", "unlimited")
        self.assertEqual((code, out), (0, "log orders keeps 30d\n"))
        code, _, err = self.run_log("alter", "orders")
        self.assertEqual(code, 2)
        self.assertIn("name a setting, such as --retention-age 30d", err)

    def test_delete(self):
        """Nothing is deleted without --yes."""
        self.create("orders")
        code, _, err = self.run_log("delete", "orders")
        self.assertEqual(code, 2)
        self.assertIn("deletes all records of log orders on every node; if you mean that, add --yes", err)
        self.assertEqual(self.admin.orders[-1][0], "create")
        code, out, _ = self.run_log("delete", "orders", "--yes")
        self.assertEqual((code, out), (0, "log orders is deleted\n"))
        code, _, err = self.run_log("delete", "default", "--yes")
        self.assertEqual(code, 1)
        self.assertIn("log default cannot be deleted", err)

    def test_repair(self):
        """A replica is placed on another node for one that is lost."""
        self.create("orders", "--on", "n1,n2,n3")
        code, out, _ = self.run_log("repair", "orders", "--replace", "n2", "--with", "n4")
        self.assertEqual(code, 0)
        self.assertIn("n4 gets its copy from the others", out)
        self.assertEqual(self.admin.orders[-1], ("replace", "orders", "n2", "n4", "root"))

    def test_failures(self):
        """A refusal says what to do next."""
        for failure, code, text in (
            (errors.PermissionDeniedError("ann", "manage", "orders"), 1, "`p, <subject>, <log>, manage`"),
            (errors.NotSupportedError("n3 is too old"), 1, "every node of the cluster"),
            (errors.ResourceExhaustedError("nodes", "too few"), 1, "nodes: too few\n"),
        ):
            self.admin.failure = failure
            found, _, err = self.run_log("create", "orders")
            self.assertEqual(found, code)
            self.assertIn(text, err)
        self.admin.failure = errors.OutcomeUnknownError("n2 did not answer")
        code, _, err = self.run_log("delete", "orders", "--yes")
        self.assertEqual(code, 4)
        self.assertIn("`loghouse log list` shows; then try again", err)


def _raised_or(error, answer):
    if error is not None:
        raise error
    return answer


class StrayTests(NodeCase):
    """Files of logs on nodes where they do not belong."""

    def strays(self, *options):
        code, out, err = self.run_command("log", "list", "--strays", *options, *self.target)
        self.assertEqual(code, 0, err)
        return out, err

    def test_none(self):
        """Where there are none that is said."""
        self.assertEqual(self.strays(), ("no strays\n", ""))
        self.assertEqual(json.loads(self.strays("--json")[0]), {"strays": [], "not_known_of": []})

    def test_told(self):
        """Each is told with its node, its log, its size, and why it is there."""
        self.node.log_administration.stray_logs = [
            StrayLog(group=16, name="orders", size=2048),
            StrayLog(group=99, name="", size=5),
        ]
        lines = self.strays()[0].splitlines()
        self.assertEqual(lines[0].split(), ["NODE", "NUMBER", "LOG", "SIZE", "WHY"])
        self.assertRegex(lines[1], r"^n1 +16 +orders +2\.0 KiB +replaced, its group is not rid of it yet$")
        self.assertRegex(lines[2], r"^n1 +99 +- +5 B +not in the catalogue$")
        found = json.loads(self.strays("--json")[0])
        self.assertEqual(found["strays"][0], {"node": "n1", "group": 16, "log": "orders", "size": 2048})
        _, out, _ = self.run_command("cluster", "status", *self.target)
        self.assertIn(
            "Files of log orders, number 16, are on n1 (2.0 KiB): replaced, its group is not rid of it yet. "
            "They are kept (`loghouse log list --strays`).",
            out,
        )
        _, out, _ = self.run_command("cluster", "status", "--json", *self.target)
        self.assertEqual(json.loads(out)["strays"][1], {"group": 99, "name": "", "size": 5})

    def test_not_known(self):
        """A node that cannot tell, or is away, is named."""
        self.node.log_administration.stray_logs = errors.UnavailableError("it has just started")
        self.assertRegex(self.strays()[0], "^n1 did not tell: away, just started, or of a version")
        self.assertEqual(json.loads(self.strays("--json")[0]), {"strays": [], "not_known_of": ["n1"]})
        self.node.faults["Status"] = [errors.UnavailableError("stopping")] * 100
        out, err = self.strays("--timeout", "2s")
        self.assertIn("stopping", err)
        self.assertIn("n1 did not tell", out)


class UseTests(LogsCase):
    """Commands that are about one log, told which."""

    def run_on(self, *words, log="orders"):
        return self.run_command(*words, "--log", log, *self.target)

    def test_records(self):
        """Records go into the log that is named, and come from it."""
        self.create("orders")
        self.assertEqual(self.run_on("produce", "--value", "o")[0], 0)
        self.assertEqual(self.run_command("produce", "--value", "d", *self.target)[0], 0)
        code, out, _ = self.run_on("consume")
        self.assertEqual((code, out), (0, "o\n"))
        code, out, _ = self.run_command("consume", *self.target)
        self.assertEqual((code, out), (0, "d\n"))
        code, _, err = self.run_on("consume", log="nothing")
        self.assertEqual(code, 1)
        self.assertIn("no log named 'nothing'", err)

    def test_group(self):
        """The members of a log's group are shown, and its leadership is handed over."""
        self.create("orders", "--replicas", "1", "--on", "n1")
        code, out, _ = self.run_on("cluster", "status")
        self.assertEqual(code, 0)
        self.assertIn("), log orders, as n1 sees it", out.splitlines()[0])
        self.assertEqual(json.loads(self.run_on("cluster", "status", "--json")[1])["log"], "orders")
        code, out, _ = self.run_on("cluster", "transfer", "n1")
        self.assertEqual((code, out), (0, "n1 leads now\n"))
        self.assertIn(("transfer", "n1"), self.node.log("orders").orders)
        self.assertEqual(self.node.orders, [])


class TextTests(LogsCase):
    """What people read."""

    def described(self, *alive, leader="n1"):
        return log_pb2.LogDescription(
            name="orders",
            leader=leader,
            replicas=[
                log_pb2.LogReplica(node=f"n{number}", is_alive=is_alive)
                for number, is_alive in enumerate(alive, 1)
            ],
        )

    def test_notes(self):
        """What is wrong with a log is said with what to do about it."""
        self.assertEqual(notes_on(self.described(True, True, True)), [])
        (note,) = notes_on(self.described(True, False, True))
        self.assertIn("Away: n2.", note)
        self.assertIn("`loghouse log repair orders --replace n2 --with NODE`", note)
        (note,) = notes_on(self.described(True, False, False, leader=""))
        self.assertIn("NO MAJORITY: 1 of 3 replicas alive, 2 needed.", note)
        (note,) = notes_on(self.described(True, True, True, leader=""))
        self.assertIn("No leader is known", note)

    def test_ages(self):
        """A time span is told in the largest unit that it is whole in."""
        for seconds, text in ((604_800, "7d"), (129_600, "36h"), (90, "90s"), (120, "2m"), (86_400, "1d")):
            self.assertEqual(age_text(seconds), text)

    def test_kept(self):
        """What is kept is told with its unit."""
        for bytes_, seconds, text in (
            (0, 0, "everything"),
            (1024, 0, "1KiB"),
            (0, 60, "1m"),
            (1000, 61, "61s, at most 1000"),
        ):
            settings = log_pb2.LogSettings(retention_bytes=bytes_, retention_seconds=seconds)
            self.assertEqual(keeps_text(settings), text)
