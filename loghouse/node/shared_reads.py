"""Equal reads of one log on another node are one: its followers wake together, and want the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from loghouse.errors import OffsetOutOfRangeError
from loghouse.replica.api import Fetched


@dataclass(slots=True)
class _Read:
    """A read under way: who asked for it first, and who came since."""

    first: list[Deferred[Fetched]]
    later: list[Deferred[Fetched]] = field(default_factory=list)
    asked: Deferred[None] | None = None


class SharedReads:
    """Makes reads, and gives each answer to everybody who asked for just this meanwhile."""

    def __init__(self, read: Callable[[int, int], Deferred[Fetched]]) -> None:
        """`read` makes one, of an offset and a size."""
        self._read = read  # fixed
        self._reads: dict[tuple[int, int], _Read] = {}  # those under way, by offset and size

    def fetch(self, offset: int, size_max: int) -> Deferred[Fetched]:
        """Read, or share a read that is under way; may be cancelled, and the last one cancels the read."""
        key = offset, size_max
        done: Deferred[Fetched] = Deferred(partial(self._leave, key))
        read = self._reads.get(key)
        if read is not None:
            read.later.append(done)
        else:
            self._begin(key, [done])
        return done

    def _begin(self, key: tuple[int, int], readers: list[Deferred[Fetched]]) -> None:
        read = self._reads[key] = _Read(readers)
        asked = self._read(*key)
        asked.addBoth(self._tell, key, read)
        read.asked = asked  # type: ignore[assignment]  # `_tell` returns nothing

    def _tell(self, outcome: Fetched | Failure, key: tuple[int, int], read: _Read) -> None:
        if self._reads.get(key) is read:
            del self._reads[key]
        readers, later = read.first, read.later
        if isinstance(outcome, Failure) and outcome.check(OffsetOutOfRangeError) and later:
            # Whoever came later may have been told by then that there is such a record.
            self._begin(key, later)
        else:
            readers = [*readers, *later]
        for reader in readers:
            reader.callback(outcome)

    def _leave(self, key: tuple[int, int], reader: Deferred[Fetched]) -> None:
        read = self._reads.get(key)
        if read is None:
            return
        for readers in (read.first, read.later):
            if reader in readers:
                readers.remove(reader)
        if not (read.first or read.later) and read.asked is not None:
            del self._reads[key]
            read.asked.cancel()
