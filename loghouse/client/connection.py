"""One connection of the binary protocol on asyncio: requests out, answers to whoever waits for them.

Drives `protocol.session`; TLS is the loop's. What several tasks ask in one turn of the loop leaves in one
write; who asks alone does not wait for the turn's end.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any, Final, NamedTuple

from loghouse.client.channels import FetchAnswer, Hinted
from loghouse.client.failures import (
    CallFailedError,
    CallFailure,
    Effect,
    failure_of_error,
    lost_call,
    refused_link,
    unreached,
)
from loghouse.client.following import Following
from loghouse.client.pin import CertifiedServer, ClusterPin
from loghouse.client.room import RequestRoom
from loghouse.client.target import Tls, split_address
from loghouse.client.tls import cause_of, failed_tls
from loghouse.errors import (
    CertificateError,
    ClosedError,
    IdentityError,
    LoghouseError,
    PermissionDeniedError,
    ProtocolError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    VersionError,
)
from loghouse.limits import MIB, REQUESTS_PER_CONNECTION_MAX
from loghouse.protocol.client_messages import Follow, FollowFrames, Produce
from loghouse.protocol.cursor_messages import AskCursor, ProduceWithCursor
from loghouse.protocol.entry import DEFAULT_GROUP
from loghouse.protocol.link_messages import ALPN, Hello, LinkRole
from loghouse.protocol.message import Message
from loghouse.protocol.session import (
    Answered,
    Event,
    GoodbyeReceived,
    LeaderNamed,
    LinkFailed,
    LinkUp,
    Refused,
    Session,
)

WRITE_BUFFER_SIZE: Final = 1 * MIB
CREDIT_SIZE: Final = 2 * MIB
"""Bytes that a server may send ahead of a reader."""
LIVENESS_SECONDS: Final = 10.0
"""While something is asked: a server silent for so long is pinged, and for twice as long given up."""
CLOSE_SECONDS: Final = 1.0
"""How long a server may take to end a connection that is closed here."""


def context_of(tls: Tls | None) -> ssl.SSLContext | None:
    """Return what connects with a client's certificates: TLS 1.3, the server's name checked.

    Raises:
        CertificateError: A certificate cannot be read, or does not fit its key.
    """
    if tls is None:
        return None
    ca, certificate, key = tls.pems()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A CA that another one signed may stand alone in the file, as for gRPC.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols([ALPN])
    # `ssl` takes certificate and key from files only: these are in memory, and gone with their numbers.
    own = os.memfd_create("loghouse-client", os.MFD_CLOEXEC)
    try:
        os.write(own, b"\n".join((certificate, key)))
        context.load_verify_locations(cadata=ca.decode())
        context.load_cert_chain(f"/proc/self/fd/{own}")
    except (OSError, ValueError) as error:  # ssl.SSLError is one
        raise CertificateError(f"tls: the certificates cannot be used: {cause_of(error)}") from None
    finally:
        os.close(own)
    return context


_CHANGES: Final = (Produce, ProduceWithCursor, AskCursor)
_TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake
_NEVER_SERVED: Final = (IdentityError, VersionError, UnauthenticatedError, PermissionDeniedError)
"""What a node says before it greets to whom it will never serve."""


async def dial(
    address: str,
    context: ssl.SSLContext | None,
    hinted: Hinted,
    seconds: float,
    pin: ClusterPin | None = None,
    make: type[Connection] | None = None,
) -> Connection:
    """Return a connection to a node of the one cluster that has greeted back.

    Args:
        make: The class of it, when it is not `Connection` itself.

    Raises:
        CallFailedError: There is none; nothing was asked.
    """
    loop = asyncio.get_running_loop()
    connection = (make or Connection)(address, hinted, pin or ClusterPin())
    settings: dict[str, Any] = {}
    if context is not None:
        settings = {"ssl": context, "ssl_handshake_timeout": seconds, "ssl_shutdown_timeout": CLOSE_SECONDS}
    try:
        host, port = split_address(address)
        async with asyncio.timeout(seconds):
            if context is not None:
                settings["server_hostname"] = host
            try:
                await loop.create_connection(lambda: connection, host, port, **settings)
            except RuntimeError:
                # The interpreter ends, and its threads that look up names have ended already. No other task
                # minds that this one waits now.
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                await loop.create_connection(lambda: connection, str(found[0][4][0]), port, **settings)
            await connection.up
    except TimeoutError:
        connection.abort()
        raise unreached(address, f"no connection within {seconds:g} s") from None
    except ssl.SSLError as error:
        raise CallFailedError(failed_tls(error, address)) from None
    except (OSError, ValueError) as error:  # socket.gaierror, UnicodeError, ... are such, too
        raise unreached(address, cause_of(error)) from None
    except BaseException:
        connection.abort()
        raise
    return connection


class Asked(NamedTuple):
    """A request under way."""

    stream: int
    answer: asyncio.Future[Any]
    is_append: bool  # or changes something else: without its answer nobody knows whether it was done


class Connection(asyncio.BufferedProtocol):
    """One connection to a node.

    Args:
        address: Where it leads; part of texts.
        hinted: Called with the name and the group of a leader, when a node that is not it names it.
        pin: The cluster that the node must be of.

    Attributes:
        up: Done once the node said Hello.
        lost: Done once there is no connection any more.
    """

    def __init__(self, address: str, hinted: Hinted, pin: ClusterPin) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._hinted = hinted
        self._transport: Any = None
        self._pin = pin
        self._certified: CertifiedServer | None = None
        self._session = Session(Hello(role=LinkRole.CLIENT), is_dialler=True, admit=self._admit)
        self._asked: dict[int, Asked] = {}
        self._followed: dict[int, Following] = {}
        self._room = RequestRoom(
            self._loop, REQUESTS_PER_CONNECTION_MAX
        )  # a place for each request that is open
        self._writable: asyncio.Future[None] | None = None
        self._is_flush_due = False
        self._liveness: asyncio.TimerHandle | None = None
        self._has_received = False
        self._is_pinged = False
        self._failure: LoghouseError | None = None
        self._is_permanent = False
        self._first = b""  # that came, as far as it tells what is spoken there
        self._beginning = memoryview(b"")  # where it goes
        self._is_closing = False
        self._is_greeted = False  # the node said Hello, and the connection is not lost
        self.up: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @property
    def is_up(self) -> bool:
        """Whether requests can be made: not before its Hello, and not when the node said goodbye."""
        return self._is_greeted and not (self._is_closing or self._session.asked.is_used_up)

    @property
    def hello(self) -> Hello:
        """What the node says it is, once it said that."""
        assert self._session.peer is not None
        return self._session.peer

    # --- requests ---------------------------------------------------------------------------

    async def ask(self, request: Message, group: int, seconds: float) -> Any:
        """Return the reply to a request.

        Raises:
            CallFailedError: The node refused, the connection went, or `seconds` are over.
        """
        if not self._room.take():
            await self.enter(seconds)
        asked = self.begin(request, group)
        alarm = self._loop.call_later(seconds, self._give_up, asked, seconds)
        try:
            return await asked.answer
        except asyncio.CancelledError:
            self.forget(asked)
            raise
        finally:
            alarm.cancel()

    async def enter(self, seconds: float) -> None:
        """Wait until fewer requests are open than a connection may have; `begin` or `follow` must come next.

        Raises:
            CallFailedError: None ended in so many seconds.
        """
        try:
            await self._room.wait(seconds)
        except TimeoutError:
            text = f"{REQUESTS_PER_CONNECTION_MAX} are open on the connection to {self._address}"
            error = ResourceExhaustedError("requests", f"{text}, and none ended within {seconds:g} s")
            raise CallFailedError(CallFailure(error=error, effect=Effect.NOTHING)) from None

    def begin(self, request: Message, group: int) -> Asked:
        """Send a request; its `answer` will be the reply, or a CallFailedError.

        Raises:
            CallFailedError: Nothing was sent.
        """
        stream = self._send(request, group)
        asked = Asked(stream, self._loop.create_future(), isinstance(request, _CHANGES))
        self._asked[stream] = asked
        self._flush_soon()
        return asked

    def forget(self, asked: Asked) -> None:
        """Nobody waits for this answer any more; the request is cancelled."""
        if self._asked.pop(asked.stream, None) is not None:
            self._cancel(asked.stream)
        elif asked.answer.done() and not asked.answer.cancelled():
            asked.answer.exception()  # it is known that it failed

    def follow(self, offset: int, group: int) -> Following:
        """Ask for everything from an offset on.

        Raises:
            CallFailedError: Nothing was sent.
        """
        stream = self._send(Follow(offset=offset, credit=CREDIT_SIZE), group)
        following = self._followed[stream] = Following(self, stream)
        self._flush_soon()
        return following

    def stop_following(self, stream: int) -> None:
        """Cancel a followed stream."""
        if self._followed.pop(stream, None) is not None:
            self._cancel(stream)

    def add_credit(self, stream: int, size: int) -> None:
        """Let the node send more on a followed stream."""
        if stream in self._followed:
            self._session.add_credit(stream, size)
            self._flush_soon()

    async def drain(self) -> None:
        """Return once the node takes what is written to it."""
        while self._writable is not None:
            await asyncio.shield(self._writable)

    async def close(self) -> None:
        """Say goodbye and end; whoever waits gets an error."""
        if self.is_up:
            self._failure = self._failure or ClosedError("the client was closed before the answer came")
            self._session.say_goodbye()
            self._flush()
            self._fail_everything()
        self._is_closing = True
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait({self.lost}, timeout=CLOSE_SECONDS)
            self.abort()
            await asyncio.wait({self.lost}, timeout=CLOSE_SECONDS)

    def abort(self) -> None:
        """Cut the connection."""
        self._is_closing = True
        if self._transport is not None and not self.lost.done():
            self._transport.abort()

    def _send(self, request: Message, group: int) -> int:
        """Queue a request and return its stream."""
        try:
            if not self.is_up:
                raise self._failure.anew() if self._failure else UnavailableError("the connection is closing")
            return self._session.request(request, group=group)
        except LoghouseError as error:
            self._room.give_back()
            told = _unavailable(error)
            raise CallFailedError(CallFailure(error=told, effect=Effect.NOTHING, is_link=True)) from None

    def _cancel(self, stream: int) -> None:
        self._room.give_back()
        self._session.cancel(stream)
        self._flush_soon()

    def _give_up(self, asked: Asked, seconds: float) -> None:
        if not asked.answer.done():
            self.forget(asked)
            failure = lost_call(f"{self._address}: no answer within {seconds:.3g} s")
            asked.answer.set_exception(CallFailedError(failure))

    # --- asyncio --------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Connected, the TLS handshake included."""
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_SIZE)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != ALPN:
            text = f"{self._address} does not speak {ALPN}; for a door of gRPC alone, use --transport grpc"
            error = UnavailableError(text)
            failure = CallFailure(error=error, effect=Effect.REFUSED, is_link=True, is_permanent=True)
            self._refuse_to_begin(failure)
            return
        if tls is not None:
            try:
                # Nothing is said to a node of another cluster, not even a Hello.
                self._certified = self._pin.check_certificate(tls.getpeercert() or {}, self._address)
            except IdentityError as error:
                self._refuse_to_begin(refused_link(error))
                return
        if self._is_closing:
            transport.abort()
            return
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: into their frame, if it is a large one."""
        room = self._session.frames.room()
        if not self._first:
            self._beginning = room
        return room

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes from the node."""
        self._has_received = True
        if not self._first:
            self._first, self._beginning = bytes(self._beginning[: min(nbytes, 3)]), memoryview(b"")
        session = self._session
        if self._failure is not None:
            return
        try:
            events = session.filled(nbytes)
        except ProtocolError as error:
            self._failure = error
            if not self.up.done():
                self._refuse_to_begin(self._why_ended(error))
                return
            self._flush()
            self._transport.abort()
            return
        for event in events:
            self._take(event)
        self._flush()
        if session.is_closed:
            self._is_closing = True
            self._transport.close()

    def pause_writing(self) -> None:
        """The node does not take what is written to it."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """It does again."""
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self._failure is None:
            # TLS 1.3: only now it is known what the node thinks of our certificate.
            failure = self._why_ended(error)
            self._failure, self._is_permanent = failure.error, failure.is_permanent
        self.resume_writing()
        self._is_greeted = False
        self._fail_everything()
        self.lost.set_result(None)

    def _admit(self, hello: Hello) -> None:
        self._pin.check_hello(hello.cluster_name, hello.node_name, self._certified, self._address)

    # --- from the session -------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        match event:
            case Answered():
                self._answered(event.stream, event.reply)
            case Refused():
                self._refused(event.stream, event.error)
            case LeaderNamed():
                self._hinted(event.name, event.group or DEFAULT_GROUP)  # 0: a node of before many logs
            case LinkUp():
                self._is_greeted = True
                self.up.set_result(None)
            case GoodbyeReceived():
                self._is_closing = True  # open requests are still answered
            case LinkFailed():
                self._failure = event.error
                # Before it greets, a node says so to whom it will never serve.
                self._is_permanent = isinstance(event.error, _NEVER_SERVED)

    def _answered(self, stream: int, reply: Message) -> None:
        if isinstance(reply, FollowFrames):
            following = self._followed.get(stream)
            if following is not None:
                following.received(FetchAnswer(reply.frames, reply.next_offset))
            return
        asked = self._asked.pop(stream, None)
        if asked is None:
            return
        self._room.give_back()
        if not asked.answer.done():
            asked.answer.set_result(reply)

    def _refused(self, stream: int, error: LoghouseError) -> None:
        failure = failure_of_error(error, self._address)
        following = self._followed.pop(stream, None)
        asked = self._asked.pop(stream, None)
        if following is not None:
            self._room.give_back()
            following.failed(failure)
        elif asked is not None:
            self._room.give_back()
            if not asked.answer.done():
                asked.answer.set_exception(CallFailedError(failure))

    # --- writing ----------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if self._liveness is None:
            self._watch()
        if len(self._asked) == 1:
            self._flush()  # alone: nothing else will come in this turn
        elif not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._transport.is_closing():
            return
        pieces = self._session.bytes_to_send()
        if pieces:
            self._transport.write(b"".join(pieces))

    # --- a server that vanished -----------------------------------------------------------------

    def _watch(self) -> None:
        self._has_received = self._is_pinged = False
        self._liveness = self._loop.call_later(LIVENESS_SECONDS, self._check_alive)

    def _check_alive(self) -> None:
        """Ping a node that is silent while something is asked of it; one that stays silent is gone."""
        self._liveness = None
        if not (self._asked or self._followed) or self.lost.done():
            return
        if self._is_pinged and not self._has_received:
            self._failure = UnavailableError(f"{self._address}: silent for {2 * LIVENESS_SECONDS:g} s")
            self.abort()
            return
        is_silent = not self._has_received
        self._watch()
        if is_silent:
            self._is_pinged = True
            self._session.ping(0)
            self._flush()

    # --- failing ----------------------------------------------------------------------------

    def _why_ended(self, error: BaseException | None) -> CallFailure:
        """Return the failure of a connection that ended without a reason of the node's."""
        if isinstance(error, ssl.SSLError):
            return failed_tls(error, self._address)
        if self._first.startswith(_TLS_RECORDS):
            text = f"{self._address} speaks TLS, and this client does not; give `tls` (--ca, --cert, --key)"
            return refused_link(IdentityError(text))
        if isinstance(error, _NEVER_SERVED):
            return refused_link(error)
        cause = cause_of(error) if error is not None else "the node closed the connection"
        return unreached(self._address, cause).failure

    def _refuse_to_begin(self, failure: CallFailure) -> None:
        self._failure = failure.error
        self.up.set_exception(CallFailedError(failure))
        self.up.exception()  # whoever dialled may be gone
        self._transport.abort()

    def _fail_everything(self) -> None:
        assert self._failure is not None
        self._is_closing = True
        error = self._failure if self._is_permanent else _unavailable(self._failure)
        nothing = CallFailure(
            error=error, effect=Effect.NOTHING, is_link=True, is_permanent=self._is_permanent
        )
        if not self.up.done():
            self.up.set_exception(CallFailedError(nothing))
            self.up.exception()
        unknown = lost_call(f"no answer came: {error}")
        asked, self._asked = self._asked, {}
        for one in asked.values():
            if not one.answer.done():
                one.answer.set_exception(CallFailedError(unknown if one.is_append else nothing))
        followed, self._followed = self._followed, {}
        for following in followed.values():
            following.failed(nothing)
        # Whoever waits for room finds the connection closed, and lets the next one in to find that, too.
        for _ in range(len(asked) + len(followed)):
            self._room.give_back()
        if self._liveness is not None:
            self._liveness.cancel()


def _unavailable(error: LoghouseError) -> LoghouseError:
    """Return a connection's failure as what it means for a request that was not made."""
    return error if isinstance(error, UnavailableError) else UnavailableError(str(error))
