"""What a node answers to readers: records, the readable range, the first offset of a time.

A record read here is committed and immutable, so it is served without asking anybody. What only the whole
group knows (that a record does not exist, where the log begins and ends) is asked of the leader first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.python.failure import Failure

from loghouse.errors import OffsetOutOfRangeError, UnavailableError
from loghouse.limits import FETCH_SIZE_MAX
from loghouse.replica.api import Fetched, LogBounds
from loghouse.replica.driver import RaftDriver
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.log import Log


class LogReads:
    """Reads a replica's log for clients; every offset in an answer is within the bounds it was made under."""

    def __init__(
        self,
        readers: WorkQueue,
        *,
        member: Callable[[], tuple[RaftDriver, Log]],
        is_damaged: Callable[[], bool],
        read_failed: Callable[[Failure], Any],
    ) -> None:
        """Serve the log that `member` returns.

        Args:
            readers: Threads for what may wait for a disk.
            member: The replica and its log as they are now; raises UnavailableError while there are none.
            is_damaged: Whether the log lost entries, so that this node alone is no majority.
            read_failed: Turns why a read failed into what the reader is told.
        """
        self._readers = readers
        self._member = member
        self._is_damaged = is_damaged
        self._read_failed = read_failed

    def fetch(self, offset: int, size_max: int) -> Deferred[Fetched]:
        """Read whole entry frames from the one that holds `offset` on. See `NodeLike.fetch`.

        A miss may be only this node's: it is told after the leader confirmed it.
        """
        try:
            replica, log = self._member()
        except UnavailableError:
            return fail()
        if replica.lowest_offset <= offset < replica.readable_offset:
            return self._read(replica, log, offset, size_max)
        return self._read_barrier(replica).addCallback(lambda _: self._read_or_miss(offset, size_max))

    def _read_or_miss(self, offset: int, size_max: int) -> Deferred[Fetched]:
        replica, log = self._member()
        if replica.lowest_offset <= offset < replica.readable_offset:
            return self._read(replica, log, offset, size_max)
        raise OffsetOutOfRangeError(offset, replica.lowest_offset, replica.readable_offset)

    def _read(self, replica: RaftDriver, log: Log, offset: int, size_max: int) -> Deferred[Fetched]:
        high_index = replica.readable_index
        size_max = min(size_max, FETCH_SIZE_MAX)

        def read() -> Fetched:
            frames, next_offset = log.read(offset, size_max, high_index)
            return Fetched(frames=frames, next_offset=next_offset)

        reading = maybeDeferred(read) if log.is_hot(offset) else self._readers.run(read)
        return reading.addErrback(self._trimmed_meanwhile, offset).addErrback(self._read_failed)

    def _trimmed_meanwhile(self, failure: Failure, offset: int) -> NoReturn:
        """Name the bounds of what is readable: the log itself names what it has bytes of."""
        failure.trap(OffsetOutOfRangeError)
        replica, _ = self._member()
        raise OffsetOutOfRangeError(offset, replica.lowest_offset, replica.readable_offset)

    def bounds(self) -> Deferred[LogBounds]:
        """Return the readable range. See `NodeLike.bounds`."""

        def look(_: int) -> LogBounds:
            replica, _log = self._member()
            return LogBounds(lowest=replica.lowest_offset, next_offset=replica.readable_offset)

        return maybeDeferred(self._confirm).addCallback(look)

    def find_offset(self, timestamp: int) -> Deferred[tuple[int, int]]:
        """Return the first offset at or after a time. See `NodeLike.find_offset`."""
        return maybeDeferred(self._confirm).addCallbacks(
            lambda _: self._find_offset(timestamp), self._find_offset_alone, errbackArgs=(timestamp,)
        )

    def _find_offset(self, timestamp: int) -> Deferred[tuple[int, int]]:
        """Look a time up within what is readable now; a trim or an append meanwhile changes nothing."""
        replica, log = self._member()
        lowest, next_offset = replica.lowest_offset, replica.readable_offset
        high_index = replica.readable_index

        def find() -> tuple[int, int]:
            found = log.find_time(timestamp, high_index, lowest)
            return found if found is not None else (next_offset, 0)

        return self._readers.run(find).addErrback(self._read_failed)

    def _find_offset_alone(self, failure: Failure, timestamp: int) -> Deferred[tuple[int, int]]:
        """Answer without the leader if a record here is young enough: the first of its time stays the first.

        That none is only the leader can confirm; then the reason why it did not is the answer.
        """
        failure.trap(UnavailableError)
        return self._find_offset(timestamp).addCallback(lambda found: found if found[1] else failure)

    # --- the leader's word ----------------------------------------------------------------

    def _confirm(self) -> Deferred[int]:
        replica, _ = self._member()
        return self._read_barrier(replica)

    def _read_barrier(self, replica: RaftDriver) -> Deferred[int]:
        is_lone = replica.raft.configuration.voters == {replica.raft.id} and not self._is_damaged()
        if replica.is_full and is_lone:
            # A full disk deposes a leader, but there is nobody else who could have committed anything.
            return succeed(replica.readable_index)
        return replica.read_barrier()
