"""What every write of a log is done within, and the sync that ends it, in steps."""

from __future__ import annotations

from typing import Protocol

from loghouse.errors import DiskFailedError
from loghouse.storage.files import Files, check_room, sync_written
from loghouse.storage.reading import View
from loghouse.storage.segment import End, Segment
from loghouse.storage.store import Watermark


class WrittenLog(Protocol):
    """What of a `Log` is looked at and changed here; it is of the same thread."""

    seed: int
    _directory: str
    _failed: str
    _files: Files
    _view: View
    _watermark: Watermark

    def _fail(self, what: str) -> DiskFailedError: ...
    def _view_to(self, end: End, durable_index: int, durable_offset: int) -> View: ...
    def _move_checkpoint(self, commit_index: int) -> None: ...


class Writing:
    """Refuses when the log has failed; makes any error of the disk its failure for good.

    A class, as a generator would cost every append ten calls more.
    """

    __slots__ = ("_log", "_what")

    def __init__(self, log: WrittenLog, what: str) -> None:
        self._log = log
        self._what = what

    def __enter__(self) -> None:
        log = self._log
        if log._failed:
            raise DiskFailedError(f"{log._directory}: writing is refused since: {log._failed}")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise self._log._fail(f"{self._what}: {error}") from error


class SyncUnderWay:
    """The active segment's way to be durable, and to say so to readers and in its watermark."""

    __slots__ = ("_encoded", "_fd", "_log", "_segment", "_view", "_watermark")

    def __init__(self, log: WrittenLog, segment: Segment, commit_index: int) -> None:
        """Make all before the sync: its end finds this thread's processor cold, and callers wait for it."""
        end = segment.end
        last_index = segment.last_index
        self._log = log
        self._segment = segment
        self._fd = segment.store().fd
        self._view = log._view_to(end, last_index, end.next_offset)
        self._watermark = watermark = Watermark(
            counter=log._watermark.counter + 1,
            durable_index=last_index,
            durable_term=end.term,
            position=end.position,
            commit_index=commit_index,
        )
        self._encoded = [watermark.encode(log.seed)]

    def run(self) -> None:
        """Sync; any thread may, that of the log waits for it.

        Raises:
            DiskFailedError: The sync failed; it is never retried.
        """
        with Writing(self._log, "sync"):
            self.sync()

    def sync(self) -> None:
        """Sync, within what is being done to the log.

        Raises:
            OSError: It failed.
        """
        sync_written(self._log._files, self._fd)

    def finish(self) -> None:
        """Say what is durable now.

        Raises:
            DiskFullError, DiskFailedError: As `Log.sync`.
        """
        log, segment = self._log, self._segment
        position = log._watermark.position
        with Writing(log, "sync"):
            try:
                self.publish()
            except OSError as error:
                check_room(error, log._directory)
                raise
            log._move_checkpoint(self._watermark.commit_index)
            segment.clear_ahead(segment.end.position - position)

    def publish(self) -> None:
        """Show readers what is durable, and write the watermark."""
        log, watermark = self._log, self._watermark
        log._view = self._view
        log._files.pwritev(self._fd, self._encoded, watermark.slot_position)
        # Not before: one that found no room is written again, to the same slot. The other is good.
        log._watermark = watermark
