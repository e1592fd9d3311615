"""How errors look to a gRPC client: one table from error class to status, and `google.rpc` details."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from loghouse import errors
from loghouse.errors import LoghouseError
from loghouse.protocol.failures import DETAILS_KEY, FAILURE_FIELDS

DOMAIN: Final = "loghouse"
TEXT_SIZE_MAX: Final = 1024  # trailers share GRPC_METADATA_SIZE_MAX with what proxies add

_Metadata = Callable[[Any], Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class _Row:
    """How one class of errors is answered.

    `metadata` makes ErrorInfo's metadata of the error; None: the details that the binary protocol tells, too.
    """

    code: StatusCode
    reason: str
    metadata: _Metadata | None = None


_TABLE: Final[Mapping[type[LoghouseError], _Row]] = {
    errors.InvalidRequestError: _Row(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    errors.OffsetOutOfRangeError: _Row(
        StatusCode.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE", lambda e: _bounds(e.lowest, e.next_offset)
    ),
    errors.NotLeaderError: _Row(
        StatusCode.UNAVAILABLE, "NOT_LEADER", lambda e: {"leader": e.leader} if e.leader else {}
    ),
    errors.UnavailableError: _Row(StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    # Not UNAVAILABLE: stock retry policies would append the record a second time.
    errors.OutcomeUnknownError: _Row(StatusCode.ABORTED, "OUTCOME_UNKNOWN"),
    errors.ExpectOffsetError: _Row(StatusCode.FAILED_PRECONDITION, "EXPECT_OFFSET"),
    errors.SequenceError: _Row(StatusCode.FAILED_PRECONDITION, "PRODUCER_SEQUENCE"),
    errors.SequenceReusedError: _Row(StatusCode.FAILED_PRECONDITION, "PRODUCER_SEQUENCE_REUSED"),
    errors.UnknownProducerError: _Row(StatusCode.FAILED_PRECONDITION, "UNKNOWN_PRODUCER"),
    errors.ResourceExhaustedError: _Row(StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"),
    errors.QuotaExceededError: _Row(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"),
    errors.DiskFullError: _Row(
        StatusCode.RESOURCE_EXHAUSTED,
        "DISK_FULL",
        lambda e: {"resource": e.resource, "limit": e.limit, "directory": e.directory},
    ),
    errors.PermissionDeniedError: _Row(StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
    errors.UnauthenticatedError: _Row(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    errors.IdentityError: _Row(StatusCode.UNAUTHENTICATED, "BAD_CERTIFICATE"),
    errors.UnknownLogError: _Row(StatusCode.NOT_FOUND, "UNKNOWN_LOG", lambda e: {"log": e.name}),
    errors.UnknownServiceError: _Row(StatusCode.NOT_FOUND, "UNKNOWN_SERVICE", lambda e: {"service": e.name}),
    errors.MembershipError: _Row(StatusCode.FAILED_PRECONDITION, "MEMBERSHIP"),
    errors.NotSupportedError: _Row(StatusCode.UNIMPLEMENTED, "NOT_SUPPORTED"),
    errors.ReloadRefusedError: _Row(StatusCode.FAILED_PRECONDITION, "RELOAD_REFUSED"),
    errors.CursorHeldError: _Row(StatusCode.FAILED_PRECONDITION, "CURSOR_HELD"),
    errors.CursorFencedError: _Row(StatusCode.FAILED_PRECONDITION, "CURSOR_FENCED"),
    errors.CursorRewindError: _Row(StatusCode.FAILED_PRECONDITION, "CURSOR_REWIND"),
    errors.UnknownCursorError: _Row(StatusCode.NOT_FOUND, "UNKNOWN_CURSOR"),
    errors.TooManyCursorsError: _Row(StatusCode.FAILED_PRECONDITION, "TOO_MANY_CURSORS"),
}

# What went wrong inside is for the node's diagnostics, not for its clients.
_INTERNAL: Final = _Row(StatusCode.INTERNAL, "INTERNAL")
_INTERNAL_TEXT: Final = "the node failed to answer; its diagnostics say why"


@dataclass(frozen=True, slots=True)
class Answer:
    """A status as grpc wants it: code, text, and the trailers that hold the `google.rpc.Status`."""

    code: StatusCode
    text: str
    trailers: tuple[tuple[str, bytes], ...]

    @property
    def is_internal(self) -> bool:
        """Whether the error was not meant to reach a client, so that it belongs into the diagnostics."""
        return bool(self.code == StatusCode.INTERNAL)


@dataclass(frozen=True, slots=True)
class Told:
    """What a client is told of an error, whatever carries it: gRPC's code, a reason, details and a text."""

    code: StatusCode
    reason: str
    text: str
    details: Mapping[str, object]


def told_of(error: BaseException) -> Told:
    """Return what a client is told about any exception."""
    row, details = _row_of(error)
    text = _INTERNAL_TEXT if row is _INTERNAL else _shortened(str(error))
    return Told(row.code, row.reason, text, details)


def answer_of(error: BaseException) -> Answer:
    """Return what a client is told about any exception; never UNKNOWN."""
    told = told_of(error)
    metadata = {key: _shortened(str(value)) for key, value in told.details.items()}
    status = status_pb2.Status(code=told.code.value[0], message=told.text)
    _add_detail(status, error_details_pb2.ErrorInfo(reason=told.reason, domain=DOMAIN, metadata=metadata))
    if isinstance(error, errors.QuotaExceededError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(error.retry_milliseconds)
        _add_detail(status, retry)
    if isinstance(error, errors.OffsetOutOfRangeError):
        # As the original said it; its clients show this text.
        message = f"The requested offset is outside the log's range: {error.offset}"
        _add_detail(status, error_details_pb2.LocalizedMessage(locale="en-US", message=message))
    return Answer(told.code, told.text, ((DETAILS_KEY, status.SerializeToString()),))


def _row_of(error: BaseException) -> tuple[_Row, Mapping[str, object]]:
    """Return how an error is answered, and ErrorInfo's metadata."""
    for kind in type(error).__mro__:
        row = _TABLE.get(kind)
        if row is not None and row.metadata is not None:
            return row, row.metadata(error)
        if row is not None:
            numbers, texts = FAILURE_FIELDS[kind]
            return row, {name: getattr(error, name) for name in (*numbers, *texts)}
    return _INTERNAL, {}


def _bounds(lowest: int, next_offset: int) -> dict[str, int]:
    """`highest` is left out when there is no record."""
    bounds = {"lowest": lowest, "next": next_offset}
    if next_offset > lowest:
        bounds["highest"] = next_offset - 1
    return bounds


def _shortened(text: str) -> str:
    return text if len(text) <= TEXT_SIZE_MAX else text[: TEXT_SIZE_MAX - 3] + "..."


def _add_detail(status: Any, detail: Any) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
