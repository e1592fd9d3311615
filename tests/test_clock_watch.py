"""What is said of a wall clock that steps, which time counts for retention, and who may read one at all."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.configuration import Retention
from loghouse.raft.ready import Role
from loghouse.replica.clock_watch import QUIET_SECONDS, ClockWatch
from loghouse.replica.retention import MICROSECONDS, AgeClock
from loghouse.replica.trimming import RETENTION_SECONDS, Trimmer
from tests.processes import thorough
from tests.sources import tree_of

HOUR = 3600.0
DAY = 24 * HOUR
WALL = 1_700_000_000.0
PACKAGE = Path(__file__).resolve().parent.parent / "loghouse"

# Who reads the wall clock, and why; in what runs in a node, how often, too. Whatever waits or measures uses a
# monotonic clock.
WALL_CLOCK_USES = {
    "runtime/reactor.py": (1, "where the reactor's seconds begin"),
    "service/node_service.py": (
        7,
        "append times, age and its pauses, dates of certificates, of audited acts",
    ),
    "service/checkup.py": (2, "dates of certificates, and other nodes' clocks"),
    "service/proving.py": (1, "dates of certificates"),
    "auth/credentials.py": (1, "dates of certificates"),
    "cli/certs.py": (None, "dates of certificates"),
    "cli/demo_nodes.py": (None, "dates of certificates"),
    "cli/places.py": (None, "times of today, and so long ago"),
    "cli/backup.py": (None, "when a part was made"),
    "cli/restore.py": (None, "append time of the first entry of the new cluster"),
    "cli/disk.py": (None, "append time of a new cluster's first entry"),
    "testing/process.py": (None, "dates of certificates"),
    "testing/hooks/sitecustomize.py": (None, "it shifts this clock"),
    "embedded/lone_node.py": (1, "append times and age"),
}
WALL_CLOCKS = {
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "localtime"),
    ("time", "gmtime"),
    ("time", "ctime"),
    ("time", "strftime"),
    ("time", "clock_gettime"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
}


class ClockWatchTests(SynchronousTestCase):
    """`ClockWatch` says what an operator has to know, once."""

    def test_steps(self):
        """A step is told with its size and what the clock says; slow drift and a still clock are not."""
        watch = ClockWatch()
        self.assertEqual(watch.step(4.9, WALL, 10.0), "")
        told = watch.step(-HOUR, WALL, 11.0)
        self.assertIn("stepped back by 1:00:00 and says 2023-11-14T22:13:20+00:00", told)
        self.assertEqual(watch.step(-HOUR, WALL + 1, 12.0), "")
        self.assertIn("ahead by 20 days, 1:00:00", watch.step(20 * DAY, WALL, 11.0 + QUIET_SECONDS))

    def test_flapping(self):
        """A clock that jumps to and fro is told once a minute."""
        watch = ClockWatch()
        told = [watch.step(HOUR * (second % 2), WALL, float(second)) for second in range(600)]
        self.assertLessEqual(len(list(filter(None, told))), 10)

    def test_waiting(self):
        """Append times ahead of the clock are told once, and again only after it had caught up."""
        watch = ClockWatch()
        newest = int((WALL + HOUR) * MICROSECONDS)
        self.assertEqual(watch.waiting(WALL, int((WALL + 0.9) * MICROSECONDS)), "")
        told = watch.waiting(WALL, newest)
        self.assertIn("1:00:00 ahead", told)
        self.assertIn("new records get 2023-11-14T23:13:20+00:00 until the clock is there", told)
        self.assertEqual(watch.waiting(WALL + HOUR - 0.5, newest), "")
        self.assertEqual(watch.waiting(WALL + HOUR, newest), "")
        self.assertNotEqual(watch.waiting(WALL, newest), "")

    def test_no_date(self):
        """A clock that no calendar holds is told in seconds."""
        told = ClockWatch().step(1e15, 1e15, 0.0)
        self.assertIn("stepped ahead by 1000000000000000 s and says 1000000000000000 seconds since", told)


class MajorityTests(SynchronousTestCase):
    """A leader trims by age only what is old by the clocks of a majority."""

    def trimmed(self, majority_time: float) -> list[int]:
        """The offsets a leader proposes to trim to, whose own clock says that one of two segments is old."""
        proposed = []
        spans = [
            SimpleNamespace(size=1, next_offset=10 * (n + 1), newest_timestamp=int(time * MICROSECONDS))
            for n, time in enumerate((WALL, WALL + 5 * DAY))
        ]
        replica = SimpleNamespace(
            raft=SimpleNamespace(
                role=Role.LEADER,
                configuration=SimpleNamespace(retention=Retention(age_max_seconds=int(DAY))),
                majority_time=lambda: int(majority_time * MICROSECONDS),
                newest_timestamp=spans[1].newest_timestamp,
            ),
            lowest_offset=0,
            wake=lambda: None,
            propose=lambda proposal, done, failed: proposed.append(proposal),
        )
        # No `state`: the disk thread folds on it meanwhile, and a copy of it costs milliseconds.
        log = SimpleNamespace(sealed_segments=lambda: spans, active_size=1)
        wall = WALL + 5 * DAY
        trimmer = Trimmer(replica, log, AgeClock(spans[1].newest_timestamp, wall, 0.0), 0.0)
        trimmer.look(wall + RETENTION_SECONDS, RETENTION_SECONDS)
        return proposed

    def test_others_agree(self):
        """What a majority's clocks call old goes."""
        self.assertEqual(len(self.trimmed(WALL + 5 * DAY)), 1)

    def test_own_clock_ahead(self):
        """A leader that was started with a clock days ahead, having appended by it, trims nothing."""
        self.assertEqual(self.trimmed(WALL + 60), [])
        self.assertEqual(self.trimmed(0), [])


class WallClockTests(SynchronousTestCase):
    """The wall clock is read where a date is meant, and nowhere else."""

    @thorough
    def test_uses(self):
        """Every use of a wall clock in the package is listed with its reason."""
        uses = Counter()
        for path in sorted(PACKAGE.rglob("*.py")):
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    if (node.value.id, node.attr) in WALL_CLOCKS:
                        uses[path.relative_to(PACKAGE).as_posix()] += 1
                elif isinstance(node, ast.ImportFrom) and node.module == "time":
                    uses[path.relative_to(PACKAGE).as_posix()] += len(node.names)
        wanted = {path: count or uses[path] for path, (count, _) in WALL_CLOCK_USES.items()}
        self.assertEqual(uses, wanted)

    def test_reactor(self):
        """The reactor counts on when the clock steps, also for calls that wait since before we came."""
        code = """
import time
real, shift = time.time, [0]
time.time = lambda: real() + shift[0]  # before Twisted takes it
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
done = []
reactor.callLater(0.05, done.append, "before")
from loghouse.runtime import reactor as _reactor
_reactor.install()
seconds = reactor.seconds
def step():
    shift[0] = -3600
    reactor.callLater(0.05, done.append, "after")
    _reactor.install()
    reactor.callLater(0.2, reactor.stop)
reactor.callLater(0.01, step)
asyncio_limit = reactor._asyncioEventloop.call_later(20, reactor._asyncioEventloop.stop)
reactor.run()
assert abs(reactor.seconds() - real()) < 5, "the reactor follows the wall clock"
assert reactor.seconds is seconds, "a second install begins anew"
print(done)
"""
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        self.assertEqual((run.stdout, run.stderr), ("['before', 'after']\n", ""))
