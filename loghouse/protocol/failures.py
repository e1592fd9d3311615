"""Errors on the wire: the class's `code`, its details as numbers and texts, and its text for people.

`FAILURE_FIELDS` says which details a code carries, in order, so that the other side can build the same
error again. A code it does not know becomes a `RequestError` with the sender's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from loghouse import errors
from loghouse.errors import LoghouseError
from loghouse.limits import FAILURE_DETAILS_MAX, TEXT_SIZE_MAX, UINT64_MAX
from loghouse.protocol.fields import U16, U64, Items8, LongText
from loghouse.protocol.message import check_text

# What gRPC's trailers hold beside the status: what the error is made of, and who leads.
DETAILS_KEY: Final = "grpc-status-details-bin"
LEADER_KEY: Final = "loghouse-leader"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureFields:
    """The fields that LinkError, Failure and ForwardFailure share."""

    code: U16
    numbers: Items8[U64] = ()
    texts: Items8[LongText] = ()
    text: LongText = ""

    def check(self) -> None:
        """Raise ValueError when there is too much of something."""
        if len(self.numbers) > FAILURE_DETAILS_MAX or len(self.texts) > FAILURE_DETAILS_MAX:
            raise ValueError(f"more than {FAILURE_DETAILS_MAX} details")
        for text in (*self.texts, self.text):
            check_text("text", text, TEXT_SIZE_MAX)

    @classmethod
    def of(cls, error: LoghouseError) -> Self:
        """Return the message that tells of `error`."""
        numbers, texts = FAILURE_FIELDS.get(type(error), _TEXT_ALONE)
        return cls(
            code=error.code,
            numbers=tuple(_number(getattr(error, name)) for name in numbers),
            texts=tuple(_line(getattr(error, name) or "") for name in texts),
            text=_line(str(error)),
        )

    def error(self) -> LoghouseError:
        """Return the error that the sender had, of the same class where it is known."""
        known = _BY_CODE.get(self.code)
        if known is None:
            return errors.RequestError(f"{self.text} (error code {self.code}, unknown to this version)")
        numbers, texts = FAILURE_FIELDS[known]
        if len(self.numbers) != len(numbers) or len(self.texts) != len(texts):
            return errors.RequestError(self.text)
        if known is errors.NotLeaderError:
            return errors.NotLeaderError(self.texts[0] or None)
        details: tuple[Any, ...] = (*self.numbers, *self.texts) or (self.text,)
        return known(*details)


def _number(value: int) -> int:
    return min(max(value, 0), UINT64_MAX)


def _line(text: str) -> str:
    """Return `text` as one printable line that fits."""
    clean = "".join(c if c.isprintable() else " " for c in text).encode("utf8", "replace")
    return clean[:TEXT_SIZE_MAX].decode("utf8", "ignore")


_TEXT_ALONE: Final[tuple[tuple[str, ...], tuple[str, ...]]] = ((), ())
FAILURE_FIELDS: Final[Mapping[type[LoghouseError], tuple[tuple[str, ...], tuple[str, ...]]]] = {
    errors.ProtocolError: _TEXT_ALONE,
    errors.FrameTooLargeError: (("kind", "size", "size_max"), ()),
    errors.MalformedMessageError: _TEXT_ALONE,
    errors.IdentityError: _TEXT_ALONE,
    errors.VersionError: _TEXT_ALONE,
    errors.PeerTimeoutError: _TEXT_ALONE,
    errors.InvalidRequestError: ((), ("field", "problem")),
    errors.OffsetOutOfRangeError: (("offset", "lowest", "next_offset"), ()),
    errors.NotLeaderError: ((), ("leader",)),
    errors.UnavailableError: _TEXT_ALONE,
    errors.OutcomeUnknownError: _TEXT_ALONE,
    errors.ExpectOffsetError: (("expected", "actual"), ()),
    errors.SequenceError: (("producer_id", "sequence", "expected"), ()),
    errors.SequenceReusedError: (("producer_id", "sequence"), ()),
    errors.UnknownProducerError: (("producer_id",), ()),
    errors.ResourceExhaustedError: ((), ("resource", "limit")),
    errors.DiskFullError: ((), ("directory",)),
    errors.QuotaExceededError: (("retry_milliseconds",), ("resource", "limit")),
    errors.PermissionDeniedError: ((), ("subject", "action", "object")),
    errors.UnauthenticatedError: _TEXT_ALONE,
    errors.UnknownLogError: ((), ("name",)),
    errors.UnknownServiceError: ((), ("name",)),
    errors.MembershipError: _TEXT_ALONE,
    errors.NotSupportedError: _TEXT_ALONE,
    errors.ReloadRefusedError: _TEXT_ALONE,
    errors.CursorHeldError: (("milliseconds",), ("name", "holder")),
    errors.CursorFencedError: (("epoch", "current"), ("name",)),
    errors.CursorRewindError: (("position", "current"), ("name",)),
    errors.UnknownCursorError: ((), ("name",)),
    errors.TooManyCursorsError: (("count",), ("name",)),
}
"""Which attributes go as numbers and which as texts, in the order in which the class takes them."""


def is_told_whole(error: BaseException | None) -> bool:
    """Whether the other side of a link can build the same refusal of a request again."""
    return isinstance(error, errors.RequestError) and type(error) in FAILURE_FIELDS


_BY_CODE: Final = {cls.code: cls for cls in FAILURE_FIELDS}
assert len(_BY_CODE) == len(FAILURE_FIELDS), "two errors share a code"
