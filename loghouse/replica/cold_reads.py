"""Reads of what is far behind the end of a log give way to appends.

Whoever reads gigabytes takes all of the reactor, and of the machine, that there is: an append would wait
behind one piece after the other (ADR 47). So while entries are written, all such reads of a node together
have a rate. Nobody is starved: the rate is a floor, and each byte that is appended allows for one more, so
that a reader comes nearer to the end, by the rate, however much is appended. Pure, but for the queue that
tells of writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar, cast

from loghouse.limits import (
    COLD_READ_RATE_DEFAULT,
    COLD_READ_SECONDS_MAX,
    COLD_READ_SIZE,
    MIB,
)
from loghouse.replica.group_write import GroupWrite
from loghouse.runtime.threads import OnRaised, WorkQueue
from loghouse.shares import Pace

T = TypeVar("T")

QUIET_SECONDS: Final = 0.05
"""Without a write for so long, no append is under way: who appends one after the other is back sooner."""

EARNED_SIZE_KEPT: Final = 1 * MIB
"""Of what was earned before the last write: a reader that begins just now must not have an hour's worth."""


class ColdReads:
    """The pace of reads that are far behind, of all logs of a node."""

    def __init__(self, rate: int = COLD_READ_RATE_DEFAULT) -> None:
        """Begin while nothing is appended. `rate` is bytes a second; 0: reads never give way."""
        self._pace = Pace(rate)  # of what is read beyond what was earned
        self._writing_count = 0  # groups of entries that are with a disk
        self._written_at = float("-inf")  # when the last of them was durable
        self._earned = 0  # bytes that may be read at once, for what was appended

    def change(self, rate: int) -> None:
        """Have another rate from now on; what waits, waits on."""
        self._pace.rate = rate

    # --- what is appended -----------------------------------------------------------------

    def write_began(self) -> None:
        """A group of entries goes to the disk; `write_ended` follows."""
        self._writing_count += 1

    def write_ended(self, size: int, now: float) -> None:
        """So many bytes are durable; 0: the disk took none."""
        self._writing_count -= 1
        self._written_at = now
        self._earned = min(self._earned, EARNED_SIZE_KEPT) + size

    # --- what is read ---------------------------------------------------------------------

    def must_give_way(self, now: float) -> bool:
        """Whether appends are under way, and reads give way at all."""
        is_appending = self._writing_count > 0 or now - self._written_at < QUIET_SECONDS
        return is_appending and self._pace.rate > 0

    def size_max(self, size: int, now: float) -> int:
        """Return how much of `size` bytes to read at once; the first entry comes whole all the same."""
        return min(size, max(COLD_READ_SIZE, self._earned)) if self.must_give_way(now) else size

    def wait_seconds(self, size: int, now: float) -> float:
        """Return how long a read of so many bytes waits from now on, and count them."""
        if not self.must_give_way(now):
            return 0.0
        owed = self._pace.owed(now)
        if owed >= COLD_READ_SECONDS_MAX:
            return COLD_READ_SECONDS_MAX  # and nothing is counted: those who come later wait no longer
        return owed if self._count(size, now) else 0.0

    def more_read(self, size: int, now: float) -> None:
        """Count bytes that a read took beyond those that it was counted for."""
        if size > 0 and self.must_give_way(now):
            self._count(size, now)

    def _count(self, size: int, now: float) -> bool:
        """Count bytes, of what was earned if there are so many; return whether they count at the rate."""
        if size <= self._earned:
            self._earned -= size
            return False
        self._pace.due(size, now)
        return True


class WatchedWrites(WorkQueue):
    """The queue that writes a log: `ColdReads` is told of each group of entries on its way to the disk."""

    def __init__(self, disk: WorkQueue, cold_reads: ColdReads, seconds: Callable[[], float]) -> None:
        """Pass everything on to `disk`. `seconds` is a clock that only rises."""
        self._disk = disk  # fixed
        self._cold_reads = cold_reads  # fixed
        self._seconds = seconds  # fixed

    def submit(self, work: Callable[[], T], done: Callable[[T], object], failed: OnRaised) -> None:
        """Run `work`; see `WorkQueue.submit`."""
        if not isinstance(work, GroupWrite) or not work.size:
            self._disk.submit(work, done, failed)
            return
        cold_reads, seconds, size = self._cold_reads, self._seconds, work.size

        def written(result: object) -> None:
            cold_reads.write_ended(size, seconds())
            done(cast(T, result))

        def not_written(error: Exception) -> None:
            cold_reads.write_ended(0, seconds())
            failed(error)

        cold_reads.write_began()
        self._disk.submit(cast("Callable[[], object]", work), written, not_written)

    def stop(self) -> None:
        """Finish what was given, then end; see `WorkQueue.stop`."""
        self._disk.stop()
