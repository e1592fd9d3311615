"""Replicas of one group over real logs on simulated disks, joined by a list of messages."""

import random
from collections import deque
from functools import partial

from twisted.internet.task import Clock

from loghouse.errors import DiskFullError
from loghouse.limits import KIB
from loghouse.node.api import proposing
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.hard_state import HardState
from loghouse.raft.config import LAN
from loghouse.raft.core import Raft
from loghouse.raft.membership import bootstrap_entry
from loghouse.raft.ready import Proposal, Role
from loghouse.replica.driver import COMMIT_NOTIFICATION_SECONDS, RaftDriver
from loghouse.runtime.deferring import deferred
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.testing.disk import SimDisk
from tests.driver.queue import ManualQueue

CLUSTER = b"c" * 16
SEED = frame_seed(CLUSTER, 1)
PATH = "/node"


class Member:
    """One replica, its disk, and what it told its owner."""

    def __init__(self, group, id_: int, configuration: Configuration, config) -> None:
        self.id = id_
        self.disk = ManualQueue()
        self.sent = []
        self.failures = []
        self.damages = []
        self.fills = []
        self.is_silent = False  # hears nobody and is heard by nobody
        self._group = group
        self.files = SimDisk()
        directory = DataDirectory.lock(self.files, PATH, segment_size=64 * KIB, reserve_size=0)
        directory.create(
            DiskIdentity(
                cluster_uuid=CLUSTER, disk_uuid=bytes([id_]) * 16, cluster_name="test", node_name=f"n{id_}"
            )
        )
        self.log = directory.open_log(1)
        self.log.save_hard_state(term=1, vote=0)
        self.log.append([bootstrap_entry(SEED, configuration, 0)])
        self.log.sync(1)
        self.raft = Raft(
            config,
            id=id_,
            group=1,
            seed=SEED,
            reader=self.log,
            hard_state=HardState(1, 0),
            rng=random.Random(id_),
            commit_index=1,
        )
        self.replica = RaftDriver(
            self.raft,
            self.log,
            disk=self.disk,
            soon=group.soons.append,
            later=group.clock.callLater,
            wall=lambda: 1000.0,
            owner=self,
        )

    # --- ReplicaLike -------------------------------------------------------------

    def send(self, envelope) -> None:
        self.sent.append(envelope)
        self._group.flying.append(envelope)

    def role_changed(self, state) -> None:
        self.soft_state = state

    def committed(self) -> None:
        pass

    def disk_filled(self, is_full) -> None:
        self.fills.append(is_full)

    def damage_found(self, error) -> None:
        self.damages.append(error)

    def fatal(self, failure) -> None:
        self.failures.append(failure)
        self.replica.stop()

    # --- for tests ------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        return self.raft.role is Role.LEADER

    def propose(self, size: int = 10, **fields):
        done = proposing(self.replica.propose, Proposal(payload=bytes(size), record_count=1, **fields))
        self._group.proposed.append(done)
        return done

    def propose_and_settle(self, *args, **fields):
        done = self.propose(*args, **fields)
        self._group.settle()
        return done

    def change(self, configuration: Configuration):
        return deferred(partial(self.replica.propose_configuration, configuration))

    def read_barrier(self):
        return deferred(self.replica.read_barrier)

    def when_idle(self):
        return deferred(lambda done, _: self.replica.when_idle(lambda: done(None)))

    def fill_disk(self):
        """Leave no room for another segment; returns what frees some."""
        rooms = self.log._rooms
        real = rooms.ensure_spares

        def refuse(sizes):
            if sizes:
                raise DiskFullError("/data")

        rooms.ensure_spares = refuse

        def free():
            rooms.ensure_spares = real

        return free

    def sent_of(self, message_type) -> list:
        return [envelope.message for envelope in self.sent if isinstance(envelope.message, message_type)]

    def frames(self) -> list[bytes]:
        log = self.log
        return [
            bytes(entry.head) + bytes(entry.payload)
            for entry in log.entries(log.first_index, log.last_index + 1, 1 << 30)
        ]


class Group:
    """Members by id from 1, all voters."""

    def __init__(self, count: int = 3, config=LAN) -> None:
        self.soons: deque = deque()
        self.clock = Clock()
        self.flying: list = []
        self.lost: list = []  # (source, target) pairs whose messages do not arrive
        self.lost_types: tuple = ()  # messages of these types do not arrive
        self.proposed: list = []
        configuration = Configuration()
        for id_ in range(1, count + 1):
            configuration = configuration.with_member(f"n{id_}", bytes([id_]) * 16, MemberRole.VOTER)
        self.members = {id_: Member(self, id_, configuration, config) for id_ in range(1, count + 1)}
        for member in self.members.values():
            member.replica.start()
        self.settle()

    def __getitem__(self, id_: int) -> Member:
        return self.members[id_]

    def settle(self) -> None:
        """Let reactors, disks and links do all they have to, and commit notifications go out."""
        self.settle_now()
        while self.clock.getDelayedCalls():
            self.clock.advance(COMMIT_NOTIFICATION_SECONDS)
            self.settle_now()

    def settle_now(self) -> None:
        """The same while no time passes."""
        while True:
            if self.soons:
                self.soons.popleft()()
            elif not any(member.disk.settle() for member in self.members.values()):
                if not self.flying:
                    return
                flying, self.flying = self.flying, []
                for envelope in flying:
                    self._deliver(envelope)

    def _deliver(self, envelope) -> None:
        source, target = self.members[envelope.source], self.members[envelope.target]
        is_lost = (envelope.source, envelope.target) in self.lost
        is_lost = is_lost or isinstance(envelope.message, self.lost_types)
        if not (source.is_silent or target.is_silent or is_lost):
            target.replica.receive(envelope)

    def tick(self, *ids: int, count: int = 1) -> None:
        """Let ticks pass at these members, all of them by default."""
        for _ in range(count):
            for id_ in ids or self.members:
                self.members[id_].replica.tick()
            self.settle()

    def elect(self, id_: int) -> Member:
        """Make a member the leader: the others have not heard one for an election timeout."""
        for other in self.members.values():
            if not other.leads:
                other.raft._election_elapsed = LAN.election_ticks
        for _ in range(2 * LAN.election_ticks):
            if self[id_].leads:
                return self[id_]
            self.tick(id_)
        raise AssertionError(f"member {id_} is {self[id_].raft.role}")
