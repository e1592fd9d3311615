"""Finds the records that a filter takes, and the batches that hold none. Pure.

A key stands in a record as it is, whatever stands around it: a batch without its bytes has no record with
it. So most batches are passed over by one search of their bytes, in C. In the others, records are looked at
where the bytes are found in them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from loghouse.api.v1.log_pb2 import EncodedRecords, Record
from loghouse.protocol.batch import parse
from loghouse.protocol.checking import PARSED_ELEMENTS_MAX, PARSED_SIZE_MAX, WALKED_RECORDS_MAX, RecordWalk
from loghouse.protocol.record_filter import RecordFilter
from loghouse.protocol.varint import encode_varint


class Matcher:
    """Finds the records that a filter takes."""

    __slots__ = ("_header_parts", "_headers", "_key_fields", "_key_parts", "_keys", "_prefixes")

    def __init__(self, filter_: RecordFilter) -> None:
        """Look for what the filter takes; it is not empty."""
        self._keys = frozenset(filter_.keys)
        self._prefixes = filter_.key_prefixes
        self._headers = frozenset(filter_.headers)
        # A key as field 5 of a record has it; of filters that are about keys alone.
        self._key_fields = (
            tuple(b"\x2a" + encode_varint(len(key)) + key for key in filter_.keys)
            if not (filter_.key_prefixes or filter_.headers)
            else ()
        )
        # One of these stands in a record that is taken, and each of those: as bytes, whatever is around them.
        self._key_parts = (*filter_.keys, *filter_.key_prefixes)
        self._header_parts = tuple(
            part for name, value in filter_.headers for part in (name.encode(), value) if part
        )

    def may_be_in(self, content: bytes, start: int = 0, end: int | None = None) -> bool:
        """Whether a batch may hold records that are taken; False is certain.

        Args:
            content: Holds the uncompressed payload, from `start` to `end`.
        """
        found = content.find
        if self._key_parts and all(found(part, start, end) < 0 for part in self._key_parts):
            return False
        return all(found(part, start, end) >= 0 for part in self._header_parts)

    def is_likely_in(self, content: bytes, start: int = 0, end: int | None = None) -> bool:
        """Whether a batch holds one of the keys as a record has it, and nothing else is looked for.

        A value could hold just these bytes; otherwise there is a record that is taken. Arguments as above.
        """
        return any(content.find(part, start, end) >= 0 for part in self._key_fields)

    def places(self, records: Sequence[bytes]) -> list[int]:
        """Return the places of the encoded records that are taken.

        Raises:
            InvalidRequestError: One of them is no record.
        """
        places: Iterable[int]
        if self._key_parts:
            places = _places_with(self._key_parts, records)
        elif self._header_parts:
            places = _places_with([max(self._header_parts, key=len)], records)  # in the fewest others
        else:
            places = range(len(records))
        return [place for place in places if self.takes(parse(Record, records[place]))]

    def takes(self, record: Record) -> bool:
        """Whether one record is taken."""
        if self._key_parts:
            if not record.HasField("key"):
                return False
            if record.key not in self._keys and not record.key.startswith(self._prefixes):
                return False
        if not self._headers:
            return True
        return self._headers <= {(header.key, header.value) for header in record.headers}


def _places_with(parts: Sequence[bytes], records: Sequence[bytes]) -> list[int]:
    """Return the places of the records in which one of the parts may stand, in their order.

    All records are searched at once: `in` takes each of them five times as long.
    """
    if b"" in parts:  # it stands in each
        return list(range(len(records)))
    joined = b"".join(records)
    ends = list(accumulate(map(len, records)))
    found: set[int] = set()
    for part in parts:
        position = joined.find(part)
        while 0 <= position < len(joined):
            place = bisect_right(ends, position)
            found.add(place)
            position = joined.find(part, ends[place])
    return sorted(found)


def encoded_records(payload: bytes) -> Iterator[Sequence[bytes]]:
    """Yield the records of an uncompressed payload, each encoded, in pieces that are not long to parse.

    Raises:
        InvalidRequestError: It is no batch.
    """
    if len(payload) // 2 <= PARSED_ELEMENTS_MAX or payload.count(b"\n") <= PARSED_ELEMENTS_MAX:
        yield parse(EncodedRecords, payload).records[:]
        return
    walk = RecordWalk(payload)
    while not walk.is_done:
        yield parse(EncodedRecords, walk.take(WALKED_RECORDS_MAX, PARSED_SIZE_MAX)).records[:]
