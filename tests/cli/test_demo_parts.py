"""The parts of `loghouse demo`, without a node: what it waits for, says, starts and stops."""

import json
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

from loghouse.api.v1 import log_pb2
from loghouse.cli import demo, demo_cluster, demo_nodes
from loghouse.cli.demo_trip import figures, tell_trip
from loghouse.cli.output import CommandError
from loghouse.cli.produce import AppendTotals
from loghouse.client import Server
from loghouse.config.values import Address
from loghouse.errors import OutcomeUnknownError, UnavailableError
from tests.cli.support import CommandCase

LISTEN = Address("127.0.0.1", 8400)


class Time:
    """A clock that goes on only by waiting: stands in for `time` and `threading`."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def Event(self):
        return self

    def wait(self, seconds):
        self.now += seconds

    sleep = wait


class Log:
    """A client of one node; `case` is the cluster that it sees."""

    def __init__(self, node, case):
        self.name = node.name
        self.case = case

    def _note(self, what, seconds):
        self.case.noted.append((what, self.name, seconds))
        failures = self.case.failures.get((what, self.name), [])
        if failures:
            raise failures.pop(0)

    def bounds(self, *, timeout_seconds):
        self._note("bounds", timeout_seconds)

    def servers(self, *, timeout_seconds):
        self._note("servers", timeout_seconds)
        leader = self.case.leaders.get(self.name, self.case.leader)
        servers = [
            Server(name=node.name, address="a:1", is_leader=node.name == leader, role=self.case.role)
            for node in self.case.nodes
        ]
        return SimpleNamespace(servers=servers)

    def append(self, value, *, timeout_seconds):
        self.case.values.append(value)
        self._note("append", timeout_seconds)

    def status(self):
        members = [log_pb2.MemberStatus(name=node.name, role="voter") for node in self.case.nodes[:2]]
        return log_pb2.StatusResponse(term=3, leader=self.case.leader, next_offset=9, members=members)


class CastCase(CommandCase):
    """Three nodes that do not run, and the clock of their demo."""

    def setUp(self):
        super().setUp()
        self.time = Time()
        self.nodes = demo_nodes.demo_nodes(self.folder, LISTEN, 3)
        self.noted, self.values, self.failures, self.leaders = [], [], {}, {}
        self.leader, self.role = "node-2", "voter"
        self.ended = None
        for module in (demo_cluster, demo_nodes):
            self.patch(module, "time", self.time)
        self.patch(demo_cluster, "threading", self.time)
        self.patch(demo_cluster, "run_node", self.run_node)
        self.patch(demo_cluster, "connect_to", self.connect_to)
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.cast = demo_cluster.Cast(self.folder, self.nodes, self.stack)

    @contextmanager
    def run_node(self, node):
        self.noted.append(("run", node.name))
        yield self.running(node)
        self.noted.append(("stopped", node.name))

    def running(self, node):
        def check():
            if self.ended == node.name:
                raise CommandError(f"{node.name} ended")

        return SimpleNamespace(
            node=node, check=check, kill=lambda: self.noted.append(("kill", node.name)), process=None
        )

    @contextmanager
    def connect_to(self, node, folder):
        self.noted.append(("connect", node.name, folder))
        yield Log(node, self)


class CastTests(CastCase):
    """`Cast`: nodes that start, and what is waited for."""

    def test_start(self):
        """All start before any is waited for; a node that starts again keeps its client."""
        self.cast.start_all()
        names = [node.name for node in self.nodes]
        begun = [step for name in names for step in (("run", name), ("connect", name, self.folder))]
        self.assertEqual(self.noted, [*begun, *(("bounds", name, 1.0) for name in names)])
        self.noted.clear()
        self.cast.start(self.nodes[0])
        self.assertEqual(self.noted, [("run", "node-1")])
        self.assertEqual(set(self.cast.running), set(names))
        self.stack.close()
        self.assertEqual(self.noted.count(("stopped", "node-1")), 2)

    def test_wait(self):
        """A condition is looked at each 50 ms; a call that fails meanwhile only means: not yet."""
        looked = []

        def condition():
            looked.append(round(self.time.now, 3))
            if len(looked) == 2:
                raise UnavailableError("not yet")
            return len(looked) == 4

        self.cast.wait(condition, "it")
        self.assertEqual(looked, [100.0, 100.05, 100.1, 100.15])

    def test_wait_too_long(self):
        """After 60 s it is given up, with a word for what; a node that ended is told at once."""
        error = self.assertRaises(CommandError, self.cast.wait, lambda: False, "a leader")
        self.assertEqual(str(error), "waited 60 s for a leader")
        self.assertTrue(160.0 < self.time.now <= 160.06, self.time.now)
        self.cast.start(self.nodes[1])
        self.ended = "node-2"
        error = self.assertRaises(CommandError, self.cast.wait, lambda: True, "it")
        self.assertEqual(str(error), "node-2 ended")

    def test_wait_serving(self):
        """A node serves when it answers what its leader confirmed."""
        self.cast.start(self.nodes[0])
        self.failures["bounds", "node-1"] = [UnavailableError("no")] * 2
        self.cast.wait_serving(self.nodes[0])
        self.assertEqual(self.noted.count(("bounds", "node-1", 1.0)), 3)
        log = self.cast.clients["node-1"]

        def never(*, timeout_seconds):
            self.time.now += 30.0
            raise UnavailableError("no leader")

        log.bounds = never
        error = self.assertRaises(CommandError, self.cast.wait_serving, self.nodes[0])
        self.assertEqual(str(error), "node-1 does not answer after 60 s: no leader")
        self.ended = "node-1"
        error = self.assertRaises(CommandError, self.cast.wait_serving, self.nodes[0])
        self.assertEqual(str(error), "node-1 ended")

    def test_voters(self):
        """Every node must see every node as a voter."""
        self.cast.start_all()
        self.cast.wait_voters()
        self.role = "learner"
        error = self.assertRaises(CommandError, self.cast.wait_voters)
        self.assertIn("all nodes to become voters", str(error))

    def test_leader(self):
        """The leader is one of those asked, and all of them name it."""
        self.cast.start_all()
        self.assertIs(self.cast.wait_leader(self.nodes), self.nodes[1])
        self.leaders["node-3"] = "node-1"
        self.assertIn("for a leader", str(self.assertRaises(CommandError, self.cast.wait_leader, self.nodes)))
        self.assertIs(self.cast.wait_leader(self.nodes[:2]), self.nodes[1])
        self.leader, self.leaders = "", {}
        self.assertRaises(CommandError, self.cast.wait_leader, self.nodes)
        self.leader = "node-2"
        rest = [self.nodes[0], self.nodes[2]]
        self.assertRaises(CommandError, self.cast.wait_leader, rest)


class ShowTests(CastCase):
    """`show`: the whole play."""

    def setUp(self):
        super().setUp()
        self.path = self.folder / "input"
        self.path.write_text("a\n")
        self.trips = []
        self.patch(demo_cluster, "append_file", self.append_file)
        self.patch(demo_cluster, "compare_file", self.compare_file)
        self.patch(demo_cluster, "tell_trip", lambda path, result, say: say(f"told {result['records']}"))

    def append_file(self, log, path):
        self.trips.append(("append", log.name, path))
        return AppendTotals(record_count=len(self.trips), size=5, first_offset=0, last_offset=1, seconds=0.5)

    def compare_file(self, log, path, appended):
        self.trips.append(("compare", log.name, appended.record_count))
        return {"node-1": 0.1, "node-2": 0.3, "node-3": 0.2}[log.name]

    def test_play(self):
        """Through a follower, from all; the leader is killed, appends go on; it comes back and has all."""
        said = []

        def killed(what, name, _=None):
            self.leader = "node-3" if ("kill", "node-2") in self.noted else "node-2"

        append = Log.append

        def mark(log, value, *, timeout_seconds):
            self.time.now += 1.5
            killed("", "")
            append(log, value, timeout_seconds=timeout_seconds)

        self.patch(Log, "append", mark)
        result = demo_cluster.show(self.cast, self.path, said.append)
        self.assertEqual(
            said,
            [
                "3 nodes serve: node-1 on 127.0.0.1:8400, node-2 on 127.0.0.1:8401, node-3 on "
                "127.0.0.1:8402; node-2 leads",
                "(their diagnostics: node-*/node.log)",
                "\nappending through node-1, a follower, and reading back from every node",
                "told 1",
                "the same from 3 nodes: node-1, node-2, node-3",
                "\nkilling node-2, the leader, with kill -9",
                "1.50 s later appends go on; node-3 leads; once more through node-1",
                "told 5",
                "the same from 2 nodes: node-1, node-3",
                "\nstarting node-2 again",
                "0.00 s later it has caught up: what was appended without it came back from it, too\n",
            ],
        )
        self.assertEqual(
            self.trips,
            [
                ("append", "node-1", self.path),
                *(("compare", f"node-{number}", 1) for number in (1, 2, 3)),
                ("append", "node-1", self.path),
                ("compare", "node-1", 5),
                ("compare", "node-3", 5),
                ("compare", "node-2", 5),
            ],
        )
        self.assertEqual(self.noted.count(("kill", "node-2")), 1)
        self.assertEqual(self.values, [b"the leader was killed"])
        nodes = [
            {"node": f"node-{number}", "role": role, "term": 3, "highest_offset": 8}
            for number, role in ((1, "voter"), (2, "voter"), (3, "leader"))
        ]
        figured = {"bytes": 5, "first_offset": 0, "last_offset": 1, "append_seconds": 0.5}
        self.assertEqual(
            result,
            {
                "records": 1,
                **figured,
                "read_seconds": 0.3,
                "killed": "node-2",
                "leader": "node-3",
                "gap_seconds": 1.5,
                "catch_up_seconds": 0.0,
                "after": {"records": 5, **figured, "read_seconds": 0.2},
                "nodes": nodes,
            },
        )

    def test_one_reader(self):
        """From one node alone nothing is the same."""
        self.cast.start(self.nodes[0])
        said = []
        appended, seconds = demo_cluster.trip(
            self.cast, self.nodes[0], self.path, self.nodes[:1], said.append
        )
        self.assertEqual((said, appended.record_count, seconds), (["told 1"], 1, 0.1))

    def test_mark(self):
        """A mark is tried at one node after the other, 0.3 s each, until one takes it, for 30 s."""
        self.cast.start_all()
        self.noted.clear()
        self.failures["append", "node-1"] = [UnavailableError("no"), OutcomeUnknownError("?")]
        self.failures["append", "node-3"] = [UnavailableError("no")]
        rest = [self.nodes[0], self.nodes[2]]
        demo_cluster._append_mark(self.cast, rest)
        self.assertEqual(
            self.noted, [("append", name, 0.3) for name in ("node-1", "node-3", "node-1", "node-3")]
        )

        def never(value, *, timeout_seconds):
            self.time.now += 10.0
            raise UnavailableError("no")

        for log in self.cast.clients.values():
            log.append = never
        before = self.time.now
        self.assertRaises(UnavailableError, demo_cluster._append_mark, self.cast, rest)
        self.assertEqual(self.time.now - before, 40.0)

    def test_members(self):
        """A node that is no member yet has no role; the table shows all."""
        self.cast.start_all()
        self.leader = "node-1"
        members = demo_cluster._members(self.cast)
        self.assertEqual([member["role"] for member in members], ["leader", "voter", "none"])
        said = []
        self.patch(demo_cluster, "write_table", lambda head, rows: said.append((head, rows)))
        demo_cluster.print_members(members[:1])
        self.assertEqual(
            said, [(["NODE", "ROLE", "TERM", "HIGHEST OFFSET"], [["node-1", "leader", "3", "8"]])]
        )


class TripTests(CommandCase):
    """What is said of a round trip."""

    def test_figures(self):
        """Records, bytes and rates; of nothing, that there is nothing; no time at all is no mistake."""
        totals = AppendTotals(
            record_count=1000, size=1_048_576, first_offset=5, last_offset=1004, seconds=0.5
        )
        result = figures(totals, 0.25)
        self.assertEqual(result["read_seconds"], 0.25)
        said = []
        tell_trip(Path("f"), result, said.append)
        self.assertEqual(
            said,
            [
                "appended, durably: 1000 lines of f (1.0 MiB) in 0.500 s: 2,000 records/s, 2.0 MiB/s",
                "read back and compared: 1000 lines of f (1.0 MiB) in 0.250 s: 4,000 records/s, 4.0 MiB/s",
                "offsets 5 to 1004; every byte came back as it went in",
            ],
        )
        said.clear()
        tell_trip(Path("f"), figures(AppendTotals(), 0.0), said.append)
        self.assertEqual(said, ["f is empty: nothing to append"])
        tell_trip(Path("f"), figures(AppendTotals(record_count=1, size=1), 0.0), said.append)
        self.assertIn("in 0.000 s: 1,000,000 records/s", said[1])


class Process:
    """A child that a test has."""

    def __init__(self, returncode=None, *, is_stubborn=False):
        self.returncode = returncode
        self.is_stubborn = is_stubborn
        self.noted = []

    def poll(self):
        return self.returncode

    def terminate(self):
        self.noted.append("terminate")

    def kill(self):
        self.noted.append("kill")

    def wait(self, seconds=None):
        self.noted.append(("wait", seconds))
        if self.is_stubborn and seconds is not None:
            raise subprocess.TimeoutExpired("node", seconds)


class ProcessTests(CommandCase):
    """Nodes as child processes."""

    def setUp(self):
        super().setUp()
        (self.node,) = demo_nodes.demo_nodes(self.folder, LISTEN, 1)

    def test_run(self):
        """A node runs under twistd in its folder, away from Ctrl-C, and is stopped in order."""
        given = []
        for is_stubborn in (False, True):
            process = Process(is_stubborn=is_stubborn)
            self.patch(demo_nodes.subprocess, "Popen", lambda *a, p=process, **k: given.append((a, k)) or p)
            self.node.log_path.write_bytes(b"before")
            with self.assertRaises(KeyError), demo_nodes.run_node(self.node) as running:
                self.assertEqual(
                    (running.node, running.process, running.log_position), (self.node, process, 6)
                )
                self.assertEqual(process.noted, [])
                raise KeyError
            more = ["kill", ("wait", None)] if is_stubborn else []
            self.assertEqual(process.noted, ["terminate", ("wait", 30.0), *more])
        (command,), options = given[0]
        config = str(self.folder / "node.yaml")
        self.assertEqual(command[-5:], ["--nodaemon", "--pidfile=", "loghouse", "--config", config])
        self.assertEqual(command[0], sys.executable)
        self.assertEqual((options["cwd"], options["start_new_session"]), (self.folder, True))
        self.assertEqual(options["stdin"], subprocess.DEVNULL)
        self.assertIs(options["stdout"], options["stderr"])
        self.assertEqual(str(options["stdout"].name), str(self.node.log_path))

    def test_twistd(self):
        """The twistd beside this Python is used; without one its code is."""
        self.patch(demo_nodes.sys, "executable", str(self.folder / "python"))
        self.assertEqual(demo_nodes._twistd()[:2], [str(self.folder / "python"), "-c"])
        (self.folder / "twistd").touch()
        self.assertEqual(demo_nodes._twistd(), [str(self.folder / "python"), str(self.folder / "twistd")])

    def test_typed(self):
        """A command that is not in the path is shown with its own; whoever types it has it found."""
        self.patch(demo_nodes.sys, "executable", str(Path.cwd() / "bin" / "python"))
        for found, text in (("/usr/bin/twistd", "twistd"), (None, "bin/twistd")):
            self.patch(demo_nodes.shutil, "which", lambda name, found=found: found)
            self.assertEqual(demo_nodes.typed("twistd"), text)

    def test_why_it_ended(self):
        """Its refusal is told, with the way out unless its files are in use; else the last twelve lines."""
        lines = [f"line {number}" for number in range(14)]
        tail = "\n".join(f"  {line}" for line in lines[-12:])
        refusal = "twistd loghouse: cannot start: "
        for written, told in (
            ("\n".join(lines), f"; node.log ends:\n{tail}"),
            (f"x\n{refusal}it is full\ny", ": it is full\nto start over with an empty log: rm -r ."),
            (f"{refusal}data is in use by 5\n", ": data is in use by 5"),
        ):
            self.node.log_path.write_text("before\n" + written)
            running = demo_nodes.Running(self.node, Process(3), len("before\n"))
            text = f"node-1 ended with exit code 3{told}"
            self.assertEqual(running.why_it_ended(), text)
            self.assertEqual(str(self.assertRaises(CommandError, running.check)), text)
        running = demo_nodes.Running(self.node, Process(), 0)
        running.check()
        running.kill()
        self.assertEqual(running.process.noted, ["kill", ("wait", None)])

    def test_signals(self):
        """SIGTERM and SIGHUP end the block as Ctrl-C does, and mean what they meant before behind it."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            before = signal.getsignal(number)
            with self.assertRaises(KeyboardInterrupt), demo_nodes.interruptible():
                signal.raise_signal(number)
            self.assertEqual(signal.getsignal(number), before)

    def test_client(self):
        """A node's client calls it alone, as root, by gRPC."""
        given = []
        self.patch(demo_nodes, "connect_blocking", lambda *a, **k: given.append((a, k)) or "client")
        self.assertEqual(demo_nodes.connect_to(self.node, self.folder), "client")
        ((target,), options) = given[0]
        certs = self.folder / "certs"
        tls = options.pop("tls")
        self.assertEqual(target, "127.0.0.1:8400")
        self.assertEqual((tls.ca, tls.certificate, tls.key),
                         (certs / "ca.pem", certs / "root.pem", certs / "root.key"))  # fmt: skip
        self.assertEqual(options, {"timeout_seconds": 30.0, "is_direct": True, "transport": "grpc"})

    def test_interrupted(self):
        """Ctrl-C ends the serving, each 0.2 s looked for nodes that ended."""
        waits = []

        def sleep(seconds):
            waits.append(seconds)
            if len(waits) == 3:
                raise KeyboardInterrupt

        self.patch(demo_nodes, "time", SimpleNamespace(sleep=sleep))
        self.patch(demo_nodes, "write_line", lambda text="": waits.append(text))
        running = demo_nodes.Running(self.node, Process(), 0)
        demo_nodes.serve_until_interrupted([running], waits.append)
        self.assertEqual(waits, [0.2, 0.2, 0.2, ""])

    def test_certificates(self):
        """They are made when one or its key is missing, for all nodes and clients."""
        nodes = demo_nodes.demo_nodes(self.folder / "dev", LISTEN, 3)
        demo_nodes.prepare(self.folder / "dev", nodes)
        certs = self.folder / "dev" / "certs"
        names = [node.name for node in nodes]
        found = sorted(path.name for path in certs.glob("*.pem"))
        self.assertEqual(found, sorted(f"{name}.pem" for name in ("ca", "root", "nobody", *names)))
        self.assertFalse(demo_nodes._needs_certificates(certs, names))
        for missing in ("ca.pem", "root.key", "nobody.pem", "node-2.key"):
            kept = (certs / missing).read_bytes()
            (certs / missing).unlink()
            self.assertTrue(demo_nodes._needs_certificates(certs, names), missing)
            (certs / missing).write_bytes(kept)
        self.assertTrue(demo_nodes._needs_certificates(certs, [*names, "node-4"]))
        (self.folder / "file").touch()
        error = self.assertRaises(CommandError, demo_nodes.prepare, self.folder / "file", nodes)
        self.assertIn("choose another folder with --dir", str(error))


class RunTests(CastCase):
    """`loghouse demo` itself."""

    def setUp(self):
        super().setUp()
        Path("input").write_text("a\n")
        self.steps = []
        members = [{"node": "node-1", "role": "leader", "term": 1, "highest_offset": 0}]
        totals = AppendTotals(record_count=1, size=1, first_offset=0, last_offset=0, seconds=1.0)
        self.patch(demo, "check_port", lambda listen: self.steps.append(f"port {listen}"))
        self.patch(demo, "prepare", lambda folder, nodes: self.steps.append(f"prepare {len(nodes)}"))
        self.patch(demo, "show", lambda cast, path, say: say(f"shown {path}") or {"nodes": members})
        self.patch(demo, "trip", lambda cast, node, path, readers, say: (totals, 0.5))
        self.patch(demo, "serve_until_interrupted", lambda running, say: say(f"serving {len(running)}"))

    def test_several(self):
        """Ports are looked at, files made, all is shown; then it serves, and says what to try."""
        code, out, err = self.run_command("demo", "--file", "input")
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(
            self.steps,
            [*(f"port 127.0.0.1:{port}" for port in (8400, 8480, 8401, 8481, 8402, 8482)), "prepare 3"],
        )
        lines = out.splitlines()
        self.assertEqual(lines[0], "shown input")
        self.assertEqual(lines[1].split(), ["NODE", "ROLE", "TERM", "HIGHEST", "OFFSET"])
        self.assertIn("http://127.0.0.1:8480/, http://127.0.0.1:8481/, ", out)
        self.assertEqual(lines[-3:], ["serving until Ctrl-C", "serving 0", "stopping the nodes"])
        for words in ("consume --offset 0 --count 5", "cluster status", "produce --value 'hello'\n",
                      "--cert dev/certs/nobody.pem --key dev/certs/nobody.key   # is refused"):  # fmt: skip
            self.assertIn(words, out)
        _, out, _ = self.run_command("demo", "--file", "input", "--dir", "other")
        self.assertIn("cluster status --config other/client.yaml", out)

    def test_once(self):
        """Once is without serving; as JSON the figures are all that is printed."""
        code, out, _ = self.run_command("demo", "--file", "input", "--once")
        self.assertEqual((code, out.splitlines()[-1], "serving" in out), (0, "stopping the nodes", False))
        code, out, _ = self.run_command("demo", "--file", "input", "--once", "--json")
        self.assertEqual(json.loads(out)["nodes"][0]["node"], "node-1")

    def test_one(self):
        """One node is started and gets the file; no table of nodes is shown."""
        code, out, _ = self.run_command("demo", "--file", "input", "--nodes", "1", "--once")
        self.assertEqual(code, 0)
        self.assertEqual(
            out.splitlines(),
            [
                "node node-1 serves gRPC on 127.0.0.1:8400 (its diagnostics: dev/node.log)",
                "stopping the node",
            ],
        )
        self.assertIn(("bounds", "node-1", 1.0), self.noted)
        code, out, _ = self.run_command("demo", "--file", "input", "--nodes", "1", "--once", "--json")
        self.assertEqual(json.loads(out)["records"], 1)

    def test_last_port(self):
        """The last node may have the very last port for HTTP."""
        for port, code in ((65453, 0), (65454, 2)):
            words = ("--listen", f"127.0.0.1:{port}", "--file", "input", "--once")
            self.assertEqual(self.run_command("demo", *words)[0], code)
