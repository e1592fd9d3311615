"""What a node answers to readers of a log of which it has no copy: what a node that has one says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.errors import RequestError, UnavailableError
from loghouse.limits import FORWARD_RETRY_SECONDS
from loghouse.node.forwarded_reads import ReadForwarder
from loghouse.node.shared_reads import SharedReads
from loghouse.node.waiters import Waiters
from loghouse.protocol.record_range import ReadPage, RecordRange
from loghouse.replica.api import Fetched, LogBounds

T = TypeVar("T")


class PlacedLog(Protocol):
    """A log whose copies are on other nodes."""

    name: str
    group: int

    def sources(self) -> Sequence[str]:
        """The names of the nodes to be asked, the first one first."""


class RemoteReads:
    """Reads one log on the nodes that have it: on the leader, and where that fails on another one.

    All who wait for records here wait together: one request at a time waits on the other node, for the lowest
    offset that anybody wants.
    """

    logger = Logger()

    def __init__(
        self, log: PlacedLog, waiters: Waiters, forwarder: ReadForwarder, *, clock: IReactorTime
    ) -> None:
        """Ask nobody yet."""
        self._log = log  # says who has it; fixed
        self._waiters = waiters  # who waits for records here; woken by what other nodes say, too; fixed
        self._forwarder = forwarder  # the way to the other nodes; fixed
        self._clock = clock  # for the time between attempts; fixed
        self._shared = SharedReads(self._fetch)  # fixed
        self._known_end = 0  # every record below is readable, as a node has said; only rises
        self._waiting: Deferred[Any] | None = None  # the request that waits; None while none does
        self._waiting_offset = 0  # the offset for which that waits
        self._retry: IDelayedCall | None = None  # runs `_ask_to_wait` again after all nodes failed

    def fetch(self, offset: int, size_max: int) -> Deferred[Fetched]:
        """Read whole entry frames from the one that holds `offset` on. See `LogLike.fetch`."""
        return self._shared.fetch(offset, size_max)

    def _fetch(self, offset: int, size_max: int) -> Deferred[Fetched]:
        log, forwarder = self._log, self._forwarder
        fetching = self._ask_each(lambda name: forwarder.read(name, log.group, offset, size_max))
        return fetching.addCallback(self._fetched)

    def _fetched(self, fetched: Fetched) -> Fetched:
        self._readable_to(fetched.next_offset)
        return fetched

    def read_range(self, wanted: RecordRange) -> Deferred[ReadPage]:
        """Read some of a range of records. See `LogLike.read_range`."""
        return self._ask_each(lambda name: self._forwarder.read_range(name, self._log.group, wanted))

    def bounds(self) -> Deferred[LogBounds]:
        """Return the readable range. See `LogLike.bounds`."""
        return self._ask_each(lambda name: self._forwarder.bounds(name, self._log.group))

    def find_offset(self, timestamp: int) -> Deferred[tuple[int, int]]:
        """Return the first offset at or after a time. See `LogLike.find_offset`."""
        return self._ask_each(lambda name: self._forwarder.find_offset(name, self._log.group, timestamp))

    # --- one node after the other -----------------------------------------------------------

    def _ask_each(self, ask: Callable[[str], Deferred[T]]) -> Deferred[T]:
        """Return the first answer, or the first refusal that no other node would change."""
        sources = self._log.sources()
        if not sources:
            problem = f"no node that has a copy of log {self._log.name!r} is known here; try again"
            return fail(UnavailableError(problem))
        return self._ask_next(ask, sources)

    def _ask_next(self, ask: Callable[[str], Deferred[T]], sources: Sequence[str]) -> Deferred[T]:
        def failed(failure: Failure) -> Deferred[T]:
            error = failure.value
            if others and isinstance(error, RequestError) and error.may_retry:
                return self._ask_next(ask, others)
            return fail(failure)

        others = sources[1:]
        return ask(sources[0]).addErrback(failed)

    # --- waiting ----------------------------------------------------------------------------

    def wait_for(self, offset: int) -> Deferred[None]:
        """Fire once the record at `offset` is readable. See `LogLike.wait_for`.

        While no node that has the log can be asked, whoever waits goes on waiting.
        """
        if offset < self._known_end:
            return succeed(None)
        done = self._waiters.wait_for(offset)
        if not done.called:
            done.addBoth(self._waiter_ended)
            is_new = self._waiting is None and self._retry is None
            if is_new or (self._waiting is not None and offset < self._waiting_offset):
                self._ask_to_wait()
        return done

    def take_over(self) -> None:
        """Go on for those who wait for records of a copy that is not here any more."""
        if self._waiters.count and self._waiting is None and self._retry is None:
            self._ask_to_wait()

    def _waiter_ended(self, outcome: T) -> T:
        if not self._waiters.count:
            self._stop_waiting()
        return outcome

    def _stop_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _ask_to_wait(self) -> None:
        """Let another node tell when the next record is readable that somebody waits for here."""
        self._stop_waiting()
        offset = self._waiters.lowest
        if offset is None:
            return
        log, forwarder = self._log, self._forwarder
        self._waiting_offset = offset
        waiting = self._waiting = self._ask_each(lambda name: forwarder.wait(name, log.group, offset))
        waiting.addCallback(self._waited, waiting)
        waiting.addErrback(self._wait_failed, waiting)
        waiting.addErrback(lambda failure: self.logger.failure("waiting for a record", failure))

    def _waited(self, next_offset: int, waiting: Deferred[Any]) -> None:
        if self._waiting is waiting:
            self._waiting = None
        self._readable_to(next_offset)
        if self._waiters.count and self._waiting is None:
            self._ask_to_wait()

    def _wait_failed(self, failure: Failure, waiting: Deferred[Any]) -> None:
        if failure.check(CancelledError) or self._waiting is not waiting:
            return
        failure.trap(RequestError)
        self._waiting = None
        self._retry = self._clock.callLater(FORWARD_RETRY_SECONDS, self._run_retry)

    def _run_retry(self) -> None:
        self._retry = None
        self._ask_to_wait()

    def _readable_to(self, next_offset: int) -> None:
        if next_offset > self._known_end:
            self._known_end = next_offset
            self._waiters.wake(next_offset)
