"""Which records a reader wants, by their keys and headers. Pure; `record_matching` finds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loghouse.errors import InvalidRequestError
from loghouse.limits import FILTER_SIZE_MAX, FILTER_TERMS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilter:
    """Takes records with one of these keys, or a key with one of these prefixes; and with all these headers.

    Without keys and prefixes, records with any key and with none are taken. A header is a name and its value,
    both as they stand in the record.
    """

    keys: tuple[bytes, ...] = ()
    key_prefixes: tuple[bytes, ...] = ()
    headers: tuple[tuple[str, bytes], ...] = ()

    def __bool__(self) -> bool:
        """Whether it may leave a record out."""
        return bool(self.keys or self.key_prefixes or self.headers)

    def check(self) -> None:
        """Raise InvalidRequestError when it says more than a reader may."""
        count = len(self.keys) + len(self.key_prefixes) + len(self.headers)
        if count > FILTER_TERMS_MAX:
            raise InvalidRequestError(
                "filter", f"has {count} keys, prefixes and headers; at most {FILTER_TERMS_MAX} are allowed"
            )
        names = (name.encode() for name, _ in self.headers)
        values = (value for _, value in self.headers)
        size = sum(len(part) for parts in (self.keys, self.key_prefixes, names, values) for part in parts)
        if size > FILTER_SIZE_MAX:
            raise InvalidRequestError(
                "filter", f"has {size} bytes; at most {FILTER_SIZE_MAX} bytes are allowed"
            )


EVERYTHING: Final = RecordFilter()
"""The filter that takes every record."""
