"""Exactly once: which batch is sent next under which sequence, and what a failure means for all of them.

    push -> [ chain: oldest ... | sent on this stream | not sent yet ] -> acknowledged from the left

A server appends a producer's batch only behind the one before it, and knows its last 64. So whatever was
lost may be sent again, in the same order under the same sequences, anywhere: what is in the log already is
answered with its place. The order of the chain never changes.

A batch that was sent and neither acknowledged nor certainly refused is *unsure*: a copy of it may be in the
log, or get there once the batch before it is. While the oldest is not unsure, nothing of the chain is in the
log, and without it nothing ever will be: then all may be numbered anew, under another id. A batch whose time
is over stays in the chain while it is unsure and others wait behind it: the order needs it.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final

from loghouse.client.batching import OutgoingBatch
from loghouse.client.failures import CallFailure, Effect
from loghouse.errors import (
    DeadlineError,
    LoghouseError,
    OutcomeUnknownError,
    ProtocolError,
    SequenceError,
    UnknownProducerError,
)
from loghouse.limits import PRODUCER_BATCHES_MAX

SEQUENCE_MAX: Final = 2**32 - 1
STALE_SECONDS: Final = 5.0
"""How long a leader that was deposed, and does not know yet what its successor appended, may answer."""


class Sequencer:
    """The batches of one producer, in order.

    Args:
        window: Batches on their way at a time.
    """

    def __init__(self, *, window: int) -> None:
        assert 0 < window <= PRODUCER_BATCHES_MAX
        self._window = window
        self._chain: deque[OutgoingBatch] = deque()
        self._sent_count = 0
        self._next_sequence = 0
        self._disowned_since: float | None = None
        self._last_problem = ""
        self.producer_id = 0
        self.progressed_at = 0.0
        """When something was last sent with nothing before it on its way, or acknowledged."""

    def __len__(self) -> int:
        return len(self._chain)

    @property
    def in_flight(self) -> int:
        """Batches sent on this stream and not answered."""
        return self._sent_count

    @property
    def has_room(self) -> bool:
        """Whether one more batch may be pushed to be sent at once."""
        return len(self._chain) < self._window

    @property
    def needs_id(self) -> bool:
        """Whether a producer must be registered before anything is sent."""
        return not self.producer_id

    def registered(self, producer_id: int) -> None:
        """Send under this id from now on; nothing may be unsure."""
        assert self.needs_id
        self.producer_id = producer_id

    def push(self, batch: OutgoingBatch) -> None:
        """Put a batch at the end."""
        self._chain.append(batch)

    def next_to_send(self, now: float) -> OutgoingBatch | None:
        """Return the next batch to send on this stream, or None when there is none."""
        if self.needs_id or self._sent_count >= min(self._window, len(self._chain)):
            return None
        batch = self._chain[self._sent_count]
        if batch.sequence < 0:
            if self._next_sequence > SEQUENCE_MAX:
                if not self._sent_count and not batch.is_unsure:
                    self._renumber()  # all before it are acknowledged
                return None
            batch.sequence = self._next_sequence
            self._next_sequence += 1
        if not self._sent_count:
            self.progressed_at = now
        self._sent_count += 1
        return batch

    def acknowledged(self, base_offset: int, record_count: int, now: float) -> OutgoingBatch:
        """Note the answer to the oldest batch on its way, and return that batch.

        Raises:
            ProtocolError: It answers nothing, or something else.
        """
        if not self._sent_count or self._chain[0].record_count != record_count:
            expected = self._chain[0].record_count if self._sent_count else 0
            raise ProtocolError(f"the server acknowledged {record_count} records where {expected} were sent")
        batch = self._chain.popleft()
        self._sent_count -= 1
        self.progressed_at = now
        self._disowned_since = None
        self._last_problem = ""
        batch.payload = b""
        if not batch.is_settled:  # else its producer was told that nobody knows
            batch.base_offset = base_offset
        return batch

    def stream_failed(self, failure: CallFailure, now: float) -> list[OutgoingBatch]:
        """Note that the stream ended, with this failure of its oldest unanswered batch.

        Returns:
            The batches that failed for good by it, each with its error.
        """
        sent, self._sent_count = list(islice(self._chain, self._sent_count)), 0
        self.note_problem(failure.error)
        if not sent:
            # Refused before anything was sent: who may not open a stream may send nothing on it.
            return self._refuse_head(failure.error) if failure.effect is Effect.REFUSED else []
        if failure.is_link and failure.effect is Effect.NOTHING:
            return []  # never connected
        # The oldest one was answered; a copy of the others may arrive once that one is in the log.
        for batch in sent if failure.effect is Effect.UNKNOWN else sent[1:]:
            batch.is_unsure = True
        if failure.effect is not Effect.REFUSED:
            return []
        if isinstance(failure.error, SequenceError | UnknownProducerError):
            return self._disowned(failure.error, now)
        return self._refuse_head(failure.error)

    def note_problem(self, error: LoghouseError) -> None:
        """Note why nothing is sent; batches that expire tell it."""
        self._last_problem = str(error)

    @property
    def problem(self) -> str:
        """The last problem, as a text's end; empty when there was none since something was acknowledged."""
        return f"; the last problem: {self._last_problem}" if self._last_problem else ""

    def stream_closed(self) -> None:
        """Note that the stream was given up; nothing is known of what was on its way."""
        for batch in islice(self._chain, self._sent_count):
            batch.is_unsure = True
        self._sent_count = 0

    def registration_refused(self, error: LoghouseError) -> list[OutgoingBatch]:
        """Note that no producer may be registered; nothing of the chain was ever sent under another id."""
        return self._drop(list(self._chain), error)

    def _disowned(self, error: LoghouseError, now: float) -> list[OutgoingBatch]:
        """The server does not know the producer, or not its batches before these."""
        if not self._chain[0].is_unsure:
            self._renumber()
            return []
        if self._disowned_since is None:
            self._disowned_since = now
        if now - self._disowned_since < STALE_SECONDS:
            return []
        self._disowned_since = None
        return self._refuse_head(error)

    def _refuse_head(self, error: LoghouseError) -> list[OutgoingBatch]:
        if not self._chain:
            return []
        head = self._chain[0]
        if not head.is_unsure:
            failed = self._drop([head], error)
            self._go_on(head.sequence)
            return failed
        unsure = [batch for batch in self._chain if batch.is_unsure]
        text = f"an earlier attempt may have been carried out; since then: {error}"
        failed = self._drop(unsure, OutcomeUnknownError(text))
        self._renumber()
        return failed

    def _drop(self, batches: list[OutgoingBatch], error: LoghouseError) -> list[OutgoingBatch]:
        """Take the first batches out and return those that nobody was told of yet."""
        for _ in batches:
            self._chain.popleft().payload = b""
        failed = [batch for batch in batches if not batch.is_settled]
        for batch in failed:
            batch.error = error
        return failed

    def _go_on(self, freed: int) -> None:
        """A batch that certainly is not in the log was taken out; its sequence is free, if it had one."""
        if freed < 0:
            return
        if self._next_sequence == freed + 1:
            self._next_sequence = freed
        else:
            # Numbers behind it were sent, too. Their copies may still arrive, and must find a gap for ever.
            self._renumber()

    def _renumber(self) -> None:
        """Nothing of the chain can be in the log, or ever get there: begin again under a new id."""
        self._sent_count = 0
        for batch in self._chain:
            batch.sequence = -1
            batch.is_unsure = False
        self.producer_id = 0
        self._next_sequence = 0

    def expire(self, now: float) -> list[OutgoingBatch]:
        """Return the batches whose time is over since the last time, each with its error.

        What was never sent, or certainly refused each time, did not happen; of the rest nobody knows.
        """
        failed = []
        # While the oldest is neither in the log nor on its way there, nothing behind it can be.
        is_inert = not self._sent_count and bool(self._chain) and not self._chain[0].is_unsure
        for place, batch in enumerate(self._chain):
            if batch.deadline > now:
                break  # their deadlines are in their order
            if batch.is_settled:
                continue
            what = self.problem
            if not is_inert and (batch.is_unsure or place < self._sent_count):
                batch.error = OutcomeUnknownError(f"no answer before the deadline{what}")
            else:
                batch.error = DeadlineError(f"nothing was appended before the deadline{what}")
            failed.append(batch)
        self._forget_dead()
        return failed

    def _forget_dead(self) -> None:
        """Take out what nobody waits for, as far as the order allows."""
        if not self._chain or not self._chain[0].is_settled:
            return
        if self._sent_count == 0 and not self._chain[0].is_unsure:
            # Nothing of the chain is in the log or on its way there.
            freed = self._chain[0].sequence
            self._chain = deque(batch for batch in self._chain if not batch.is_settled)
            self._go_on(freed)
        elif all(batch.is_settled for batch in self._chain):
            self._chain.clear()
            self._renumber()

    def give_up(self, error: LoghouseError) -> list[OutgoingBatch]:
        """Fail everything: the producer is closed."""
        self.stream_closed()
        failed = [batch for batch in self._chain if not batch.is_settled]
        for batch in failed:
            text = f"{error}; what was sent may have been appended"
            batch.error = OutcomeUnknownError(text) if batch.is_unsure else error
        self._chain.clear()
        self._renumber()
        return failed

    @property
    def deadline(self) -> float | None:
        """When the next batch expires; None when nobody waits for any."""
        return next((batch.deadline for batch in self._chain if not batch.is_settled), None)
