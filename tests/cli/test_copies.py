"""What `cluster status` and `cluster health` say of the copies of logs."""

import json

from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors
from loghouse.api.v1 import log_pb2
from loghouse.cli.copies import NAMES_MAX, copies_of
from loghouse.errors import OutcomeUnknownError, UnavailableError
from loghouse.node.api import CopyTrouble, LogProblem
from tests.cli.test_cluster import ClusterCase


def status_of(node, *problems, log_count=3, members=("n1", "n2", "n3"), **fields):
    """What a node says; `problems` each as (log, node, reason)."""
    return log_pb2.StatusResponse(
        node=node,
        log_count=log_count,
        members=[log_pb2.MemberStatus(name=name, id=1, liveness="alive") for name in members],
        problems=[log_pb2.LogProblem(log=log, node=of, reason=reason) for log, of, reason in problems],
        **{"knows_strays": True, **fields},
    )


class GatheringTests(SynchronousTestCase):
    """Each node is asked, and what they say is put together."""

    def gather(self, first, **others):
        self.asked = []

        def ask(name):
            self.asked.append(name)
            told = others[name]
            if isinstance(told, Exception):
                raise told
            return told

        return copies_of(first, ask)

    def found(self, copies):
        return [(one.log, one.node, one.reason) for one in copies.problems]

    def test_all_asked(self):
        """Every other member that is alive is asked once; what each says counts."""
        first = status_of("n2", ("b", "n3", "away"), members=("n1", "n2", "n3", "n3"))
        first.members.add(name="n4", id=4, liveness="dead")
        first.members.add(name="n5", liveness="alive")
        copies = self.gather(first, n1=status_of("n1", ("a", "n3", "away")), n3=status_of("n3"))
        self.assertEqual(self.asked, ["n1", "n3"])
        self.assertEqual(self.found(copies), [("a", "n3", "away"), ("b", "n3", "away")])
        self.assertEqual(dict(copies.silent), {})

    def test_no_named_logs(self):
        """Where there is the default log alone nobody else is asked; nor when nobody else may be."""
        self.gather(status_of("n1", log_count=1))
        self.assertEqual(self.asked, [])
        copies = copies_of(status_of("n1", ("a", "n1", "no_leader")), None)
        self.assertEqual(self.found(copies), [("a", "n1", "no_leader")])

    def test_silent(self):
        """A node that does not answer, or has just started, is named; one of an earlier version is not."""
        gone, lost = UnavailableError("gone"), OutcomeUnknownError("lost")
        copies = self.gather(status_of("n1"), n2=gone, n3=lost)
        self.assertEqual(dict(copies.silent), {"n2": "gone", "n3": "lost"})
        self.assertEqual(copies.notes()[0], "n2 did not tell how its logs are: gone.")
        young, old = status_of("n2", log_count=0, knows_strays=False), status_of("n3", log_count=0)
        copies = self.gather(status_of("n1"), n2=young, n3=old)
        self.assertEqual(list(copies.silent), ["n2"])
        self.assertRegex(copies.notes()[0], "^n2 did not tell how its logs are: it has just started")

    def test_worst_of_a_copy(self):
        """Of a copy the worst is told: its own node knows more than the leader."""
        copies = self.gather(
            status_of("n1", ("a", "n2", "behind")),
            n2=status_of("n2", ("a", "n2", "damaged")),
            n3=status_of("n3", ("a", "n2", "away")),
        )
        self.assertEqual(self.found(copies), [("a", "n2", "damaged")])

    def test_no_leader(self):
        """A log has no leader when every node that tells knows none."""
        led = status_of("n3")
        for third, found in ((led, []), (status_of("n3", ("a", "n3", "no_leader")), ["a"])):
            copies = self.gather(
                status_of("n1", ("a", "n1", "no_leader")),
                n2=status_of("n2", ("a", "n2", "no_leader")),
                n3=third,
            )
            self.assertEqual([one.log for one in copies.problems], found)

    def test_notes(self):
        """One note for all logs of a node with the same trouble, with what to do; JSON has every name."""
        names = [f"log-{number:02d}" for number in range(NAMES_MAX + 2)]
        problems = [(name, "n3", "no_copy") for name in names]
        copies = copies_of(status_of("n1", ("x", "n1", "lost"), ("y", "n2", "odd_one"), *problems), None)
        lost, missing, odd = copies.notes()
        self.assertRegex(lost, "^Lost: x. The disks of half of the copies")
        start = (
            f"No full copy on n3 yet: {', '.join(names[:NAMES_MAX])} and 2 more (--json names all). It gets"
        )
        self.assertTrue(missing.startswith(start), missing)
        self.assertEqual(odd, "odd one on n2: y.")
        self.assertEqual(len(copies.as_json()), NAMES_MAX + 4)
        behind = log_pb2.LogProblem(log="a", node="n2", reason="behind", entries=7)
        copies = copies_of(log_pb2.StatusResponse(node="n1", log_count=2, problems=[behind]), None)
        self.assertRegex(copies.notes()[0], r"^Behind on n2, without getting on: a \(7 entries\)\. Look at")


class CommandTests(ClusterCase):
    """The commands, against a node that knows of trouble."""

    def tell(self, *problems):
        self.node.log_administration.log_problems = [
            LogProblem(log=log, node=node, trouble=trouble) for log, node, trouble in problems
        ]

    def test_status(self):
        """The status names the logs, and what to do; its exit code is that of the default log."""
        self.tell(("orders", "n3", CopyTrouble.DAMAGED), ("audit", "n3", CopyTrouble.AWAY))
        code, out, _ = self.run_cluster("status")
        self.assertEqual(code, 0)
        self.assertIn("`loghouse log repair orders --replace n3 --with NODE` makes a copy elsewhere", out)
        self.assertIn("Away with n3: audit. Start it again", out)
        code, out, _ = self.run_cluster("status", "--json")
        found = json.loads(out)
        self.assertEqual(
            found["logs"][0], {"log": "orders", "node": "n3", "problem": "damaged", "entries": 0}
        )
        self.assertEqual(len(found["notes"]), 2)

    def test_health(self):
        """A copy that needs attention makes a cluster degraded: 6."""
        self.tell(("orders", "n3", CopyTrouble.NO_COPY))
        code, out, _ = self.run_cluster("health")
        self.assertEqual((code, out.splitlines()[0]), (6, "degraded"))
        self.assertIn("No full copy on n3 yet: orders.", out)
        code, out, _ = self.run_cluster("health", "--json")
        found = json.loads(out)
        self.assertEqual((found["health"], found["logs"][0]["log"]), ("degraded", "orders"))
        self.change(leader="")
        code, out, _ = self.run_cluster("health")
        self.assertEqual((code, out.splitlines()[0]), (3, "unavailable"))
        self.assertIn("No full copy on n3 yet: orders.", out)

    def test_not_known(self):
        """A node that does not know all logs yet makes it degraded, too."""
        self.node.log_administration.log_problems = errors.UnavailableError("it has just started")
        self.node.log_administration.stray_logs = errors.UnavailableError("it has just started")
        code, out, _ = self.run_cluster("health")
        self.assertEqual(code, 6)
        self.assertIn("n1 did not tell how its logs are: it has just started", out)

    def test_one_log(self):
        """Asked for one log, of that one alone."""
        self.tell(("default", "n3", CopyTrouble.BEHIND), ("audit", "n3", CopyTrouble.AWAY))
        _, out, _ = self.run_cluster("status", "--log", "default", "--json")
        self.assertEqual([one["log"] for one in json.loads(out)["logs"]], ["default"])
