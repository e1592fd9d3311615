"""The sending side of this node towards one other node: it dials, dials again, and sends.

    idle --send--> dialling --LinkUp--> up --lost--> waiting --delay--> dialling ...
                                        up --nothing to say--> idle

Raft and SWIM send again what is lost. So nothing is kept for a node that cannot be reached, and little for a
slow one: a queue bounded in bytes and frames, control before bulk, a newer heartbeat in the place of an older
one. What does not fit is dropped and counted. Only answers to the link's own messages come back on it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger

from loghouse.auth.identity import Identity
from loghouse.errors import IdentityError, ProtocolError
from loghouse.limits import KIB, PEER_QUEUE_MAX, PEER_QUEUE_SIZE_MAX, UINT32_MAX
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.net.link import Link, LinkTimes, LinkWatch
from loghouse.net.tls import TlsContexts
from loghouse.protocol.backoff import Backoff
from loghouse.protocol.beat_messages import NodeBeat
from loghouse.protocol.codec import BULK_KINDS, encode, encode_envelope
from loghouse.protocol.cursor_messages import ForwardCursor, ForwardProduceWithCursor
from loghouse.protocol.entry import DEFAULT_GROUP, Buffer
from loghouse.protocol.greeting import Certified
from loghouse.protocol.link_messages import Capability, Hello
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import (
    Envelope,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    RequestVoteReply,
)
from loghouse.protocol.range_messages import RANGE_KINDS
from loghouse.protocol.routing_messages import ROUTING_KINDS, Leads
from loghouse.protocol.session import Event, LinkUp, Session
from loghouse.runtime.bulk_tls import BulkTlsFactory
from loghouse.runtime.scheduling import Soon

CONNECT_SECONDS_MAX: Final = 5.0
BACKOFF_SECONDS_MIN: Final = 0.1
BACKOFF_SECONDS_MAX: Final = 5.0
IDLE_SECONDS_MAX: Final = 300.0
TURN_SIZE_MAX: Final = 256 * KIB  # of bulk to one peer, before others have their turn of the reactor
GATHERED_SIZE_MAX: Final = 32 * KIB  # of frames that wait for a turn's end: with more the peer can begin
COALESCED_KINDS: Final = frozenset((Heartbeat.KIND, HeartbeatReply.KIND, Leads.KIND, NodeBeat.KIND))
# Of named logs these always wait for the end of a turn: a hundred logs say them at once, and nobody's append
# waits for them.
GATHERED_KINDS: Final = frozenset(
    (Heartbeat.KIND, HeartbeatReply.KIND, RequestVote.KIND, RequestVoteReply.KIND)
)
# What the other node must be capable of, to be sent a kind.
_NEEDED: Final = {
    **dict.fromkeys(ROUTING_KINDS, Capability.MANY_LOGS),
    **dict.fromkeys(RANGE_KINDS, Capability.RANGES),
    NodeBeat.KIND: Capability.BEATS,
    ForwardCursor.KIND: Capability.CURSORS,
    ForwardProduceWithCursor.KIND: Capability.CURSORS,
}


class PeerState(Enum):
    """What a peer's link does; the picture at the top has the changes."""

    IDLE = "idle"
    DIALLING = "dialling"
    UP = "up"
    WAITING = "waiting"
    STOPPED = "stopped"


class SendQueue:
    """Frames that wait for the transport: control before bulk, each in order, bounded. Pure."""

    def __init__(self, size_max: int = PEER_QUEUE_SIZE_MAX, count_max: int = PEER_QUEUE_MAX) -> None:
        self.size = 0  # bytes that wait
        self._size_max = size_max  # bytes that may wait; fixed
        self._count_max = count_max  # frames that may wait; fixed
        # Kind, group, frame: what goes first.
        self._control: deque[tuple[int, int, tuple[Buffer, ...]]] = deque()
        # Kind, group, frame: what goes when no control waits.
        self._bulk: deque[tuple[int, int, tuple[Buffer, ...]]] = deque()

    def __len__(self) -> int:
        return len(self._control) + len(self._bulk)

    def put(self, kind: int, group: int, frame: tuple[Buffer, ...]) -> bool:
        """Add a frame; False when it does not fit and was dropped."""
        size = sum(map(len, frame))
        if len(self) >= self._count_max or self.size + size > self._size_max:
            return False
        (self._bulk if kind in BULK_KINDS else self._control).append((kind, group, frame))
        self.size += size
        return True

    def replace(self, kind: int, group: int, frame: tuple[Buffer, ...]) -> bool:
        """Put a frame in the place of a waiting one of its kind and group; False when there is none."""
        for place, (other_kind, other_group, old) in enumerate(self._control):
            if other_kind == kind and other_group == group:
                self._control[place] = (kind, group, frame)
                self.size += sum(map(len, frame)) - sum(map(len, old))
                return True
        return False

    def take(self, *, bulk_too: bool = True) -> tuple[Buffer, ...] | None:
        """Return the next frame to send; None when there is none, or only bulk that is not asked for."""
        waiting = self._control or (self._bulk if bulk_too else None)
        if not waiting:
            return None
        _, _, frame = waiting.popleft()
        self.size -= sum(map(len, frame))
        return frame

    def clear(self) -> int:
        """Drop everything; return how many frames that were."""
        count = len(self)
        self._control.clear()
        self._bulk.clear()
        self.size = 0
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class DialContext:
    """What all dialled links of a node share.

    `tls` None: plain TCP, for tests on loopback. `soon`: see `BulkTlsFactory`.
    """

    reactor: Any
    watch: LinkWatch
    hello: Callable[[], Hello]
    tls: TlsContexts | None
    rng: random.Random
    times: LinkTimes = field(default_factory=LinkTimes)
    idle_seconds_max: float = IDLE_SECONDS_MAX
    soon: Soon | None = None
    metrics: Metrics = NO_METRICS


class PeerLink:
    """The sending side towards one node."""

    logger = Logger()

    def __init__(
        self,
        context: DialContext,
        host: str,
        port: int,
        expected_node: str,
        event_received: Callable[[Event], None] = lambda event: None,
        link_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.state = PeerState.IDLE  # changes as the picture at the top shows; STOPPED by `stop`
        # Its name: another node at that address is refused. Empty: any node of this cluster. Fixed.
        self.expected_node = expected_node
        self.queue = SendQueue()  # what the transport does not take yet; emptied when the link is lost
        self.link: DialledLink | None = None  # the connection, from LinkUp until it is lost
        # Whether one end was of no cluster when the two met: only a new link can carry more.
        self._is_restricted = False
        self._capabilities = 0  # what the peer's Hello says that it can do; as `link`
        self._group_max = DEFAULT_GROUP  # the highest group that the peer may be sent frames of; as `link`
        self._context = context  # what all peers share; fixed
        self._metrics = context.metrics  # counts what is lost and what fails; fixed
        self._host = host  # where it is dialled; fixed
        self._port = port  # as `_host`
        self._event_received = event_received  # called with LinkUp and what comes back; fixed
        # Called when a link that was up is gone, and maybe with it what was sent; fixed.
        self._link_lost = link_lost
        # How long to wait before the next dial: begins again once a link is up.
        self._backoff = Backoff(context.rng.random, BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX)
        self._timer: Any = None  # the call that dials next, while `state` is WAITING
        self._connector: Any = None  # Twisted's, from a dial until its connection is lost
        # Runs work at the end of a turn of the reactor; fixed.
        self._soon = context.soon or (lambda work: context.reactor.callLater(0, work))
        self._turn_size = 0  # bytes written since `_end_turn` last ran
        self._is_turn_ending = False  # `_end_turn` is due
        # The pieces of frames that go together once this turn has ended; emptied by that, by a frame that
        # fills them up, and when the link is lost.
        self._gathered: list[Buffer] = []
        self._gathered_size = 0  # bytes of these
        self._gathered_count = 0  # frames of these
        self._is_gathering = False  # `_write_gathered` is due
        self._last_group = DEFAULT_GROUP  # the named log that last had something to say

    # --- what the cluster calls ----------------------------------------------------------

    def dial(self) -> None:
        """Connect, unless there is a link or a dial is under way."""
        if self.state is PeerState.IDLE:
            self._dial()

    def send_raft(self, envelope: Envelope) -> bool:
        """Send a Raft message; False: it was dropped, as the peer is not there or too slow."""
        return self._send(envelope.message.KIND, envelope.group, encode_envelope(envelope))

    def send(self, message: Message, *, group: int = 0) -> bool:
        """Send another message that a node may send; otherwise as `send_raft`."""
        needed = _NEEDED.get(message.KIND, 0)
        if self.state is PeerState.UP and needed & ~self._capabilities:
            self._metrics.frames_dropped(self.expected_node, 1)
            return False
        return self._send(message.KIND, group, encode(message, group=group))

    def stop(self, reason: str = "") -> None:
        """Say goodbye and dial no more."""
        self.state = PeerState.STOPPED
        if self._gathered and self.link is not None:
            self._write(self.link, self._take_gathered())  # it was sent before this
        self._drop_queue()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.link is not None:
            self.link.say_goodbye(reason)
        elif self._connector is not None:
            self._connector.disconnect()

    # --- sending ---------------------------------------------------------------------------

    def _send(self, kind: int, group: int, frame: tuple[Buffer, ...]) -> bool:
        if self.state is not PeerState.UP or self.link is None:
            self.dial()
        elif self._is_restricted:
            # One of the two was of no cluster when they met: only a new link can carry more.
            self.link.end("nothing may be said before both are of one cluster")
        elif group > self._group_max:
            pass  # a node of before many logs would take the frame for one of its only log
        elif not self.queue and self.link.is_writable and self._turn_size < TURN_SIZE_MAX:
            # What one log says alone leaves at once. Where several have something to say, each frame alone
            # would cost a record of TLS and a call of the kernel, here and there. The log that has no name
            # waits for no other: it takes along what they said.
            if group <= DEFAULT_GROUP:
                self._write(self.link, (*self._take_gathered(), *frame) if self._gathered else frame)
            elif group == self._last_group and not self._gathered and kind not in GATHERED_KINDS:
                self._write(self.link, frame)
            else:
                self._last_group = group
                self._gather(self.link, frame)
            return True
        elif kind in COALESCED_KINDS and self.queue.replace(kind, group, frame):
            self._metrics.frame_coalesced(self.expected_node)
            return True
        elif self.queue.put(kind, group, frame):
            self._drain()
            return True
        self._metrics.frames_dropped(self.expected_node, 1)
        return False

    def _drain(self) -> None:
        """Write waiting frames while the link is writable, and bulk only within this turn's share."""
        link = self.link
        assert link is not None
        if self._gathered and link.is_writable:
            self._write(link, self._take_gathered())  # it came before what is queued
        while link.is_writable:
            frame = self.queue.take(bulk_too=self._turn_size < TURN_SIZE_MAX)
            if frame is None:
                break
            self._write(link, frame)

    def _write(self, link: DialledLink, frame: tuple[Buffer, ...]) -> None:
        size = sum(map(len, frame))
        self._turn_size += size
        link.write_frame(frame, size)
        # Only a share that is used up needs the end of its turn; another may last for several turns.
        if self._turn_size >= TURN_SIZE_MAX and not self._is_turn_ending:
            self._is_turn_ending = True
            self._soon(self._end_turn)

    def _gather(self, link: DialledLink, frame: tuple[Buffer, ...]) -> None:
        """Keep a frame, behind those kept already, until this turn ends or they are many bytes."""
        self._gathered += frame
        self._gathered_size += sum(map(len, frame))
        self._gathered_count += 1
        if self._gathered_size >= GATHERED_SIZE_MAX:
            self._write(link, self._take_gathered())
        elif not self._is_gathering:
            self._is_gathering = True
            self._soon(self._write_gathered)

    def _write_gathered(self) -> None:
        self._is_gathering = False
        if self._gathered and self.link is not None:
            self._write(self.link, self._take_gathered())

    def _take_gathered(self) -> tuple[Buffer, ...]:
        gathered, self._gathered = self._gathered, []
        self._gathered_size = self._gathered_count = 0
        return tuple(gathered)

    def _drop_queue(self) -> None:
        count = self.queue.clear() + self._gathered_count
        self._take_gathered()
        if count:
            self._metrics.frames_dropped(self.expected_node, count)

    def _end_turn(self) -> None:
        self._is_turn_ending = False
        self._turn_size = 0
        if self.state is PeerState.UP:
            self._drain()

    # --- from the link ------------------------------------------------------------------------

    def link_up(self, link: DialledLink, event: LinkUp) -> None:
        """The link is up: the peer is the expected node."""
        self.state = PeerState.UP
        self.link = link
        self._is_restricted = event.agreement.is_restricted
        self._capabilities = event.hello.capabilities
        self._group_max = UINT32_MAX if self._capabilities & Capability.MANY_LOGS else DEFAULT_GROUP
        self._backoff.reset()
        self._metrics.peer_link_up(self.expected_node)
        self._event_received(event)

    def event_received(self, event: Event) -> None:
        """Something came back on the link."""
        self._event_received(event)

    def write_resumed(self) -> None:
        """The link is writable again."""
        if self.state is PeerState.UP:
            self._drain()

    def lost(self, problem: str) -> None:
        """The connection is gone, or could not be made."""
        was_up, was_idle = self.link is not None, self.link is not None and self.link.is_idle_closed
        self.link = None
        self._connector = None
        self._drop_queue()
        if self.state is PeerState.STOPPED:
            pass
        elif was_idle:
            self.state = PeerState.IDLE
        else:
            self._metrics.peer_link_failed(self.expected_node, problem)
            self._wait()
        if was_up:
            self._link_lost()

    # --- dialling --------------------------------------------------------------------------------

    def _dial(self) -> None:
        self._timer = None
        self.state = PeerState.DIALLING
        self._metrics.peer_dialled(self.expected_node)
        context = self._context
        factory: Any = ClientFactory.forProtocol(lambda: DialledLink(self, context))
        factory.noisy = False
        factory.clientConnectionFailed = lambda _, reason: self.lost(reason.getErrorMessage())
        if context.tls is not None:
            factory = BulkTlsFactory(context.tls, True, factory, clock=context.reactor, soon=context.soon)
            factory.noisy = False
        self._connector = context.reactor.connectTCP(self._host, self._port, factory, CONNECT_SECONDS_MAX)

    def _wait(self) -> None:
        self.state = PeerState.WAITING
        self._timer = self._context.reactor.callLater(self._backoff.next_seconds(), self._dial)


class DialledLink(Link):
    """One dialled connection."""

    def __init__(self, peer: PeerLink, context: DialContext) -> None:
        super().__init__(context.watch, context.times, context.tls)
        self.is_idle_closed = False  # set by `end`: this side hung up in order, so nothing failed
        self._peer = peer  # whose link this is; fixed
        self._context = context  # what all peers share; fixed
        self._sent_at = context.watch.clock.seconds()  # when the last frame was written

    def connectionMade(self) -> None:
        """Connected; with TLS the handshake is still to come."""
        # Without this a message may wait 40 ms for the acknowledgement of the one before.
        self._transport.setTcpNoDelay(True)
        super().connectionMade()

    def check_identity(self, identity: Identity) -> None:
        """Raise IdentityError unless a node was dialled."""
        if not identity.is_node:
            raise IdentityError(f"{identity.subject!r} is no node's certificate")

    def greet(self, certified: Certified | None) -> None:
        """Say Hello. The peer may still refuse this node, until its own comes."""
        self.start(
            Session(
                self._context.hello(),
                is_dialler=True,
                certified=certified,
                expected_node=self._peer.expected_node,
            )
        )

    def turn_away(self, error: ProtocolError) -> None:
        """Hang up."""
        self.problem = str(error)
        self._warn("dialled {peer}: {problem}", error, f"dialled {self.peer_name}: {error}")
        self.close()

    def write_frame(self, frame: tuple[Buffer, ...], size: int) -> None:
        """Write one whole frame of `size` bytes."""
        self._sent_at = self._context.watch.clock.seconds()
        self._write(frame, size)

    def event_received(self, event: Event) -> None:
        """Pass the event to the `PeerLink`."""
        if isinstance(event, LinkUp):
            self._peer.link_up(self, event)
        else:
            self._peer.event_received(event)

    def write_resumed(self) -> None:
        """The link is writable again."""
        self._peer.write_resumed()

    def check_deadlines(self, now: float) -> None:
        """As for every link; one that carried nothing for long says goodbye."""
        if self._peer.link is self and now - self._sent_at >= self._context.idle_seconds_max:
            self.end("nothing to say")
        super().check_deadlines(now)

    def end(self, reason: str) -> None:
        """Say goodbye; the next message dials again, without a back-off."""
        self.is_idle_closed = True
        self.say_goodbye(reason)

    def link_lost(self, reason: str) -> None:
        """The connection is gone."""
        self._peer.lost(reason)
