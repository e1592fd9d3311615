"""What a caller may give: each value is taken with its obvious meaning, or refused by the name of its field.

A refusal is an InvalidRequestError: the value is of another kind, or out of range.

Nothing is changed silently: a mapping of headers is its pairs, but text is not bytes, a naive datetime is no
moment, and True is no offset. Pure.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from loghouse.errors import InvalidRequestError
from loghouse.limits import UINT64_MAX

SECONDS_MAX: Final = 100_000_000
"""Three years: what is longer than any program overflows some timer below."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def bytes_of(field: str, value: Any, which: str = "") -> bytes:
    """Return a value as bytes: a copy, when the caller could change it afterwards.

    Text must be encoded by whoever knows how.

    Args:
        which: Which one of the field's values it is, for the text.
    """
    if type(value) is bytes:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    text = f"{which}is a {type(value).__name__}; give bytes, such as text.encode()"
    raise InvalidRequestError(field, text)


def text_of(field: str, value: Any, which: str = "") -> str:
    """Return a value that is text in UTF-8, such as a name; `which` as for `bytes_of`."""
    if not isinstance(value, str):
        raise InvalidRequestError(field, f"{which}is {_kind(value)}; give a str")
    try:
        value.encode()
    except UnicodeEncodeError:
        text = f"{which}is {value[:40]!r}, which cannot be encoded as UTF-8"
        raise InvalidRequestError(field, text) from None
    return value


def flag_of(field: str, value: Any) -> bool:
    """Return a value that is True or False: of others nobody can tell, such as "no"."""
    if not isinstance(value, bool):
        raise InvalidRequestError(field, f"is {_kind(value)}; give True or False")
    return value


def integer_of(field: str, value: Any, *, lowest: int = 0, highest: int = UINT64_MAX) -> int:
    """Return a whole number, as everything that can be an index is one, except True and False."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise InvalidRequestError(field, f"is {_kind(value)}; give an int")
    if not lowest <= number <= highest:
        raise InvalidRequestError(field, f"{number} is out of range; allowed: {lowest} to {highest}")
    return number


def optional_offset_of(field: str, value: Any) -> int | None:
    """Return an offset, or None when none is given."""
    return None if value is None else integer_of(field, value)


def seconds_of(value: Any, field: str = "timeout_seconds") -> float:
    """Return a time to wait: above 0, and not endless."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= SECONDS_MAX:
        what = value if is_number else _kind(value)
        raise InvalidRequestError(field, f"is {what}; give seconds: a number above 0, at most {SECONDS_MAX}")
    return float(value)


def number_of(field: str, value: Any, highest: float) -> float:
    """Return a number from 0 on."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= highest:
        what = value if is_number else _kind(value)
        raise InvalidRequestError(field, f"{what} is out of range; allowed: 0 to {highest:g}")
    return float(value)


def moment_of(field: str, value: Any) -> int:
    """Return an aware datetime, or such a number, as microseconds since the epoch, or before it."""
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidRequestError(
                field, f"{value} has no time zone; give tzinfo, such as datetime.UTC, or use .astimezone()"
            )
        return (value - _EPOCH) // _MICROSECOND
    try:
        return integer_of(field, value)
    except InvalidRequestError as error:
        text = f"{error.problem}; or an aware datetime"
        raise InvalidRequestError(field, text) from None


def timestamp_of(field: str, value: Any) -> int:
    """Return a record's timestamp, behind the epoch, in microseconds; 0 for None: the leader's time."""
    if value is None:
        return 0
    microseconds = moment_of(field, value)
    if microseconds < 0 or (microseconds == 0 and isinstance(value, datetime)):
        raise InvalidRequestError(
            field, f"{value} is not after 1970-01-01T00:00:00Z; records hold no such time"
        )
    return microseconds


def datetime_of(microseconds: int) -> datetime:
    """Return the moment so many microseconds behind the epoch, exactly."""
    return _EPOCH + microseconds * _MICROSECOND


def headers_of(headers: Any) -> list[tuple[str, bytes]]:
    """Return headers as pairs in their order; a mapping is its pairs, None is none."""
    if headers is None:
        return []
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    if not isinstance(pairs, Iterable) or isinstance(pairs, str | bytes | bytearray | memoryview):
        raise InvalidRequestError("headers", f"is {_kind(headers)}; give (name, value) pairs or a dict")
    checked = []
    for place, pair in enumerate(pairs):
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise InvalidRequestError("headers", f"{place} is {_kind(pair)}; give a pair of name and value")
        name, content = pair
        checked.append(
            (
                text_of("headers", name, f"{place}: the name "),
                bytes_of("headers", content, f"{place}: the value "),
            )
        )
    return checked


def values_of(values: Any) -> Iterable[Any]:
    """Return what holds several values, and is not one value itself."""
    if type(values) is list:
        return values  # at once: the look below costs more than a short batch
    if isinstance(values, str | bytes | bytearray | memoryview | Mapping) or not isinstance(values, Iterable):
        raise InvalidRequestError(
            "values", f"is a {type(values).__name__}; give a list of bytes, one for each record"
        )
    return values
