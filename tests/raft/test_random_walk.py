"""Random walks: whatever order messages, disks, crashes and requests come in, what was committed stays so.

This is the core's own short net; the simulator goes on for hours. LOGHOUSE_WALKS says how many walks.
"""

import os
import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import RequestError
from loghouse.protocol.configuration import MemberRole, encode_producer
from loghouse.protocol.entry import EntryKind
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import Proposal, Role
from tests.raft.group import Group

WALKS = int(os.environ.get("LOGHOUSE_WALKS", "100"))
STEPS = int(os.environ.get("LOGHOUSE_WALK_STEPS", "1500"))


class Walk:
    """One group, one seed; every method named `may_*` is something that can happen."""

    def __init__(self, seed):
        self.rng = rng = random.Random(seed)
        config = RaftConfig(
            election_ticks=rng.choice([3, 5]),
            snapshot_ticks=4,
            append_size_max=rng.choice([1, 200, 1 << 20]),
            inflight_entries_max=rng.choice([1, 2, 64]),
            inflight_size_max=rng.choice([1, 300, 1 << 20]),
            proposals_max=rng.choice([2, 1000]),
            cache_size_max=rng.choice([1, 1 << 20]),
            committed_size_max=rng.choice([1, 1 << 20]),
            reads_max=rng.choice([1, 100]),
        )
        self.loss = rng.choice([0, 0, 0.05, 0.2])
        self.group = Group(rng.choice([1, 2, 3, 3, 5]), rng.choice([0, 1]), config=config, rng_seed=seed)
        self.leaders = {}
        self.committed = {}  # index -> head of the one entry ever committed there
        self.acknowledged = 0  # the highest index any leader told a client of
        self.asked = {}  # (member, id) -> what was acknowledged when the read was asked
        self.producers = []
        # How often what happens differs from walk to walk: some are full of crashes, some of cuts.
        self.weights = {}
        for name in dir(self):
            if name.startswith("may_"):
                weight = getattr(getattr(type(self), name), "weight", 1)
                self.weights[name] = weight * rng.choice([0.2, 1, 1, 3])
        self.haste = rng.choice([0.3, 0.6, 0.9])
        for id_ in self.group.nodes:
            self.group.nodes[id_].disk = rng.random() < 0.5

    def run(self, steps):
        names = list(self.weights)
        for name in self.rng.choices(names, list(self.weights.values()), k=steps):
            getattr(self, name)()
            self.check()
        self.recover()

    def member(self, leader=False):
        ids = list(self.group.nodes)
        if leader:
            leading = [id_ for id_ in ids if self.group[id_].role is Role.LEADER]
            ids = leading or ids
        return self.rng.choice(ids)

    # --- what may happen ----------------------------------------------------------

    def may_deliver(self):
        queue = self.group.queue
        for _ in range(min(len(queue), self.rng.choice([1, 1, 4, 20]))):
            if self.rng.random() < 0.2:
                queue.rotate(self.rng.randrange(len(queue)))
            envelope = queue.popleft()
            if self.rng.random() < self.loss:
                continue
            if self.rng.random() < 0.05:
                queue.append(envelope)
            self.group.deliver_one(envelope)
            self.check()

    may_deliver.weight = 30

    def may_go_on(self):
        """A little of everything that is no fault: time, turns, disks, messages."""
        chance = self.rng.random
        for id_ in list(self.group.nodes):
            if chance() < 0.15:
                self.group[id_].tick(self.rng.randrange(1000))
            if chance() < self.haste:
                self.turn(id_)
            node = self.group.nodes[id_]
            if node.writing and chance() < self.haste:
                self.group.finish_writes(id_, self.rng.randrange(len(node.writing)) + 1)
        for _ in range(6):
            if self.group.queue and chance() < self.haste:
                self.may_deliver()

    may_go_on.weight = 60

    def may_turn(self):
        self.turn(self.member())

    may_turn.weight = 20

    def turn(self, id_):
        node = self.group.nodes[id_]
        seen = set(node.reads)
        self.group.turn(id_)
        for read in node.reads.keys() - seen:
            index = node.reads[read]
            asked = self.asked.pop((id_, read))
            assert index is None or index >= asked, f"read at {index}, acknowledged before: {asked}"
        raft = node.raft
        for entry in node.committed:
            head = self.committed.setdefault(entry.index, entry.head)
            assert head == entry.head, f"two entries were committed at {entry.index}"
            if raft.role is Role.LEADER:
                self.acknowledged = max(self.acknowledged, entry.index)
        node.committed.clear()

    def may_write(self):
        node = self.group.nodes[self.member()]
        if node.writing:
            self.group.finish_writes(node.id, self.rng.randrange(len(node.writing)) + 1)

    may_write.weight = 20

    def may_tick(self):
        id_ = self.member()
        for _ in range(self.rng.choice([1, 1, 1, 4, 8])):
            self.group[id_].tick(self.rng.randrange(1000))

    may_tick.weight = 4

    def may_propose(self):
        fields = {}
        if self.producers and self.rng.random() < 0.5:
            fields = {
                "producer_id": self.rng.choice(self.producers),
                "producer_sequence": self.rng.randrange(4),
                "subject": "s",
            }
        self.attempt(lambda raft: raft.propose(Proposal(payload=b"x" * 10, record_count=2, **fields), 5))

    may_propose.weight = 12

    def may_register(self):
        proposal = Proposal(kind=EntryKind.PRODUCER, payload=encode_producer("s"))
        ticket = self.attempt(lambda raft: raft.propose(proposal, 0))
        if ticket is not None:
            self.producers.append(ticket.index)

    def attempt(self, request):
        try:
            return request(self.group[self.member(leader=self.rng.random() < 0.9)])
        except RequestError:
            return None

    def may_read(self):
        id_ = self.member()
        try:
            read = self.group[id_].read_index()
        except RequestError:
            return
        self.asked[id_, read] = self.acknowledged

    may_read.weight = 5

    def may_transfer(self):
        target = self.member()
        self.attempt(lambda raft: raft.transfer_leadership(target))

    def may_configure(self):
        def change(raft):
            old = raft.configuration
            if not old.members:
                return None
            if len(old.members) < 6 and self.rng.random() < 0.5:
                role = self.rng.choice([MemberRole.VOTER, MemberRole.LEARNER])
                new = old.with_member(f"n{old.next_id}", bytes(16), role)
            else:
                member = self.rng.choice(old.members)
                new = self.rng.choice(
                    [
                        old.without(member.id),
                        old.with_role(member.id, MemberRole.LEARNER),
                        old.with_role(member.id, MemberRole.VOTER),
                    ]
                )
            ticket = raft.propose_configuration(new, 0)
            for member in new.members:
                if member.id not in self.group.nodes:
                    self.group.start(member.id, type(self.group.nodes[1].log)())
            return ticket

        self.attempt(change)

    def may_crash(self):
        id_ = self.member()
        node = self.group.nodes[id_]
        for read in [key for key in self.asked if key[0] == id_]:
            del self.asked[read]
        self.group.start(id_, commit_index=self.rng.choice([0, self.known_commit(node)]))
        self.group.nodes[id_].disk = node.disk

    def known_commit(self, node):
        # Of what the disk has: a watermark is written behind the cuts and entries that it speaks of.
        return min(node.raft.commit_index, node.raft.durable_index)

    may_crash.weight = 2

    def may_trim(self):
        node = self.group.nodes[self.member()]
        high = min(node.raft._log.delivered_index, node.raft.durable_index, node.log.last_index)
        if high > node.log.first_index and not node.writing:
            node.log.trim_prefix(self.rng.randrange(node.log.first_index, high + 1))

    def may_change_disk(self):
        node = self.group.nodes[self.member()]
        node.disk = not node.disk
        if node.disk:
            self.group.finish_writes(node.id)

    def may_cut(self):
        self.group.heal()
        if self.rng.random() < 0.5:
            self.group.isolate(self.member(leader=self.rng.random() < 0.5))
        else:
            self.group.cut.add((self.member(), self.member()))

    may_cut.weight = 2

    def may_heal(self):
        self.group.heal()

    may_heal.weight = 6

    # --- what must hold -------------------------------------------------------------

    def check(self):
        for id_, node in self.group.nodes.items():
            raft = node.raft
            if raft.role is Role.LEADER:
                other = self.leaders.setdefault(raft.term, id_)
                assert other == id_, f"{other} and {id_} both led term {raft.term}"
            assert raft.durable_index <= raft.last_index
            assert raft.commit_index <= raft.last_index

    def recover(self):
        """Stop all faults: a leader is found, and everybody gets to the same log."""
        group = self.group
        group.heal()
        for id_, node in group.nodes.items():
            node.disk = True
            group.finish_writes(id_)
        for _ in range(40 * group.config.election_ticks):
            for id_ in group.nodes:
                group[id_].tick()
            for _ in range(30):
                for id_ in list(group.nodes):
                    self.turn(id_)
                self.check()
                if not group.queue:
                    break
                group.deliver()
            if self.converged():
                return
        raise AssertionError("no convergence: " + "; ".join(n.describe() for n in group.nodes.values()))

    def converged(self):
        leaders = [
            n for n in self.group.nodes.values() if n.raft.role is Role.LEADER and n.raft.has_own_commit
        ]
        if not leaders:
            return False
        leader = max(leaders, key=lambda node: node.raft.term)
        return all(
            self.group[m.id].commit_index == self.group[m.id].durable_index == leader.raft.last_index
            and self.group[m.id]._log.state == leader.raft._log.state
            for m in leader.raft.configuration.members
        )


class RandomWalkTests(SynchronousTestCase):
    """Safety at every step, convergence at the end."""

    def test_walks(self):
        """No walk commits two entries at one index, elects two leaders in a term, or reads the past."""
        for seed in range(WALKS):
            walk = Walk(seed)
            try:
                walk.run(STEPS)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error!r}") from error
