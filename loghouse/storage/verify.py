"""Check every byte of a data directory, changing none: `loghouse verify`.

    for step in verify(files, data_dir):   # Progress and Finding, as they come
        ...

A `Finding` with `is_damage` means that acknowledged data is damaged; without, it is something that the
next start mends by itself (a torn tail, an index that does not fit, what a crash left over). One with
`is_unreadable` is about whole bytes that no server takes any more: some readers stop there. The start's own
judgement, `opening.survey`, is part of the check: what a start refuses or repairs is never called good.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from loghouse.errors import DamageError, DataDirectoryError, EntryDamagedError, InvalidRequestError
from loghouse.limits import ENTRY_HEADER_SIZE, INDEX_ENTRY_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.checking import check_stored
from loghouse.protocol.entry import CODEC_MASK, HEADER, Codec, EntryKind, frame_seed
from loghouse.protocol.log_state import LogState
from loghouse.storage.directory import LOGS_NAME, NEW_NODE_NAME, NODE_NAME, DiskIdentity
from loghouse.storage.files import Files, OpenFile, end_of_nonzero, read_file
from loghouse.storage.groups import GroupState, groups_of, read_groups
from loghouse.storage.hard_state import read_slots
from loghouse.storage.index import INDEX_ENTRY
from loghouse.storage.opening import survey
from loghouse.storage.recovery import (
    INDEX,
    SCAN_CHUNK_SIZE,
    STATE,
    STORE,
    DirectoryPlan,
    FrameScan,
    plan_directory,
    segment_name,
    stores_among,
)
from loghouse.storage.start import read_start, read_state
from loghouse.storage.store import StoreHeader, newest_watermark


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far the check is, in bytes of all stores."""

    file: str
    done_size: int
    total_size: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be, at a byte of a file."""

    file: str
    position: int
    problem: str
    is_damage: bool = True
    is_unreadable: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """The end of the check: what was read and found good."""

    segments: int
    entries: int
    records: int
    size: int


Step = VerifyProgress | Finding | Checked


def read_identity(files: Files, path: str) -> DiskIdentity:
    """Return whose data directory this is, without locking it.

    Raises:
        DataDirectoryError: There is no `node` file, or it is of a newer version.
        DamageError: It is damaged.
    """
    node = f"{path}/{NODE_NAME}"
    try:
        content = read_file(files, node, 4096)
    except (FileNotFoundError, NotADirectoryError):
        raise DataDirectoryError(
            f"{path} is no data directory: there is no file {NODE_NAME!r} in it; "
            "give the directory that node.yaml calls data_dir"
        ) from None
    except OSError as error:
        raise DataDirectoryError(f"{node} cannot be read: {error.strerror}") from None
    return DiskIdentity.decode(node, content)


def verify(files: Files, path: str) -> Iterator[Step]:
    """Check everything in a data directory; the last step is `Checked`.

    Raises:
        DataDirectoryError: It cannot be read, or is of a newer version.
        DamageError: Its `node` file is damaged, so nothing in it can be checked.
        OSError: The disk cannot be read.
    """
    path = path.rstrip("/")
    identity = read_identity(files, path)
    groups = groups_of(files, path)
    if not groups:
        yield Finding(f"{path}/{LOGS_NAME}", 0, "there is no log")
    if files.exists(f"{path}/{NEW_NODE_NAME}"):
        problem = "`loghouse recover --new-cluster` was interrupted: no node starts until it is run again"
        yield Finding(f"{path}/{NEW_NODE_NAME}", 0, problem)
    yield from _check_births(files, path, groups)
    counted = [0, 0, 0, 0]
    sizes = {group: stores_size(files, f"{path}/{LOGS_NAME}/{group}") for group in groups}
    done, left = 0, sum(sizes.values())  # bytes of the logs before, and of those behind
    for group in groups:
        left -= sizes[group]
        check = _LogCheck(files, f"{path}/{LOGS_NAME}/{group}", identity.cluster_uuid, group)
        for step in check.run():
            if isinstance(step, VerifyProgress):
                total = done + step.total_size + left
                step = VerifyProgress(step.file, done + step.done_size, total)
            yield step
        done += check.total_size
        for place, more in enumerate((check.segments, check.entries, check.records, check.size)):
            counted[place] += more
    yield Checked(*counted)


def stores_size(files: Files, directory: str) -> int:
    """Return how many bytes the stores of a log's directory have; of a running node's, about as many."""
    size = 0
    for base in stores_among(files.list_directory(directory)):
        with suppress(FileNotFoundError):  # trimmed meanwhile
            size += OpenFile.open(files, f"{directory}/{segment_name(base, STORE)}").size()
    return size


def _check_births(files: Files, path: str, groups: Sequence[int]) -> Iterator[Finding]:
    """Look for logs that were born here and are gone."""
    try:
        states = read_groups(files, path)
    except DamageError as error:
        yield Finding(error.file, error.position, error.problem)
        return
    for group, state in sorted(states.items()):
        if state is GroupState.BORN and group not in groups:
            yield Finding(f"{path}/{LOGS_NAME}/{group}", 0, f"log {group} was born here, and is gone")


class _LogCheck:
    def __init__(self, files: Files, directory: str, cluster: bytes, group: int) -> None:
        self._files = files
        self._directory = directory
        self._cluster = cluster
        self._group = group
        self._seed = frame_seed(cluster, group)
        self._done_size = 0
        self.total_size = 0  # of all stores; set once they are known
        self.segments = self.entries = self.records = self.size = 0

    def run(self) -> Iterator[Step]:
        files, directory = self._files, self._directory
        damaged = set()
        try:
            read_slots(files, directory, self._seed, "")
        except DamageError as error:
            damaged.add(error.file)
            yield Finding(error.file, error.position, error.problem)
        start, is_installing = LogState(), False
        try:
            start, is_installing = read_start(files, directory, self._seed, "")
        except DamageError as error:
            damaged.add(error.file)
            yield Finding(error.file, error.position, error.problem)
        refusal = self._refusal()
        plan = plan_directory(
            files.list_directory(directory), first_index=start.index + 1, is_installing=is_installing
        )
        for name in plan.leftovers:
            what = "the next start removes it" if refusal is None else "kept until the damage is dealt with"
            yield Finding(f"{directory}/{name}", 0, f"belongs to no segment of the log; {what}", False)
        if not is_installing:
            for step in self._segments(plan, start):
                if isinstance(step, Finding) and step.is_damage:
                    damaged.add(step.file)
                yield step
        if refusal is not None and refusal.file not in damaged:
            yield Finding(refusal.file, refusal.position, refusal.problem)

    def _refusal(self) -> DamageError | None:
        """Return why the next start would refuse the log, or repair it from the other members."""
        try:
            survey(self._files, self._directory, cluster=self._cluster, group=self._group, remedy="")
        except DamageError as error:
            return error
        return None

    def _segments(self, plan: DirectoryPlan, start: LogState) -> Iterator[Step]:
        if not plan.bases:
            yield Finding(self._path(start.index + 1, STORE), 0, "the file is gone")
        sizes = [OpenFile.open(self._files, self._path(base, STORE)).size() for base in plan.bases]
        self.total_size = sum(sizes)
        state: LogState | None = start
        for place, base in enumerate(plan.bases):
            is_last = place == len(plan.bases) - 1
            state = yield from self._segment(base, sizes[place], state, is_last=is_last)

    def _path(self, base: int, suffix: str) -> str:
        return f"{self._directory}/{segment_name(base, suffix)}"

    def _segment(
        self, base: int, size: int, before: LogState | None, *, is_last: bool
    ) -> Generator[Step, None, LogState | None]:
        """Check one segment; returns the state behind it, None when that is not known."""
        path = self._path(base, STORE)
        store = OpenFile.open(self._files, path)
        self.segments += 1
        block = store.pread(STORE_HEADER_SIZE, 0)
        try:
            header = StoreHeader.decode(block, path)
        except EntryDamagedError as error:
            yield Finding(path, 0, str(error))
            self._done_size += size
            return None
        problem = self._header_problem(header, base, before)
        if problem:
            yield Finding(path, 0, problem)
        state = read_state(self._files, self._directory, self._seed, base)
        if state is None or (state.term, state.next_offset) != (header.previous_term, header.base_offset):
            yield Finding(
                self._path(base, STATE), 0, "missing or damaged; the next start makes it anew", False
            )
            state = before
        folded = state.copy() if state is not None and state.index == base - 1 else None
        scan = FrameScan.of_segment(self._seed, replace(header, base_index=base), state=folded)
        watermark = newest_watermark(block, self._seed)
        if watermark is None:
            yield Finding(path, 1024, "no valid watermark slot")
        durable = watermark.position if watermark and is_last else 0
        good = yield from self._frames(scan, store, size, durable if is_last else size)
        if scan.problem or scan.position < durable:
            is_damage = not is_last or scan.position < durable or scan.is_newer
            what = "" if is_damage else "torn tail, the next start cuts it: "
            yield Finding(path, scan.position, what + (scan.problem or "entries are missing"), is_damage)
        elif is_last and end_of_nonzero(store, scan.position, size) > scan.position:
            yield Finding(path, scan.position, "torn tail, the next start cuts it", False)
        if good and not scan.problem:
            yield from self._index(base, scan)
        self.entries += scan.count
        self.records += scan.next_offset - header.base_offset
        self.size += scan.position
        return scan.state if good and not scan.problem else None

    def _header_problem(self, header: StoreHeader, base: int, before: LogState | None) -> str:
        if header.cluster != self._cluster or header.group != self._group:
            return f"is of another log: cluster {header.cluster.hex()}, group {header.group}"
        if header.base_index != base:
            return f"its first index is {header.base_index}, its name says {base}"
        if before is not None:
            joined = (before.index + 1, before.term, before.next_offset)
            if joined != (base, header.previous_term, header.base_offset):
                return f"does not join entry {before.index}: entries between are missing"
        return ""

    def _frames(
        self, scan: FrameScan, store: OpenFile, size: int, durable: int
    ) -> Generator[Step, None, bool]:
        """Walk all frames; a damaged payload before `durable` is reported and passed over.

        Returns whether all were good.
        """
        needed, good, path = 64, True, store.path
        before = self._done_size
        while not scan.is_done and scan.position + needed <= size:
            chunk = store.pread(min(max(needed, SCAN_CHUNK_SIZE), size - scan.position), scan.position)
            if len(chunk) < needed:
                scan.problem = "the file is shorter than it was"
                break
            known, position = len(scan.entries), scan.position
            needed = scan.feed(chunk)
            for _, at in INDEX_ENTRY.iter_unpack(memoryview(scan.entries)[known:]):
                problem = _batch_problem(chunk, at - position)
                if problem:
                    yield Finding(path, at, problem, is_damage=False, is_unreadable=True)
            if scan.is_payload_damaged and scan.position < durable:
                good = False
                yield Finding(path, scan.position, scan.problem)
                scan.skip_payload()
                needed = 64
            self._done_size = before + scan.position
            yield VerifyProgress(path, self._done_size, self.total_size)
        if not scan.is_done and scan.position + needed > size and needed > 64:
            scan.problem = f"the file ends inside an entry of {needed} bytes"
        self._done_size = before + size
        return good

    def _index(self, base: int, scan: FrameScan) -> Iterator[Step]:
        path = self._path(base, INDEX)
        found = b""
        if self._files.exists(path):
            found = OpenFile.open(self._files, path).pread(len(scan.entries), 0)
        if found != scan.entries:
            wrong = next(
                (i for i, (a, b) in enumerate(zip(found, scan.entries, strict=False)) if a != b), len(found)
            )
            position = wrong // INDEX_ENTRY_SIZE * INDEX_ENTRY_SIZE
            yield Finding(path, position, "does not fit its store; it is a cache and is made anew", False)


def _batch_problem(chunk: bytes, at: int) -> str:
    """Say what is wrong with the packed batch in the whole frame that begins there; empty when nothing is."""
    _, length, _, kind, attributes, record_count, index, *_ = HEADER.unpack_from(chunk, at)
    codec = attributes & CODEC_MASK
    if kind != EntryKind.RECORDS or codec == Codec.NONE:
        return ""
    try:
        check_stored(memoryview(chunk)[at + ENTRY_HEADER_SIZE : at + length], record_count, codec)
    except InvalidRequestError as error:
        return f"entry {index} is as it was written, but no batch that every reader can read: {error}"
    return ""
