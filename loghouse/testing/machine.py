"""The hardware under a simulated node: its disk, how long the disk takes, and what is wrong with it."""

from __future__ import annotations

import errno
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IDelayedCall

from loghouse.errors import DiskFullError
from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol.entry import Entry
from loghouse.raft.ready import Ready
from loghouse.storage.hard_state import SLOT_SIZE, Slot
from loghouse.storage.log import Log
from loghouse.storage.recovery import HARD_STATE_NAME
from loghouse.storage.store import WATERMARK_POSITIONS, Watermark
from loghouse.testing.disk import CHANGING, PowerLossError, SimDisk
from loghouse.testing.disk_nodes import SimDirectory, SimFile

if TYPE_CHECKING:
    from loghouse.testing.checkers import Oracle
    from loghouse.testing.cluster import SimCluster

GROUP: Final = 1
LOGS: Final = "/logs"
DIRECTORY: Final = "/logs/1"
_ALL: Final = 1 << 40


class Machine:
    """One machine's disk, as its node's disk thread meets it. `directory` is where the log is."""

    directory = DIRECTORY

    def __init__(self, cluster: SimCluster, number: int) -> None:
        self._cluster = cluster
        self._options = cluster.options.disk
        self._rng = cluster.stream(f"disk.{number}")
        self._number = number
        self._sync_seconds_mean = self._options.sync_seconds_mean
        self._disks = 0
        self._stalled_until = 0.0
        self._slow_until = 0.0
        self._slow_factor = 1.0
        self._steps: deque[tuple[str, Any]] = deque()
        # What the node's disk thread does when the disk is done with what it is at.
        self._due: IDelayedCall | None = None
        self.new_disk()

    def new_disk(self) -> None:
        """Put an empty disk in."""
        self._disks += 1
        self.disk = SimDisk()
        self.disk_uuid = b"disk%06d%06d" % (self._number, self._disks)

    # --- the log ----------------------------------------------------------------------

    def create_log(self, entries: Sequence[Entry]) -> None:
        """Make the log's files, with these entries already in it, and make all durable."""
        disk = self.disk
        disk.make_directory(LOGS)
        disk.make_directory(DIRECTORY)
        disk.sync_directory("/")
        disk.sync_directory(LOGS)
        Log.create(disk, DIRECTORY, cluster=self._cluster.uuid, group=GROUP)
        log = self.open_log()
        if entries:
            log.append(entries)
            log.save_hard_state(term=entries[-1].term, vote=0)
            log.sync(0)
        log.close()
        disk.stop_process()

    def open_log(self) -> Log:
        """Open the log as a starting node does, recovery included."""
        self._steps.clear()
        return Log.open(
            self.disk,
            DIRECTORY,
            cluster=self._cluster.uuid,
            group=GROUP,
            segment_size=self._options.segment_size,
            index_size=self._options.index_size,
            reserve_size=self._options.reserve_size,
        )

    def all_entries(self, log: Log) -> list[Entry]:
        """Return every entry that the log holds."""
        found: list[Entry] = []
        index = log.first_index
        while index <= log.last_index:
            found += log.entries(index, log.last_index + 1, _ALL)
            index = found[-1].index + 1
        return found

    # --- writing ------------------------------------------------------------------------

    def plan(self, group: Sequence[Ready], trim_to: tuple[int, int] | None) -> None:
        """Take a group of writes: in the order of the Readys, and in each as `Ready` says.

        Args:
            trim_to: The lowest offset to keep and the commit index that allows it, of the last trim applied.
        """
        steps = self._steps
        for ready in group:
            if ready.hard_state is not None:
                steps.append(("hard_state", ready.hard_state))
            if ready.snapshot is not None:
                steps.append(("snapshot", ready.snapshot))
            if ready.truncate_after is not None:
                steps.append(("truncate", ready.truncate_after))
            if ready.entries:
                steps.append(("entries", ready.entries))
        if trim_to is not None:
            steps.append(("trim", trim_to))

    def write(self, log: Log, oracle: Oracle, member: int) -> None:
        """Do what was planned and is not done yet.

        Raises:
            DiskFullError: There is no room for the next step; call again later.
        """
        steps = self._steps
        while steps:
            kind, what = steps[0]
            if kind == "entries":
                try:
                    log.append(what)
                except DiskFullError:
                    # Room that was taken before may be missing: then some are written.
                    steps[0] = kind, [entry for entry in what if entry.index > log.last_index]
                    raise
            elif kind == "hard_state":
                log.save_hard_state(term=what.term, vote=what.vote)
                self._check_hard_state(oracle, member)
            elif kind == "truncate":
                log.truncate_suffix(what)
            elif kind == "snapshot":
                log.install_start(what)
            else:
                # Not by the log's own state: that may hold trims that are not committed.
                log.trim_prefix(lowest_offset=what[0], high_index=what[1])
            steps.popleft()

    def synced(self, log: Log, oracle: Oracle, member: int) -> None:
        """Tell the oracle what is durable, judging by the disk and not by who wrote to it."""
        if self._is_settled():
            oracle.persisted(member, log.last_index, log.last_term)

    def _is_settled(self) -> bool:
        """Whether no store has entries, and the directory no store's name, that a crash could take."""
        directory = self.disk._directory(self.directory)
        for name, file in directory.seen.items():
            if name.endswith(".store") and isinstance(file, SimFile):
                if file.pending and any(
                    change.kind == "truncate" or change.position >= STORE_HEADER_SIZE
                    for change in file.pending
                    if change.kind != "grow"
                ):
                    return False
                if directory.durable.get(name) is not file and not name.startswith("spare"):
                    return False
        return True

    def _check_hard_state(self, oracle: Oracle, member: int) -> None:
        """Read term and vote from the durable image, whatever the store says it did."""
        directory: SimDirectory = self.disk._directory(self.directory)
        file = directory.durable.get(HARD_STATE_NAME)
        if isinstance(file, SimFile):
            slots = (
                Slot.decode(file.durable.read(Slot.SIZE, position), self._cluster.frame_seed)
                for position in (0, SLOT_SIZE)
            )
            found = max((slot for slot in slots if slot is not None), key=lambda slot: slot.counter)
            oracle.saved(member, found.state.term, found.state.vote)

    # --- time ----------------------------------------------------------------------------

    def sync_seconds(self) -> float:
        """Return how long the next sync takes."""
        seconds = self._rng.expovariate(1 / self._sync_seconds_mean)
        return seconds * self._slow_factor if self._cluster.clock.seconds() < self._slow_until else seconds

    def after_sync(self, work: Callable[[int], object], incarnation: int) -> None:
        """Call `work` when a sync that begins now is done."""
        self._due = self._cluster.clock.callLater(self.sync_seconds(), work, incarnation)

    def is_awake(self, work: Callable[[int], object], incarnation: int) -> bool:
        """Whether the disk works; if it is stalled, `work` is called when it is not any more."""
        stall_seconds = self._stalled_until - self._cluster.clock.seconds()
        if stall_seconds > 0.0:
            self._due = self._cluster.clock.callLater(stall_seconds, work, incarnation)
            return False
        return True

    def slow(self, factor: float, seconds: float) -> None:
        """Let syncs take longer for a while."""
        self._slow_factor = factor
        self._slow_until = self._cluster.clock.seconds() + seconds

    def stall(self, seconds: float) -> None:
        """Let the disk finish nothing for a while."""
        self._stalled_until = max(self._stalled_until, self._cluster.clock.seconds() + seconds)

    # --- faults ----------------------------------------------------------------------------

    def crash_at_step(self, count: int) -> None:
        """Lose the power inside some write, sync or change of a name, `count` of them from now."""
        self.disk.fail(PowerLossError("power lost"), after=count, kinds=sorted(CHANGING))

    def fail_at_step(self, count: int) -> None:
        """Let a write or sync fail, `count` of them from now."""
        kind = self._rng.choice(("pwritev", "fdatasync", "fsync", "rename", "sync_directory"))
        self.disk.fail(errno.EIO, after=count, kinds=(kind,))

    def fill(self, seconds: float) -> None:
        """Leave room for nothing new for a while."""
        disk = self.disk
        disk.capacity = disk.used_size()

        def empty() -> None:
            disk.capacity = None

        self._cluster.clock.after(seconds, empty)

    def lose_power(self, rng: random.Random) -> None:
        """Lose what was not synced: all of it in half of the cases, some and torn in the others."""
        keep = 0.0 if rng.random() < 0.5 else self._options.keep
        self.disk.crash(rng, keep=keep)

    def process_exit(self) -> None:
        """End the process; what it wrote stays in the page cache."""
        self.disk.stop_process()

    def rot(self, rng: random.Random) -> str:
        """Flip a bit that is on the disk; return where, or the empty text when there is nothing to flip."""
        directory = self.disk._directory(self.directory)
        files = [
            (name, file)
            for name, file in sorted(directory.seen.items())
            if isinstance(file, SimFile) and name.endswith((".store", ".index", ".state", "start"))
        ]
        if not files:
            return ""
        stores = [(name, file) for name, file in files if name.endswith(".store")]
        name, file = rng.choice(stores if stores and rng.random() < 0.7 else files)
        first, end = 0, len(file.durable.data.rstrip(b"\0"))
        if (name, file) == stores[-1]:
            # In the last group a torn write looks the same, so its damage is not a fair fault: see
            # docs/disk_format.md. The older watermark says what lies before that group for certain.
            first, end = STORE_HEADER_SIZE, min(end, self._certain_end(file))
        if first >= end:
            return ""
        bit = rng.randrange(first * 8, end * 8)
        self.disk.flip(f"{self.directory}/{name}", bit)
        return f"{name} bit {bit}"

    def rot_first_entry(self) -> str:
        """Flip a bit in the header of the log's first entry; return where."""
        names = [name for name in self.disk.list_directory(self.directory) if name.endswith(".store")]
        path = f"{self.directory}/{next(name for name in names if not name.startswith('spare'))}"
        self.disk.flip(path, (STORE_HEADER_SIZE + 20) * 8)
        return path

    def lie(self) -> None:
        """From now on say "synced" without syncing file contents: for scenarios that must end in loss."""
        self.disk.fdatasync = lambda fd: None  # type: ignore[method-assign]

    def _certain_end(self, store: SimFile) -> int:
        """Return the byte behind what both watermarks of a store say was durable."""
        seed = self._cluster.frame_seed
        found = [
            Watermark.decode(store.durable.read(Watermark.SIZE, position), seed)
            for position in WATERMARK_POSITIONS
        ]
        return min(mark.position if mark is not None else 0 for mark in found)

    def heal(self) -> None:
        """End every fault of the disk but what is lost."""
        self.disk.capacity = None
        self.disk.faults.clear()
        self._slow_factor = 1.0
        self._stalled_until = 0.0
        self._sync_seconds_mean = min(self._sync_seconds_mean, self._cluster.options.election_seconds * 0.02)
        due = self._due
        if due is not None and due.active():
            # Begun on a slow or stalled disk it could take minutes; it, too, ends as on a good one.
            due.reset(min(due.getTime() - self._cluster.clock.seconds(), self.sync_seconds()))
