"""What a node answers to readers: records, the readable range, the first offset of a time.

A record read here is committed and immutable, so it is served without asking anybody. What only the whole
group knows (that a record does not exist, where the log begins and ends) is asked of the leader first. Reads
of what is far behind give way to appends (`replica.cold_reads`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from loghouse.errors import OffsetOutOfRangeError, UnavailableError
from loghouse.limits import FETCH_SIZE_MAX
from loghouse.metrics import ReadTally
from loghouse.protocol.log_state import encode_log_state
from loghouse.protocol.record_range import ReadPage, RecordRange
from loghouse.replica.api import Fetched, LogBounds
from loghouse.replica.cold_reads import ColdReads
from loghouse.replica.driver import RaftDriver
from loghouse.replica.replica import Replica
from loghouse.runtime.deferring import deferred, run_on
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.log import Log
from loghouse.storage.range_scan import RangeScan, Scanned

FramesT = TypeVar("FramesT", Fetched, Scanned)
T = TypeVar("T")


class LogReads:
    """Reads a replica's log for clients; every offset in an answer is within the bounds it was made under."""

    def __init__(
        self,
        readers: WorkQueue,
        log: Log,
        *,
        member: Callable[[], RaftDriver],
        is_damaged: Callable[[], bool],
        read_failed: Callable[[BaseException], BaseException],
        cold_reads: ColdReads,
        scheduler: IReactorTime,
        tally: ReadTally | None = None,
    ) -> None:
        """Serve a log."""
        self._tally = tally  # counts what is read; None when nobody asks for it
        self._readers = readers  # threads for what may wait for a disk
        self._log = log
        self._member = member  # what drives the core now; raises UnavailableError while nothing does
        self._is_damaged = is_damaged  # whether the log lost entries, so that this node alone is no majority
        self._cold_reads = cold_reads  # has what is far behind give way to appends; of all logs of the node
        self._scheduler = scheduler  # the reactor's clock
        self._explain = read_failed  # turns why a read failed into what the reader is told

    def fetch(self, offset: int, size_max: int) -> Deferred[Fetched]:
        """Read whole entry frames from the one that holds `offset` on. See `LogLike.fetch`.

        A miss may be only this node's: it is told after the leader confirmed it.
        """
        try:
            driver = self._member()
        except UnavailableError:
            return fail()
        if driver.lowest_offset <= offset < driver.readable_offset:
            return self._read(driver, offset, size_max)
        return self._read_barrier(driver).addCallback(lambda _: self._read_or_miss(offset, size_max))

    def _read_or_miss(self, offset: int, size_max: int) -> Deferred[Fetched]:
        driver = self._member()
        if driver.lowest_offset <= offset < driver.readable_offset:
            return self._read(driver, offset, size_max)
        raise OffsetOutOfRangeError(offset, driver.lowest_offset, driver.readable_offset)

    def _read(self, driver: RaftDriver, offset: int, size_max: int) -> Deferred[Fetched]:
        log, high_index = self._log, driver.readable_index
        size_max = min(size_max, FETCH_SIZE_MAX)

        def read(size_max: int) -> Fetched:
            frames, next_offset = log.read(offset, size_max, high_index)
            return Fetched(frames=frames, next_offset=next_offset)

        is_hot = log.is_hot(offset)
        if is_hot:
            reading = maybeDeferred(read, size_max)
        elif log.is_near(offset):
            reading = run_on(self._readers, partial(read, size_max))
        else:
            reading = self._read_far(read, size_max, lambda fetched: len(fetched.frames))
        if self._tally is not None:
            reading.addCallback(self._count, self._tally, is_hot)
        return reading.addErrback(self._trimmed_meanwhile, offset).addErrback(self._read_failed)

    def _read_far(self, read: Callable[[int], T], size_max: int, size_of: Callable[[T], int]) -> Deferred[T]:
        """Read as much of `size_max` bytes as appends leave room for, once it has its turn.

        Args:
            size_of: Says how many bytes it was: an entry larger than what was asked for comes whole.
        """
        cold_reads, scheduler = self._cold_reads, self._scheduler
        now = scheduler.seconds()
        size = cold_reads.size_max(size_max, now)
        seconds = cold_reads.wait_seconds(size, now)
        work = partial(read, size)

        def count(outcome: T) -> T:
            cold_reads.more_read(size_of(outcome) - size, scheduler.seconds())
            return outcome

        if not seconds:
            return run_on(self._readers, work).addCallback(count)
        if self._tally is not None:
            self._tally.held_seconds += seconds
        turn: Deferred[object] = deferLater(scheduler, seconds)
        return turn.addCallback(lambda _: run_on(self._readers, work)).addCallback(count)

    def _count(self, fetched: FramesT, tally: ReadTally, is_hot: bool) -> FramesT:
        if is_hot:
            tally.reads_by_map += 1
            tally.bytes_by_map += len(fetched.frames)
        else:
            tally.reads_by_pread += 1
            tally.bytes_by_pread += len(fetched.frames)
        return fetched

    def read_range(self, wanted: RecordRange) -> Deferred[ReadPage]:
        """Read some of a range. See `LogLike.read_range`.

        What is here is served at once. About what is not the leader is asked first, unless the read is local.
        """
        try:
            driver = self._member()
        except UnavailableError:
            return fail()
        if wanted.is_local or wanted.is_hit(driver.lowest_offset, driver.readable_offset):
            return maybeDeferred(self._read_range, wanted, False)
        return self._read_barrier(driver).addCallback(lambda _: self._read_range(wanted, True))

    def _read_range(self, wanted: RecordRange, is_confirmed: bool) -> Deferred[ReadPage]:
        driver = self._member()
        lowest, committed = driver.lowest_offset, driver.readable_offset
        low, high = wanted.window(lowest, committed)
        scan = RangeScan(self._log, wanted, low, high, driver.readable_index)
        begin = high - 1 if wanted.is_reverse else low
        is_hot = not scan.is_filtered and self._log.is_hot(begin)
        scanning = maybeDeferred(scan.run) if is_hot else self._scan(scan)
        if self._tally is not None:
            scanning.addCallback(self._count, self._tally, is_hot)
        paging: Deferred[ReadPage] = scanning.addCallback(
            lambda scanned: ReadPage(
                frames=scanned.frames,
                next_offset=scanned.next_offset,
                lowest=lowest,
                committed=committed,
                is_confirmed=is_confirmed,
            )
        )
        return paging.addErrback(self._trimmed_meanwhile, begin).addErrback(self._read_failed)

    def _scan(self, scan: RangeScan) -> Deferred[Scanned]:
        """Take the steps of a scan, one at a time: other readers have their turns between them."""

        def go_on(is_more: bool) -> Deferred[Scanned] | Scanned:
            return self._scan(scan) if is_more else scan.scanned

        if self._log.is_near(scan.place):
            return run_on(self._readers, scan.step).addCallback(go_on)
        before = scan.read_size
        stepping = self._read_far(scan.step, scan.step_size, lambda _: scan.read_size - before)
        return stepping.addCallback(go_on)

    def _read_failed(self, failure: Failure) -> Failure:
        assert failure.value is not None
        error = self._explain(failure.value)
        return failure if error is failure.value else Failure(error)

    def _trimmed_meanwhile(self, failure: Failure, offset: int) -> NoReturn:
        """Name the bounds of what is readable: the log itself names what it has bytes of."""
        failure.trap(OffsetOutOfRangeError)
        driver = self._member()
        raise OffsetOutOfRangeError(offset, driver.lowest_offset, driver.readable_offset)

    def read_state(self, offset: int) -> Deferred[Fetched]:
        """Read the replicated state before the entry that holds `offset`. See `LogLike.read_state`."""
        return maybeDeferred(self._confirm).addCallback(lambda _: self._read_state(offset))

    def _read_state(self, offset: int) -> Deferred[Fetched]:
        driver = self._member()
        lowest, next_offset, high_index = driver.lowest_offset, driver.readable_offset, driver.readable_index
        if not lowest <= offset <= next_offset:
            raise OffsetOutOfRangeError(offset, lowest, next_offset)
        log = self._log

        def read() -> Fetched:
            index = log.index_of_offset(offset) - 1 if offset < next_offset else high_index
            state = log.state_at(index)
            return Fetched(frames=encode_log_state(state), next_offset=state.next_offset)

        reading = run_on(self._readers, read)
        return reading.addErrback(self._trimmed_meanwhile, offset).addErrback(self._read_failed)

    def bounds(self) -> Deferred[LogBounds]:
        """Return the readable range. See `LogLike.bounds`."""

        def look(_: int) -> LogBounds:
            driver = self._member()
            return LogBounds(lowest=driver.lowest_offset, next_offset=driver.readable_offset)

        return maybeDeferred(self._confirm).addCallback(look)

    def find_offset(self, timestamp: int) -> Deferred[tuple[int, int]]:
        """Return the first offset at or after a time. See `LogLike.find_offset`."""
        return maybeDeferred(self._confirm).addCallbacks(
            lambda _: self._find_offset(timestamp), self._find_offset_alone, errbackArgs=(timestamp,)
        )

    def _find_offset(self, timestamp: int) -> Deferred[tuple[int, int]]:
        """Look a time up within what is readable now; a trim or an append meanwhile changes nothing."""
        driver = self._member()
        lowest, next_offset = driver.lowest_offset, driver.readable_offset
        log, high_index = self._log, driver.readable_index

        def find() -> tuple[int, int]:
            found = log.find_time(timestamp, high_index, lowest)
            return found if found is not None else (next_offset, 0)

        return run_on(self._readers, find).addErrback(self._read_failed)

    def _find_offset_alone(self, failure: Failure, timestamp: int) -> Deferred[tuple[int, int]]:
        """Answer without the leader if a record here is young enough: the first of its time stays the first.

        That none is only the leader can confirm; then the reason why it did not is the answer.
        """
        failure.trap(UnavailableError)
        return self._find_offset(timestamp).addCallback(lambda found: found if found[1] else failure)

    # --- the leader's word ----------------------------------------------------------------

    def _confirm(self) -> Deferred[int]:
        driver = self._member()
        return self._read_barrier(driver)

    def _read_barrier(self, driver: RaftDriver) -> Deferred[int]:
        is_lone = driver.raft.configuration.voters == {driver.raft.id} and not self._is_damaged()
        if driver.is_full and is_lone:
            # A full disk deposes a leader, but there is nobody else who could have committed anything.
            return succeed(driver.readable_index)
        return deferred(driver.read_barrier)


def reads_of(replica: Replica) -> LogReads:
    """Return what answers clients' reads of a replica's log."""
    return LogReads(
        replica.readers,
        replica.log,
        member=replica.member,
        is_damaged=lambda: replica.damage is not None,
        read_failed=replica.damage_control.read_failed,
        cold_reads=replica.cold_reads,
        scheduler=replica.clocks.scheduler,
        tally=tallies.reads if (tallies := replica.options.metrics.tallies) is not None else None,
    )
