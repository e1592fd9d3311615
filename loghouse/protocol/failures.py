"""Errors on the wire: the class's `code`, its details as numbers and texts, and its text for people.

`FAILURE_FIELDS` says which details a code carries, in order, so that the other side can build the same
error again. A code it does not know becomes a `RequestError` with the sender's text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from loghouse import errors
from loghouse.errors import LoghouseError
from loghouse.limits import FAILURE_DETAILS_MAX, TEXT_SIZE_MAX
from loghouse.protocol.fields import U16, U64, Items8, LongText
from loghouse.protocol.message import check_text


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
        numbers, texts, _ = FAILURE_FIELDS.get(type(error), ((), (), None))
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
        numbers, texts, build = FAILURE_FIELDS[known]
        if len(self.numbers) != len(numbers) or len(self.texts) != len(texts):
            return errors.RequestError(self.text)
        return build(self)


def _number(value: int) -> int:
    return min(max(value, 0), 2**64 - 1)


def _line(text: str) -> str:
    """Return `text` as one printable line that fits."""
    clean = "".join(c if c.isprintable() else " " for c in text).encode("utf8", "replace")
    return clean[:TEXT_SIZE_MAX].decode("utf8", "ignore")


_Fields = tuple[tuple[str, ...], tuple[str, ...], Callable[[FailureFields], LoghouseError]]


def _plain(cls: type[LoghouseError]) -> _Fields:
    return (), (), lambda failure: cls(failure.text)


FAILURE_FIELDS: Final[Mapping[type[LoghouseError], _Fields]] = {
    errors.ProtocolError: _plain(errors.ProtocolError),
    errors.FrameTooLargeError: (
        ("kind", "size", "size_max"),
        (),
        lambda f: errors.FrameTooLargeError(*f.numbers),
    ),
    errors.MalformedMessageError: _plain(errors.MalformedMessageError),
    errors.IdentityError: _plain(errors.IdentityError),
    errors.VersionError: _plain(errors.VersionError),
    errors.PeerTimeoutError: _plain(errors.PeerTimeoutError),
    errors.InvalidRequestError: ((), ("field", "problem"), lambda f: errors.InvalidRequestError(*f.texts)),
    errors.OffsetOutOfRangeError: (
        ("offset", "lowest", "next_offset"),
        (),
        lambda f: errors.OffsetOutOfRangeError(*f.numbers),
    ),
    errors.NotLeaderError: ((), ("leader",), lambda f: errors.NotLeaderError(f.texts[0] or None)),
    errors.UnavailableError: _plain(errors.UnavailableError),
    errors.OutcomeUnknownError: _plain(errors.OutcomeUnknownError),
    errors.ExpectOffsetError: (
        ("expected", "actual"),
        (),
        lambda f: errors.ExpectOffsetError(*f.numbers),
    ),
    errors.SequenceError: (
        ("producer_id", "sequence", "expected"),
        (),
        lambda f: errors.SequenceError(*f.numbers),
    ),
    errors.SequenceReusedError: (
        ("producer_id", "sequence"),
        (),
        lambda f: errors.SequenceReusedError(*f.numbers),
    ),
    errors.UnknownProducerError: (
        ("producer_id",),
        (),
        lambda f: errors.UnknownProducerError(*f.numbers),
    ),
    errors.ResourceExhaustedError: (
        (),
        ("resource", "limit"),
        lambda f: errors.ResourceExhaustedError(*f.texts),
    ),
    errors.DiskFullError: ((), ("directory",), lambda f: errors.DiskFullError(*f.texts)),
    errors.PermissionDeniedError: (
        (),
        ("subject", "action", "object"),
        lambda f: errors.PermissionDeniedError(*f.texts),
    ),
    errors.UnauthenticatedError: _plain(errors.UnauthenticatedError),
    errors.UnknownLogError: ((), ("name",), lambda f: errors.UnknownLogError(*f.texts)),
    errors.UnknownServiceError: ((), ("name",), lambda f: errors.UnknownServiceError(*f.texts)),
    errors.MembershipError: _plain(errors.MembershipError),
    errors.NotSupportedError: _plain(errors.NotSupportedError),
}
_BY_CODE: Final = {cls.code: cls for cls in FAILURE_FIELDS}
assert len(_BY_CODE) == len(FAILURE_FIELDS), "two errors share a code"
