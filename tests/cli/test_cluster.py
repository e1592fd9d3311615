"""`loghouse cluster` against a cluster in memory."""

import io
import json
import sys
from dataclasses import replace

from twisted.internet.task import Clock

from loghouse.cli.cluster import ClusterHealth, until_healthy, watch
from loghouse.cli.output import ExitCode
from loghouse.cli.watching import CLEAR_SCREEN, WATCH_SECONDS
from loghouse.client import connect_blocking
from loghouse.errors import (
    MembershipError,
    NotSupportedError,
    OutcomeUnknownError,
    PermissionDeniedError,
    UnavailableError,
)
from loghouse.node.api import MemberState
from loghouse.protocol.configuration import ROLE_TEXTS, MemberRole
from loghouse.protocol.gossip_messages import LIVENESS_TEXTS, Liveness
from loghouse.testing.process import free_port
from tests.cli.support import NodeCase

ROLES = {text: role for role, text in ROLE_TEXTS.items()}
LIVENESSES = {text: liveness for liveness, text in LIVENESS_TEXTS.items()}


class ClusterCase(NodeCase):
    """Three members to ask for, of which n2 leads."""

    def setUp(self):
        super().setUp()
        members = (
            MemberState(
                name=f"n{number}",
                id=number,
                role=MemberRole.VOTER,
                liveness=Liveness.ALIVE,
                is_leader=number == 2,
                match_index=match_index,
                address=f"10.0.0.{number}:8400",
                version="loghouse 0.1.0",
            )
            for number, match_index in ((1, 1000), (2, 1000), (3, 958))
        )
        self.change(commit_index=1000, lowest_offset=5, next_offset=990, members=tuple(members), removed=())

    def change(self, **fields):
        """Change what the node tells."""
        self.node.view = replace(self.node.view, **fields)

    def member(self, name, role, id=9, **fields):
        """Let the node tell of another member."""
        made = MemberState(name=name, id=id, role=ROLES[role], liveness=Liveness.ALIVE, **fields)
        self.change(members=(*self.node.view.members, made))

    def change_liveness(self, *texts):
        """Let the members be alive, dead and so on, in their order."""
        rows = zip(self.node.view.members, texts, strict=True)
        self.change(members=tuple(replace(member, liveness=LIVENESSES[text]) for member, text in rows))

    def run_cluster(self, *arguments):
        return self.run_command("cluster", *arguments, *self.target)


class StatusTests(ClusterCase):
    """What an operator sees."""

    def test_healthy(self):
        """A line about the cluster, one about the log, and one a node with how far it is behind."""
        code, out, err = self.run_cluster("status")
        self.assertEqual((code, err), (0, ""))
        lines = out.splitlines()
        self.assertEqual(lines[0], "cluster c1 (000102030405060708090a0b0c0d0e0f), as n1 sees it")
        self.assertEqual(lines[1], "term 4, leader n2, committed up to index 1000, offsets 5 to 989")
        self.assertEqual(
            lines[3].split(), ["NODE", "ID", "ROLE", "LEADS", "STATE", "BEHIND", "ADDRESS", "VERSION"]
        )
        self.assertRegex(lines[4], r"^n1 +1 +voter +alive +0 entries +10\.0\.0\.1:8400 +loghouse 0\.1\.0$")
        self.assertRegex(lines[5], r"^n2 +2 +voter +leader +alive +0 entries")
        self.assertRegex(lines[6], r"^n3 +3 +voter +alive +42 entries")
        self.assertEqual(len(lines), 7, "nothing to remark")

    def remarks(self):
        code, out, _ = self.run_cluster("status", "--json")
        self.assertEqual(code, 0)
        return " ".join(json.loads(out)["notes"])

    def test_a_learner_that_waits(self):
        """A fourth node that waits by design is explained; two that are on their way to a vote are not."""
        self.member("n4", "learner")
        self.assertIn("Waits without a vote: n4. 4 voters bear no more failures than 3", self.remarks())
        self.member("n5", "learner")
        self.assertEqual(self.remarks(), "")

    def test_enough_voters(self):
        """Beyond the most voters there may be, learners are explained, and so are replicas."""
        self.member("n4", "voter")
        self.member("n5", "voter")
        self.member("n6", "learner")
        self.member("n7", "replica")
        self.assertIn("Without a vote: n6. At most 5 members vote", self.remarks())
        self.assertIn("never given a vote: n7", self.remarks())

    def test_a_second_machine(self):
        """A machine with a member's name is shown apart, with what to do."""
        self.member("n2", "none", id=0, address="10.9.9.9:1")
        self.assertIn("A second machine calls itself n2: at 10.9.9.9:1", self.remarks())

    def test_json(self):
        """Every figure as JSON, with the notes as texts."""
        self.change_liveness("alive", "alive", "dead")
        code, out, _ = self.run_cluster("status", "--json")
        self.assertEqual(code, 0)
        status = json.loads(out)
        self.assertEqual((status["leader"], status["term"], status["commit_index"]), ("n2", 4, 1000))
        self.assertEqual((status["cluster"], status["node"], status["removed"]), ("c1", "n1", []))
        self.assertEqual([member["entries_behind"] for member in status["members"]], [0, 0, 42])
        self.assertIn("n3", status["notes"][0])

    def test_not_known(self):
        """What is not known is no number: a node only gossip knows, one never seen, an unknown lag."""
        self.change_liveness("alive", "alive", "")
        *others, last = self.node.view.members
        self.change(members=(*others, replace(last, match_index=0)))
        self.member("n4", "none", id=0, address="10.0.0.4:8400")
        _, out, _ = self.run_cluster("status")
        self.assertRegex(out, r"n3 +3 +voter +not seen +\? ")
        self.assertRegex(out, r"n4 +- +not a member +alive +- ")
        self.change(next_offset=7, lowest_offset=7)
        _, out, _ = self.run_cluster("status")
        self.assertIn("no records, the next offset is 7", out)

    def test_exit_code(self):
        """Without a leader, or without a majority, the exit code says that nothing can be appended."""
        for leader, livenesses, expected in (
            ("n2", ("alive", "alive", "dead"), 0),
            ("n2", ("alive", "suspect", "dead"), 0),
            ("", ("alive", "alive", "alive"), 3),
            ("n2", ("alive", "dead", "left"), 3),
        ):
            self.change(leader=leader)
            self.change_liveness(*livenesses)
            for options in ((), ("--json",)):
                code, out, err = self.run_cluster("status", *options)
                self.assertEqual((code, err), (expected, ""), (leader, livenesses))
                self.assertIn("n1", out)

    def notes(self, *livenesses, leader="n2", removed=()):
        """Return what is remarked when the members are so."""
        self.change_liveness(*livenesses)
        self.change(leader=leader, removed=removed)
        return self.run_cluster("status")[1].splitlines()[8:]

    def test_notes(self):
        """A lost majority, one failure away from it, no leader, removed nodes: said, with what to do."""
        [note] = self.notes("alive", "alive", "dead")
        self.assertIn("Not running: n3. One failure more", note)
        self.assertIn("`loghouse cluster remove n3`", note)
        [note] = self.notes("alive", "dead", "left", leader="")
        self.assertIn("NO MAJORITY: 1 of 3 voters alive, 2 needed", note)
        self.assertIn("n2, n3", note)
        [note] = self.notes("alive", "suspect", "alive", leader="")
        self.assertIn("No leader: nothing can be appended", note)
        self.assertIn("not answering: n2 (suspect)", note)
        [note] = self.notes("alive", "alive", "alive", removed=("n7", "n8"))
        self.assertIn("n7, n8 (`loghouse cluster add", note)

    def test_five_voters(self):
        """With five voters one that is down is remarked, without alarm."""
        for number in (4, 5):
            self.member(f"n{number}", "voter", id=number)
        self.assertEqual(self.notes("dead", "alive", "alive", "alive", "alive")[2:], ["Not running: n1."])


class WatchTests(ClusterCase):
    """`--watch`."""

    def watch(self, rounds, *, as_json=False, terminal=False, between=lambda number: None):
        """Watch so many times; return what was written."""
        waited = []

        def wait(seconds):
            waited.append(seconds)
            between(len(waited))
            return len(waited) == rounds

        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        sys.stdout.isatty = lambda: terminal
        try:
            with connect_blocking(self.node.address, timeout_seconds=0.3, is_direct=True) as log:
                watch(log, as_json, wait)
            return sys.stdout.getvalue(), sys.stderr.getvalue()
        finally:
            sys.stdout, sys.stderr = streams
            self.assertEqual(set(waited) - {WATCH_SECONDS}, set())

    def test_again_and_again(self):
        """The status is asked for each time; a terminal is cleared, a pipe is not."""
        out, _ = self.watch(3)
        self.assertEqual(
            (self.node.count("Status"), out.count("as n1 sees it"), CLEAR_SCREEN in out), (3, 3, False)
        )
        out, _ = self.watch(2, terminal=True)
        self.assertEqual(out.count(CLEAR_SCREEN), 2)
        out, _ = self.watch(2, as_json=True, terminal=True)
        self.assertEqual([json.loads(line)["leader"] for line in out.splitlines()], ["n2", "n2"])

    def test_node_away(self):
        """While the node is away that is said, and the watch goes on; a refusal ends it."""
        away = UnavailableError("the node is stopping")

        def between(number):
            self.node.failure = away if number == 1 else None

        out, err = self.watch(3, between=between)
        self.assertEqual((out.count("as n1 sees it"), err.count("the node is stopping")), (2, 1))
        self.node.failure = PermissionDeniedError("root", "admin", "cluster")
        self.assertRaises(PermissionDeniedError, self.watch, 2)


class ChangeTests(ClusterCase):
    """Orders, and what is said when they are done or refused."""

    ROWS = (
        (["add", "n4"], ("add", "n4", False), {"added": "n4"}, "votes once it has caught up"),
        (["add", "n4", "--learner"], ("add", "n4", True), {"added": "n4"}, "reads along"),
        (["remove", "n3"], ("remove", "n3"), {"removed": "n3"}, "n3 is removed: stop it"),
        (["leave"], ("leave",), {"left": "n1"}, "n1 has left: stop it"),
        (["transfer", "n1"], ("transfer", "n1"), {"leader": "n1"}, "n1 leads now"),
        (["transfer"], ("transfer", ""), {"leader": "n3"}, "n3 leads now"),
        (["trim", "--offset", "77"], ("trim", 77), {"lowest_offset": 76}, "the lowest offset is 76 now"),
    )

    def test_orders(self):
        """Each order reaches the node; the result is a sentence, or JSON."""
        for arguments, order, as_json, sentence in self.ROWS:
            code, out, err = self.run_cluster(*arguments)
            self.assertEqual((code, err), (0, ""), arguments)
            self.assertIn(sentence, out)
            code, out, _ = self.run_cluster(*arguments, "--json")
            self.assertEqual((code, json.loads(out)), (0, as_json))
            asked = [one for one in self.node.orders if one != ("status",)]
            self.assertEqual(asked, [order, order])
            self.node.orders.clear()

    def test_refused(self):
        """A refusal keeps the node's reason and adds the next step; nothing is claimed."""
        reason = "n3 is needed: without it 1 of 2 voters is alive"
        rows = (
            (MembershipError(reason), 1, "`loghouse cluster status` shows"),
            (PermissionDeniedError("root", "admin", "cluster"), 1, "`p, <subject>, *, admin`"),
            (OutcomeUnknownError(reason), 4, "may or may not have been done"),
            (UnavailableError(reason), 3, "try again"),
            (NotSupportedError(reason), 1, "does not serve this call"),
        )
        for error, exit_code, next_step in rows:
            self.node.faults["Remove"] = [error] * 100
            code, out, err = self.run_cluster("remove", "n3", "--timeout", "2s")
            self.assertEqual((code, out), (exit_code, ""), error)
            self.assertIn(str(error), err)
            self.assertIn(next_step, err)
            self.assertNotIn("record", err)
        code, out, err = self.run_cluster("remove", "n3", "--json")
        self.assertEqual((code, json.loads(err)["reason"]), (1, "NOT_SUPPORTED"))

    def test_mistakes(self):
        """A missing action, name or offset is exit code 2 and says what is allowed."""
        for arguments in ([], ["remove"], ["add"], ["trim"], ["trim", "--offset", "-1"], ["shrink"]):
            code, out, err = self.run_cluster(*arguments)
            self.assertEqual((code, out), (2, ""), arguments)
            self.assertEqual(err.count("\n"), 1, err)
        self.assertEqual(self.node.orders, [])


class HealthTests(ClusterCase):
    """One word and an exit code, for scripts."""

    def health(self, *words):
        code, out, _ = self.run_cluster("health", *words)
        return code, out.splitlines()

    def test_healthy(self):
        """A leader, and every member alive and close behind it: 0."""
        self.assertEqual(self.health(), (0, ["healthy"]))
        code, out, _ = self.run_cluster("health", "--json")
        self.assertEqual((code, json.loads(out)), (0, {"health": "healthy", "problems": [], "logs": []}))

    def test_degraded(self):
        """A voter that is away or does not answer, a member far behind or of which that is not known: 6."""
        rows = (
            (("alive", "alive", "dead"), (1000, 1000, 1000), "Not running: n3."),
            (
                ("alive", "alive", "suspect"),
                (1000, 1000, 1000),
                "n3 does not answer at the moment (suspect).",
            ),
            (("alive", "alive", "alive"), (1000, 1000, 0), "n3: it is not known how far behind it is"),
            (("alive", "alive", "alive"), (20_000, 20_000, 9_999), "n3 is 10001 entries behind."),
        )
        for liveness, matches, text in rows:
            self.change_liveness(*liveness)
            members = zip(self.node.view.members, matches, strict=True)
            self.change(
                commit_index=matches[0],
                members=tuple(replace(member, match_index=match) for member, match in members),
            )
            code, lines = self.health()
            self.assertEqual((code, lines[0], len(lines)), (6, "degraded", 2))
            self.assertTrue(lines[1].startswith(text), lines[1])

    def test_unavailable(self):
        """No leader, no majority, or nobody who answers: 3."""
        self.change(leader="")
        code, lines = self.health()
        self.assertEqual((code, lines[0]), (3, "unavailable"))
        self.change(leader="n2")
        self.change_liveness("alive", "dead", "dead")
        code, lines = self.health()
        self.assertEqual((code, lines[0]), (3, "unavailable"))
        self.assertIn("NO MAJORITY", lines[1])
        self.target = ["--server", f"127.0.0.1:{free_port()}", "--plaintext", "--timeout", "0.1"]
        code, lines = self.health()
        self.assertEqual((code, lines[0]), (3, "unavailable"))

    def test_wait(self):
        """With --wait it is asked again until all is well, or the time is over."""
        clock, looks = Clock(), []
        ill, well = ClusterHealth(ExitCode.DEGRADED, ("x",)), ClusterHealth(ExitCode.OK, ())

        def look():
            looks.append(clock.seconds())
            return well if clock.seconds() >= 1.2 else ill

        for seconds, expected, times in ((10.0, well, [0.0, 0.5, 1.0, 1.5]), (0.7, ill, [0.0, 0.5, 0.7])):
            clock.rightNow = 0.0
            del looks[:]
            self.assertEqual(until_healthy(look, seconds, clock.seconds, clock.advance), expected)
            self.assertEqual(looks, times)
        self.assertEqual(self.health("--wait", "10s"), (0, ["healthy"]))
