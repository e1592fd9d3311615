"""Where reading begins and what batches are compressed by, as callers say it. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from loghouse.client.fields import integer_of, moment_of, text_of
from loghouse.errors import InvalidRequestError
from loghouse.protocol.entry import Codec

Compression = Literal["none", "zstd"]
Start = int | Literal["earliest", "latest"] | datetime
"""Where to begin reading: an offset, an end of the log, or a moment (an aware datetime)."""


def codec_of(compression: Compression) -> Codec:
    """Return the codec of a name.

    Raises:
        InvalidRequestError: There is none.
    """
    if compression == "none":
        return Codec.NONE
    name = text_of("compression", compression)
    try:
        return Codec[name.upper()]
    except KeyError:
        raise InvalidRequestError("compression", f"{name!r} is unknown; allowed: none, zstd") from None


def start_of(from_: Start) -> Start:
    """Return where to begin, which is an offset, an end of the log, or a moment.

    Raises:
        InvalidRequestError: It is none of them.
    """
    if isinstance(from_, datetime):
        moment_of("from_", from_)
        return from_
    if isinstance(from_, str):
        if from_ not in ("earliest", "latest"):
            raise InvalidRequestError("from_", f"{from_!r} is no offset, 'earliest', 'latest' or datetime")
        return from_
    return integer_of("from_", from_)
