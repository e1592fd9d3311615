"""Named logs in a run of production nodes: each with an oracle, a history and clients of its own.

The logs are created through whatever node answers, while faults strike. The catalogue's own log has an
oracle as well; its records are read back at the end and must tell of each name once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred

from loghouse.catalogue.records import LogSettings
from loghouse.errors import OffsetOutOfRangeError
from loghouse.node.api import LogDescription, proposing
from loghouse.node.node import Node
from loghouse.protocol.configuration import decode_producer
from loghouse.protocol.entry import EntryKind
from loghouse.raft.ready import Proposal
from loghouse.replica.api import Fetched
from loghouse.testing.checkers import Oracle, Violation
from loghouse.testing.full.host import FullHost
from loghouse.testing.history import History
from loghouse.testing.simulation import Simulation
from loghouse.testing.workload import AcknowledgedAppend, Answer, Ask, Workload

CREATE_SECONDS: Final = 2.0
"""How long a creator waits before it asks another node for the same log."""
BUSY_SECONDS: Final = 3.0
QUIET_SECONDS: Final = (1.0, 8.0)
"""How long the clients of a log work, in the mean, and then pause."""


class Books:
    """What is known of one log: a `Run` as the watch of a core needs it."""

    def __init__(self, cluster: Simulation[Any], seed_of: Callable[[], int]) -> None:
        """Begin the books of a log that nobody has seen."""
        self.oracle = Oracle()
        self.trace = cluster.trace
        self.guarded = cluster.guarded
        self.seed_of = seed_of  # returns the seed of the log's frames


class NamedLog:
    """A log of the run that has a name: it is created, worked on, and judged."""

    def __init__(self, cluster: Simulation[FullHost], name: str, replicas: int) -> None:
        """Plan a log; nothing happens before `begin`."""
        self.name = name
        self.replicas = replicas
        self.group = 0  # once it is created
        self.history = History()
        self.work = Workload(cluster.clock, _Servers(cluster, self), self.history, cluster.options)
        self._cluster = cluster
        self._rng = cluster.stream(f"log.{name}")
        self._pauses = cluster.stream(f"log.{name}.pauses")
        self._attempt = 0
        self.slept = 0  # how many replicas slept when its clients began again, of all pauses

    def begin(self) -> None:
        """Have the log created, through one node after the other until one says that it is."""
        self._cluster.clock.after(self._rng.expovariate(1 / 3.0), self._create)

    def _create(self) -> None:
        if self.group:
            return
        self._attempt += 1
        host = self._cluster.nodes[self._rng.choice(self._cluster.numbers())]
        settings = LogSettings(replicas=self.replicas)
        host.order(
            "create",
            lambda node: node.log_administration.create(self.name, settings, on=(), by="operator"),
            self._created,
        )
        self._cluster.clock.after(CREATE_SECONDS + 10 * self._rng.random(), self._create)

    def _created(self, answer: object) -> None:
        if isinstance(answer, LogDescription):
            if self.group and answer.group != self.group:
                text = f"log {self.name} is group {self.group} and group {answer.group}"
                raise Violation("born-once", text)
            if not self.group:
                self.group = answer.group
                self.work.start(lambda what: self._cluster.stream(f"{self.name}.{what}"))
                self._pause()

    def _pause(self) -> None:
        """Have its clients ask nothing for a while, now and then: a quiet log sleeps."""
        rng, clock = self._pauses, self._cluster.clock
        busy_seconds, quiet_seconds = rng.expovariate(1 / BUSY_SECONDS), rng.uniform(*QUIET_SECONDS)

        def begin() -> None:
            self.work.quiet_until = clock.seconds() + quiet_seconds

        def end() -> None:
            self.slept += sum(log.is_asleep for log in self._replicas())
            self._pause()

        clock.after(busy_seconds, begin)
        clock.after(busy_seconds + quiet_seconds, end)

    @property
    def books(self) -> Books:
        """The books of its group."""
        cluster: Any = self._cluster
        found: Books = cluster.books_of(self.group)
        return found

    # --- at the end -------------------------------------------------------------------------

    def problem(self) -> str:
        """Return why its replicas are not equal and served yet; empty when they are."""
        if not self.group:
            return f"log {self.name} is not created"
        replicas = self._replicas()
        leading = [log for log in replicas if log.replica is not None and log.replica.leads]
        if not leading:
            return f"log {self.name} has no leader"
        raft = max((log.driver.raft for log in leading), key=lambda one: int(one.term))
        committed = self.books.oracle.committed_index
        if raft.last_index != committed or len(replicas) != self.replicas:
            return f"log {self.name} ends at {raft.last_index}, committed {committed}, on {len(replicas)}"
        late = [log for log in replicas if log.driver is None or log.driver.readable_index != committed]
        return f"log {self.name} is behind on {len(late)} nodes" if late else ""

    def _replicas(self) -> list[Any]:
        nodes = [host.node for host in self._cluster.nodes.values() if host.is_up and host.node is not None]
        logs = [node.logs[self.group] for node in nodes if self.group in node.logs]
        return [log for log in logs if log.replica is not None]

    def judge(self) -> None:
        """Check that every replica holds the same, and what clients were told.

        Raises:
            Violation: Something does not hold.
        """
        oracle = self.books.oracle
        for log in self._replicas():
            replica, raft = log.replica, log.driver.raft
            number = oracle.number(raft.id, replica.options.disk_uuid)
            host = self._cluster.host_named(replica.options.node_name)
            entries = host.machine.all_entries(replica.log)
            oracle.check_replica(number, entries, replica.log.state, raft._log.state)
        problems = self.history.problems(oracle.committed)
        if problems:
            raise Violation("history", f"log {self.name}: {'; '.join(problems[:5])}")


class _Servers:
    """The nodes as the clients of one log reach them."""

    def __init__(self, cluster: Simulation[FullHost], log: NamedLog) -> None:
        self._cluster = cluster
        self._log = log

    def numbers(self) -> list[int]:
        """Return the numbers of all machines."""
        return self._cluster.numbers()

    def request(self, number: int, ask: Ask, answer: Answer) -> None:
        """Ask a node for this log."""
        self._cluster.request(number, lambda host, back: ask(_HostOfLog(host, self._log), back), answer)


class _HostOfLog:
    """A machine, asked for one log."""

    def __init__(self, host: FullHost, log: NamedLog) -> None:
        self._host = host
        self._log = log

    def _order(self, what: str, ask: Callable[[Node], Deferred[Any]], answer: Answer) -> Callable[[], None]:
        # A node may refuse at once: it does not know yet whether there is such a log.
        return self._host.order(f"{what} {self._log.name}", lambda node: maybeDeferred(ask, node), answer)

    def propose(self, proposal: Proposal, answer: Answer) -> Callable[[], None]:
        """Append a batch, or register a producer."""
        name = self._log.name
        if proposal.kind == EntryKind.PRODUCER:
            subject = decode_producer(bytes(proposal.payload))
            return self._order(
                "register",
                lambda node: (
                    node.log(name)
                    .register_producer(subject)
                    .addCallback(lambda id_: AcknowledgedAppend(id_, 0))
                ),
                answer,
            )
        return self._order(
            "propose",
            lambda node: proposing(node.log(name).propose, proposal).addCallback(
                lambda appended: AcknowledgedAppend(appended.index, appended.base_offset)
            ),
            answer,
        )

    def read(self, offset: int, answer: Answer) -> Callable[[], None]:
        """Answer the entry that holds `offset`."""
        log = self._log

        def told(result: object) -> None:
            books = log.books
            if isinstance(result, Fetched):
                result = self._host.check_served(books, books.seed_of(), 0, result, offset)
            answer(result)
            if isinstance(result, OffsetOutOfRangeError) and 0 <= offset < result.lowest:
                books.guarded(books.oracle.not_held, 0, offset)

        return self._order("read", lambda node: node.log(log.name).fetch(offset, 1), told)

    def tail(self, answer: Answer) -> Callable[[], None]:
        """Answer the next offset."""
        name = self._log.name
        return self._order(
            "tail",
            lambda node: node.log(name).bounds().addCallback(lambda bounds: bounds.next_offset),
            answer,
        )
