"""What the small files beside the stores tell of entries that the stores do not hold.

A store that is gone leaves its index and state file behind, and `held`. No crash does: a store is there
before its state file and before its index has entries, and is removed after both (`docs/disk_format.md`,
Orders of operations). So these are traces of a loss, and stay until it is dealt with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from loghouse.errors import DamageError, EntryDamagedError
from loghouse.limits import ENTRY_HEADER_SIZE, INDEX_ENTRY_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.entry import HEADER, crc32c
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.storage.files import Files, OpenFile, end_of_nonzero
from loghouse.storage.held import read_held
from loghouse.storage.loss import UNKNOWN_INDEX, Loss, member_remedy
from loghouse.storage.recovery import (
    INDEX,
    STATE,
    STORE,
    parse_name,
    segment_name,
    stores_among,
)
from loghouse.storage.start import read_state_file
from loghouse.storage.store import StoreHeader, Watermark, newest_watermark


@dataclass(frozen=True, slots=True)
class Trace:
    """A file that proves that there was a store `base_index`, which is gone or empty."""

    base_index: int
    name: str
    last_index: int  # the last entry that it tells of

    @property
    def store_name(self) -> str:
        """The name of the store that it belongs to."""
        return segment_name(self.base_index, STORE)


def traces_behind(
    files: Files, directory: str, seed: int, names: Iterable[str], *, end_index: int
) -> list[Trace]:
    """Return the files among `names` that prove entries or stores behind `end_index`, where the log ends."""
    found = []
    for name in names:
        parsed = parse_name(name)
        if parsed is None or parsed[0] <= end_index or parsed[1] == STORE:
            continue
        base, suffix = parsed
        count = _count_entries(files, f"{directory}/{name}") if suffix == INDEX else 0
        state = read_state_file(files, directory, seed, base) if suffix == STATE else None
        # Versions before wrote the state file first, unmarked, for the segment behind a full one: such a one
        # proves nothing.
        if count or (state is not None and (state.is_marked or base > end_index + 1)):
            found.append(Trace(base, name, base + count - 1))
    return sorted(found, key=lambda trace: (trace.base_index, trace.name))


def _count_entries(files: Files, path: str) -> int:
    index = OpenFile.open(files, path)
    return -(-end_of_nonzero(index, 0, index.size()) // INDEX_ENTRY_SIZE)


def contradicts_installing(files: Files, directory: str, seed: int, start: LogState) -> str:
    """Say what proves that `start`, marked as being installed, is an older copy; "" when nothing does.

    What an installation replaces is a log that does not hold (start.index, start.term), so it cannot know
    that index to be committed; and the segment that an installation makes has no entries before its end.
    """
    held = read_held(files, directory, seed)
    if held is not None and held.is_closed:
        return "it says that the log is being installed, but the log was closed since: it is an older copy"
    for base in stores_among(files.list_directory(directory)):
        name = segment_name(base, STORE)
        store = OpenFile.open(files, f"{directory}/{name}")
        block = store.pread(STORE_HEADER_SIZE, 0)
        watermark = newest_watermark(block, seed)
        is_behind = watermark is not None and watermark.commit_index >= max(start.index, 1)
        if is_behind or _begins_behind(block, start, store):
            return (
                f"it says that the log is being installed behind entry {start.index}, but {name} holds "
                "what was written since: it is an older copy"
            )
    return ""


def _begins_behind(block: bytes, start: LogState, store: OpenFile) -> bool:
    """Whether a store is the one that an installation made, with entries in it."""
    try:
        header = StoreHeader.decode(block, store.path)
    except EntryDamagedError:
        return False
    joined = (start.index + 1, start.term, start.next_offset)
    if (header.base_index, header.previous_term, header.base_offset) != joined:
        return False
    return end_of_nonzero(store, STORE_HEADER_SIZE, store.size()) > STORE_HEADER_SIZE


def last_known(files: Files, directory: str, seed: int, hard_state: HardState) -> Loss:
    """Return the last entry that a damaged log held, as far as it may ever have acknowledged any.

    Watermarks tell it, and `held`; whole headers behind a watermark are taken for acknowledged, too, for it
    may be a sync behind. When the newest store is gone, or has no watermark, and the log was not closed,
    nothing tells: then it may have been anything up to its term (`UNKNOWN_INDEX`).

    Raises:
        DamageError: There is no trace of a log at all.
    """
    names = files.list_directory(directory)
    held = read_held(files, directory, seed)
    pairs = [held.pair] if held is not None else []
    newest, is_newest_known = -1, False
    for base in stores_among(names):
        store = OpenFile.open(files, f"{directory}/{segment_name(base, STORE)}")
        watermark = newest_watermark(store.pread(STORE_HEADER_SIZE, 0), seed)
        if watermark is not None:
            pairs.append(_walk(store, seed, watermark))
        if (
            watermark is not None
            or end_of_nonzero(store, STORE_HEADER_SIZE, store.size()) > STORE_HEADER_SIZE
        ):
            newest, is_newest_known = base, watermark is not None
    gone = traces_behind(files, directory, seed, names, end_index=max(newest, 0))
    if not pairs and newest < 0 and not gone:
        raise DamageError(directory, 0, "nothing tells how far the log went", remedy=member_remedy(directory))
    if (is_newest_known and not gone) or (held is not None and held.is_closed):
        term, index = max(pairs)
        return Loss(index, term)
    term = max([hard_state.term, *(term for term, _ in pairs)])
    return Loss(UNKNOWN_INDEX, term)


def _walk(store: OpenFile, seed: int, watermark: Watermark) -> tuple[int, int]:
    """Follow whole headers behind a watermark; return (term, index) of the last one."""
    index, term, position = watermark.durable_index, watermark.durable_term, watermark.position
    while True:
        head = store.pread(ENTRY_HEADER_SIZE, position)
        if len(head) < ENTRY_HEADER_SIZE:
            return term, index
        crc, length, _, _, _, _, found_index, found_term, *_rest = HEADER.unpack(head)
        if crc32c(head[4:], seed) != crc or found_index != index + 1 or found_term < term:
            return term, index
        index, term = found_index, found_term
        position += length
