"""Give up what is damaged, so that the rest can start.

A lone node does it on request (`loghouse recover DATA_DIR --accept-data-loss`), a member of a cluster by
itself, for it gets back what it gives up. The log is cut at the first damage. Nothing is deleted: what is
cut is kept in the log's `lost+found`. No log is open; the caller holds the directory's lock.
"""

from __future__ import annotations

from dataclasses import dataclass

from loghouse.errors import DamageError, DataDirectoryError, DiskFailedError, EntryDamagedError
from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.storage.files import Files, OpenFile, end_of_nonzero
from loghouse.storage.hard_state import newest_slot, read_slots, replace_hard_state
from loghouse.storage.held import outdated_problem, read_held, remove_held
from loghouse.storage.loss import Loss, member_remedy, read_loss, write_loss
from loghouse.storage.opening import keep_aside, survey
from loghouse.storage.recovery import (
    HARD_STATE_NAME,
    INDEX,
    START_NAME,
    STATE,
    STORE,
    FrameScan,
    segment_name,
    stores_among,
)
from loghouse.storage.start import read_start, read_state, write_start
from loghouse.storage.store import WATERMARK_POSITIONS, StoreHeader, Watermark, newest_watermark
from loghouse.storage.traces import contradicts_installing, last_known, traces_behind


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done. `last_index` and `next_offset` are where the log ends now.

    `lost_index` is the last entry the log is known to have held; equal to `last_index` when nothing is lost.
    """

    actions: tuple[str, ...]
    last_index: int
    next_offset: int
    lost_index: int


def accept_data_loss(files: Files, directory: str, *, cluster: bytes, group: int) -> Repair:
    """Make a damaged log's directory one that opens, at the price of what is behind the first damage.

    Args:
        directory: DATA_DIR/logs/<group>.

    Raises:
        DamageError: Not even the beginning of the log is known; nothing was modified.
        DiskFailedError: The disk refuses.
    """
    try:
        return _Surgery(files, directory, cluster, group).run()
    except OSError as error:
        raise DiskFailedError(f"cannot repair {directory}: {error}") from error


def cut_for_refetch(files: Files, directory: str, *, cluster: bytes, group: int) -> Repair:
    """Cut a member's log at its first damage, all of it checked, after `damage` tells what it held.

    Term and vote must be whole: without them a member could vote twice. A crash anywhere in here is
    finished by calling it again, since the file says that the cut is still to be made.

    Args:
        directory: DATA_DIR/logs/<group>.

    Raises:
        DamageError: What the member promised is not known any more; nothing was modified.
        DataDirectoryError: Files or entries of a newer version.
        DiskFailedError: The disk refuses.
    """
    seed = frame_seed(cluster, group)
    remedy = member_remedy(directory)
    try:
        hard_state = newest_slot(read_slots(files, directory, seed, remedy)).state
        loss = last_known(files, directory, seed, hard_state)
        known = read_loss(files, directory, seed)
        if known is not None and known.pair > loss.pair:
            loss = known
        held = read_held(files, directory, seed)
        problem = outdated_problem(hard_state, last_term=loss.last_term, held=held)
        if problem:
            raise DamageError(f"{directory}/{HARD_STATE_NAME}", 0, problem, remedy=remedy)
        write_loss(files, directory, seed, Loss(loss.last_index, loss.last_term))
        repair = _Surgery(files, directory, cluster, group).run()
        write_loss(files, directory, seed, Loss(loss.last_index, loss.last_term, is_cut=True))
    except OSError as error:
        raise DiskFailedError(f"cannot repair {directory}: {error}") from error
    return repair


class _Surgery:
    def __init__(self, files: Files, directory: str, cluster: bytes, group: int) -> None:
        self._files = files
        self._directory = directory
        self._cluster = cluster
        self._group = group
        self._seed = frame_seed(cluster, group)
        self._actions: list[str] = []
        self._lost_index = self._lost_term = 0
        self._held = read_held(files, directory, self._seed)

    def run(self) -> Repair:
        bases = stores_among(self._files.list_directory(self._directory))
        start, is_installing = self._start(bases)
        bases = [] if is_installing else [base for base in bases if base > start.index]
        end = start.copy()
        self._note_lost(bases)
        for place, base in enumerate(bases):
            rest = bases[place + 1 :]
            state = self._segment(base, end, is_last=not rest)
            if state is None:
                self._move_aside(bases[place:])
                break
            end = state
            if rest and state.index + 1 != rest[0]:
                self._move_aside(rest)
                break
        if not is_installing:
            self._move_traces_aside(end.index)
        # What it once held is told by `damage`, or given up; last, so that an interrupted run is run again.
        remove_held(self._files, self._directory)
        self._files.sync_directory(self._directory)
        first = f"{self._directory}/{segment_name(start.index + 1, STORE)}"
        if end.index == start.index and not self._files.exists(first):
            # The next open makes an empty log behind the start.
            write_start(self._files, self._directory, self._seed, start, installing=True)
            self._actions.append(f"{START_NAME}: the log is empty and starts at entry {start.index + 1}")
        self._hard_state(end)
        # Proof that it opens: the same look that the next start takes.
        state = survey(self._files, self._directory, cluster=self._cluster, group=self._group).state
        return Repair(
            tuple(self._actions), state.index, state.next_offset, max(self._lost_index, state.index)
        )

    def _note_lost(self, bases: list[int]) -> None:
        """Find the last entry that anything knows of, before anything is cut."""
        files, directory = self._files, self._directory
        if self._held is not None:
            self._lost_term, self._lost_index = self._held.pair
        for trace in traces_behind(
            files, directory, self._seed, files.list_directory(directory), end_index=max(bases, default=0)
        ):
            self._lost_index = max(self._lost_index, trace.last_index)
        for base in bases:
            store = OpenFile.open(self._files, f"{self._directory}/{segment_name(base, STORE)}")
            watermark = newest_watermark(store.pread(STORE_HEADER_SIZE, 0), self._seed)
            self._lost_index = max(self._lost_index, base - 1, watermark.durable_index if watermark else 0)
            self._lost_term = max(self._lost_term, watermark.durable_term if watermark else 0)

    def _start(self, bases: list[int]) -> tuple[LogState, bool]:
        """Return the log's start; from the oldest segment's state file when `start` is lost."""
        path = f"{self._directory}/{START_NAME}"
        try:
            start, is_installing = read_start(self._files, self._directory, self._seed, "")
            if is_installing:
                problem = contradicts_installing(self._files, self._directory, self._seed, start)
                if problem:
                    raise DamageError(path, 0, problem)
            return start, is_installing
        except DamageError as error:
            for base in bases[:1]:
                state = read_state(self._files, self._directory, self._seed, base)
                if state is None and base == 1:
                    state = LogState()
                if state is not None:
                    write_start(self._files, self._directory, self._seed, state, installing=False)
                    self._actions.append(f"{START_NAME}: written anew, the log starts at entry {base}")
                    return state, False
            raise DamageError(
                error.file,
                error.position,
                f"{error.problem}, and no segment tells where the log starts",
                remedy="nothing was modified; restore the directory from a backup",
            ) from None

    def _segment(self, base: int, before: LogState, *, is_last: bool) -> LogState | None:
        """Cut one segment at its first damage; return the state at its end, None when it cannot be used."""
        path = f"{self._directory}/{segment_name(base, STORE)}"
        store = OpenFile.open(self._files, path, write=True)
        block, size = store.pread(STORE_HEADER_SIZE, 0), store.size()
        try:
            header = StoreHeader.decode(block, path)
        except EntryDamagedError:
            return None
        found = (header.cluster, header.group, header.base_index, header.previous_term, header.base_offset)
        if found != (self._cluster, self._group, before.index + 1, before.term, before.next_offset):
            return None
        scan = FrameScan.of_segment(self._seed, header, timestamp=before.timestamp, state=before.copy())
        scan.run(store.pread, size)
        if scan.is_newer:
            raise DataDirectoryError(f"{path}: byte {scan.position}: {scan.problem}; use a newer Loghouse")
        watermark = newest_watermark(block, self._seed)
        assert scan.state is not None
        is_cut = scan.position < (watermark.position if watermark else size)
        if is_cut or watermark is None or (scan.problem and not is_last):
            self._cut(store, scan, size, watermark)
        return scan.state

    def _cut(self, store: OpenFile, scan: FrameScan, size: int, watermark: Watermark | None) -> None:
        files, end = self._files, scan.position
        last = end_of_nonzero(store, end, size)
        if last > end:
            name = f"{store.path.rpartition('/')[2]}-{end}.cut"
            kept = keep_aside(files, self._directory, name, store, end, last)
            self._actions.append(
                f"{store.path}: cut at byte {end}, behind entry {scan.index} ({scan.problem or 'its end'}); "
                f"{last - end} bytes kept in {kept}"
            )
        else:
            self._actions.append(f"{store.path}: ends at byte {end}, behind entry {scan.index}")
        lowered = Watermark(
            counter=watermark.counter + 1 if watermark else 0,
            durable_index=scan.index,
            durable_term=scan.term,
            position=end,
            commit_index=min(watermark.commit_index, scan.index) if watermark else 0,
        )
        files.pwritev(store.fd, [lowered.encode(self._seed)], WATERMARK_POSITIONS[lowered.counter % 2])
        files.fdatasync(store.fd)
        files.truncate(store.fd, end)
        files.fsync(store.fd)

    def _move_aside(self, bases: list[int]) -> None:
        """Keep whole segments aside, from the highest down."""
        for base in reversed(bases):
            # The store last: without it the others would be traces of another loss.
            for suffix in (INDEX, STATE, STORE):
                self._move_file_aside(segment_name(base, suffix))

    def _move_traces_aside(self, end_index: int) -> None:
        """Keep what is left of stores that are gone aside: from here on nothing may take it for a loss."""
        files, directory = self._files, self._directory
        names = files.list_directory(directory)
        for trace in traces_behind(files, directory, self._seed, names, end_index=end_index):
            self._move_file_aside(trace.name)

    def _move_file_aside(self, name: str) -> None:
        source = f"{self._directory}/{name}"
        if not self._files.exists(source):
            return
        old = OpenFile.open(self._files, source)
        size = end_of_nonzero(old, 0, old.size())
        target = keep_aside(self._files, self._directory, name, old, 0, size)
        self._files.unlink(source)
        self._files.sync_directory(self._directory)
        if not name.endswith(INDEX):
            self._actions.append(f"{source}: moved to {target}")

    def _hard_state(self, end: LogState) -> None:
        term, held = max(end.term, self._lost_term), self._held
        try:
            state = newest_slot(read_slots(self._files, self._directory, self._seed, "")).state
            is_bad = bool(outdated_problem(state, last_term=term, held=held))
        except DamageError:
            state, is_bad = HardState(), True
        if is_bad:
            # A term that no vote of ours can have been in, as far as the log can tell.
            state = HardState(max(state.term, term, held.hard_state.term if held else 0) + 1, 0)
            replace_hard_state(self._files, self._directory, self._seed, state)
            self._actions.append(
                f"{HARD_STATE_NAME}: written anew with term {state.term} and no vote; "
                "a member of a cluster should rejoin with an empty disk instead"
            )
