"""One life of a process on a simulated machine: its clock, what it does later, and its end.

Whatever happens in a process goes through `Life.enter`: a stopped process (SIGSTOP) does it when it goes
on, one that ended never does. What a dead process still has on its stack runs on as a ghost: nothing
that it does gets anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nextafter
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from loghouse.testing.checkers import Violation
from loghouse.testing.clock import SimDelayedCall
from loghouse.testing.disk import PowerLossError
from loghouse.testing.run import Run

# What a process may do at one moment of the simulation.
BUSY_MAX: Final = 50_000


class Powered(Protocol):
    """What a life asks of the machine that it is on."""

    name: str
    number: int
    cluster: Run
    paused_until: float

    def lose_power(self) -> None:
        """The power went while the process was at work."""


class _Call(SimDelayedCall):
    """A call of one process, in the seconds of its own clock."""

    __slots__ = ("_life",)

    def __init__(
        self,
        life: Life,
        seconds: float,
        function: Callable[..., object],
        args: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> None:
        self._life = life
        super().__init__(life.host.cluster.clock, life.in_seconds(seconds), function, args, keywords)

    def _fire(self, ticket: int) -> None:
        life = self._life
        if self._cancelled or ticket != self._ticket or not life.is_alive:
            return
        resumes_at = life.host.paused_until
        if resumes_at > self._clock.seconds():
            self._clock.at(resumes_at, self._fire, ticket)
            return
        self._called = True
        life.enter(self._make)

    def _make(self) -> None:
        self.function(*self.args, **self.keywords)

    def getTime(self) -> float:  # noqa: N802
        """Return when the call is due, by the process's clock."""
        return self._life.local(self.when)

    def delay(self, secondsLater: float) -> None:  # noqa: N803
        """Make the call so many seconds later than planned."""
        self._move(self._life.at_local(self.getTime() + secondsLater))

    def reset(self, secondsFromNow: float) -> None:  # noqa: N803
        """Make the call so many seconds from now."""
        self._move(self._life.in_seconds(secondsFromNow))


@implementer(IReactorTime)
class Life:
    """One run of a process, and its reactor.

    `rate` is how many seconds the machine's clock counts in one real one.
    """

    def __init__(self, host: Powered, rate: float) -> None:
        self.host = host
        self.rate = rate
        self.is_alive = True
        self._busy_since = -1.0
        self._busy_count = 0

    # --- what happens -------------------------------------------------------------------

    def enter(self, work: Callable[..., object], *args: Any) -> None:
        """Do something in the process: now, when it goes on, or never.

        Raises:
            Violation: A rule was broken meanwhile.
            Exception: The process did not catch it: a bug, unless it died on the way.
        """
        if not self.is_alive:
            return
        host = self.host
        cluster = host.cluster
        if host.paused_until > cluster.clock.seconds():
            cluster.clock.at(host.paused_until, self.enter, work, *args)
            return
        if cluster.clock.seconds() > self._busy_since:
            self._busy_since, self._busy_count = cluster.clock.seconds(), 0
        self._busy_count += 1
        if self._busy_count > BUSY_MAX:
            raise Violation("busy", f"{host.name} does one thing after the other and time stands still")
        before, cluster.current = cluster.current, host.name
        try:
            work(*args)
        except PowerLossError:
            host.lose_power()
        except Exception:
            cluster.check()
            if self.is_alive:
                raise
        finally:
            cluster.current = before
        cluster.check()

    def soon(self, work: Callable[[], None]) -> None:
        """Do something at the end of this turn of the reactor, which may take a while."""
        cluster = self.host.cluster
        cluster.clock.after(cluster.options.turn_seconds, self.enter, work)

    # --- IReactorTime ---------------------------------------------------------------------

    def local(self, seconds: float) -> float:
        """Return what the machine's clock shows at a time of the simulation."""
        return seconds * self.rate

    def at_local(self, local: float) -> float:
        """Return the first time of the simulation at which the machine's clock shows at least `local`.

        Rounding must not make a call early: one that repeats would be due again at once, for ever.
        """
        seconds = local / self.rate
        while self.local(seconds) < local:
            seconds = nextafter(seconds, inf)
        return seconds

    def in_seconds(self, seconds: float) -> float:
        """Return the time of the simulation so many seconds of the machine's clock from now."""
        return max(self.host.cluster.clock.seconds(), self.at_local(self.seconds() + seconds))

    def seconds(self) -> float:
        """Return the machine's monotonic time."""
        return self.local(self.host.cluster.clock.seconds())

    def callLater(  # noqa: N802
        self, delay: float, callable: Callable[..., Any], *args: object, **kw: object
    ) -> IDelayedCall:
        """Call something later, by this machine's clock."""
        assert delay >= 0, f"{delay} seconds from now is in the past"
        return _Call(self, delay, callable, args, kw)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:  # noqa: N802
        """Not kept: nobody in a node asks."""
        raise NotImplementedError
