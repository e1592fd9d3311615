"""Whole nodes with their clusters in one process: simulated disks and clock, links in memory."""

import random
from collections import Counter
from typing import Any

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.cluster import peers as peers_module
from loghouse.cluster.cluster import Cluster, ClusterOptions
from loghouse.gossip.config import LAN, SwimConfig
from loghouse.limits import KIB
from loghouse.net.accept import own_hello
from loghouse.node.api import proposing
from loghouse.node.node import Node
from loghouse.node.options import NodeOptions
from loghouse.node.served_log import ServedLog
from loghouse.protocol.configuration import MemberRole
from loghouse.replica.api import Proposal
from loghouse.replica.driver import RaftDriver
from loghouse.replica.replica import Replica
from loghouse.runtime.scheduling import Clocks
from loghouse.runtime.threads import WorkQueue, do
from loghouse.storage.log import Log
from loghouse.testing.clock import SimClock
from loghouse.testing.disk import SimDisk
from tests.driver.links import TownLink
from tests.recording import RecordingMetrics

DISK_SECONDS = 0.0005
STEP_SECONDS = 0.05


class TimedQueue(WorkQueue):
    """A work queue on the town's clock."""

    def __init__(self, clock) -> None:
        self._clock = clock
        self._waiting: list = []
        self.is_held = False
        self.is_dead = False

    def submit(self, work, done, failed):
        self._waiting.append((work, done, failed))
        self._clock.callLater(DISK_SECONDS, self._step)

    def _step(self) -> None:
        if self._waiting and not self.is_held and not self.is_dead:
            tell, outcome = do(self._waiting.pop(0))
            tell(outcome)

    def release(self) -> None:
        self.is_held = False
        while self._waiting:
            self._step()

    def stop(self) -> None:
        self.release()


class Resident:
    """A machine with a disk, on which a node runs or not."""

    def __init__(self, town, name: str, *, bootstrap: bool) -> None:
        self.town = town
        self.name = name
        self.address = f"{name}:1"
        self.bootstrap = bootstrap
        self.is_running = False
        self.failures: list[Failure] = []
        self.starts = 0
        self.disk = SimDisk()

    def start(self) -> "Resident":
        town = self.town
        self.starts += 1
        rng = random.Random(f"{town.seed} {self.name} {self.starts}")
        self.queues = {}
        self.metrics = RecordingMetrics()
        options = NodeOptions(
            name=self.name,
            cluster_name="test",
            data_dir="/data",
            address=self.address,
            segment_size=town.segment_size,
            reserve_size=town.reserve_size,
            is_alone=False,
            scrub_rate=town.scrub_rate,
            metrics=self.metrics,
            tracer=town.tracer,
        )
        self.node = Node(
            options,
            files=self.disk,
            clocks=Clocks(
                town.clock,
                lambda work: town.clock.callLater(0, work),
                town.clock.callLater,
                lambda: 1_000_000.0 + town.clock.seconds(),
                town.clock.seconds,
            ),
            rng=rng,
            make_queue=self._make_queue,
            on_fatal=self.failures.append,
        )
        self.cluster = Cluster(
            self.node,
            ClusterOptions(
                address=self.address,
                join=tuple(town.join),
                bootstrap=self.bootstrap,
                swim=town.swim,
                metrics=self.metrics,
            ),
            clock=town.clock,
            rng=rng,
        )
        self.node.startService()
        self.hello = own_hello(self.node, "test")
        self.node.attach(self.cluster)
        self.is_running = True
        self.cluster.start(self)
        return self

    def _make_queue(self, name, thread_count):
        self.queues[name] = TimedQueue(self.town.clock)
        return self.queues[name]

    @property
    def disk_queue(self) -> TimedQueue:
        return self.queues["loghouse-disk"]

    def stop(self) -> None:
        """Stop in order."""
        self.cluster.stop("stopping")
        stopping = self.node.stopService()
        self.is_running = False
        self.town.advance(self.node.options.drain_seconds + 1)
        assert stopping.called
        self._hang_up()

    def crash(self) -> None:
        """End as with kill -9: nothing is told to anybody, what was not synced may be lost."""
        self.is_running = False
        for queue in self.queues.values():
            queue.is_dead = True
        for loop in (self.node._ticking, self.node._housekeeping, *self.cluster._loops):
            if loop.running:
                loop.stop()
        self.cluster._is_stopped = True
        if self.driver is not None:
            self.driver._is_stopped = True
        self._hang_up()
        self.disk.crash(random.Random(self.starts))

    def _hang_up(self) -> None:
        for wire in list(self.town.wires):
            if self in wire.ends:
                wire.close()

    def wipe(self) -> None:
        """Replace the disk by an empty one; the node must not run."""
        assert not self.is_running
        self.disk = SimDisk()

    @property
    def life(self) -> tuple[int, bool]:
        """Which start this is, and whether it still runs."""
        return self.starts, self.is_running

    @property
    def leads(self) -> bool:
        return self.is_running and self.replica is not None and self.replica.leads

    @property
    def log(self) -> ServedLog:
        """The log as the node serves it."""
        return self.node.log("")

    @property
    def replica(self) -> Replica | None:
        """The log's copy here; None before the node belongs to a cluster."""
        return self.log.replica

    @property
    def driver(self) -> RaftDriver | None:
        """What runs the core; None while the node is no member."""
        return self.log.driver

    @property
    def store(self) -> Log:
        """The log on the disk."""
        return self.replica.log

    def propose(self, size: int = 10, **fields):
        return proposing(self.log.propose, Proposal(payload=bytes(size), record_count=1, **fields))


class Town:
    """Residents by name, and the links between them."""

    def __init__(
        self,
        names: str,
        *,
        bootstrap: str = "a",
        seed: int = 1,
        swim: SwimConfig = LAN,
        scrub_rate: int = 0,
        segment_size: int = 64 * KIB,
        reserve_size: int = 0,
        tracer: Any = None,
    ) -> None:
        self.clock = SimClock()
        self.tracer = tracer
        self.scrub_rate = scrub_rate
        self.segment_size = segment_size
        self.reserve_size = reserve_size
        self.swim = swim
        self.seed = seed
        self.join = [f"{name}:1" for name in names]
        self.dials: Counter = Counter()
        self.problems: list[str] = []
        self.wires: list = []
        self.cuts: set[tuple[str, str]] = set()  # (source, target) names
        self.residents = {name: Resident(self, name, bootstrap=name in bootstrap) for name in names}

    def __getitem__(self, name: str) -> Resident:
        return self.residents[name]

    def add(self, name: str, *, bootstrap: bool = False) -> Resident:
        self.residents[name] = Resident(self, name, bootstrap=bootstrap)
        return self.residents[name]

    def at(self, address: str) -> Resident | None:
        found = [one for one in self.residents.values() if one.address == address and one.is_running]
        return found[0] if found else None

    def is_cut(self, source: Resident, target: Resident) -> bool:
        return (source.name, target.name) in self.cuts

    def cut(self, name: str) -> None:
        """Let nothing to or from a node arrive; nobody is told."""
        for other in self.residents:
            self.cuts |= {(name, other), (other, name)}

    def heal(self) -> None:
        self.cuts.clear()

    def recover(self) -> None:
        """Let all run and hear each other again."""
        self.heal()
        for one in self.residents.values():
            if not one.is_running:
                one.start()
            one.disk_queue.release()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def until(self, condition, seconds_max: float = 30.0):
        """Let time pass until a condition holds; return what it returned."""
        end = self.clock.seconds() + seconds_max
        while not (found := condition()):
            if self.clock.seconds() >= end:
                raise AssertionError(f"not within {seconds_max} s: {self}")
            self.clock.advance(STEP_SECONDS)
        return found

    @property
    def running(self) -> list[Resident]:
        return [resident for resident in self.residents.values() if resident.is_running]

    @property
    def leader(self) -> Resident | None:
        """Who leads in the highest term."""
        leading = [resident for resident in self.running if resident.leads]
        return max(leading, key=lambda resident: resident.driver.raft.term, default=None)

    def shape(self, name: str) -> str:
        """Members as a node has them, as `aV bL`; sorted by name."""
        members = self[name].log.configuration.members
        words = [f"{member.name}{'V' if member.role is MemberRole.VOTER else 'L'}" for member in members]
        return " ".join(sorted(words))

    def __str__(self) -> str:
        return "; ".join(
            f"{one.name}: {self.shape(one.name) or 'no cluster'}"
            f" id {one.log.member_id} leader {one.log.leader_name!r}"
            for one in self.running
        )


class TownTestCase(SynchronousTestCase):
    """Has towns, and stops whoever still runs at the end."""

    def setUp(self):
        self.patch(peers_module, "PeerLink", TownLink)

    def town(self, names: str, **options) -> Town:
        made = Town(names, **options)
        self.addCleanup(self.close, made)
        return made

    def close(self, town: Town) -> None:
        for resident in town.running:
            resident.stop()
        for resident in town.residents.values():
            self.assertEqual(resident.failures, [], resident.name)

    def built(self, names: str = "abc", **options) -> Town:
        """Return a town in which all vote."""
        town = self.town(names, **options)
        for name in names:
            town[name].start()
        shape = " ".join(f"{name}V" for name in names)
        town.until(lambda: town.leader and all(town.shape(name) == shape for name in names))
        return town

    def led(self, names: str = "abc", **options) -> tuple:
        """Return such a town, its leader, and the others."""
        town = self.built(names, **options)
        return town, town.leader, *(one for one in town.running if not one.leads)

    def result(self, town: Town, done, seconds_max: float = 30.0):
        """Wait for a Deferred's result."""
        town.until(lambda: done.called and not done.paused, seconds_max)
        return self.successResultOf(done)

    def failure(self, town: Town, done, *types, seconds_max: float = 30.0):
        """Wait for a Deferred's failure."""
        town.until(lambda: done.called and not done.paused, seconds_max)
        return self.failureResultOf(done, *types)
