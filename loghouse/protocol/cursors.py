"""Cursors: named, fenced positions that are part of a log's replicated state.

A cursor says how far somebody has come: with this log, with another one, or with whatever a program reads.
Who works on it acquires it. That gives it a new epoch, the index of the entry that did it, and from then on
the position moves by this epoch alone: a holder that was paused and replaced is refused, whatever any clock
says. Leases are not here: they only say when somebody else may acquire it, and only the leader counts them.

Everything here is a function of the log. A leader's state is that after its last entry, so it knows what a
change will come to before it appends it, and appends none that would come to nothing. Should one be in a log
all the same, every replica finds alike that it changes nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

from loghouse.errors import (
    CursorFencedError,
    CursorRewindError,
    InvalidRequestError,
    MalformedMessageError,
    RequestError,
    TooManyCursorsError,
    UnknownCursorError,
)
from loghouse.limits import CURSOR_HOLDER_SIZE_MAX, CURSOR_NAME_SIZE_MAX, CURSORS_MAX, SUBJECT_SIZE_MAX
from loghouse.protocol.entry import Entry


class CursorAction(IntEnum):
    """What a cursor entry does. ONLY APPEND TO THIS LIST."""

    ACQUIRE = 1
    """The cursor, made at position 0 if it is not there, is `holder`'s from here on: a new epoch."""
    ADVANCE = 2
    """Its position is `position`, if `epoch` is its epoch."""
    RELEASE = 3
    """Nobody holds it, if `epoch` was its epoch: a new epoch."""
    SET = 4
    """Its position is `position`, and nobody holds it: a new epoch. It is made if it is not there."""
    DELETE = 5
    """It is not there any more."""


REWIND: Final = 0x01
"""Flag of an ADVANCE: the position may go back."""
WITH_RECORDS: Final = 0x02
"""Flag of an ADVANCE: it counts together with the records of the next entry, and not at all without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorChange:
    """What a cursor entry says; what its action does not need is 0 or empty.

    Attributes:
        subject: On whose behalf; the owner of a cursor that is made by it.
        lease_milliseconds: How long its holder may be silent before another one may acquire it.
    """

    action: CursorAction
    flags: int = 0
    name: str
    holder: str = ""
    subject: str = ""
    epoch: int = 0
    position: int = 0
    lease_milliseconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorState:
    """A named position, and who may move it.

    Attributes:
        position: The next one to do; an offset, or what its user counts.
        epoch: The index of the entry that acquired, released or set it last.
        holder: Who acquired it; empty: nobody holds it.
        subject: Who made it; its owner as long as it is there.
        lease_milliseconds: How long its holder may be silent; 0 without a holder.
        batch_index: The entry of the last records that moved it; 0: none ever did.
        batch_offset, batch_count: The first one's offset, and how many they are; 0, 0 once it was moved,
            acquired or let go since: then no second try of theirs is answered any more.
    """

    name: str
    position: int = 0
    epoch: int = 0
    holder: str = ""
    subject: str = ""
    lease_milliseconds: int = 0
    batch_index: int = 0
    batch_offset: int = 0
    batch_count: int = 0

    def lag(self, next_offset: int) -> int | None:
        """Return how far it is behind the end of its log, in records; None when it counts something else.

        What ever moved with records of this log is where their maker stands, in a source of its own. What is
        behind all records is an offset of something else, too.
        """
        if self.batch_index or self.position > next_offset:
            return None
        return next_offset - self.position


@dataclass(frozen=True, slots=True)
class AwaitedAdvance:
    """An advance that waits for the records of the next entry, and the term that they must be of."""

    name: str
    position: int
    term: int


class Cursors:
    """The cursors of one log, after one of its entries.

    Attributes:
        by_name: The cursors.
        last_index: The index of the last cursor entry; 0: there never was one.
        awaited: The advance that the entry before brought, if it counts with the records of the next one.
    """

    __slots__ = ("awaited", "by_name", "last_index")

    def __init__(self) -> None:
        self.by_name: dict[str, CursorState] = {}
        self.last_index = 0
        self.awaited: AwaitedAdvance | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cursors) and self._parts == other._parts

    __hash__ = None  # type: ignore[assignment]

    @property
    def _parts(self) -> tuple[object, ...]:
        return self.by_name, self.last_index, self.awaited

    def copy(self) -> Cursors:
        """Return an independent copy."""
        copied = Cursors()
        copied.by_name = self.by_name.copy()
        copied.last_index, copied.awaited = self.last_index, self.awaited
        return copied

    # --- what would come of a change ----------------------------------------------------------

    def check(self, change: CursorChange) -> None:
        """Raise unless a change does what it says.

        Raises:
            UnknownCursorError, CursorFencedError, CursorRewindError, TooManyCursorsError: It changes nothing.
        """
        cursor = self.by_name.get(change.name)
        if change.action in (CursorAction.ACQUIRE, CursorAction.SET):
            if cursor is None and len(self.by_name) >= CURSORS_MAX:
                raise TooManyCursorsError(CURSORS_MAX, change.name)
            return
        if cursor is None:
            raise UnknownCursorError(change.name)
        if change.action == CursorAction.DELETE:
            return
        if cursor.epoch != change.epoch:
            raise CursorFencedError(change.epoch, cursor.epoch, change.name)
        if change.action == CursorAction.ADVANCE and not change.flags & REWIND:
            # With records a position goes on: at one that stands already, a second try would repeat them.
            lowest = cursor.position + 1 if change.flags & WITH_RECORDS else cursor.position
            if change.position < lowest:
                raise CursorRewindError(change.position, cursor.position, change.name)

    def find_batch(self, change: CursorChange) -> CursorState | None:
        """Return the cursor if its last advance was this very one, with its records; else None."""
        cursor = self.by_name.get(change.name)
        if cursor is None or not cursor.batch_count:
            return None
        is_same = (cursor.epoch, cursor.position) == (change.epoch, change.position)
        return cursor if is_same else None

    # --- what came of entries -----------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """Do what a cursor entry says; what `check` refuses changes nothing.

        Raises:
            MalformedMessageError: Its payload is none.
        """
        change = decode_cursor_change(bytes(entry.payload))
        self.last_index = entry.index
        try:
            self.check(change)
        except RequestError:
            return
        name, action = change.name, change.action
        if action == CursorAction.DELETE:
            del self.by_name[name]
            return
        if action == CursorAction.ADVANCE and change.flags & WITH_RECORDS:
            self.awaited = AwaitedAdvance(name, change.position, entry.term)
            return
        cursor = self.by_name.get(name) or CursorState(name=name, subject=change.subject)
        position = cursor.position
        if action in (CursorAction.ADVANCE, CursorAction.SET):
            position = change.position
        epoch, holder, lease = entry.index, "", 0
        if action == CursorAction.ADVANCE:
            epoch, holder, lease = cursor.epoch, cursor.holder, cursor.lease_milliseconds
        elif action == CursorAction.ACQUIRE:
            holder, lease = change.holder, change.lease_milliseconds
        self.by_name[name] = CursorState(
            name=name,
            position=position,
            epoch=epoch,
            holder=holder,
            subject=cursor.subject,
            lease_milliseconds=lease,
            batch_index=cursor.batch_index,
        )

    def take_records(self, index: int, term: int, base_offset: int, record_count: int) -> None:
        """Let the advance that is awaited count, if these are its records: those of the next entry."""
        awaited, self.awaited = self.awaited, None
        if awaited is not None and awaited.term == term:
            self.by_name[awaited.name] = replace(
                self.by_name[awaited.name],
                position=awaited.position,
                batch_index=index,
                batch_offset=base_offset,
                batch_count=record_count,
            )


# --- bytes ------------------------------------------------------------------------------------

_FIXED: Final = struct.Struct(">QQI")
_BATCH: Final = struct.Struct(">QQI")
_HEAD: Final = struct.Struct(">QI")
_AWAITED: Final = struct.Struct(">QQ")
_ADVANCE_FLAGS: Final = (0, REWIND, WITH_RECORDS)
# Which fields an action has beside its name; the others are 0 or empty.
_FIELDS: Final = {
    CursorAction.ACQUIRE: {"holder", "subject", "lease_milliseconds"},
    CursorAction.ADVANCE: {"flags", "epoch", "position"},
    CursorAction.RELEASE: {"epoch"},
    CursorAction.SET: {"subject", "position"},
    CursorAction.DELETE: set[str](),
}
_CHECKED: Final = ("flags", "holder", "subject", "epoch", "position", "lease_milliseconds")


def encode_cursor_change(change: CursorChange) -> bytes:
    """Return the payload of a cursor entry."""
    return b"".join(
        (
            bytes((change.action, change.flags)),
            _text(change.name),
            _text(change.holder),
            _text(change.subject),
            _FIXED.pack(change.epoch, change.position, change.lease_milliseconds),
        )
    )


def decode_cursor_change(payload: bytes) -> CursorChange:
    """Parse the payload of a cursor entry.

    Raises:
        MalformedMessageError: It is not one.
    """
    reader = _Reader(payload)
    try:
        action, flags = reader.take(2)
        change = CursorChange(
            action=CursorAction(action),
            flags=flags,
            name=reader.text(CURSOR_NAME_SIZE_MAX),
            holder=reader.text(CURSOR_HOLDER_SIZE_MAX),
            subject=reader.text(SUBJECT_SIZE_MAX),
            **dict(zip(("epoch", "position", "lease_milliseconds"), reader.unpack(_FIXED), strict=True)),
        )
        reader.end()
        _check_fields(change)
    except ValueError as error:
        raise MalformedMessageError(f"cursor: {error}") from error
    return change


def _check_fields(change: CursorChange) -> None:
    """Raise ValueError unless a change has what its action needs, and nothing else."""
    fields = _FIELDS[change.action]
    for name in _CHECKED:
        if getattr(change, name) and name not in fields:
            raise ValueError(f"{name} in {change.action.name}")
    if not change.name:
        raise ValueError("a name has at least 1 byte")
    if change.flags not in _ADVANCE_FLAGS:
        raise ValueError(f"flags {change.flags:#04x}")
    if change.action == CursorAction.ACQUIRE and not change.holder:
        raise ValueError("a holder has at least 1 byte")


def advance_with_records(name: str, epoch: int, position: int) -> CursorChange:
    """Return the advance that comes with a batch."""
    return CursorChange(
        action=CursorAction.ADVANCE, name=name, epoch=epoch, position=position, flags=WITH_RECORDS
    )


def check_cursor_change(change: CursorChange) -> None:
    """Raise unless a change may be proposed: its texts can be shown, and everything is within its limits.

    Whether a text can be shown is asked here alone: it depends on the version of Python, and what is in the
    log must mean the same everywhere.

    Raises:
        InvalidRequestError: Names the field and the problem.
    """
    check_texts(change.name, change.holder, change.subject)
    try:
        _check_fields(change)
    except ValueError as error:
        raise InvalidRequestError("cursor", str(error)) from None


def check_texts(name: str, holder: str, subject: str) -> None:
    """Raise InvalidRequestError unless texts about a cursor can be shown, and are within their limits."""
    for field, text, size_max in (
        ("cursor", name, CURSOR_NAME_SIZE_MAX),
        ("holder", holder, CURSOR_HOLDER_SIZE_MAX),
        ("subject", subject, SUBJECT_SIZE_MAX),
    ):
        if len(text.encode()) > size_max:
            raise InvalidRequestError(field, f"has more than {size_max} bytes")
        if not text.isprintable():
            raise InvalidRequestError(field, "holds unprintable characters")


def encode_cursors(cursors: Cursors) -> bytes:
    """Return the bytes of cursors, as the state has them."""
    awaited = cursors.awaited
    pieces = [_HEAD.pack(cursors.last_index, len(cursors.by_name))]
    for cursor in cursors.by_name.values():
        pieces += (
            _text(cursor.name),
            _text(cursor.holder),
            _text(cursor.subject),
            _FIXED.pack(cursor.epoch, cursor.position, cursor.lease_milliseconds),
            _BATCH.pack(cursor.batch_index, cursor.batch_offset, cursor.batch_count),
        )
    pieces.append(_text(awaited.name if awaited is not None else ""))
    if awaited is not None:
        pieces.append(_AWAITED.pack(awaited.position, awaited.term))
    return b"".join(pieces)


def decode_cursors(data: bytes) -> Cursors:
    """Parse the bytes of cursors.

    Raises:
        MalformedMessageError: They are none.
    """
    cursors, reader = Cursors(), _Reader(data)
    try:
        cursors.last_index, count = reader.unpack(_HEAD)
        if count > CURSORS_MAX:
            raise ValueError(f"{count} cursors, at most {CURSORS_MAX}")
        for _ in range(count):
            cursor = _read_cursor(reader)
            if not cursor.name or cursor.name in cursors.by_name:
                raise ValueError(f"cursor {cursor.name!r} twice, or without a name")
            cursors.by_name[cursor.name] = cursor
        awaited = reader.text(CURSOR_NAME_SIZE_MAX)
        if awaited:
            cursors.awaited = AwaitedAdvance(awaited, *reader.unpack(_AWAITED))
            if awaited not in cursors.by_name:
                raise ValueError(f"cursor {awaited!r} is awaited and not there")
        reader.end()
    except ValueError as error:
        raise MalformedMessageError(f"cursors: {error}") from error
    return cursors


def _read_cursor(reader: _Reader) -> CursorState:
    name, holder = reader.text(CURSOR_NAME_SIZE_MAX), reader.text(CURSOR_HOLDER_SIZE_MAX)
    subject = reader.text(SUBJECT_SIZE_MAX)
    epoch, position, lease = reader.unpack(_FIXED)
    index, offset, count = reader.unpack(_BATCH)
    return CursorState(
        name=name,
        position=position,
        epoch=epoch,
        holder=holder,
        subject=subject,
        lease_milliseconds=lease,
        batch_index=index,
        batch_offset=offset,
        batch_count=count,
    )


def _text(text: str) -> bytes:
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded


class _Reader:
    """Takes fields off bytes; ValueError when they end too early, or too late."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> bytes:
        start, self._position = self._position, self._position + size
        if self._position > len(self._data):
            raise ValueError("cut off")
        return self._data[start : self._position]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def text(self, size_max: int) -> str:
        encoded = self.take(self.take(1)[0])
        if len(encoded) > size_max:
            raise ValueError(f"a text of {len(encoded)} bytes, at most {size_max}")
        return encoded.decode()

    def end(self) -> None:
        if self._position != len(self._data):
            raise ValueError("bytes behind its end")
