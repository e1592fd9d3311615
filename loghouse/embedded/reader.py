"""Reading a directory that another process writes: without its lock."""

from __future__ import annotations

import os
import threading
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from loghouse.client.choice import Trust
from loghouse.client.fields import moment_of
from loghouse.client.records import Bounds
from loghouse.embedded.reads import READ_SIZE_MAX, EmbeddedReads, scanned
from loghouse.errors import ClosedError, OffsetOutOfRangeError
from loghouse.protocol.record_range import ReadPage, RecordRange
from loghouse.storage.files import Files, OsFiles
from loghouse.storage.following import FollowedLog

POLL_SECONDS: Final = 0.02
"""How often a reader that follows looks for more: the writer, another process, tells nobody."""


class EmbeddedReader(EmbeddedReads):
    """A log that another process writes, an embedded one or a node. See `loghouse.open_reader`.

    Its methods are those of `EmbeddedLog` that read. Any thread may call it. It changes nothing in the
    directory, and sees a record once that is durable.
    """

    def __init__(self, files: Files, path: str) -> None:
        """Use `loghouse.open_reader`."""
        self._path = path
        self._followed = FollowedLog(files, path)
        self._lock = threading.Lock()  # held for each look at the directory
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Read no more; who follows the log gets ClosedError."""
        self._closed.set()

    def _refresh(self) -> FollowedLog:
        if self._closed.is_set():
            raise ClosedError(f"{self._path}: the reader is closed")
        with self._lock:
            self._followed.refresh()
        return self._followed

    def fetch(self, offset: int) -> tuple[bytes, int]:
        """Return whole entry frames from `offset` on, and where to go on; nothing at the log's end."""
        followed = self._followed
        if offset >= followed.next_offset or self._closed.is_set():
            followed = self._refresh()
        with self._lock:
            if offset >= followed.next_offset:
                return b"", offset
            if offset < followed.lowest_offset:
                raise OffsetOutOfRangeError(offset, followed.lowest_offset, followed.next_offset)
            log = followed.log
            return log.read(offset, READ_SIZE_MAX, log.durable_index)

    def read_range(self, wanted: RecordRange) -> ReadPage:
        """Return some of a range; see `EmbeddedReads.read_range`."""
        followed = self._followed
        if wanted.end > followed.next_offset or self._closed.is_set():
            followed = self._refresh()
        with self._lock:
            log = followed.log
            return scanned(log, wanted, followed.lowest_offset, followed.next_offset, log.durable_index)

    def wait_for(self, offset: int) -> None:
        """Return once the record at `offset` is readable."""
        while self._refresh().next_offset <= offset:
            self._closed.wait(POLL_SECONDS)

    def bounds(self, *, consistency: Trust = "confirmed", timeout_seconds: float | None = None) -> Bounds:
        """Return the offsets that the log holds: what is durable by now."""
        followed = self._refresh()
        return Bounds(followed.lowest_offset, followed.next_offset)

    def find_offset(self, time: datetime | int, *, timeout_seconds: float | None = None) -> int:
        """Return the first offset appended at or after a time, or else the next offset."""
        timestamp = max(0, moment_of("time", time))
        followed = self._refresh()
        with self._lock:
            log = followed.log
            found = log.find_time(timestamp, log.durable_index, followed.lowest_offset)
            return found[0] if found is not None else followed.next_offset


def open_reader(path: str | os.PathLike[str]) -> EmbeddedReader:
    """Read the log in a directory that another process has open, or none; changes nothing there.

        with loghouse.open_reader("events/") as log:
            for record in log.read("earliest", follow=True):
                print(record.offset, record.value)

    Raises:
        DataDirectoryError: There is no log.
        DamageError: Acknowledged data is damaged or missing.
    """
    return EmbeddedReader(OsFiles(), os.path.abspath(path))
