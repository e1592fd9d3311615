"""The gRPC server's way through the node's gate (`node.gate`): who calls, and how every failure is answered.

Each call of each service is an `Rpc` in a table; `handlers_of` turns a table into what grpc serves. To grpc
every request is a stream, so a call begins with its headers: who calls and whether they may is asked before
grpc is asked for the request. That comes as raw bytes, and a malformed one is answered by us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.text_format import MessageToString
from grpc import aio
from twisted.logger import Logger

from loghouse.api.gated_call import GatedCall
from loghouse.api.status import answer_of
from loghouse.api.v1 import log_pb2
from loghouse.auth.identity import Identity, IdentityReader
from loghouse.auth.policy import Action
from loghouse.errors import (
    IdentityError,
    InvalidRequestError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    short_of,
)
from loghouse.limits import IDENTITIES_MAX, MESSAGE_SECONDS
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.net.callers import Caller, Callers
from loghouse.node.gate import Gate, report_unexpected
from loghouse.protocol.checking import PARSED_SIZE_MAX, check_fields
from loghouse.protocol.failures import LEADER_KEY
from loghouse.shares import Shares

LAST_WORDS_SECONDS: Final = 0.5  # for the refusal to reach a client whose connection then ends


class Shape(Enum):
    """How many messages go each way."""

    UNARY = "unary"
    SERVER_STREAM = "server stream"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Rpc:
    """One call: its request, the action it needs, and what does it.

    `behaviour` is awaited with a `Call` (and the request, unless `shape` is STREAM). A unary one returns
    the serialized response; the others write theirs through the call. `action` None means that any
    permission at all is enough. `check` is awaited before a request is parsed: it raises when that would
    take the loop's time.
    """

    request: type[Message]
    action: Action | None
    behaviour: Callable[..., Awaitable[bytes | None]]
    shape: Shape = Shape.UNARY
    check: Callable[[Call, bytes], Awaitable[None]] | None = None

    @property
    def changes_things(self) -> bool:
        """Whether it is an act of administration: all that only administrators may do, but looking."""
        return self.action in (Action.ADMIN, Action.MANAGE) and self.request is not log_pb2.StatusRequest


class Guard:
    """Says who calls; whether they may is up to the gate.

    Without TLS there are no certificates: then every caller is `anonymous`, and what it may do is up to the
    policy like everybody else's.
    """

    logger = Logger()

    def __init__(
        self,
        gate: Gate,
        *,
        anonymous: str = "",
        shares: Shares,
        callers: Callers,
        message_seconds: float = MESSAGE_SECONDS,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        """Guard calls.

        Args:
            gate: Decides what a caller may do; it asks of every call whether the certificate still counts.
            anonymous: Who callers are without TLS; empty when every caller needs a certificate.
            shares: Counts what subjects hold.
            callers: The connections that calls come on.
            message_seconds: How long a call's only request may take to come.
            metrics: Told of refusals.
        """
        self._metrics = metrics
        self.gate = gate
        self.shares = shares
        self.callers = callers
        self.message_seconds = message_seconds
        self._identities = IdentityReader(IDENTITIES_MAX)
        self._anonymous = Identity(subject=anonymous, expires_at=float("inf")) if anonymous else None
        self.is_stopping = False
        self.turned_away_count = 0

    def check_open(self, rpc: Rpc) -> None:
        """Raise once the server is about to stop: what never began can be asked of another node.

        Calls that need no permission (health, reflection, servers) are answered to the last.

        Raises:
            UnavailableError: It is about to close.
        """
        if self.is_stopping and rpc.action is not None:
            self.turned_away_count += 1
            raise UnavailableError("the node is stopping; nothing was done, try another node")

    def identify(self, context: Any) -> tuple[Identity, Caller | None]:
        """Return who makes this call, and on which connection of the one port, if it came through that.

        Whether the certificate still counts is asked with every permission.

        Raises:
            UnauthenticatedError, IdentityError: There is no certificate, or no single meaning in it.
            ResourceExhaustedError: The caller has too many connections; this one ends.
        """
        caller = self.callers.find(context.peer())
        if caller is None:
            return self._identity_of(context), None
        if caller.identity is None:
            # The first call on it; a connection is of one certificate as long as it lasts.
            try:
                identity = self._identity_of(context)
                caller.identify(identity, has_rule=self.gate.authorizer.permits_anything(identity.subject))
            except (UnauthenticatedError, IdentityError, ResourceExhaustedError):
                asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, caller.drop)
                raise
        assert caller.identity is not None
        return caller.identity, caller

    def _identity_of(self, context: Any) -> Identity:
        if self._anonymous is not None:
            return self._anonymous
        auth_context = context.auth_context()
        version = next(iter(auth_context.get("ssl_tls_version", ())), b"TLSv1.3")
        if version != b"TLSv1.3":
            # grpcio cannot set a lowest version, so an old one gets through the handshake, but no further.
            raise UnauthenticatedError(f"{version.decode(errors='replace')} is too old; TLS 1.3 is needed")
        return self._identities.read(auth_context)

    def place_of(self, context: Any) -> str:
        """Return from where a call comes."""
        peer = str(context.peer())
        caller = self.callers.find(peer)
        return caller.place if caller is not None else peer

    def report(self, error: BaseException, method: str, subject: str, where: str = "") -> None:
        """Count a refusal, and write it down; `subject` is empty when nobody knows whose call it was."""
        self._metrics.request_refused(type(error).__name__)
        self.gate.audit.refused(error, who=subject, what=method, where=where)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError | IdentityError):
            self.logger.warn(
                "refused {method} of {peer}: {error}",
                method=method,
                peer=subject or "a stranger",
                error=error,
            )


class Call(GatedCall):
    """One call under way: its caller, and its messages. Whoever makes one ends it.

    `read` returns None at the client's half-close; `write` waits for flow control.
    """

    __slots__ = ("_caller", "_context", "_guard", "_rpc")

    def __init__(self, guard: Guard, rpc: Rpc, context: Any) -> None:
        """Begin a call: nothing of its request was read yet.

        Raises:
            PermissionDeniedError: There is nothing that the caller may do with this call.
            ResourceExhaustedError: The caller has its share of calls.
            UnauthenticatedError, IdentityError: As `Guard.identify`.
        """
        self._guard = guard
        self._rpc = rpc
        self._context = context
        identity, self._caller = guard.identify(context)
        super().__init__(guard.gate, guard.shares, identity, rpc.action)
        if self._caller is not None:
            self._caller.call_begun()

    def end(self) -> None:
        """It is answered, or nobody waits for the answer."""
        super().end()
        if self._caller is not None:
            self._caller.call_ended()

    @property
    def where(self) -> str:
        """From where the call comes."""
        return self._guard.place_of(self._context)

    def name_leader(self, name: str) -> None:
        """Tell the caller in the trailers which node leads, whether the call succeeds or not."""
        self._context.set_trailing_metadata(((LEADER_KEY, name),))

    def trace_texts(self) -> tuple[str, str]:
        """Return what the call's metadata has."""
        sent = dict(self._context.invocation_metadata() or ())
        return sent.get("traceparent", ""), sent.get("tracestate", "")

    async def receive(self) -> Any:
        """Return the request of a call that has only one.

        Raises:
            InvalidRequestError: It did not come, not in time, or is none of this call's kind.
        """
        try:
            async with asyncio.timeout(self._guard.message_seconds):
                message = await self._read_message()
        except TimeoutError:
            seconds = self._guard.message_seconds
            raise InvalidRequestError("request", f"was not complete within {seconds:g} s") from None
        if message is aio.EOF:
            raise InvalidRequestError("request", "is missing; the call ended without one")
        self._delivered(message)
        if self.quotas.is_used:
            await self.wait(self.received(len(message)))
        return await self.parse(message)

    async def _read_message(self) -> Any:
        caller = self._caller
        if caller is None:
            return await self._context.read()
        caller.read_begun()
        try:
            return await self._context.read()
        finally:
            caller.read_ended()

    def _delivered(self, message: bytes) -> None:
        if self._caller is not None:
            self._caller.delivered(len(message))

    async def read(self) -> Any:
        """Return the next request, or None when there will be no more."""
        message = await self.read_raw()
        return None if message is None else await self.parse(message)

    async def read_raw(self) -> bytes | None:
        """Return the next request's bytes, for `parse`, or None when there will be no more.

        Raises:
            UnavailableError: The node is stopping: this message and those after it were not looked at.
        """
        message = await self._read_message()
        if message is aio.EOF:
            return None
        self._guard.check_open(self._rpc)
        self._delivered(message)
        if self.quotas.is_used:
            await self.wait(self.received(len(message)))
        delivered: bytes = message
        return delivered

    async def parse(self, message: bytes) -> Any:
        """Return the parsed request.

        Raises:
            InvalidRequestError: It is none of this call's kind, or has more in it than one may have.
        """
        if len(message) > PARSED_SIZE_MAX:
            if self._rpc.check is not None:
                await self._rpc.check(self, message)
            else:
                check_fields(message)
        return parse(self._rpc.request, message)

    async def write(self, response: bytes) -> None:
        """Send a serialized response; returns when flow control took it."""
        await self._context.write(response)
        if self.quotas.is_used:
            self.sent(len(response))


def parse(kind: type[Message], message: bytes) -> Any:
    """Return the parsed request.

    Raises:
        InvalidRequestError: It is none of that kind.
    """
    try:
        return kind.FromString(message)
    except DecodeError:
        raise InvalidRequestError("request", f"is not a serialized {kind.DESCRIPTOR.name}") from None
    except MemoryError as error:
        raise short_of(error) or error from None


def handlers_of(guard: Guard, service: str, rpcs: Mapping[str, Rpc]) -> Any:
    """Return grpc's generic handler for one service, every call of it behind the guard."""
    handlers = {}
    for name, rpc in rpcs.items():
        answer = _answer(guard, rpc, f"/{service}/{name}")
        # No (de)serializers: both ways are bytes. And no unary requests: grpc would wait for them first.
        if rpc.shape is Shape.UNARY:
            handlers[name] = grpc.stream_unary_rpc_method_handler(answer)
        else:
            handlers[name] = grpc.stream_stream_rpc_method_handler(answer)
    return grpc.method_handlers_generic_handler(service, handlers)


def _answer(guard: Guard, rpc: Rpc, method: str) -> Callable[[Any, Any], Awaitable[bytes | None]]:
    is_stream = rpc.shape is Shape.STREAM

    async def answer(_: Any, context: Any) -> bytes | None:
        call = None
        try:
            guard.check_open(rpc)
            call = Call(guard, rpc, context)
            if is_stream:
                return await rpc.behaviour(call)
            request = await call.receive()
            if rpc.changes_things:
                response = await _audited(guard, call, rpc, method, request)
            else:
                response = await rpc.behaviour(call, request)
            if response is not None and call.quotas.is_used:
                call.sent(len(response))
            return response
        except Exception as error:
            await _refuse(guard, context, method, error, call.subject if call is not None else "")
        finally:
            if call is not None:
                call.end()
        return None

    return answer


async def _audited(guard: Guard, call: Call, rpc: Rpc, method: str, request: Any) -> bytes | None:
    """Carry out an act of administration, and tell how it ended; a refusal is told as such elsewhere."""
    told = f"{method} {MessageToString(request, as_one_line=True)}".strip()
    about = {"who": call.subject, "what": told, "where": call.where}
    audit = guard.gate.audit
    try:
        response = await rpc.behaviour(call, request)
    except (PermissionDeniedError, UnauthenticatedError, IdentityError):
        raise
    except BaseException as error:
        audit.done(**about, outcome=f"{type(error).__name__.removesuffix('Error')}: {error}")
        raise
    audit.done(**about)
    return response


async def _refuse(guard: Guard, context: Any, method: str, error: Exception, subject: str) -> None:
    if context.cancelled() or isinstance(error, aio.BaseError):
        # The client is gone or the server stopped, which is why a write or read failed; nobody hears
        # an answer.
        raise asyncio.CancelledError
    answer = answer_of(error)
    if answer.is_internal:
        report_unexpected(method, error)
    where = guard.place_of(context)
    guard.report(error, method, getattr(error, "subject", "") or subject, where)
    await context.abort(answer.code, answer.text, (*context.trailing_metadata(), *answer.trailers))
