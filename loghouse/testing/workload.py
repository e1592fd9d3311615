"""The clients of a run: producers that retry, writers that do not, readers.

A client sees what a real one sees: answers, refusals and silence. What it asks and
hears goes into the `History`, which is judged at the end. Random choices come from
one substream per client.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from loghouse.errors import LoghouseError, NotLeaderError, OffsetOutOfRangeError, UnavailableError
from loghouse.protocol.configuration import encode_producer
from loghouse.protocol.entry import Entry, EntryKind
from loghouse.raft.ready import Proposal
from loghouse.testing.clock import SimClock
from loghouse.testing.history import History, Written
from loghouse.testing.swarm import SwarmOptions

Answer = Callable[[object], None]
Ask = Callable[[Any, Answer], Any]


class Servers(Protocol):
    """The nodes as clients reach them. Answers are values or `LoghouseError`s, or never come."""

    def numbers(self) -> list[int]:
        """Return the numbers of the machines a client knows."""

    def request(self, number: int, ask: Ask, answer: Answer) -> None:
        """Ask a node, one with `propose`, `read` and `tail`, as `ask` does."""


@dataclass(frozen=True, slots=True)
class AcknowledgedAppend:
    """An acknowledged append: the entry's index and the offset of its first record."""

    index: int
    base_offset: int


class Workload:
    """Starts the clients of a seed and stops them."""

    def __init__(self, clock: SimClock, servers: Servers, history: History, options: SwarmOptions) -> None:
        self.clock = clock
        self.servers = servers
        self.history = history
        self.options = options
        self.stopped = False
        self.think_seconds_min = 0.0
        self.quiet_until = 0.0
        self.acknowledged = 0
        self.refused = 0
        self.timed_out = 0
        self.reads = 0

    def start(self, make_rng: Callable[[str], random.Random]) -> None:
        """Let every client begin."""
        options = self.options
        for number in range(options.producers):
            SimProducer(self, f"producer{number}", make_rng(f"producer.{number}")).begin()
        for number in range(options.writers):
            Writer(self, f"writer{number}", make_rng(f"writer.{number}")).begin()
        for number in range(options.readers):
            SimReader(self, f"reader{number}", make_rng(f"reader.{number}")).begin()


class SimClient:
    """One client: thinks, asks some node, waits for the answer or gives up."""

    def __init__(self, work: Workload, name: str, rng: random.Random) -> None:
        self.work = work
        self.name = name
        self.rng = rng
        self.leader = 0

    def think(self, then: Callable[[], None]) -> None:
        """Do something after a while, unless the run's clients are stopped by then."""

        def act() -> None:
            if self.work.clock.seconds() < self.work.quiet_until:
                self.work.clock.at(self.work.quiet_until, act)
            elif not self.work.stopped:
                then()

        mean = max(self.work.options.think_seconds_mean, self.work.think_seconds_min)
        self.work.clock.after(self.rng.expovariate(1 / mean), act)

    def some_node(self) -> int:
        """Return a node to ask."""
        return self.rng.choice(self.work.servers.numbers())

    def leader_or_some_node(self) -> int:
        """Return the node that last was said to lead, mostly."""
        if self.leader and self.rng.random() < 0.9:
            return self.leader
        return self.some_node()

    def ask(
        self, request: Ask, number: int, done: Callable[[object], None], seconds_max: float = inf
    ) -> None:
        """Make a request; `done` is called once, with the answer or with None when none came in time."""
        waiting = True

        def answered(result: object) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                done(result)

        def gave_up() -> None:
            if waiting:
                self.work.timed_out += 1
                answered(None)

        self.work.servers.request(number, request, answered)
        self.work.clock.after(min(self.work.options.request_timeout_seconds, seconds_max), gave_up)

    def heard(self, number: int, result: object) -> None:
        """Learn from an answer who leads."""
        if isinstance(result, NotLeaderError):
            self.leader = int(result.leader[1:]) if result.leader else 0  # nodes are named n1, n2, ...
        elif result is None or isinstance(result, UnavailableError):
            if self.leader == number:
                self.leader = 0
        else:
            self.leader = number  # also when it refused: only a leader judges sequences and offsets


class SimProducer(SimClient):
    """Writes batches with a producer id and sequence numbers, and repeats each until it is acknowledged."""

    def __init__(self, work: Workload, name: str, rng: random.Random) -> None:
        super().__init__(work, name, rng)
        self.producer_id = 0
        self.sequence = 0
        self.unacknowledged: set[int] = set()

    def begin(self) -> None:
        """Register, then write."""
        self.think(self._register)

    def _register(self) -> None:
        number = self.leader_or_some_node()
        proposal = Proposal(kind=EntryKind.PRODUCER, payload=encode_producer(self.name))

        def done(result: object) -> None:
            self.heard(number, result)
            if isinstance(result, AcknowledgedAppend):
                self.producer_id = result.index
                self.think(self._next)
            else:
                self.think(self._register)

        self.ask(lambda node, answer: node.propose(proposal, answer), number, done)

    def _next(self) -> None:
        # A window of batches in flight, oldest first; the next one waits until the oldest is done.
        if not self.unacknowledged or self.sequence - min(self.unacknowledged) < self.work.options.pipeline:
            sequence = self.sequence
            self.sequence += 1
            self.unacknowledged.add(sequence)
            records = self.rng.choice((1, 1, 1, 3))
            payload = make_payload(self.name, sequence, self.rng, self.work.options.large_share)
            op = self.work.history.write(payload, records, self.producer_id, sequence)
            self._attempt(op)
        self.think(self._next)

    def _attempt(self, op: Written) -> None:
        number = self.leader_or_some_node()
        proposal = Proposal(
            payload=op.payload,
            record_count=op.record_count,
            producer_id=op.producer_id,
            producer_sequence=op.producer_sequence,
            subject=self.name,
        )

        def done(result: object) -> None:
            self.heard(number, result)
            if isinstance(result, AcknowledgedAppend):
                self.work.acknowledged += 1
                self.work.history.acknowledge(op, result.base_offset)
                self.unacknowledged.discard(op.producer_sequence)
            else:
                self.work.refused += result is not None
                self.think(lambda: self._attempt(op))

        self.ask(lambda node, answer: node.propose(proposal, answer), number, done)


class Writer(SimClient):
    """Writes batches without a producer id, each only once; sometimes says at which offset it must be."""

    count = 0
    expected: int | None = None

    def begin(self) -> None:
        """Start writing."""
        self.think(self._write)

    def _write(self) -> None:
        number = self.leader_or_some_node()
        self.count += 1
        payload = make_payload(self.name, self.count, self.rng, self.work.options.large_share)
        expect = self.expected if self.rng.random() < 0.3 else None
        op = self.work.history.write(payload, self.rng.choice((1, 1, 2)), expect_offset=expect)
        proposal = Proposal(payload=payload, record_count=op.record_count, expect_offset=expect)

        def done(result: object) -> None:
            self.heard(number, result)
            if isinstance(result, AcknowledgedAppend):
                self.work.acknowledged += 1
                self.work.history.acknowledge(op, result.base_offset)
                self.expected = result.base_offset + op.record_count
            elif isinstance(result, LoghouseError) and getattr(result, "code", 0) != 20:
                self.work.refused += 1
                self.work.history.refuse(op)
                self.expected = None
            self.think(self._write)

        self.ask(lambda node, answer: node.propose(proposal, answer), number, done)


class SimReader(SimClient):
    """Asks for records here and there, for those just behind the end, and for the end."""

    highest = 0

    def begin(self) -> None:
        """Start reading."""
        self.think(self._read)

    def _read(self) -> None:
        if self.rng.random() < 0.4:
            self._ask_tail()
        else:
            self._ask_record()

    def _ask_tail(self) -> None:
        number = self.some_node()
        invoked = self.work.history.stamp()

        def done(result: object) -> None:
            if isinstance(result, int):
                self.work.reads += 1
                self.work.history.tail(invoked, result)
                self.highest = max(self.highest, result)
            self.think(self._read)

        self.ask(lambda node, answer: node.tail(answer), number, done)

    def _ask_record(self) -> None:
        number = self.some_node()
        offset = max(0, self.highest + self.rng.choice((-20, -3, -1, 0, 0, 1)))
        invoked = self.work.history.stamp()

        def done(result: object) -> None:
            if isinstance(result, Entry):
                self.work.reads += 1
                self.work.history.hit(invoked, offset)
                self.highest = max(self.highest, result.next_offset)
            elif isinstance(result, OffsetOutOfRangeError) and offset >= max(
                result.lowest, result.next_offset
            ):
                self.work.reads += 1
                self.work.history.miss(invoked, offset)
                self.highest = max(self.highest, result.next_offset)
            self.think(self._read)

        self.ask(lambda node, answer: node.read(offset, answer), number, done)


def make_payload(name: str, number: int, rng: random.Random, large_share: float) -> bytes:
    """Return bytes like no other batch's; a few are large enough to fill a segment."""
    padding = 700 if rng.random() < large_share else rng.randrange(24)
    return b"%s#%d" % (name.encode(), number) + b"." * padding
