"""The simulated network as links meet it: connections of bytes in order, which break, stall and are reset.

What TCP promises holds: what arrives is in order and unchanged. A cut or loss only delays it, until the way
is free again or somebody gives up; who loses its power tells nobody. The faults have the names of
`testing.network`, so the same nemesis strikes.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
    UserError,
)
from twisted.python.failure import Failure

from loghouse.testing.clock import SimClock
from loghouse.testing.full.life import NodeLife, Wired
from loghouse.testing.network import LinkFaults, NetworkOptions
from loghouse.testing.trace import RunTrace

RETRANSMIT_SECONDS_MAX: Final = 0.4
SYN_SECONDS: Final = (0.0, 1.0, 3.0)  # when a connection attempt is repeated
CHUNK: Final = 1
_DONE = Failure(ConnectionDone())
_LOST = Failure(ConnectionLost())


class SimTransport:
    """One end of a connection, in the kernel of a machine and in the hands of one process."""

    def __init__(self, network: TcpNetwork, life: NodeLife, peer_number: int) -> None:
        self.network = network
        self.life = life
        self.number = life.host.number
        self.peer_number = peer_number
        self.peer: SimTransport | None = None
        self.protocol: Any = None
        # Open for the process; and whether the machine lost its power while it was, so that nobody was told.
        self.is_open = True
        self.is_orphan = False
        self.in_flight = 0
        self._unsent: list[bytes] = []
        self._is_flushing = False
        self._producer: Any = None
        self._is_throttled = False
        self._reads = True
        self._inbox: deque[bytes | None] = deque()
        # What waits for a way that is cut; None is the end of the stream.
        self.held: deque[bytes | None] = deque()
        self.last_arrival = 0.0

    # --- ITransport -------------------------------------------------------------------------

    def write(self, content: bytes) -> None:
        """Send bytes; what one turn of the reactor writes travels together."""
        self.writeSequence((content,))

    def writeSequence(self, pieces: Any) -> None:  # noqa: N802
        """Send several pieces."""
        if not self.is_open or not self.life.is_alive:
            return
        for piece in pieces:
            content = bytes(piece)
            self._unsent.append(content)
            self.in_flight += len(content)
        if not self._is_flushing:
            self._is_flushing = True
            self.network.clock.after(0.0, self._flush)
        is_over = self.in_flight > self.network.write_buffer_size
        if is_over and self._producer is not None and not self._is_throttled:
            self._is_throttled = True
            self._producer.pauseProducing()

    def _flush(self) -> None:
        self._is_flushing = False
        if self._unsent and self.life.is_alive:
            content = b"".join(self._unsent)
            self._unsent.clear()
            self.network.carry(self, content)

    def taken(self, size: int) -> None:
        """The other end has read so many bytes."""
        self.in_flight -= size
        if self._is_throttled and self.in_flight <= 0:
            self._is_throttled = False
            if self.is_open and self._producer is not None:
                self.life.enter(self._producer.resumeProducing)

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        """Let somebody know when too much is on its way."""
        self._producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802
        """Tell nobody any more."""
        self._producer = None

    def pauseProducing(self) -> None:  # noqa: N802
        """Read nothing for now."""
        self._reads = False

    def resumeProducing(self) -> None:  # noqa: N802
        """Read again."""
        self._reads = True
        self.network.clock.after(0.0, self.life.enter, self._read)

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802
        """What is written here always goes at once."""

    def loseConnection(self) -> None:  # noqa: N802
        """Close once what was written is out."""
        if self.is_open and self.life.is_alive:
            self._flush()
            self.network.carry(self, None)
            self._close(_DONE)

    def abortConnection(self) -> None:  # noqa: N802
        """Close at once."""
        if self.is_open and self.life.is_alive:
            self._unsent.clear()
            self.network.carry(self, None)
            self._close(_LOST)

    def getPeer(self) -> IPv4Address:  # noqa: N802
        """Return where the other end is."""
        return IPv4Address("TCP", f"n{self.peer_number}", 1)

    # --- the kernel ---------------------------------------------------------------------------

    def accepted(self, protocol: Any) -> None:
        """The process took the connection; what arrived before is read now."""
        if self.is_open:
            self.protocol = protocol
            protocol.makeConnection(self)
            self._read()

    def deliver(self, content: bytes | None) -> None:
        """Bytes arrived, or the end of the stream."""
        self._inbox.append(content)
        self.life.enter(self._read)

    def _read(self) -> None:
        if self.protocol is None:
            return  # not accepted yet
        while self._inbox and self._reads and self.is_open:
            content = self._inbox.popleft()
            if content is None:
                self._close(_DONE)
                return
            if self.peer is not None:
                self.peer.taken(len(content))
            self.protocol.dataReceived(content)

    def _close(self, reason: Failure) -> None:
        """The process has no connection any more; told when its turn is over."""
        self.is_open = False
        self.network.clock.after(0.0, self.life.enter, self._tell, reason)
        self.network.forget(self)

    def _tell(self, reason: Failure) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            producer.stopProducing()
        if self.protocol is not None:
            self.protocol.connectionLost(reason)

    def reset(self) -> None:
        """The other end said that it knows nothing of this connection."""
        if self.is_open:
            self._close(_LOST)

    def process_ended(self, *, with_power: bool) -> None:
        """The process is gone. The kernel tells the other end, unless the power is gone, too."""
        self._unsent.clear()
        if with_power:
            self.is_orphan = True
        elif self.is_open:
            self.network.carry(self, None)
        self.is_open = False
        self.network.forget(self)


class Connector:
    """A connection attempt; what `connectTCP` returns."""

    def __init__(
        self, network: TcpNetwork, life: NodeLife, address: str, factory: Any, timeout: float
    ) -> None:
        self.transport: SimTransport | None = None
        self._network = network
        self._life = life
        self._factory = factory
        self._is_over = False
        target = network.machine_at(address)
        clock = network.clock
        clock.after(timeout, life.enter, self._fail, TimeoutError())
        if target is None:
            clock.after(0.0, life.enter, self._fail, ConnectionRefusedError())
            return
        for seconds in SYN_SECONDS:
            if seconds < timeout:
                clock.after(seconds, self._knock, target)

    def _knock(self, target: Wired) -> None:
        """A first packet goes there and its answer comes back, or either is lost."""
        network, life = self._network, self._life
        if self._is_over or not life.is_alive:
            return
        here = life.host.number
        there = network.travel_seconds((here, target.number))
        back = network.travel_seconds((target.number, here))
        is_lost = network.is_cut(here, target.number) or network.is_cut(target.number, here)
        if is_lost or network.loses_packet() or not target.is_on:
            return
        network.clock.after(there + back, self._answered, target)

    def _answered(self, target: Wired) -> None:
        if self._is_over or not self._life.is_alive or not target.is_on:
            return
        self._life.enter(self._connect, target)

    def _connect(self, target: Wired) -> None:
        if self._is_over:
            return
        life = target.life
        if life is None or not life.is_alive:
            self._fail(ConnectionRefusedError())
            return
        self._is_over = True
        self.transport = self._network.join(self._life, life, self._factory)

    def _fail(self, error: Exception) -> None:
        if not self._is_over:
            self._is_over = True
            self._factory.clientConnectionFailed(self, Failure(error))

    def disconnect(self) -> None:
        """Give up the attempt, or close what came of it."""
        if self.transport is not None:
            self.transport.loseConnection()
        else:
            self._fail(UserError())


class TcpNetwork(LinkFaults):
    """Carries bytes between the machines of a cluster."""

    def __init__(
        self,
        clock: SimClock,
        rng: random.Random,
        options: NetworkOptions,
        trace: RunTrace,
        machine_at: Callable[[str], Wired | None],
        write_buffer_size: int,
    ) -> None:
        super().__init__(clock, rng, options)
        self.machine_at = machine_at
        self.write_buffer_size = write_buffer_size
        self._trace = trace
        self._open: dict[SimTransport, None] = {}
        self._holding: dict[tuple[int, int], dict[SimTransport, None]] = {}
        self.sent = self.delivered = self.lost = self.blocked = self.connections = self.resets = 0

    # --- faults -----------------------------------------------------------------------------

    def mend(self, source: int, target: int) -> None:
        """End a cut: what waited goes on when it is next sent again."""
        super().mend(source, target)
        for transport in self._holding.pop((source, target), ()):
            delay = self._random() * RETRANSMIT_SECONDS_MAX
            self.clock.after(delay, self._release, transport)

    def reset_links(self, rng: random.Random) -> str:
        """Break some of the open connections: both ends are told, what was on its way is lost."""
        dialled = [one for one in self._open if one.peer is not None and one.number < one.peer_number]
        if not dialled:
            return ""
        for transport in rng.sample(dialled, rng.randint(1, len(dialled))):
            self.resets += 1
            for end in (transport, transport.peer):
                assert end is not None
                end.held.clear()
                end.reset()
        return "link reset"

    def loses_packet(self) -> bool:
        """Draw whether one packet is lost."""
        return bool(self._options.loss) and self._random() < self._options.loss

    # --- connections ------------------------------------------------------------------------

    def dial(self, life: NodeLife, address: str, factory: Any, timeout: float) -> Connector:
        """Begin to connect."""
        return Connector(self, life, address, factory, timeout)

    def join(self, dialling: NodeLife, accepting: NodeLife, factory: Any) -> SimTransport:
        """Make a connection; the dialling process has it now, the accepting one when the packet is there."""
        self.connections += 1
        here = SimTransport(self, dialling, accepting.host.number)
        there = SimTransport(self, accepting, dialling.host.number)
        here.peer, there.peer = there, here
        self._open[here] = self._open[there] = None
        here.protocol = factory.buildProtocol(here.getPeer())
        delay = self.travel_seconds((here.number, there.number))
        here.last_arrival = self.clock.seconds() + delay
        self.clock.after(delay, accepting.enter, accepting.host.accept, there)
        here.protocol.makeConnection(here)
        return here

    def forget(self, transport: SimTransport) -> None:
        """A connection is closed at one end."""
        self._open.pop(transport, None)

    def process_ended(self, life: NodeLife, *, with_power: bool) -> None:
        """Close what a process had open."""
        for transport in [one for one in self._open if one.life is life]:
            transport.process_ended(with_power=with_power)

    # --- carrying -----------------------------------------------------------------------------

    def travel_seconds(self, link: tuple[int, int]) -> float:
        """Draw how long a packet travels, sent again as often as it is lost."""
        options = self._options
        seconds = options.delay_seconds_min + self._draw_jitter()
        while options.loss and self._random() < options.loss:
            self.lost += 1
            seconds += self._random() * RETRANSMIT_SECONDS_MAX
        if self._slow:
            seconds += self._slow.get(link[0], 0.0)
        if self._clogged_until:
            seconds = max(seconds, self._clogged_until.get(link, 0.0) - self.clock.seconds())
        return seconds

    def carry(self, source: SimTransport, content: bytes | None) -> None:
        """Send bytes, or the end of the stream, behind everything sent before."""
        self.sent += 1
        link = (source.number, source.peer_number)
        when = max(source.last_arrival, self.clock.seconds() + self.travel_seconds(link))
        source.last_arrival = when
        self.clock.at(when, self._arrive, source, content)

    def _arrive(self, source: SimTransport, content: bytes | None) -> None:
        if source.is_orphan:
            return  # the machine that would have sent it again lost its power
        link = (source.number, source.peer_number)
        if source.held or link in self._cut or self._is_unpowered(source):
            self.blocked += 1
            source.held.append(content)
            self._holding.setdefault(link, {})[source] = None
            return
        self._hand_over(source, content)

    def _is_unpowered(self, source: SimTransport) -> bool:
        assert source.peer is not None
        return source.peer.is_orphan and not source.peer.life.host.is_on

    def _release(self, source: SimTransport) -> None:
        """Send again what was held."""
        held, source.held = source.held, deque()
        for content in held:
            self._arrive(source, content)

    def powered_on(self, number: int) -> None:
        """A machine is on again: what is still sent to its former life is refused soon."""
        for link in [link for link in self._holding if link[1] == number]:
            if link not in self._cut:
                self.mend(*link)

    def _hand_over(self, source: SimTransport, content: bytes | None) -> None:
        target = source.peer
        assert target is not None
        size = len(content) if content is not None else 0
        self._trace.step(CHUNK, source.number, target.number, size, zlib.crc32(content) if content else 0)
        self.delivered += 1
        if target.is_open:
            target.deliver(content)
        elif content is not None:
            # Nobody is there any more: the kernel says so, unless the way back is cut.
            delay = self.travel_seconds((target.number, source.number))
            self.clock.after(delay, self._refused, source, content)

    def _refused(self, source: SimTransport, content: bytes) -> None:
        link = (source.peer_number, source.number)
        if link in self._cut:
            self.clock.after(RETRANSMIT_SECONDS_MAX, self._refused, source, content)
        else:
            source.reset()
