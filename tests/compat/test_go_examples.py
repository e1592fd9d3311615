"""The Go client and the Go disk reader of examples/go, written from the documents alone, against real nodes.

They need Go and nothing else: no modules. Without Go the tests are skipped.
"""

import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse.testing.cluster_process import ClusterProcess
from tests.cluster.case import SETTINGS
from tests.processes import SKIP

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples" / "go"
VECTORS = ROOT / "tests" / "vectors"
GO = shutil.which("go")
BUILD_SECONDS = 280  # Go's own library, compiled for the first time
PROGRAM_SECONDS = 60
LINES = 600

_folder: list[Path] = []


def go(*words):
    """Run the `go` command in the examples; return what it wrote."""
    environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOPROXY": "off"}
    ran = subprocess.run(
        [GO, *words], cwd=EXAMPLES, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS
    )
    if ran.returncode:
        raise AssertionError(f"go {' '.join(map(str, words))}:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def built(name):
    """Return the program `client` or `disk`, compiled once for all tests."""
    if GO is None:
        raise SkipTest("go is not installed; the same documents are held against Python by other tests")
    if not _folder:
        _folder.append(Path(tempfile.mkdtemp(prefix="loghouse-go-")))
        go("build", "-o", f"{_folder[0]}/", "./...")
    return str(_folder[0] / name)


class Program:
    """A running program whose lines are read as they come."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines, self._errors = [], []
        self._more = threading.Condition()
        self._threads = [
            threading.Thread(target=read, args=pair, daemon=True)
            for read, *pair in (
                (self._read, self.process.stdout, self.lines),
                (self._read, self.process.stderr, self._errors),
            )
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream, lines):
        for line in stream:
            with self._more:
                lines.append(line.rstrip("\n"))
                self._more.notify_all()

    def say(self, lines):
        self.process.stdin.write("".join(f"{line}\n" for line in lines))
        self.process.stdin.flush()

    def wait_lines(self, count):
        with self._more:
            if not self._more.wait_for(lambda: len(self.lines) >= count, PROGRAM_SECONDS):
                raise AssertionError(f"{len(self.lines)} lines, {count} expected\n{self.errors}")

    @property
    def errors(self):
        return "\n".join(self._errors[-20:])

    def finish(self):
        """Let it end by itself; return its lines."""
        self.process.stdin.close()
        code = self.process.wait(PROGRAM_SECONDS)
        for thread in self._threads:
            thread.join()
        if code:
            raise AssertionError(f"it ended with {code}:\n{self.errors}")
        return self.lines

    def close(self):
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()


class SourceTests(SynchronousTestCase):
    """What a reader of the examples relies on."""

    def test_tidy(self):
        """The sources are formatted, vetted, need no modules, and stay small."""
        built("client")
        formatted = subprocess.run(
            [Path(GO).with_name("gofmt"), "-l", "."], cwd=EXAMPLES, capture_output=True, text=True
        )
        self.assertEqual((formatted.returncode, formatted.stdout), (0, ""))
        go("vet", "./...")
        self.assertNotIn("require", (EXAMPLES / "go.mod").read_text())
        for path in EXAMPLES.rglob("*.go"):
            self.assertLessEqual(len(path.read_text().splitlines()), 300, path.name)

    def test_vectors(self):
        """Both take every vector that is about them as published, and refuse what must be refused."""
        found = {}
        for name in ("client", "disk"):
            command = [built(name), "-vectors", str(VECTORS)]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_SECONDS)
            self.assertEqual(ran.returncode, 0, ran.stderr)
            for line in ran.stdout.splitlines():
                file, good, _, skipped, _ = line.split()
                found[file] = int(good), int(skipped)
        self.assertEqual(
            found,
            {
                "wire.json": (27, 60),  # skipped: between nodes
                "wire_refused.json": (48, 81),  # between nodes, requests, sessions
                "entry.json": (15, 0),
                "small_files.json": (7, 1),  # the index
                "disk_refused.json": (73, 2),  # the address book
                "batch_refused.json": (13, 1),  # zstd
            },
        )


class RealNodeTests(SynchronousTestCase):
    """Three nodes with TLS both ways, and the death of a leader."""

    skip = SKIP

    def setUp(self):
        built("client")
        folder = Path(self.mktemp()).absolute()
        self.cluster = ClusterProcess(folder, settings=SETTINGS, is_forked=True)
        self.addCleanup(self.cluster.close)
        self.cluster.start()
        self.cluster.wait_voters()

    def client(self, nodes, *words):
        certificates = self.cluster.certificates
        program = Program(
            built("client"),
            *("-addresses", ",".join(node.address for node in nodes)),
            *("-ca", str(certificates.path("ca"))),
            *("-cert", str(certificates.path("root")), "-key", str(certificates.key_path("root"))),
            *words,
        )
        self.addCleanup(program.close)
        return program

    def disk(self, node):
        command = [built("disk"), str(node.data_dir)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_SECONDS)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return ran.stdout.splitlines(), ran.stderr

    def test_leader_dies(self):
        """Each line is appended once, in order, and read by all, though the leader is killed meanwhile."""
        cluster = self.cluster
        leader = cluster.wait_leader()
        followers = cluster.others(leader)
        expected = [f"{number}\tline {number}" for number in range(LINES)]
        values = [line.partition("\t")[2] for line in expected]
        following = self.client([leader, *followers], "-count", str(LINES), "follow", "0")
        producing = self.client([followers[0], leader, followers[1]], "produce")
        # More than one batch, and than one segment.
        for first in range(0, LINES // 2, 20):
            producing.say(values[first : first + 20])
            producing.wait_lines(first // 2)
        producing.wait_lines(LINES // 4)
        live, _ = self.disk(leader)
        self.assertEqual(live, expected[: len(live)])
        producing.say(values[LINES // 2 : LINES // 2 + 50])
        leader.kill()
        producing.say(values[LINES // 2 + 50 :])
        self.assertEqual(producing.finish(), expected)
        self.assertIn("again", producing.errors, "its leader died")
        self.assertEqual(following.finish(), expected)
        fetched = self.client(followers, "fetch", "0")
        self.assertEqual(fetched.finish(), expected)
        self.judge_disks(leader, followers, expected)

    def judge_disks(self, killed, followers, expected):
        """The directories of a killed, a running and a stopped node hold the same, as far as they go."""
        for node in (killed, followers[0]):
            lines, told = self.disk(node)
            self.assertEqual(lines, expected[: len(lines)], told)
        followers[1].stop()
        self.assertIn("log closed", followers[1].output())
        lines, told = self.disk(followers[1])
        self.assertEqual(lines, expected[: len(lines)], told)
        self.assertIn(f"{LINES} records up to offset {LINES}", told)
