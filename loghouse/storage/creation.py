"""Making segments: room is taken first, so that a full disk is noticed before anything is written.

Order for a new segment: its state, synced, in a temporary file; its store's header block, synced; the names
of index and store; the directory synced; the name of the state file (`disk_format.md` 5). So a state file
without its store, or an index with entries, is a trace of a loss, and what finds no room comes before the
store. The room is a *spare*: files already allocated under another name, which become the segment by
renaming.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

from loghouse.errors import DiskFullError
from loghouse.limits import (
    CONTROL_SEGMENT_SIZE,
    CONTROL_SIZE_KEPT,
    ENTRY_HEADER_SIZE,
    INDEX_ENTRY_SIZE,
    STORE_HEADER_SIZE,
)
from loghouse.protocol.entry import Entry
from loghouse.protocol.log_state import LogState
from loghouse.storage.files import (
    SCARCE_ERRNOS,
    Files,
    OpenFile,
    check_room,
    is_full,
    remove_file,
    sync_written,
    write_temporary,
)
from loghouse.storage.index import INDEX_ENTRY, RELATIVE_OFFSET_MAX
from loghouse.storage.recovery import INDEX, SPARE_PREFIX, STATE, STORE, segment_name
from loghouse.storage.segment import End, Segment, write_zeroes
from loghouse.storage.start import encode_segment_state
from loghouse.storage.store import StoreHeader, new_block

T = TypeVar("T")
assert INDEX_ENTRY.size == INDEX_ENTRY_SIZE


@dataclass(frozen=True, kw_only=True)
class LogSizes:
    """How large a log's files are made, in bytes.

    `segment` and `index` are of a log that has grown: its first segment is small (`first`), so that a log
    costs little before it holds much, and each further one is twice as large as the one before.
    """

    segment: int
    index: int
    first: int

    @cached_property
    def kept(self) -> tuple[int, int]:
        """Bytes and index places that records leave free in the last segment, for control entries."""
        size = min(CONTROL_SIZE_KEPT, (self.first - STORE_HEADER_SIZE) // 8)
        return size, min(size // ENTRY_HEADER_SIZE, self.index_capacity(self.first) // 8)

    def store_after(self, store_size: int, entry_size: int = 0) -> int:
        """Return the size of the store behind one of `store_size`; its first entry has `entry_size` bytes."""
        grown = min(max(self.first, 2 * store_size), self.segment)
        return max(grown, STORE_HEADER_SIZE + entry_size)

    def index_for(self, store_size: int) -> int:
        """Return the size of the index of a store: its share of the room is the same for all sizes."""
        return self.index * min(store_size, self.segment) // self.segment

    def index_capacity(self, store_size: int) -> int:
        """Return how many entries the index of such a store has room for."""
        return self.index_for(store_size) // INDEX_ENTRY_SIZE

    def split(
        self, active: Segment, entries: Sequence[Entry]
    ) -> tuple[list[Sequence[Entry]], list[int], bool]:
        """Return the entries for the active segment (may be none), then those for each new one.

        With the sizes of the new ones' stores, and whether so little is left behind the last entry that a
        spare must be there.
        """
        room, places = active.size - active.end.position, active.index().capacity - active.end.count
        base_offset, store_size = active.base_offset, active.size
        chunks: list[Sequence[Entry]] = []
        stores: list[int] = []
        first = 0
        for place, entry in enumerate(entries):
            if entry.size > room or places < 1 or entry.base_offset - base_offset > RELATIVE_OFFSET_MAX:
                chunks.append(entries[first:place])
                first, base_offset = place, entry.base_offset
                store_size = self.store_after(store_size, entry.size)
                stores.append(store_size)
                room, places = store_size - STORE_HEADER_SIZE, self.index_capacity(store_size)
            room -= entry.size
            places -= 1
        chunks.append(entries[first:])
        size_kept, places_kept = self.kept
        return chunks, stores, room < size_kept or places < places_kept


def create_allocated(files: Files, path: str, size: int) -> None:
    """Make a file of `size` bytes that has its room on the disk; on an error it is not there.

    Raises:
        OSError: ENOSPC among others.
    """
    remove_file(files, path)
    file = OpenFile(files, files.create(path), path)
    try:
        files.allocate(file.fd, 0, size)
    except OSError:
        file.close()
        files.unlink(path)
        raise
    file.close()


class Reserve:
    """A file that is given back when the disk is full, so that small work that must succeed finds room.

    Cuts, state files and a clean stop do; appends resume only when it could be made again. The logs of a data
    directory have one together, and threads of several come here at a time.
    """

    def __init__(
        self,
        files: Files,
        path: str,
        size: int,
        guard: AbstractContextManager[object, bool | None] | None = None,
    ) -> None:
        """Use the file at `path`, of `size` bytes; 0: there is none.

        Args:
            guard: Lets one thread in at a time; None when there is but one.
        """
        self._files = files
        self.path = path
        self._size = size
        self._guard = nullcontext() if guard is None else guard
        self._release_count = 0
        # Whether it is there for certain. Known only once it was looked for: asking the disk at each append
        # is dear.
        self.is_there = False

    def ensure(self) -> None:
        """Make it when it is not there.

        Raises:
            OSError: There is no room for it.
        """
        if self.is_there:
            return
        with self._guard:
            if self._size and not self._holds_room():
                create_allocated(self._files, self.path, self._size)
            self.is_there = True

    def _holds_room(self) -> bool:
        # A crash may leave the name without the room.
        return self._files.exists(self.path) and OpenFile.open(self._files, self.path).size() > 0

    def use_for(self, work: Callable[[], T], directory: str) -> T:
        """Do small work; when there is no room, give the reserve back and do it again from its start.

        Nobody else makes the reserve, or has it given back, in between.

        Args:
            directory: Where the work is, for what is told of a full disk.

        Raises:
            DiskFullError: The reserve was gone, or not enough; the work may be done again later.
            OSError: Of the work, or of giving the reserve back.
        """
        release_count = self._release_count
        try:
            return work()
        except OSError as error:
            if error.errno in SCARCE_ERRNOS or not is_full(error):
                check_room(error, directory)
                raise
            full = error
        with self._guard:
            # Another log may have had it given back since.
            if release_count == self._release_count and not self._release():
                check_room(full, directory)
            try:
                return work()
            except OSError as error:
                check_room(error, directory)
                raise

    def _release(self) -> bool:
        self.is_there = False
        was_there = remove_file(self._files, self.path)
        self._release_count += was_there
        return was_there


class Rooms:
    """Takes and keeps room in one log's directory: spares for new segments. Has a way to the reserve."""

    def __init__(self, files: Files, directory: str, sizes: LogSizes, reserve: Reserve) -> None:
        self._files = files
        self._directory = directory
        self.sizes = sizes
        self.reserve = reserve
        self._spares: list[int] = []  # store sizes of the spares made, in order
        self._cleared = 0  # how many bytes of zeroes the first spare's store begins with

    def spare_path(self, number: int, suffix: str) -> str:
        """Return the path of a spare's file."""
        return f"{self._directory}/{SPARE_PREFIX}{number}{suffix}"

    def using_reserve(self, work: Callable[[], T]) -> T:
        """Do small work that must succeed on a full disk; see `Reserve.use_for`."""
        return self.reserve.use_for(work, self._directory)

    def ensure_spares(self, store_sizes: list[int]) -> None:
        """Make the spares for these stores, in this order.

        Raises:
            DiskFullError: There is no room; nothing of the log changed.
            OSError: Another error.
        """
        try:
            self.reserve.ensure()
            for number, size in enumerate(store_sizes):
                if number < len(self._spares) and self._spares[number] >= size:
                    continue
                self._make_spare(number, size, self.sizes.index_for(size))
        except OSError as error:
            check_room(error, self._directory)
            raise

    def ensure_control_spares(self, store_sizes: list[int]) -> None:
        """The same for stores that begin with a control entry; on a full disk small ones, of the reserve."""
        try:
            self.ensure_spares(store_sizes)
        except DiskFullError:
            for number, size in enumerate(store_sizes[len(self._spares) :], len(self._spares)):
                small = size if size > self.sizes.segment else min(size, CONTROL_SEGMENT_SIZE)
                index_size = min(self.sizes.index, CONTROL_SEGMENT_SIZE // 8)
                self.using_reserve(partial(self._make_spare, number, small, index_size))

    def clear_spare(self, size: int) -> None:
        """Write zeroes into the first bytes of the first spare's store, when they are not there yet.

        So neither the sync of its header block nor that of the first groups comes to blocks that were never
        written (`Segment.clear_ahead`), when the segment begins and an append waits for it.

        Raises:
            OSError: The write failed, and not for want of room.
        """
        path = self.spare_path(0, STORE)
        # A spare without its name became a segment but for a last step, which found no room.
        if self._spares and size > self._cleared and self._files.exists(path):
            self._cleared = min(size, self._spares[0])
            store = OpenFile.open(self._files, path, write=True)
            write_zeroes(self._files, store.fd, 0, self._cleared)
            store.close()

    def _make_spare(self, number: int, store_size: int, index_size: int) -> None:
        del self._spares[number:]
        if number == 0:
            self._cleared = 0
        create_allocated(self._files, self.spare_path(number, INDEX), index_size)
        create_allocated(self._files, self.spare_path(number, STORE), store_size)
        self._spares.append(store_size)

    def check_small_file(self, name: str) -> None:
        """Find out whether a small file could be made: there may be bytes left, but no names (inodes).

        It gets no bytes: the reserve has them, and a disk that is told of each block that is free again
        (`discard`) takes milliseconds to give them back.

        Raises:
            DiskFullError: It could not.
        """
        path = f"{self._directory}/{name}.tmp"
        try:
            remove_file(self._files, path)
            OpenFile(self._files, self._files.create(path), path).close()
            self._files.unlink(path)
        except OSError as error:
            check_room(error, self._directory)
            raise

    def forget_spares(self) -> None:
        """Remove spares that were not used; failing to is not worth an error."""
        for number in range(len(self._spares)):
            for suffix in (STORE, INDEX):
                remove_file(self._files, self.spare_path(number, suffix))
        self._spares.clear()
        self._cleared = 0

    def remove_segment(self, segment: Segment) -> None:
        """Remove the last segment; durable on return, and no crash leaves a trace of a loss.

        Its index only loses its name at first: after a crash a full disk may have no room for another.
        """
        files, directory = self._files, self._directory
        segment.let_go()
        state, index = f"{directory}/{segment_name(segment.base_index, STATE)}", segment.index_path
        remove_file(files, state)
        if files.exists(index):
            files.rename(index, f"{index}.tmp")
        files.sync_directory(directory)
        files.unlink(segment.path)
        files.sync_directory(directory)
        remove_file(files, f"{index}.tmp")

    def create_segment(self, cluster: bytes, group: int, state: LogState, *, remedy: str) -> Segment:
        """Turn the first spare into the segment behind `state`; durable on return.

        Raises:
            DiskFullError, or an OSError of which `is_full` says the same: No room for a small file, or for a
                name. What is on the disk is a crash in creation; it may be done again.
            OSError: A step failed; as above, but for good.
        """
        files, directory = self._files, self._directory
        header = StoreHeader(
            cluster=cluster,
            group=group,
            base_index=state.index + 1,
            base_offset=state.next_offset,
            previous_term=state.term,
        )
        name = segment_name(header.base_index, STATE)
        content = encode_segment_state(header.seed, state)
        temporary = self.using_reserve(lambda: write_temporary(files, directory, name, content))
        # What a try before this one named already is done again: it may have found no file number.
        named = f"{directory}/{segment_name(header.base_index, STORE)}"
        spare = self.spare_path(0, STORE)
        store = OpenFile.open(files, spare if files.exists(spare) else named, write=True)
        files.pwritev(store.fd, [new_block(header)], 0)
        sync_written(files, store.fd)
        store.close()
        for suffix in (INDEX, STORE):
            if files.exists(self.spare_path(0, suffix)):  # else it was renamed before the other found no room
                files.rename(
                    self.spare_path(0, suffix), f"{directory}/{segment_name(header.base_index, suffix)}"
                )
        files.sync_directory(directory)
        try:
            files.rename(temporary, f"{directory}/{name}")
        except OSError as error:
            if not is_full(error):
                raise  # else it is made from the segments before
        size = self._spares.pop(0)
        for number in range(len(self._spares)):
            for suffix in (INDEX, STORE):
                files.rename(self.spare_path(number + 1, suffix), self.spare_path(number, suffix))
        segment = Segment(
            files,
            directory,
            header,
            end=End(0, STORE_HEADER_SIZE, state.term, state.next_offset),
            size=size,
            remedy=remedy,
        )
        segment.cleared, self._cleared = self._cleared, 0
        return segment
