"""What of a log a reader wants, as callers say it: up to where, which way, how many, which ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypedDict, get_args

from loghouse.client.fields import bytes_of, flag_of, headers_of, integer_of, moment_of, seconds_of
from loghouse.client.records import Headers
from loghouse.errors import InvalidRequestError
from loghouse.limits import MIB, UINT32_MAX
from loghouse.protocol.record_filter import RecordFilter
from loghouse.protocol.record_range import Consistency, RecordRange

PAGE_SIZE: Final = 1 * MIB
"""Bytes of one answer: the way there and back should cost little beside them."""
Trust = Literal["confirmed", "local"]
"""Whom a read asks what there is: the leader, or the replica that is read and nobody else."""
_TRUSTS = dict(zip(get_args(Trust), (Consistency.CONFIRMED, Consistency.LOCAL), strict=True))


class PageOptions(TypedDict, total=False):
    """What `read_page` and `newest` take to choose records. See `ReadOptions`."""

    key: bytes | Sequence[bytes] | None
    key_prefix: bytes | Sequence[bytes] | None
    headers: Headers
    consistency: Trust
    timeout_seconds: float | None


class ReadOptions(PageOptions, total=False):
    """What reading takes besides where it begins.

    Attributes:
        follow: Wait for more at the end, for ever.
        limit: Stop behind so many records.
        until: The first record not to read: an offset, or a moment.
        reverse: The same records, the last one first.
        key: Only records with this key, or one of these.
        key_prefix: Only records with a key that begins so, or in one of these ways.
        headers: Only records that have all of these.
        consistency: "confirmed": the leader says where the log ends. "local": nobody is asked; what the
            server that is read knows to be committed is the log, which may be old.
        timeout_seconds: How long no server may be found before it fails.
    """

    follow: bool
    limit: int | None
    until: int | datetime | None
    reverse: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is to be read, checked. See `ReadOptions`."""

    follow: bool = False
    limit: int = 0
    until: int | datetime | None = None
    is_reverse: bool = False
    filter: RecordFilter
    consistency: Consistency
    timeout_seconds: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is all records from one offset to another, in their order."""
        return not (self.is_reverse or self.filter or self.is_local)

    @property
    def is_local(self) -> bool:
        """Whether nobody is asked what there is."""
        return self.consistency is Consistency.LOCAL

    def range(self, first: int, end: int) -> RecordRange:
        """Return what to ask a server for."""
        return RecordRange(
            first=first,
            end=max(first, end),
            is_reverse=self.is_reverse,
            count_max=self.limit,
            size_max=PAGE_SIZE,
            filter=self.filter,
            consistency=self.consistency,
        )


def choice_of(
    *,
    follow: bool = False,
    limit: int | None = None,
    until: int | datetime | None = None,
    reverse: bool = False,
    key: bytes | Sequence[bytes] | None = None,
    key_prefix: bytes | Sequence[bytes] | None = None,
    headers: Headers = (),
    consistency: Trust = "confirmed",
    timeout_seconds: float | None = None,
) -> Choice:
    """Return what the options say.

    Raises:
        InvalidRequestError: One of them is not possible, or two do not go together; names it.
    """
    wanted = RecordFilter(
        keys=_keys_of("key", key),
        key_prefixes=_keys_of("key_prefix", key_prefix),
        headers=tuple(headers_of(headers)),
    )
    wanted.check()
    if not isinstance(consistency, str) or consistency not in _TRUSTS:
        allowed = ", ".join(_TRUSTS)
        raise InvalidRequestError("consistency", f"{consistency!r} is unknown; allowed: {allowed}")
    if isinstance(until, datetime):
        moment_of("until", until)
    elif until is not None:
        until = integer_of("until", until)
    follow, reverse = flag_of("follow", follow), flag_of("reverse", reverse)
    if follow and reverse:
        raise InvalidRequestError("follow", "goes forwards; leave out reverse")
    if follow and isinstance(until, datetime):
        raise InvalidRequestError("until", "of a log that is followed is an offset, not a time")
    return Choice(
        follow=follow,
        limit=0 if limit is None else integer_of("limit", limit, lowest=1, highest=UINT32_MAX),
        until=until,
        is_reverse=reverse,
        filter=wanted,
        consistency=_TRUSTS[consistency],
        timeout_seconds=None if timeout_seconds is None else seconds_of(timeout_seconds),
    )


def _keys_of(field: str, given: Any) -> tuple[bytes, ...]:
    """Return one key or several as a tuple."""
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Iterable):
        return (bytes_of(field, given),)  # refused
    if isinstance(given, bytes | bytearray | memoryview):
        return (bytes_of(field, given),)
    keys = tuple(bytes_of(field, one, f"{place} ") for place, one in enumerate(given))
    if not keys:
        raise InvalidRequestError(field, "names no key; leave it out to read all")
    return keys
