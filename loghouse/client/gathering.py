"""What producers share that gather records in their callers' threads, whoever sends them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from loghouse.client.batching import Accumulator, OutgoingBatch, ProducerLedger
from loghouse.client.fields import seconds_of
from loghouse.errors import LoghouseError


class Shared(Protocol):
    """What a producer shares with its deliveries, and with who sends."""

    changed: threading.Condition
    """Told when something is settled; its lock guards what is on its way."""

    def check_process(self) -> None:
        """Raise ClientUseError in a forked child, where nobody sends."""


class GatheredDelivery:
    """A record on its way; `offset()` waits for its offset."""

    __slots__ = ("_batch", "_place", "_shared")

    def __init__(self, batch: OutgoingBatch, place: int, shared: Shared) -> None:
        self._batch = batch
        self._place = place
        self._shared = shared

    @property
    def is_done(self) -> bool:
        """Whether its outcome is known, so that `offset` does not wait."""
        return self._batch.is_settled

    def offset(self, timeout_seconds: float | None = None) -> int:
        """Wait until the record is durable, in a cluster on a majority, and return its offset.

        Args:
            timeout_seconds: How long to wait; None as long as its producer tries.

        Raises:
            TimeoutError: The producer is still trying.
            OutcomeUnknownError: The producer's time was over, and nobody can tell.
            LoghouseError: It was not appended.
        """
        batch = self._batch
        if timeout_seconds is not None:
            seconds_of(timeout_seconds)
        if not batch.is_settled:
            self._shared.check_process()
            changed = self._shared.changed
            with changed:
                if not changed.wait_for(lambda: batch.is_settled, timeout_seconds):
                    raise TimeoutError(f"not acknowledged within {timeout_seconds:g} s; still trying")
        return batch.offset(self._place)


class GatheringProducer(ABC):
    """A producer from its first record to its close; the class below takes records and has them appended."""

    _is_closed = True  # until there is something to close
    _check_process: Callable[[], None]  # raises ClientUseError in a forked child, where nobody sends; fixed
    _ledger: ProducerLedger  # what was taken, and what came of it; fixed
    _accumulator: Accumulator  # the records that were taken and not sent; fixed
    _changed: threading.Condition  # told when something is settled; its lock guards both; fixed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, Exception):
            try:
                self.close()
            except LoghouseError as own:  # the error of the block is the one to tell
                error.add_note(f"its producer failed, too: {own}")
        else:
            self.abort()

    def flush(self) -> None:
        """Wait until every record appended so far is settled.

        Raises:
            LoghouseError: The first failure since the last time that no delivery has told.
        """
        self._check_process()
        with self._changed:
            goal = self._ledger.taken
            while self._ledger.done < goal:
                self._accumulator.hurry()
                self._wake()
                self._changed.wait()
            self._ledger.raise_unreported()

    def close(self) -> None:
        """Flush, and end; raises as `flush`."""
        self._check_process()
        self._is_closed = True
        try:
            self.flush()
        finally:
            self.abort()

    @abstractmethod
    def abort(self) -> None:
        """End at once: what is not acknowledged fails."""

    @abstractmethod
    def _wake(self) -> None:
        """Let who sends look again."""
