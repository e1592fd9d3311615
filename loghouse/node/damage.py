"""What a node does about damage in its log: bytes that were acknowledged and are not what they were.

A member of a cluster mends committed entries of a sealed segment in their place, while it runs
(`replica.entry_repair`). Where that is not possible it cuts its log before the damage when it starts, and
gets the rest from the leader as any follower does; until it has it, it votes by what it once held
(`raft.ready.Damage`). Such damage found while it runs ends the process, so that the next start does this. A
lone node has nobody to ask: it refuses to start, and when it meets damage while it runs, it serves the
rest.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.errors import DamageError, UnavailableError, short_of
from loghouse.node.options import Clocks, NodeOptions, Transport
from loghouse.protocol.configuration import Configuration
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.message import Message
from loghouse.protocol.repair_messages import EntriesReply, EntriesRequest
from loghouse.raft.ready import Damage
from loghouse.replica.driver import RaftDriver
from loghouse.replica.entry_repair import EntryRepair
from loghouse.replica.scrubber import Scrubber
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import Files
from loghouse.storage.log import Log
from loghouse.storage.loss import Loss, read_loss, remove_loss, write_loss
from loghouse.storage.others import has_others, knows_others
from loghouse.storage.repair import cut_for_refetch

NOTE_SECONDS_MAX: Final = 5.0  # a disk that hangs must not keep a process that has to end
PLACES_MAX: Final = 64  # damaged places that are told of once each


class LogRepair:
    """Opens one group's log, damaged or not, and keeps the file `damage` true."""

    logger = Logger()

    def __init__(self, files: Files, directory: DataDirectory, group: int) -> None:
        """Look after a log that is not open yet."""
        self._files = files
        self._data = directory
        self._group = group
        self._directory = directory.log_directory(group)
        self._seed = frame_seed(directory.identity.cluster_uuid, group)
        self.damage: Damage | None = None

    def open_log(self) -> Log:
        """Open the log and say so; a member's damaged one is cut before the damage first.

        Raises:
            DamageError: A lone node's log is damaged, or a member's beyond this; the text says what to do.
            StorageError: As `Log.open`.
        """
        loss = read_loss(self._files, self._directory, self._seed)
        if loss is not None and not loss.is_cut:
            self._cut("damage was found when this node ran last")
        try:
            log = self._open()
        except DamageError as error:
            if not knows_others(self._files, self._data, self._group):
                raise
            self._cut(f"{error.file}: damaged at byte {error.position}: {error.problem}")
            log = self._open()
        loss = read_loss(self._files, self._directory, self._seed)
        if loss is not None:
            self.damage = Damage(loss.last_index, loss.last_term)
            self.logger.error(
                "the log ends at entry {end}, it once held {last}: no vote for less, no candidacy, until "
                "the rest came from the leader",
                end=log.last_index,
                last=loss.end_text,
            )
        for warning in log.warnings:
            self.logger.warn("{found}", found=warning)
        self.logger.info(
            "log open: offsets {lowest} to {next} (next), term {term}",
            lowest=log.lowest_offset,
            next=log.next_offset,
            term=log.hard_state.term,
        )
        return log

    def _open(self) -> Log:
        is_member = knows_others(self._files, self._data, self._group)
        log = self._data.open_log(self._group, leaves_damage=is_member)
        if not is_member:
            return log
        for base in sorted(log.unknown_ends):
            self.logger.error("segment {base} is damaged; repairing it while the node runs", base=base)
        try:
            # A member begins with the state at its commit index, which may be in a sealed segment.
            log.state_at(max(min(log.commit_index, log.last_index), log.first_index - 1))
        except DamageError:
            log.close()
            raise
        return log

    def _cut(self, why: str) -> None:
        self.logger.critical("{why}; repairing from the other members of the cluster", why=why)
        cluster = self._data.identity.cluster_uuid
        repair = cut_for_refetch(self._files, self._directory, cluster=cluster, group=self._group)
        for action in repair.actions:
            self.logger.error("{action}", action=action)

    def note(self, log: Log) -> None:
        """Make the next start look for damage and cut there; on the disk thread, once no more is written."""
        index = log.durable_index
        loss = Loss(index, log.term_at(index))
        if self.damage is not None and (self.damage.last_term, self.damage.last_index) > loss.pair:
            loss = Loss(self.damage.last_index, self.damage.last_term)
        write_loss(self._files, self._directory, self._seed, loss)

    def forget(self) -> None:
        """Remove the file: the log is durably as up to date again; on the disk thread."""
        remove_loss(self._files, self._directory)


class Repairing:
    """The part of a node that meets damage, and the end of the process."""

    logger: Logger
    name: str
    is_writable: bool
    has_leader: bool
    options: NodeOptions
    transport: Transport | None
    _has_failed: bool
    _is_stopping: bool
    _clocks: Clocks
    _files: Files
    _rng: random.Random
    _disk: WorkQueue
    _readers: WorkQueue
    _log: Log | None
    _replica: RaftDriver | None
    _on_fatal: Callable[[Failure], None]
    _log_repair: LogRepair | None = None
    _damaged_places: set[tuple[str, int]]
    _entry_repair: EntryRepair | None = None
    _scrubber: Scrubber | None = None

    if TYPE_CHECKING:

        @property
        def configuration(self) -> Configuration:
            """The latest configuration of the log; the node has it."""

    def fatal(self, failure: Failure) -> None:
        """The process must end. When damage is why, a member's next start repairs it."""
        if self._has_failed:
            return
        self._has_failed = True
        self.is_writable = self.has_leader = False
        log, repair = self._log, self._log_repair
        error = failure.value
        if isinstance(error, DamageError) and log is not None and repair is not None and self._is_member:
            # From here on nothing is acknowledged any more: what is durable now is all that was promised.
            if self._replica is not None:
                self._replica.stop()
            remedy = "start this node again: it repairs that from the other members"
            failure = Failure(DamageError(error.file, error.position, error.problem, remedy=remedy))
            noted = self._disk.run(lambda: repair.note(log))
            noted.addTimeout(NOTE_SECONDS_MAX, self._clocks.scheduler)
            noted.addErrback(self._note_failed).addCallback(lambda _: self._on_fatal(failure))
            return
        self._on_fatal(failure)
        if self._replica is not None:
            self._replica.stop()

    def _note_failed(self, failure: Failure) -> None:
        self.logger.critical("cannot note the damage: {reason}", reason=failure.getErrorMessage())

    @property
    def _damage(self) -> Damage | None:
        """What the log once held, while it is being repaired."""
        return self._log_repair.damage if self._log_repair is not None else None

    @property
    def _is_member(self) -> bool:
        return has_others(self.configuration, self.name) or self._damage is not None

    def read_failed(self, failure: Failure) -> Any:
        """Look at why a read failed, and say what to do; damaged bytes were not served."""
        short = short_of(failure.value) if failure.value is not None else None
        if short is not None:
            return Failure(short)
        if isinstance(failure.value, DamageError) and self._is_mended(failure.value, failure):
            return Failure(
                UnavailableError(
                    "these records are damaged on this node's disk and are being repaired from the other "
                    "members; read them from another node, or try again"
                )
            )
        return failure

    def damage_found(self, error: DamageError) -> None:
        """Damage was met by the scrubber, by the core, or while reading for another member."""
        self._is_mended(error, Failure(error))

    def _is_mended(self, error: DamageError, failure: Failure) -> bool:
        """Begin to mend, and return whether that is possible; else tell, and let a member end."""
        if self._has_failed or self._is_stopping:
            return False
        is_member, entry_repair = self._is_member, self._look_after()
        if is_member and entry_repair is not None and entry_repair.take(error):
            return True
        place = (error.file, error.position)
        if place not in self._damaged_places and len(self._damaged_places) < PLACES_MAX:
            self._damaged_places.add(place)
            self.logger.critical("damage was met: {reason}", reason=str(error))
        if is_member:
            self.fatal(failure)
        return False

    # --- mending in place (`mending.EntryRepairOwner`, `scrubbing.ScrubOwner`) ------------------------

    def _look_after(self) -> EntryRepair | None:
        """Return who mends the log, from its opening on."""
        log = self._log
        if self._entry_repair is None and log is not None:
            self._entry_repair = EntryRepair(
                self._files,
                log,
                self,
                readers=self._readers,
                disk=self._disk,
                choose_id=lambda: self._rng.getrandbits(64),
            )
            self._scrubber = Scrubber(
                self._files,
                log,
                self,
                readers=self._readers,
                rate=self.options.scrub_rate,
                monotonic=self._clocks.monotonic,
            )
        return self._entry_repair

    @property
    def committed_index(self) -> int:
        """The last entry that is committed for certain and durable here."""
        if self._replica is None:
            return 0
        # Not what is readable: that may wait for the very entries that are damaged.
        raft = self._replica.raft
        return min(raft.commit_index, raft.durable_index)

    @property
    def is_ending(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._is_stopping or self._has_failed

    def mend_sources(self) -> list[str]:
        """The names of the other members."""
        return [member.name for member in self.configuration.members if member.name != self.name]

    def send_to(self, name: str, message: Message) -> bool:
        """Send a message to a node; False when it certainly was not sent."""
        return self.transport is not None and self.transport.send(name, message)

    def beyond_mending(self, error: DamageError) -> None:
        """Damage that cannot be mended in place: the next start repairs it."""
        self.logger.critical("damage cannot be repaired in place: {reason}", reason=str(error))
        self.fatal(Failure(error))

    def index_wrong(self, base_index: int, entries: bytes) -> None:
        """Make an index file anew."""
        log = self._log
        assert log is not None
        self.logger.warn("the index of segment {base} did not fit its store: it is rebuilt", base=base_index)
        self._disk.run(lambda: log.mend_index(base_index, entries)).addErrback(self.fatal)

    def repair_message_received(self, source: str, message: Message) -> bool:
        """Take a message about damaged entries; False when it is about something else."""
        entry_repair = self._look_after()
        match message:
            case EntriesRequest():
                if entry_repair is not None:
                    entry_repair.serve(source, message)
            case EntriesReply():
                if entry_repair is not None:
                    entry_repair.reply_received(source, message)
            case _:
                return False
        return True

    def look_at_damage(self) -> None:
        """Read and mend what is due; called at each tick."""
        entry_repair = self._look_after()
        if entry_repair is not None and self._scrubber is not None:
            entry_repair.look(self._clocks.monotonic())
            self._scrubber.look()
        self._look_at_loss()

    def _look_at_loss(self) -> None:
        """Forget about damage once the core does: the log is durably as up to date as it was."""
        repair, replica = self._log_repair, self._replica
        if repair is None or replica is None or repair.damage is None or replica.raft.damage is not None:
            return
        repair.damage = None
        self.logger.info("the damaged log is repaired: everything it held came from the leader")
        self._disk.run(repair.forget).addErrback(self.fatal)
