"""What every consumer may be told, and what is said of one that nobody closed. Pure."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict, TypeVar, get_args

from loghouse.client.fields import integer_of, number_of, seconds_of, text_of
from loghouse.client.records import Batch, Record
from loghouse.client.starts import Compression, Start, codec_of, start_of
from loghouse.errors import ClientUseError, InvalidRequestError
from loghouse.limits import LEASE_SECONDS_DEFAULT, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN
from loghouse.protocol.entry import Codec

_Log = TypeVar("_Log")
COMMIT_SECONDS: Final = 1.0
COMMIT_SECONDS_MAX: Final = 3600.0
OnTrimmed = Literal["error", "earliest", "latest"]
"""What a consumer does when the records at its position have been trimmed."""
Done = Record | Batch | int
"""What is done: a record, a batch, or everything before a position."""


class ConsumerOptions(TypedDict, total=False):
    """What a consumer may be told besides its cursor and the log that keeps it.

    Attributes:
        from_: Where a cursor begins that is new: an offset, "earliest", "latest", or a datetime.
        on_trimmed: When records were trimmed before this consumer had them: "error", or go on at the
            "earliest" or the "latest" record, which the logger `loghouse.client` warns of.
        commit_seconds: How long what is done may wait for its commit.
        commit_records: After so many records it does not wait; 0: by time alone.
        lease_seconds: How long others wait for this consumer when it is silent, 1 to 600.
        holder: Who it is; the next one of the same name need not wait for it. None: a name of its own.
        compression: "zstd" compresses what is emitted.
        timeout_seconds: How long no server may be found before something fails.
    """

    from_: Start
    on_trimmed: OnTrimmed
    commit_seconds: float
    commit_records: int
    lease_seconds: float
    holder: str | None
    compression: Compression
    timeout_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSettings:
    """The options of a consumer, checked. See `ConsumerOptions`."""

    name: str
    from_: Start
    on_trimmed: OnTrimmed
    commit_seconds: float
    commit_records: int
    lease_seconds: float
    holder: str | None
    codec: Codec
    timeout_seconds: float | None


def settings_of(
    name: str,
    *,
    from_: Start = "earliest",
    on_trimmed: OnTrimmed = "error",
    commit_seconds: float = COMMIT_SECONDS,
    commit_records: int = 0,
    lease_seconds: float = LEASE_SECONDS_DEFAULT,
    holder: str | None = None,
    compression: Compression = "none",
    timeout_seconds: float | None = None,
) -> ConsumerSettings:
    """Return what the options say.

    Raises:
        InvalidRequestError: One of them makes no sense; names it.
    """
    if not isinstance(on_trimmed, str) or on_trimmed not in get_args(OnTrimmed):
        allowed = ", ".join(get_args(OnTrimmed))
        raise InvalidRequestError("on_trimmed", f"{on_trimmed!r} is unknown; allowed: {allowed}")
    lease = seconds_of(lease_seconds, "lease_seconds")
    if not LEASE_SECONDS_MIN <= lease <= LEASE_SECONDS_MAX:
        allowed = f"{LEASE_SECONDS_MIN:g} to {LEASE_SECONDS_MAX:g}"
        raise InvalidRequestError("lease_seconds", f"{lease:g} is out of range; allowed: {allowed}")
    return ConsumerSettings(
        name=text_of("name", name),
        from_=start_of(from_),
        on_trimmed=on_trimmed,
        commit_seconds=number_of("commit_seconds", commit_seconds, COMMIT_SECONDS_MAX),
        commit_records=integer_of("commit_records", commit_records),
        lease_seconds=lease,
        holder=None if holder is None else text_of("holder", holder),
        codec=codec_of(compression),
        timeout_seconds=None if timeout_seconds is None else seconds_of(timeout_seconds),
    )


def checked_into(into: Any, kind: type[_Log]) -> _Log | None:
    """Return the log that is to keep the cursors of a consumer, as it was given; None: the one that is read.

    Raises:
        InvalidRequestError: It is no log of a client of this kind.
    """
    if into is not None and not isinstance(into, kind):
        raise InvalidRequestError("into", f"is a {type(into).__name__}; give a log of this client's kind")
    return into


def position_behind(done: Any) -> int:
    """Return the position behind a record or a batch, or the one that is given.

    Raises:
        InvalidRequestError: It is something else.
    """
    if type(done) is Record:
        return done.offset + 1
    if isinstance(done, Batch):
        return done.next_offset
    if isinstance(done, Record):
        return done.offset + 1
    return integer_of("done", done)


def what_of(done: Any, given: Any) -> Any:
    """Return what is done: what was given to the program last, if it says nothing.

    Raises:
        ClientUseError: Nothing was given yet.
    """
    what = given if done is None else done
    if what is None:
        raise ClientUseError("this consumer gave nothing yet; say what is done")
    return what


def warn_of_consumer(name: str) -> None:
    """Warn of a consumer that nobody closed; what was done is still committed while its client is there."""
    text = f"a consumer of cursor {name!r} was dropped, not closed; use `with`, or close()"
    warnings.warn(text, ResourceWarning, stacklevel=3)
