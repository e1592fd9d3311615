"""What must hold of cursors: a fold of its own over the committed log, and what workers did and were told.

The fold is written anew from the rules of ADR 42, as plainly as they are, and shares nothing with
`loghouse.protocol.cursors` but the bytes of a change. A leader appends no change that comes to nothing, so
one that is in the log all the same is wrong, too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from loghouse.protocol.cursor_messages import DescribedCursor
from loghouse.protocol.cursors import (
    REWIND,
    WITH_RECORDS,
    CursorAction,
    CursorChange,
    Cursors,
    CursorState,
    decode_cursor_change,
)
from loghouse.protocol.entry import Entry, EntryKind
from loghouse.testing.checkers import Oracle, Violation

MARK: Final = b"from "
"""What a payload begins with that came with an advance; no other client writes such."""


class CursorStanding(NamedTuple):
    """A cursor after some entry. `batch`: index, offset and count of the last records that moved it.

    The index stays when it moves without any, or has another holder; offset and count do not.
    """

    position: int
    epoch: int
    holder: str = ""
    lease_milliseconds: int = 0
    batch: tuple[int, int, int] = (0, 0, 0)

    @property
    def told(self) -> tuple[int, int, str, int]:
        """What a leader tells of it."""
        return self[:4]


class Claim(NamedTuple):
    """What a payload says of itself: made from all that is at `start` and above, below `end`."""

    name: str
    start: int
    end: int

    def payload(self, rest: bytes) -> bytes:
        """Return a payload that claims this, with `rest` behind it."""
        return b"%s%s %d %d %s" % (MARK, self.name.encode(), self.start, self.end, rest)

    @classmethod
    def of(cls, payload: bytes) -> Claim | None:
        """Return what a payload claims; None when it came without an advance."""
        if not payload.startswith(MARK):
            return None
        _, name, start, end, _ = payload.split(b" ", 4)
        return cls(name.decode(), int(start), int(end))


def standing_of(cursor: CursorState) -> CursorStanding:
    """Return a cursor of a node's state, as the books have it."""
    batch = cursor.batch_index, cursor.batch_offset, cursor.batch_count
    return CursorStanding(cursor.position, cursor.epoch, cursor.holder, cursor.lease_milliseconds, batch)


class CursorBooks:
    """The cursors of one log after each of its entries. `violations` is what no leader may have written."""

    def __init__(self, log: Sequence[Entry]) -> None:
        """Fold the whole committed log, from its first entry ever."""
        self.violations: list[Violation] = []
        # By name: after which entries it was another one, and what it was then; None: deleted.
        self._indices: dict[str, list[int]] = {}
        self._standings: dict[str, list[CursorStanding | None]] = {}
        # By the index of the entry that brought it: an advance that awaits the records of the next one.
        self._awaited: dict[int, CursorChange] = {}
        term = 0
        for entry in log:
            change = self._awaited.get(entry.index - 1) if entry.term == term else None
            if entry.kind == EntryKind.RECORDS:
                self._take_records(entry, change)
            elif entry.kind == EntryKind.CURSOR:
                self._take_change(entry)
            term = entry.term

    def _take_records(self, entry: Entry, change: CursorChange | None) -> None:
        claim = Claim.of(bytes(entry.payload))
        if change is None:
            if claim is not None:
                self._wrong("cursor-records", f"entry {entry.index} has records of {claim}, and no advance")
            return
        before = self.now(change.name)
        assert before is not None, "a change that awaits records was checked"
        if claim != (change.name, before.position, change.position):
            text = f"{change.name} goes from {before.position} to {change.position} with records of {claim}"
            self._wrong("cursor-records", f"entry {entry.index}: {text}")
        batch = entry.index, entry.base_offset, entry.record_count
        self._put(entry.index, change.name, before._replace(position=change.position, batch=batch))

    def _take_change(self, entry: Entry) -> None:
        change = decode_cursor_change(bytes(entry.payload))
        name, before = change.name, self.now(change.name)
        position = before.position if before is not None else 0
        batch = (before.batch[0] if before is not None else 0), 0, 0
        match change.action:
            case CursorAction.ACQUIRE:
                lease = change.lease_milliseconds
                self._put(
                    entry.index, name, CursorStanding(position, entry.index, change.holder, lease, batch)
                )
            case CursorAction.SET:
                self._put(entry.index, name, CursorStanding(change.position, entry.index, batch=batch))
            case _ if before is None:
                self._wrong("cursor-fenced", f"entry {entry.index}: {change} of a cursor that is not there")
            case CursorAction.DELETE:
                self._put(entry.index, name, None)
            case _ if change.epoch != before.epoch:
                self._wrong("cursor-fenced", f"entry {entry.index}: {change} of {before}")
            case CursorAction.RELEASE:
                self._put(entry.index, name, CursorStanding(position, entry.index, batch=batch))
            case _:
                self._advance(entry, change, before)

    def _advance(self, entry: Entry, change: CursorChange, before: CursorStanding) -> None:
        with_records = bool(change.flags & WITH_RECORDS)
        if change.position < before.position + with_records and not change.flags & REWIND:
            self._wrong("cursor-back", f"entry {entry.index}: {change} of {before}")
        elif with_records:
            self._awaited[entry.index] = change
        else:
            moved = before._replace(position=change.position, batch=(before.batch[0], 0, 0))
            self._put(entry.index, change.name, moved)

    def _wrong(self, rule: str, text: str) -> None:
        self.violations.append(Violation(rule, text))

    def _put(self, index: int, name: str, standing: CursorStanding | None) -> None:
        self._indices.setdefault(name, []).append(index)
        self._standings.setdefault(name, []).append(standing)

    # --- what is asked of the books -----------------------------------------------------------

    @property
    def names(self) -> Iterable[str]:
        """The cursors that there ever were."""
        return self._indices

    def now(self, name: str) -> CursorStanding | None:
        """Return a cursor after the last entry; None when it is not there."""
        standings = self._standings.get(name)
        return standings[-1] if standings else None

    def after(self, name: str, index: int) -> CursorStanding | None:
        """Return a cursor after an entry; None when it was not there."""
        place = bisect_right(self._indices.get(name, ()), index)
        return self._standings[name][place - 1] if place else None

    def stretches(self, name: str) -> Iterator[tuple[int, float, CursorStanding | None]]:
        """Yield what a cursor was: from which entry on, until before which one, and its standing."""
        indices = [0, *self._indices.get(name, ())]
        standings = [None, *self._standings.get(name, ())]
        return zip(indices, [*indices[1:], float("inf")], standings, strict=True)

    def check_state(self, who: str, index: int, cursors: Cursors) -> None:
        """Check the cursors of a node's state after an entry of the log.

        Raises:
            Violation: They are others.
        """
        after = {name: self.after(name, index) for name in self.names}
        wanted = {name: standing for name, standing in after.items() if standing is not None}
        held = {name: standing_of(cursor) for name, cursor in cursors.by_name.items()}
        if held != wanted:
            raise Violation("cursor-state", f"{who} after entry {index}: {held}, the log says {wanted}")
        awaited, change = cursors.awaited, self._awaited.get(index)
        of_node = (awaited.name, awaited.position) if awaited is not None else None
        if of_node != ((change.name, change.position) if change is not None else None):
            raise Violation("cursor-state", f"{who} after entry {index} awaits {of_node}, not {change}")


@dataclass(frozen=True, slots=True)
class ToldCursor:
    """An answer about a cursor: how it stands; None: it is not there. Times are stamps of the history."""

    name: str
    invoked: int
    returned: int
    told: tuple[int, int, str, int] | None


@dataclass(frozen=True, slots=True)
class Sign:
    """What a holder had written into the log: it was at work no earlier than `seconds`."""

    seconds: float
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class Taken:
    """A cursor that was acquired: somebody was told so at `seconds`."""

    name: str
    epoch: int
    holder: str
    seconds: float


class CursorHistory:
    """What workers did, and what they were told; `check` judges it against the final log."""

    def __init__(self) -> None:
        self.told: list[ToldCursor] = []
        self.taken: list[Taken] = []
        self._signs: dict[tuple[str, int], Sign] = {}
        # By cursor: (first, behind the last) position that somebody handled, or was told to be trimmed.
        self._done: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def tell(self, name: str, invoked: int, returned: int, cursor: DescribedCursor | None) -> None:
        """Note an answer; times are stamps."""
        told = None
        if cursor is not None:
            told = cursor.position, cursor.epoch, cursor.holder, cursor.lease_milliseconds
        self.told.append(ToldCursor(name, invoked, returned, told))

    def sign(self, name: str, epoch: int, seconds: float, lease_seconds: float) -> None:
        """Note that the holder of an epoch had something written, asked for at `seconds` at the earliest."""
        known = self._signs.get((name, epoch))
        if known is None or known.seconds < seconds:
            self._signs[name, epoch] = Sign(seconds, lease_seconds)

    def take(self, name: str, epoch: int, holder: str, seconds: float) -> None:
        """Note that a holder was told that it has a cursor."""
        self.taken.append(Taken(name, epoch, holder, seconds))

    def did(self, name: str, start: int, end: int) -> None:
        """Note that somebody handled what is at `start` and above, below `end`, or that it is not there."""
        done = self._done[name]
        if done and done[-1][1] == start:
            start = done.pop()[0]
        done.append((start, end))

    # --- judgement --------------------------------------------------------------------------------

    def check(self, oracle: Oracle, readers: Iterable[str], drift: float) -> None:
        """Check everything against the committed log.

        Args:
            readers: The cursors whose positions are offsets that somebody must have handled.
            drift: How much too fast a leader's clock may run, as a fraction.

        Raises:
            Violation: Something does not hold.
        """
        books = CursorBooks(oracle.committed)
        for violation in books.violations:
            raise violation
        for member, index, term, cursors in oracle.recovered_cursors:
            if index <= oracle.committed_index and oracle.committed[index - 1].term == term:
                books.check_state(f"member {member}", index, cursors)
        self._check_holders()
        for name in {one.name for one in self.told}:
            self._check_told(books, name)
        for taken in self.taken:
            self._check_lease(books, taken, drift)
        for name in readers:
            self._check_done(books, name)

    def _check_holders(self) -> None:
        """There never are two holders of one epoch."""
        holders: dict[tuple[str, int], str] = {}
        for taken in self.taken:
            other = holders.setdefault((taken.name, taken.epoch), taken.holder)
            if other != taken.holder:
                text = f"{taken.name}: {other} and {taken.holder} both have epoch {taken.epoch}"
                raise Violation("cursor-holders", text)

    def _check_told(self, books: CursorBooks, name: str) -> None:
        """Answers about a cursor must fit one order, in which none comes before one that it came after."""
        stretches = [
            (first, end, standing.told if standing is not None else None)
            for first, end, standing in books.stretches(name)
        ]
        placed: list[tuple[int, int]] = []  # (returned, no earlier than after this entry), both growing
        for one in sorted((one for one in self.told if one.name == name), key=lambda one: one.returned):
            before = bisect_right(placed, (one.invoked, 0))
            lowest = placed[before - 1][1] if before else 0
            fits = [max(first, lowest) for first, end, told in stretches if told == one.told and end > lowest]
            if not fits:
                raise Violation("cursor-answer", f"{name} was told to be {one.told}, after entry {lowest}")
            placed.append((one.returned, max(fits[0], placed[-1][1] if placed else 0)))

    def _check_lease(self, books: CursorBooks, taken: Taken, drift: float) -> None:
        """Nobody loses a cursor to another one within the lease that its last written sign of life began."""
        before = books.after(taken.name, taken.epoch - 1)
        if before is None or before.holder in ("", taken.holder):
            return
        sign = self._signs.get((taken.name, before.epoch))
        if sign is not None and taken.seconds < sign.seconds + sign.lease_seconds / (1 + drift):
            text = f"{taken.name}: {taken.holder} had it at {taken.seconds:.3f} s"
            work = f"{before.holder} was at work at {sign.seconds:.3f} s, for {sign.lease_seconds} s"
            raise Violation("cursor-lease", f"{text}; {work}")

    def _check_done(self, books: CursorBooks, name: str) -> None:
        """Whatever is below a cursor's position was handled once at least."""
        done, reached = sorted(self._done[name]), 0
        standing = books.now(name)
        position = standing.position if standing is not None else 0
        for start, end in done:
            if start > reached:
                break
            reached = max(reached, end)
        if reached < position:
            raise Violation("cursor-handled", f"{name} is at {position}, and nobody handled {reached}")
