"""Cursors as programs use them: named positions of a log, each moved by one holder at a time.

One class of methods for every kind of client. What it asks goes through a callable that takes a request and
gives the answer: of a cluster, or of a log in this process. Who has no event loop runs the same methods.
"""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from loghouse.client.fields import flag_of, integer_of, seconds_of, text_of
from loghouse.errors import InvalidRequestError
from loghouse.limits import CURSOR_HOLDER_SIZE_MAX, LEASE_SECONDS_DEFAULT, UINT64_MAX
from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder, CursorPage, DescribedCursor
from loghouse.protocol.cursors import REWIND, CursorChange, advance_with_records
from loghouse.protocol.entry import DEFAULT_GROUP, DEFAULT_LOG

_P = ParamSpec("_P")
_T = TypeVar("_T")

Ask = Callable[[CursorOrder, float | None, bool], Awaitable[CursorPage]]
"""Has something about a cursor done, within so many seconds; whether it may be asked for twice."""
_HOST_SIZE_MAX: Final = CURSOR_HOLDER_SIZE_MAX - 30


class Cursor(NamedTuple):
    """A cursor of a log, as its leader told of it.

    `position` is the next one to do: an offset, or what its user counts. Whoever holds it moves it by its
    `epoch`. `left_seconds` is what is left of the holder's lease; 0: others may acquire it. `subject` is who
    made it. `waiting_count` holders were refused it within the last seconds; `waiting` has their names, but
    not in a list of cursors. `lag` is how many records of its log it is behind; None: it counts something
    else, because it moved with records of the log (a pipeline's, an importer's) or is behind the log's end.
    """

    name: str
    position: int
    epoch: int
    holder: str
    subject: str
    lease_seconds: float
    left_seconds: float
    waiting_count: int = 0
    waiting: tuple[str, ...] = ()
    lag: int | None = None


class Advance(NamedTuple):
    """Where a cursor goes together with records: `append_batch(records, cursor=Advance(...))`.

    `epoch` is that of the holder, from `acquire`; `position` is above the cursor's own.
    """

    name: str
    epoch: int
    position: int

    @property
    def change(self) -> CursorChange:
        """The advance, checked.

        Raises:
            InvalidRequestError: A field is of another kind, or out of range.
        """
        name = text_of("cursor", self.name)
        return advance_with_records(name, _number("epoch", self.epoch), _number("position", self.position))


def advance_of(cursor: Advance | None) -> CursorChange | None:
    """Return the advance that a caller gave, None if none.

    Raises:
        InvalidRequestError: It is something else.
    """
    if cursor is None:
        return None
    if not isinstance(cursor, Advance):
        raise InvalidRequestError("cursor", f"is a {type(cursor).__name__}; give an Advance")
    return cursor.change


def _number(field: str, value: int) -> int:
    number = integer_of(field, value)
    if not 0 <= number <= UINT64_MAX:
        raise InvalidRequestError(field, f"is {number}; allowed: 0 to {UINT64_MAX}")
    return number


class AsyncCursors:
    """The cursors of a log. Made by `cursors()` of a log; it needs no closing.

        cursors = log.cursors()
        mine = await cursors.acquire("billing")
        async for record in log.read(mine.position):
            handle(record)
            await cursors.advance("billing", mine.epoch, record.offset + 1)

    A position moves by the epoch of who acquired the cursor last: an older holder gets CursorFencedError.

    Attributes:
        holder: Who acquires, unless `acquire` is told: this host, process, and a number of its own.
    """

    def __init__(self, ask: Ask, identity: Callable[[], str] | None = None) -> None:
        self._ask = ask
        self._identity = identity
        host = platform.node().encode("ascii", "replace").decode()[:_HOST_SIZE_MAX]
        self.holder = f"{host}:{os.getpid()}:{secrets.token_hex(4)}"

    @property
    def log(self) -> str:
        """The log that keeps them, by name and number: `orders#16`; known once one of them was asked for.

        A log that is made anew under its name has another number. That of an embedded log is the one which it
        has when a node serves it.
        """
        return f"{DEFAULT_LOG}#{DEFAULT_GROUP}" if self._identity is None else self._identity()

    async def acquire(
        self,
        name: str,
        *,
        holder: str | None = None,
        lease_seconds: float = LEASE_SECONDS_DEFAULT,
        timeout_seconds: float | None = None,
    ) -> Cursor:
        """Have a cursor, and return it; one that is not there is made, at position 0.

        Args:
            name: 1 to 127 bytes, any text that can be shown.
            holder: Who is to have it; the same one need not wait for itself.
            lease_seconds: How long it may be silent, 1 to 600: neither advance nor renew. Then others may
                acquire it.

        Raises:
            CursorHeldError: Another one has it; says for how long still.
            TooManyCursorsError: The log has 4096 of them.
        """
        milliseconds = round(seconds_of(lease_seconds) * 1000)
        return await self._one(
            CursorOperation.ACQUIRE,
            name,
            timeout_seconds,
            holder=self.holder if holder is None else text_of("holder", holder),
            lease_milliseconds=min(milliseconds, 2**32 - 1),
        )

    async def advance(
        self,
        name: str,
        epoch: int,
        position: int,
        *,
        rewind: bool = False,
        timeout_seconds: float | None = None,
    ) -> Cursor:
        """Move a cursor, as the holder of its epoch; return it.

        With records it moves by `append_batch(..., cursor=Advance(...))`: both are done, or neither.

        Args:
            rewind: It may go back.

        Raises:
            CursorFencedError: Somebody else acquired, or an operator set it since; nothing was done.
            CursorRewindError: It would go back.
            UnknownCursorError: It was deleted.
        """
        return await self._one(
            CursorOperation.ADVANCE,
            name,
            timeout_seconds,
            epoch=_number("epoch", epoch),
            position=_number("position", position),
            flags=REWIND if flag_of("rewind", rewind) else 0,
        )

    async def renew(self, name: str, epoch: int, *, timeout_seconds: float | None = None) -> Cursor:
        """Begin the lease anew, as the holder of the epoch, without moving; errors as `advance`."""
        return await self._one(CursorOperation.RENEW, name, timeout_seconds, epoch=_number("epoch", epoch))

    async def release(self, name: str, epoch: int, *, timeout_seconds: float | None = None) -> Cursor:
        """Let others have it at once, as the holder of the epoch; errors as `advance`."""
        return await self._one(
            CursorOperation.RELEASE, name, timeout_seconds, is_safe=False, epoch=_number("epoch", epoch)
        )

    async def get(self, name: str, *, timeout_seconds: float | None = None) -> Cursor:
        """Return a cursor, as it is once all that was answered before counts.

        Raises:
            UnknownCursorError: There is none.
        """
        return await self._one(CursorOperation.GET, name, timeout_seconds)

    async def list(self, *, timeout_seconds: float | None = None) -> list[Cursor]:
        """Return all cursors of the log, by name."""
        found: list[Cursor] = []
        after = ""
        while True:
            page = await self._ask(
                CursorOrder(operation=CursorOperation.LIST, name=after), timeout_seconds, True
            )
            found += map(cursor_of, page.cursors)
            if not page.next:
                return found
            after = page.next

    async def set(self, name: str, position: int, *, timeout_seconds: float | None = None) -> Cursor:
        """Put a cursor somewhere, whoever holds it, and return it: that holder is fenced.

        Raises:
            PermissionDeniedError: Another subject made it, and this one is no administrator.
        """
        return await self._one(
            CursorOperation.SET, name, timeout_seconds, position=_number("position", position)
        )

    async def delete(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Forget a cursor; errors as `set`, and UnknownCursorError when there is none."""
        order = CursorOrder(operation=CursorOperation.DELETE, name=text_of("cursor", name))
        await self._ask(order, timeout_seconds, False)

    async def _one(
        self,
        operation: CursorOperation,
        name: str,
        timeout_seconds: float | None,
        *,
        is_safe: bool = True,
        **fields: Any,
    ) -> Cursor:
        order = CursorOrder(operation=operation, name=text_of("cursor", name), **fields)
        page = await self._ask(order, timeout_seconds, is_safe)
        return cursor_of(page.cursors[0], page.waiting)


def cursor_of(described: DescribedCursor, waiting: tuple[str, ...] = ()) -> Cursor:
    """Return a cursor as programs see it."""
    return Cursor(
        name=described.name,
        position=described.position,
        epoch=described.epoch,
        holder=described.holder,
        subject=described.subject,
        lease_seconds=described.lease_milliseconds / 1000,
        left_seconds=described.left_milliseconds / 1000,
        waiting_count=described.waiting_count,
        waiting=waiting,
        lag=described.known_lag,
    )


def _waiting(
    method: Callable[Concatenate[AsyncCursors, _P], Coroutine[Any, Any, _T]], text: str
) -> Callable[Concatenate[BlockingCursors, _P], _T]:
    """Return the method that runs one of `AsyncCursors` and waits; `text` begins its docstring."""

    @wraps(method)
    def run(self: BlockingCursors, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        result: _T = self._run(method(self._cursors, *args, **kwargs))
        return result

    run.__qualname__ = f"BlockingCursors.{run.__name__}"
    run.__doc__ = f"{text}; see `{method.__qualname__}`."
    return run


class BlockingCursors:
    """The cursors of a log, for programs without an event loop; methods and errors are `AsyncCursors`'."""

    def __init__(self, cursors: AsyncCursors, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """Wait for what `cursors` does; `run` runs a coroutine to its end."""
        self.holder = cursors.holder
        self._cursors = cursors
        self._run = run

    @property
    def log(self) -> str:
        """The log that keeps them; see `AsyncCursors.log`."""
        return self._cursors.log

    acquire = _waiting(AsyncCursors.acquire, "Have a cursor, and return it")
    advance = _waiting(AsyncCursors.advance, "Move a cursor, and return it")
    renew = _waiting(AsyncCursors.renew, "Begin the lease anew")
    release = _waiting(AsyncCursors.release, "Let others have a cursor")
    get = _waiting(AsyncCursors.get, "Return a cursor")
    list = _waiting(AsyncCursors.list, "Return all cursors of the log")
    set = _waiting(AsyncCursors.set, "Put a cursor somewhere")
    delete = _waiting(AsyncCursors.delete, "Forget a cursor")
