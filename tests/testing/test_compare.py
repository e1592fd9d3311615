"""What `make compare` does with systems: by one that answers from a list, without any installed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench.compare import install, jobs, plots, report
from bench.compare.install import UnavailableError
from bench.compare.kafka import tls_settings
from bench.compare.peer import ClientError, Peer, Servers, run_client
from bench.compare.peers import all_peers
from bench.compare.rabbitmq import is_whole, leader_of, node_name
from bench.compare.runner import compare
from bench.compare.shape import SHAPES, Append, Failover, Read, shape_of
from loghouse.testing.process import Certificates
from tests.processes import in_children


class FakePeer(Peer):
    """A system with given rates; `calls` notes what is asked of it and of others with the same list."""

    version, durability = "v1", "on 2 of 3"

    def __init__(self, name, rates, calls, problem=None):
        self.name, self.rates, self.calls, self.problem = name, list(rates), calls, problem

    def install(self):
        if self.problem:
            raise UnavailableError(self.problem)

    def start(self, folder, certificates):
        assert folder.is_dir()
        self.calls.append((self.name, "start"))

    def append(self, shape):
        self.calls.append((self.name, shape.name))
        rate = self.rates.pop(0)
        if isinstance(rate, Exception):
            raise rate
        return {"per_second": rate, "p50_seconds": 1 / rate, "p99_seconds": 2 / rate}

    def client(self, job, log, *numbers):
        self.calls.append((self.name, job, log, *numbers))
        answers = {
            "leader": {"leader": "2"},
            "gap": {"gap_seconds": 0.5},
            "read": {"bulk_megabytes_per_second": 8.0, "per_second": 5.0, "records": 100},
        }
        return dict(answers.get(job, {}))

    def pids(self):
        return [os.getpid()]

    def pid_of(self, leader):
        return 1000 + int(leader)

    def mend(self):
        self.calls.append((self.name, "mend"))

    def stop(self):
        self.calls.append((self.name, "stop"))


class CompareCase(SynchronousTestCase):
    """Comparisons with peers that are none."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.calls = []

    def compare(self, ours, theirs, *, shapes=("1k64",), problem=None, lacks=()):
        peer = FakePeer("peer", theirs, self.calls, problem)
        peer.lacks = dict(lacks)
        return compare(
            FakePeer("Loghouse", ours, self.calls),
            [peer],
            [shape_of(name) for name in shapes],
            len(theirs) - 1 if shapes == ("1k64",) else 1,
            self.folder,
        )

    def figures(self, **options):
        found = self.compare([1, 100, 300, 200], [1, 100, 100, 400], **options)
        return {"date": "2026-11-30", "interpreter": "CPython 3.11.7 without PGO", "rounds": 3, **found}


class RunnerTests(CompareCase):
    """Who runs when."""

    def test_turns(self):
        """After one warm round of each, ours and the peer's take turns; then all is stopped."""
        self.figures()
        ours, theirs = ("Loghouse", "1k64"), ("peer", "1k64")
        self.assertEqual(self.calls[:2], [("Loghouse", "start"), ("peer", "start")])
        self.assertEqual(self.calls[2:-2], [ours, theirs] * 4)
        self.assertEqual(self.calls[-2:], [("Loghouse", "stop"), ("peer", "stop")])

    def test_cost(self):
        """Each round has the processor time and the memory of the servers."""
        pair = self.figures()["cells"][0]["pairs"][0]
        for side in pair.values():
            self.assertGreaterEqual(side["cpu_microseconds"], 0.0)
            self.assertGreater(side["resident_mib"], 1.0)

    def test_unavailable(self):
        """A peer that cannot be had is named with the reason, and nothing is started for it."""
        found = self.compare([], [1, 1], problem="peer: there is no Go here to build it")
        self.assertEqual(found, {"cells": [], "unavailable": ["peer: there is no Go here to build it"]})
        self.assertEqual(self.calls, [])

    def test_long_log(self):
        """A log is filled before the rounds that ask for a long one."""
        self.compare([1, 1], [1, 1], shapes=["1k64@2m"])
        self.assertIn(("Loghouse", "fill", "compare", 65536, 32), self.calls)

    def test_reads(self):
        """What is read is filled into a log of its own; each side is warm before its rounds."""
        (cell,) = self.compare([], [], shapes=["read-64k"])["cells"]
        read = ("peer", "read", "read-64k", 65536, 1024)
        calls = [call for call in self.calls if call[0] == "peer"]
        made = [("peer", "make", "read-64k"), ("peer", "fill", "read-64k", 65536, 1024)]
        self.assertEqual(calls, [("peer", "start"), *made, read, read, ("peer", "stop")])
        self.assertNotIn("records", cell["pairs"][0]["ours"])
        self.assertGreaterEqual(cell["pairs"][0]["ours"]["cpu_microseconds"], 0.0)

    def test_failover(self):
        """The client is told the process of whoever leads, and the killed node is started again."""
        (cell,) = self.compare([], [], shapes=["failover"])["cells"]
        calls = [call[1:] for call in self.calls if call[0] == "peer"][1:-1]
        self.assertEqual(calls, [("leader", "compare"), ("gap", "compare", 1002), ("mend",)])
        self.assertEqual(cell["pairs"][0]["theirs"]["gap_seconds"], 0.5)
        self.assertNotIn("cpu_microseconds", cell["pairs"][0]["ours"])

    def test_lacks(self):
        """A kind of load that a peer does not know is left out with the reason; without any it stays down."""
        found = self.compare([1, 1], [1, 1], shapes=["1k1", "read-1k"], lacks={"read": "it has keys"})
        self.assertEqual([cell["shape"] for cell in found["cells"]], ["1k1"])
        self.assertEqual(found["unavailable"], ["peer, read: it has keys"])
        self.calls.clear()
        self.folder /= "again"
        self.compare([], [], shapes=["read-1k"], lacks={"read": "it has keys"})
        self.assertEqual(self.calls, [])

    def test_failure(self):
        """When something breaks, both systems are stopped, and the failure is told."""
        self.assertRaises(RuntimeError, self.compare, [1, 1], [RuntimeError("broken"), 1])
        self.assertEqual(self.calls[-2:], [("Loghouse", "stop"), ("peer", "stop")])

    def test_kept(self):
        """What is measured is handed over after each load: an early end costs only what was to come."""
        peer = FakePeer("peer", [1, 1, 1, RuntimeError("the machine went")], self.calls)
        shapes = [shape_of(name) for name in ("1k1", "1k4")]
        kept = []
        ours = FakePeer("Loghouse", [1, 1, 1, 1], self.calls)
        with self.assertRaises(RuntimeError):
            compare(
                ours, [peer], shapes, 1, self.folder, lambda found: kept.append(json.loads(json.dumps(found)))
            )
        self.assertEqual([cell["shape"] for found in kept for cell in found["cells"]], ["1k1"])

    def test_client_failure(self):
        """A client that fails costs its own row alone: the reason stands there, and the next load is run."""
        failure = ClientError(
            1, ["python", "-m", "clients", "peer", "append"], "", "Traceback\nout of memory"
        )
        found = self.compare([1, 1, 1], [failure, 1, 1], shapes=["1k1", "1k4"])
        self.assertEqual([cell["shape"] for cell in found["cells"]], ["1k4"])
        self.assertEqual(found["unavailable"], ["peer, 1 KiB x 1: clients peer append: out of memory"])

    def test_servers(self):
        """Servers are ended together, also one that does not listen to the first word."""
        servers = Servers()
        for command in (["sleep", "60"], ["sleep", "61"]):
            servers.start(command, self.folder / "out")
        self.assertEqual(len(servers.pids), 2)
        pids = servers.pids
        servers.stop()
        self.assertEqual(servers.pids, [])
        for pid in pids:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_revive(self):
        """A server that was killed is started again as it was; one that runs is left alone."""
        servers = Servers()
        self.addCleanup(servers.stop)
        for seconds in (60, 61):
            servers.start(["sleep", str(seconds)], self.folder / "out")
        first, second = servers.pids
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        servers.revive()
        self.assertNotEqual(servers.pids[0], first)
        self.assertEqual(servers.pids[1], second)

    def test_client(self):
        """A client's last line is its answer; one that fails is told by its last line."""
        program = [
            sys.executable,
            "-c",
            "import sys; print('hello'); print('{\"word\": \"' + sys.argv[1] + '\"}')",
        ]
        self.assertEqual(run_client(program, ["one"]), {"word": "one"})
        with self.assertRaisesRegex(ClientError, "no such word$"):
            run_client([sys.executable, "-c", "raise SystemExit('no such word')"], [])


# A run of two peers whose nodes only wait. Both say what they do, and end their nodes on a word.
TERMINATED = """
import sys, time
from pathlib import Path
from bench.compare import __main__ as program
from bench.compare.peer import Peer, Servers
from bench.compare.shape import shape_of

class Waiting(Peer):
    version, durability = "v1", "none"

    def __init__(self, name="Loghouse"):
        self.name, self.servers = name, Servers()

    def install(self):
        pass

    def start(self, folder, certificates):
        for number in range(3):
            self.servers.start(["sleep", "60"], folder / "out")
        print(self.name, *self.servers.pids, flush=True)

    def append(self, shape):
        print("measuring", flush=True)
        time.sleep(60)

    def pids(self):
        return self.servers.pids

    def stop(self):
        print("ending", flush=True)
        sys.stdin.readline()
        self.servers.stop()

    client = pid_of = mend = None

program.Loghouse = Waiting
program.measure([Waiting("peer")], [shape_of("1k64")], 1, Path(sys.argv[1]) / "figures.json")
"""


@in_children
class TerminatedTests(CompareCase):
    """A comparison that a time limit ends."""

    def test_terminated(self):
        """SIGTERM, also twice, ends the nodes of both sides, and the folder with their records is gone."""
        scratch = self.folder / "scratch"
        scratch.mkdir()
        child = subprocess.Popen(
            [sys.executable, "-c", TERMINATED, self.folder],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "", "BENCH_DIR": str(scratch)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.stdin.close)
        words = [child.stdout.readline().split() for _ in range(3)]
        self.assertEqual([said[0] for said in words], ["Loghouse", "peer", "measuring"])
        pids = [int(pid) for said in words[:2] for pid in said[1:]]
        self.assertEqual(len(pids), 6)
        for _ in range(2):
            child.send_signal(signal.SIGTERM)
            self.assertEqual(child.stdout.readline(), "ending\n")
            child.stdin.write("\n")
            child.stdin.flush()
        self.assertEqual(child.wait(30), 1)
        for pid in pids:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)
        self.assertEqual(list(scratch.iterdir()), [])


class ShapeTests(SynchronousTestCase):
    """Names of shapes."""

    def test_names(self):
        """A name and its shape are one another's; what is none is refused with how to write one."""
        self.assertEqual(shape_of("64k16"), Append(65536, 16))
        self.assertEqual(shape_of("100b1"), Append(100, 1))
        self.assertEqual(shape_of("1k64@512m"), Append(1024, 64, 512))
        self.assertEqual(shape_of("read-64k"), Read(65536))
        self.assertEqual(shape_of("failover"), Failover())
        self.assertEqual([shape_of(shape.name) for shape in SHAPES], list(SHAPES))
        for name in ("", "1k", "k64", "0k1", "1k0", "1m4", "read-0k", "read-1k4", "1k64@1"):
            with self.assertRaisesRegex(ValueError, "as in 1k64"):
                shape_of(name)

    def test_counts(self):
        """No round appends more than 64 MiB, or so little that its p99 is one record."""
        for shape in SHAPES:
            if isinstance(shape, Failover):
                continue
            self.assertLessEqual(shape.size * shape.count, 64 << 20)
            self.assertGreaterEqual(shape.count, 200)


class ReportTests(CompareCase):
    """What is said about the figures."""

    def test_medians(self):
        """Ratios are of pairs, not of medians; p99 the same."""
        figures = self.figures()
        (cell,) = figures["cells"]
        self.assertEqual(report.medians(cell, "per_second"), (200, 100))
        self.assertEqual(report.ratios(cell, "per_second"), (1.0, 0.5, 3.0))
        headings, row = report.tables(figures)["Appends"]
        self.assertEqual(len(headings), len(row))
        ratios = ("1.00 (0.50 to 3.00)", "1.00 (0.33 to 2.00)")
        self.assertEqual(row[:6], ("peer v1", "1 KiB x 64", *ratios, "200 / 100", "10.0 / 20.0 ms"))

    def test_tables(self):
        """Each kind of load has a table of its own, and one that nobody asked for has none."""
        found = report.tables(self.compare([], [], shapes=["read-1k", "failover"]))
        self.assertEqual(len(found), 2)
        reads, gaps = (table[1] for table in found.values())
        self.assertEqual(reads[1:5], ("1 KiB", "1.00 (1.00 to 1.00)", "1.00 (1.00 to 1.00)", "8 / 8 MB/s"))
        self.assertEqual(gaps[1:], ("kill -9 of the leader", "1.00 (1.00 to 1.00)", "0.50 / 0.50 s"))

    def test_text(self):
        """A table for a terminal has a line for each cell; each peer that is missing has one, too."""
        figures = {**self.figures(), "unavailable": ["Kafka: no Java"]}
        lines = report.text(figures).splitlines()
        self.assertEqual(lines[0], "Appends:")
        self.assertEqual(len(lines), 5)
        self.assertEqual(lines[-1], "Not compared: Kafka: no Java")

    def test_document(self):
        """The section between the markers is replaced, as often as one likes, and nothing else."""
        section = report.markdown(self.figures(), ["images/compare-p99-size.svg"])
        document = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
        made = report.replaced(document, section)
        self.assertEqual(report.replaced(made, section), made)
        self.assertTrue(made.startswith("before\n") and made.endswith("\nafter\n"))
        self.assertNotIn("old", made)
        for part in ("| peer v1 | 1 KiB x 64 |", "without PGO", "on 2 of 3", "(images/compare-p99-size.svg)"):
            self.assertIn(part, made)

    def test_no_markers(self):
        """A document without markers is left alone, with an error that names them."""
        with self.assertRaisesRegex(ValueError, "make compare"):
            report.replaced("a document", "section")

    def test_place(self):
        """docs/performance.md has the place."""
        document = Path(report.__file__).parents[2] / "docs/performance.md"
        self.assertIn("anew", report.replaced(document.read_text(), "anew\n"))

    def test_lines(self):
        """A plot has a line for each system, along what the shapes of the plot differ in."""
        names = ["1k64", "1k16", "64k16", "1k64@2m", "read-1k", "failover"]
        figures = self.compare([1, 8, 1, 9, 1, 7, 1, 6], [1, 4, 1, 3, 1, 2, 1, 1], shapes=names)
        json.dumps(figures)
        wanted = {
            "per-window": ([(16.0, 9.0), (64.0, 8.0)], [(16.0, 3.0), (64.0, 4.0)]),
            "per-size": ([(1024.0, 9.0), (65536.0, 7.0)], [(1024.0, 3.0), (65536.0, 2.0)]),
            "per-log_mib": ([(0.0, 8.0), (2.0, 6.0)], [(0.0, 4.0), (2.0, 1.0)]),
            "read-size": ([(1024.0, 8.0)], [(1024.0, 8.0)]),
        }
        for plot in plots.PLOTS:
            if plot.name in wanted:
                ours, theirs = wanted[plot.name]
                self.assertEqual(plots.lines(figures, plot), {"Loghouse": ours, "peer": theirs})
        self.assertEqual(plots.gaps(figures), {"Loghouse": 0.5, "peer": 0.5})

    def test_dressed(self):
        """A drawing gets words and colours for dark pages in its root, and loses what nobody sees."""
        unseen = "<metadata>m</metadata>\n <!-- a\n -->"
        drawing = f'<?xml version="1.0"?>\n<svg width="1">\n {unseen}\n <a d="M 1.23456"/>\n</svg>\n'
        made = plots.dressed(drawing, "p99", "of both")
        self.assertIn('<svg width="1">\n<title>p99</title><desc>of both</desc><style>text{', made)
        self.assertTrue(made.endswith('</style>\n<a d="M 1.2"/>\n</svg>\n'))
        self.assertIn("@media (prefers-color-scheme:dark)", made)
        self.assertNotIn("metadata", made)


class JobTests(SynchronousTestCase):
    """What a client process does, by a client without a server."""

    class FakeClient(jobs.Client):
        """Answers at once, unless an append is in `failing`; reads what it is told to have."""

        failing = ()
        size = 10
        appended = recovered = 0

        async def open(self, window):
            """There is nothing to connect to."""

        async def close(self):
            self.is_closed = True

        async def make(self):
            self.is_made = True

        async def append(self, body):
            self.appended += 1
            if self.appended in self.failing:
                raise ConnectionError("gone")

        async def recover(self):
            self.recovered += 1

        async def read_bulk(self, count):
            return count * self.size

        read_each = read_bulk

        async def leader(self):
            return "3"

    def run_job(self, job, *numbers, **attributes):
        client = self.FakeClient("127.0.0.1:1,127.0.0.1:2", Path(), "compare")
        for name, value in attributes.items():
            setattr(client, name, value)
        self.client = client
        # Not `asyncio.run`, which leaves the thread without a loop: tests behind this one ask for it.
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        return loop.run_until_complete(jobs.run(client, job, list(numbers)))

    def test_append(self):
        """As many appends as asked for are answered, after those that warm up; then the client is closed."""
        found = self.run_job("append", 10, 4, 100)
        self.assertEqual(set(found), {"per_second", "p50_seconds", "p99_seconds"})
        self.assertEqual(self.client.appended, jobs.WARM_UP_COUNT + 100)
        self.assertTrue(self.client.is_closed)

    def test_figures(self):
        """The rate is over the whole time; p99 is the time that one of a hundred exceeds."""
        found = jobs.figures_of([number / 100 for number in range(100, 0, -1)], 50.0)
        self.assertEqual(found, {"per_second": 2.0, "p50_seconds": 0.51, "p99_seconds": 1.0})

    def test_other_jobs(self):
        """The rest do what they are called; an unknown one is refused, and closes the client, too."""
        self.run_job("fill", 1 << 20, 40)
        self.assertEqual(self.client.appended, 40)
        self.assertEqual(self.run_job("leader"), {"leader": "3"})
        self.run_job("make")
        self.assertTrue(self.client.is_made)
        self.assertRaises(ValueError, self.run_job, "sing")
        self.assertTrue(self.client.is_closed)

    def test_read(self):
        """Passes are repeated for a while, and both ways of reading are counted."""
        self.patch(jobs, "READ_SECONDS", 0.0)
        found = self.run_job("read", 10, 50)
        self.assertEqual(found["records"], 2 * 2 * 50)
        self.assertGreater(found["per_second"], 0.0)

    def test_short_read(self):
        """Who reads fewer bytes than there are is not measured."""
        with self.assertRaisesRegex(RuntimeError, "50 records of 10 bytes came as 450 bytes"):
            self.run_job("read", 10, 50, size=9)

    def test_gap(self):
        """The process is killed once, appends that fail are tried again, and the gap spans them."""
        killed = []
        self.patch(jobs.os, "kill", lambda pid, number: killed.append((pid, number)))
        self.patch(jobs, "PAUSE_SECONDS", 0.0)
        failing = (jobs.GAP_BEFORE + 1, jobs.GAP_BEFORE + 2)
        found = self.run_job("gap", 4711, failing=failing)
        self.assertEqual(killed, [(4711, signal.SIGKILL)])
        self.assertEqual(self.client.recovered, 2)
        self.assertEqual(self.client.appended, jobs.GAP_BEFORE + jobs.GAP_AFTER + 2)
        self.assertGreater(found["gap_seconds"], 0.0)

    def test_gap_before(self):
        """What fails before the leader dies is no failover."""
        self.assertRaises(ConnectionError, self.run_job, "gap", 4711, failing=(3,))

    def test_longest(self):
        """The longest time between two acknowledgements counts, wherever it is."""
        self.assertEqual(jobs.longest_gap([1.0, 2.0, 5.0, 5.5]), 3.0)


class InstallTests(SynchronousTestCase):
    """What peers need, and how it is told that it cannot be had."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.patch(install, "BUILD", self.folder)

    def test_programs(self):
        """A program that is not here is named, for each way to install."""
        self.patch(install.shutil, "which", lambda program: None)
        for make, program in (
            (lambda: install.build_go("nats", "module", "v1", "package"), "go"),
            (lambda: install.jars("kafka", "1", []), "java"),
            (lambda: install.debian("redis", "redis-server"), "apt-get"),
        ):
            with self.assertRaisesRegex(UnavailableError, f": there is no {program} here$"):
                make()

    def test_failure(self):
        """What a command says last is the reason."""
        with self.assertRaisesRegex(UnavailableError, "^peer: sh -c: not served$"):
            install._run("peer", ["sh", "-c", "echo first; echo not served >&2; exit 1"], self.folder)

    def test_once(self):
        """What is there already is not asked for again."""
        for name in ("go-v1", "kafka-2", "redis-debian"):
            (self.folder / name).mkdir()
        self.patch(install, "_run", lambda *_: self.fail("a command was run"))
        self.patch(install.shutil, "which", lambda program: f"/usr/bin/{program}")
        self.assertEqual(install.build_go("go", "module", "v1", "package"), self.folder / "go-v1")
        self.assertEqual(install.jars("kafka", "2", []), self.folder / "kafka-2")
        self.assertEqual(install.debian("redis", "redis-server"), self.folder / "redis-debian")

    def test_debian_version(self):
        """The version is the upstream one; libraries are found wherever the machine's kind puts them."""
        (self.folder / "version").write_text("5:7.0.15-1~deb12u10")
        (self.folder / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
        self.assertEqual(install.debian_version(self.folder), "7.0.15")
        self.assertEqual(install.library_path(self.folder), f"{self.folder}/usr/lib/x86_64-linux-gnu")


class PeerTests(SynchronousTestCase):
    """The systems that have a name."""

    def test_kafka_tls(self):
        """Kafka gets key and certificate in one file that nobody else reads."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        certificates = Certificates(Path(folder.name) / "certs")
        found = tls_settings(certificates, "node-1", Path(folder.name))
        both = Path(found["ssl.keystore.location"])
        self.assertEqual(both.stat().st_mode & 0o777, 0o600)
        self.assertEqual(both.read_text().count("-----BEGIN "), 2)

    def test_queues(self):
        """Of RabbitMQ's list of queues one is looked at: who leads it, and whether all three are there."""
        nodes = [node_name(number) for number in (1, 2, 3)]
        whole = {"name": "compare", "leader": nodes[1], "online": nodes}
        listed = json.dumps([{"name": "other", "leader": nodes[0], "online": nodes[:1]}, whole])
        self.assertEqual(leader_of(listed, "compare"), "2")
        self.assertTrue(is_whole(listed, "compare"))
        self.assertFalse(is_whole(listed, "other"))
        self.assertFalse(is_whole(listed, "unknown"))

    def test_names(self):
        """Each peer is asked for by its name in small letters, and says what an acknowledgement means."""
        peers = all_peers()
        self.assertEqual(list(peers), ["nats", "etcd", "kafka", "redis", "rabbitmq"])
        for name, peer in peers.items():
            self.assertEqual(peer.name.lower(), name)
            self.assertTrue(peer.durability)
            self.assertLessEqual(set(peer.lacks), {shape.kind for shape in SHAPES})
