"""What a failed call means: the server's own error again, and what is certain about its effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from loghouse import errors
from loghouse.errors import (
    IdentityError,
    InvalidRequestError,
    LoghouseError,
    NotSupportedError,
    OutcomeUnknownError,
    PermissionDeniedError,
    PortableError,
    RequestError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from loghouse.protocol.failures import DETAILS_KEY, LEADER_KEY


class Effect(Enum):
    """What a failed call did, and so what may be done about it."""

    REFUSED = "nothing, and the same call will be refused again"
    NOTHING = "nothing; the call may be made again, there or elsewhere"
    UNKNOWN = "perhaps all it should, perhaps nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFailure:
    """A failed call. `error` is what a caller is told.

    `is_link` says that the server there was not reached, or did not answer; `leader` is the name of the
    leader as the answering node knew it, empty when it named none. `is_permanent` says that trying the same
    address again is in vain: its certificate, or what it speaks, is wrong.
    """

    error: LoghouseError
    effect: Effect
    is_link: bool = False
    leader: str = ""
    is_permanent: bool = False


class CallFailedError(PortableError):
    """A call to one server failed; whoever called decides what is done about it."""

    def __init__(self, failure: CallFailure) -> None:
        super().__init__(str(failure.error))
        self.failure = failure


_Fields = Mapping[str, str]
_Build = Callable[[str, _Fields, int], LoghouseError]


def _number(fields: _Fields, name: str) -> int:
    text = fields.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() else 0


def _plain(kind: type[LoghouseError]) -> _Build:
    return lambda text, fields, offset: kind(text)


def _numbers(kind: Callable[..., LoghouseError], *names: str, texts: Sequence[str] = ()) -> _Build:
    return lambda text, fields, offset: kind(
        *(_number(fields, name) for name in names), *(fields.get(name, "") for name in texts)
    )


def _detached(kind: type[LoghouseError], names: Set[str]) -> _Build:
    """Build an error of which the text came whole: its attributes are set, its text is the server's."""

    def build(text: str, fields: _Fields, offset: int) -> LoghouseError:
        error = kind.__new__(kind)
        Exception.__init__(error, text)
        for name in names:
            setattr(error, name, fields.get(name, ""))
        return error

    return build


def _quota_exceeded(text: str, fields: _Fields) -> LoghouseError:
    error = _detached(errors.QuotaExceededError, {"resource", "limit"})(text, fields, 0)
    assert isinstance(error, errors.QuotaExceededError)
    error.retry_milliseconds = _number(fields, "retry_milliseconds")
    return error


_REASONS: Final[Mapping[str, _Build]] = {
    "INVALID_REQUEST": lambda text, fields, offset: InvalidRequestError(
        fields.get("field", ""), fields.get("problem", "")
    ),
    "OFFSET_OUT_OF_RANGE": lambda text, fields, offset: errors.OffsetOutOfRangeError(
        offset, _number(fields, "lowest"), _number(fields, "next")
    ),
    "NOT_LEADER": lambda text, fields, offset: errors.NotLeaderError(fields.get("leader") or None),
    "UNAVAILABLE": _plain(UnavailableError),
    "OUTCOME_UNKNOWN": _plain(OutcomeUnknownError),
    "EXPECT_OFFSET": _numbers(errors.ExpectOffsetError, "expected", "actual"),
    "PRODUCER_SEQUENCE": _numbers(errors.SequenceError, "producer_id", "sequence", "expected"),
    "PRODUCER_SEQUENCE_REUSED": _numbers(errors.SequenceReusedError, "producer_id", "sequence"),
    "UNKNOWN_PRODUCER": _numbers(errors.UnknownProducerError, "producer_id"),
    "RESOURCE_EXHAUSTED": _detached(ResourceExhaustedError, {"resource", "limit"}),
    "QUOTA_EXCEEDED": lambda text, fields, offset: _quota_exceeded(text, fields),
    "DISK_FULL": _detached(errors.DiskFullError, {"resource", "limit", "directory"}),
    "PERMISSION_DENIED": _detached(PermissionDeniedError, {"subject", "action", "object"}),
    "UNAUTHENTICATED": _plain(UnauthenticatedError),
    "BAD_CERTIFICATE": _plain(IdentityError),
    "UNKNOWN_LOG": lambda text, fields, offset: errors.UnknownLogError(fields.get("log", "")),
    "MEMBERSHIP": _plain(errors.MembershipError),
    "NOT_SUPPORTED": _plain(NotSupportedError),
    "RELOAD_REFUSED": _plain(errors.ReloadRefusedError),
    "CURSOR_HELD": _numbers(errors.CursorHeldError, "milliseconds", texts=("name", "holder")),
    "CURSOR_FENCED": _numbers(errors.CursorFencedError, "epoch", "current", texts=("name",)),
    "CURSOR_REWIND": _numbers(errors.CursorRewindError, "position", "current", texts=("name",)),
    "UNKNOWN_CURSOR": _numbers(errors.UnknownCursorError, texts=("name",)),
    "TOO_MANY_CURSORS": _numbers(errors.TooManyCursorsError, "count", texts=("name",)),
}

# gRPC says UNAVAILABLE both for "never got there" and for "the link broke after the request left".
_NEVER_SENT: Final = re.compile(
    r"failed to connect|resolution failed|connection refused|handshake", re.ASCII | re.IGNORECASE
)
# What no second attempt mends: whom either side trusts, and whether there is TLS at all.
_NO_TLS_FITS: Final = re.compile(
    r"CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_REQUIRED"
    r"|CERTIFICATE_EXPIRED|CERTIFICATE_REVOKED|Hostname Verification|Peer name .* is not in peer certificate",
    re.ASCII | re.IGNORECASE,
)
CHECK_TLS: Final = "check the address, and the CA, certificate and key of this client"

_REFUSALS: Final[Mapping[str, type[RequestError]]] = {
    "UNIMPLEMENTED": NotSupportedError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "FAILED_PRECONDITION": RequestError,
    "NOT_FOUND": RequestError,
    "INVALID_ARGUMENT": RequestError,
    "OUT_OF_RANGE": RequestError,
    "PERMISSION_DENIED": RequestError,
}


def failure_of(call: Any, address: str, *, offset: int = 0) -> CallFailure:
    """Return what a failed call means.

    Args:
        call: A `grpc.aio.AioRpcError`, or anything with its `code`, `details` and `trailing_metadata`.
        address: Of the server that was called; part of the text.
        offset: What was asked for, when the call reads.
    """
    code: grpc.StatusCode = call.code()
    trailers = dict(call.trailing_metadata() or ())
    reason, fields = _error_details(trailers.get(DETAILS_KEY))
    text = f"{address}: {_plain_text(call.details() or code.name)}"
    leader = str(trailers.get(LEADER_KEY, "") or fields.get("leader", ""))
    if reason in _REASONS:
        error = _REASONS[reason](text, fields, offset)
        return CallFailure(error=error, effect=effect_of(error), leader=leader)
    status = code.name
    if status == "UNAVAILABLE" and _NO_TLS_FITS.search(call.details() or ""):
        return refused_link(IdentityError(f"{text}; {CHECK_TLS}"))
    if status == "UNAVAILABLE" and _NEVER_SENT.search(call.details() or ""):
        return unmade_call(text)
    if status == "RESOURCE_EXHAUSTED":
        exhausted = _REASONS[status](text, {"resource": "grpc", "limit": text}, offset)
        return CallFailure(error=exhausted, effect=Effect.NOTHING)
    if status in _REFUSALS:
        return CallFailure(error=_REFUSALS[status](text), effect=Effect.REFUSED)
    # UNAVAILABLE after it was sent, DEADLINE_EXCEEDED, CANCELLED, INTERNAL, UNKNOWN, ...
    is_link = reason != "INTERNAL"
    return CallFailure(error=OutcomeUnknownError(text), effect=Effect.UNKNOWN, is_link=is_link, leader=leader)


_NOTHING_DONE: Final = (UnavailableError, errors.NotLeaderError, ResourceExhaustedError)
_RETOLD: Final = (UnavailableError, OutcomeUnknownError)


def effect_of(error: LoghouseError) -> Effect:
    """Return what a call did that a server answered with this error."""
    if isinstance(error, OutcomeUnknownError):
        return Effect.UNKNOWN
    return Effect.NOTHING if isinstance(error, _NOTHING_DONE) else Effect.REFUSED


def failure_of_error(error: LoghouseError, address: str) -> CallFailure:
    """Return what an error means that a server answered in the binary protocol.

    Args:
        address: Of the server that was called; part of the text.
    """
    leader = error.leader or "" if isinstance(error, errors.NotLeaderError) else ""
    told = type(error)(f"{address}: {error}") if type(error) in _RETOLD else error
    return CallFailure(error=told, effect=effect_of(error), leader=leader)


def refused_link(error: LoghouseError) -> CallFailure:
    """Return the failure of a call to an address that will never do for this client."""
    return CallFailure(error=error, effect=Effect.NOTHING, is_link=True, is_permanent=True)


def unreached(address: str, cause: str) -> CallFailedError:
    """Return the failure of a call that never got to a server."""
    return CallFailedError(unmade_call(f"{address}: {cause}"))


def unmade_call(text: str) -> CallFailure:
    """Return the failure of a call that was never made, because of the connection."""
    return CallFailure(error=UnavailableError(text), effect=Effect.NOTHING, is_link=True)


def lost_call(text: str) -> CallFailure:
    """Return the failure of a call that was made, and to which no answer comes any more."""
    return CallFailure(error=OutcomeUnknownError(text), effect=Effect.UNKNOWN, is_link=True)


def unexpected(error: Exception, address: str) -> CallFailure:
    """Return what it means that a call failed by something that is no error of ours."""
    failure = lost_call(f"{address}: {type(error).__name__}: {error}")
    failure.error.__cause__ = error
    return failure


def leader_named(trailers: Any) -> str:
    """Return the leader that a node named in its trailers, or an empty text."""
    return str(dict(trailers or ()).get(LEADER_KEY, ""))


def _error_details(packed: object) -> tuple[str, _Fields]:
    """Return the reason and the fields of a server's ErrorInfo; empty when it sent none."""
    if not isinstance(packed, bytes):
        return "", {}
    try:
        status = status_pb2.Status.FromString(packed)
        for detail in status.details:
            found = error_details_pb2.ErrorInfo()
            if detail.Unpack(found):
                return found.reason, dict(found.metadata)
    except DecodeError:  # some proxy's trailer, not ours
        pass
    return "", {}


def _plain_text(details: str) -> str:
    """Cut gRPC's wording of a failed connection down to its cause."""
    return details.rpartition("last error: ")[2].strip().replace("\n", " ")
