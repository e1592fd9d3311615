"""Kinds 0x0125 to 0x0127 and 0x0320 to 0x0322: what is asked about cursors, by clients and between nodes.

See `docs/wire_format.md`. A batch that comes with an advance is the message of a batch without one, with the
advance before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, Final, TypeVar

from loghouse.errors import InvalidRequestError, MalformedMessageError
from loghouse.limits import (
    CURSOR_HOLDER_SIZE_MAX,
    CURSOR_NAME_SIZE_MAX,
    CURSORS_PER_PAGE_MAX,
    CURSORS_SIZE_MAX,
    FORWARD_SIZE_MAX,
    LEASE_SECONDS_MAX,
    LEASE_SECONDS_MIN,
    PRODUCE_SIZE_MAX,
    SUBJECT_SIZE_MAX,
    UINT64_MAX,
    WAITING_PER_CURSOR_MAX,
)
from loghouse.protocol.client_messages import REPLIES as PLAIN_REPLIES
from loghouse.protocol.client_messages import Produce, ProduceReply
from loghouse.protocol.cursors import REWIND, CursorAction, CursorChange, advance_with_records
from loghouse.protocol.entry import Buffer
from loghouse.protocol.fields import U8, U16, U32, U64, Items8, Items16, Rest, ShortText, Truth, message
from loghouse.protocol.forward_messages import ForwardProduce
from loghouse.protocol.message import Message, check_text

_Batch = TypeVar("_Batch", Produce, ForwardProduce)


class CursorOperation(IntEnum):
    """What is asked about cursors; the first five are a `CursorAction`. ONLY APPEND TO THIS LIST."""

    ACQUIRE = 1
    """Let `holder` have the cursor; refused while another one has it within its lease."""
    ADVANCE = 2
    """Move it to `position`, as the holder of `epoch`; back only with flag 1."""
    RELEASE = 3
    """Let others have it at once, as the holder of `epoch`."""
    SET = 4
    """Move it to `position`, whoever holds it; that holder is fenced."""
    DELETE = 5
    """Forget it."""
    RENEW = 6
    """Begin the lease of the holder of `epoch` anew; nothing is written."""
    GET = 7
    """Tell of the cursor."""
    LIST = 8
    """Tell of the cursors whose names come after `name`, at most `count_max` of them (0: the node's own)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorOrder:
    """A request about cursors, and on whose behalf; `CursorOperation` says what the fields mean.

    Attributes:
        is_admin: Whether the subject may change cursors of others.
    """

    operation: int
    name: str = ""
    holder: str = ""
    subject: str = ""
    epoch: int = 0
    position: int = 0
    flags: int = 0
    lease_milliseconds: int = 0
    count_max: int = 0
    is_admin: bool = False

    @property
    def change(self) -> CursorChange:
        """What its entry says; for one of the operations that are actions."""
        action = CursorAction(self.operation)
        has_subject = action in (CursorAction.ACQUIRE, CursorAction.SET)
        return CursorChange(
            action=action,
            flags=self.flags,
            name=self.name,
            holder=self.holder,
            subject=self.subject if has_subject else "",
            epoch=self.epoch,
            position=self.position,
            lease_milliseconds=self.lease_milliseconds,
        )


CHANGES: Final = frozenset(int(action) for action in CursorAction)
"""The operations that write an entry."""
OPERATIONS: Final = frozenset(int(operation) for operation in CursorOperation)
NO_LAG: Final = UINT64_MAX
"""The lag of a cursor whose position counts something else than the records of its log."""
LEASE_MILLISECONDS: Final = range(int(LEASE_SECONDS_MIN * 1000), int(LEASE_SECONDS_MAX * 1000) + 1)


def check_order(order: CursorOrder) -> None:
    """Raise unless a request about cursors has what its operation needs; an entry's fields are checked later.

    Raises:
        InvalidRequestError: Names the field and the problem.
    """
    if order.flags & ~REWIND:
        raise InvalidRequestError("flags", f"{order.flags:#04x} are not known")
    lease = order.lease_milliseconds
    if order.operation == CursorOperation.ACQUIRE and lease not in LEASE_MILLISECONDS:
        raise InvalidRequestError(
            "lease",
            f"is {lease / 1000:g} s; {LEASE_SECONDS_MIN:g} to {LEASE_SECONDS_MAX:g} s are allowed",
        )
    if order.operation in (CursorOperation.RENEW, CursorOperation.GET) and not order.name:
        raise InvalidRequestError("cursor", "needs a name")


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedCursor:
    """A cursor as its log's leader tells of it.

    `left_milliseconds` is how much of its lease is left: 0 when nobody holds it, or the holder was not heard.
    `waiting_count` is how many were refused it within the last WAIT_SECONDS. `lag` is that of
    `CursorState.lag`, or NO_LAG.
    """

    name: ShortText
    position: U64
    epoch: U64
    holder: ShortText = ""
    subject: ShortText = ""
    lease_milliseconds: U32 = 0
    left_milliseconds: U32 = 0
    waiting_count: U16 = 0
    lag: U64 = NO_LAG

    @property
    def known_lag(self) -> int | None:
        """How many records of its log it is behind; None when it counts something else."""
        return None if self.lag == NO_LAG else self.lag


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorPage:
    """The answer to a request about cursors.

    Attributes:
        next: The name to go on behind; empty: there are no more.
        waiting: Who waits for the cursor, by the holders' names; of a list that is not told.
    """

    cursors: tuple[DescribedCursor, ...] = ()
    next: str = ""
    waiting: tuple[str, ...] = ()


def _check_texts(name: str, holder: str = "", subject: str = "") -> None:
    check_text("cursor", name, CURSOR_NAME_SIZE_MAX)
    check_text("holder", holder, CURSOR_HOLDER_SIZE_MAX)
    check_text("subject", subject, SUBJECT_SIZE_MAX)


def _check_page(cursors: tuple[DescribedCursor, ...], following: str, waiting: tuple[str, ...]) -> None:
    if len(cursors) > CURSORS_PER_PAGE_MAX:
        raise ValueError(f"{len(cursors)} cursors, at most {CURSORS_PER_PAGE_MAX}")
    if len(waiting) > WAITING_PER_CURSOR_MAX:
        raise ValueError(f"{len(waiting)} wait, at most {WAITING_PER_CURSOR_MAX}")
    for cursor in cursors:
        _check_texts(cursor.name, cursor.holder, cursor.subject)
    for holder in waiting:
        check_text("holder", holder, CURSOR_HOLDER_SIZE_MAX)
    _check_texts(following)


@message(0x0320)
class AskCursor(Message):
    """Ask something about a cursor of the log, or have it changed; an operation says what the fields mean.

    `operation` is a `CursorOperation`, or one of a later version: that is answered with a NotSupportedError.
    """

    operation: U8
    flags: U8 = 0
    name: ShortText = ""
    holder: ShortText = ""
    epoch: U64 = 0
    position: U64 = 0
    lease_milliseconds: U32 = 0
    count_max: U16 = 0

    def check(self) -> None:
        """Raise ValueError when a text is too long or unprintable."""
        _check_texts(self.name, self.holder)


@message(0x0321, CURSORS_SIZE_MAX)
class AskCursorReply(Message):
    """The cursor as it is now, none where it was deleted; or a page of them. Fields as in `CursorPage`."""

    cursors: Items16[DescribedCursor] = ()
    next: ShortText = ""
    waiting: Items8[ShortText] = ()

    def check(self) -> None:
        """Raise ValueError when there are too many, or a text is too long or unprintable."""
        _check_page(self.cursors, self.next, self.waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class _WithCursor:
    """What ProduceWithCursor and ForwardProduceWithCursor share: an advance, and the batch's request."""

    cursor: ShortText
    epoch: U64
    position: U64
    produce: Rest

    def check(self) -> None:
        """Raise ValueError when the batch is none, or is a producer's."""
        _check_texts(self.cursor)
        if self.request.producer_id:
            raise ValueError("a batch has a producer or a cursor")

    @property
    def request(self) -> Produce | ForwardProduce:
        """The batch; it is decoded anew each time."""
        raise NotImplementedError

    @property
    def change(self) -> CursorChange:
        """The advance."""
        return advance_with_records(self.cursor, self.epoch, self.position)


@message(0x0322, PRODUCE_SIZE_MAX + CURSOR_NAME_SIZE_MAX + 17)
class ProduceWithCursor(_WithCursor, Message):
    """Append a batch, and move a cursor with it: both, or neither. `produce` is the body of a Produce.

    Answered by ProduceReply; again with the same answer, when the batch came with this very advance before.
    """

    @property
    def request(self) -> Produce:
        """The batch; it is decoded anew each time."""
        return _inner(Produce, self.produce)


@message(0x0125)
class ForwardCursor(Message):
    """Do this as the leader, for `subject`, who was allowed to where it came in. Fields as in AskCursor.

    Answered by ForwardCursorReply or ForwardFailure; the receiver never passes it on.
    """

    request_id: U64
    operation: U8
    flags: U8 = 0
    name: ShortText = ""
    holder: ShortText = ""
    subject: ShortText = ""
    is_admin: Truth = False
    epoch: U64 = 0
    position: U64 = 0
    lease_milliseconds: U32 = 0
    count_max: U16 = 0

    def check(self) -> None:
        """Raise ValueError when a text is too long or unprintable."""
        _check_texts(self.name, self.holder, self.subject)

    @property
    def order(self) -> CursorOrder:
        """What is to be done."""
        return CursorOrder(**{field.name: getattr(self, field.name) for field in fields(CursorOrder)})

    @classmethod
    def asking(cls, request_id: int, order: CursorOrder) -> ForwardCursor:
        """Return the message that passes an order on."""
        given = {field.name: getattr(order, field.name) for field in fields(order)}
        return cls(request_id=request_id, **given)


@message(0x0126, CURSORS_SIZE_MAX)
class ForwardCursorReply(Message):
    """What AskCursorReply says, to the node that passed the request on."""

    request_id: U64
    cursors: Items16[DescribedCursor] = ()
    next: ShortText = ""
    waiting: Items8[ShortText] = ()

    def check(self) -> None:
        """Raise ValueError when there are too many, or a text is too long or unprintable."""
        _check_page(self.cursors, self.next, self.waiting)


@message(0x0127, FORWARD_SIZE_MAX + CURSOR_NAME_SIZE_MAX + 17)
class ForwardProduceWithCursor(_WithCursor, Message):
    """Append this batch, and move a cursor with it. `produce` is a ForwardProduce's body, answered alike."""

    @property
    def request(self) -> ForwardProduce:
        """The batch; it is decoded anew each time."""
        return _inner(ForwardProduce, self.produce)


# What answers a client's request when it succeeds, those about cursors among them.
REPLIES: Final[Mapping[type[Message], type[Message]]] = {
    **PLAIN_REPLIES,
    AskCursor: AskCursorReply,
    ProduceWithCursor: ProduceReply,
}
CURSOR_FIELDS: Final = tuple(field.name for field in fields(AskCursor))
CURSOR_BULK_KINDS: Final = frozenset((ForwardProduceWithCursor.KIND,))


def page_of(reply: AskCursorReply | ForwardCursorReply) -> CursorPage:
    """Return what an answer tells."""
    return CursorPage(cursors=reply.cursors, next=reply.next, waiting=reply.waiting)


def page_fields(page: CursorPage) -> dict[str, Any]:
    """Return the fields of an answer that tells this."""
    return {field.name: getattr(page, field.name) for field in fields(page)}


def _inner(kind: type[_Batch], body: Buffer) -> _Batch:
    """Return the message in a body; ValueError when there is none."""
    try:
        return kind.decode(body)
    except MalformedMessageError as error:
        raise ValueError(str(error)) from None
