"""Propose-to-commit of a group of three cores in one process: no disk, no sockets.

    python bench/raft.py [--entries N] [--batch N ...] [--size BYTES] [--wire | --network]

`--batch` proposals share a turn, as they do when a disk or a network is busy. With `--wire` every message is
encoded and decoded on its way, checksums included. With `--network` the simulated network carries them, with
its delays, some loss and duplicates. All three members share one core of the machine.
"""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.raft_messages import Envelope, envelope_from_wire, envelope_to_wire
from loghouse.raft.config import RaftConfig
from loghouse.raft.core import Raft
from loghouse.raft.membership import bootstrap_entry
from loghouse.raft.ready import Proposal, Role
from loghouse.testing.clock import SimClock
from loghouse.testing.memory_log import MemoryLog
from loghouse.testing.network import NetworkOptions, SimNetwork

SEED = frame_seed(bytes(16), 1)
TICK_SECONDS = 0.1
TURN_SECONDS = 0.001  # of simulated time between two turns of a proposer


class Trio:
    """Three members whose messages arrive at once and whose disks are instant."""

    def __init__(self, wire: bool) -> None:
        self.wire = wire
        configuration = Configuration()
        for name in "abc":
            configuration = configuration.with_member(name, name.encode() * 16, MemberRole.VOTER)
        self.logs = {}
        self.cores = {}
        self.messages = 0
        for id_ in (1, 2, 3):
            log = MemoryLog([bootstrap_entry(SEED, configuration, 0)], HardState(1, 0))
            self.logs[id_] = log
            self.cores[id_] = Raft(
                RaftConfig(),
                id=id_,
                group=1,
                seed=SEED,
                reader=log,
                hard_state=log.hard_state,
                rng=random.Random(id_),
            )

    def run(self) -> None:
        """Work until there is none."""
        cores, logs = self.cores, self.logs
        busy = True
        while busy:
            busy = False
            for id_, core in cores.items():
                ready = core.ready()
                if ready is None:
                    continue
                busy = True
                self.deliver(ready.messages_now)
                logs[id_].persist(ready)
                core.persisted(ready.token)
                self.deliver(ready.messages_after_persist)
                self.messages += len(ready.messages_now) + len(ready.messages_after_persist)

    def deliver(self, envelopes: tuple[Envelope, ...]) -> None:
        """Bring messages to their targets."""
        for envelope in envelopes:
            if self.wire:
                kind, group, pieces = envelope_to_wire(envelope)
                envelope = envelope_from_wire(kind, group, b"".join(pieces), SEED)
            self.cores[envelope.target].step(envelope)

    def tick(self) -> None:
        """Let a tick pass."""
        for core in self.cores.values():
            core.tick()
        self.run()

    def elect(self) -> Raft:
        """Return the leader."""
        while True:
            self.tick()
            for core in self.cores.values():
                if core.role is Role.LEADER:
                    return core


class ScatteredTrio(Trio):
    """Three members between whom the simulated network carries messages; their disks are instant."""

    def __init__(self) -> None:
        super().__init__(wire=False)
        self.clock = SimClock()
        options = NetworkOptions(loss=0.01, duplicate=0.01)
        self.network = SimNetwork(self.clock, random.Random(1), options, self.arrive)

    def deliver(self, envelopes: tuple[Envelope, ...]) -> None:
        """Send messages on their way."""
        for envelope in envelopes:
            self.network.send(envelope.source, envelope.target, envelope)

    def arrive(self, source: int, target: int, envelope: Envelope) -> None:
        """Take a message, and do what it asks for."""
        self.cores[target].step(envelope)
        self.run()

    def tick(self) -> None:
        """Let the time of a tick pass for all."""
        self.clock.advance(TICK_SECONDS)
        super().tick()

    def finish(self, leader: Raft) -> None:
        """Let time pass until everything proposed is committed."""
        while leader.commit_index < leader.last_index:
            self.tick()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=60_000)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--size", type=int, default=170)
    parser.add_argument("--wire", action="store_true")
    parser.add_argument("--network", action="store_true")
    options = parser.parse_args()
    proposal = Proposal(payload=bytes(options.size), record_count=1)
    if options.network:
        for batch in options.batch:
            scattered(options.entries, batch, proposal)
        return
    for batch in options.batch:
        trio = Trio(options.wire)
        leader = trio.elect()
        trio.messages = 0
        first = leader.commit_index
        start = time.process_time()
        for _ in range(options.entries // batch):
            for _ in range(batch):
                leader.propose(proposal, 0)
            trio.run()
        seconds = time.process_time() - start
        committed = leader.commit_index - first
        assert committed == options.entries // batch * batch
        print(
            f"{batch:3} proposals a turn: {committed / seconds:9,.0f} entries/s, "
            f"{trio.messages / seconds:9,.0f} messages/s"
        )


def scattered(entries: int, batch: int, proposal: Proposal) -> None:
    """Measure the core and the simulated network together."""
    trio = ScatteredTrio()
    leader = trio.elect()
    delivered, first = trio.network.delivered, leader.commit_index
    next_tick = trio.clock.seconds() + TICK_SECONDS
    start = time.process_time()
    for _ in range(entries // batch):
        for _ in range(batch):
            leader.propose(proposal, 0)
        trio.run()
        trio.clock.advance(TURN_SECONDS)
        if trio.clock.seconds() >= next_tick:
            next_tick += TICK_SECONDS
            Trio.tick(trio)
    trio.finish(leader)
    seconds = time.process_time() - start
    committed = leader.commit_index - first
    assert committed == entries // batch * batch, "the leader changed"
    print(
        f"{batch:3} proposals a turn, simulated network: {committed / seconds:9,.0f} entries/s, "
        f"{(trio.network.delivered - delivered) / seconds:9,.0f} messages/s"
    )


if __name__ == "__main__":
    main()
