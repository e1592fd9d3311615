"""Opening a log: first look at everything without changing a byte, then settle what a crash left.

`survey` raises `DamageError` before anything is modified; `settle` only does what the
survey found to be safe: remove leftovers, cut a torn tail (kept aside), write the part
behind the watermark again, mend caches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from loghouse.errors import DamageError, DataDirectoryError, DiskFullError, EntryDamagedError
from loghouse.limits import INDEX_ENTRY_SIZE, MIB, STORE_HEADER_SIZE
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.log_state import LogState
from loghouse.storage.creation import Rooms
from loghouse.storage.files import Files, OpenFile, end_of_nonzero, is_full, remove_file
from loghouse.storage.hard_state import HardStateFile, newest_slot, read_slots
from loghouse.storage.held import Held, outdated_problem, read_held, remove_held, write_held
from loghouse.storage.loss import Loss, read_loss
from loghouse.storage.recovery import (
    ASIDE_NAME,
    HARD_STATE_NAME,
    INDEX,
    RESERVE_NAME,
    START_NAME,
    SUFFIXES,
    DirectoryPlan,
    FrameScan,
    Tail,
    judge_tail,
    plan_directory,
    segment_name,
)
from loghouse.storage.segment import End, Segment
from loghouse.storage.start import read_start, read_state, write_start, write_state
from loghouse.storage.store import StoreHeader, Watermark, newest_watermark
from loghouse.storage.traces import contradicts_installing, traces_behind


def remedy_for(directory: str) -> str:
    """Return what to tell an operator about damage in DATA_DIR/logs/<group>."""
    data_directory = directory.rsplit("/", 2)[0]
    return (
        f"nothing was modified; restore the file from a backup, or give up what is lost with: "
        f"loghouse recover {data_directory} --accept-data-loss"
    )


@dataclass(slots=True, kw_only=True)
class Survey:
    """What a log's directory holds; made without changing it."""

    directory: str
    cluster: bytes
    group: int
    seed: int
    start_state: LogState
    is_installing: bool
    plan: DirectoryPlan
    segments: list[Segment] = field(default_factory=list)
    # Rebuilt indexes of sealed segments, by base index.
    indexes: dict[int, bytes] = field(default_factory=dict)
    state: LogState = field(default_factory=LogState)
    scan: FrameScan | None = None  # of the active store
    has_active_state: bool = False  # whether the state file of the active segment is good
    watermark: Watermark | None = None
    tail: Tail = Tail.CLEAN
    tail_end: int = 0  # the byte behind the last one that is not zero
    loss: Loss | None = None  # what `damage` says
    # Sealed segments whose last entry cannot be found, by base index: to be mended once the log is open.
    left: dict[int, DamageError] = field(default_factory=dict)


def survey(
    files: Files,
    directory: str,
    *,
    cluster: bytes,
    group: int,
    remedy: str | None = None,
    leaves_damage: bool = False,
) -> Survey:
    """Look at a log's directory; change nothing.

    Args:
        leaves_damage: Whether damage of committed entries in a sealed segment is only noted, in `left`.

    Raises:
        DamageError: Acknowledged data is damaged or missing.
        DataDirectoryError: It is of a newer version.
    """
    remedy = remedy_for(directory) if remedy is None else remedy
    seed = frame_seed(cluster, group)
    start_state, is_installing = read_start(files, directory, seed, remedy)
    plan = plan_directory(
        files.list_directory(directory), first_index=start_state.index + 1, is_installing=is_installing
    )
    found = Survey(
        directory=directory,
        cluster=cluster,
        group=group,
        seed=seed,
        start_state=start_state,
        is_installing=is_installing,
        plan=plan,
    )
    found.loss = read_loss(files, directory, seed)
    if is_installing:
        problem = contradicts_installing(files, directory, seed, start_state)
        if problem:
            raise DamageError(f"{directory}/{START_NAME}", 0, problem, remedy=remedy)
        found.state = start_state.copy()
        return found
    _read_headers(files, found, remedy)
    for segment, following in zip(found.segments, found.segments[1:], strict=False):
        try:
            _check_sealed(found, segment, following.header)
        except DamageError as error:
            if not leaves_damage or not _can_be_left(files, found, segment, following.header):
                raise
            found.left[segment.base_index] = error
    _scan_active(files, found)
    assert found.watermark is not None
    for segment in found.segments[:-1]:
        if segment.base_index in found.left and segment.last_index > found.watermark.commit_index:
            raise found.left[segment.base_index]  # perhaps nobody else has these entries
    _check_nothing_is_gone(files, found, remedy)
    return found


def _check_nothing_is_gone(files: Files, found: Survey, remedy: str) -> None:
    """Compare what the stores hold with what else is on the disk.

    Raises:
        DamageError: A store is gone, or one file or another is an older copy of itself.
    """
    directory, state = found.directory, found.state
    held = read_held(files, directory, found.seed)
    once_held = max(((one.last_index, one.last_term) for one in (held, found.loss) if one), default=(0, 0))
    for trace in traces_behind(files, directory, found.seed, found.plan.leftovers, end_index=state.index):
        path = f"{directory}/{trace.store_name}"
        is_there = files.exists(path)
        raise DamageError(
            path,
            0,
            f"the store {'holds nothing' if is_there else 'is gone'}; {trace.name} proves that it was in use",
            last_index=once_held[0],
            last_term=once_held[1],
            remedy=remedy,
        )
    pair = (state.term, state.index)
    if held is not None and held.pair > max(pair, found.loss.pair if found.loss else pair):
        raise DamageError(
            found.segments[-1].path,
            found.segments[-1].end.position,
            f"the log ends here at entry {state.index}, but held entry {held.last_index} of term "
            f"{held.last_term} when it was closed: files are missing, or this one is an older copy",
            last_index=held.last_index,
            last_term=held.last_term,
            remedy=remedy,
        )
    slot = newest_slot(read_slots(files, directory, found.seed, remedy))
    problem = outdated_problem(slot.state, last_term=state.term, held=held)
    if problem:
        raise DamageError(f"{directory}/{HARD_STATE_NAME}", 0, problem, remedy=remedy)


def _can_be_left(files: Files, found: Survey, segment: Segment, following: StoreHeader) -> bool:
    """Let a damaged sealed segment end where the next one's header and state say, at any byte of its file."""
    count = following.base_index - segment.base_index
    state = read_state(files, found.directory, found.seed, following.base_index)
    if count < 1 or state is None:
        return False
    segment.end = End(count, segment.size, following.previous_term, following.base_offset)
    segment.newest_timestamp = state.timestamp
    segment.let_go()
    return True


def _read_headers(files: Files, found: Survey, remedy: str) -> None:
    first_index = found.start_state.index + 1
    bases = list(found.plan.bases)
    for place, base in enumerate(bases):
        path = f"{found.directory}/{segment_name(base, '.store')}"
        store = OpenFile.open(files, path)
        size = store.size()
        try:
            header = StoreHeader.decode(store.pread(STORE_HEADER_SIZE, 0), path)
        except EntryDamagedError as error:
            is_last = place == len(bases) - 1 and place > 0
            if is_last and end_of_nonzero(store, STORE_HEADER_SIZE, size) == STORE_HEADER_SIZE:
                # A crash in creation, unless its companions tell of entries: that is looked at later.
                names = [segment_name(base, suffix) for suffix in SUFFIXES]
                present = [name for name in names if files.exists(f"{found.directory}/{name}")]
                found.plan = DirectoryPlan(tuple(bases[:-1]), (*found.plan.leftovers, *present))
                break
            raise DamageError(path, 0, str(error), remedy=remedy) from None
        problem = _misplaced(header, found, base)
        if problem:
            raise DamageError(path, 0, problem, remedy=remedy)
        found.segments.append(
            Segment(
                files,
                found.directory,
                header,
                end=End(0, STORE_HEADER_SIZE, header.previous_term, header.base_offset),
                size=size,
                remedy=remedy,
            )
        )
    expected = segment_name(first_index, ".store")
    if not found.segments or found.segments[0].base_index != first_index:
        raise DamageError(f"{found.directory}/{expected}", 0, "the file is gone", remedy=remedy)
    first = found.segments[0].header
    if (first.previous_term, first.base_offset) != (found.start_state.term, found.start_state.next_offset):
        raise DamageError(found.segments[0].path, 0, "does not join the log's start", remedy=remedy)


def _misplaced(header: StoreHeader, found: Survey, base: int) -> str:
    if header.cluster != found.cluster:
        return f"the segment is of another cluster ({header.cluster.hex()})"
    if header.group != found.group:
        return f"the segment is of another log (group {header.group})"
    if header.base_index != base:
        return f"the segment's first index is {header.base_index}, its name says {base}"
    return ""


def _check_sealed(found: Survey, segment: Segment, following: StoreHeader) -> None:
    """Find a sealed segment's end by its last entry; look at all headers only when the index is wrong."""
    count = following.base_index - segment.base_index
    if count < 1:
        raise segment.damage(0, "has the same first index as the next segment")
    segment.end = End(count, 0, following.previous_term, following.base_offset)
    header = segment.known_header(count - 1)
    if header is None:
        scan = segment.scan_headers(count)
        if scan.count < count:
            raise segment.damage(
                scan.position, scan.problem or f"entries from {scan.index + 1} on are missing"
            )
        found.indexes[segment.base_index] = bytes(scan.entries)
        segment.use_index(found.indexes[segment.base_index])
        header = segment.frame_header(count - 1)
    if (header.term, header.next_offset) != (following.previous_term, following.base_offset):
        raise segment.damage(header.position, f"entry {header.index} does not join the next segment")
    if header.position + header.length > segment.size:
        raise segment.damage(header.position, f"the file ends inside entry {header.index}")
    segment.end = End(count, header.position + header.length, header.term, header.next_offset)
    segment.newest_timestamp = header.timestamp
    segment.let_go()


def state_before(files: Files, found: Survey, place: int) -> LogState:
    """Return the replicated state before a segment, from its file or folded from an earlier one."""
    segment = found.segments[place]
    state = segment.state_before()
    if state is not None:
        return state
    if place == 0:
        return found.start_state.copy()
    return fold(found.segments[place - 1], state_before(files, found, place - 1), segment.base_index - 1)


def fold(segment: Segment, state: LogState, index: int) -> LogState:
    """Return the state at `index`, from the state somewhere in or just before `segment`.

    Raises:
        DamageError: The entries between are damaged.
    """
    if index == state.index:
        return state
    at_base = state.index == segment.base_index - 1
    number = state.index - segment.base_index + 1
    scan = FrameScan(
        segment.seed,
        index=state.index,
        term=state.term,
        next_offset=state.next_offset,
        base_offset=segment.base_offset,
        position=STORE_HEADER_SIZE if at_base else segment.frame_header(number).position,
        timestamp=state.timestamp,
        state=state,
        check_payloads=False,
        index_max=index,
    )
    scan.run(segment.store().pread, segment.size)
    if scan.index < index:
        raise segment.damage(scan.position, scan.problem or f"entries from {scan.index + 1} on are missing")
    return state


def _scan_active(files: Files, found: Survey) -> None:
    """Check every byte of the last segment and decide what its end is."""
    place = len(found.segments) - 1
    segment = found.segments[place]
    store = segment.store()
    watermark = newest_watermark(store.pread(STORE_HEADER_SIZE, 0), found.seed)
    if watermark is None:
        raise segment.damage(1024, "no valid watermark slot")
    from_file = segment.state_before()
    found.has_active_state = from_file is not None
    state = from_file if from_file is not None else state_before(files, found, place)
    if (state.term, state.next_offset) != (segment.header.previous_term, segment.base_offset):
        raise segment.damage(0, "does not join the state before it")
    scan = FrameScan.of_segment(found.seed, segment.header, timestamp=state.timestamp, state=state)
    scan.run(store.pread, segment.size)
    if scan.is_newer:
        raise DataDirectoryError(
            f"{segment.path}: byte {scan.position}: {scan.problem}; use a newer Loghouse"
        )
    segment.end = End(scan.count, scan.position, scan.term, scan.next_offset)
    segment.newest_timestamp = scan.timestamp
    found.tail_end = end_of_nonzero(store, scan.position, segment.size)
    found.tail = judge_tail(
        scan, durable_position=watermark.position, is_zero_behind=found.tail_end == scan.position
    )
    if found.tail == Tail.DAMAGED:
        error = segment.damage(scan.position, scan.problem or "entries are missing")
        error.last_index, error.last_term = watermark.durable_index, watermark.durable_term
        raise error
    found.scan, found.watermark, found.state = scan, watermark, state


class Settlement:
    """Carries a survey's findings out; afterwards the directory is as a clean stop leaves it.

    `warnings` says, for people, what was found and done.
    """

    def __init__(self, files: Files, found: Survey, rooms: Rooms, remedy: str) -> None:
        self._files = files
        self._found = found
        self._rooms = rooms
        self._remedy = remedy
        self.warnings: list[str] = []

    def run(self, hard_state: HardStateFile) -> None:
        """Settle everything.

        Raises:
            OSError: The disk failed or is too full even for this.
        """
        found, files, directory = self._found, self._files, self._found.directory
        # From here on the log may change, and what it held at its last end says nothing any more.
        if found.loss is None:
            remove_held(files, directory)
        else:
            self._keep_held(found.loss)
        own_reserve = f"{directory}/{RESERVE_NAME}"
        if self._rooms.reserve.path != own_reserve:
            remove_file(files, own_reserve)  # of a version that had one for each log
        # The process before may have ended between a rename and its sync: what is seen here must be durable
        # before anything builds on it or is removed because of it.
        files.sync_directory(directory)
        self._if_room("the second copy of term and vote", hard_state.heal)
        taken = self._take_index_back()
        for name in found.plan.leftovers:
            if name != taken:
                files.unlink(f"{directory}/{name}")
        if found.plan.leftovers:
            files.sync_directory(directory)
        if found.is_installing:
            self._finish_installation()
            return
        for base, entries in found.indexes.items():
            try:
                replace_index(files, self._rooms, directory, base, entries, len(entries))
            except DiskFullError:
                # A missing one is made from the store when somebody reads.
                remove_file(files, f"{directory}/{segment_name(base, INDEX)}")
                self._missed(f"the index of segment {base}")
                continue
            self.warnings.append(f"{segment_name(base, INDEX)}: did not fit its store, was rebuilt")
        self._settle_active()
        self._if_room("the reserve", self._rooms.reserve.ensure)

    def _take_index_back(self) -> str:
        """Give the last index its name back that a cut took before a crash; return the name that is gone."""
        found, files = self._found, self._files
        if found.segments:
            index = found.segments[-1].index_path
            if not files.exists(index) and files.exists(f"{index}.tmp"):
                files.rename(f"{index}.tmp", index)
                return f"{segment_name(found.segments[-1].base_index, INDEX)}.tmp"
        return ""

    def _keep_held(self, loss: Loss) -> None:
        """Let `held` say the same as `damage`, so that neither can be lost alone without a word."""
        found, held = self._found, Held(loss.last_index, loss.last_term)
        try:
            self._rooms.using_reserve(lambda: write_held(self._files, found.directory, found.seed, held))
        except DiskFullError:
            remove_held(self._files, found.directory)

    def _if_room(self, what: str, work: Callable[[], object]) -> None:
        """Do what a log can be opened without, if the disk has room for it."""
        try:
            work()
        except OSError as error:
            if not is_full(error):
                raise
            self._missed(what)

    def _missed(self, what: str) -> None:
        self.warnings.append(f"{self._found.directory}: no room for {what}; appends wait for space")

    def _finish_installation(self) -> None:
        found = self._found
        try:
            self._rooms.ensure_spares([self._rooms.sizes.first])
        except DiskFullError:
            self._rooms.ensure_control_spares([self._rooms.sizes.first])
        segment = self._rooms.create_segment(
            found.cluster, found.group, found.start_state, remedy=self._remedy
        )
        segment.newest_timestamp = found.start_state.timestamp
        write_start(self._files, found.directory, found.seed, found.start_state, installing=False)
        found.segments = [segment]
        found.watermark = newest_watermark(segment.store().pread(STORE_HEADER_SIZE, 0), found.seed)
        segment.let_go()

    def _settle_active(self) -> None:
        found, files = self._found, self._files
        segment, watermark, scan = found.segments[-1], found.watermark, found.scan
        assert watermark is not None
        assert scan is not None
        store = OpenFile.open(files, segment.path, write=True)
        end = segment.end.position
        if found.tail == Tail.TORN:
            kept = self._keep_aside(segment, store)
            self.warnings.append(
                f"{segment.path}: torn tail at byte {end} cut, it was never acknowledged ({kept}): "
                f"{scan.problem or 'bytes behind the end'}"
            )
        wanted = max(self._rooms.sizes.first, segment.size)
        if found.tail == Tail.TORN:
            files.truncate(store.fd, end)
            files.fsync(store.fd)
        if wanted > end and (found.tail == Tail.TORN or segment.size < wanted):
            segment.size = allocate_or_leave(files, self._rooms, store.fd, end, wanted)
        if watermark.position < end:
            # What lies behind the watermark may be in the page cache only, marked clean by a sync that
            # failed: written again, it is dirty again, and this sync tells the truth.
            for position in range(watermark.position, end, MIB):
                files.pwritev(store.fd, [store.pread(min(MIB, end - position), position)], position)
            files.fdatasync(store.fd)
        newest = Watermark(
            counter=watermark.counter + 1,
            durable_index=segment.last_index,
            durable_term=segment.end.term,
            position=end,
            commit_index=watermark.commit_index,
        )

        def mark() -> None:
            files.pwritev(store.fd, [newest.encode(found.seed)], newest.slot_position)
            found.watermark = newest

        self._if_room("the watermark", mark)
        files.fdatasync(store.fd)
        if not found.has_active_state:
            before = state_before(files, found, len(found.segments) - 1)
            try:
                self._rooms.using_reserve(lambda: write_state(files, found.directory, found.seed, before))
            except DiskFullError:
                self._missed("the state file")  # it is made from the segments before
        self._mend_active_index(segment, scan)

    def _keep_aside(self, segment: Segment, store: OpenFile) -> str:
        found = self._found
        end = segment.end.position
        name = f"{segment.base_index:020d}-{end}.torn"
        try:
            self._rooms.using_reserve(
                lambda: keep_aside(self._files, found.directory, name, store, end, found.tail_end)
            )
        except DiskFullError:
            return "not kept: the disk is full"
        return f"kept as {ASIDE_NAME}/{name}"

    def _mend_active_index(self, segment: Segment, scan: FrameScan) -> None:
        files = self._files
        wanted = max(self._rooms.sizes.index_for(segment.size), len(scan.entries))
        if self._use_index(segment, scan, wanted):
            return
        directory, base, entries = self._found.directory, segment.base_index, bytes(scan.entries)
        try:
            replace_index(files, self._rooms, directory, base, entries, wanted)
        except DiskFullError:
            # One with room for what is there, and a little more.
            least = len(entries) + (self._rooms.sizes.kept[1] + 1) * INDEX_ENTRY_SIZE
            if not self._use_index(segment, scan, least):
                # The room that the store has behind its end is worth more here; the next append rolls.
                store = OpenFile.open(files, segment.path, write=True)
                files.truncate(store.fd, segment.end.position)
                segment.size = segment.end.position
                replace_index(files, self._rooms, directory, base, entries, least)

    def _use_index(self, segment: Segment, scan: FrameScan, size: int) -> bool:
        """Make the entries of the index file right, if it is there and has `size` bytes; else False."""
        files = self._files
        if not files.exists(segment.index_path):
            return False
        index = OpenFile.open(files, segment.index_path, write=True)
        if index.size() < size:
            return False
        if index.pread(len(scan.entries), 0) != scan.entries:
            files.pwritev(index.fd, [scan.entries], 0)
        return True


def replace_index(files: Files, rooms: Rooms, directory: str, base: int, entries: bytes, size: int) -> None:
    """Make a segment's index file anew, `size` bytes long. It is a cache, so nothing is synced."""
    name = segment_name(base, INDEX)
    temporary = f"{directory}/{name}.tmp"

    def make() -> None:
        remove_file(files, temporary)
        file = OpenFile(files, files.create(temporary), temporary)
        try:
            files.allocate(file.fd, 0, max(size, 1))
            if entries:
                files.pwritev(file.fd, [entries], 0)
        finally:
            file.close()
        files.rename(temporary, f"{directory}/{name}")

    rooms.using_reserve(make)


def allocate_or_leave(files: Files, rooms: Rooms, fd: int, end: int, wanted: int) -> int:
    """Give a store its room behind `end` again; return its size, `end` when the disk is full.

    A store without room is no error: the next append rolls, and finds the disk full or not.
    """
    try:
        files.allocate(fd, end, wanted - end)
    except OSError as error:
        if not is_full(error):
            raise
    return files.size(fd)


def keep_aside(files: Files, directory: str, name: str, source: OpenFile, begin: int, end: int) -> str:
    """Copy bytes that are cut from a log into its `lost+found`; durable on return of the copy's path."""
    aside = f"{directory}/{ASIDE_NAME}"
    if not files.exists(aside):
        files.make_directory(aside)
        files.sync_directory(directory)
    path = f"{aside}/{name}"
    remove_file(files, path)
    copy = OpenFile(files, files.create(path), path)
    try:
        for position in range(begin, end, MIB):
            files.pwritev(copy.fd, [source.pread(min(MIB, end - position), position)], position - begin)
        files.fsync(copy.fd)
    finally:
        copy.close()
    files.sync_directory(aside)
    return path
