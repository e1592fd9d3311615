"""What a replica does about damage in its log: bytes that were acknowledged and are not what they were.

A member of a cluster mends committed entries of a sealed segment in their place, while it runs
(`replica.entry_repair`). Where that is not possible it cuts its log before the damage when it starts, and
gets the rest from the leader as any follower does; until it has it, it votes by what it once held
(`raft.ready.Damage`). Such damage found while it runs ends the process, so that the next start does this. A
lone node has nobody to ask: it refuses to start, and when it meets damage while it runs, it serves the
rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from loghouse.errors import DamageError, UnavailableError, short_of
from loghouse.metrics import Metrics
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.message import Message
from loghouse.protocol.repair_messages import EntriesReply, EntriesRequest
from loghouse.raft.ready import Damage
from loghouse.replica.driver import ReplicaLike
from loghouse.replica.entry_repair import EntryRepair
from loghouse.replica.scrubber import Scrubber
from loghouse.runtime.events import Logger, name_lines
from loghouse.runtime.scheduling import Clocks
from loghouse.runtime.threads import WorkQueue
from loghouse.shares import Pace
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

    def __init__(self, files: Files, directory: DataDirectory, group: int, log_name: str = "") -> None:
        """Look after a log that is not open yet. `log_name` is what lines about it begin with."""
        name_lines(log_name, self)
        self._files = files
        self._data = directory
        self._group = group
        self._directory = directory.log_directory(group)
        self._seed = frame_seed(directory.identity.cluster_uuid, group)
        self.log: Log | None = None  # set by `open_log`, once
        # What the log once held, while it is being repaired from the leader.
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
        self.log = log
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


class DamageControl:
    """What a replica does about damage in its log: mend it in its place, or have the next start repair it.

    It is the owner of `entry_repair` and of `scrubber` (`MendingOwner`).
    """

    logger = Logger()

    def __init__(
        self,
        owner: ReplicaLike,
        log_repair: LogRepair,
        *,
        files: Files,
        disk: WorkQueue,
        readers: WorkQueue,
        clocks: Clocks,
        choose_id: Callable[[], int],
        scrub_rate: int,
        metrics: Metrics,
        scrub_pace: Pace | None = None,
    ) -> None:
        """Nothing happens before the first `tick`, damage, or message of another member.

        Args:
            readers: Threads for what may wait for a disk.
            choose_id: Returns a random u64, as `EntryRepair` wants it.
            scrub_rate: Bytes a second to read of sealed segments; 0 reads nothing.
            metrics: Told when all of them were read.
            scrub_pace: See `Scrubber`.
        """
        assert log_repair.log is not None
        self._metrics = metrics  # told of damage that is found and repaired
        self._mended_count = 0  # entries that were told to be repaired
        self._owner = owner  # the replica
        self._log = log = log_repair.log
        self._log_repair = log_repair  # what opened the log
        self._disk = disk  # the thread that writes
        self._clocks = clocks
        # Damaged places (file, position) that were logged, so that each is logged once; it only grows.
        self._places: set[tuple[str, int]] = set()
        self.entry_repair = EntryRepair(files, log, self, readers=readers, disk=disk, choose_id=choose_id)
        self.scrubber = Scrubber(
            files,
            log,
            self,
            readers=readers,
            rate=scrub_rate,
            monotonic=clocks.monotonic,
            metrics=metrics,
            pace=scrub_pace,
        )

    @property
    def damage(self) -> Damage | None:
        """What the log once held, while it is being repaired from the leader."""
        return self._log_repair.damage

    @property
    def is_damaged(self) -> bool:
        """Whether damage is known: it is being repaired, or a lone node met what nobody can give it."""
        return self.damage is not None or self.entry_repair.pending > 0 or bool(self._places)

    @property
    def is_member(self) -> bool:
        """Whether there are others that have what is damaged here; a damaged log may not know them."""
        return has_others(self._owner.configuration, self._owner.node_name) or self.damage is not None

    # --- the end of the process ---------------------------------------------------------------

    def note(self, error: DamageError, done: Callable[[DamageError], object]) -> None:
        """Note for the next start that it must repair the log; nothing is written to it any more.

        Calls `done` with the error to end the process with, also when the note could not be made in time.
        """
        remedy = "start this node again: it repairs that from the other members"
        last = DamageError(error.file, error.position, error.problem, remedy=remedy)
        is_done = False

        def end() -> None:
            nonlocal is_done
            if not is_done:
                is_done = True
                if timer.active():
                    timer.cancel()
                done(last)

        def failed(problem: object) -> None:
            if not is_done:
                self.logger.critical("cannot note the damage: {reason}", reason=str(problem))
                end()

        too_late = f"the disk took more than {NOTE_SECONDS_MAX:g} s"
        timer = self._clocks.scheduler.callLater(NOTE_SECONDS_MAX, failed, too_late)
        self._disk.submit(lambda: self._log_repair.note(self._log), lambda _: end(), failed)

    # --- damage that is met -------------------------------------------------------------------

    def read_failed(self, error: BaseException) -> BaseException:
        """Look at why a read failed, and return what its reader is told; damaged bytes were not served."""
        short = short_of(error)
        if short is not None:
            return short
        if isinstance(error, DamageError) and self._is_mended(error):
            return UnavailableError(
                "these records are damaged on this node's disk and are being repaired from the other "
                "members; read them from another node, or try again"
            )
        return error

    def damage_found(self, error: DamageError) -> None:
        """Damage was met by the scrubber, by the core, or while reading for another member."""
        self._is_mended(error)

    def _is_mended(self, error: DamageError) -> bool:
        """Begin to mend, and return whether that is possible; else tell, and let a member end."""
        if self._owner.is_ending:
            return False
        is_member = self.is_member
        pending = self.entry_repair.pending
        if is_member and self.entry_repair.take(error):
            if self.entry_repair.pending > pending:
                self._metrics.damage_found()
            return True
        place = (error.file, error.position)
        if place not in self._places and len(self._places) < PLACES_MAX:
            self._places.add(place)
            self._metrics.damage_found()
            self.logger.critical("damage was met: {reason}", reason=str(error))
        if is_member:
            self._owner.fatal(error)
        return False

    # --- mending in place (`entry_repair.MendingOwner`) ---------------------------------------

    @property
    def committed_index(self) -> int:
        """The last entry that is committed for certain and durable here."""
        driver = self._owner.driver
        if driver is None:
            return 0
        # Not what is readable: that may wait for the very entries that are damaged.
        return min(driver.raft.commit_index, driver.raft.durable_index)

    @property
    def is_ending(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._owner.is_ending

    def fatal(self, error: BaseException) -> None:
        """The process must end."""
        self._owner.fatal(error)

    def mend_sources(self) -> list[str]:
        """The names of the other members."""
        own_name = self._owner.node_name
        return [member.name for member in self._owner.configuration.members if member.name != own_name]

    def send_to(self, name: str, message: Message) -> bool:
        """Send a message to a node; False when it certainly was not sent."""
        return self._owner.send_to(name, message)

    def beyond_mending(self, error: DamageError) -> None:
        """Damage that cannot be mended in place: the next start repairs it."""
        self.logger.critical("damage cannot be repaired in place: {reason}", reason=str(error))
        self._owner.fatal(error)

    def index_wrong(self, base_index: int, entries: bytes) -> None:
        """Make an index file anew."""
        log = self._log
        self.logger.warn("the index of segment {base} did not fit its store: it is rebuilt", base=base_index)
        self._disk.run(lambda: log.mend_index(base_index, entries), fatal=self._owner.fatal)

    def message_received(self, source: str, message: EntriesRequest | EntriesReply) -> None:
        """Take a message of another member about damaged entries, its own or this node's."""
        if isinstance(message, EntriesRequest):
            self.entry_repair.serve(source, message)
        else:
            self.entry_repair.reply_received(source, message)

    def tick(self) -> None:
        """Read and mend what is due."""
        self.entry_repair.look(self._clocks.monotonic())
        if self.entry_repair.mended != self._mended_count:
            self._metrics.damage_repaired(self.entry_repair.mended - self._mended_count)
            self._mended_count = self.entry_repair.mended
        self.scrubber.look()
        self._look_at_loss()

    def _look_at_loss(self) -> None:
        """Forget about damage once the core does: the log is durably as up to date as it was."""
        repair, driver = self._log_repair, self._owner.driver
        if driver is None or repair.damage is None or driver.raft.damage is not None:
            return
        repair.damage = None
        self.logger.info("the damaged log is repaired: everything it held came from the leader")
        self._disk.run(repair.forget, fatal=self._owner.fatal)
