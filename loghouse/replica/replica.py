"""One log on one node: its files, its member of the Raft group, and what is done about damage, room and age.

A `Replica` exists from the moment on at which the node belongs to the log's group. All decisions are in pure
code (`raft`, `retention`, `storage`): the driver runs the consensus core over the log, and the parts beside
it keep the log whole and within its bounds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from loghouse.errors import (
    DamageError,
    DiskFullError,
    MembershipError,
    RequestError,
    UnavailableError,
)
from loghouse.limits import MICROSECONDS
from loghouse.metrics import Metrics
from loghouse.protocol.configuration import Configuration, Member
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.raft.config import RaftConfig
from loghouse.raft.core import Raft
from loghouse.raft.ready import Damage, Role, SoftState
from loghouse.replica.api import OnAppended, OnFailed, Proposal
from loghouse.replica.budgets import Budgets
from loghouse.replica.cold_reads import ColdReads, WatchedWrites
from loghouse.replica.damage import DamageControl, LogRepair
from loghouse.replica.disk_room import DiskRoom
from loghouse.replica.driver import RaftDriver
from loghouse.replica.led_cursors import LedCursors
from loghouse.replica.read_ahead import ReadAhead
from loghouse.runtime.events import Logger, name_lines
from loghouse.runtime.scheduling import Clocks
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.files import Files

if TYPE_CHECKING:
    from loghouse.tracing.spans import Tracer

# How lately the leader must have heard the voters that a change of its own accord would leave.
HEARD_TICKS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaOptions:
    """Where a replica is and how it works.

    Sizes are bytes, `scrub_rate` bytes a second (0: no scrubbing). `metrics` is told of ignored
    messages and of scrubs. `log_name` is what lines about it begin with; empty: nothing. As a member below
    `member_min` it takes no part, whatever its log or a message says: the disk lost what that one promised.
    `tracer` makes spans of appends; None: nobody traces.
    """

    node_name: str
    disk_uuid: bytes
    data_dir: str
    raft: RaftConfig
    scrub_rate: int
    metrics: Metrics
    log_name: str = ""
    tracer: Tracer | None = None
    member_min: int = 0


def _driver_class(tracer: Tracer | None) -> Callable[..., RaftDriver]:
    if tracer is None:
        return RaftDriver
    from loghouse.replica.tracing import TracedDriver

    return partial(TracedDriver, tracer=tracer)


class ReplicaOwner(Protocol):
    """What a replica asks of the node that hosts it, and what it tells that node."""

    @property
    def is_ending(self) -> bool:
        """Whether the node begins nothing new."""

    def send_raft(self, envelope: Envelope) -> None:
        """Send a Raft message to another member, or drop it: Raft sends again."""

    def send(self, name: str, message: Message) -> bool:
        """Send another message to a node; False when it certainly was not sent."""

    def role_changed(self, state: SoftState) -> None:
        """Role, leader or term are others now."""

    def readable_to(self, next_offset: int) -> None:
        """Every record below `next_offset` is readable here."""

    def fatal(self, error: BaseException) -> None:
        """The process must end: the disk failed, or the log contradicts what is committed."""


class Replica:
    """One log on one node. It is the owner of its driver, damage control and disk room."""

    logger = Logger()

    def __init__(
        self,
        owner: ReplicaOwner,
        opened: LogRepair,
        *,
        options: ReplicaOptions,
        files: Files,
        clocks: Clocks,
        rng: random.Random,
        disk: WorkQueue,
        readers: WorkQueue,
        budgets: Budgets | None = None,
    ) -> None:
        """Host a log that `opened` has opened just now; nothing happens before `start`.

        Args:
            budgets: What the logs of the node share; None: this one is alone.
        """
        assert opened.log is not None
        self._owner = owner  # the node, for this log; fixed
        self.options = options  # where it is and how it works; others after `change`
        self._metrics = options.metrics  # told of elections; fixed
        self._clocks = clocks  # time; fixed
        self._rng = rng  # makes election timeouts and ids of requests; fixed
        self._disk = disk  # runs writes on the disk's thread, in order; fixed
        self.readers = readers  # runs what may wait for a disk; fixed
        self.log = opened.log  # the files; fixed, closed by the node
        # Runs the core. None until this node knows its member id, which the leader's first message tells when
        # the log does not. Each new id or go-back replaces it, with None in between.
        self.driver: RaftDriver | None = None
        self._is_renewing = False  # True while the disk thread syncs between one driver and the next
        self.is_writable = True  # whether the disk takes appends; set by the disk room, False once stopped
        self.has_leader = False  # whether a leader is known; set at each change of role, False once stopped
        self._last_leader = 0  # the last member that was known to lead; 0 before there was one
        self._last_role = Role.FOLLOWER  # the role last told
        # What this log shares with the others of the node; fixed.
        self._budgets = budgets or Budgets.for_node(options.raft)
        # What is done about damage in the log; fixed.
        self.damage_control = DamageControl(
            self,
            opened,
            files=files,
            disk=disk,
            readers=readers,
            clocks=clocks,
            choose_id=lambda: rng.getrandbits(64),
            scrub_rate=options.scrub_rate,
            metrics=options.metrics,
            scrub_pace=self._budgets.scrubbing,
        )
        # Takes room ahead, trims, and lives without room; fixed.
        self.disk_room = DiskRoom(
            self,
            self.log,
            disk=disk,
            clocks=clocks,
            data_dir=options.data_dir,
            log_name=options.log_name,
        )
        # Whoever asks about cursors while this node leads; fixed.
        self.cursors = LedCursors(self, clocks.monotonic)
        mending = self.damage_control, self.damage_control.entry_repair, self.damage_control.scrubber
        name_lines(options.log_name, self, self.disk_room, *mending)

    def change(self, *, raft: RaftConfig, scrub_rate: int) -> None:
        """Go on with other bounds and rates of the node's settings."""
        self.options = replace(self.options, raft=raft, scrub_rate=scrub_rate)
        self.damage_control.scrubber.rate = scrub_rate
        if self.driver is not None:
            self.driver.raft.config = raft

    # --- life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Run the core, if the log tells which member this node is; else the leader's first message does."""
        member = self._own_member()
        if member is not None:
            self._begin(member.id)

    def _own_member(self) -> Member | None:
        options, members = self.options, self.configuration.named(self.options.node_name)
        own = [one for one in members if one.disk_uuid == options.disk_uuid and one.id >= options.member_min]
        return own[0] if own else None

    def _begin(self, id_: int) -> None:
        driver = self.driver = self._make_driver(id_)
        driver.raft.disk_is_full = not self.is_writable
        self.disk_room.driver_began(driver)
        # Who came while nothing drove the core may wait for what is readable already.
        self._owner.readable_to(driver.readable_offset)
        driver.start()

    def _make_driver(self, id_: int) -> RaftDriver:
        """Return the driver of a new core over the log, as the member of that id."""
        log, clocks, damage = self.log, self._clocks, self.damage
        # The disk of a lone voter is the majority: all it holds is committed, also what was written behind
        # the last watermark. It must be readable even if there is no room now for an entry of a new term.
        is_lone = log.state.configuration.voters == {id_} and damage is None
        read_failed = self.damage_control.read_failed
        budgets, scheduler = self._budgets, clocks.scheduler
        read_ahead = ReadAhead(log, self.readers, read_failed, scheduler=scheduler, pace=budgets.catch_up)
        raft = Raft(
            self.options.raft,
            id=id_,
            group=log.group,
            seed=log.seed,
            reader=read_ahead,
            hard_state=log.hard_state,
            rng=self._rng,
            commit_index=log.last_index if is_lone else log.commit_index,
            damage=damage,
            now=int(clocks.wall() * MICROSECONDS),
            metrics=self.options.metrics,
            caches=budgets.caches,
        )
        driver = _driver_class(self.options.tracer)(
            raft,
            log,
            disk=WatchedWrites(self._disk, budgets.cold_reads, scheduler.seconds),
            soon=clocks.soon,
            later=clocks.later,
            wall=clocks.wall,
            owner=self,
            read_ahead=read_ahead,
            tally=tallies.groups if (tallies := self.options.metrics.tallies) is not None else None,
        )
        name_lines(self.options.log_name, driver)
        return driver

    def restart_core(self, driver: RaftDriver, id_: int = 0) -> None:
        """Go on with what the disk holds, in the place of a driver that is stopped."""
        self.driver, self._is_renewing = None, True
        commit_index = driver.raft.commit_index

        def begin(_: object = None) -> None:
            self._is_renewing = False
            if not self.is_ending:
                self._begin(id_ or driver.raft.id)

        def not_synced(error: BaseException) -> None:
            if not isinstance(error, DiskFullError):
                raise error
            begin()

        # Behind what the old one still writes; the new one takes all that the log holds for durable. It is,
        # also when only the watermark had no room.
        self._disk.run(lambda: self.log.sync(commit_index), begin, not_synced, fatal=self.fatal)

    def tick(self) -> None:
        """Let time pass for the core and for what is under way beside it."""
        if self.driver is not None:
            self.driver.tick()
            self.disk_room.look_at_stuck_write()
            self.damage_control.tick()

    def when_idle(self, done: Callable[[], object]) -> None:
        """Call `done` once nothing waits for the disk or for commits; at once when the disk has no room."""
        driver = self.driver
        if driver is None or driver.is_full:
            done()
        else:
            driver.when_idle(done)

    def stop(self) -> None:
        """Take part no more: nothing is acknowledged from here on. The log stays open."""
        self.is_writable = self.has_leader = False
        if self.driver is not None:
            self.driver.stop()

    # --- what it is -----------------------------------------------------------------------

    @property
    def is_ending(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._owner.is_ending

    @property
    def cold_reads(self) -> ColdReads:
        """How fast what is far behind is read, of all logs of the node."""
        return self._budgets.cold_reads

    @property
    def clocks(self) -> Clocks:
        """Time."""
        return self._clocks

    @property
    def configuration(self) -> Configuration:
        """The latest configuration of the log; empty while there is none."""
        return self.driver.raft.configuration if self.driver is not None else self.log.state.configuration

    @property
    def damage(self) -> Damage | None:
        """What the log once held, while it is being repaired from the leader."""
        return self.damage_control.damage

    @property
    def leads(self) -> bool:
        """Whether this node leads the group."""
        return self.driver is not None and self.driver.raft.role is Role.LEADER

    def member(self) -> RaftDriver:
        """Return the driver.

        Raises:
            UnavailableError: This node does not know which member it is.
        """
        if self.driver is None:
            raise UnavailableError("this node has not joined its cluster yet; try another node")
        return self.driver

    # --- what arrives ---------------------------------------------------------------------

    def receive(self, envelope: Envelope, *, is_member: bool) -> None:
        """Take a Raft message from a node that may send it.

        Args:
            is_member: Whether the own log knows its sender. What another one sends never ends this node.

        Raises:
            ProtocolError: The sender breaks the rules, or is no member and contradicts what is committed.
        """
        if self.is_ending or not envelope.target:
            return
        if self._is_renewing:
            return  # Raft says it again
        if self.driver is None:
            if envelope.target < self.options.member_min:
                return
            # The leader knows by which entry this node became a member; its own log may not hold that yet.
            self.logger.info("this node is member {id}", id=envelope.target)
            self._begin(envelope.target)
        elif envelope.target > self.driver.raft.id:
            # Ids only rise, and its sender knows this disk as that member. The own log may not tell yet.
            self._renew(self.driver, envelope.target)
            return
        assert self.driver is not None
        self.driver.receive(envelope, is_member=is_member)

    def _renew(self, driver: RaftDriver, id_: int) -> None:
        """Go on under a new id: this node was removed and is a member again."""
        driver.stop()
        self.logger.info("this node is member {id} from now on, no longer {old}", id=id_, old=driver.raft.id)
        self.restart_core(driver, id_)

    def propose(self, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> None:
        """Append a batch if this node leads; else `failed` is called. See `RaftDriver.propose`."""
        if self.driver is None:
            failed(UnavailableError("this node has not joined its cluster yet; nothing was appended"))
        elif not self.is_writable:
            failed(DiskFullError(self.options.data_dir))
        else:
            self._budgets.under_way.propose(self.driver.propose, proposal, appended, failed)
            if proposal.cursor is not None:
                self.cursors.advanced(proposal.cursor)

    def change_configuration(self, configuration: Configuration) -> None:
        """Propose a configuration on the leader; what is refused is tried again by the next look."""
        driver = self.member()
        try:
            driver.raft.check_voters(configuration, within_ticks=HEARD_TICKS)
        except MembershipError:
            return
        driver.propose_configuration(
            configuration,
            lambda appended: self.logger.info("configuration {index} is in force", index=appended.index),
            lambda error: None if isinstance(error, RequestError) else self.fatal(error),
        )

    # --- what its parts tell (`ReplicaLike`) ------------------------------------------------

    @property
    def node_name(self) -> str:
        """The node's name."""
        return self.options.node_name

    def send(self, envelope: Envelope) -> None:
        """Send a message to another member, or drop it."""
        self._owner.send_raft(envelope)

    def send_to(self, name: str, message: Message) -> bool:
        """Send another message to a node; False when it certainly was not sent."""
        return self._owner.send(name, message)

    def role_changed(self, state: SoftState) -> None:
        """Role, leader or term are others now."""
        self.has_leader = state.leader != 0
        if state.leader not in (0, self._last_leader):
            self._last_leader = state.leader
            self._metrics.leader_changed()
        if self._last_role is Role.CANDIDATE and state.role is not Role.LEADER:
            self._metrics.election_lost()
        self._last_role = state.role
        if state.role is Role.LEADER:
            self.cursors.leads(state.term)
        self.logger.info("{role} in term {term}", role=state.role.value, term=state.term)
        self._owner.role_changed(state)

    def committed(self) -> None:
        """More is readable, or was trimmed."""
        driver = self.member()
        self._owner.readable_to(driver.readable_offset)
        self.disk_room.committed(driver)

    def disk_filled(self, is_full: bool) -> None:
        """The disk has no room for appends, or has room again."""
        self.disk_room.disk_filled(is_full)

    def damage_found(self, error: DamageError) -> None:
        """The core met damage in committed entries; what needs them waits."""
        self.damage_control.damage_found(error)

    def fatal(self, error: BaseException) -> None:
        """The process must end."""
        self._owner.fatal(error)

    def last_words(self, error: BaseException, done: Callable[[DamageError], object]) -> bool:
        """Stop, and note damage so that a member's next start repairs it; False when there is none.

        Calls `done` with the error to end the process with.
        """
        if not isinstance(error, DamageError) or not self.damage_control.is_member:
            return False
        # From here on nothing is acknowledged any more: what is durable now is all that was promised.
        self.stop()
        self.damage_control.note(error, done)
        return True
