"""Reading a log that another process writes: without its lock, and without changing a byte.

What may be read is what the writer says is durable, in the watermark of its last segment, which it writes
behind every sync. Of a group with other voters it is what it knows to be committed.
"""

from __future__ import annotations

from typing import Final

from loghouse.errors import DamageError, DataDirectoryError
from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol.entry import DEFAULT_GROUP, frame_seed
from loghouse.protocol.log_state import LogState
from loghouse.storage.directory import LOGS_NAME, DiskIdentity
from loghouse.storage.files import Files
from loghouse.storage.opening import Survey, state_before, survey
from loghouse.storage.reading import ReadableLog, make_view
from loghouse.storage.recovery import FrameScan, stores_among
from loghouse.storage.segment import End
from loghouse.storage.store import newest_watermark
from loghouse.storage.verify import read_identity

ATTEMPTS_MAX: Final = 5
"""Looks at a directory in which files come and go, before what does not fit together is damage."""


class FollowedLog:
    """A log of another process, as far as it was at the last `refresh`; for one thread at a time."""

    def __init__(self, files: Files, path: str, group: int = DEFAULT_GROUP) -> None:
        """Look at the log for the first time.

        Raises:
            DataDirectoryError: There is none, or it is of a newer version.
            DamageError: Acknowledged data is damaged or missing.
        """
        self._files = files
        self.identity: DiskIdentity = read_identity(files, path.rstrip("/"))
        self._group = group
        self._directory = f"{path.rstrip('/')}/{LOGS_NAME}/{group}"
        self.seed = frame_seed(self.identity.cluster_uuid, group)
        self.lowest_offset = self.next_offset = 0  # what may be read
        self._look()

    def _look(self) -> None:
        """Begin anew with the segments that there are now."""
        for attempt in range(ATTEMPTS_MAX):
            try:
                found = survey(
                    self._files,
                    self._directory,
                    cluster=self.identity.cluster_uuid,
                    group=self._group,
                    remedy="",
                )
                if found.is_installing:
                    raise DataDirectoryError(f"{self._directory}: the log is being made anew; try again")
                self._begin(found)
            except (DamageError, FileNotFoundError):
                # The writer rolls, or trims: what is there now fits together.
                if attempt == ATTEMPTS_MAX - 1:
                    raise
            else:
                return

    def _begin(self, found: Survey) -> None:
        place = len(found.segments) - 1
        self._segment = segment = found.segments[place]
        self._bases = [one.base_index for one in found.segments]
        before = state_before(self._files, found, place)
        segment.end = End(0, STORE_HEADER_SIZE, segment.header.previous_term, segment.base_offset)
        self._state = before
        self.log = ReadableLog(
            self._files,
            self._directory,
            make_view(found.segments),
            seed=self.seed,
            start_state=found.start_state,
            state=before.copy(),
        )
        self._found = found
        self.next_offset, self.lowest_offset = segment.base_offset, self.log.lowest_offset
        self._advance()

    def refresh(self) -> bool:
        """Look for what was written since; return whether more can be read.

        Raises:
            DataDirectoryError, DamageError: As for a new one.
        """
        before = self.next_offset
        if stores_among(self._files.list_directory(self._directory)) != self._bases:
            self._advance()  # the writer's last words in a segment that it sealed
            self._look()
        else:
            self._advance()
        return self.next_offset > before

    def _advance(self) -> None:
        """Go on to the end of what may be read of the last segment."""
        segment = self._segment
        watermark = newest_watermark(segment.store().pread(STORE_HEADER_SIZE, 0), self.seed)
        if watermark is None:
            return  # it is just being written
        index = watermark.durable_index if _is_alone(self._state) else watermark.commit_index
        if index <= segment.last_index:
            return  # as at most looks; a state may be megabytes
        state = self._state.copy()
        scan = self._scan_to(index, state)
        if watermark.commit_index < scan.index and not _is_alone(state):
            # Others joined in between: what is durable here is not committed for that.
            state = self._state.copy()
            scan = self._scan_to(watermark.commit_index, state)
        if scan.index <= segment.last_index:
            return
        self._state = state
        segment.end = End(segment.end.count + scan.count, scan.position, scan.term, scan.next_offset)
        segment.newest_timestamp = scan.timestamp
        self.log.advance(make_view(self._found.segments), state)
        self.next_offset = scan.next_offset
        self.lowest_offset = self.log.lowest_offset

    def _scan_to(self, index: int, state: LogState) -> FrameScan:
        segment = self._segment
        end = segment.end
        scan = FrameScan(
            self.seed,
            index=segment.last_index,
            term=end.term,
            next_offset=end.next_offset,
            base_offset=segment.base_offset,
            position=end.position,
            timestamp=state.timestamp,
            state=state,
            index_max=index,
        )
        if scan.index < index:
            scan.run(segment.store().pread, segment.size)
            if scan.index < index:
                raise segment.damage(scan.position, scan.problem or "entries are missing")
        return scan


def _is_alone(state: LogState) -> bool:
    """Whether one disk is the majority, so that what is durable there is committed."""
    return len(state.configuration.voters) == 1
