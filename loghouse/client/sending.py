"""Batches on their way: one stream to the leader at a time, another one when it breaks.

    accumulator -> sequencer -> Appends -> outcomes -> settled batches
                        ^--- the same batches again, after any failure ---'

Drives `sequencing` with channels. One task a producer, two more while a stream is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Final

from loghouse.client.balancing import Purpose
from loghouse.client.batching import Accumulator, OutgoingBatch
from loghouse.client.calls import Calls
from loghouse.client.channels import AppendStream, Channel
from loghouse.client.failures import CallFailedError, CallFailure, Effect, lost_call
from loghouse.client.retrying import ATTEMPT_SECONDS, Pauses
from loghouse.client.sequencing import Sequencer
from loghouse.errors import ClosedError, DeadlineError, LoghouseError, UnavailableError
from loghouse.protocol.client_messages import Produce
from loghouse.protocol.entry import Codec

CHECK_SECONDS: Final = 0.5
"""How often a stream is looked at: whether it stalls, whether batches expired."""
IDLE_SECONDS: Final = 10.0
"""A stream without a batch for so long is closed; the next batch opens another."""
STATUS_SECONDS: Final = 1.0
"""How long a stream that takes no more may take to say why."""


class Sending:
    """Sends what an accumulator gathers, in order, each batch exactly once.

    Args:
        lock: Held while the accumulator is used.
        settled: Called, on the loop, with each batch that is acknowledged or failed.
        window: Batches on their way at a time.
    """

    def __init__(
        self,
        calls: Calls,
        accumulator: Accumulator,
        *,
        codec: Codec,
        window: int,
        lock: AbstractContextManager[Any],
        settled: Callable[[OutgoingBatch], None],
    ) -> None:
        self._calls = calls
        self._accumulator = accumulator
        self._codec = codec
        self._lock = lock
        self._settled = settled
        self._sequencer = Sequencer(window=window)
        self._pauses = Pauses(calls.rng)
        self._changed = asyncio.Event()
        self._is_finishing = False
        self._ended_by: LoghouseError | None = None

    def wake(self) -> None:
        """There may be something to do; on the loop."""
        self._changed.set()

    def finish(self) -> None:
        """Nothing more will be gathered: send what is, and end; on the loop."""
        self._is_finishing = True
        with self._lock:
            self._accumulator.hurry()
        self.wake()

    async def run(self) -> None:
        """Send until cancelled; then fail what is not acknowledged."""
        why: LoghouseError = ClosedError("the producer was closed before everything was sent")
        try:
            while await self._wait_for_work():
                if self._sequencer.needs_id:
                    await self._register()
                else:
                    await self._stream(self._calls.balancer.address(Purpose.APPEND, self._calls.now))
        except LoghouseError as error:
            why = self._ended_by = error
        except Exception as error:
            why = UnavailableError(f"the producer failed: {type(error).__name__}: {error}")
            why.__cause__ = error
            self._ended_by = why
            raise  # whoever waits is told; the loop says where it comes from
        finally:
            self._fail_everything(why)

    @property
    def closed_error(self) -> ClosedError:
        """What an append to a producer that has ended is told."""
        if self._ended_by is None:
            return ClosedError("the producer is closed")
        error = ClosedError(f"the producer is closed: {self._ended_by}")
        error.__cause__ = self._ended_by.__cause__
        return error

    # --- what there is to do ------------------------------------------------------------

    async def _wait_for_work(self) -> bool:
        """Return once there is something to send, or (False) never will be."""
        while True:
            self._expire()
            self._pull()
            if len(self._sequencer):
                return True
            with self._lock:
                due_at = self._accumulator.due_at
            if due_at is None and self._is_finishing:
                return False
            await self._wait(due_at)

    async def _wait(self, until: float | None) -> None:
        """Wait for a change, at most until a moment of the loop's clock."""
        loop = asyncio.get_running_loop()
        alarm = loop.call_at(until, self._changed.set) if until is not None else None
        try:
            await self._changed.wait()
        finally:
            self._changed.clear()
            if alarm is not None:
                alarm.cancel()

    def _pull(self) -> None:
        """Take batches that are due, as many as may be on their way."""
        sequencer, now = self._sequencer, self._calls.now
        while sequencer.has_room:
            with self._lock:
                batch = self._accumulator.take(now)
            if batch is None:
                return
            batch.seal(self._codec)
            sequencer.push(batch)

    def _expire(self) -> None:
        now = self._calls.now
        self._settle(self._sequencer.expire(now))
        with self._lock:
            expired = self._accumulator.expire(now)
        for batch in expired:
            text = (
                f"nothing was appended before the deadline: too much was before it{self._sequencer.problem}"
            )
            batch.error = DeadlineError(text)
        self._settle(expired)

    def _settle(self, batches: Iterable[OutgoingBatch]) -> None:
        for batch in batches:
            self._settled(batch)

    def _fail_everything(self, error: LoghouseError) -> None:
        failed = self._sequencer.give_up(error)
        with self._lock:
            dropped = self._accumulator.drop()
        for batch in dropped:
            batch.error = error
        self._settle([*failed, *dropped])

    # --- the producer's id ----------------------------------------------------------------

    async def _register(self) -> None:
        calls, sequencer = self._calls, self._sequencer
        deadline = sequencer.deadline
        if deadline is None:
            return
        try:
            producer_id = await calls.call(
                lambda channel, seconds: channel.register_producer(calls.where, seconds),
                purpose=Purpose.APPEND,
                timeout_seconds=max(0.0, deadline - calls.now),
                is_safe=True,
            )
        except DeadlineError as error:
            sequencer.note_problem(error)
            await asyncio.sleep(max(0.0, deadline - calls.now))  # the batch that it was for expires, too
            return
        except LoghouseError as error:
            if calls.channels.is_closed:
                raise
            self._settle(sequencer.registration_refused(error))
            return
        sequencer.registered(producer_id)

    # --- one stream -------------------------------------------------------------------------

    async def _stream(self, address: str) -> None:
        """Send on one stream until it breaks, another server should be used, or there is nothing more."""
        calls, sequencer = self._calls, self._sequencer
        failure: CallFailure | None
        try:
            with calls.channels.lend(address) as channel:
                failure = await self._use(channel)
        except CallFailedError as error:
            failure = error.failure
        if failure is None:
            sequencer.stream_closed()
            return
        if failure.is_permanent:
            calls.note(failure, address)
            failure = calls.judged(failure)
        failure = await calls.confirmed(failure, address)
        failed = sequencer.stream_failed(failure, calls.now)
        self._settle(failed)
        if failed:
            return  # the refusal was meant for these; the others go on at once
        if failure.effect is Effect.REFUSED:
            calls.balancer.expire()  # perhaps a leader that was deposed, and does not know it yet
        elif not failure.is_permanent:
            calls.note(failure, address)
        is_first = not self._pauses.failures
        pause = self._pauses.after(failure)
        if is_first and failure.leader:
            pause = 0.0
        await calls.await_news(max(pause, CHECK_SECONDS))
        await asyncio.sleep(pause)

    async def _use(self, channel: Channel) -> CallFailure | None:
        """Return how the stream failed, or None when it was left."""
        appends = channel.appends(self._calls.where)
        reading = asyncio.ensure_future(self._read(appends))
        writing = asyncio.ensure_future(self._write(appends, channel.address))
        try:
            while not (reading.done() or writing.done()):
                await asyncio.wait(
                    {reading, writing}, timeout=CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                self._expire()
                if self._sequencer.needs_id:
                    return None  # what was on its way is given up
                failure = self._stall(channel.address)
                if failure is not None and not (reading.done() or writing.done()):
                    return failure
            if writing.done() and not writing.cancelled() and writing.exception() is None:
                return None
            # Of a broken stream, often only the reader learns why.
            await asyncio.wait({reading}, timeout=STATUS_SECONDS)
            return self._why(reading, writing, channel.address)
        finally:
            appends.cancel()
            reading.cancel()
            writing.cancel()
            await asyncio.wait({reading, writing})
            for task in (reading, writing):
                if not task.cancelled():
                    task.exception()

    def _why(self, reading: asyncio.Task[None], writing: asyncio.Task[None], address: str) -> CallFailure:
        """Return why a stream ended; the reader knows better."""
        why: BaseException | None = None
        for task in (reading, writing):
            error = task.exception() if task.done() and not task.cancelled() else None
            if isinstance(error, CallFailedError):
                return error.failure
            if error is not None and not isinstance(error, LoghouseError):
                raise error
            why = why or error
        if self._calls.channels.is_closed:
            raise ClosedError("the client is closed")
        return lost_call(f"{address}: {why or 'the stream ended without a reason'}")

    def _stall(self, address: str) -> CallFailure | None:
        """Return a failure when batches are on their way and none was answered for too long."""
        seconds = self._calls.now - self._sequencer.progressed_at
        if not self._sequencer.in_flight or seconds < ATTEMPT_SECONDS:
            return None
        return lost_call(f"{address}: no answer for {seconds:.1f} s")

    async def _write(self, appends: AppendStream, address: str) -> None:
        """Send batches as they come, until there are none for long, or the leader is elsewhere."""
        calls, sequencer = self._calls, self._sequencer
        idle_at = calls.now + IDLE_SECONDS
        while True:
            self._pull()
            moves = not calls.balancer.leads(address) and calls.balancer.leader_address(calls.now)
            batch = None if moves else sequencer.next_to_send(calls.now)
            if batch is not None:
                await appends.write(self._request(batch))
                idle_at = calls.now + IDLE_SECONDS
                continue
            if not sequencer.in_flight and (moves or self._is_finishing or calls.now >= idle_at):
                return
            with self._lock:
                due_at = self._accumulator.due_at if sequencer.has_room else None
            # What is on its way wakes this with its answer, however late: only without it is a stream idle.
            moments = (due_at, None if sequencer.in_flight else idle_at)
            await self._wait(min((at for at in moments if at is not None), default=None))

    def _request(self, batch: OutgoingBatch) -> Produce:
        return Produce(
            batch=batch.payload,
            record_count=batch.record_count,
            attributes=batch.codec,
            batch_crc=batch.crc,
            producer_id=self._sequencer.producer_id,
            producer_sequence=batch.sequence,
        )

    async def _read(self, appends: AppendStream) -> None:
        """Take outcomes until the stream ends."""
        calls, sequencer = self._calls, self._sequencer
        while True:
            answer = await appends.read()
            batch = sequencer.acknowledged(answer.base_offset, answer.record_count, calls.now)
            self._pauses.reset()
            if batch.error is None:
                self._settled(batch)
            self._changed.set()
            calls.refresh_if_stale()
