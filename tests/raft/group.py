"""A whole group in one place: cores, logs in memory, a queue of messages, disks that finish when told to."""

import random
from collections import deque
from dataclasses import dataclass, field

from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.entry import EntryKind, frame_seed, make_entry
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.raft_messages import Envelope
from loghouse.raft.config import RaftConfig
from loghouse.raft.core import Raft
from loghouse.raft.membership import bootstrap_entry
from loghouse.raft.ready import Proposal, Ready, Role
from loghouse.testing.memory_log import MemoryLog
from tests.recording import RecordingMetrics

GROUP = 1
SEED = frame_seed(bytes(range(16)), GROUP)


def configuration(voters, learners=0):
    """Voters 1..n, then learners."""
    value = Configuration()
    for number in range(1, voters + learners + 1):
        role = MemberRole.VOTER if number <= voters else MemberRole.LEARNER
        value = value.with_member(f"n{number}", bytes([number]) * 16, role)
    return value


def entry(index, term, kind=EntryKind.NOOP, base_offset=0, payload=b"", **fields):
    """An entry of the test log; timestamps are all 0."""
    return make_entry(
        SEED,
        index=index,
        term=term,
        kind=kind,
        base_offset=base_offset,
        timestamp=0,
        payload=payload,
        **fields,
    )


def log_of(terms, voters=3, learners=0):
    """A log whose first entry is the configuration and whose others are no-ops of these terms."""
    first = bootstrap_entry(SEED, configuration(voters, learners), 0)
    return [first, *(entry(index, term) for index, term in enumerate(terms, 2))]


@dataclass
class Node:
    """One member with its disk."""

    id: int
    raft: Raft
    log: MemoryLog
    metrics: RecordingMetrics
    committed: list = field(default_factory=list)
    reads: dict = field(default_factory=dict)
    writing: deque = field(default_factory=deque)
    disk: bool = True  # False: writes pile up until `finish_writes`
    readies: list = field(default_factory=list)

    @property
    def refusals(self):
        """Why messages were ignored, counted."""
        return self.metrics.counts("raft_message_refused")

    def describe(self):
        raft = self.raft
        durable = f" durable {raft.durable_index}" if raft.durable_index != raft.last_index else ""
        return (
            f"{raft.role.value} term {raft.term} last {raft.last_index}{durable} commit {raft.commit_index}"
        )


class Group:
    """`voters` (and `learners`) members; nothing happens but by the methods below."""

    def __init__(self, voters=3, learners=0, *, config=None, terms=None, rng_seed=1, extra_ids=()):
        """Every member's log is the configuration entry, then no-ops of `terms[id]`."""
        self.config = config or RaftConfig()
        self.rng_seed = rng_seed
        self.nodes = {}
        self.starts = 0
        self.queue = deque()
        self.dropped = []
        self.waits_with_notifications = (
            False  # True: followers learn of commits by the next entries or `notify_commit` only
        )
        self.cut = set()  # (source, target) pairs that lose everything
        self.filter = None  # envelope -> whether to deliver
        terms = terms or {}
        for id_ in range(1, voters + learners + 1):
            own = terms.get(id_, ())
            log = MemoryLog(log_of(own, voters, learners), HardState(max((1, *own)), 0))
            self.start(id_, log)
        for id_ in extra_ids:
            self.start(id_, MemoryLog())

    def start(self, id_, log=None, **fields):
        """Start (or restart) a member on its log."""
        self.starts += 1  # never the same randomness twice: read ids depend on it
        log = log if log is not None else self.nodes[id_].log
        metrics = RecordingMetrics()
        raft = Raft(
            fields.pop("config", self.config),
            id=id_,
            group=GROUP,
            seed=SEED,
            reader=log,
            hard_state=log.hard_state,
            rng=random.Random(self.rng_seed * 1000_000 + self.starts * 1000 + id_),
            metrics=metrics,
            **fields,
        )
        self.nodes[id_] = Node(id_, raft, log, metrics)
        return self.nodes[id_]

    def __getitem__(self, id_):
        return self.nodes[id_].raft

    # --- turning the crank --------------------------------------------------------

    def turn(self, id_):
        """Take everything a member has to do; returns whether there was something."""
        node = self.nodes[id_]
        worked = False
        while (ready := self._next_ready(node.raft)) is not None:
            worked = True
            node.readies.append(ready)
            self.queue.extend(ready.messages_now)
            if ready.snapshot is not None:
                node.committed.clear()
            node.committed.extend(ready.committed)
            for state in ready.read_states:
                assert state.id not in node.reads, "a read is answered once"
                node.reads[state.id] = state.index
            node.writing.append(ready)
            if node.disk:
                self.finish_writes(id_)
        return worked

    def _next_ready(self, raft):
        ready = raft.ready()
        if ready is None and raft.has_unnotified_commit and not self.waits_with_notifications:
            raft.notify_commit(raft.commit_index)
            ready = raft.ready()
        return ready

    def finish_writes(self, id_, count=None):
        """Let the disk finish its oldest writes."""
        node = self.nodes[id_]
        for _ in range(len(node.writing) if count is None else count):
            ready: Ready = node.writing.popleft()
            node.log.persist(ready)
            node.raft.persisted(ready.token)
            self.queue.extend(ready.messages_after_persist)

    def deliver(self, count=None):
        """Deliver what is queued now (or its first `count`)."""
        for _ in range(len(self.queue) if count is None else count):
            self.deliver_one(self.queue.popleft())

    def deliver_one(self, envelope: Envelope):
        lost = (envelope.source, envelope.target) in self.cut or envelope.target not in self.nodes
        if lost or (self.filter is not None and not self.filter(envelope)):
            self.dropped.append(envelope)
        else:
            self.nodes[envelope.target].raft.step(envelope)

    def settle(self, rounds=1000):
        """Turn and deliver until nothing is left to do."""
        for _ in range(rounds):
            worked = [self.turn(id_) for id_ in list(self.nodes)]
            if not any(worked) and not self.queue:
                return self
            self.deliver()
        raise AssertionError("the group does not settle")

    def tick(self, ticks=1, ids=None, settle=True):
        """Let time pass on some (or all) members."""
        for _ in range(ticks):
            for id_ in list(self.nodes) if ids is None else ids:
                self.nodes[id_].raft.tick()
            if settle:
                self.settle()
        return self

    def campaign(self, id_, *, settle=True):
        """Tick a member until it campaigns."""
        raft = self[id_]
        for _ in range(3 * self.config.election_ticks):
            if raft.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
                break
            raft.tick()
        assert raft.role in (Role.PRE_CANDIDATE, Role.CANDIDATE), raft.role
        if settle:
            self.settle()
        return self

    def elect(self, id_):
        """Make a member leader, letting the others' recent leader grow old."""
        self.forget_leaders(id_)
        self.campaign(id_)
        assert self[id_].role is Role.LEADER, self.nodes[id_].describe()
        return self[id_]

    def forget_leaders(self, id_):
        for other, node in self.nodes.items():
            raft = node.raft
            if other != id_ and raft.role in (Role.FOLLOWER, Role.LEARNER):
                while raft._election_elapsed < self.config.election_ticks:
                    # Not past its own timeout, which is at least this long.
                    raft._election_elapsed += 1

    def isolate(self, *ids):
        """Cut everything between `ids` and the others."""
        others = set(self.nodes) - set(ids)
        self.cut |= {(a, b) for a in ids for b in others} | {(b, a) for a in ids for b in others}
        return self

    def heal(self):
        self.cut.clear()
        return self

    def propose(self, id_, payload=b"x", *, now=0, settle=True, **fields):
        ticket = self[id_].propose(Proposal(payload=payload, record_count=1, **fields), now)
        if settle:
            self.settle()
        return ticket

    def terms(self, id_):
        """The terms of a member's log behind the configuration entry, memory included."""
        raft = self[id_]
        return [raft.term_at(index) for index in range(2, raft.last_index + 1)]
