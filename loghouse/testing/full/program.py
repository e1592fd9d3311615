"""A user's asyncio program beside a simulated cluster: its machine, and an event loop on the cluster's clock.

Time stands still while the program is at work. When all its tasks wait, the simulation makes the next thing
happen that is due, on whatever machine: a timer of the loop, or a packet that arrives for it, is one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from math import inf
from typing import Any, Final

from twisted.internet import error as twisted_errors
from twisted.python.failure import Failure

from loghouse.testing.clock import SimClock
from loghouse.testing.full.life import NodeLife
from loghouse.testing.full.tcp import SimTransport
from loghouse.testing.run import Run

NUMBER: Final = 0  # of the program's machine; those of nodes begin with 1
CONNECT_SECONDS: Final = 60.0
TURNS_MAX: Final = 100_000
"""Turns of the loop at one moment: a program that takes more waits for nothing."""


class ProgramHost:
    """The machine that the program runs on; nothing befalls it."""

    name = "program"
    number = NUMBER
    is_on = True
    paused_until = 0.0

    def __init__(self, cluster: Run) -> None:
        self.cluster = cluster
        self.life: NodeLife = NodeLife(self, 1.0)

    def lose_power(self) -> None:
        """Not simulated."""
        raise AssertionError("the program's machine keeps its power")

    def accept(self, transport: Any) -> None:
        """Nobody dials the program."""
        raise AssertionError("nobody dials the program")


class ProgramTransport(asyncio.Transport):
    """A simulated connection, as asyncio protocols have it."""

    def __init__(self, wire: SimTransport, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._wire = wire
        self._protocol = protocol
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        self._wire.write(bytes(data))

    def close(self) -> None:
        """Close once what was written is out."""
        self._is_closing = True
        self._wire.loseConnection()

    def abort(self) -> None:
        """Close at once."""
        self._is_closing = True
        self._wire.abortConnection()

    def is_closing(self) -> bool:
        """Whether the connection is closed, or closes."""
        return self._is_closing or not self._wire.is_open

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The network has its own limits."""

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the other end has not read."""
        return self._wire.in_flight

    def pause_reading(self) -> None:
        """Read nothing for now."""
        self._wire.pauseProducing()

    def resume_reading(self) -> None:
        """Read again."""
        self._wire.resumeProducing()

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol


class _Bridge:
    """One connection: what the simulated network calls, and what the loop then calls in a turn of its own."""

    def __init__(self, loop: VirtualLoop, protocol: Any) -> None:
        self._soon = loop.call_soon
        self._protocol = protocol
        self.transport: ProgramTransport | None = None
        self.made: asyncio.Future[None] = loop.create_future()

    # A factory, as `TcpNetwork.dial` wants one.

    def buildProtocol(self, address: Any) -> _Bridge:  # noqa: N802
        """Return itself: there is one connection."""
        return self

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:  # noqa: N802
        """Nobody answered, or nobody listens."""
        if not self.made.done():
            refused = reason.check(twisted_errors.ConnectionRefusedError) is not None
            self.made.set_exception(
                ConnectionRefusedError("connection refused") if refused else TimeoutError("no answer")
            )

    # A protocol, as `SimTransport` wants one.

    def makeConnection(self, wire: SimTransport) -> None:  # noqa: N802
        """The connection is there."""
        wire.registerProducer(self, streaming=True)
        self.transport = ProgramTransport(wire, self._protocol)
        self._soon(self._begin)

    def _begin(self) -> None:
        self._protocol.connection_made(self.transport)
        if not self.made.done():
            self.made.set_result(None)

    def dataReceived(self, content: bytes) -> None:  # noqa: N802
        """Bytes arrived."""
        self._soon(self._deliver, content)

    def _deliver(self, content: bytes) -> None:
        assert self.transport is not None
        if self.transport._is_closing:
            return
        if not isinstance(self._protocol, asyncio.BufferedProtocol):
            self._protocol.data_received(content)
            return
        while content:
            room = memoryview(self._protocol.get_buffer(len(content)))
            size = min(len(room), len(content))
            room[:size] = content[:size]
            self._protocol.buffer_updated(size)
            content = content[size:]

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        """The connection is gone."""
        is_orderly = reason.check(twisted_errors.ConnectionDone) is not None
        self._soon(
            self._protocol.connection_lost, None if is_orderly else ConnectionResetError("connection reset")
        )

    def pauseProducing(self) -> None:  # noqa: N802
        """The other end does not take what is sent."""
        self._soon(self._protocol.pause_writing)

    def resumeProducing(self) -> None:  # noqa: N802
        """It does again."""
        self._soon(self._protocol.resume_writing)

    def stopProducing(self) -> None:  # noqa: N802
        """The connection is gone; `connectionLost` says so."""


class _Waiting:
    """In the place of the loop's selector: to wait is to let the simulation go on."""

    def __init__(self, clock: SimClock, has_work: Callable[[], bool]) -> None:
        self._clock = clock
        self._has_work = has_work
        self._moment = -1.0
        self._turns = 0

    def select(self, timeout: float | None) -> list[Any]:
        """Let things happen until the loop has work, or for so many seconds."""
        clock = self._clock
        if clock.seconds() > self._moment:
            self._moment, self._turns = clock.seconds(), 0
        self._turns += 1
        if self._turns > TURNS_MAX:
            raise RuntimeError(f"the program does one thing after the other at {self._moment:.6f} s")
        until = inf if timeout is None else clock.seconds() + timeout
        while not self._has_work():
            if not clock.make_next(until):
                if until == inf:
                    raise RuntimeError("everybody waits, and nothing will ever come")
                clock.run_until(until)
                break
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio loop whose clock is a simulation's, and whose connections lead to its machines.

    Nothing outside of the simulation can be reached. What is given to an executor is done at once.
    """

    _ready: Any

    def __init__(self, cluster: Run) -> None:
        self._sim_clock = cluster.clock
        super().__init__()
        self._cluster = cluster
        self._host = ProgramHost(cluster)
        # What `BaseEventLoop._run_once` waits with.
        self._selector = _Waiting(cluster.clock, lambda: bool(self._ready))

    def time(self) -> float:
        """Return the simulated time, in seconds since the simulation began."""
        return self._sim_clock.seconds()

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none: what happens is put in line by `call_soon`."""

    def _write_to_self(self) -> None:
        """There is one thread: nobody waits in a system call."""

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: Any = None,
        **settings: Any,
    ) -> tuple[ProgramTransport, asyncio.BaseProtocol]:
        """Connect to a simulated machine.

        Raises:
            ValueError: With TLS, which is not simulated.
            OSError: Nobody answers there.
        """
        if ssl is not None:
            raise ValueError("TLS is not simulated: connect without certificates")
        bridge = _Bridge(self, protocol_factory())
        connector = self._host.life.connectTCP(str(host), int(port or 0), bridge, CONNECT_SECONDS)
        try:
            await bridge.made
        except asyncio.CancelledError:
            connector.disconnect()
            raise
        assert bridge.transport is not None
        return bridge.transport, bridge._protocol

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Do it now, in this thread: a second one would bring the order of things to chance."""
        done: asyncio.Future[Any] = self.create_future()
        try:
            done.set_result(partial(func, *args)())
        except Exception as error:
            done.set_exception(error)
        return done
