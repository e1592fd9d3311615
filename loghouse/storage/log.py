"""The log of one group on one disk: append, sync, read, cut, trim, install a start.

    log = Log.open(OsFiles(), f"{data_dir}/logs/1", cluster=uuid16, group=1)
    log.append(entries); log.sync(commit_index)           # disk thread
    frames, next_offset = log.read(offset, size_max, high_index)   # any thread

Threads: ONE thread (the disk thread) calls what writes: `append`, `sync`, `prepare`,
`truncate_suffix`, `trim_prefix`, `install_start`, `save_hard_state`, `close`. Everything else may
be called from any thread at any time: it works on a `View` that the writer swaps as a whole.
Nothing here takes time, starts threads or logs.

Errors of the writing calls: `DiskFullError` - no room to preallocate, nothing changed, try again later;
`DiskFailedError` - a write or sync failed, every further writing call is refused, the node must stop.
Reading calls: `DamageError` (never serves a byte that fails its checksum), `OffsetOutOfRangeError`.
`docs/disk_format.md` has the bytes and the rules.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from loghouse.errors import DiskFailedError, DiskFullError
from loghouse.limits import (
    ENTRY_HEADER_SIZE,
    RESERVE_SIZE_DEFAULT,
    SEGMENT_SIZE_DEFAULT,
    SEGMENT_SIZE_FIRST,
    STORE_HEADER_SIZE,
)
from loghouse.protocol.entry import FILLING_KINDS, Entry, frame_seed
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.storage.creation import LogSizes, Reserve, Rooms
from loghouse.storage.examination import DamagedEntries, write_over
from loghouse.storage.files import Files, check_room, disk_work, remove_file, sync_written
from loghouse.storage.hard_state import HardStateFile, replace_hard_state
from loghouse.storage.loss import note_held
from loghouse.storage.opening import (
    Settlement,
    Survey,
    allocate_or_leave,
    remedy_for,
    replace_index,
    survey,
)
from loghouse.storage.reading import ReadableLog, View, make_view
from loghouse.storage.recovery import INDEX, RESERVE_NAME, STATE, check_entries, segment_name
from loghouse.storage.segment import End, Segment
from loghouse.storage.start import write_start
from loghouse.storage.store import Watermark, newest_watermark
from loghouse.storage.writing import SyncUnderWay, Writing

CHECKPOINT_ENTRIES: Final = 4096  # a fold over as many headers takes a few milliseconds
INDEX_SHARE: Final = 8  # an index has an eighth of its store's size: entries from 96 bytes on fill the store


class Log(ReadableLog):
    """One group's log; see the module's text for threads and errors."""

    def __init__(
        self, files: Files, found: Survey, rooms: Rooms, hard_state: HardStateFile, warnings: Sequence[str]
    ) -> None:
        """Use `Log.open`."""
        assert found.watermark is not None
        found.segments[-1].activate()
        super().__init__(
            files,
            found.directory,
            make_view(found.segments),
            seed=found.seed,
            start_state=found.start_state,
            state=found.state,
        )
        self.unknown_ends = frozenset(found.left)
        self._remedy = found.segments[-1].remedy
        self._rooms = rooms
        self._hard_state = hard_state
        self._next_checkpoint: LogState | None = None
        self._watermark = found.watermark
        self._failed = ""
        self.cluster = found.cluster
        self.group = found.group
        self.warnings = tuple(warnings)

    # --- opening ------------------------------------------------------------------

    @classmethod
    def create(cls, files: Files, directory: str, *, cluster: bytes, group: int) -> None:
        """Make an empty log's files in an existing directory; `open` finishes it.

        Raises:
            OSError: The disk refuses.
        """
        seed = frame_seed(cluster, group)
        replace_hard_state(files, directory, seed, HardState())
        write_start(files, directory, seed, LogState(), installing=True)

    @classmethod
    def open(
        cls,
        files: Files,
        directory: str,
        *,
        cluster: bytes,
        group: int,
        segment_size: int = SEGMENT_SIZE_DEFAULT,
        index_size: int | None = None,
        reserve_size: int = RESERVE_SIZE_DEFAULT,
        first_size: int = SEGMENT_SIZE_FIRST,
        reserve: Reserve | None = None,
        leaves_damage: bool = False,
    ) -> Log:
        """Open a log, settling what a crash left; `warnings` says what that was.

        Args:
            directory: DATA_DIR/logs/<group>, without a slash at the end.
            cluster: The cluster's uuid, 16 bytes.
            segment_size, index_size, reserve_size: Bytes; the sizes of files made from now on.
            first_size: Bytes of the log's first segment, at most `segment_size`; those behind it grow.
            reserve: That of the data directory; None: the log has one for itself, of `reserve_size`.
            leaves_damage: Whether to open with damage of committed entries in sealed segments, to be mended
                then; `unknown_ends` are these segments' base indexes.

        Raises:
            DamageError: Acknowledged data is damaged or missing; nothing was modified.
            DataDirectoryError: Files of a newer version; nothing was modified.
            DiskFullError: No room, not even where there was some, or not for a first segment.
            DiskFailedError: Reading or settling failed.
        """
        remedy = remedy_for(directory)
        sizes = LogSizes(
            segment=segment_size,
            index=index_size or segment_size // INDEX_SHARE,
            first=min(first_size, segment_size),
        )
        if reserve is None:
            reserve = Reserve(files, f"{directory}/{RESERVE_NAME}", reserve_size)
        rooms = Rooms(files, directory, sizes, reserve)
        with disk_work(directory, f"open the log in {directory}"):
            hard_state = HardStateFile(files, directory, frame_seed(cluster, group), remedy=remedy)
            found = survey(
                files, directory, cluster=cluster, group=group, remedy=remedy, leaves_damage=leaves_damage
            )
            settlement = Settlement(files, found, rooms, remedy)
            settlement.run(hard_state)
            return cls(files, found, rooms, hard_state, settlement.warnings)

    def close(self) -> None:
        """Sync what is written and close; a failed log is only let go.

        Raises:
            DiskFailedError: The last sync failed.
        """
        active = self._active
        try:
            if not self._failed:
                self.sync(self._watermark.commit_index)
                with Writing(self, "closing"):
                    self._files.fdatasync(active.store().fd)  # the watermark too
                    self._rooms.forget_spares()
                    pair, hard_state = (self.last_term, self.last_index), self.hard_state
                    with suppress(DiskFullError):  # a start can do without
                        self._rooms.using_reserve(
                            lambda: note_held(self._files, self._directory, self.seed, pair, hard_state)
                        )
        finally:
            self._failed = self._failed or "the log is closed"
            self._hard_state.close()
            for segment in self._view.segments:
                segment.let_go()

    @property
    def commit_index(self) -> int:
        """The commit index of the last watermark: committed before the last stop for certain."""
        return self._watermark.commit_index

    @property
    def hard_state(self) -> HardState:
        """Term and vote as they are on the disk."""
        return self._hard_state.state

    @property
    def is_half_full(self) -> bool:
        """Whether half of the segment that takes appends is in use: room for the next is due."""
        return self.active_size >= self._active.size // 2

    @property
    def record_room(self) -> int:
        """Bytes of records that certainly fit without room that is not taken yet."""
        view = self._view
        active, (size_kept, places_kept) = view.segments[-1], self._rooms.sizes.kept
        places = active.index().capacity - view.end.count - places_kept
        return max(0, min(active.size - view.end.position - size_kept, places * ENTRY_HEADER_SIZE))

    @property
    def failure(self) -> str:
        """Why writing is refused for good; "" while it is not."""
        return self._failed

    # --- writing (disk thread) --------------------------------------------------------

    @property
    def _active(self) -> Segment:
        return self._view.segments[-1]

    def _fail(self, what: str) -> DiskFailedError:
        """Take no more writes, and return the error to raise: the disk failed while it did `what`."""
        self._failed = what
        return DiskFailedError(
            f"{self._directory}: {what}; the node must stop, check the disk before a restart"
        )

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries behind the last one, in as few writes as possible; rolls as needed. Not durable yet.

        Raises:
            EntryDamagedError: They do not join the log; nothing was written.
            DiskFullError: No room; append those behind `last_index` later. Some may be written if room that
                was taken before is missing (a disk that copies on write, a quota).
            DiskFailedError: A write failed; what is written is not known.
        """
        if not entries:
            return
        with Writing(self, "append"):
            state, active = self._state, self._active
            check_entries(state, entries)
            chunks, stores, is_tight = self._rooms.sizes.split(active, entries)
            if is_tight or stores or not self._rooms.reserve.is_there:
                self._take_room(chunks, stores, is_tight)
            try:
                for place, chunk in enumerate(chunks):
                    if place:
                        active = self._roll()
                    if chunk:
                        active.append(chunk)
                        for entry in chunk:
                            state.apply(entry)
            except OSError as error:
                check_room(error, self._directory)
                raise
            finally:
                view, active = self._view, self._active
                self._view = self._view_to(active.end, view.durable_index, view.durable_offset)

    def _take_room(self, chunks: list[Sequence[Entry]], stores: list[int], is_tight: bool) -> None:
        """Make sure that there is room for entries before any of them is written.

        Records and cursors leave some behind them, or there is a whole segment more: so a full disk still
        takes the no-ops of elections, and the trims that free room.
        """
        rooms = self._rooms
        if any(entry.kind in FILLING_KINDS for chunk in chunks for entry in chunk):
            last = stores[-1] if stores else self._active.size
            rooms.ensure_spares([*stores, rooms.sizes.store_after(last)] if is_tight else stores)
        elif stores:
            rooms.ensure_control_spares(stores)

    def _roll(self) -> Segment:
        """End the sync group if it has begun, start a new segment in the room made before, and return it.

        An empty one gives way to it: the new one has the same base index, and takes over its files' names.
        """
        sealed = self._active
        kept = self._view.segments if sealed.end.count else self._view.segments[:-1]
        if self._watermark.durable_index < sealed.last_index:
            self._sync_store(sealed, self._watermark.commit_index)
        segment = self._rooms.create_segment(self.cluster, self.group, self._state, remedy=self._remedy)
        segment.newest_timestamp = sealed.newest_timestamp
        segment.activate()
        self._watermark = self._first_watermark(segment)
        self._view = make_view([*kept, segment])
        sealed.seal()
        sealed.let_go()
        return segment

    def _first_watermark(self, segment: Segment) -> Watermark:
        watermark = newest_watermark(segment.store().pread(STORE_HEADER_SIZE, 0), self.seed)
        assert watermark is not None
        return replace(watermark, commit_index=self._watermark.commit_index)

    def _view_to(self, end: End, durable_index: int, durable_offset: int) -> View:
        """Return the view of the active segment up to `end`. `replace` costs three times as much."""
        view = self._view
        return View(
            segments=view.segments,
            base_indexes=view.base_indexes,
            base_offsets=view.base_offsets,
            end=end,
            durable_index=durable_index,
            durable_offset=durable_offset,
        )

    def sync(self, commit_index: int) -> None:
        """Make everything written durable, publish it, and write the watermark (not synced itself).

        Args:
            commit_index: Known to be committed, as far as it is written here; kept in the watermark.

        Raises:
            DiskFullError: No room for the watermark; nothing may be acknowledged before this was done again.
            DiskFailedError: The sync failed; a failed sync is never retried.
        """
        with Writing(self, "sync"):
            active, watermark = self._active, self._watermark
            last_index = active.last_index
            commit_index = max(min(commit_index, last_index), watermark.commit_index)
            if watermark.durable_index == last_index and commit_index == watermark.commit_index:
                return
            try:
                self._sync_store(active, commit_index)
            except OSError as error:
                check_room(error, self._directory)
                raise
            self._move_checkpoint(commit_index)
            active.clear_ahead(active.end.position - watermark.position)

    def begin_sync(self, commit_index: int) -> SyncUnderWay:
        """Return what does the same as `sync` in two steps, and is to be done before anything else."""
        commit_index = max(min(commit_index, self._active.last_index), self._watermark.commit_index)
        return SyncUnderWay(self, self._active, commit_index)

    def _sync_store(self, segment: Segment, commit_index: int) -> None:
        """Make the active segment durable and say so, to readers and in its watermark."""
        under_way = SyncUnderWay(self, segment, commit_index)
        under_way.sync()
        under_way.publish()

    def _move_checkpoint(self, commit_index: int) -> None:
        """Keep a recent state that is committed, so that cuts and `state_at` fold little."""
        if self._next_checkpoint is not None and self._next_checkpoint.index <= commit_index:
            self._checkpoint, self._next_checkpoint = self._next_checkpoint, None
        if self._next_checkpoint is None and self._state.index - self._checkpoint.index >= CHECKPOINT_ENTRIES:
            self._next_checkpoint = self._state.copy()

    def prepare(self) -> None:
        """Take room for the next segment now, so that no append waits for it; for an idle disk thread.

        Raises:
            DiskFullError: There is none; nothing changed.
        """
        with Writing(self, "preallocation"):
            self._rooms.ensure_spares([self._rooms.sizes.store_after(self._active.size)])
            self._rooms.check_small_file(segment_name(self._state.index + 1, STATE))
            self._rooms.clear_spare(self._active.cleared_size)

    def mend(self, damage: DamagedEntries, frames: bytes) -> bool:
        """Write frames that `damage.check` found good over damaged entries of a sealed segment; durable then.

        Only for entries that are committed: another member's are the same as these were.

        Returns whether it was done; not when the segment is not sealed here any more.

        Raises:
            DamageError: The disk gives back other bytes.
            DiskFailedError: A write or sync failed.
        """
        if self.sealed_segment(damage.base_index) is None:
            return False
        with Writing(self, "mending a segment"):
            write_over(self._files, damage, frames)
        return True

    def mend_index(self, base_index: int, entries: bytes) -> None:
        """Make the index file of a sealed segment anew; on a full disk not now, for it is only a cache.

        Raises:
            DiskFailedError: A write failed.
        """
        segment = self.sealed_segment(base_index)
        if segment is None:
            return
        with Writing(self, "making an index anew"):
            try:
                replace_index(self._files, self._rooms, self._directory, base_index, entries, len(entries))
            except DiskFullError:
                return
        self._open_segments.pop(base_index, None)
        segment.let_go()

    def save_hard_state(self, *, term: int, vote: int) -> None:
        """Make term and vote durable. `vote` is a member id, 0 for none.

        Raises:
            DiskFullError: No room, not even where they were before; they must be saved again.
            DiskFailedError: A write or sync failed.
        """
        with Writing(self, "saving term and vote"):
            self._rooms.using_reserve(lambda: self._hard_state.save(HardState(term, vote)))

    def truncate_suffix(self, index: int) -> None:
        """Cut every entry above `index`; durable on return (Raft 5.3: a follower's conflict).

        Raises:
            DiskFullError: No room for an index, or for the watermark; nothing was cut, do it again.
            DiskFailedError: A step failed.
        """
        view = self._view
        assert index >= view.first_index - 1
        if index >= view.last_index:
            return
        with Writing(self, "cutting the log"):
            place = max(bisect_right(view.base_indexes, index) - 1, 0)
            state = self.state_at(index)
            target = self._cut_target(view, place, index, state)
            removed = view.segments[place + 1 :]
            self._lower_watermark(view, place, target)
            self._checkpoint, self._next_checkpoint = state.copy(), None
            self._state = state
            self._view = make_view([*view.segments[:place], target], durable=view)
            for segment in reversed(removed):
                # One after the other: a crash must never leave a gap.
                self._open_segments.pop(segment.base_index, None)
                self._rooms.remove_segment(segment)
            cut, fd = target.end.position, target.store().fd
            self._files.truncate(fd, cut)
            self._files.fsync(fd)
            if target.size > cut:
                target.size = allocate_or_leave(self._files, self._rooms, fd, cut, target.size)

    def _cut_target(self, view: View, place: int, index: int, state: LogState) -> Segment:
        """Return the segment that becomes the last one, opened for appending."""
        segment = view.segments[place]
        count = index - segment.base_index + 1
        position = STORE_HEADER_SIZE
        if count:
            header = segment.frame_header(count - 1)
            position = header.position + header.length
        target = segment.with_end(End(count, position, state.term, state.next_offset))
        target.newest_timestamp = state.timestamp
        self._open_segments.pop(segment.base_index, None)
        self._ensure_index_file(target)
        target.activate()
        return target

    def _ensure_index_file(self, segment: Segment) -> None:
        """Make the index of a segment that is to take appends again when it is missing or short."""
        if segment.known_header(max(segment.end.count - 1, 0)) is not None or (
            segment.end.count == 0 and self._files.exists(segment.index_path)
        ):
            return
        entries = bytes(segment.scan_headers(segment.end.count).entries)
        size = max(self._rooms.sizes.index_for(segment.size), len(entries))
        replace_index(self._files, self._rooms, self._directory, segment.base_index, entries, size)

    def _lower_watermark(self, view: View, place: int, target: Segment) -> None:
        fd = target.store().fd
        if place == len(view.segments) - 1:
            newest = self._watermark
        else:
            found = newest_watermark(target.store().pread(STORE_HEADER_SIZE, 0), self.seed)
            newest = replace(found or self._watermark, commit_index=self._watermark.commit_index)
        lowered = Watermark(
            counter=newest.counter + 1,
            durable_index=min(target.last_index, view.durable_index),
            durable_term=target.end.term,
            position=min(newest.position, target.end.position),
            commit_index=newest.commit_index,
        )
        encoded, position = [lowered.encode(self.seed)], lowered.slot_position
        self._rooms.using_reserve(lambda: self._files.pwritev(fd, encoded, position))
        self._watermark = lowered
        sync_written(self._files, fd)

    def _unlink_companions(self, segments: Sequence[Segment]) -> None:
        """Remove the index and state files of segments whose stores do not count any more; durable then."""
        for segment in segments:
            segment.let_go()
            self._open_segments.pop(segment.base_index, None)
            for suffix in (INDEX, STATE):
                remove_file(self._files, f"{self._directory}/{segment_name(segment.base_index, suffix)}")
        if segments:
            self._files.sync_directory(self._directory)

    def trim_prefix(self, lowest_offset: int | None = None, high_index: int | None = None) -> int:
        """Remove whole segments whose records are all below an offset; return the new first index.

        Args:
            lowest_offset: Records from here on stay; default: the replicated state's lowest offset.
            high_index: Entries above stay whatever they hold (the commit index); default: the durable end.

        Raises:
            DiskFullError: No room to say where the log begins; nothing was removed, do it again.
            DiskFailedError: A step failed.
        """
        view = self._view
        lowest = self._state.lowest_offset if lowest_offset is None else lowest_offset
        high = view.durable_index if high_index is None else min(high_index, view.durable_index)
        place = 0
        while (
            place + 1 < len(view.segments)
            and view.base_offsets[place + 1] <= lowest
            and view.base_indexes[place + 1] - 1 <= high
        ):
            place += 1
        if place == 0:
            return view.first_index
        with Writing(self, "trimming the log"):
            start = self._state_in(view, place - 1, view.base_indexes[place] - 1)

            def write() -> None:
                write_start(self._files, self._directory, self.seed, start, installing=False)

            try:
                self._rooms.using_reserve(write)
            except DiskFullError:
                self._rooms.forget_spares()  # what is trimmed gives more than they take
                self._rooms.using_reserve(write)
            self._start_state = start
            self._view = replace(
                view,
                segments=view.segments[place:],
                base_indexes=view.base_indexes[place:],
                base_offsets=view.base_offsets[place:],
            )
            removed = view.segments[:place]
            for segment in removed:
                self._files.unlink(segment.path)
            self._unlink_companions(removed)
        return self._view.first_index

    def install_start(self, state: LogState) -> None:
        """Forget the whole log and begin behind `state` (a snapshot: "the log starts here"); durable then.

        The caller has checked that the log does not hold (`state.index`, `state.term`).

        Raises:
            DiskFullError: No room for the first segment, or to say so; nothing changed.
            DiskFailedError: A step failed.
        """
        with Writing(self, "installing a start"):
            self._rooms.ensure_spares([self._rooms.sizes.first])
            start = state.copy()
            # From this rename on, the old log does not count.
            self._rooms.using_reserve(
                lambda: write_start(self._files, self._directory, self.seed, start, installing=True)
            )
            removed = self._view.segments
            for segment in removed:
                self._files.unlink(segment.path)
            self._unlink_companions(removed)
            try:
                segment = self._rooms.create_segment(self.cluster, self.group, start, remedy=self._remedy)
                segment.newest_timestamp = start.timestamp
                segment.activate()
                write_start(self._files, self._directory, self.seed, start, installing=False)
            except DiskFullError as error:
                # The old log is gone, and its room, too: the next start goes on here.
                raise self._fail(f"installing a start: {error}") from error
            self._start_state = start
            self._state = start.copy()
            self._checkpoint, self._next_checkpoint = start.copy(), None
            self._watermark = self._first_watermark(segment)
            self._view = make_view([segment])
