"""The hardware under a simulated node: its disk, how long the disk takes, and what is wrong with it."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.interfaces import IDelayedCall

from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol.entry import Entry
from loghouse.storage.hard_state import SLOT_SIZE, Slot
from loghouse.storage.log import Log
from loghouse.storage.recovery import HARD_STATE_NAME
from loghouse.storage.store import WATERMARK_POSITIONS, Watermark
from loghouse.testing.checkers import Oracle, Violation
from loghouse.testing.clock import SimClock
from loghouse.testing.disk import SimDisk
from loghouse.testing.disk_nodes import SimDirectory, SimFile
from loghouse.testing.swarm import SwarmOptions

GROUP: Final = 1
LOGS: Final = "/logs"
DIRECTORY: Final = "/logs/1"
_ALL: Final = 1 << 40


class Machine:
    """One machine's disk, as its node's disk thread meets it."""

    def __init__(
        self,
        clock: SimClock,
        rng: random.Random,
        options: SwarmOptions,
        number: int,
        *,
        frame_seed: Callable[[], int],
        directory: str = DIRECTORY,
        cluster_uuid: bytes = b"",
    ) -> None:
        """Put a first, empty disk in. `frame_seed` gives 0 before anything is on it."""
        self._clock = clock
        self._options = options
        self._rng = rng
        self._number = number
        self._frame_seed = frame_seed
        self._directory = directory
        self._cluster_uuid = cluster_uuid
        self._sync_seconds_mean = options.disk.sync_seconds_mean
        self._disks = 0
        self._lies = False  # set once, by `lie`
        self._stalled_until = 0.0
        self._slow_until = 0.0
        self._slow_factor = 1.0
        # What the node's threads that write do when the disk is done with what it is at, and what is done.
        self._due: list[IDelayedCall] = []
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
        Log.create(disk, DIRECTORY, cluster=self._cluster_uuid, group=GROUP)
        log = self.open_log()
        if entries:
            log.append(entries)
            log.save_hard_state(term=entries[-1].term, vote=0)
            log.sync(0)
        log.close()
        disk.stop_process()

    def open_log(self) -> Log:
        """Open the log as a starting node does, recovery included."""
        options = self._options.disk
        return Log.open(
            self.disk,
            DIRECTORY,
            cluster=self._cluster_uuid,
            group=GROUP,
            segment_size=options.segment_size,
            index_size=options.index_size,
            reserve_size=options.reserve_size,
        )

    def all_entries(self, log: Log) -> list[Entry]:
        """Return every entry that the log holds."""
        found: list[Entry] = []
        index = log.first_index
        while index <= log.last_index:
            found += log.entries(index, log.last_index + 1, _ALL)
            index = found[-1].index + 1
        return found

    # --- what is durable ------------------------------------------------------------------------

    def synced(self, log: Log, oracle: Oracle, member: int, path: str = "") -> None:
        """Tell the oracle what is durable, judging by the disk and not by who wrote to it.

        Args:
            path: The log's directory, when it is not the machine's first log.
        """
        if self._is_settled(path or self._directory):
            oracle.persisted(member, log.last_index, log.last_term)

    def check_settled(self, member: int, path: str = "") -> None:
        """Check that a core, which takes all that its log holds for durable, begins over a log that is.

        So it must be at a process's start, and when a core is begun anew within a process. Not on a disk that
        lies: of that, who acknowledges something has to be caught.
        """
        if not self._lies and not self._is_settled(path or self._directory, with_cuts=False):
            raise Violation("durable-start", f"member {member} begins over entries that its disk may lose")

    def _is_settled(self, path: str, *, with_cuts: bool = True) -> bool:
        """Whether no store has entries, and the directory no store's name, that a crash could take.

        Args:
            with_cuts: Nor a cut that it could undo.
        """
        directory = self.disk._directory(path)
        for name, file in directory.seen.items():
            if name.endswith(".store") and isinstance(file, SimFile):
                if any(
                    with_cuts and _cuts(file, change.position)
                    if change.kind == "truncate"
                    else change.position >= STORE_HEADER_SIZE
                    for change in file.pending
                    if change.kind != "grow" and not change.is_clearing
                ):
                    return False
                if directory.durable.get(name) is not file and not name.startswith("spare"):
                    return False
        return True

    def check_hard_state(self, oracle: Oracle, member: int, path: str = "", seed: int = 0) -> None:
        """Read term and vote from the durable image, whatever the store says it did; arguments as `synced`.

        Args:
            seed: Of the frames of that log.
        """
        directory: SimDirectory = self.disk._directory(path or self._directory)
        file = directory.durable.get(HARD_STATE_NAME)
        if isinstance(file, SimFile):
            slots = (
                Slot.decode(file.durable.read(Slot.SIZE, position), seed or self._frame_seed())
                for position in (0, SLOT_SIZE)
            )
            found = max((slot for slot in slots if slot is not None), key=lambda slot: slot.counter)
            oracle.saved(member, found.state.term, found.state.vote)

    # --- time ----------------------------------------------------------------------------

    def sync_seconds(self) -> float:
        """Return how long the next sync takes."""
        seconds = self._rng.expovariate(1 / self._sync_seconds_mean)
        return seconds * self._slow_factor if self._clock.seconds() < self._slow_until else seconds

    def after_sync(self, work: Callable[[], object]) -> None:
        """Call `work` when a sync that begins now is done."""
        self._wait(self.sync_seconds(), work)

    def _wait(self, seconds: float, work: Callable[[], object]) -> None:
        self._due = [due for due in self._due if due.active()]
        self._due.append(self._clock.callLater(seconds, work))

    def is_awake(self, work: Callable[[], object]) -> bool:
        """Whether the disk works; if it is stalled, `work` is called when it is not any more."""
        stall_seconds = self._stalled_until - self._clock.seconds()
        if stall_seconds > 0.0:
            self._wait(stall_seconds, work)
            return False
        return True

    def slow(self, factor: float, seconds: float) -> None:
        """Let syncs take longer for a while."""
        self._slow_factor = factor
        self._slow_until = self._clock.seconds() + seconds

    def stall(self, seconds: float) -> None:
        """Let the disk finish nothing for a while."""
        self._stalled_until = max(self._stalled_until, self._clock.seconds() + seconds)

    # --- faults ----------------------------------------------------------------------------

    def fail_at_step(self, count: int) -> None:
        """Let a write or sync fail, `count` of them from now."""
        kind = self._rng.choice(("pwritev", "fdatasync", "fsync", "rename", "sync_directory"))
        self.disk.fail(errno.EIO, after=count, kinds=(kind,))

    def lose_power(self, rng: random.Random) -> None:
        """Lose what was not synced: all of it in half of the cases, some and torn in the others."""
        keep = 0.0 if rng.random() < 0.5 else self._options.disk.keep
        self.disk.crash(rng, keep=keep)

    def rot(self, rng: random.Random) -> str:
        """Flip a bit that is on the disk; return where, or the empty text when there is nothing to flip."""
        directory = self.disk._directory(self._directory)
        files = [
            (name, file)
            for name, file in sorted(directory.seen.items())
            if isinstance(file, SimFile)
            and name.endswith((".store", ".index", ".state", "start"))
            and not name.startswith("spare")  # nobody reads what is in one
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
        self.disk.flip(f"{self._directory}/{name}", bit)
        return f"{name} bit {bit}"

    def rot_first_entry(self) -> str:
        """Flip a bit in the header of the log's first entry; return where."""
        names = [name for name in self.disk.list_directory(self._directory) if name.endswith(".store")]
        path = f"{self._directory}/{next(name for name in names if not name.startswith('spare'))}"
        self.disk.flip(path, (STORE_HEADER_SIZE + 20) * 8)
        return path

    def lie(self) -> None:
        """From now on say "synced" without syncing file contents: for scenarios that must end in loss."""
        self._lies = True
        self.disk.fdatasync = lambda fd: None  # type: ignore[method-assign]

    def _certain_end(self, store: SimFile) -> int:
        """Return the byte behind what both watermarks of a store say was durable."""
        seed = self._frame_seed()
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
        self._sync_seconds_mean = min(self._sync_seconds_mean, self._options.election_seconds * 0.02)
        for due in self._due:
            if due.active():
                # Begun on a slow or stalled disk it could take minutes; it, too, ends as on a good one.
                due.reset(min(due.getTime() - self._clock.seconds(), self.sync_seconds()))


def _cuts(file: SimFile, position: int) -> bool:
    """Whether a cut there takes bytes that are on the disk, and not only room behind them."""
    return position < len(file.durable.data.rstrip(b"\0"))
