"""How errors look to a gRPC client: one table from error class to status, and `google.rpc` details."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from loghouse import errors
from loghouse.errors import LoghouseError
from loghouse.protocol.failures import DETAILS_KEY

DOMAIN: Final = "loghouse"
TEXT_SIZE_MAX: Final = 1024  # trailers share GRPC_METADATA_SIZE_MAX with what proxies add

_Metadata = Callable[[Any], Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class _Row:
    """How one class of errors is answered. `metadata` makes ErrorInfo's metadata of the error."""

    code: grpc.StatusCode
    reason: str
    metadata: _Metadata = lambda _: {}


def _attributes(*names: str) -> _Metadata:
    return lambda error: {name: getattr(error, name) for name in names}


_TABLE: Final[Mapping[type[LoghouseError], _Row]] = {
    errors.InvalidRequestError: _Row(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", _attributes("field", "problem")
    ),
    errors.OffsetOutOfRangeError: _Row(
        grpc.StatusCode.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE", lambda e: _bounds(e.lowest, e.next_offset)
    ),
    errors.NotLeaderError: _Row(
        grpc.StatusCode.UNAVAILABLE, "NOT_LEADER", lambda e: {"leader": e.leader} if e.leader else {}
    ),
    errors.UnavailableError: _Row(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    # Not UNAVAILABLE: stock retry policies would append the record a second time.
    errors.OutcomeUnknownError: _Row(grpc.StatusCode.ABORTED, "OUTCOME_UNKNOWN"),
    errors.ExpectOffsetError: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, "EXPECT_OFFSET", _attributes("expected", "actual")
    ),
    errors.SequenceError: _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "PRODUCER_SEQUENCE",
        _attributes("producer_id", "sequence", "expected"),
    ),
    errors.SequenceReusedError: _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "PRODUCER_SEQUENCE_REUSED",
        _attributes("producer_id", "sequence"),
    ),
    errors.UnknownProducerError: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, "UNKNOWN_PRODUCER", _attributes("producer_id")
    ),
    errors.ResourceExhaustedError: _Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED", _attributes("resource", "limit")
    ),
    errors.DiskFullError: _Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL", _attributes("resource", "limit", "directory")
    ),
    errors.PermissionDeniedError: _Row(
        grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", _attributes("subject", "action", "object")
    ),
    errors.UnauthenticatedError: _Row(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    errors.IdentityError: _Row(grpc.StatusCode.UNAUTHENTICATED, "BAD_CERTIFICATE"),
    errors.UnknownLogError: _Row(grpc.StatusCode.NOT_FOUND, "UNKNOWN_LOG", lambda e: {"log": e.name}),
    errors.UnknownServiceError: _Row(
        grpc.StatusCode.NOT_FOUND, "UNKNOWN_SERVICE", lambda e: {"service": e.name}
    ),
    errors.MembershipError: _Row(grpc.StatusCode.FAILED_PRECONDITION, "MEMBERSHIP"),
    errors.NotSupportedError: _Row(grpc.StatusCode.UNIMPLEMENTED, "NOT_SUPPORTED"),
}

# What went wrong inside is for the node's diagnostics, not for its clients.
_INTERNAL: Final = _Row(grpc.StatusCode.INTERNAL, "INTERNAL")
_INTERNAL_TEXT: Final = "the node failed to answer; its diagnostics say why"


@dataclass(frozen=True, slots=True)
class Answer:
    """A status as grpc wants it: code, text, and the trailers that hold the `google.rpc.Status`."""

    code: grpc.StatusCode
    text: str
    trailers: tuple[tuple[str, bytes], ...]

    @property
    def is_internal(self) -> bool:
        """Whether the error was not meant to reach a client, so that it belongs into the diagnostics."""
        return bool(self.code == grpc.StatusCode.INTERNAL)


def answer_of(error: BaseException) -> Answer:
    """Return what a client is told about any exception; never UNKNOWN."""
    row = _row_of(type(error))
    text = _INTERNAL_TEXT if row is _INTERNAL else _shortened(str(error))
    metadata = {key: _shortened(str(value)) for key, value in row.metadata(error).items()}
    status = status_pb2.Status(code=row.code.value[0], message=text)
    _add_detail(status, error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN, metadata=metadata))
    if isinstance(error, errors.OffsetOutOfRangeError):
        # As the original said it; its clients show this text.
        message = f"The requested offset is outside the log's range: {error.offset}"
        _add_detail(status, error_details_pb2.LocalizedMessage(locale="en-US", message=message))
    return Answer(row.code, text, ((DETAILS_KEY, status.SerializeToString()),))


def _row_of(kind: type[BaseException]) -> _Row:
    for ancestor in kind.__mro__:
        row = _TABLE.get(ancestor)
        if row is not None:
            return row
    return _INTERNAL


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
