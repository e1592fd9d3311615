"""A simulated machine with one replica on it: the production driver over its log, and faults.

What a replica asks of its node is answered as simply as it can be: members find each other by a table, and
damage or a write that cannot be finished ends the process.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.python.failure import Failure

from loghouse.errors import DamageError, LoghouseError, UnavailableError
from loghouse.metrics import NO_METRICS
from loghouse.node.reads import reads_of
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.cursor_messages import CursorOrder
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.raft.ready import Proposal, SoftState
from loghouse.replica.damage import LogRepair
from loghouse.replica.driver import RaftDriver
from loghouse.replica.replica import ReplicaOptions
from loghouse.runtime.scheduling import Clocks
from loghouse.storage.log import Log
from loghouse.testing.host import Host
from loghouse.testing.life import Life
from loghouse.testing.machine import DIRECTORY
from loghouse.testing.queue import DiskQueue, ReaderQueue
from loghouse.testing.simulation import Simulation
from loghouse.testing.watch import WatchedReplica
from loghouse.testing.workload import AcknowledgedAppend, Answer

HOUSEKEEPING_TICKS: Final = 3  # between two looks at what found no room
LATE_SECONDS: Final = 1e-6  # between two things that waited for the end of a pause

Places = dict[int, tuple[int, bytes]]
"""Which machine and disk an id was given to; ids are never given twice in a run."""


class SimNode(Host):
    """A machine: its disk outlives its process. It stands for the node that hosts a replica."""

    def __init__(
        self,
        cluster: Simulation[SimNode],
        number: int,
        *,
        places: Places,
        transmit: Callable[[int, int, Envelope], None],
        cluster_uuid: bytes,
    ) -> None:
        """Take a machine that is off; `transmit` carries a message from one machine to another."""
        super().__init__(cluster, number, directory=DIRECTORY, cluster_uuid=cluster_uuid)
        self._places = places
        self._transmit = transmit
        self._member = 0
        self._forget()

    def _forget(self) -> None:
        """Lose what only memory held."""
        self._replica: SimReplica | None = None
        self._log: Log | None = None
        self.disk: DiskQueue | None = None
        self._ticks = 0
        self._late = 0  # how much came in during pauses
        # The machines of members that the own configuration does not know, as their messages came.
        self._routes: dict[int, int] = {}

    # --- life -----------------------------------------------------------------------

    def _boot(self, life: Life) -> None:
        """Recover the log, then run the core on it, if this machine is a member yet."""
        self._log = self.machine.open_log()
        if self._member:
            self._start_core(life, self._log)

    def _start_core(self, life: Life, log: Log) -> None:
        replica = self._replica = SimReplica(self, life, log)
        replica.begin(self._member)
        life.callLater(self.cluster.options.tick_seconds * (1 + self.rng.random()), self._tick, life)

    def _tick(self, life: Life) -> None:
        life.callLater(self.cluster.options.tick_seconds, self._tick, life)
        assert self._replica is not None
        try:
            self._replica.tick()
            self._ticks += 1
            if self._ticks % HOUSEKEEPING_TICKS == 0:
                self._replica.disk_room.look()
        except LoghouseError as error:
            self.fatal(error)

    def _power_off(self) -> None:
        disk = self.disk
        self._end(with_power=True)
        if disk is not None:
            disk.break_off(self._point_rng)
        self.machine.lose_power(self._point_rng)
        self.cluster.trace.note(f"{self.name} loses power")

    def _ended(self, life: Life, *, with_power: bool) -> None:
        self._forget()

    def replace_disk(self) -> None:
        """Put an empty disk into the machine; it waits to become another member."""
        super().replace_disk()
        self.join(0)
        self.machine.create_log([])

    def join(self, id_: int) -> None:
        """Be that member from the next start on; 0: none."""
        self._member = id_

    # --- what the replica asks of a node, and tells it -----------------------------------

    @property
    def is_ending(self) -> bool:
        """Whether nothing new is to be begun."""
        return not self.is_up

    def send_raft(self, envelope: Envelope) -> None:
        """Send a message to the machine of a member, as the configuration or the links say."""
        target = self._route(envelope.target)
        if target:
            self._transmit(self.number, target, envelope)

    def send(self, name: str, message: Message) -> bool:
        """Nothing but Raft is spoken here."""
        return False

    def _route(self, id_: int) -> int:
        assert self.driver is not None
        member = self.driver.raft.configuration.member(id_)
        if member is None:
            return self._routes.get(id_, 0)
        number, _ = self._places.get(id_, (0, b""))
        # Hello must show the disk that the configuration names; another one there gets nothing.
        nodes = self.cluster.nodes
        return number if number and nodes[number].machine.disk_uuid == member.disk_uuid else 0

    def role_changed(self, state: SoftState) -> None:
        """Role, leader or term are others now: the watch has told."""

    def readable_to(self, next_offset: int) -> None:
        """Every record below `next_offset` is readable here; nobody waits for that."""

    def exit(self) -> None:
        """End the process, and start it again after a while."""
        if self.is_up:
            self._exit()

    def fatal(self, error: BaseException) -> None:
        """The process must end."""
        if self.life is not None:
            self._fatal(self.life, Failure(error))

    # --- in -------------------------------------------------------------------------

    def receive(self, source: int, envelope: Envelope) -> None:
        """Take a message from the network. A machine learns its id from the first one that is for it."""
        if self.life is not None:
            self._bring(self.life, self._receive, self.life, source, envelope)

    def _bring(self, life: Life, work: Callable[..., object], *args: Any) -> None:
        """Bring something in from outside; behind a pause one after the other, with turns between them."""
        if self.paused_until > self.cluster.clock.seconds():
            self._late += 1
            when = self.paused_until + self._late * LATE_SECONDS
            self.cluster.clock.at(when, self._bring, life, work, *args)
        else:
            life.enter(work, *args)

    def _receive(self, life: Life, source: int, envelope: Envelope) -> None:
        if envelope.target != self._member and not self._take_id(life, envelope.target):
            return
        if self.driver is not None:
            self._routes[envelope.source] = source
            self.driver.receive(envelope)

    def _take_id(self, life: Life, id_: int) -> bool:
        """Become the member that a leader's configuration says this disk is; ids only go up."""
        if id_ < self._member or self._places.get(id_) != (self.number, self.machine.disk_uuid):
            return False
        assert self._log is not None
        before = self._member
        self.join(id_)
        if before:
            self._exit()  # added again under a new id: the process starts over with it
            return False
        self._start_core(life, self._log)
        return True

    # --- requests ---------------------------------------------------------------------

    def _ask(self, answer: Answer, ask: Callable[..., object], *args: Any) -> None:
        """Carry a request into the process; it is answered while that lives."""
        life = self.life
        if life is not None and life.is_alive:

            def answered(result: object) -> None:
                if life.is_alive:
                    answer(result)

            self._bring(life, ask, answered, *args)

    def propose(self, proposal: Proposal, answer: Answer) -> None:
        """Append a batch, if this node leads; answers `AcknowledgedAppend` or an error."""
        self._ask(answer, self._propose, proposal)

    def _propose(self, answer: Answer, proposal: Proposal) -> None:
        if self._replica is None:
            answer(UnavailableError("this node is no member; ask another"))
        else:
            self._replica.propose(
                proposal, lambda done: answer(AcknowledgedAppend(done.index, done.base_offset)), answer
            )

    def order_cursor(self, order: CursorOrder, answer: Answer) -> None:
        """Do something about a cursor, if this node leads; answers the `CursorPage` or an error."""
        self._ask(answer, self._order_cursor, order)

    def _order_cursor(self, answer: Answer, order: CursorOrder) -> None:
        if self._replica is None:
            answer(UnavailableError("this node is no member; ask another"))
        else:
            self._replica.cursors.carry_out(order, answer, answer)

    def read(self, offset: int, answer: Answer) -> None:
        """Answer the entry that holds `offset`; a miss only once a leader said where the end is."""
        self._ask(answer, self._read, offset)

    def _read(self, answer: Answer, offset: int) -> None:
        if self._replica is not None:
            fetching = self._replica.reads.fetch(offset, 1).addCallback(self._fetched, offset)
            fetching.addBoth(self._answer, answer, offset).addErrback(self._crashed)

    def tail(self, answer: Answer) -> None:
        """Answer the next offset, as of now."""
        self._ask(answer, self._tail)

    def _tail(self, answer: Answer) -> None:
        if self._replica is not None:
            asking = self._replica.reads.bounds().addCallback(self._bounds)
            asking.addBoth(self._answer, answer).addErrback(self._crashed)

    def change_configuration(self, configuration: Configuration) -> bool:
        """Propose a configuration on the leader; False when it is refused."""
        if self.driver is None:
            return False
        refused: list[BaseException] = []
        self.driver.propose_configuration(configuration, lambda appended: None, refused.append)
        return not refused

    def transfer(self, rng: random.Random) -> str:
        """Hand leadership to some other voter."""
        if self.driver is None:
            return ""
        members = self.driver.raft.configuration.members
        others = sorted(m.id for m in members if m.role == MemberRole.VOTER and m.id != self._member)
        if not others:
            return ""
        try:
            self.driver.transfer_leadership(rng.choice(others))
        except LoghouseError:
            return ""
        return "transfer"

    # --- what it is -------------------------------------------------------------------

    @property
    def member(self) -> int:
        """Its id in the group, 0 while it waits to be added; also while it is off."""
        return self._member

    @property
    def log(self) -> Log | None:
        """The log, while the process runs."""
        return self._log

    @property
    def driver(self) -> RaftDriver | None:
        """What runs the core, while the process runs and is a member."""
        return self._replica.driver if self._replica is not None else None


class OpenedLog(LogRepair):
    """A log that was opened whole: who meets damage here is given an empty disk."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.damage = None


class SimReplica(WatchedReplica):
    """A `Replica` under watch. Where the production one repairs or goes back, the process ends."""

    def __init__(self, node: SimNode, life: Life, log: Log) -> None:
        """Host a log that was opened just now."""
        self._node = node
        node.disk = DiskQueue(node, life)
        super().__init__(
            partial(node.open_watch, life),
            node,
            OpenedLog(log),
            options=ReplicaOptions(
                node_name=node.name,
                disk_uuid=node.machine.disk_uuid,
                data_dir=DIRECTORY,
                raft=node.cluster.options.raft,
                scrub_rate=0,
                metrics=NO_METRICS,
            ),
            files=node.machine.disk,
            clocks=Clocks(life, life.soon, life.callLater, node.wall, life.seconds),
            rng=random.Random(node.rng.getrandbits(64)),
            disk=node.disk,
            readers=ReaderQueue(node, life),
        )
        self.reads = reads_of(self)
        # Nobody is asked for entries: what is damaged ends the process.
        self.damage_control.entry_repair.take = lambda error: False  # type: ignore[method-assign]

    def begin(self, id_: int) -> None:
        """Run the core as that member."""
        self._begin(id_)

    def restart_core(self, driver: RaftDriver, id_: int = 0) -> None:
        """Go on with what the disk holds: start the process again."""
        self._node.exit()

    def damage_found(self, error: DamageError) -> None:
        """The core met damage in committed entries."""
        self.fatal(error)
