"""Calls that find their server: choose, call, judge, try again elsewhere, and keep what is known fresh.

This drives the pure parts (`balancing`, `failures`, `retrying`) with channels and the loop's clock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from loghouse.client.balancing import Balancer, ClusterView, Purpose
from loghouse.client.channels import AppendAnswer, Channel, Channels, LogId, seen
from loghouse.client.failures import CallFailedError, CallFailure, Effect, refused_link
from loghouse.client.open_consumers import OpenConsumers
from loghouse.client.pin import ClusterPin
from loghouse.client.place import Place
from loghouse.client.retrying import Attempts
from loghouse.client.routes import Routes
from loghouse.errors import (
    ClosedError,
    DeadlineError,
    IdentityError,
    LoghouseError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.protocol.client_messages import check_log_name
from loghouse.protocol.entry import DEFAULT_GROUP, DEFAULT_LOG

ASK_SECONDS: Final = 3.0
"""How long one server may take to tell who is in the cluster."""
STAGGER_SECONDS: Final = 0.3
"""How long one is waited for before the next one is asked beside it."""
REFRESH_SECONDS_MAX: Final = 1.0
"""How long a failed call waits for news of the cluster before it is made again anyway."""
REST_SECONDS: Final = 0.1
"""Between two times of asking for the cluster on the calls' own account."""

Make = Callable[[Channel, float], Awaitable[Any]]
"""Starts a call on a channel with a timeout in seconds; the result is awaited."""


class Calls:
    """The calls of one client about one log, and about the cluster.

    Args:
        channels: Theirs; they tell the routes who leads.
        rng: Chance for turns and pauses.
        pin: The cluster that all servers must be of; their channels check it, too.
        routes: Where the channels' news goes.

    Attributes:
        log: The log's name; empty for the default one.
        is_named: Whether it is another one than the default one.
        group: Its number; 0 until a server told it. From then on it is kept: another log that gets the name
            is not the one that was asked for.
        tracer: Begins the spans of appends; None: there are none.
        consumers: Those of the client that are open.
    """

    tracer: Any = None

    def __init__(
        self,
        balancer: Balancer,
        channels: Channels,
        rng: random.Random,
        pin: ClusterPin | None = None,
        *,
        routes: Routes | None = None,
        log: str = "",
    ) -> None:
        self.balancer = balancer
        self.channels = channels
        self.rng = rng
        self.pin = pin or ClusterPin()
        self.place = Place()
        self.log = log
        self.group = DEFAULT_GROUP if log in ("", DEFAULT_LOG) else 0
        self._epoch = -1  # of what is known of a named log
        self.is_named = not self.group
        self._routes = routes or Routes()
        self._routes.add(self)
        self._refreshing: asyncio.Task[None] | None = None
        self._rested_at = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self.consumers = OpenConsumers(self.spawn)
        self._make: Callable[..., Calls] = Calls  # makes the calls about another log

    def of_log(self, name: str) -> Calls:
        """Return calls about another log, which end with these."""
        if name in ("", DEFAULT_LOG) and not self.is_named:
            return self
        made = self._make(
            self.balancer.of_log(), self.channels, self.rng, self.pin, routes=self._routes, log=name
        )
        made.place, made._tasks, made.consumers = self.place, self._tasks, self.consumers
        return made

    @property
    def where(self) -> LogId:
        """The log, as servers are asked about it; known once `view` or `refresh` returned."""
        return LogId(self.log, self.group)

    def hinted(self, leader_name: str) -> None:
        """Note that a node named the leader."""
        self.balancer.hinted(leader_name)

    def addresses(self) -> set[str]:
        """Return every address that may be called."""
        return self.balancer.addresses()

    @property
    def now(self) -> float:
        """The loop's clock, in seconds."""
        return asyncio.get_running_loop().time()

    # --- one call, however many attempts ------------------------------------------------

    async def call(
        self,
        make: Make,
        *,
        purpose: Purpose,
        timeout_seconds: float,
        is_safe: bool,
        server: str = "",
        address: str = "",
    ) -> Any:
        """Make a call until it is answered, refused, or its time is over.

        Args:
            make: Starts one attempt.
            is_safe: Whether it may be made again though it may have been carried out.
            server: The name of the only server that can do it; empty for any.
            address: Where to try first; empty: wherever is best.

        Raises:
            LoghouseError: The server's refusal; DeadlineError when time is over and nothing was done;
                OutcomeUnknownError when something may have been.
        """
        self.place.check_task()
        now = self.now
        deadline = now + timeout_seconds
        attempts = Attempts(begun_at=now, deadline=deadline, is_safe=is_safe, rng=self.rng)
        if self.balancer.view is None:
            await self.refresh(timeout_seconds)
            now = self.now
        while True:
            address = address or self._address(purpose, server, now)
            try:
                return await self._attempt(make, address, attempts.seconds_left(now))
            except CallFailedError as error:
                failure = error.failure
            except asyncio.CancelledError:
                self._check_closed(is_safe=is_safe)
                raise
            self.note(failure, address)
            failure = await self.confirmed(self.judged(failure), address)
            address = ""
            pause = attempts.pause_after(failure, self.now)
            await self.await_news(min(REFRESH_SECONDS_MAX, max(0.0, deadline - self.now)))
            await asyncio.sleep(pause)
            now = self.now

    def append(
        self,
        make: Callable[[Channel, float], Awaitable[AppendAnswer]],
        *,
        timeout_seconds: float,
        is_safe: bool = False,
    ) -> Coroutine[Any, Any, AppendAnswer]:
        """Make a call that appends a batch; as `call`."""
        return self.call(make, purpose=Purpose.APPEND, timeout_seconds=timeout_seconds, is_safe=is_safe)

    async def _attempt(self, make: Make, address: str, seconds: float) -> Any:
        with self.channels.lend(address) as channel:
            reply = await make(channel, seconds)
        self.balancer.succeeded(address)
        self.refresh_if_stale()
        return reply

    def _address(self, purpose: Purpose, server: str, now: float) -> str:
        if not server:
            return self.balancer.address(purpose, now)
        address = self.balancer.address_of(server, now)
        if address is None:
            raise UnavailableError(f"no server named {server!r} in this cluster; `servers()` lists them")
        return address

    @contextmanager
    def unless_closed(self, *, is_safe: bool) -> Iterator[None]:
        """Turn the cancellation of what a closed client had under way into an error.

        Raises:
            UnavailableError, OutcomeUnknownError: The client was closed inside the block; an append (not
                `is_safe`) may have happened.
        """
        try:
            yield
        except asyncio.CancelledError:
            self._check_closed(is_safe=is_safe)
            raise

    def _check_closed(self, *, is_safe: bool) -> None:
        """Raise what a cancellation means that the client's closing brought about; see `unless_closed`."""
        task = asyncio.current_task()
        if self.channels.is_closed and not (task is not None and task.cancelling()):
            kind = ClosedError if is_safe else OutcomeUnknownError
            raise kind("the client was closed before the answer came") from None

    def judged(self, failure: CallFailure) -> CallFailure:
        """Return a failure as what it is now: a refusal, when no address is left that might do."""
        if not failure.is_permanent:
            return failure
        effect = Effect.REFUSED if self.balancer.is_hopeless else Effect.NOTHING
        return replace(failure, effect=effect)

    async def confirmed(self, failure: CallFailure, address: str) -> CallFailure:
        """Return a failure as what it is when a server did not know a log: it may be behind the others.

        The others are asked; when one has the very log that was asked for, another attempt may go well.
        """
        if not (self.is_named and isinstance(failure.error, UnknownLogError)):
            return failure
        refreshing = self._start_refreshing()
        await asyncio.wait({refreshing}, timeout=ASK_SECONDS)
        error = refreshing.exception() if refreshing.done() and not refreshing.cancelled() else None
        if isinstance(error, CallFailedError) and error.failure.effect is Effect.REFUSED:
            return error.failure
        self.balancer.failed(address, self.now)
        text = f"{address}: does not know the log {self.log!r}, and no other server says that there is none"
        return CallFailure(error=UnavailableError(text), effect=Effect.NOTHING)

    def note(self, failure: CallFailure, address: str) -> None:
        """Learn from a failed call at an address."""
        balancer = self.balancer
        if failure.is_link:
            balancer.failed(address, self.now, is_permanent=failure.is_permanent)
            if failure.effect is Effect.UNKNOWN:
                self.channels.retire(address)  # it broke, or leads into a black hole: dial anew next time
        elif failure.leader:
            balancer.hinted(failure.leader)
        elif failure.effect is not Effect.REFUSED and not isinstance(failure.error, ResourceExhaustedError):
            balancer.does_not_lead(address)

    # --- the cluster ------------------------------------------------------------------------

    async def view(self, timeout_seconds: float) -> ClusterView:
        """Return the cluster as it is known, asking for it when it never was.

        Raises:
            DeadlineError: No server answered in time.
        """
        self.place.check_task()
        if self.balancer.view is None:
            await self.refresh(timeout_seconds)
        assert self.balancer.view is not None
        return self.balancer.view

    def refresh_if_stale(self) -> None:
        """Ask for the servers in the background when what is known is old."""
        now = self.now
        if self.balancer.is_stale(now) and now >= self._rested_at:
            self._start_refreshing()

    async def refresh(self, timeout_seconds: float) -> None:
        """Ask for the servers until one answers.

        Raises:
            DeadlineError: None did in time.
            LoghouseError: One refused this client.
        """
        self.place.check_task()
        begun_at = self.now
        attempts = Attempts(
            begun_at=begun_at, deadline=begun_at + timeout_seconds, is_safe=True, rng=self.rng
        )
        while True:
            refreshing = self._start_refreshing()
            await asyncio.wait({refreshing}, timeout=max(0.0, begun_at + timeout_seconds - self.now))
            if refreshing.done() and not refreshing.cancelled() and refreshing.exception() is None:
                return
            await asyncio.sleep(attempts.pause_after(self._why_unknown(refreshing), self.now))

    def _why_unknown(self, refreshing: asyncio.Task[None]) -> CallFailure:
        if not refreshing.done():
            seeds = ", ".join(sorted(self.balancer.addresses()))
            return CallFailure(error=DeadlineError(f"no answer from {seeds}"), effect=Effect.NOTHING)
        error = None if refreshing.cancelled() else refreshing.exception()
        if isinstance(error, CallFailedError):
            return error.failure
        if error is not None:
            raise error  # of ours
        return CallFailure(error=ClosedError("the client was closed"), effect=Effect.REFUSED)

    async def await_news(self, seconds_max: float) -> None:
        """After a failure: wait a little for news, if news are due."""
        if self.balancer.is_stale(self.now) and self.now >= self._rested_at:
            await asyncio.wait({self._start_refreshing()}, timeout=seconds_max)

    def _start_refreshing(self) -> asyncio.Task[None]:
        if self.channels.is_closed:
            raise ClosedError("the client is closed")
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self.spawn(self._refresh())
            self._refreshing.add_done_callback(seen)
        return self._refreshing

    async def _refresh(self) -> None:
        """Ask one server after the other, not waiting long for any; the first that knows a leader wins."""
        addresses = list(self.balancer.addresses_in_turn(Purpose.ASK, self.now))
        asking: dict[asyncio.Task[ClusterView], str] = {}
        problems: list[CallFailure] = []
        leaderless: ClusterView | None = None
        try:
            while addresses or asking:
                if addresses:
                    address = addresses.pop(0)
                    asking[asyncio.ensure_future(self._ask(address))] = address
                patience = STAGGER_SECONDS if addresses else None
                done, _ = await asyncio.wait(asking, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    address = asking.pop(task)
                    try:
                        view = task.result()
                        self.balancer.check_cluster(view.cluster_uuid, address)
                        self.pin.check_view(view.cluster_name, address)
                        self._check_log(view, address)
                    except IdentityError as error:
                        problems.append(refused_link(error))
                        continue
                    except CallFailedError as error:
                        problems.append(error.failure)
                        continue
                    except UnknownLogError as error:
                        raise CallFailedError(CallFailure(error=error, effect=Effect.REFUSED)) from None
                    except LoghouseError as error:
                        problems.append(CallFailure(error=error, effect=Effect.NOTHING))
                        continue
                    if self.balancer.shows_leader(view):
                        return self._learn(view)
                    leaderless = leaderless or view
        finally:
            self._rested_at = self.now + REST_SECONDS
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if leaderless is None:
            raise CallFailedError(_worst(problems))
        self._learn(leaderless)
        self.balancer.expire()

    def _check_log(self, view: ClusterView, address: str) -> None:
        """Raise unless a view is of the log that these calls are about, and not older than what is known.

        Raises:
            UnknownLogError: Another log has the name by now.
            UnavailableError: The server is behind.
        """
        if not self.is_named:
            return
        if self.group and view.group > self.group:
            raise UnknownLogError(self.log)
        if view.group < self.group or view.epoch < self._epoch:
            raise UnavailableError(f"{address}: tells of an older place of the log {self.log!r}")

    def _learn(self, view: ClusterView) -> None:
        if self.is_named:
            self.group, self._epoch = view.group, view.epoch
        self.balancer.learned(view, self.now)
        self.channels.keep(self._routes.addresses())

    async def _ask(self, address: str) -> ClusterView:
        try:
            check_log_name(self.log, empty=True)
        except ValueError:
            refused = CallFailure(error=UnknownLogError(self.log), effect=Effect.REFUSED)
            raise CallFailedError(refused) from None
        try:
            with self.channels.lend(address) as channel:
                if self.is_named:
                    view = await channel.route(self.log, ASK_SECONDS)
                else:
                    view = await channel.servers(ASK_SECONDS)
        except CallFailedError as error:
            self.note(error.failure, address)
            raise CallFailedError(self._about_the_log(error.failure)) from None
        self.balancer.succeeded(address)
        return view

    def _about_the_log(self, failure: CallFailure) -> CallFailure:
        """Return a failure with this log in it: a stranger is refused before the name is read."""
        error = failure.error
        if self.is_named and isinstance(error, PermissionDeniedError) and error.object == DEFAULT_LOG:
            return replace(failure, error=PermissionDeniedError(error.subject, error.action, self.log))
        return failure

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that ends with the client, if not before."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close_within(self, seconds: float) -> str:
        """Close, and give the consumers that are open so many seconds; return what they could not commit."""
        if self.place.is_elsewhere:
            return ""  # they are the parent's, and so are the connections
        left = ""
        if self.consumers:
            self.place.check()
            left = await self.consumers.close(seconds)
        await self.close()
        return left

    async def close(self) -> None:
        """End everything under way; in a forked child there is nothing, the connections are the parent's."""
        if self.place.is_elsewhere:
            return
        if self.channels.is_used or self._tasks:
            self.place.check()
        self.channels.is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.channels.close()


def _worst(problems: list[CallFailure]) -> CallFailure:
    """Return why no server told of its cluster: a refusal counts for all, what is hopeless for one."""
    hopeless = [p for p in problems if p.is_permanent]
    refused = [
        problem for problem in problems if problem.effect is Effect.REFUSED and problem not in hopeless
    ]
    if refused or len(hopeless) == len(problems):
        return CallFailure(error=(refused or hopeless)[0].error, effect=Effect.REFUSED)
    # Of the others the call is tried again; what a person has to mend is told nevertheless.
    error = (hopeless or problems[-1:])[0].error
    told = UnavailableError(str(error)) if isinstance(error, OutcomeUnknownError) else error
    return CallFailure(error=told, effect=Effect.NOTHING)
