"""Copies of logs on a real cluster that are gone, behind or damaged: what an operator is told, and does."""

import json

from loghouse.testing.process import wait_until
from tests.cluster.test_named_logs import SECONDS_MAX, CommandsCase
from tests.processes import long


class EmptiedDiskTests(CommandsCase):
    """Three nodes with named logs, by the commands that an operator has."""

    def health(self, code):
        """What `cluster health --json` says, with this exit code."""
        return json.loads(self.command("cluster", "health", "--json", code=code))

    def groups(self, node):
        """The numbers of the logs on a node's disk."""
        folder = node.data_dir / "logs"
        return {int(path.name) for path in folder.glob("*") if path.name.isdecimal()}

    @long
    def test_all_copies_again(self):
        """The node gets all its copies again by itself; until then health names each log that lacks one."""
        names = ["audit", "events", "orders"]
        for name in names:
            self.command("log", "create", name)
        lines = "".join(f"{number}\n" for number in range(500))
        self.command("produce", "--log", "orders", stdin=lines)
        self.assertIn("healthy", self.command("cluster", "health", "--wait", "30s"))
        node = self.cluster.node("node-3")
        node.kill()
        self.cluster.wipe(node)

        def are_away():
            run = self.try_command("cluster", "health", "--json")
            if run.returncode != 6:
                return False
            problems = json.loads(run.stdout)["logs"]
            return {one["log"] for one in problems if one["problem"] == "away"} == {*names, "_catalog"}

        wait_until(are_away, "every log to lack a copy", seconds_max=SECONDS_MAX)
        self.assertRegex(
            self.command("cluster", "status"),
            "Away with node-3: _catalog, audit, events, orders. Start it again, or, if it is gone for good, "
            "`loghouse log repair",
        )
        node.start()

        def is_well():
            run = self.try_command("cluster", "health", "--json")
            if run.returncode == 0:
                self.assertLessEqual({1, 2, 16, 17, 18}, self.groups(node), "healthy, and not whole")
            return run.returncode == 0

        wait_until(is_well, "all copies", seconds_max=SECONDS_MAX)
        described = json.loads(self.command("log", "describe", "orders", "--json"))
        self.assertEqual(
            [one["member"] > 3 for one in sorted(described["replicas"], key=lambda one: one["node"])],
            [False, False, True],
        )
        # Another node goes: the copies that are back are a majority with the one that is left.
        self.cluster.node("node-1").kill()
        self.command("produce", "--log", "orders", stdin="more\n")
        self.assertEqual(
            self.command("consume", "--log", "orders", "--server", node.address), f"{lines}more\n"
        )
        self.cluster.node("node-1").start()
        self.assertIn("healthy", self.command("cluster", "health", "--wait", "30s"))

    @long
    def test_behind(self):
        """A copy that does not get on is told, with how much it lacks, until it does."""
        self.command("log", "create", "orders")
        leader = json.loads(self.command("log", "describe", "orders", "--json"))["leader"]
        node = self.cluster.others(self.cluster.node(leader))[0]
        node.stop()
        node.add_hooks()
        node.start()
        self.assertIn("healthy", self.command("cluster", "health", "--wait", "30s"))
        node.fill_disk()
        self.command("produce", "--log", "orders", stdin="".join(f"{number}\n" for number in range(50)))
        wait_until(
            lambda: self.problems() == {("orders", node.name, "behind")}, "it", seconds_max=SECONDS_MAX
        )
        status = self.command("cluster", "status")
        self.assertRegex(
            status, rf"Behind on {node.name}, without getting on: orders \(\d+ entr(y|ies)\). Look"
        )
        node.free_disk()
        self.assertIn("healthy", self.command("cluster", "health", "--wait", "50s"))

    def problems(self):
        """What `cluster health` names, as (log, node, problem)."""
        told = json.loads(self.try_command("cluster", "health", "--json").stdout)
        return {(one["log"], one["node"], one["problem"]) for one in told["logs"]}

    @long
    def test_missing_directory(self):
        """A copy whose files are gone while its node is not is told as damaged, with what to do."""
        self.command("log", "create", "orders")
        self.command("produce", "--log", "orders", "--value", "x")
        node = self.cluster.node("node-2")
        node.stop()
        (node.data_dir / "logs/16").rename(node.data_dir / "away")
        node.start()
        self.cluster.wait_voters()

        damaged = {("orders", "node-2", "damaged")}
        wait_until(lambda: self.problems() == damaged, "the damage", seconds_max=SECONDS_MAX)
        self.health(6)
        self.assertIn("log repair orders --replace node-2 --with NODE", self.command("cluster", "status"))
        # What the note says: an empty data directory.
        node.stop()
        self.cluster.wipe(node)
        node.start()
        self.assertIn("healthy", self.command("cluster", "health", "--wait", "50s"))
        self.assertEqual(self.command("consume", "--log", "orders", "--server", node.address), "x\n")
