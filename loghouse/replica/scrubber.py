"""Reading what nobody reads: every sealed segment once a day, so that damage is found while it can be mended.

A step reads about a mebibyte on a reader thread. The pace is bounded twice: by the configured rate, and by
the disk's own time, of which the steps take at most a tenth. Time comes by `look`, which the node calls at
each tick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from loghouse.metrics import NO_METRICS, Metrics
from loghouse.replica.entry_repair import MendingOwner
from loghouse.runtime.events import Logger
from loghouse.runtime.threads import WorkQueue
from loghouse.shares import Pace
from loghouse.storage.examination import Examination
from loghouse.storage.files import Files
from loghouse.storage.log import Log
from loghouse.storage.segment import Segment

FIRST_SECONDS: Final = 60.0  # after the start: a node that comes back has better things to read first
PASS_SECONDS: Final = 86_400.0  # from a pass's start to the next one's, at least
REST_FACTOR: Final = 9  # a step's time, so often, is its pause: steps take a tenth of a disk's time
LATE_SECONDS_MAX: Final = 1.0  # of rate not used that may be caught up with


class Scrubber:
    """Passes over the sealed segments of one log. Where it is is forgotten when the process ends."""

    logger = Logger()

    def __init__(
        self,
        files: Files,
        log: Log,
        owner: MendingOwner,
        *,
        readers: WorkQueue,
        rate: int,
        monotonic: Callable[[], float],
        metrics: Metrics = NO_METRICS,
        pace: Pace | None = None,
    ) -> None:
        """Begin some time after the first `look`.

        Args:
            rate: Bytes a second at most, of all logs of the node together; 0 reads nothing.
            pace: That of all logs, in seconds of reading at the rate; None: this one has it for itself.
        """
        self._files = files
        self._log = log
        self._owner = owner
        self._readers = readers
        self.rate = rate  # changed with the node's settings
        self._pace = Pace(1.0) if pace is None else pace
        self._monotonic = monotonic
        self._metrics = metrics  # told when a pass ends
        self._due = monotonic() + FIRST_SECONDS
        self._pass_began: float | None = None
        self._last_base = 0
        self._exam: Examination | None = None
        self._is_reading = False
        self._segments = self._size = self._found = 0

    def look(self) -> None:
        """Read on if it is time."""
        now = self._monotonic()
        if not self.rate or self._is_reading or self._owner.is_ending or now < self._due:
            return
        if self._exam is None:
            segment = self._next_segment()
            if segment is None:
                self._end_pass(now)
                return
            if self._pass_began is None:
                self._begin_pass(now)
            self._last_base = segment.base_index
            is_end_exact = segment.base_index not in self._log.unknown_ends
            self._exam = Examination(self._files, segment, is_end_exact=is_end_exact)
        self._step(self._exam, now)

    @property
    def pass_ratio(self) -> float:
        """How much of the pass that is under way is read; 0 between two."""
        if self._pass_began is None:
            return 0.0
        whole = sum(segment.size for segment in self._log.sealed_segments())
        return min(1.0, self._size / whole) if whole else 1.0

    def _next_segment(self) -> Segment | None:
        """Return the first sealed segment behind the last one read whose entries are all committed."""
        committed = self._owner.committed_index
        for segment in self._log.view.segments[:-1]:
            if segment.base_index > self._last_base:
                return segment if segment.last_index <= committed else None
        return None

    def _begin_pass(self, now: float) -> None:
        self._pass_began = now
        self._segments = self._size = self._found = 0
        sealed = self._log.sealed_segments()
        self.logger.info(
            "scrub: reading {segments} sealed segments, {size} bytes, at {rate} bytes a second at most",
            segments=len(sealed),
            size=sum(segment.size for segment in sealed),
            rate=self.rate,
        )

    def _end_pass(self, now: float) -> None:
        self._last_base = 0
        if self._pass_began is None:
            self._due = now + FIRST_SECONDS  # nothing is sealed yet
            return
        self._metrics.scrub_pass_ended()
        self.logger.info(
            "scrub: read {segments} sealed segments, {size} bytes, in {seconds} s: {found} damaged places",
            segments=self._segments,
            size=self._size,
            seconds=round(now - self._pass_began),
            found=self._found,
        )
        self._due = max(now, self._pass_began + PASS_SECONDS)
        self._pass_began = None

    def _step(self, exam: Examination, began: float) -> None:
        self._is_reading = True

        def finish(outcome: int | Exception) -> None:
            self._is_reading = False
            if self._owner.is_ending:
                return
            now = self._monotonic()
            size = 0
            if isinstance(outcome, OSError):
                self._exam = None
                if not isinstance(outcome, FileNotFoundError):  # trimmed; else whoever reads it will tell
                    self.logger.error("scrub: {error}", error=str(outcome))
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                size = outcome
                self._judge(exam)
            self._size += size
            if size:
                self._metrics.bytes_scrubbed(size)
            seconds = size / self.rate if self.rate else 0.0  # it was switched off meanwhile
            by_rate = self._pace.due(seconds, max(self._due, began - LATE_SECONDS_MAX)) + seconds
            self._due = max(by_rate, now + REST_FACTOR * (now - began))

        self._readers.run(exam.step, finish, finish, fatal=self._owner.fatal)

    def _judge(self, exam: Examination) -> None:
        if self._log.sealed_segment(exam.segment.base_index) is not exam.segment:
            self._exam = None  # trimmed, or it takes appends again
        elif exam.failure:
            self._exam = None
            self.logger.error("scrub: {file}: {problem}", file=exam.segment.path, problem=exam.failure)
        elif exam.damage is not None:
            self._found += 1
            self._owner.damage_found(exam.damage.error())
            exam.skip()
        elif exam.is_done:
            self._exam = None
            self._segments += 1
            if exam.index_entries is not None:
                self._owner.index_wrong(exam.segment.base_index, exam.index_entries)
