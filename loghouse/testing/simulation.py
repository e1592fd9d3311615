"""One seed's run, whatever its machines are: two phases, clients, an adversary, and the judgement.

*Safety*: faults strike while clients work. *Liveness*: all faults end, every machine is started, and within
a bound a leader must be there, a write must be acknowledged, and every member must hold the same log. Then
the history is judged. `cluster.SimCluster` runs drivers on their logs, `full.cluster.FullCluster` all nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from twisted.logger import ILogObserver, formatEvent, globalLogPublisher

from loghouse.errors import DamageError
from loghouse.testing.checkers import Violation
from loghouse.testing.cursor_work import CursorWork
from loghouse.testing.history import History
from loghouse.testing.host import Host
from loghouse.testing.run import Run, violation_of
from loghouse.testing.swarm import SwarmOptions
from loghouse.testing.workload import Answer, Workload


@dataclass(slots=True)
class RunResult:
    """What came of a seed. `violation` is None for a clean run."""

    seed: int
    violation: Violation | None = None
    simulated_seconds: float = 0.0
    digest: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)


M = TypeVar("M", bound=Host)


class Simulation(Run, Generic[M]):
    """Machines by their numbers from 1, and all that happens to them.

    The subclass makes the parts named here, in its constructor.
    """

    nodes: dict[int, M]
    reconciler: Any
    work: Workload
    cursor_work: CursorWork

    def __init__(self, options: SwarmOptions, write_trace: Callable[[str], object] | None = None) -> None:
        """Prepare; nothing runs yet. `write_trace` gets every step as a line."""
        super().__init__(options, write_trace)
        self.history = History()
        self._client_rng = self.stream("clients")

    # --- what a kind of machine does in its own way ----------------------------------------

    def boot(self) -> None:
        """Start machines, clients and whoever changes the members."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return one line about every node."""
        return "; ".join(node.describe() for node in self.nodes.values())

    # --- the run ----------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Run both phases; what is found is in the result."""
        result = RunResult(self.options.seed)
        observer = cast(ILogObserver, self._observe)
        globalLogPublisher.addObserver(observer)
        try:
            self.boot()
            self.clock.run_until(self.options.safety_seconds)
            self._run_liveness()
            self._judge()
        except Exception as error:
            # A broken invariant inside a node is as bad as one that the oracle finds.
            result.violation = violation_of("", error)
        finally:
            globalLogPublisher.removeObserver(observer)
        result.simulated_seconds = self.clock.seconds()
        result.faults = self.nemesis.injected
        result.counters = self._counters()
        result.digest = self.trace.digest()
        return result

    def _observe(self, event: dict[str, Any]) -> None:
        """Take what the nodes write into their diagnostics; a failure nobody handled is found here."""
        if not self.current:
            return
        if self.trace.loud:
            self.trace.line(f"{self.current}: {formatEvent(event)}")
        failure = event.get("log_failure")
        if failure is not None and self.host_named(self.current).is_up:
            self.crashed(self.current, failure.value)

    def _run_liveness(self) -> None:
        """End all faults; a leader, a write through it, and one log everywhere must come within the bound."""
        self.trace.note("faults end")
        self.nemesis.stop()
        options = self.options
        # Messages and syncs must be quick beside an election timeout, or no protocol makes progress.
        self.network.heal(options.election_seconds * 0.02)
        self.atlas.heal()
        for node in self.nodes.values():
            node.resume()
            node.machine.heal()
            if not node.is_up and node.incarnation:
                node.restart_after(0.0)
        deadline = self.clock.seconds() + options.liveness_seconds
        step = options.election_seconds
        # Under full load a new member may never be within a window of one entry of the leader.
        works = self._works()
        for work in (*works, self.cursor_work):
            work.think_seconds_min = 2 * options.election_seconds
        self.cursor_work.rest()
        # Clients go on for a while, so that writes are seen to work, then stop, so that logs can be equal.
        acknowledged = [work.acknowledged for work in works]
        while True:
            is_idle = any(work.acknowledged == count for work, count in zip(works, acknowledged, strict=True))
            has_taken_over = self.cursor_work.look(self.oracle)
            if not is_idle and has_taken_over and self.reconciler.is_settled():
                break
            problem = "no write was acknowledged" if is_idle else "the members are not as wanted"
            if not has_taken_over:
                problem = "nobody takes over a cursor"
            self._check_deadline(deadline, f"{problem}: {self.reconciler.describe()}")
            self.clock.advance(step)
        for work in works:
            work.stopped = True
        self.reconciler.stop()
        while not self._is_converged():
            self._check_deadline(deadline, f"members did not converge: {self.describe()}")
            self.clock.advance(step)

    def _works(self) -> list[Workload]:
        """Return the clients of every log."""
        return [self.work]

    def _is_converged(self) -> bool:
        """Whether every member holds the same log, and serves it."""
        if not self.cursor_work.is_drained(self.oracle.state.next_offset):
            return False
        leader = self.leader()
        raft = leader.raft if leader is not None else None
        if raft is None or raft.last_index != self.oracle.committed_index:
            return False
        hosts = [(self.host_named(member.name), member.id) for member in raft.configuration.members]
        return all(host.member == id_ and host.readable_index == raft.last_index for host, id_ in hosts)

    def _check_deadline(self, deadline: float, problem: str) -> None:
        if self.clock.seconds() > deadline:
            raise Violation("liveness", f"{problem}, {self.options.liveness_seconds} s after the last fault")

    def _judge(self) -> None:
        leader = self.leader()
        assert leader is not None
        assert leader.raft is not None
        for member in leader.raft.configuration.members:
            node = self.host_named(member.name)
            assert node.log is not None
            assert node.raft is not None
            try:
                entries = node.machine.all_entries(node.log)
            except DamageError as error:
                if not self.atlas.is_lost(node):
                    raise Violation("recovery", f"{node.name}: nothing damaged its disk: {error}") from error
            else:
                number = self.oracle.number(member.id, member.disk_uuid)
                self.oracle.check_replica(number, entries, node.log.state, node.raft._log.state)
                for state in (node.log.state, node.raft._log.state):
                    self.oracle.recovered(number, state)
        problems = self.history.problems(self.oracle.committed)
        if problems:
            raise Violation("history", "; ".join(problems[:5]))
        self.cursor_work.check(self.oracle)
        self.check()

    def _counters(self) -> Counter[str]:
        work = self.work
        return Counter(
            {
                "messages": self.network.delivered,
                "events": self.clock.calls_made,
                "acknowledged": work.acknowledged,
                "refused": work.refused,
                "timed_out": work.timed_out,
                "reads": work.reads,
                "entries": self.oracle.committed_index,
                "leaders": self.oracle.leader_count,
                "checks": self.oracle.checks,
                **self.cursor_work.counts,
                "restarts": sum(max(0, node.incarnation - 1) for node in self.nodes.values()),
            }
        )

    # --- who is who ---------------------------------------------------------------------------

    def host_named(self, name: str) -> M:
        """Return the machine of that name."""
        return next(host for host in self.nodes.values() if host.name == name)

    def leader(self) -> M | None:
        """Return the running node that leads the highest term, None when there is none."""
        leading = [node for node in self.nodes.values() if node.leads]
        return max(leading, key=lambda node: node.raft.term if node.raft is not None else 0, default=None)

    # --- what clients reach (workload.Servers) --------------------------------------------------

    def numbers(self) -> list[int]:
        """Return the numbers of all machines."""
        return list(self.nodes)

    def request(self, number: int, ask: Callable[[M, Answer], Any], answer: Answer) -> None:
        """Carry a request to a node and its answer back; either may be lost."""
        rng, clock, options = self._client_rng, self.clock, self.network.options

        def travel() -> float:
            return float(options.delay_seconds_min + rng.random() * options.delay_seconds_mean)

        def back(result: object) -> None:
            if rng.random() >= options.loss * 0.5:
                clock.after(travel(), answer, result)

        if rng.random() >= options.loss * 0.5:
            clock.after(travel(), self._arrive, number, ask, back)

    def _arrive(self, number: int, ask: Callable[[M, Answer], Any], back: Answer) -> None:
        """A request is at its node."""
        ask(self.nodes[number], back)
