"""The adversary: a schedule of faults drawn before the run, and how each is done.

A fault carries a seed of its own for what it chooses when it strikes, so dropping
one fault from the schedule leaves the others as they were: that is what makes
shrinking work. What a fault begins it also ends.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loghouse.testing.host import Host
from loghouse.testing.simulation import Simulation
from loghouse.testing.streams import substream
from loghouse.testing.swarm import SwarmOptions


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of the schedule: strikes `at` seconds, chooses by `seed`."""

    at: float
    kind: str
    seed: int


def plan_faults(options: SwarmOptions) -> tuple[Fault, ...]:
    """Return the schedule of a seed, in order of time; each class of fault is drawn by itself."""
    faults = []
    for kind, mean in options.faults:
        rng = substream(options.seed, f"nemesis.{kind}")
        at = rng.expovariate(1 / mean)
        while at < options.safety_seconds:
            faults.append(Fault(at, kind, rng.getrandbits(48)))
            at += rng.expovariate(1 / mean)
    return tuple(sorted(faults, key=lambda fault: (fault.at, fault.kind)))


class Nemesis:
    """Does the faults of a schedule to a cluster, and counts them by kind."""

    def __init__(self, cluster: Simulation[Any], faults: tuple[Fault, ...]) -> None:
        self._cluster = cluster
        self._unit = cluster.options.election_seconds
        self._active = True
        self.injected: Counter[str] = Counter()
        self._acts: dict[str, Callable[[random.Random], str]] = {
            "crash": self._on_victim(self._crash),
            "crash_point": self._on_victim(self._crash_point),
            "power_loss": self._power_loss,
            "pause": self._on_victim(self._pause),
            "partition": self._partition,
            "one_way_cut": self._one_way_cut,
            "clog": self._clog,
            "slow_link": self._slow_link,
            "disk_slow": self._on_victim(self._disk_slow),
            "disk_stall": self._on_victim(self._disk_stall),
            "disk_error": self._on_victim(self._disk_error),
            "disk_full": self._on_victim(self._disk_full),
            "bit_rot": lambda rng: str(cluster.atlas.rot(rng)),
            "clock_step": self._on_victim(self._clock_step),
            "transfer": self._transfer,
            "membership": cluster.reconciler.change,
            "wipe": lambda rng: str(cluster.atlas.wipe(rng)),
            "rolling_restart": self._rolling_restart,
        }
        for fault in faults:
            cluster.clock.at(fault.at, self._strike, fault)

    def stop(self) -> None:
        """Begin no more faults."""
        self._active = False

    def _strike(self, fault: Fault) -> None:
        if not self._active:
            return
        rng = random.Random(fault.seed)
        done = self._acts[fault.kind](rng)
        if done:
            self.injected[done] += 1
            self._cluster.trace.note(f"fault {done}")

    # --- choosing -----------------------------------------------------------------

    def _later(self, rng: random.Random, low: float, high: float) -> float:
        """Return a duration between `low` and `high` election timeouts."""
        return self._unit * rng.uniform(low, high)

    def _victim(self, rng: random.Random) -> Host | None:
        """Return a running node, the leader more often than its share."""
        leader: Host | None = self._cluster.leader()
        if leader is not None and rng.random() < 0.4:
            return leader
        running: list[Host] = [node for node in self._cluster.nodes.values() if node.is_up]
        return rng.choice(running) if running else None

    def _on_victim(self, act: Callable[[random.Random, Host], str]) -> Callable[[random.Random], str]:
        """Return what does something to one running node, if there is one."""

        def strike(rng: random.Random) -> str:
            victim = self._victim(rng)
            return act(rng, victim) if victim is not None else ""

        return strike

    # --- nodes ----------------------------------------------------------------------

    def _crash(self, rng: random.Random, victim: Host) -> str:
        victim.crash(rng)
        victim.restart_after(self._later(rng, 0.1, 6))
        return "crash"

    def _crash_point(self, rng: random.Random, victim: Host) -> str:
        point = rng.choice(self._cluster.options.crash_points)
        victim.arm(point, rng.randrange(1, 6), rng, self._later(rng, 0.1, 3))
        return f"crash at {point}"

    def _power_loss(self, rng: random.Random) -> str:
        off = self._later(rng, 0.1, 2)
        for node in self._cluster.nodes.values():
            if node.is_up:
                node.crash(rng)
                node.restart_after(off + self._later(rng, 0, 2))
        return "power loss"

    def _rolling_restart(self, rng: random.Random) -> str:
        step = self._later(rng, 0.5, 3)
        for place, node in enumerate(self._cluster.nodes.values()):

            def turn(node: Host = node) -> None:
                if node.is_up and self._active:
                    node.crash(rng)
                    node.restart_after(step * 0.5)

            self._cluster.clock.after(step * place, turn)
        return "rolling restart"

    def _pause(self, rng: random.Random, victim: Host) -> str:
        victim.pause(self._later(rng, 0.5, 6))
        return "pause"

    def _clock_step(self, rng: random.Random, victim: Host) -> str:
        victim.wall_offset_seconds += rng.choice((-3600.0, 3600.0, -1.0, 86400.0))
        return "clock step"

    # --- the network -------------------------------------------------------------------

    def _partition(self, rng: random.Random) -> str:
        numbers = list(self._cluster.nodes)
        if len(numbers) < 2:
            return ""
        rng.shuffle(numbers)
        shape = rng.choice(("isolate", "halves", "bridge", "ring"))
        leader = self._cluster.leader()
        if shape == "isolate":
            alone = leader.number if leader is not None and rng.random() < 0.6 else numbers[0]
            kept = [n for n in numbers if n != alone]
            groups = [{alone}, set(kept)]
        elif shape == "halves":
            groups = [set(numbers[: len(numbers) // 2]), set(numbers[len(numbers) // 2 :])]
        elif shape == "bridge":  # one node sees everybody, the two halves see only it
            half = (len(numbers) + 1) // 2
            groups = [set(numbers[:half]), set(numbers[half:]) | {numbers[0]}]
        else:  # each sees its two neighbours
            groups = [{a, b} for a, b in pairwise([*numbers, numbers[0]])]
        cuts = [
            (a, b)
            for a in numbers
            for b in numbers
            if a != b and not any(a in group and b in group for group in groups)
        ]
        self._cut(cuts, self._later(rng, 0.5, 8))
        return f"partition {shape}"

    def _one_way_cut(self, rng: random.Random) -> str:
        numbers = list(self._cluster.nodes)
        if len(numbers) < 2:
            return ""
        victim = rng.choice(numbers)
        others = [n for n in numbers if n != victim]
        if rng.random() < 0.5:
            others = [rng.choice(others)]
        deaf = rng.random() < 0.5
        flaps = rng.choice((1, 1, 4))
        span = self._later(rng, 0.5, 6)
        cuts = [(n, victim) if deaf else (victim, n) for n in others]
        for flap in range(flaps):
            self._cluster.clock.after(flap * span / flaps, self._cut, cuts, span / flaps * 0.7)
        return "one-way cut"

    def _cut(self, cuts: list[tuple[int, int]], seconds: float) -> None:
        if not self._active:
            return
        network = self._cluster.network
        for source, target in cuts:
            network.cut(source, target)

        def mend() -> None:
            for source, target in cuts:
                network.mend(source, target)

        self._cluster.clock.after(seconds, mend)

    def _clog(self, rng: random.Random) -> str:
        numbers = list(self._cluster.nodes)
        if len(numbers) < 2:
            return ""
        source, target = rng.sample(numbers, 2)
        self._cluster.network.clog(source, target, self._later(rng, 0.5, 10))
        if rng.random() < 0.5:
            self._cluster.network.clog(target, source, self._later(rng, 0.5, 10))
        return "clog"

    def _slow_link(self, rng: random.Random) -> str:
        number = rng.choice(list(self._cluster.nodes))
        self._cluster.network.slow_down(number, self._later(rng, 0.2, 1.5))
        self._cluster.clock.after(self._later(rng, 1, 8), self._cluster.network.slow_down, number, 0.0)
        return "slow link"

    # --- disks ------------------------------------------------------------------------

    def _disk_slow(self, rng: random.Random, victim: Host) -> str:
        victim.machine.slow(rng.choice((5.0, 20.0, 100.0)), self._later(rng, 1, 10))
        return "disk slow"

    def _disk_stall(self, rng: random.Random, victim: Host) -> str:
        victim.machine.stall(self._later(rng, 0.5, 8))
        return "disk stall"

    def _disk_error(self, rng: random.Random, victim: Host) -> str:
        victim.fail_disk(rng.randrange(1, 8), rng, self._later(rng, 0.1, 4))
        return "disk error"

    def _disk_full(self, rng: random.Random, victim: Host) -> str:
        victim.fill_disk(self._later(rng, 1, 8))
        return "disk full"

    # --- the group ----------------------------------------------------------------------

    def _transfer(self, rng: random.Random) -> str:
        leader: Host | None = self._cluster.leader()
        return leader.transfer(rng) if leader is not None else ""
