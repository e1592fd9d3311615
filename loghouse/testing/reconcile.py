"""The cluster's housekeeping as its operators want it: members, their parts, and trims.

It stands for the reconcile step of a node that leads: compare the configuration with what
is wanted, and propose one change at a time until they agree.
"""

from __future__ import annotations

import random
from dataclasses import replace

from loghouse.protocol.configuration import Configuration, MemberRole, encode_trim
from loghouse.protocol.entry import EntryKind
from loghouse.raft.core import Raft
from loghouse.raft.ready import Proposal
from loghouse.testing.node import Places, SimNode
from loghouse.testing.simulation import Simulation


class Reconciler:
    """Keeps the configuration as wanted: `wanted` maps each machine to its part, or None for none."""

    def __init__(self, cluster: Simulation[SimNode], places: Places) -> None:
        self._cluster = cluster
        self._places = places
        self._rng = cluster.stream("reconcile")
        self._next_id = cluster.options.voters + 1
        self._stopped = False
        self.changes = 0
        self.wanted: dict[int, MemberRole | None] = {
            number: MemberRole.VOTER if number <= cluster.options.voters else None for number in cluster.nodes
        }

    def begin(self) -> None:
        """Start looking, and trimming if the seed does."""
        self._look()
        if self._cluster.options.trim_seconds_mean:
            self._trim()

    def stop(self) -> None:
        """Change nothing any more."""
        self._stopped = True

    def _look(self) -> None:
        if self._stopped:
            return
        leader = self._cluster.leader()
        if leader is not None and not leader.paused_until > self._cluster.clock.seconds():
            self._propose_next(leader)
        self._cluster.clock.after(self._cluster.options.election_seconds * 1.5, self._look)

    def _propose_next(self, leader: SimNode) -> None:
        raft = leader.raft
        assert raft is not None
        change = self._next_change(raft)
        if change is not None and leader.change_configuration(change):
            self.changes += 1
            self._cluster.trace.note(f"{leader.name} proposes members {_words(change)}")

    def _next_change(self, raft: Raft) -> Configuration | None:
        """Return the first step from the configuration to what is wanted."""
        now = raft.configuration
        for number, part in self.wanted.items():
            node = self._cluster.nodes[number]
            uuid = node.machine.disk_uuid
            mine = next((m for m in now.members if m.name == node.name and m.disk_uuid == uuid), None)
            old = next((m for m in now.members if m.name == node.name and m.disk_uuid != uuid), None)
            if part is None:
                gone = mine or old
                if gone is not None and (len(now.voters) > 1 or gone.role == MemberRole.LEARNER):
                    return now.without(gone.id)
            elif mine is None:
                return self._with_learner(now, node)
            elif mine.role == MemberRole.LEARNER and (part == MemberRole.VOTER or old is not None):
                if raft.is_caught_up(mine.id):
                    return (
                        now.without(old.id) if old is not None else now.with_role(mine.id, MemberRole.VOTER)
                    )
            elif mine.role == MemberRole.VOTER and part == MemberRole.LEARNER and len(now.voters) > 1:
                return now.with_role(mine.id, MemberRole.LEARNER)
        return None

    def _with_learner(self, now: Configuration, node: SimNode) -> Configuration:
        # An id given out by an entry that was cut could be given out again, to another disk; machines of
        # a run find each other by id alone, so here every id is used once.
        id_ = max(now.next_id, self._next_id)
        self._next_id = id_ + 1
        self._places[id_] = (node.number, node.machine.disk_uuid)
        return replace(now, next_id=id_).with_member(node.name, node.machine.disk_uuid, MemberRole.LEARNER)

    # --- what is wanted --------------------------------------------------------------------

    def change(self, rng: random.Random) -> str:
        """Want another part for some machine; never fewer voters than the seed's losses need."""
        if self._cluster.atlas.has_losses:
            return ""  # a lost voter still counts: removing a good one now could end the group
        number = rng.choice(list(self.wanted))
        voters = [n for n, part in self.wanted.items() if part == MemberRole.VOTER]
        part = self.wanted[number]
        if part == MemberRole.VOTER:
            if len(voters) <= self._cluster.atlas.voters_min:
                return ""
            self.wanted[number] = rng.choice((None, MemberRole.LEARNER))
            return "remove voter" if self.wanted[number] is None else "demote voter"
        if part == MemberRole.LEARNER and rng.random() < 0.3:
            self.wanted[number] = None
            return "remove learner"
        self.wanted[number] = (
            MemberRole.VOTER if len(voters) < 5 and rng.random() < 0.8 else MemberRole.LEARNER
        )
        return "add voter" if self.wanted[number] == MemberRole.VOTER else "add learner"

    def is_settled(self) -> bool:
        """Whether the committed configuration is what is wanted."""
        leader = self._cluster.leader()
        if leader is None or leader.raft is None:
            return False
        raft = leader.raft
        found = {(m.name, m.disk_uuid): m.role for m in raft.configuration.members}
        nodes = self._cluster.nodes
        wanted = {
            (nodes[n].name, nodes[n].machine.disk_uuid): part
            for n, part in self.wanted.items()
            if part is not None
        }
        return found == wanted and raft.configuration_is_committed

    def describe(self) -> str:
        """Return what is wanted and what there is."""
        leader = self._cluster.leader()
        found = (
            _words(leader.raft.configuration)
            if leader is not None and leader.raft is not None
            else "no leader"
        )
        return (
            f"wanted { ({n: part.name if part else None for n, part in self.wanted.items()}) }, found {found}"
        )

    # --- trims ------------------------------------------------------------------------------

    def _trim(self) -> None:
        if self._stopped:
            return
        leader = self._cluster.leader()
        if leader is not None and leader.driver is not None:
            lowest = max(0, leader.driver.readable_offset - self._rng.choice((0, 1, 10, 50)))
            proposal = Proposal(kind=EntryKind.TRIM, payload=encode_trim(lowest))
            leader.propose(proposal, lambda outcome: None)
        # A trim is an entry like any other: what is to be had under a light load must not fail by them.
        mean = max(self._cluster.options.trim_seconds_mean, self._cluster.work.think_seconds_min)
        self._cluster.clock.after(self._rng.expovariate(1 / mean), self._trim)


def _words(configuration: Configuration) -> str:
    return ", ".join(f"{m.id}={m.name} {m.role.name.lower()}" for m in configuration.members)
