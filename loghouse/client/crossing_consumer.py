"""What blocking and Deferred consumers have in common: they are used from another thread than their loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from loghouse.client.consumer_settings import Done, position_behind, what_of
from loghouse.client.consuming import AsyncConsumer
from loghouse.client.done_crossing import DoneCrossing
from loghouse.client.group_consuming import AsyncGroupConsumer
from loghouse.client.group_records import GroupDone, behind

_C = TypeVar("_C", bound=AsyncConsumer | AsyncGroupConsumer)


class CrossingConsumer(ABC, Generic[_C]):
    """A consumer on its loop, and what its program was given and said is done.

    Attributes:
        cursor_name: The name of the cursor, or of the group.
        holder: Who acquires it.
    """

    _position_of: Callable[[Any], int]  # behind what is done

    def __init__(self, inner: _C, soon: Callable[[Callable[[], None]], None]) -> None:
        """`soon` has something done on the loop of `inner`."""
        self._inner = inner
        self._given: Any = None  # what the program got last
        self._done = DoneCrossing(inner, soon, self._position_of)
        self.cursor_name = inner.cursor_name
        self.holder = inner.holder

    @abstractmethod
    def _check(self) -> None:
        """Raise unless this consumer can do something here."""

    def _what(self, done: Any) -> Any:
        self._check()
        return what_of(done, self._given)

    @property
    def is_active(self) -> bool:
        """Whether this consumer holds a cursor, as far as it knows."""
        return self._inner.is_active


class CrossingLog(CrossingConsumer[AsyncConsumer]):
    """That of one log."""

    _position_of = staticmethod(position_behind)

    def done(self, done: Done | None = None) -> None:
        """This record or batch, and all before it, is handled; it is committed in the background.

        See `AsyncConsumer.done`. It costs the caller no wait.
        """
        what = self._what(done)
        self._inner.check_held()
        self._done.note(position_behind(what))

    @property
    def position(self) -> int:
        """The next one to do, committed or not; 0 before the cursor was acquired."""
        return max(self._inner.position, self._done.position())

    @property
    def committed(self) -> int:
        """The next one to do for who takes over; 0 before the cursor was acquired."""
        return self._inner.committed


class CrossingMember(CrossingConsumer[AsyncGroupConsumer]):
    """That of several logs, as a member of a group."""

    _position_of = staticmethod(behind)

    def done(self, done: GroupDone | None = None) -> None:
        """This record or batch, and all before it in its log, is handled; see `AsyncGroupConsumer.done`."""
        what = self._what(done)
        behind(what)
        self._done.note(what, (what.log, what.epoch))

    @property
    def logs(self) -> list[str]:
        """The logs that this member holds now, by name."""
        return self._inner.logs

    @property
    def positions(self) -> dict[str, int]:
        """The next one to do in each log that this member holds, as its loop knows it."""
        return self._inner.positions
