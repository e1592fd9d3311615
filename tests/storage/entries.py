"""Entries for storage tests, made as a leader makes them."""

import random
from collections.abc import Callable
from typing import Any

from loghouse.protocol.configuration import encode_producer, encode_trim
from loghouse.protocol.cursors import CursorAction, CursorChange, encode_cursor_change
from loghouse.protocol.entry import Entry, EntryKind, frame_seed, make_entry
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.files import Files
from loghouse.storage.hard_state import HardStateFile
from loghouse.storage.log import Log

CLUSTER = bytes(range(16))
GROUP = 1
SEED = frame_seed(CLUSTER, GROUP)


def create_log(files: Files, directory: str, *, term: int = 9) -> None:
    """Make an empty log of a member that has seen `term`, as high as that of any entry to come."""
    Log.create(files, directory, cluster=CLUSTER, group=GROUP)
    hard_state = HardStateFile(files, directory, SEED, remedy="")
    hard_state.save(HardState(term, 0))
    hard_state.close()


def open_directory(
    files: Files,
    path: str = "/data",
    *,
    cluster_name: str = "c",
    node_name: str = "n",
    random_bytes: Callable[[int], bytes] | None = None,
    **sizes: int,
) -> DataDirectory:
    """Take a data directory as a node does that is alone; an empty one becomes a new cluster's.

    Without `random_bytes` its ids are always the same.
    """
    random_bytes = random_bytes or random.Random(5).randbytes
    directory = DataDirectory.lock(files, path, **sizes)
    try:
        if directory.is_empty:
            uuids = {name: random_bytes(16) for name in ("cluster_uuid", "disk_uuid")}
            directory.create(DiskIdentity(**uuids, cluster_name=cluster_name, node_name=node_name))
        directory.check_names(cluster_name=cluster_name, node_name=node_name)
    except BaseException:
        directory.close()
        raise
    return directory


def frames_of(log: Log, size: int = 10**6) -> list[bytes]:
    """Return the frames of everything that a log holds, read in pieces of `size` bytes."""
    frames: list[bytes] = []
    index = log.first_index
    while index <= log.last_index:
        found = log.entries(index, log.last_index + 1, size)
        frames += [entry.frame for entry in found]
        index += len(found)
    return frames


class Writer:
    """Makes entries that follow each other, and remembers them."""

    def __init__(self, state: LogState | None = None, seed: int = SEED) -> None:
        self.state = state.copy() if state else LogState()
        self.seed = seed

    def records(self, count: int = 1, size: int = 20, *, term: int = 1, **fields: int) -> Entry:
        """Make a records entry with a payload of `size` bytes that tells its index."""
        payload = (b"%d " % (self.state.index + 1) * size)[:size]
        return self._make(EntryKind.RECORDS, payload, record_count=count, term=term, **fields)

    def noop(self, *, term: int = 1) -> Entry:
        """Make an entry without records."""
        return self._make(EntryKind.NOOP, b"", term=term)

    def trim(self, lowest_offset: int, *, term: int = 1) -> Entry:
        """Make a trim entry."""
        return self._make(EntryKind.TRIM, encode_trim(lowest_offset), term=term)

    def producer(self, subject: str, *, term: int = 1) -> Entry:
        """Make an entry that registers a producer."""
        return self._make(EntryKind.PRODUCER, encode_producer(subject), term=term)

    def cursor(self, action: CursorAction, name: str = "billing", *, term: int = 1, **fields: Any) -> Entry:
        """Make an entry that does something with a cursor."""
        change = CursorChange(action=action, name=name, **fields)
        return self._make(EntryKind.CURSOR, encode_cursor_change(change), term=term)

    def _make(self, kind: EntryKind, payload: bytes, *, term: int, **fields: int) -> Entry:
        state = self.state
        entry = make_entry(
            self.seed,
            index=state.index + 1,
            term=max(term, state.term),
            kind=kind,
            base_offset=state.next_offset,
            timestamp=state.timestamp + 10,
            payload=payload,
            **fields,
        )
        state.apply(entry)
        return entry


def new_disk(disk_type, directory):
    """Return a simulated disk with the directory of a log, durable."""
    disk = disk_type()
    for path in ("/data", "/data/logs", directory):
        disk.make_directory(path)
        disk.sync_directory(path.rpartition("/")[0] or "/")
    return disk
