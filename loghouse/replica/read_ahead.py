"""The log as the consensus core reads it: what may be on a cold disk is read by other threads first.

A follower that is far behind needs entries that left memory long ago. The core asks for them on the
reactor's thread, which must not wait for a disk: it is told `EntriesPendingError`, and asks again when they
are here. While some are sent, those behind them are read, but not faster than `CATCH_UP_RATE`: who is far
behind can wait, and must not take the machine from the appends that others wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loghouse.limits import CATCH_UP_RATE, READ_AHEAD_MAX, READ_AHEAD_SIZE
from loghouse.protocol.entry import Entry
from loghouse.protocol.log_state import LogState
from loghouse.raft.ready import EntriesPendingError, EntryHeader
from loghouse.runtime.scheduling import Cancellable, Scheduler
from loghouse.runtime.threads import WorkQueue
from loghouse.shares import Pace
from loghouse.storage.log import Log


class ReadAhead:
    """A `raft.ready.LogReader` over a log; at most `READ_AHEAD_MAX` pieces of `READ_AHEAD_SIZE` are held.

    Cold entries are in sealed segments. A leader's log is never cut, so what was read stays true until the
    role changes: then `forget`.
    """

    def __init__(
        self,
        log: Log,
        readers: WorkQueue,
        failed: Callable[[BaseException], Any],
        *,
        scheduler: Scheduler,
        pace: Pace | None = None,
    ) -> None:
        """Read nothing yet. `pace` is that of all logs of the node; None: this one has it for itself."""
        self._log = log
        self._readers = readers  # the threads for cold reads
        self._failed = failed  # told why a read failed; the core asks again at its next turn
        self._pieces: dict[int, list[Entry]] = {}  # by the index of their first entry, oldest first
        # What was taken last before an index: kept until that is taken, too. The core may take an entry and
        # then not send it, because too much is in flight, and asks for it again at every turn.
        self._before: dict[int, int] = {}
        self._under_way: set[int] = set()
        self._scheduler = scheduler  # runs work later
        # By the scheduler's clock: when the rate allows the next piece.
        self._pace = Pace(CATCH_UP_RATE) if pace is None else pace
        self._waiting: set[Cancellable] = set()
        self._life = 0
        self.wake: Callable[[], None] = lambda: None

    @property
    def first_index(self) -> int:
        """The first entry held."""
        return self._log.first_index

    @property
    def last_index(self) -> int:
        """The last entry held."""
        return self._log.last_index

    @property
    def record_room(self) -> int:
        """Bytes of records that fit without room that is not taken yet."""
        return self._log.record_room

    def term_at(self, index: int) -> int:
        """Return the term of an entry. Raises LookupError and DamageError as the log does."""
        return self._log.term_at(index)

    def header_at(self, index: int) -> EntryHeader:
        """Return what the header of an entry says. Raises LookupError and DamageError as the log does."""
        return self._log.header_at(index)

    def state_at(self, index: int) -> LogState:
        """Return the state after an entry. Raises LookupError and DamageError as the log does."""
        return self._log.state_at(index)

    def entries(self, low: int, high: int, size_max: int) -> list[Entry]:
        """Return entries from `low` up to, not including, `high`: at least one, then those that fit.

        Raises:
            EntriesPendingError: They are being read.
            LookupError: `low` was trimmed.
            DamageError: The first of them is damaged; in a sealed segment, once that is known.
        """
        if self._log.is_active(low):
            return self._log.entries(low, high, size_max)
        if low < self._log.first_index:
            raise LookupError(f"entry {low} is trimmed")
        piece = self._pieces.get(low)
        if piece is None:
            self._log.check_not_damaged(low)
            self._read(low)
            raise EntriesPendingError(low)
        taken = _fitting(piece[: high - low], size_max)
        rest = piece[len(taken) :]
        following = taken[-1].index + 1
        self._pieces.pop(self._before.pop(low, 0), None)
        self._before[following] = low
        if rest:
            self._keep(following, rest)
        elif not self._log.is_active(following):
            self._read(following)
        return taken

    def forget(self) -> None:
        """Drop what was read, and what is being read."""
        self._life += 1
        self._pieces.clear()
        self._before.clear()
        self._under_way.clear()
        waiting, self._waiting = self._waiting, set()
        for timer in waiting:
            timer.cancel()

    def _keep(self, low: int, piece: list[Entry]) -> None:
        self._pieces.pop(low, None)
        while len(self._pieces) >= READ_AHEAD_MAX:
            oldest = next(iter(self._pieces))
            del self._pieces[oldest]
            self._before = {index: before for index, before in self._before.items() if before != oldest}
        self._pieces[low] = piece

    def _read(self, low: int) -> None:
        if low in self._under_way or len(self._under_way) >= READ_AHEAD_MAX:
            return
        self._under_way.add(low)
        log, life = self._log, self._life

        def arrived(piece: list[Entry]) -> None:
            if life == self._life:
                self._when_due(piece, lambda: use(piece))

        def use(piece: list[Entry]) -> None:
            self._under_way.discard(low)
            if piece:
                self._keep(low, piece)
                self.wake()

        def failed(error: BaseException) -> None:
            if life == self._life:
                self._under_way.discard(low)
            if not isinstance(error, LookupError):  # trimmed meanwhile: the core will see
                self._failed(error)

        self._readers.submit(lambda: log.entries(low, log.last_index + 1, READ_AHEAD_SIZE), arrived, failed)

    def _when_due(self, piece: list[Entry], use: Callable[[], None]) -> None:
        """Call `use` as soon as the rate allows for a piece of that size."""
        now = self._scheduler.seconds()
        due = self._pace.due(sum(entry.size for entry in piece), now)
        if due <= now:
            use()
            return

        def later() -> None:
            self._waiting.discard(timer)
            use()

        timer = self._scheduler.callLater(due - now, later)
        self._waiting.add(timer)


def _fitting(entries: list[Entry], size_max: int) -> list[Entry]:
    size = 0
    for count, entry in enumerate(entries):
        size += entry.size
        if size > size_max and count:
            return entries[:count]
    return entries
