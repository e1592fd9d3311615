"""An asyncio client in a reactor's program: where it runs, what is under way, and how it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater

from loghouse.client.asynchronous import AsyncClient
from loghouse.client.deferred.loops import ClientLoop, Last, loop_of
from loghouse.client.exiting import EXIT_SECONDS
from loghouse.errors import ClientUseError, ClosedError, LoghouseError, ResourceExhaustedError
from loghouse.limits import WAITING_APPENDS_MAX, WAITING_SIZE_MAX

T = TypeVar("T")
_logger: Final = logging.getLogger("loghouse.client")


class UnsettledRecords(Protocol):
    """What has taken records that may not be acknowledged yet."""

    @property
    def is_settled(self) -> bool:
        """Whether the outcome of all of them is known."""

    def hurry(self) -> None:
        """Send what was taken."""

    def unreported(self) -> str:
        """Return what nobody was told of, as a sentence; empty when there is nothing."""


class OpenedClient:
    """An asyncio client on its loop, which begins with the first call and ends before the reactor does.

    What a Deferred client has in common with its logs, producers and readers. At the reactor's stop, and when
    the Deferred client is dropped, it closes once what is under way has ended. Its loop is made by the first
    use, for a daemon may fork before.

    Attributes:
        unsettled: The producers that may still send.
    """

    def __init__(self, client: AsyncClient, reactor: Any) -> None:
        self.client = client
        self.unsettled: set[UnsettledRecords] = set()
        self._reactor = reactor
        self._loop: ClientLoop | None = None
        self._thread = threading.get_ident()  # the one that uses it, from the first use on
        self._trigger: Any = None  # runs `_stop`; None before the first use, and once the reactor stops
        self._calls: set[Deferred[Any]] = set()  # that are not answered, without those that may never be
        self._asked_count = 0  # of them those that the program asked for by `call`
        self._asked_size = 0  # bytes of what it gave for these
        self._news: list[Deferred[None]] = []  # fired when one of them is answered, or a producer got on
        self._closed: Deferred[None] | None = None  # from the moment on at which it closes

    @property
    def loop(self) -> ClientLoop:
        """The loop of this client.

        Raises:
            ClientUseError: In a forked child, and in another thread than before.
            ClosedError: The client is closed.
        """
        self.check_here()
        if self._closed is not None:
            raise ClosedError("the client is closed")
        if self._loop is None:
            self._loop, self._thread = loop_of(self._reactor), threading.get_ident()
            self._trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        return self._loop

    def check_here(self) -> None:
        """Raise ClientUseError in a forked child, and in another thread than that which uses this."""
        self.client.calls.place.check_process()
        if self._loop is not None and self._thread != threading.get_ident():
            raise ClientUseError(
                "this client belongs to the reactor's thread, and this is another one: go there by "
                "reactor.callFromThread or threads.blockingCallFromThread, or use connect_blocking"
            )

    # --- what is under way ----------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T], *, is_endless: bool = False) -> Deferred[T]:
        """Run a coroutine on the loop, and return its result; to cancel the Deferred cancels it.

        Args:
            is_endless: It may wait for ever, so the reactor's stop does not wait for it.
        """
        try:
            answer = self.loop.run(work)
        except LoghouseError:
            work.close()
            return fail()
        if not is_endless:
            self._calls.add(answer)
            answer.addBoth(self._answered, answer)
        return answer

    def call(self, work: Coroutine[Any, Any, T], size: int = 0) -> Deferred[T]:
        """As `run`, what a program asks for in any number, and whose arguments have so many bytes.

        Raises:
            ResourceExhaustedError: Too much of it is not answered; nothing is asked for.
        """
        if self._asked_count >= WAITING_APPENDS_MAX or self._asked_size > WAITING_SIZE_MAX:
            work.close()
            return fail(
                ResourceExhaustedError(
                    "client",
                    f"{self._asked_count} calls are not answered yet; "
                    "wait for the Deferred of each before the next one, or use producer()",
                )
            )

        def answered(result: Any) -> Any:
            self._asked_count -= 1
            self._asked_size -= size
            return result

        self._asked_count += 1
        self._asked_size += size
        return self.run(work).addBoth(answered)

    def _answered(self, result: Any, answer: Deferred[Any]) -> Any:
        self._calls.discard(answer)
        self.note()
        return result

    def note(self) -> None:
        """Something under way got on."""
        news, self._news = self._news, []
        for waiting in news:
            waiting.callback(None)

    # --- the end --------------------------------------------------------------------------

    def close(self) -> Deferred[None]:
        """Close every connection, and end the thread if there is one; whoever waits gets an error.

        Consumers that are open first commit what is done, and let their cursors go.
        """
        return self._close(self.client.close)

    def _close(self, last: Last) -> Deferred[None]:
        if self.client.calls.place.is_elsewhere:
            return succeed(None)  # the connections are the parent's
        try:
            self.check_here()
        except ClientUseError:
            return fail()
        if self._closed is None:
            if self._trigger is not None:
                self._reactor.removeSystemEventTrigger(self._trigger)
            self._closed = self._loop.close(last) if self._loop is not None else succeed(None)
        told: Deferred[None] = Deferred()
        self._closed.addBoth(told.callback)
        return told

    def close_soon(self) -> None:
        """Close once everything under way has ended; in any thread, at any moment."""
        if self._loop is not None and not self.client.calls.place.is_elsewhere:
            self._reactor.callFromThread(self._finish, None)

    def _stop(self) -> Deferred[None]:
        """Close in the same way, for a bounded time: the reactor stops when this is done."""
        self._trigger = None
        # Half of the time is the consumers', whatever else hangs.
        ending = self._reactor.callLater(EXIT_SECONDS / 2, self._end_consumers, EXIT_SECONDS / 2)

        def ended(result: Any) -> Any:
            if ending.active():
                ending.cancel()
            return result

        return self._finish(self._reactor.callLater(EXIT_SECONDS, self.note)).addBoth(ended)

    def _finish(self, alarm: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close_when_idle(alarm))

    def _end_consumers(self, seconds: float) -> None:
        """Have the consumers commit, though something is under way still."""
        if self._closed is None:
            ending = self.run(self.client.calls.consumers.close(seconds), is_endless=True)
            ending.addCallbacks(_tell, lambda _: None)  # the client closes, which tells of the rest

    async def _close_when_idle(self, alarm: Any) -> None:
        while await self._is_busy() and (alarm is None or alarm.active()):
            waiting: Deferred[None] = Deferred()
            self._news.append(waiting)
            await waiting
        left = "; ".join(filter(None, [one.unreported() for one in self.unsettled]))
        if left and self._closed is None:
            _logger.error("a producer was not closed before the reactor stopped: %s", left)
        if alarm is None:
            await self.close()
            return
        seconds = 0.0
        if alarm.active():
            seconds = max(0.0, alarm.getTime() - self._reactor.seconds())
            alarm.cancel()
        await self._close(partial(self._end, seconds))

    async def _end(self, seconds: float) -> None:
        """Close on the loop: all consumers together have the time that is left."""
        _tell(await self.client.cluster_calls.close_within(seconds))

    async def _is_busy(self) -> bool:
        # Whoever got an answer in this turn may ask for more in it, as may what else runs at the stop.
        await deferLater(self._reactor, 0)
        for one in self.unsettled:
            one.hurry()
        return bool(self._calls) or not all(one.is_settled for one in self.unsettled)


def _tell(left: str) -> None:
    """Log what consumers could not commit, if there is something."""
    if left:
        _logger.error("a consumer was not closed before the reactor stopped: %s", left)
