"""What the holder of a cursor tells the log that keeps it, and when. Pure: the time is handed in.

One step at a time, each asked for until it is answered: so that steps never overtake each other, and one that
may have been done without an answer is asked for again as it was, which is done once.

    done, emit -> HeldCursor -> next_step -> the driver asks -> succeeded
                     ^------- the same step again, later ---'
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from loghouse.client.cursors import Cursor
from loghouse.errors import CursorHeldError, InvalidRequestError
from loghouse.limits import CONSUMER_BUFFER_SIZE, CONSUMER_STEP_SIZE, RECORDS_PER_BATCH_MAX

RENEWALS_PER_LEASE: Final = 3
"""So that two of them may come to nothing before others take the cursor."""
STAND_BY_SECONDS_MAX: Final = 1.0
"""How long one who waits for a cursor rests: a holder that releases it should not wait for long."""
STAND_BY_SECONDS_MIN: Final = 0.02


class Step(NamedTuple):
    """One thing to ask of the log that keeps the cursor.

    `position` is where the cursor goes; None renews the lease and no more. `payload` is a serialized batch of
    records that are appended together with that; empty when there are none.
    """

    position: int | None
    payload: bytes = b""
    record_count: int = 0


class _Output(NamedTuple):
    """Records, serialized, and the position behind what they were made of."""

    position: int
    payload: bytes
    record_count: int


class HeldCursor:
    """A cursor that is held, from when it was acquired.

    Args:
        cursor: As the acquisition gave it.
        commit_seconds: How long a position may wait for its commit.
        commit_records: After so many it does not wait; 0: by time alone.
        now: Seconds that only rise; when the acquisition was asked for.

    Attributes:
        cursor: As it was told of last.
        position: The next one to do, committed or not.
        committed: The next one to do, as the log knows it.
        buffered_size: Bytes of records that are not appended yet.
    """

    def __init__(self, cursor: Cursor, *, commit_seconds: float, commit_records: int, now: float) -> None:
        self.cursor = cursor
        self.position = self.committed = cursor.position
        self.buffered_size = 0
        self._commit_seconds = commit_seconds
        self._commit_records = commit_records
        self._heard_at = now  # when the last step was asked for that was answered; the lease counts from it
        self._commit_at: float | None = (
            None  # when the position is to be committed; None: nobody waits for it
        )
        self._outputs: deque[_Output] = deque()  # in order of their positions, not in a step yet
        self._under_way: Step | None = None  # asked for, and not answered

    # --- what the program did ---------------------------------------------------------------

    def done(self, position: int, now: float) -> bool:
        """Everything before a position is done; return whether that changes when the next step is due.

        A position that was passed already changes nothing.
        """
        if position <= self.position:
            return False
        # The position first, and the moment behind it: `next_step` looks the other way round, so that a
        # thread that comes in between is noticed late at worst, and never overlooked.
        self.position = position
        due_at = self._commit_at
        if due_at is None:
            self._commit_at = now if self._is_much else now + self._commit_seconds
            return True
        if self._is_much and due_at > now:
            self._commit_at = now
            return True
        return False

    def emit(self, payload: bytes, record_count: int, position: int) -> None:
        """Records are to be appended together with the position behind what they were made of.

        Raises:
            InvalidRequestError: That is done already.
        """
        if position <= self.position:
            raise InvalidRequestError(
                "done",
                f"is position {position}, and the cursor {self.cursor.name!r} is at {self.position} already: "
                "emit once for each batch or record, in their order, without calling done() for it before",
            )
        self._outputs.append(_Output(position, payload, record_count))
        self.buffered_size += len(payload)
        self.position = position

    def hurry(self, now: float) -> None:
        """Somebody waits for the commit of the position."""
        self._commit_at = now

    @property
    def has_room(self) -> bool:
        """Whether more records may be emitted before some are appended."""
        return self.buffered_size < CONSUMER_BUFFER_SIZE

    @property
    def is_settled(self) -> bool:
        """Whether everything is committed."""
        return self.committed >= self.position and self._under_way is None

    @property
    def _is_much(self) -> bool:
        return 0 < self._commit_records <= self.position - self.committed

    # --- what is to be asked ----------------------------------------------------------------

    def due_at(self, now: float) -> float:
        """Return when there is a step to ask for."""
        if self._under_way is not None or self._outputs:
            return now
        commit_at = self._commit_at
        return self._renew_at if commit_at is None else min(self._renew_at, commit_at)

    def next_step(self, now: float) -> Step | None:
        """Return what to ask for now; None: nothing before `due_at`.

        The same step again until `succeeded`.
        """
        if self._under_way is None and self.due_at(now) <= now:
            self._under_way = self._appending() if self._outputs else self._moving(now)
        return self._under_way

    def _appending(self) -> Step:
        """Take records off the buffer: those of several emits, if they fit, are appended together."""
        taken = [self._outputs.popleft()]
        size, count = len(taken[0].payload), taken[0].record_count
        while self._outputs:
            size += len(self._outputs[0].payload)
            count += self._outputs[0].record_count
            if size > CONSUMER_STEP_SIZE or count > RECORDS_PER_BATCH_MAX:
                break
            taken.append(self._outputs.popleft())
        return Step(
            position=taken[-1].position,
            payload=b"".join([output.payload for output in taken]),
            record_count=sum(output.record_count for output in taken),
        )

    def _moving(self, now: float) -> Step | None:
        self._commit_at = None
        position = self.position
        if position > self.committed:
            return Step(position)
        return Step(None) if now >= self._renew_at else None

    @property
    def _renew_at(self) -> float:
        return self._heard_at + self.cursor.lease_seconds / RENEWALS_PER_LEASE

    def succeeded(self, asked_at: float, cursor: Cursor | None = None) -> None:
        """The step was answered.

        Args:
            asked_at: When it was asked for.
            cursor: As the answer told of it.
        """
        step, self._under_way = self._under_way, None
        assert step is not None
        self._heard_at = asked_at
        if cursor is not None:
            self.cursor = cursor
        if step.position is not None:
            self.committed = step.position
            self.buffered_size -= len(step.payload)


def stand_by_seconds(held: CursorHeldError) -> float:
    """Return how long to wait before a cursor is asked for again that another one holds."""
    return min(max(held.milliseconds / 1000, STAND_BY_SECONDS_MIN), STAND_BY_SECONDS_MAX)
