"""A small Twisted client of the binary protocol: one connection, many requests in flight, Deferreds.

    connection = await connect(reactor, "node-1.example", 8400, tls)
    reply = await connection.produce(encode_batch(records), record_count=len(records))
    fetched = await connection.fetch(reply.base_offset)

It tries nothing again: the caller decides what to do about an `OutcomeUnknownError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from loghouse.auth.certificates import load_certificates, pem_of, read_issued, read_pem
from loghouse.errors import (
    LoghouseError,
    OutcomeUnknownError,
    ProtocolError,
    UnavailableError,
)
from loghouse.limits import GREETING_SECONDS, MIB
from loghouse.net.tls import ALPN
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Describe,
    DescribeLog,
    DescribeLogReply,
    DescribeLogs,
    DescribeLogsReply,
    DescribeReply,
    Fetch,
    FetchReply,
    FetchState,
    FetchStateReply,
    FindOffset,
    FindOffsetReply,
    Follow,
    FollowFrames,
    Produce,
    ProduceReply,
    RegisterProducer,
)
from loghouse.protocol.entry import DEFAULT_GROUP, Buffer, Entry, crc32c, decode_entries, frame_seed
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.message import Message
from loghouse.protocol.range_messages import Read, ReadReply
from loghouse.protocol.record_range import RecordRange
from loghouse.protocol.session import Answered, Event, LinkFailed, LinkUp, Refused, Session
from loghouse.runtime.bridge import soon_of
from loghouse.runtime.bulk_tls import BulkTlsFactory, write_at_once
from loghouse.runtime.sockets import use_large_buffers

CREDIT_SIZE_DEFAULT: Final = 4 * MIB

OnFrames = Callable[[FollowFrames], "Deferred[None] | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """PEM files: whom to trust, and who this client is."""

    ca: Path
    certificate: Path
    key: Path

    def options(self, host: str) -> Any:
        """Return Twisted's connection creator for a server of this name; TLS 1.3 only."""
        authorities = load_certificates(read_pem(self.ca), self.ca)
        roots = [Certificate.loadPEM(pem_of([authority])) for authority in authorities]
        issued = read_issued(self.certificate, self.key)
        own = PrivateCertificate.loadPEM(issued.certificate_pem + issued.key_pem)
        return optionsForClientTLS(
            host,
            trustRoot=trustRootFromCertificates(roots),
            clientCertificate=own,
            acceptableProtocols=[ALPN],
            extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_3},
        )


def connect(reactor: Any, host: str, port: int, tls: ClientTls | None) -> Deferred[BinaryConnection]:
    """Connect and greet; `tls` None is for a node configured as plaintext, on loopback.

    Raises (as failure):
        ProtocolError: The node refused this client, or is none.
        UnavailableError: There is no connection to it.
    """
    endpoint: Any = HostnameEndpoint(reactor, host, port)
    factory: Any = Factory.forProtocol(lambda: BinaryConnection(is_tls=tls is not None))
    if tls is None:
        connected: Deferred[Any] = endpoint.connect(factory)
    else:
        secured = BulkTlsFactory(tls.options(host), True, factory, clock=reactor, soon=soon_of(reactor))
        connected = endpoint.connect(secured)
        connected.addCallback(lambda wrapper: wrapper.wrappedProtocol)
    connected.addErrback(_unreachable, f"{host}:{port}")
    connected.addCallback(lambda connection: connection.when_up())
    return connected.addTimeout(GREETING_SECONDS, reactor, onTimeoutCancel=_too_late)


def _unreachable(failure: Failure, address: str) -> Any:
    if failure.check(LoghouseError):
        return failure
    raise UnavailableError(f"{address}: {failure.getErrorMessage()}; is a node listening there?")


def _too_late(_: object, seconds: float) -> Any:
    raise UnavailableError(f"the node did not say Hello within {seconds:g} s")


@dataclass(slots=True)
class _PendingRequest:
    """A request under way: fires `answer` in the end, and a followed stream calls `on_frames` before."""

    answer: Deferred[Any]
    is_produce: bool = False
    on_frames: OnFrames | None = None


@implementer(IHandshakeListener)
class BinaryConnection(Protocol):
    """One connection to a node. Every Deferred may be cancelled; that cancels the request."""

    def __init__(self, *, is_tls: bool) -> None:
        self._is_tls = is_tls  # fixed
        self._session: Session | None = None  # the protocol's side; None until TLS is done
        self._pending: dict[int, _PendingRequest] = {}  # the requests under way, by stream
        self._up: Deferred[BinaryConnection] | None = None  # fires at Hello, or if there will be none
        self._lost: LoghouseError | None = None  # why nothing can be asked any more; None while it can
        self._closed: list[Deferred[None]] = []  # fire when the connection is gone
        self._is_receiving = False  # bytes of the node are being worked on; what that asks leaves together
        self.hello: Hello | None = None  # what the node said of itself; None before

    # --- requests ------------------------------------------------------------------

    def produce(
        self,
        batch: Buffer,
        *,
        record_count: int,
        codec: int = 0,
        expect_offset: int | None = None,
        producer_id: int = 0,
        producer_sequence: int = 0,
        timeout_milliseconds: int = 0,
        group: int = DEFAULT_GROUP,
    ) -> Deferred[ProduceReply]:
        """Append a serialized RecordBatch; its checksum is made here and stays with it.

        Raises (as failure):
            RequestError: As the node says. OutcomeUnknownError: The connection went first.
        """
        request = Produce(
            batch=batch,
            record_count=record_count,
            attributes=codec,
            batch_crc=crc32c(batch),
            expect_offset=expect_offset,
            producer_id=producer_id,
            producer_sequence=producer_sequence,
            timeout_milliseconds=timeout_milliseconds,
        )
        return self._ask(request, group, is_produce=True)

    def fetch(self, offset: int, size_max: int = 0, *, group: int = DEFAULT_GROUP) -> Deferred[FetchReply]:
        """Read whole entry frames from the one that holds `offset` on; see `entries`."""
        return self._ask(Fetch(offset=offset, size_max=size_max), group)

    def follow(
        self,
        offset: int,
        on_frames: OnFrames,
        *,
        credit_size: int = CREDIT_SIZE_DEFAULT,
        group: int = DEFAULT_GROUP,
    ) -> Deferred[None]:
        """Call `on_frames` with everything from `offset` on, as it comes, until cancelled or refused.

        The node sends at most `credit_size` bytes ahead; what `on_frames` is done with (a Deferred it returns
        has fired) is asked for again. An exception in it ends the stream with that.
        """
        return self._ask(Follow(offset=offset, credit=credit_size), group, on_frames=on_frames)

    def read(self, wanted: RecordRange, *, group: int = DEFAULT_GROUP) -> Deferred[ReadReply]:
        """Read some of a range of records, forwards or backwards, all or by key and header; see `Read`.

        Raises (as failure):
            InvalidRequestError: The range cannot be meant.
            NotSupportedError: The node is of a version without such reads.
        """
        return self._ask(Read.of(wanted), group)

    def bounds(self, *, group: int = DEFAULT_GROUP) -> Deferred[BoundsReply]:
        """Ask for the readable range."""
        return self._ask(Bounds(), group)

    def find_offset(self, timestamp: int, *, group: int = DEFAULT_GROUP) -> Deferred[FindOffsetReply]:
        """Ask for the first offset appended at or after a time, in microseconds since the epoch."""
        return self._ask(FindOffset(timestamp=timestamp), group)

    def register_producer(self, *, group: int = DEFAULT_GROUP) -> Deferred[int]:
        """Ask for a producer id: batches that carry it, and a sequence from 0, are appended exactly once."""
        return self._ask(RegisterProducer(), group).addCallback(lambda reply: reply.producer_id)

    def describe(self) -> Deferred[DescribeReply]:
        """Ask for the cluster, its logs and its nodes."""
        return self._ask(Describe(), DEFAULT_GROUP)

    def describe_log(self, name: str) -> Deferred[DescribeLogReply]:
        """Ask where a log is, who leads it, and its group, which the calls above take."""
        return self._ask(DescribeLog(name=name), DEFAULT_GROUP)

    def read_state(self, offset: int, *, group: int = DEFAULT_GROUP) -> Deferred[FetchStateReply]:
        """Ask for the log's replicated state before the entry that holds an offset, for a backup."""
        return self._ask(FetchState(offset=offset), group)

    def describe_logs(self, after: str = "", count_max: int = 0) -> Deferred[DescribeLogsReply]:
        """Ask for the logs whose names come after one; the next page begins behind the answer's `next`."""
        return self._ask(DescribeLogs(after=after, count_max=count_max), DEFAULT_GROUP)

    def entries(self, frames: Buffer, *, group: int = DEFAULT_GROUP) -> Iterator[Entry]:
        """Return the checked entries of what was fetched.

        Raises:
            EntryError: A frame is damaged, or not of this cluster's log.
        """
        assert self.hello is not None
        return decode_entries(frame_seed(self.hello.cluster_uuid, group), frames)

    def close(self) -> Deferred[None]:
        """Say goodbye; fires when the connection is gone. Open requests are answered first."""
        closed: Deferred[None] = Deferred()
        if self._lost is not None:
            closed.callback(None)
            return closed
        self._closed.append(closed)
        for stream, pending in list(self._pending.items()):
            if pending.on_frames is not None:
                self._cancel(stream)
        if self._session is not None:
            self._session.say_goodbye()
            self._flush()
        else:
            self._drop()
        return closed

    def abort(self) -> None:
        """Cut the connection."""
        self._drop(abort=True)

    def _ask(
        self, request: Message, group: int, *, is_produce: bool = False, on_frames: OnFrames | None = None
    ) -> Deferred[Any]:
        if self._session is None or self._lost is not None:
            return fail(self._lost or UnavailableError("not connected yet"))
        try:
            stream = self._session.request(request, group=group)
        except LoghouseError as error:
            return fail(error)
        answer: Deferred[Any] = Deferred(lambda _: self._cancel(stream))
        self._pending[stream] = _PendingRequest(answer, is_produce, on_frames)
        self._flush()
        return answer

    def _cancel(self, stream: int) -> None:
        self._pending.pop(stream, None)
        if self._session is not None and self._lost is None:
            self._session.cancel(stream)
            self._flush()

    # --- from the session ------------------------------------------------------------

    def _event_received(self, event: Event) -> None:
        match event:
            case Answered():
                self._answered(event)
            case LinkUp():
                self.hello = event.hello
                up, self._up = self._up, None
                if up is not None:
                    up.callback(self)
            case Refused():
                pending = self._pending.pop(event.stream, None)
                if pending is not None:
                    pending.answer.errback(event.error)
            case LinkFailed():
                self._lost = event.error

    def _answered(self, event: Answered) -> None:
        pending = self._pending.get(event.stream)
        if pending is None:
            return
        if pending.on_frames is None or not isinstance(event.reply, FollowFrames):
            del self._pending[event.stream]
            pending.answer.callback(event.reply)
            return
        size = len(event.reply.frames)
        taken = maybeDeferred(pending.on_frames, event.reply)
        taken.addCallback(lambda _: self._give_credit(event.stream, size))
        taken.addErrback(self._follow_failed, event.stream)

    def _give_credit(self, stream: int, size: int) -> None:
        if self._session is not None and self._lost is None:
            self._session.add_credit(stream, size)
            self._flush()

    def _follow_failed(self, failure: Failure, stream: int) -> None:
        pending = self._pending.get(stream)
        if pending is not None:
            self._cancel(stream)
            pending.answer.errback(failure)

    # --- Twisted -------------------------------------------------------------------------

    def when_up(self) -> Deferred[BinaryConnection]:
        """Fire with this connection once the node said Hello."""
        up: Deferred[BinaryConnection] = Deferred(lambda _: self.abort())
        if self._lost is not None:
            up.errback(self._lost)
        elif self.hello is not None:
            up.callback(self)
        else:
            self._up = up
        return up

    def connectionMade(self) -> None:
        """Connected; with TLS the handshake is still to come."""
        tcp: Any = self.transport
        tcp.setTcpNoDelay(True)
        if not self._is_tls:
            self._greet()

    def handshakeCompleted(self) -> None:
        """TLS is done on this side; the node's Hello will tell whether on its side, too."""
        transport: Any = self.transport
        use_large_buffers(transport)
        if transport.negotiatedProtocol != ALPN:
            self._lost = ProtocolError("the port does not speak loghouse/1; is it gRPC's own door?")
            self._drop(abort=True)
            return
        self._greet()

    def _greet(self) -> None:
        self._session = Session(Hello(role=LinkRole.CLIENT), is_dialler=True)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the node."""
        session = self._session
        if session is None:
            return
        frame_count = session.frame_count
        self._is_receiving = True  # what the answers make their receivers ask leaves together
        try:
            events = session.receive(data)
            if session.frame_count == frame_count:
                return  # in the middle of a large frame
            for event in events:
                self._event_received(event)
        except ProtocolError as error:
            self._lost = error
        finally:
            self._is_receiving = False
        self._flush()
        write_at_once(self.transport, ())

    def _flush(self) -> None:
        session = self._session
        transport: Any = self.transport
        if session is None or not self.connected or self._is_receiving:
            return
        pieces = session.bytes_to_send()
        if pieces:
            transport.writeSequence(pieces)
        if session.is_closed:
            self._drop()

    def _drop(self, *, abort: bool = False) -> None:
        transport: Any = self.transport
        if not self.connected:
            return
        if abort:
            transport.abortConnection()
        else:
            transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: whoever waits is told."""
        self.connected = 0
        if self._lost is None:
            self._lost = UnavailableError(f"the connection is gone: {reason.getErrorMessage()}")
        pending, self._pending = self._pending, {}
        for one in pending.values():
            if one.is_produce:
                text = f"the connection went before the answer came: {self._lost}"
                one.answer.errback(OutcomeUnknownError(text))
            else:
                one.answer.errback(self._lost)
        up, self._up = self._up, None
        if up is not None:
            up.errback(self._lost)
        for closed in self._closed:
            closed.callback(None)
