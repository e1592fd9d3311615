"""Look into a data directory without locking or changing it: `loghouse inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from loghouse.errors import DamageError, EntryError, LoghouseError
from loghouse.limits import ENTRY_HEADER_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.entry import Entry, decode_entry, frame_seed
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.storage.directory import LOGS_NAME, DiskIdentity
from loghouse.storage.files import Files, OpenFile
from loghouse.storage.groups import groups_of
from loghouse.storage.hard_state import read_slots
from loghouse.storage.opening import survey
from loghouse.storage.recovery import STORE, FrameScan, plan_directory, segment_name
from loghouse.storage.start import read_start
from loghouse.storage.store import StoreHeader, newest_watermark
from loghouse.storage.verify import read_identity


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSummary:
    """One segment. `problem` says where its frames' headers stop making sense; payloads are not checked."""

    file: str
    base_index: int
    last_index: int
    file_size: int
    base_offset: int = 0
    next_offset: int = 0
    used_size: int = 0
    first_timestamp: int = 0
    last_timestamp: int = 0
    durable_index: int = 0
    commit_index: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSummary:
    """One group's log."""

    group: int
    first_index: int
    first_offset: int
    hard_state: HardState | None
    segments: tuple[SegmentSummary, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorySummary:
    """A data directory."""

    path: str
    identity: DiskIdentity
    logs: tuple[LogSummary, ...]


def inspect(files: Files, path: str) -> DirectorySummary:
    """Return what is in a data directory; damage inside a log is told, not raised.

    Raises:
        DataDirectoryError: It cannot be read, or is of a newer version.
        DamageError: Its `node` file is damaged.
    """
    path = path.rstrip("/")
    identity = read_identity(files, path)
    logs = tuple(_log(files, path, identity, group) for group in groups_of(files, path))
    return DirectorySummary(path=path, identity=identity, logs=logs)


def _log(files: Files, path: str, identity: DiskIdentity, group: int) -> LogSummary:
    directory, seed = f"{path}/{LOGS_NAME}/{group}", frame_seed(identity.cluster_uuid, group)
    problems = []
    start, is_installing, hard_state = LogState(), False, None
    try:
        start, is_installing = read_start(files, directory, seed, "")
    except DamageError as error:
        problems.append(str(error))
    try:
        slots = [slot for slot in read_slots(files, directory, seed, "") if slot]
        hard_state = max(slots, key=lambda slot: slot.counter).state
    except DamageError as error:
        problems.append(str(error))
    if is_installing:
        problems.append("a start is being installed; the next start of the node finishes it")
    try:
        survey(files, directory, cluster=identity.cluster_uuid, group=group, remedy="")
    except LoghouseError as error:
        # What the next start refuses, or repairs.
        if str(error) not in problems:
            problems.append(str(error))
    except OSError:
        pass  # a running node trims and cuts meanwhile
    plan = plan_directory(
        files.list_directory(directory), first_index=start.index + 1, is_installing=is_installing
    )
    segments = tuple(_segment(files, directory, seed, base) for base in plan.bases)
    return LogSummary(
        group=group,
        first_index=start.index + 1,
        first_offset=start.next_offset,
        hard_state=hard_state,
        segments=segments,
        problems=tuple(problems),
    )


def _segment(files: Files, directory: str, seed: int, base: int) -> SegmentSummary:
    path = f"{directory}/{segment_name(base, STORE)}"
    store = OpenFile.open(files, path)
    block, size = store.pread(STORE_HEADER_SIZE, 0), store.size()
    try:
        header = StoreHeader.decode(block, path)
    except LoghouseError as error:
        return SegmentSummary(
            file=path, base_index=base, last_index=base - 1, file_size=size, problem=str(error)
        )
    scan = FrameScan.of_segment(seed, replace(header, base_index=base), check_payloads=False, index_max=base)
    scan.run(store.pread, size)
    first_timestamp = scan.timestamp
    scan.index_max = 2**64
    scan.run(store.pread, size)
    watermark = newest_watermark(block, seed)
    return SegmentSummary(
        file=path,
        base_index=base,
        last_index=scan.index,
        base_offset=header.base_offset,
        next_offset=scan.next_offset,
        used_size=scan.position,
        file_size=size,
        first_timestamp=first_timestamp,
        last_timestamp=scan.timestamp,
        durable_index=watermark.durable_index if watermark else 0,
        commit_index=watermark.commit_index if watermark else 0,
        problem=scan.problem,
    )


def dump(
    files: Files, summary: DirectorySummary, log: LogSummary, *, low: int, high: int
) -> Iterator[tuple[str, int, Entry]]:
    """Yield (file, position, entry) for a log's entries from index `low` up to, not including, `high`.

    Args:
        summary: What `inspect` returned, with the log.

    Raises:
        DamageError: An entry of the range is damaged.
        OSError: The disk cannot be read.
    """
    seed = frame_seed(summary.identity.cluster_uuid, log.group)
    for segment in log.segments:
        if segment.last_index >= low and segment.base_index < high:
            yield from _entries(files, segment, seed, low, high)


def _entries(
    files: Files, segment: SegmentSummary, seed: int, low: int, high: int
) -> Iterator[tuple[str, int, Entry]]:
    store = OpenFile.open(files, segment.file)
    position = STORE_HEADER_SIZE
    while position < segment.used_size:
        head = store.pread(ENTRY_HEADER_SIZE, position)
        frame = store.pread(int.from_bytes(head[4:8], "big"), position)
        try:
            entry = decode_entry(seed, frame)
        except EntryError as error:
            raise DamageError(segment.file, position, str(error)) from None
        if entry.index >= high:
            return
        if entry.index >= low:
            yield segment.file, position, entry
        position += entry.size
